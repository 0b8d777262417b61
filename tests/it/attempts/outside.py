@attempt("the root file system", "EROFS|EACCES|ENOENT")
def _():
    places = [
        "/",
        "/etc",
        "/usr",
        "/usr/local/bin",
        "/opt/codex",
        "/opt/codex/bin",
        "/var",
        "/var/lib",
        "/lib",
        "/root",
        "/home",
        "/srv",
        "/mnt",
        "/boot",
        "/bin",
        "/usr/share/codex-runner",
    ]
    return each(lambda p=p: open(p + "/planted", "w") for p in places)


@attempt("what the next run starts from", "EROFS|EACCES|ENOENT")
def _():
    paths = [
        "/usr/local/bin/codex-keeper",
        "/usr/local/bin/codex",
        "/opt/codex/bin/codex",
        "/usr/bin/python3",
        "/bin/bash",
        "/etc/passwd",
        "/etc/ld.so.preload",
        "/etc/ld.so.cache",
        "/etc/profile",
        "/etc/gitconfig",
        "/etc/resolv.conf",
        "/etc/hosts",
        "/etc/hostname",
        "/opt/codex/home-template/config.toml",
    ]
    return each(lambda p=p: os.open(p, os.O_WRONLY | os.O_CREAT) for p in paths)


@attempt("remove and rename there", "EROFS|EBUSY|EACCES")
def _():
    return each(
        [
            lambda: os.unlink("/usr/local/bin/codex"),
            lambda: os.rename("/usr/bin/git", "/usr/bin/got"),
            lambda: os.rmdir("/srv"),
            lambda: os.rename("/app", "/app2"),
            lambda: os.rename("/tmp", "/tmp2"),
            lambda: os.rmdir("/cache"),
        ]
    )


@attempt("/run and /dev", "EACCES|ENOENT|EPERM")
def _():
    return each(
        lambda p=p: open(p, "w")
        for p in ("/run/planted", "/dev/planted", "/run/lock/planted", "/dev/pts/planted")
    )


@attempt("modes and owners of root's places", "EROFS|EPERM|EACCES")
def _():
    return each(
        [
            lambda: os.chmod("/run", 0o777),
            lambda: os.chmod("/dev", 0o777),
            lambda: os.chmod("/home", 0o777),
            lambda: os.chown("/app", 0, 0),
            lambda: os.chown("/app/README.md", 1001, 1001),
            lambda: os.chmod("/tmp", 0o777),
            lambda: os.chmod("/dev/shm", 0o777),
            lambda: os.utime("/run"),
        ]
    )


@attempt("hard links to root's files", "EXDEV|EPERM|EACCES")
def _():
    paths = [
        "/etc/shadow",
        "/etc/passwd",
        "/proc/1/environ",
        "/usr/bin/su",
        "/dev/null",
        "/opt/codex/bin/codex",
    ]
    return each(
        lambda p=p, d=d: os.link(p, d + "/linked")
        for p in paths
        for d in ("/app", "/tmp", "/dev/shm", "/cache")
    )


@attempt("a link followed for writing", "EROFS|EACCES")
def _():
    os.symlink("/etc/passwd", "/tmp/follow")
    return each([lambda: open("/tmp/follow", "a"), lambda: os.truncate("/tmp/follow", 0)])


@attempt("root's secrets", "EACCES")
def _():
    return each(
        lambda p=p: read(p)
        for p in ("/etc/shadow", "/etc/gshadow", "/root/.bashrc", "/proc/1/environ")
    )


@attempt("out by the parents of a directory", "the same root")
def _():
    fd = os.open("/app", os.O_RDONLY)
    os.chdir("/")
    for _ in range(100):
        os.chdir("..")
    return (
        "the same root"
        if os.stat(".").st_ino == os.stat("/").st_ino and os.stat(".").st_dev == os.stat("/").st_dev
        else "out"
    )


@attempt("out by the descriptors of others", "none leads out")
def _():
    found = []
    for pid in os.listdir("/proc"):
        if pid.isdigit():
            for name in ("root", "cwd"):
                try:
                    at = os.stat("/proc/%s/%s/" % (pid, name))
                    if at.st_dev not in [
                        os.stat(p).st_dev
                        for p in ("/", "/app", "/tmp", "/proc", "/cache", "/home/codex", "/dev/shm")
                    ]:
                        found.append((pid, name))
                except OSError:
                    pass
    return "none leads out" if not found else found


@attempt("the engine's files", "ENOENT|EACCES")
def _():
    return each(
        lambda p=p: os.listdir(p)
        for p in (
            "/var/lib/docker",
            "/var/lib/containerd",
            "/run/docker",
            "/var/run/secrets",
            "/run/secrets",
        )
    )
