//! What uid 1000 in a container may try.

use std::time::{Duration, Instant};

use crate::harness::{Failure, engine_is_there, request, start, tree};
use mcp_codex_orchestrator::keeper::client::{Keeper, ProgramEvent};
use tokio::io::AsyncReadExt;

/// A shell script that runs this in Python.
pub(crate) fn python(code: &str) -> String {
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
