import ctypes, errno, fcntl, mmap, os, re, resource, signal, socket, stat, struct, subprocess, sys, time

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
headers = subprocess.run(
    ["gcc", "-E", "-dM", "-include", "sys/syscall.h", "-x", "c", "/dev/null"],
    capture_output=True,
    text=True,
).stdout
NUMBERS = {
    name: int(number) for name, number in re.findall(r"#define __NR_(\w+) (\d+)$", headers, re.M)
}


def call(name, *arguments):
    """A system call by its name."""
    plain = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    answer = libc.syscall(ctypes.c_long(NUMBERS[name]), *plain)
    if answer == -1:
        raise OSError(ctypes.get_errno(), "")
    return answer


def each(tries):
    """The verdicts of several tries, each once."""
    said = set()
    for one in tries:
        try:
            said.add("went through: %r" % (one(),))
        except OSError as error:
            said.add(name_of(error))
    # What went through is last in the alphabet.
    return " ".join(sorted(said, reverse=True))


def name_of(error):
    if isinstance(error, socket.gaierror):
        return "no such name"
    if isinstance(error, TimeoutError) and error.errno is None:
        return "timeout"
    return errno.errorcode.get(error.errno, repr(error))


def attempt(name, must):
    """Makes an attempt. Its verdict must begin as `must` says, which the test outside looks at."""
    return lambda made: report(name, made)


def report(name, attempt):
    """Makes an attempt in a process of its own and prints its verdict."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        try:
            said = attempt()
            if not isinstance(said, str):
                said = "went through: %r" % (said,)
        except OSError as error:
            said = name_of(error)
        except BaseException as error:
            said = "raised %r" % (error,)
        os.write(theirs, said.replace("\n", " ")[:2000].encode())
        os._exit(0)
    _, status = os.waitpid(child, 0)
    os.set_blocking(ours, False)
    try:
        said = os.read(ours, 4000).decode()
    except BlockingIOError:
        said = "signal %d" % (status & 127)
    os.close(ours)
    os.close(theirs)
    print(name + "\t" + said, flush=True)


def read(path):
    """What stands in a file; one that the engine hides is empty."""
    with open(path, "rb") as file:
        said = file.read(64)
    if not said:
        raise OSError(errno.ENODATA, "")
    return said


def write(path, data=b"1"):
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)


def ioctl(path, request, argument=0):
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return fcntl.ioctl(fd, request, argument)
    finally:
        os.close(fd)


def keepers():
    """init, which is pid 1, and the keeper."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if open("/proc/%s/comm" % name).read() == "codex-keeper\n":
                    found.append(int(name))
            except OSError:
                pass
    assert len(found) == 2 and 1 in found, found
    return sorted(found)


def connect(host, port, kind=socket.SOCK_STREAM):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, kind) as s:
        s.settimeout(3)
        s.connect((host, port))
        s.send(b"hello")
        if kind == socket.SOCK_DGRAM:
            # Nobody answers, or the kernel says that nobody is there.
            s.recv(1)
        return "connected"


def http(request, wait=5.0):
    """Sends bytes to the gateway, gives what comes back."""
    with socket.create_connection(("127.0.0.1", 8787), wait) as s:
        try:
            s.sendall(request)
        except (BrokenPipeError, ConnectionResetError):
            pass
        said = b""
        try:
            while len(said) < 1 << 20:
                more = s.recv(65536)
                if not more:
                    break
                said += more
        except (TimeoutError, ConnectionResetError):
            pass
        return said


def status(said):
    """The statuses of all answers in what came back."""
    found = re.findall(rb"HTTP/1\.[01] (\d+)", said)
    return " ".join(f.decode() for f in found) or "closed"


def statuses(all):
    """Each status once; what passed comes first."""
    return " ".join(sorted(set(all)))


def post(body, headers="", path="/v1/responses", method="POST"):
    """The status of one request with a body."""
    if isinstance(body, str):
        body = body.encode()
    head = "%s %s HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\n" % (method, path)
    head += "content-type: application/json\r\n%scontent-length: %d\r\n\r\n" % (headers, len(body))
    return status(http(head.encode() + body))


def body(more="", items=""):
    """A body that passes, with something more in it."""
    return (
        '{"model":"m","stream":true,"store":false,%s"input":[{"type":"message","role":"user",'
        '"content":[{"type":"input_text","text":"leave"}]}%s]}' % (more, items)
    )
