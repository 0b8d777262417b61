@attempt("kill pid 1 and the keeper", "EPERM")
def _():
    return each(lambda p=p, s=s: os.kill(p, s) for p in keepers() for s in (9, 15, 19, 2, 11))


@attempt("kill them by a descriptor", "EPERM|ENOSYS")
def _():
    return each(lambda p=p: signal.pidfd_send_signal(os.pidfd_open(p), 9) for p in keepers())


@attempt("kill their threads and groups", "ESRCH|EPERM")
def _():
    tries = (
        [lambda p=p: call("tgkill", p, p, 9) for p in keepers()]
        + [lambda p=p: call("rt_sigqueueinfo", p, 9, bytes(128)) for p in keepers()]
        + [lambda: os.killpg(os.getpgid(keepers()[1]), 9)]
    )
    return each(tries)


@attempt("trace the keeper and pid 1", "EPERM")
def _():
    return each(
        lambda p=p, r=r: call("ptrace", r, p, 0, 0) for p in keepers() for r in (16, 0x4206)
    )


@attempt("their memory by a call", "EPERM|ENOSYS")
def _():
    buffer = ctypes.create_string_buffer(64)
    iov = struct.pack("QQ", ctypes.addressof(buffer), 64)
    remote = struct.pack("QQ", 0x400000, 64)
    return each(
        lambda p=p, n=n: call(n, p, iov, 1, remote, 1, 0)
        for p in keepers()
        for n in ("process_vm_readv", "process_vm_writev")
    )


@attempt("their memory by a file", "EACCES|EPERM")
def _():
    return each(
        lambda p=p, m=m: os.open("/proc/%d/mem" % p, m)
        for p in keepers()
        for m in (os.O_RDONLY, os.O_RDWR)
    )


@attempt("what stands in /proc of them", "EPERM|ENOENT|EACCES|ENODATA")
def _():
    names = ["environ", "maps", "smaps", "pagemap", "stack", "syscall", "auxv", "io", "personality"]
    return each(lambda p=p, n=n: read("/proc/%d/%s" % (p, n)) for p in keepers() for n in names)


@attempt("their open files", "EPERM|EACCES")
def _():
    return each(
        lambda p=p, n=n: os.listdir("/proc/%d/%s" % (p, n))
        for p in keepers()
        for n in ("fd", "fdinfo", "map_files")
    )


@attempt("their stdin and stdout", "EACCES")
def _():
    return each(
        lambda p=p, n=n, m=m: os.open("/proc/%d/fd/%d" % (p, n), m)
        for p in keepers()
        for n in range(20)
        for m in (os.O_WRONLY, os.O_RDONLY)
    )


@attempt("a copy of their descriptors", "EPERM|ENOSYS")
def _():
    return each(
        lambda p=p, n=n: call("pidfd_getfd", os.pidfd_open(p), n, 0)
        for p in keepers()
        for n in range(3)
    )


@attempt("their root, directory and program", "EACCES EACCES")
def _():
    return (
        each(
            lambda p=p, n=n: os.readlink("/proc/%d/%s" % (p, n))
            for p in keepers()
            for n in ("root", "cwd", "exe")
        )
        + " "
        + each(lambda p=p: os.listdir("/proc/%d/root/" % p) for p in keepers())
    )


@attempt("compare descriptors with theirs", "EPERM|ENOSYS")
def _():
    return call("kcmp", os.getpid(), keepers()[1], 0, 0, 0)


@attempt("their settings in /proc", "EPERM|EACCES|ENOENT")
def _():
    names = [
        "oom_score_adj",
        "oom_adj",
        "comm",
        "clear_refs",
        "coredump_filter",
        "timerslack_ns",
        "attr/current",
        "sched",
        "uid_map",
        "setgroups",
        "loginuid",
    ]
    return each(lambda p=p, n=n: write("/proc/%d/%s" % (p, n)) for p in keepers() for n in names)


