@attempt("links into /proc", "made")
def _():
    keeper = keepers()[1]
    targets = {
        "root": "/proc/1/root",
        "shadow": "/proc/1/root/etc/shadow",
        "self": "/proc/self/root/etc/shadow",
        "fd": "/proc/self/fd/0",
        "keeper": "/proc/%d/root" % keeper,
        "stdin": "/proc/%d/fd/0" % keeper,
        "environ": "/proc/self/environ",
        "sys": "/sys",
        "dev": "/dev/stdin",
    }
    os.mkdir("links")
    for name, target in targets.items():
        os.symlink(target, "links/" + name)
    return "made"


@attempt("links that lead out", "made")
def _():
    for name, target in {
        "up": "../../../etc/shadow",
        "home": os.path.expanduser("~root"),
        "abs": "/etc/shadow",
        "loop": "links/loop",
        "app": "/app/../etc/shadow",
    }.items():
        os.symlink(target, "links/" + name)
    return "made"


@attempt("a directory that became a link", "made")
def _():
    os.rename("src", "moved")
    os.symlink("/proc/self/cwd", "src")
    return "made"


@attempt("a file that became a link", "made")
def _():
    os.unlink("README.md")
    os.symlink("/proc/1/root/etc/passwd", "README.md")
    return "made"


@attempt("git's own directory", "made")
def _():
    os.makedirs(".git/hooks", exist_ok=True)
    for path in (".git/hooks/pre-commit", ".git/hooks/post-checkout"):
        with open(path, "w") as file:
            file.write("#!/bin/sh\ntouch /tmp/executed-on-the-host\n")
        os.chmod(path, 0o755)
    with open(".git/config", "a") as file:
        file.write("[core]\n\tfsmonitor = touch /tmp/executed-on-the-host\n")
    os.makedirs("deep/.GIT/hooks")
    os.makedirs("deep/git~1")
    open("deep/.GIT/config", "w").write("x")
    open("deep/git~1/config", "w").write("x")
    return "made"


@attempt("what editors and shells execute", "made")
def _():
    for path in (
        ".vscode/tasks.json",
        ".envrc",
        ".mcp.json",
        ".claude/settings.json",
        ".husky/pre-commit",
        "sub/.cursor/mcp.json",
    ):
        os.makedirs(os.path.dirname("./" + path), exist_ok=True)
        open(path, "w").write("{}")
    return "made"


@attempt("a setuid program", "made")
def _():
    subprocess.run(["cp", "/usr/bin/id", "root-shell"])
    os.chmod("root-shell", 0o6755)
    return "made"


@attempt("pipes and sockets", "made")
def _():
    os.mkfifo("pipe")
    s = socket.socket(socket.AF_UNIX)
    s.bind("socket")
    return "made"


@attempt("a link of a file to itself and others", "made")
def _():
    open("one", "w").write("one")
    os.link("one", "two")
    os.link("two", "three")
    return "made"
