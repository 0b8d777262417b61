@attempt("unshare, each namespace", "EPERM")
def _():
    flags = [0x80, 0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000]
    return each(lambda flag=flag: call("unshare", flag) for flag in flags)


@attempt("clone into each namespace", "EPERM")
def _():
    flags = [0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000]
    return each(
        lambda flag=flag: call("clone", flag | 17, 0, 0, 0, 0) or os._exit(0) for flag in flags
    )


@attempt("clone3 into a user namespace", "ENOSYS")
def _():
    return call(
        "clone3", struct.pack("11Q", 0x10000000, 0, 0, 0, 17, 0, 0, 0, 0, 0, 0), 88
    ) or os._exit(0)


@attempt("setns into those of pid 1 and of its own", "EPERM|EACCES|ENOSYS")
def _():
    paths = [
        "/proc/%s/ns/%s" % (pid, kind)
        for pid in (1, "self")
        for kind in ("mnt", "net", "user", "pid", "ipc")
    ]
    return each(lambda path=path: call("setns", os.open(path, os.O_RDONLY), 0) for path in paths)


@attempt("unshare the program", "refused")
def _():
    return (
        subprocess.run(["unshare", "-Urm", "true"], capture_output=True).returncode == 0
        or "refused"
    )


@attempt("mount a tmpfs", "EPERM|ENOSYS")
def _():
    return call("mount", b"none", b"/tmp", b"tmpfs", 0, None)


@attempt("mount proc anew", "EPERM|ENOSYS")
def _():
    return call("mount", b"proc", b"/app", b"proc", 0, None)


@attempt("make the root writable", "EPERM|ENOSYS")
def _():
    return call("mount", None, b"/", None, 0x20 | 0x1000, None)


@attempt("bind the host's file over another", "EPERM|ENOSYS")
def _():
    return call("mount", b"/app", b"/usr", None, 0x1000, None)


@attempt("umount", "EPERM|ENOSYS")
def _():
    return each(lambda p=p: call("umount2", p, 2) for p in (b"/tmp", b"/proc", b"/app"))


@attempt("pivot_root", "EPERM|ENOSYS")
def _():
    return call("pivot_root", b"/app", b"/app")


@attempt("chroot", "EPERM|ENOSYS")
def _():
    return call("chroot", b"/app")


@attempt("the new calls for mounts", "EPERM|ENOSYS")
def _():
    return each(
        [
            lambda: call("fsopen", b"tmpfs", 0),
            lambda: call("open_tree", -100, b"/", 1),
            lambda: call("move_mount", -1, b"", -1, b"/", 0),
            lambda: call("mount_setattr", -100, b"/", 0, bytes(32), 32),
            lambda: call("fsmount", -1, 0, 0),
            lambda: call("fspick", -100, b"/", 0),
        ]
    )
