//! What comes back of a tree in which uid 1000 hid its changes, or made it odd.

use mcp_codex_orchestrator::path::RelPath;
use mcp_codex_orchestrator::workspace::receive::{ReceiveLimits, receive};
use mcp_codex_orchestrator::workspace::{Node, NodeKind, Snapshot};

use crate::attack::python;
use crate::harness::{Contained, Failure, engine_is_there, entries, find, start, tree};

/// Ends, collects, and gives what came.
async fn collected(
    container: &Contained,
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
    let received = receive(
        &tar[..],
        &snapshot,
        &ReceiveLimits::new(300_000, 2 << 30),
        &place.path().join("changes.tar"),
    )?;
    assert_eq!(received.entries.len() as u64, report.entries);
    assert_eq!(received.deleted.len() as u64, report.deleted);
    assert_eq!(container.keeper().reset().await?, armed.fingerprint);
    Ok(())
}

fn snapshot(paths: &[&str]) -> Snapshot {
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
        (RelPath::new(*path).unwrap(), node)
    });
    Snapshot { nodes: nodes.collect(), ..Default::default() }
}
