//! Build state that stays, poisoned: it stays what it was, in the same workspace.

use std::sync::Arc;

use mcp_codex_orchestrator::workspace::WorkspaceKey;
use mcp_codex_orchestrator::workspace::held::Held;

use crate::harness::{Armed, Failure, engine_is_there, python};

const TREE: [(&str, &str); 3] = [(".gitignore", "target/\n"), ("src/a", "a"), ("b", "b")];

#[tokio::test(flavor = "multi_thread")]
async fn poisoned_build_state_harms_nothing_but_itself() -> Result<(), Failure> {
    if !engine_is_there() {
        return Ok(());
    }
    let mut armed = Armed::start(true).await;
    armed.put(&TREE).await?;
    let said = armed
        .must(&python(
            "os.makedirs('target/deep'); os.chdir('/app/target')
open('plain', 'w').write('built')
open('setuid', 'w').close(); os.chmod('setuid', 0o6755)
os.symlink('/app/src', 'out'); os.symlink('/home/codex/.codex', 'home'); os.symlink('../../../etc/passwd', 'up')
os.link('/app/src/a', 'hard')
os.mkfifo('fifo'); os.mknod('whiteout', 0o020000, 0); os.mknod('socket', 0o140777)
os.mkdir('closed'); open('closed/file', 'w').close(); os.chmod('closed', 0)
os.setxattr('plain', 'user.left', b'x')
os.chmod('/app', 0o777)
os.makedirs('/app/src/target'); os.symlink('/app/b', '/app/src/target/b')
os.chdir('/app/target/deep')
print('planted')",
        ))
        .await;
    assert!(said.contains("planted"), "{said}");
    armed.reset().await?;
    // The keeper's place for it is closed to programs, and what is run before a tree comes drops it.
    armed.put(&TREE).await?;
    let look = "cd /app; find . -mindepth 1 -printf '%P %y %m %l\\n' 2>/dev/null | LC_ALL=C sort; cat src/a b; stat -c %a .";
    let there = armed.must(look).await;
    assert_eq!(
        there.lines().collect::<Vec<_>>(),
        [
            ".gitignore f 644 ",
            "b f 644 ",
            "src d 755 ",
            "src/a f 644 ",
            "src/target d 755 ",
            "src/target/b l 777 /app/b",
            "target d 755 ",
            "target/closed d 0 ",
            "target/deep d 755 ",
            "target/hard f 644 ",
            "target/home l 777 /home/codex/.codex",
            "target/out l 777 /app/src",
            "target/plain f 644 ",
            "target/setuid f 6755 ",
            "target/up l 777 ../../../etc/passwd",
            "ab755",
        ],
        "{there}"
    );
    // What is written through the hard link is not the tree's file any more.
    assert_eq!(armed.must("echo evil > target/hard; cat src/a").await, "a");
    armed.reset().await?;
    // A program that runs before the next tree is of nobody knows which workspace.
    assert_eq!(armed.must("find /app -mindepth 1").await, "");
    armed.reset().await?;
    armed.must_be_as_armed("poisoned build state");
    // A tree that goes down too far, and a directory that became a link, do not stay.
    armed.put(&TREE).await?;
    armed
        .must(&python(
            "os.makedirs('/app/target'); os.chdir('/app/target')
for i in range(5000): os.mkdir('d'); os.chdir('d')
os.mkdir('/app/src/target'); os.rmdir('/app/src/target'); os.symlink('/app/target', '/app/src/target')",
        ))
        .await;
    armed.reset().await?;
    armed.must_be_as_armed("a deep tree of build state");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poisoned_tree_keeps_what_was_not_touched_and_then_nothing() -> Result<(), Failure> {
    if !engine_is_there() {
        return Ok(());
    }
    let mut armed = Armed::start(false).await;
    let tree = armed.put(&[("d/a", "a"), ("d/b", "b"), ("e/a", "a"), ("f", "f")]).await?;
    let key = WorkspaceKey { dev: 1, ino: 1 };
    armed.container.set_held(Some(Held::new(key, tree, Arc::default())));
    armed
        .must(&python(
            "os.link('/app/d/a', '/app/e/second'); os.setxattr('/app/e', 'user.left', b'x')
open('/app/f', 'w').write('evil'); os.mkfifo('/app/d/fifo'); os.mkdir('/app/target')
open('/home/codex/left', 'w').close(); open('/tmp/left', 'w').close()
os.chdir('/app/d')
for i in range(3000): os.mkdir('n'); os.chdir('n')
print('planted')",
        ))
        .await;
    armed.reset().await?;
    let held = armed.container.held().unwrap();
    assert!(held.tree > tree);
    let dropped: Vec<String> = held.dropped.iter().map(ToString::to_string).collect();
    assert_eq!(dropped, ["d/a", "e", "e/a", "f"]);
    let left = armed.as_root("cd /app; find . -mindepth 1 | LC_ALL=C sort; ls -A /home/codex /tmp");
    assert!(left.starts_with("./d\n./d/b\n/home/codex:\n.codex\n"), "{left}");
    assert!(!left.contains("left"), "{left}");
    // The next workspace's container is as it was armed.
    armed.container.set_held(None);
    armed.reset().await?;
    armed.must_be_as_armed("a tree that stayed");
    Ok(())
}
