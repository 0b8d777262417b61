//! Processes, and what the kernel holds for them.

use crate::harness::{Failure, Fate::Gone, check, engine_is_there, python};

#[tokio::test(flavor = "multi_thread")]
async fn processes_of_every_kind_end() -> Result<(), Failure> {
    if !engine_is_there() {
        return Ok(());
    }
    // Each waits until its process is there, so that the reset meets it.
    let daemon = |code: &str| {
        python(&format!(
            "ready, tell = os.pipe()
def left():
    os.dup2(os.open('/dev/null', os.O_RDWR), 0); os.dup2(0, 1); os.dup2(0, 2)
def done():
    os.write(tell, b'x')
def ignore():
    for n in range(1, 65):
        try: signal.signal(n, signal.SIG_IGN)
        except (OSError, ValueError): pass
if os.fork() == 0:
    left()
{code}
    os._exit(0)
assert os.read(ready, 1) == b'x'
print('planted', flush=True)
os._exit(0)"
        ))
    };
    check(vec![
        ("a daemon in its own session", daemon("    os.setsid(); done(); time.sleep(1000)"), Gone),
        (
            "a child that was forked twice",
            daemon(
                "    os.setsid()
    if os.fork() > 0: os._exit(0)
    os.chdir('/'); done(); time.sleep(1000)",
            ),
            Gone,
        ),
        (
            "a process in a group of its own that ignores every signal it can",
            daemon("    os.setpgid(0, 0); ignore(); done()\n    while True: time.sleep(1000)"),
            Gone,
        ),
        (
            "a stopped process",
            daemon("    os.setsid(); done(); os.kill(os.getpid(), signal.SIGSTOP)"),
            Gone,
        ),
        (
            "processes that fork again when one dies",
            daemon(
                "    os.setsid(); ignore(); signal.signal(signal.SIGCHLD, signal.SIG_DFL); done()
    for i in range(20):
        if os.fork() == 0: break
    while True:
        pid = os.fork()
        if pid > 0: os.waitpid(pid, 0)
        else: time.sleep(0.005); os._exit(0)",
            ),
            Gone,
        ),
        (
            "a fork bomb at the process limit",
            daemon(
                "    os.setsid(); ignore()
    failed = False
    while True:
        try: os.fork()
        except OSError:
            if not failed: failed = True; done()
            time.sleep(0.01)",
            ),
            Gone,
        ),
        (
            "threads without a leader",
            daemon(
                "    import threading
    threading.Thread(target=lambda: (done(), time.sleep(1000))).start()
    libc.pthread_exit(None)",
            ),
            Gone,
        ),
        (
            "a process that renames itself as the keeper",
            daemon("    libc.prctl(15, b'codex-keeper', 0, 0, 0); done(); time.sleep(1000)"),
            Gone,
        ),
        (
            "children that were given to the keeper",
            python(
                "clone = {'x86_64': 56, 'aarch64': 220}[os.uname().machine]
for i in range(50):
    if libc.syscall(clone, 0x8000 | 17, 0, 0, 0, 0) == 0: os._exit(0)
print('planted')",
            ),
            Gone,
        ),
    ])
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn ipc_sockets_and_held_files_end() -> Result<(), Failure> {
    if !engine_is_there() {
        return Ok(());
    }
    let and_stay = "print('planted', flush=True)
if os.fork() == 0:
    os.setsid(); os.dup2(os.open('/dev/null', os.O_RDWR), 1); os.dup2(1, 2); time.sleep(1000)
os._exit(0)";
    let plant = |code: &str| python(&format!("{code}\n{and_stay}"));
    check(vec![
        (
            "System V shared memory, semaphores and messages",
            plant(
                "libc.shmat.restype = ctypes.c_void_p
for i in range(20):
    id = libc.shmget(0x4200 + i, 1 << 20, 0o1666)
    assert id >= 0
    ctypes.memset(libc.shmat(id, None, 0), 7, 1 << 20)
    assert libc.semget(0x4200 + i, 3, 0o1666) >= 0
    q = libc.msgget(0x4200 + i, 0o1666)
    assert libc.msgsnd(q, b'\\1' + b'\\0' * 7 + b'a message', 9, 0) == 0",
            ),
            Gone,
        ),
        (
            "IPC objects that were given to another",
            plant(
                "class Ds(ctypes.Structure):
    _fields_ = [('key', ctypes.c_int), ('uid', ctypes.c_uint), ('gid', ctypes.c_uint), ('cuid', ctypes.c_uint), ('cgid', ctypes.c_uint), ('mode', ctypes.c_ushort), ('rest', ctypes.c_char * 200)]
id = libc.shmget(0, 4096, 0o1000)
assert libc.shmctl(id, 1, ctypes.byref(Ds(uid=4242, gid=4242, mode=0))) == 0",
            ),
            Gone,
        ),
        (
            "POSIX shared memory, semaphores and queues",
            plant(
                "import multiprocessing.shared_memory, multiprocessing.resource_tracker
shm = libc.shm_open(b'/planted', 0o102, 0o666); assert shm >= 0
os.truncate(shm, 1 << 20)
libc.sem_open.restype = ctypes.c_void_p
assert libc.sem_open(b'/planted', 0o100, 0o666, 1)
for i in range(5):
    mq = libc.mq_open(b'/planted%d' % i, 0o102, 0o666, None); assert mq >= 0
    assert libc.mq_send(mq, b'message', 7, 1) == 0
    os.chmod(f'/dev/mqueue/planted{i}', 0)",
            ),
            Gone,
        ),
        (
            "abstract and file sockets",
            plant(
                "kept = []
for name in ['\\0planted', '/tmp/planted', '/app/planted', '/dev/shm/planted']:
    for kind in [socket.SOCK_STREAM, socket.SOCK_DGRAM]:
        s = socket.socket(socket.AF_UNIX, kind); s.bind(name + str(kind)); kept.append(s)
        if kind == socket.SOCK_STREAM: s.listen()",
            ),
            Gone,
        ),
        (
            "sockets that hold each other, a file and an abstract name in flight",
            python(
                "a, b = socket.socketpair(socket.AF_UNIX)
name = socket.socket(socket.AF_UNIX); name.bind('\\0in-flight'); name.listen()
file = os.open('/tmp/in-flight', os.O_CREAT | os.O_RDWR); os.write(file, b'x' * (8 << 20)); os.unlink('/tmp/in-flight')
memory = os.memfd_create('in-flight'); os.write(memory, b'x' * (8 << 20))
fds = array.array('i', [a.fileno(), b.fileno(), name.fileno(), file, memory])
for s in (a, b): s.sendmsg([b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
print('planted', flush=True)
os._exit(0)",
            ),
            Gone,
        ),
        (
            "files that are deleted and held open, and mapped",
            plant(
                "import mmap
kept = []
for place in ['/tmp', '/dev/shm', '/app', '/cache', '/home/codex']:
    fd = os.open(place + '/held', os.O_CREAT | os.O_RDWR)
    os.write(fd, b'x' * (4 << 20)); os.unlink(place + '/held')
    kept.append(mmap.mmap(fd, 4 << 20))
kept.append(os.memfd_create('held'))",
            ),
            Gone,
        ),
        (
            "listeners on loopback, on the keeper's ports at other addresses too",
            plant(
                "kept = []
for family, address in [(socket.AF_INET, ('0.0.0.0', 9000)), (socket.AF_INET, ('127.0.0.2', 8787)), (socket.AF_INET, ('127.0.0.2', 8788)), (socket.AF_INET6, ('::1', 8787))]:
    for kind in [socket.SOCK_STREAM, socket.SOCK_DGRAM]:
        s = socket.socket(family, kind)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try: s.bind(address)
        except OSError as error:
            if family == socket.AF_INET6: continue
            raise
        if kind == socket.SOCK_STREAM: s.listen()
        kept.append(s)
for port in (8787, 8788):
    for address in ('127.0.0.1', '0.0.0.0'):
        s = socket.socket()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try: s.bind((address, port)); s.listen(); raise SystemExit('a port of the keeper was taken')
        except OSError: pass",
            ),
            Gone,
        ),
        (
            "a process that waits to take the keeper's ports when they are free for a moment",
            python(
                "for i in range(50):
    if os.fork() == 0:
        os.setsid()
        os.dup2(os.open('/dev/null', os.O_RDWR), 1); os.dup2(1, 2)
        while True:
            for port in (8787, 8788):
                s = socket.socket()
                s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try: s.bind(('127.0.0.1', port)); s.listen(); time.sleep(1000)
                except OSError: s.close()
print('planted', flush=True)",
            ),
            Gone,
        ),
        (
            "connections to the keeper, half closed, and their remains",
            python(
                "kept = []
for i in range(60):
    s = socket.socket(); s.settimeout(0.2)
    try: s.connect(('127.0.0.1', 8787 + i % 2)); s.sendall(b'x' * 1000)
    except OSError: break
    kept.append(s)
for s in kept[::3]: s.shutdown(socket.SHUT_WR)
for s in kept[1::3]: s.close()
assert len(kept) > 10
print('planted')",
            ),
            Gone,
        ),
    ])
    .await
}
