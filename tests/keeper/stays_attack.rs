//! What a program may try with a tree that stays.

use crate::attack::python;
use crate::harness::{Contained, Failure, engine_is_there, entries, find, start, start_on, tree};
use crate::stays::{delta, dropped, reset, run};

/// What collects as changed.
async fn changed(container: &Contained, path: &str) -> Result<Option<Vec<u8>>, Failure> {
    container.keeper().end().await?;
    let (_, tar) = container.collect().await?;
    Ok(find(&entries(&tar), &format!("tree/{path}")).map(|(.., bytes)| bytes.clone()))
}

/// What is left of the program's doing, by root's own look.
const LOOK: &str = "find /app -mindepth 1 -printf '%P %y %m %u %g %n %l\\n' | LC_ALL=C sort";

async fn as_root(container: &Contained, script: &str) -> String {
    let mut exec = tokio::process::Command::new("docker");
    exec.args(["exec", "-u", "0", &container.name, "bash", "-c", script]);
    String::from_utf8(exec.output().await.unwrap().stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_a_program_does_to_a_tree_stays_in_it() -> Result<(), Failure> {
    if !engine_is_there() {
        return Ok(());
    }
    let container = start(&[]).await;
    let armed = container.arm().await.fingerprint;
    let names = [
        ".git/HEAD",
        ".git/objects/aa/bb",
        ".git/refs/heads/main",
        "acl/f",
        "attr/f",
        "capable",
        "default/f",
        "dirmode/f",
        "flag/f",
        "forged",
        "hard",
        "mapped",
        "moved/a/f",
        "over",
        "setuid",
        "still/f",
        "swapped-a",
        "swapped-b",
        "xattr",
    ];
    // Each with other contents of the same length.
    let contents: Vec<String> = (0..names.len()).map(|number| format!("{number:04}")).collect();
    let files = names.iter().zip(&contents).map(|(name, text)| (*name, text.as_bytes()));
    container.put(tree(&files.collect::<Vec<_>>())).await?;
    let before = as_root(&container, LOOK).await;
    let script = python(
        "import mmap
acl = struct.pack('<I', 2) + b''.join(struct.pack('<HHI', *entry) for entry in
    [(1, 7, 0xffffffff), (2, 7, 2000), (4, 5, 0xffffffff), (0x10, 5, 0xffffffff), (0x20, 5, 0xffffffff)])
def restore(name, s): os.utime(name, ns=(s.st_atime_ns, s.st_mtime_ns))
stats = {n: os.stat(n) for n in ('forged', 'mapped', 'over', 'hard')}
with open('mapped', 'r+b') as f:
    m = mmap.mmap(f.fileno(), 4); m[0:4] = b'evil'; m.flush(); m[0:4] = b'bad!'
fd = os.open('forged', os.O_WRONLY); os.pwrite(fd, b'evil', 0); os.close(fd)
open('x', 'w').write('text'); os.rename('x', 'over')
os.makedirs('/app/out'); os.link('hard', 'out/second')
for n, s in stats.items(): restore(n, s)
os.rename('swapped-a', 'x'); os.rename('swapped-b', 'swapped-a'); os.rename('x', 'swapped-b')
os.chmod('setuid', 0o4755); os.chmod('dirmode', 0o1777)
os.setxattr('xattr', 'user.left', b'x'); os.setxattr('attr', 'user.left', b'x')
os.setxattr('default', 'system.posix_acl_default', acl); os.setxattr('acl/f', 'system.posix_acl_access', acl)
os.setxattr('acl', 'system.posix_acl_access', acl); assert os.stat('acl').st_mode & 0o777 == 0o755
fd = os.open('flag', os.O_RDONLY); fcntl.ioctl(fd, 0x40086602, struct.pack('l', 0x80 | 0x8)); os.close(fd)
os.rename('moved/a', 'moved/b'); os.mkdir('moved/a'); os.rename('moved/b/f', 'moved/a/f'); os.rmdir('moved/b')
for place in ('still', '.git', '.git/objects/aa', '.'):
    os.mkfifo(place + '/fifo'); os.mknod(place + '/whiteout', 0o020000, 0); os.mknod(place + '/socket', 0o140777)
    os.symlink('/etc/passwd', place + '/link'); os.mkdir(place + '/closed', 0); open(place + '/.hidden', 'w').close()
os.mkdir('.git/hooks'); open('.git/hooks/post-checkout', 'w').write('evil'); os.chmod('.git/hooks/post-checkout', 0o755)
open('.git/config', 'w').write('evil'); open('.git/refs/heads/evil', 'w').write('evil'); open('.git/index', 'w').write('evil')
os.makedirs('.git/objects/cc'); open('.git/objects/cc/dd', 'w').write('evil')
fd = os.open('.git/HEAD', os.O_WRONLY); os.pwrite(fd, b'evil', 0); os.close(fd)
for i in range(1000): os.mkdir('d'); os.chdir('d')
print('planted')",
    );
    let out = run(&container, &script).await;
    assert!(out.contains("planted"), "{out}");
    let kept = reset(&container, false, &armed).await?.tree.unwrap();
    assert_eq!(
        dropped(&kept),
        [
            ".git/HEAD",
            "acl",
            "acl/f",
            "attr",
            "attr/f",
            "default",
            "default/f",
            "dirmode",
            "dirmode/f",
            "flag",
            "flag/f",
            "forged",
            "hard",
            "mapped",
            "over",
            "setuid",
            "swapped-a",
            "swapped-b",
            "xattr",
        ]
    );
    let gone = |line: &&str| {
        let path = line.split(' ').next().unwrap();
        !dropped(&kept).iter().any(|gone| gone == path)
    };
    let left: Vec<&str> = before.lines().filter(gone).collect();
    let now = as_root(&container, LOOK).await;
    assert_eq!(now.lines().collect::<Vec<_>>(), left);
    for (name, text) in names.iter().zip(&contents) {
        let there = left.iter().any(|line| line.starts_with(&format!("{name} f ")));
        let read = as_root(&container, &format!("cat /app/{name}")).await;
        assert_eq!(read, if there { text.as_str() } else { "" }, "{name}");
    }
    let marks =
        "python3 -c 'import os; print([p for p, _, _ in os.walk(\"/app\") if os.listxattr(p)])'";
    assert_eq!(as_root(&container, marks).await, "[]\n");
    Ok(())
}

/// A mapping through which a page was written once is written again without a sign; a process that
/// has one does not live on, and the next one's first store moves the ctime again.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_through_a_mapping_is_seen_in_every_round() -> Result<(), Failure> {
    if !engine_is_there() {
        return Ok(());
    }
    let container = start(&[]).await;
    let armed = container.arm().await.fingerprint;
    let mut number = container.put(tree(&[("mapped", b"text"), ("other", b"text")])).await?.tree;
    for round in 0..3 {
        let store = python(&format!(
            "import mmap
s = os.stat('mapped')
f = open('mapped', 'r+b'); m = mmap.mmap(f.fileno(), 4); m[0:4] = b'{round}{round}{round}{round}'
os.utime('mapped', ns=(s.st_atime_ns, s.st_mtime_ns))
if os.fork() == 0:
    os.setsid()
    while True: m[0:4] = b'late'"
        ));
        run(&container, &store).await;
        let found = changed(&container, "mapped").await?.unwrap();
        assert!(found == b"late" || found == [b'0' + round; 4], "{found:?}");
        let kept = reset(&container, false, &armed).await?.tree.unwrap();
        assert_eq!((dropped(&kept), kept.tree > number), (vec!["mapped".to_owned()], true));
        let put = container.put_on(Some(kept.tree), delta(&[("mapped", Some(0o644), "text")]));
        number = put.await?.tree;
        assert_eq!(run(&container, "cat mapped other").await, "texttext");
        assert_eq!(changed(&container, "mapped").await?, None);
        let kept = reset(&container, false, &armed).await?.tree.unwrap();
        assert_eq!(dropped(&kept), [""; 0]);
        number = container.put_on(Some(kept.tree), delta(&[])).await?.tree.max(number);
    }
    Ok(())
}

/// On a file system that may not tell of stores through mappings (tmpfs does not, on older kernels),
/// contents are hashed.
#[tokio::test(flavor = "multi_thread")]
async fn in_memory_a_store_through_a_mapping_is_seen() -> Result<(), Failure> {
    if !engine_is_there() {
        return Ok(());
    }
    let container = start_on(&["--tmpfs", "/app:rw,exec,nosuid,nodev,size=64m"], &[]).await;
    let armed = container.arm().await.fingerprint;
    // More than what is hashed anyway.
    let large = vec![b'x'; 8 << 20];
    let files: [(&str, &[u8]); 3] = [("large", &large), ("mapped", b"text"), ("same", b"text")];
    container.put(tree(&files)).await?;
    let store = python(
        "import mmap
before = os.stat('mapped')
with open('mapped', 'r+b') as f: m = mmap.mmap(f.fileno(), 4); m[0:4] = b'evil'; m.flush()
os.utime('mapped', ns=(before.st_atime_ns, before.st_mtime_ns))",
    );
    run(&container, &store).await;
    assert_eq!(changed(&container, "mapped").await?, Some(b"evil".to_vec()));
    let kept = reset(&container, false, &armed).await?.tree.unwrap();
    assert_eq!(dropped(&kept), ["mapped"]);
    container.put_on(Some(kept.tree), delta(&[("mapped", Some(0o644), "text")])).await?;
    assert_eq!(run(&container, "cat mapped same; wc -c < large").await, "texttext8388608\n");
    run(&container, &store).await;
    assert_eq!(dropped(&reset(&container, false, &armed).await?.tree.unwrap()), ["mapped"]);
    Ok(())
}

/// A container's next workspace sees neither the tree nor what was built, poisoned or not.
#[tokio::test(flavor = "multi_thread")]
async fn another_workspace_sees_nothing_of_a_tree_that_stayed() -> Result<(), Failure> {
    if !engine_is_there() {
        return Ok(());
    }
    let container = start(&[]).await;
    let armed = container.arm().await.fingerprint;
    let files: [(&str, &[u8]); 4] =
        [(".gitignore", b"target/\n"), (".git/HEAD", b"x"), ("secret", b"secret"), ("d/f", b"f")];
    container.put(tree(&files)).await?;
    let poison = "mkdir -p target/closed d/target; echo secret > target/closed/secret; ln target/closed/secret target/hard
                  ln -s /app/secret target/link; cp /bin/true target/setuid; chmod 6755 target/setuid
                  ln secret d/target/name; mkfifo target/fifo; chmod 0 target/closed";
    run(&container, poison).await;
    let report = reset(&container, true, &armed).await?;
    assert_eq!(report.kept.len(), 2);
    assert_eq!(dropped(&report.tree.unwrap()), ["secret"]);
    assert!(as_root(&container, LOOK).await.contains("closed/secret"));
    // What the pool does before it lends the container to another workspace.
    assert_eq!(container.keeper().reset().await?, armed);
    assert_eq!(as_root(&container, LOOK).await, "");
    container.put(tree(&[(".gitignore", b"target/\n"), ("mine", b"x")])).await?;
    assert_eq!(
        run(&container, "find . -mindepth 1 | LC_ALL=C sort").await,
        "./.gitignore\n./mine\n"
    );
    Ok(())
}
