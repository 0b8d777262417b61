@attempt("become root", "EPERM")
def _():
    return each(
        [
            lambda: os.setuid(0),
            lambda: os.setgid(0),
            lambda: os.setgroups([0]),
            lambda: os.setresuid(0, 0, 0),
            lambda: os.seteuid(0),
        ]
    )


@attempt("capabilities", "EPERM")
def _():
    header = struct.pack("Ii", 0x20080522, 0)
    return each(
        [
            lambda: call("capset", header, struct.pack("6I", 1 << 21, 1 << 21, 1 << 21, 0, 0, 0)),
            lambda: call("prctl", 47, 2, 21, 0, 0),
        ]
    )


@attempt("take back no-new-privileges", "EINVAL")
def _():
    return call("prctl", 38, 0, 0, 0, 0)


@attempt("take back the filter", "EINVAL")
def _():
    return each([lambda: call("prctl", 22, 0, 0, 0, 0), lambda: call("seccomp", 0, 1, None)])


@attempt("programs with the setuid bit", "none is root")
def _():
    found = subprocess.run(
        ["find", "/usr", "/bin", "/sbin", "/opt", "-xdev", "-type", "f", "-perm", "/6000"],
        capture_output=True,
        text=True,
    ).stdout.split()
    roots = [
        p
        for p in found
        if b" 0\n"
        in subprocess.run(
            ["sh", "-c", 'exec "$0" -c "id -u" </dev/null 2>/dev/null | sed s/^/\ /', p],
            capture_output=True,
        ).stdout
    ]
    return "none is root" if not roots else roots


@attempt("su, sudo, newgrp, passwd", "ENOENT")
def _():
    return each(
        lambda c=c: subprocess.run(
            ["sh", "-c", c], capture_output=True, stdin=subprocess.DEVNULL
        ).returncode
        == 0
        and "ran"
        or os.open("/nowhere", 0)
        for c in (
            "su -c true",
            "newgrp root -c true",
            "passwd -d root",
            "mount /dev/vda /app",
            "umount /tmp",
            "chsh -s /bin/sh root",
        )
    )


@attempt("a setuid program of its own", "nosuid")
def _():
    path = "/tmp/mine"
    subprocess.run(["cp", "/usr/bin/id", path])
    os.chmod(path, 0o6755)
    return (
        "nosuid"
        if subprocess.run([path, "-u"], capture_output=True, text=True).stdout.strip() == "1000"
        else "ran"
    )


@attempt("file capabilities", "EPERM")
def _():
    open("/app/x", "w").close()
    return os.setxattr(
        "/app/x", "security.capability", struct.pack("<5I", 0x02000001, 1 << 21, 0, 0, 0)
    )


@attempt("attributes of the system", "EPERM|EPERM EOPNOTSUPP|EPERM ENOTSUP")
def _():
    open("/app/y", "w").close()
    return os.setxattr("/app/y", "trusted.overlay.opaque", b"y")


@attempt("make a file immutable", "EPERM")
def _():
    open("/app/z", "w").close()
    return each(
        [
            lambda: ioctl("/app/z", 0x40086602, struct.pack("l", 0x10)),
            lambda: ioctl("/app", 0x40086602, struct.pack("l", 0x20)),
        ]
    )


@attempt("devices of its own", "EPERM")
def _():
    return each(
        [
            lambda: os.mknod("/app/disk", stat.S_IFBLK | 0o666, os.makedev(254, 0)),
            lambda: os.mknod("/tmp/mem", stat.S_IFCHR | 0o666, os.makedev(1, 1)),
        ]
    )


@attempt("the machine's disks", "ENOENT")
def _():
    import glob

    paths = (
        glob.glob("/dev/sd*")
        + glob.glob("/dev/vd*")
        + glob.glob("/dev/nvme*")
        + glob.glob("/dev/dm-*")
        + ["/dev/fuse", "/dev/kvm", "/dev/loop-control", "/dev/net/tun", "/dev/vhost-net"]
    )
    return each(lambda p=p: os.open(p, os.O_RDWR) for p in paths)


@attempt("priority over others", "EPERM")
def _():
    return each(
        [
            lambda: os.nice(-5),
            lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)),
            lambda: call("ioprio_set", 1, 0, 1 << 13),
            lambda: call("prlimit64", 0, 7, struct.pack("QQ", 1 << 40, 1 << 40), None),
            lambda: write("/proc/self/oom_score_adj", b"-1000"),
        ]
    )


@attempt("trace itself and its parent", "EPERM")
def _():
    return each(
        [
            lambda: call("ptrace", 0, 0, 0, 0),
            lambda: call("ptrace", 16, os.getppid(), 0, 0),
            lambda: call("ptrace", 0x4206, os.getppid(), 0, 0),
        ]
    )
