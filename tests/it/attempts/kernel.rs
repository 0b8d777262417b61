//! The kernel: namespaces, mounts, devices, its interfaces, and rights that uid 1000 does not have.

use super::{Attempt, attempt, group};
use crate::need_engine;

/// What a call that the seccomp profile does not know gives, whichever of the two it says.
const REFUSED: &str = "EPERM|ENOSYS";

const NAMESPACES: &[Attempt] = &[
    attempt(
        "unshare, each namespace",
        "flags = [0x80, 0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000]
return each(lambda flag=flag: call('unshare', flag) for flag in flags)",
        "EPERM",
    ),
    attempt(
        "clone into each namespace",
        "flags = [0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000]
return each(lambda flag=flag: call('clone', flag | 17, 0, 0, 0, 0) or os._exit(0) for flag in flags)",
        "EPERM",
    ),
    attempt(
        "clone3 into a user namespace",
        "return call('clone3', struct.pack('11Q', 0x10000000, 0, 0, 0, 17, 0, 0, 0, 0, 0, 0), 88) or os._exit(0)",
        "ENOSYS",
    ),
    attempt(
        "setns into those of pid 1 and of its own",
        "paths = ['/proc/%s/ns/%s' % (pid, kind) for pid in (1, 'self') for kind in ('mnt', 'net', 'user', 'pid', 'ipc')]
return each(lambda path=path: call('setns', os.open(path, os.O_RDONLY), 0) for path in paths)",
        "EPERM|EACCES|ENOSYS",
    ),
    attempt("unshare the program", "return subprocess.run(['unshare', '-Urm', 'true'], capture_output=True).returncode == 0 or 'refused'", "refused"),
    attempt("mount a tmpfs", "return call('mount', b'none', b'/tmp', b'tmpfs', 0, None)", REFUSED),
    attempt("mount proc anew", "return call('mount', b'proc', b'/app', b'proc', 0, None)", REFUSED),
    attempt("make the root writable", "return call('mount', None, b'/', None, 0x20 | 0x1000, None)", REFUSED),
    attempt("bind the host's file over another", "return call('mount', b'/app', b'/usr', None, 0x1000, None)", REFUSED),
    attempt("umount", "return each(lambda p=p: call('umount2', p, 2) for p in (b'/tmp', b'/proc', b'/app'))", REFUSED),
    attempt("pivot_root", "return call('pivot_root', b'/app', b'/app')", REFUSED),
    attempt("chroot", "return call('chroot', b'/app')", REFUSED),
    attempt("the new calls for mounts", "return each([lambda: call('fsopen', b'tmpfs', 0), lambda: call('open_tree', -100, b'/', 1), lambda: call('move_mount', -1, b'', -1, b'/', 0), lambda: call('mount_setattr', -100, b'/', 0, bytes(32), 32), lambda: call('fsmount', -1, 0, 0), lambda: call('fspick', -100, b'/', 0)])", REFUSED),
];

