import os, resource, subprocess

# Codex's own, which names some files at random.
CODEX = "/home/codex/.codex"


def walk(top):
    for directory, names, files in sorted(os.walk(top)):
        # Whose names come from the time of a commit.
        if directory.startswith((CODEX, "/app/.git/objects")):
            names[:] = []
            continue
        for name in sorted(names + files):
            path = os.path.join(directory, name)
            at = os.lstat(path)
            # Written by git and by this program.
            own = path in ("/app/portrait.txt", "/app/.git/index")
            size = at.st_size if path not in names and not own and not os.path.isdir(path) else "-"
            print("%s %o %d:%d %s" % (path, at.st_mode, at.st_uid, at.st_gid, size))


def show(path, keep=lambda line: True):
    for line in sorted(open(path)):
        if keep(line):
            print(path, " ".join(line.split()))


for place in ["/app", "/cache", "/home/codex", "/tmp", "/run", "/dev"]:
    at = os.lstat(place)
    print("%s %o %d:%d %s" % (place, at.st_mode, at.st_uid, at.st_gid, os.listxattr(place)))
    disk = os.statvfs(place)
    print(place, disk.f_blocks, disk.f_files, disk.f_flag)
    walk(place)
print(sorted(os.listdir(CODEX)))
print(
    "processes",
    sorted(
        line
        for line in subprocess.run(
            ["ps", "-eo", "uid,ni,comm"], capture_output=True, text=True
        ).stdout.split("\n")
        if "tokio" not in line
    ),
)
show("/proc/self/mounts", lambda line: line.split()[1] not in ("/", "/app", "/cache"))
for kind in ["shm", "msg", "sem"]:
    show("/proc/sysvipc/" + kind)
WANTED = (
    "Uid",
    "Gid",
    "Groups",
    "Cap",
    "NoNewPrivs",
    "Seccomp",
    "SigBlk",
    "SigIgn",
    "Umask",
    "Cpus_allowed_list",
)
show("/proc/self/status", lambda line: line.startswith(WANTED))
show("/proc/self/oom_score_adj")
show("/proc/net/unix", lambda line: "@" in line)
print("interfaces", os.listdir("/sys/class/net") if os.path.exists("/sys/class/net") else "")
ports = [line.split()[1] for line in open("/proc/net/tcp") if line.split()[3] == "0A"]
print("ports", sorted(ports))
for name in sorted(n for n in dir(resource) if n.startswith("RLIMIT_")):
    print(name, resource.getrlimit(getattr(resource, name)))
print("nice", os.nice(0), "cpus", len(os.sched_getaffinity(0)), "policy", os.sched_getscheduler(0))
print("environment", sorted(name for name in os.environ))
keeper = [
    p
    for p in os.listdir("/proc")
    if p.isdigit() and open("/proc/%s/comm" % p).read() == "codex-keeper\n"
]
for pid in sorted(keeper, key=int):
    print(
        "keeper",
        os.sched_getscheduler(int(pid)),
        sorted(os.sched_getaffinity(int(pid))),
        os.getpriority(os.PRIO_PROCESS, int(pid)),
        open("/proc/%s/oom_score_adj" % pid).read().strip(),
    )
print("whole")