@attempt("their limits", "EPERM")
def _():
    return each(
        lambda p=p, k=k: call("prlimit64", p, k, struct.pack("QQ", 0, 0), None)
        for p in keepers()
        for k in range(16)
    )


@attempt("their priority and processors", "ESRCH|EPERM|EACCES")
def _():
    tries = []
    for p in keepers():
        tries += [
            lambda p=p: os.setpriority(os.PRIO_PROCESS, p, 19),
            lambda p=p: os.sched_setaffinity(p, {0}),
            lambda p=p: os.sched_setscheduler(p, os.SCHED_IDLE, os.sched_param(0)),
            lambda p=p: call("ioprio_set", 1, p, 3 << 13),
            lambda p=p: call("setpgid", p, p),
        ]
    return each(tries)


@attempt("their memory back to the kernel", "EPERM|ENOSYS")
def _():
    return each(
        lambda p=p: call(
            "process_madvise", os.pidfd_open(p), struct.pack("QQ", 0x400000, 4096), 1, 21, 0
        )
        for p in keepers()
    )


@attempt("listen on the gateway's port", "EADDRINUSE")
def _():
    def bind(address, option):
        s = socket.socket()
        if option:
            s.setsockopt(socket.SOL_SOCKET, option, 1)
        s.bind((address, 8787))
        s.listen()

    return each(
        lambda a=a, o=o: bind(a, o)
        for a in ("127.0.0.1", "0.0.0.0", "")
        for o in (0, socket.SO_REUSEADDR, socket.SO_REUSEPORT)
    )


@attempt("listen on it over IPv6", "EADDRINUSE|EAFNOSUPPORT|EADDRNOTAVAIL")
def _():
    s = socket.socket(socket.AF_INET6)
    s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return s.bind(("::", 8787))


@attempt("be a keeper", "refused")
def _():
    for what in ("serve", "init"):
        said = subprocess.run(
            ["codex-keeper", what, "1"], input=b"\0" * 64, capture_output=True, timeout=10
        )
        assert said.returncode != 0 and said.stderr, said
    return "refused"


@attempt("type into a terminal", "ENXIO|ENOENT|EPERM|EACCES")
def _():
    def push(path):
        fcntl.ioctl(os.open(path, os.O_RDWR), 0x5412, b"x")

    return each(lambda p=p: push(p) for p in ("/dev/tty", "/dev/console", "/dev/pts/0"))


@attempt("a root's file by a descriptor", "EACCES")
def _():
    one, other = socket.socketpair()
    fd = os.open("/root", os.O_PATH)
    socket.send_fds(one, [b"x"], [fd])
    _, fds, _, _ = socket.recv_fds(other, 1, 1)
    return each(
        [
            lambda: os.listdir("/proc/self/fd/%d" % fds[0]),
            lambda: os.open("x", os.O_RDONLY, dir_fd=fds[0]),
        ]
    )


@attempt("descriptors it was given", "nothing but its own")
def _():
    kinds = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            kinds.add(os.readlink("/proc/self/fd/" + fd).split(":")[0])
        except OSError:
            pass
    odd = [
        k
        for k in kinds
        if k not in ("pipe", "/app/verdicts.txt", "/dev/null")
        and not k.startswith(("/proc/", "/tmp/"))
    ]
    return "nothing but its own" if not odd else odd


@attempt("children for the keeper to reap", "reaped|EPERM")
def _():
    for _ in range(50):
        if call("clone", 0x8000 | 17, 0, 0, 0, 0) == 0:
            os._exit(0)
    return "reaped"


@attempt("a core dump into another place", "nowhere else")
def _():
    (
        resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY,) * 2)
        if resource.getrlimit(resource.RLIMIT_CORE)[1] == resource.RLIM_INFINITY
        else None
    )
    pattern = open("/proc/sys/kernel/core_pattern").read()
    if os.fork() == 0:
        os.chdir("/tmp")
        os.abort()
    os.wait()
    return "nowhere else"