const INTERFACES: &[Attempt] = &[
    attempt("bpf", "return each(lambda n=n: call('bpf', n, bytes(128), 128) for n in (0, 5))", REFUSED),
    attempt("perf_event_open", "return call('perf_event_open', bytes(128), 0, -1, -1, 0)", REFUSED),
    attempt("userfaultfd", "return each(lambda f=f: call('userfaultfd', f) for f in (0, 1))", REFUSED),
    attempt("/dev/userfaultfd", "return os.open('/dev/userfaultfd', os.O_RDWR)", "ENOENT"),
    attempt("io_uring", "return call('io_uring_setup', 8, bytes(120))", REFUSED),
    attempt("keyrings", "return each([lambda: call('keyctl', 0, -3, 0), lambda: call('add_key', b'user', b'k', b'v', 1, -4), lambda: call('request_key', b'user', b'k', None, 0), lambda: call('keyctl', 11, -4, bytes(64), 64)])", REFUSED),
    attempt("load a module", "return each([lambda: call('init_module', b'x', 1, b''), lambda: call('finit_module', 0, b'', 0), lambda: call('delete_module', b'ext4', 0)])", REFUSED),
    attempt("kexec", "return call('kexec_load', 0, 0, None, 0)", REFUSED),
    attempt("reboot", "return call('reboot', 0xfee1dead, 672274793, 0x1234567, None)", REFUSED),
    attempt("the machine's clock", "return each([lambda: call('settimeofday', bytes(16), None), lambda: call('clock_settime', 0, bytes(16)), lambda: time.clock_settime(time.CLOCK_REALTIME, 0), lambda: call('adjtimex', struct.pack('I', 2) + bytes(204))])", REFUSED),
    attempt("the machine's name", "return each([lambda: call('sethostname', b'x', 1), lambda: call('setdomainname', b'x', 1)])", REFUSED),
    attempt("the kernel's log", "return each([lambda: call('syslog', 10, None, 0), lambda: read('/dev/kmsg'), lambda: read('/proc/kmsg')])", "EPERM|ENOENT|EACCES"),
    attempt("the machine's memory", "return each(lambda p=p: read(p) for p in ('/dev/mem', '/dev/port', '/dev/kmem', '/proc/kcore'))", "ENOENT|EPERM|EACCES|ENODATA"),
    attempt("input and output ports", "return each([lambda: call('iopl', 3), lambda: call('ioperm', 0, 8, 1)]) if 'iopl' in NUMBERS else 'ENOSYS'", REFUSED),
    attempt("swap, accounting, quotas", "return each([lambda: call('swapon', b'/app/x', 0), lambda: call('acct', b'/app/x'), lambda: call('quotactl', 0, None, 0, None)])", REFUSED),
    attempt("a file by its handle", "return call('open_by_handle_at', -100, struct.pack('II8s', 8, 1, b''), 0)", REFUSED),
    attempt("watch every file", "return call('fanotify_init', 0, 0)", REFUSED),
    attempt("no random addresses", "return call('personality', 0x40000)", REFUSED),
    attempt("a local descriptor table", "return call('modify_ldt', 0, bytes(16), 16) if 'modify_ldt' in NUMBERS else 'ENOSYS'", REFUSED),
    attempt("system calls of another kind", "if os.uname().machine != 'x86_64':
    return 'refused'
page = mmap.mmap(-1, 4096, prot=7)
page.write(b'\\xb8\\x14\\0\\0\\0\\xcd\\x80\\xc3')
answer = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
x32 = libc.syscall(ctypes.c_long(0x40000000 | 39))
return 'refused' if answer < 0 and x32 < 0 else (answer, x32)", "refused|signal"),
    attempt("sysctls", "paths = ['kernel/core_pattern', 'kernel/modprobe', 'kernel/hostname', 'kernel/panic', 'vm/drop_caches', 'vm/overcommit_memory', 'fs/binfmt_misc/register', 'net/ipv4/ip_forward', 'kernel/shmmax', 'fs/mqueue/msg_max']
return each(lambda p=p: write('/proc/sys/' + p) for p in paths)", "EROFS|ENOENT|EACCES"),
    attempt("sysrq", "return write('/proc/sysrq-trigger', b'h')", "EROFS|EACCES|ENOENT"),
    attempt("/sys", "paths = ['/sys/kernel/uevent_helper', '/sys/power/state', '/sys/kernel/mm/transparent_hugepage/enabled', '/sys/class/net/lo/mtu', '/sys/devices/system/cpu/cpu1/online']
return each(lambda p=p: write(p) for p in paths)", "EROFS|ENOENT|EACCES"),
    attempt("its own limits", "import glob
paths = [p for k in ('memory*', 'pids*', 'cgroup.*', 'cpu*') for p in glob.glob('/sys/fs/cgroup/' + k) + glob.glob('/sys/fs/cgroup/*/' + k)]
return each(lambda p=p: write(p) for p in paths if os.path.isfile(p))", "EROFS|EACCES"),
    attempt("a program of the cgroup's", "return each(lambda p=p: write(p) for p in ('/sys/fs/cgroup/release_agent', '/sys/fs/cgroup/memory/release_agent'))", "EROFS|ENOENT|EACCES"),
    attempt("the kernel's other files", "return each(lambda p=p: os.listdir(p) if os.path.isdir(p) and os.listdir(p) else read(p) for p in ('/sys/kernel/debug', '/sys/kernel/tracing', '/sys/firmware', '/proc/scsi', '/proc/timer_list', '/sys/kernel/security'))", "EPERM|ENOENT|ENODATA|EISDIR|EACCES"),
];

const RIGHTS: &[Attempt] = &[
    attempt("become root", "return each([lambda: os.setuid(0), lambda: os.setgid(0), lambda: os.setgroups([0]), lambda: os.setresuid(0, 0, 0), lambda: os.seteuid(0)])", "EPERM"),
    attempt("capabilities", "header = struct.pack('Ii', 0x20080522, 0)
return each([lambda: call('capset', header, struct.pack('6I', 1 << 21, 1 << 21, 1 << 21, 0, 0, 0)), lambda: call('prctl', 47, 2, 21, 0, 0)])", "EPERM"),
    attempt("take back no-new-privileges", "return call('prctl', 38, 0, 0, 0, 0)", "EINVAL"),
    attempt("take back the filter", "return each([lambda: call('prctl', 22, 0, 0, 0, 0), lambda: call('seccomp', 0, 1, None)])", "EINVAL"),
    attempt("programs with the setuid bit", "found = subprocess.run(['find', '/usr', '/bin', '/sbin', '/opt', '-xdev', '-type', 'f', '-perm', '/6000'], capture_output=True, text=True).stdout.split()
roots = [p for p in found if b' 0\\n' in subprocess.run(['sh', '-c', 'exec \"$0\" -c \"id -u\" </dev/null 2>/dev/null | sed s/^/\\ /', p], capture_output=True).stdout]
return 'none is root' if not roots else roots", "none is root"),
    attempt("su, sudo, newgrp, passwd", "return each(lambda c=c: subprocess.run(['sh', '-c', c], capture_output=True, stdin=subprocess.DEVNULL).returncode == 0 and 'ran' or os.open('/nowhere', 0) for c in ('su -c true', 'newgrp root -c true', 'passwd -d root', 'mount /dev/vda /app', 'umount /tmp', 'chsh -s /bin/sh root'))", "ENOENT"),
    attempt("a setuid program of its own", "path = '/tmp/mine'
subprocess.run(['cp', '/usr/bin/id', path])
os.chmod(path, 0o6755)
return 'nosuid' if subprocess.run([path, '-u'], capture_output=True, text=True).stdout.strip() == '1000' else 'ran'", "nosuid"),
    attempt("file capabilities", "open('/app/x', 'w').close()
return os.setxattr('/app/x', 'security.capability', struct.pack('<5I', 0x02000001, 1 << 21, 0, 0, 0))", "EPERM"),
    attempt("attributes of the system", "open('/app/y', 'w').close()
return os.setxattr('/app/y', 'trusted.overlay.opaque', b'y')", "EPERM|EPERM EOPNOTSUPP|EPERM ENOTSUP"),
    attempt("make a file immutable", "open('/app/z', 'w').close()
return each([lambda: ioctl('/app/z', 0x40086602, struct.pack('l', 0x10)), lambda: ioctl('/app', 0x40086602, struct.pack('l', 0x20))])", "EPERM"),
    attempt("devices of its own", "return each([lambda: os.mknod('/app/disk', stat.S_IFBLK | 0o666, os.makedev(254, 0)), lambda: os.mknod('/tmp/mem', stat.S_IFCHR | 0o666, os.makedev(1, 1))])", "EPERM"),
    attempt("the machine's disks", "import glob
paths = glob.glob('/dev/sd*') + glob.glob('/dev/vd*') + glob.glob('/dev/nvme*') + glob.glob('/dev/dm-*') + ['/dev/fuse', '/dev/kvm', '/dev/loop-control', '/dev/net/tun', '/dev/vhost-net']
return each(lambda p=p: os.open(p, os.O_RDWR) for p in paths)", "ENOENT"),
    attempt("priority over others", "return each([lambda: os.nice(-5), lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)), lambda: call('ioprio_set', 1, 0, 1 << 13), lambda: call('prlimit64', 0, 7, struct.pack('QQ', 1 << 40, 1 << 40), None), lambda: write('/proc/self/oom_score_adj', b'-1000')])", "EPERM"),
    attempt("trace itself and its parent", "return each([lambda: call('ptrace', 0, 0, 0, 0), lambda: call('ptrace', 16, os.getppid(), 0, 0), lambda: call('ptrace', 0x4206, os.getppid(), 0, 0)])", "EPERM"),
];

#[tokio::test]
async fn namespaces_and_mounts_are_refused() {
    need_engine!();
    group(NAMESPACES, "").await;
}

#[tokio::test]
async fn the_kernels_interfaces_are_refused() {
    need_engine!();
    group(INTERFACES, "").await;
}

#[tokio::test]
async fn rights_cannot_be_had() {
    need_engine!();
    group(RIGHTS, "").await;
}
