//! What uid 1000 in a container may try.

use std::time::{Duration, Instant};

use crate::harness::{Failure, engine_is_there, entries, find, request, start, tree};
use mcp_codex_orchestrator::keeper::client::{Keeper, ProgramEvent};
use tokio::io::AsyncReadExt;

/// A shell script that runs this in Python.
fn python(code: &str) -> String {
    format!(
        "exec python3 - <<'PY'\nimport ctypes, fcntl, os, socket, struct, sys, time\nlibc = ctypes.CDLL(None, use_errno=True)\n{code}\nPY\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn children_that_a_program_gives_to_the_keeper_are_reaped() -> Result<(), Failure> {
    if !engine_is_there() {
        return Ok(());
    }
    let container = start(&[]).await;
    let armed = container.arm().await;
    // CLONE_PARENT makes the keeper the parent, and nobody has asked it to wait for them.
    let strays = python(
        "CLONE = {'x86_64': 56, 'aarch64': 220}[os.uname().machine]
for i in range(100):
    if libc.syscall(CLONE, 0x8000 | 17, 0, 0, 0, 0) == 0:
        os._exit(0)
if libc.syscall(CLONE, 0x8000 | 17, 0, 0, 0, 0) == 0:
    time.sleep(1000)",
    );
    let (exit, out, err) = container.run(&strays).await;
    assert_eq!(exit.code, Some(0), "{out}{err}");
    assert_eq!(container.keeper().end().await?.left, 0);
    assert_eq!(container.keeper().reset().await?, armed.fingerprint);
    let zombies = "grep -l '^State:.Z' /proc/[0-9]*/status | wc -l; cat /sys/fs/cgroup/pids.current /sys/fs/cgroup/pids/pids.current 2>/dev/null";
    let (_, out, _) = container.run(zombies).await;
    assert!(out.starts_with("0\n"), "zombies are left: {out}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn attributes_and_flags_of_the_places_show_in_the_fingerprint() -> Result<(), Failure> {
    if !engine_is_there() {
        return Ok(());
    }
    let container = start(&[]).await;
    let armed = container.arm().await;
    let plant = python(
        "for place in ['/app', '/cache', '/home/codex']:
    for name in [b'user.left', b'user.odd\\xff']:
        try:
            os.setxattr(place.encode(), name, b'x' * 100)
            print('attribute', place)
        except OSError as error:
            print(error)
    acl = struct.pack('<I', 2) + b''.join(struct.pack('<HHI', tag, 7, 0xffffffff) for tag in (1, 4, 0x20))
    try:
        os.setxattr(place, 'system.posix_acl_default', acl)
        print('acl', place)
    except OSError as error:
        print(error)
    fd = os.open(place, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, 0x40086602, struct.pack('l', struct.unpack('l', fcntl.ioctl(fd, 0x80086601, b'\\0' * 8))[0] | 0x100c8))
        print('flags', place)
    except OSError as error:
        print(error)
    os.close(fd)",
    );
    let (exit, planted, err) = container.run(&plant).await;
    println!("{planted}{err}");
    assert_eq!(exit.code, Some(0), "{planted}{err}");
    container.keeper().end().await?;
    // They are not undone but seen: such a container is destroyed.
    assert!(planted.contains("attribute /app") && planted.contains("flags /app"));
    assert_ne!(container.keeper().reset().await?, armed.fingerprint);
    let undo = python(
        "for place in ['/app', '/cache', '/home/codex']:
    for name in os.listxattr(place.encode()):
        os.removexattr(place.encode(), name)
    fd = os.open(place, os.O_RDONLY)
    try:
        flags, = struct.unpack('l', fcntl.ioctl(fd, 0x80086601, b'\\0' * 8))
        fcntl.ioctl(fd, 0x40086602, struct.pack('l', flags & ~0x100c8))
    except OSError as error:
        print(error)",
    );
    container.run(&undo).await;
    container.keeper().end().await?;
    assert_eq!(container.keeper().reset().await?, armed.fingerprint);
    for one in [
        "os.setxattr('/app', 'user.left', b'')",
        "os.setxattr('/cache', 'system.posix_acl_default', struct.pack('<IHHIHHIHHI', 2, 1, 7, 0xffffffff, 4, 7, 0xffffffff, 0x20, 7, 0xffffffff))",
        "fd = os.open('/app', os.O_RDONLY); flags, = struct.unpack('l', fcntl.ioctl(fd, 0x80086601, b'\\0' * 8)); fcntl.ioctl(fd, 0x40086602, struct.pack('l', flags | 0x80))",
    ] {
        let (exit, _, err) = container.run(&python(one)).await;
        assert_eq!(exit.code, Some(0), "{err}");
        container.keeper().end().await?;
        assert_ne!(container.keeper().reset().await?, armed.fingerprint, "{one}");
        container.run(&undo).await;
        container.keeper().end().await?;
        assert_eq!(container.keeper().reset().await?, armed.fingerprint, "{one}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_connection_of_one_run_reaches_the_next() -> Result<(), Failure> {
    if !engine_is_there() {
        return Ok(());
    }
    let mut container = start(&[]).await;
    let armed = container.arm().await;
    let many = python(
        "kept = []
for i in range(100):
    s = socket.socket()
    s.settimeout(0.2)
    try:
        s.connect(('127.0.0.1', 8787))
        s.sendall(b'first\\n')
        kept.append(s)
    except OSError:
        break
print(len(kept))",
    );
    let (_, out, err) = container.run(&many).await;
    println!("connections {out}{err}");
    container.keeper().end().await?;
    assert_eq!(container.keeper().reset().await?, armed.fingerprint);
    container.incoming.discard();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let script = "exec 3<>/dev/tcp/127.0.0.1/8787; echo second >&3; cat <&3";
    let mut program = container.keeper().spawn(request(script, "")).await?;
    let accepted = tokio::time::timeout(Duration::from_secs(5), container.incoming.accept());
    let mut connection = accepted.await?.unwrap();
    let mut line = String::new();
    let mut byte = [0];
    while !line.ends_with('\n') {
        connection.read_exact(&mut byte).await?;
        line.push(byte[0] as char);
    }
    assert_eq!(line, "second\n");
    drop(connection);
    while !matches!(program.next().await?, ProgramEvent::Exited(_)) {}
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_connections_do_not_end_the_stream() -> Result<(), Failure> {
    if !engine_is_there() {
        return Ok(());
    }
    let mut container = start(&[]).await;
    container.arm().await;
    let churn = python(
        "import threading
def churn():
    for i in range(1000):
        s = socket.socket()
        try:
            s.connect(('127.0.0.1', 8787))
            if i % 3 == 0:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
            if i % 2 == 0:
                s.sendall(b'x' * 1000)
        except OSError:
            pass
        s.close()
threads = [threading.Thread(target=churn) for _ in range(10)]
[t.start() for t in threads]
[t.join() for t in threads]",
    );
    let mut program = container.keeper().spawn(request(&churn, "")).await?;
    let started = Instant::now();
    let mut taken = 0_u32;
    loop {
        tokio::select! {
            event = program.next() => if let ProgramEvent::Exited(exit) = event? {
                assert_eq!(exit.code, Some(0));
                break;
            },
            Some(connection) = container.incoming.accept() => {
                taken += 1;
                drop(connection);
            }
        }
    }
    println!("{taken} connections in {:?}", started.elapsed());
    assert!(taken > 1000);
    assert!(container.keeper().lost().is_none());
    container.keeper().round_trip().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_keeper_cannot_be_looked_into_signalled_or_starved() -> Result<(), Failure> {
    if !engine_is_there() {
        return Ok(());
    }
    let container = start(&[]).await;
    let armed = container.arm().await;
    let script = python(
        "keepers = [p for p in os.listdir('/proc') if p.isdigit() and open(f'/proc/{p}/comm').read() == 'codex-keeper\\n']
assert len(keepers) == 2, keepers
for p in keepers:
    for n in list(range(1, 65)):
        try:
            os.kill(int(p), n)
            print('signal', p, n)
        except OSError:
            pass
    for name in ['fd', 'mem', 'exe', 'environ', 'maps', 'fdinfo', 'cwd', 'root', 'syscall', 'stack', 'io', 'task']:
        try:
            path = f'/proc/{p}/{name}'
            if name in ('fd', 'fdinfo'):
                os.listdir(path)
            elif name in ('exe', 'cwd', 'root'):
                os.readlink(path)
            elif name == 'task':
                for t in os.listdir(path):
                    assert libc.syscall({'x86_64': 234, 'aarch64': 131}[os.uname().machine], int(p), int(t), 9) == -1
                continue
            else:
                open(path, 'rb').read(1)
            print('read', path)
        except OSError:
            pass
    for name in ['oom_score_adj', 'coredump_filter', 'comm', 'clear_refs', 'attr/current', 'timerslack_ns', 'autogroup']:
        try:
            with open(f'/proc/{p}/{name}', 'w') as f:
                f.write('1')
            print('wrote', p, name)
        except OSError:
            pass
for path in ['/proc/sysrq-trigger', '/proc/sys/kernel/core_pattern', '/dev/planted', '/run/planted', '/proc/self/oom_adj']:
    if path != '/proc/self/oom_adj':
        try:
            open(path, 'w').write('x')
            print('wrote', path)
        except OSError:
            pass
print('done')",
    );
    let (_, out, err) = container.run(&script).await;
    assert_eq!(out, "done\n", "{err}");
    // At the process limit a second program is refused or starts, and nothing else is harmed.
    let bomb = "while :; do sleep 1000 & done 2>/dev/null";
    let mut program = container.keeper().spawn(request(bomb, "")).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let second = container.keeper().spawn(request("true", "")).await;
    println!("second at the limit: {:?}", second.map(|_| ()));
    container.keeper().round_trip().await?;
    assert_eq!(container.keeper().end().await?.left, 0);
    while !matches!(program.next().await?, ProgramEvent::Exited(_)) {}
    assert_eq!(container.keeper().reset().await?, armed.fingerprint);
    // Out of memory by many small processes, each smaller than the keeper and as dear as it.
    let swarm = python(
        "for i in range(200):
    if os.fork() == 0:
        with open('/proc/self/oom_score_adj', 'w') as f:
            try:
                f.write('0')
            except OSError as error:
                print(error)
        hold = []
        while len(hold) < 300:
            hold.append(b'%d' % i * 4096)
            time.sleep(0.001)
        time.sleep(1000)
time.sleep(3)",
    );
    let (exit, out, err) = container.run(&swarm).await;
    println!("{exit:?} {out:.200} {err:.200}");
    assert!(container.keeper().lost().is_none());
    assert_eq!(container.keeper().end().await?.left, 0);
    assert_eq!(container.keeper().reset().await?, armed.fingerprint);
    // Shared memory counts like any other and outlives who filled it; its owner may be changed.
    let shared = python(
        "libc.shmat.restype = ctypes.c_void_p
class Ds(ctypes.Structure):
    _fields_ = [('key', ctypes.c_int), ('uid', ctypes.c_uint), ('gid', ctypes.c_uint), ('rest', ctypes.c_char * 200)]
while True:
    id = libc.shmget(0, ctypes.c_size_t(8 << 20), 0o1600)
    ds = Ds(uid=4242, gid=4242)
    at = libc.shmat(id, None, 0)
    assert libc.shmctl(id, 1, ctypes.byref(ds)) == 0
    for page in range(0, 8 << 20, 4096):
        ctypes.memset(at + page, 1, 1)
    libc.shmdt(ctypes.c_void_p(at))",
    );
    let (exit, _, err) = container.run(&shared).await;
    println!("{exit:?} {err:.200}");
    assert!(exit.out_of_memory, "{exit:?} {err}");
    assert_eq!(container.keeper().end().await?.left, 0);
    assert_eq!(container.keeper().reset().await?, armed.fingerprint);
    Ok(())
}

/// Ends, collects, and gives what came.
async fn collected(
    container: &crate::harness::Contained,
) -> Result<Vec<(Vec<u8>, tar::EntryType, Vec<u8>)>, Failure> {
    container.keeper().end().await?;
    let (_, tar) = container.collect().await?;
    Ok(entries(&tar))
}

#[tokio::test(flavor = "multi_thread")]
async fn no_trick_with_times_and_inodes_hides_a_change() -> Result<(), Failure> {
    if !engine_is_there() {
        return Ok(());
    }
    let container = start(&[]).await;
    container.arm().await;
    let names = [
        "mmap",
        "pwrite",
        "rename",
        "swap-a",
        "swap-b",
        "hard",
        "splice",
        "fallocate",
        "zero",
        "same",
    ];
    let files: Vec<(&str, &[u8])> = names.iter().map(|name| (*name, &b"old\n"[..])).collect();
    container.put(tree(&files)).await?;
    let script = python(
        "import mmap
def restore(name, stat):
    os.utime(name, ns=(stat.st_atime_ns, stat.st_mtime_ns))
stats = {name: os.stat(name) for name in os.listdir('.')}
with open('mmap', 'r+b') as f:
    m = mmap.mmap(f.fileno(), 4)
    m[0:3] = b'new'
    m.flush()
    m[0:3] = b'now'
fd = os.open('pwrite', os.O_WRONLY); os.pwrite(fd, b'new', 0); os.close(fd)
open('x', 'w').write('new\\n'); os.rename('x', 'rename')
os.rename('swap-a', 'x'); os.rename('swap-b', 'swap-a'); os.rename('x', 'swap-b')
open('swap-a', 'r+').write('new')
os.link('hard', '/app/other'); fd = os.open('other', os.O_WRONLY); os.write(fd, b'new'); os.close(fd); os.unlink('other')
r, w = os.pipe(); os.write(w, b'new'); fd = os.open('splice', os.O_WRONLY); os.splice(r, fd, 3); os.close(fd)
fd = os.open('fallocate', os.O_RDWR); libc.fallocate(fd, 3, ctypes.c_long(0), ctypes.c_long(4)); os.close(fd)
os.truncate('zero', 0); os.truncate('zero', 4)
for name, stat in stats.items():
    if name != 'same':
        restore(name, stat)
",
    );
    let (exit, out, err) = container.run(&script).await;
    assert_eq!(exit.code, Some(0), "{out}{err}");
    let found = collected(&container).await?;
    for name in names.iter().filter(|name| !["same", "swap-b"].contains(name)) {
        let entry = find(&found, &format!("tree/{name}"));
        assert!(entry.is_some_and(|(_, _, bytes)| bytes != b"old\n"), "{name}: {entry:?}");
    }
    assert!(find(&found, "tree/same").is_none());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_trees_are_collected_as_the_host_reads_them() -> Result<(), Failure> {
    if !engine_is_there() {
        return Ok(());
    }
    let container = start(&[]).await;
    let armed = container.arm().await;
    container.put(tree(&[("d/a", b"x"), ("f", b"x")])).await?;
    let outside = python(
        "import shutil
shutil.rmtree('d'); os.symlink('/etc', 'd')
os.unlink('f'); os.mkfifo('f')
os.mkfifo('.gitignore')
for byte in range(1, 256):
    if byte != 47:
        open(b'name-' + bytes([byte]), 'w')
# 95 bytes, so that cutting the path at 100 leaves `..` at its end.
os.makedirs('p' * 92); open('p' * 92 + '/..odd', 'w').write('x')
os.makedirs('q' * 93); open('q' * 93 + '/.odd', 'w').write('x')
os.makedirs('r' * 94); open('r' * 94 + '/odd', 'w').write('x')
open(b'\\xff' * 200, 'w').write('x')
for i, time in enumerate([-1, -2**33, 2**34 - 1, 2**33, 0]):
    open(f'time-{i}', 'w')
    try:
        os.utime(f'time-{i}', (time, time))
    except OSError as error:
        print(error)
os.makedirs('closed/inner'); open('closed/inner/f', 'w').write('x')
os.chmod('closed/inner/f', 0); os.chmod('closed/inner', 0); os.chmod('closed', 0)
open('setuid', 'w'); os.chmod('setuid', 0o7777)
s = socket.socket(socket.AF_UNIX); s.bind('socket')
os.symlink('x' * 4000, 'long-link')
os.symlink('/proc/self/root/etc/passwd', 'magic')
open('self.tar', 'wb').write(b'\\0' * 2048)
open('empty', 'w')
",
    );
    let (exit, out, err) = container.run(&outside).await;
    assert_eq!(exit.code, Some(0), "{out}{err}");
    container.keeper().end().await?;
    let (report, tar) = container.collect().await?;
    let found = entries(&tar);
    assert_eq!(find(&found, "tree/d").unwrap().2, b"/etc");
    assert!(!found.iter().any(|(path, ..)| path.starts_with(b"tree/d/")));
    assert_eq!(find(&found, "tree/f").unwrap().1, tar::EntryType::Fifo);
    for path in [format!("tree/{}/..odd", "p".repeat(92)), "tree/closed/inner/f".to_owned()] {
        assert_eq!(find(&found, &path).unwrap().2, b"x", "{path}");
    }
    assert_eq!(found.iter().filter(|(path, ..)| path.starts_with(b"tree/name-")).count(), 254);
    // The host takes all of it.
    let place = tempfile::tempdir()?;
    let snapshot = snapshot(&["d", "d/a", "f"]);
    let received = mcp_codex_orchestrator::workspace::receive::receive(
        &tar[..],
        &snapshot,
        &mcp_codex_orchestrator::workspace::receive::ReceiveLimits::new(300_000, 2 << 30),
        &place.path().join("changes.tar"),
    )?;
    assert_eq!(received.entries.len() as u64, report.entries);
    assert_eq!(received.deleted.len() as u64, report.deleted);
    assert_eq!(container.keeper().reset().await?, armed.fingerprint);
    Ok(())
}

fn snapshot(paths: &[&str]) -> mcp_codex_orchestrator::workspace::Snapshot {
    use mcp_codex_orchestrator::workspace::{Node, NodeKind, Snapshot};
    let directory = |path: &&str| paths.iter().any(|p| p.starts_with(&format!("{path}/")));
    let nodes = paths.iter().map(|path| {
        let kind = if directory(path) { NodeKind::Directory } else { NodeKind::File };
        let node = Node {
            kind,
            mode: 0o644,
            size: 1,
            mtime: (0, 0),
            ctime: (0, 0),
            dev: 0,
            ino: 0,
            hash: Some([0; 32]),
            target: None,
        };
        (mcp_codex_orchestrator::path::RelPath::new(*path).unwrap(), node)
    });
    Snapshot { nodes: nodes.collect(), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_million_names_and_a_bottomless_tree_do_not_stop_the_keeper() -> Result<(), Failure> {
    if !engine_is_there() {
        return Ok(());
    }
    let container = start(&[]).await;
    let armed = container.arm().await;
    let deep = python(
        "for i in range(3000):
    os.mkdir('d'); os.chdir('d')
open('f', 'w')",
    );
    let (exit, _, err) = container.run(&deep).await;
    assert_eq!(exit.code, Some(0), "{err}");
    container.keeper().end().await?;
    println!("{}", container.collect().await.unwrap_err());
    let started = Instant::now();
    assert_eq!(container.keeper().reset().await?, armed.fingerprint);
    println!("reset of a tree of 3,000 levels: {:?}", started.elapsed());
    let many = python(
        "name = 'n' * 240
for i in range(200000):
    os.mknod(f'{name}{i}')",
    );
    let (exit, _, err) = container.run(&many).await;
    assert_eq!(exit.code, Some(0), "{err}");
    container.keeper().end().await?;
    let started = Instant::now();
    println!("{:?}", container.collect().await.map(|(report, _)| report));
    println!("collect of 200,000 long names: {:?}", started.elapsed());
    println!("keeper: {}", peak(&container).await);
    let started = Instant::now();
    assert_eq!(container.keeper().reset().await?, armed.fingerprint);
    println!("reset of them: {:?}", started.elapsed());
    println!("keeper: {}", peak(&container).await);
    println!("round trip {:?}", round_trip(container.keeper()).await);
    Ok(())
}

async fn round_trip(keeper: &Keeper) -> Duration {
    keeper.round_trip().await.unwrap()
}

async fn peak(container: &crate::harness::Contained) -> String {
    let (_, out, _) = container.run("grep -hE 'VmHWM|RssAnon' /proc/[0-9]*/status | sort -rn | head -3; grep -l codex-keeper /proc/[0-9]*/comm | while read c; do grep -hE 'VmHWM|RssAnon' ${c%comm}status; done").await;
    out.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_of_a_reset_and_of_a_program_that_does_nothing() -> Result<(), Failure> {
    if !engine_is_there() {
        return Ok(());
    }
    let container = start(&[]).await;
    let armed = container.arm().await;
    let files: Vec<String> = (0..100).map(|i| format!("d{}/f{i}", i / 10)).collect();
    let files: Vec<(&str, &[u8])> = files.iter().map(|path| (&path[..], &[7; 1024][..])).collect();
    let tree = tree(&files);
    let (mut nothing, mut hundred, mut whole) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..15 {
        let started = Instant::now();
        container.run("exit 0").await;
        container.keeper().end().await?;
        let ended = Instant::now();
        assert_eq!(container.keeper().reset().await?, armed.fingerprint);
        nothing.push(ended.elapsed());
        whole.push(started.elapsed());
        container.put(tree.clone()).await?;
        container.run("for f in d*/*; do echo changed > $f; done").await;
        container.keeper().end().await?;
        let ended = Instant::now();
        assert_eq!(container.keeper().reset().await?, armed.fingerprint);
        hundred.push(ended.elapsed());
    }
    for (what, mut times) in [
        ("reset after nothing", nothing),
        ("reset after 100 changed files", hundred),
        ("a shell that does nothing, end and reset", whole),
    ] {
        times.sort();
        println!("{what}: p50 {:?}, most {:?}", times[times.len() / 2], times[times.len() - 1]);
    }
    Ok(())
}
