//! Idle containers that hold a workspace ahead of the calls.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mcp_codex_orchestrator::model::scripted::{Script, Step};
use mcp_codex_orchestrator::workspace::{WorkspaceKey, lock};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::need_engine;
use crate::support::{Options, PATIENCE, Server, await_answer, docker, make_workspace};

const FILLED: &str = "a container was filled";

fn options() -> Options {
    Options::default().set("server", r#"log = "info,mcp_codex_orchestrator::job::warm=debug""#)
}

/// Waits until the log says `words` so many times.
async fn logged(server: &Server, words: &str, times: usize) {
    let began = Instant::now();
    while server.log().matches(words).count() < times {
        assert!(began.elapsed() < PATIENCE, "not {times} times {words:?}\n{}", server.log());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until the pool's status is as `wanted` says.
async fn status(server: &mut Server, wanted: impl Fn(&Value) -> bool) -> Value {
    let began = Instant::now();
    loop {
        let status = server.call("codex_pool_status", json!({})).await;
        if wanted(&status) {
            return status;
        }
        assert!(began.elapsed() < PATIENCE, "{status}\n{}", server.log());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What each run does: copies what it sees of `note.txt` to a file that is named as its prompt.
fn copying() -> Script {
    let look = "cat note.txt d00/f0 > one.txt; ls d59 | wc -l >> one.txt";
    let script = Script::builtin().with("look", vec![Step::run(look), Step::Say("done".into())]);
    ["one", "two"].into_iter().fold(script, |script, name| {
        let command = format!("cat note.txt > {name}.txt; ls > {name}.list");
        script.with(name, vec![Step::run(&command), Step::Say("done".into())])
    })
}

/// A directory with so many small files that sending it takes a while.
fn make_large(path: &Path) {
    for directory in 0..60 {
        let directory = path.join(format!("d{directory:02}"));
        fs::create_dir_all(&directory).unwrap();
        for file in 0..250 {
            fs::write(directory.join(format!("f{file}")), format!("{file}\n").repeat(40)).unwrap();
        }
    }
    fs::write(path.join("note.txt"), "before\n").unwrap();
}

/// A server that begins to fill its only container with a large workspace, and the path of another
/// workspace that is allowed.
async fn filling_a_large_one(options: Options) -> (Server, PathBuf) {
    let home = TempDir::new().unwrap();
    let (large, other) = (home.path().join("large"), home.path().join("other"));
    make_large(&large);
    make_workspace(&other);
    fs::write(other.join("note.txt"), "of the other\n").unwrap();
    let options = options.set("workspace", format!("allowed = [{other:?}]"));
    let mut server = Server::start_in(copying(), options, home, large).await;
    status(&mut server, |status| status["preparing"] == 1).await;
    (server, other)
}

#[tokio::test]
async fn the_default_workspace_is_in_a_container_before_the_first_call() {
    need_engine!();
    let mut server = Server::start(copying(), options()).await;
    server.write("note.txt", "hello\n");
    logged(&server, FILLED, 1).await;
    let result = server.run("one").await;
    assert_eq!(result["sent"]["full"], false, "{result}\n{}", server.log());
    assert_eq!(server.read("one.txt"), "hello\n");
    server.stop().await;
}

#[tokio::test]
async fn a_second_call_at_the_same_time_sends_a_difference_too() {
    need_engine!();
    let mut server = Server::start(copying(), options().set("pool", "min_idle = 2")).await;
    server.write("note.txt", "hello\n");
    server.ready().await;
    let result = server.run("one").await;
    assert_eq!(result["success"], true, "{result}\n{}", server.log());
    // The one that ran it is brought up to date, and another one is filled, before any call.
    logged(&server, FILLED, 3).await;
    let idle = |status: &Value| status["idle"].as_u64() > Some(1) && status["preparing"] == 0;
    status(&mut server, idle).await;
    let (_, one) = server.begin_call("codex_run", json!({"prompt": "one"})).await;
    let (_, two) = server.begin_call("codex_run", json!({"prompt": "two"})).await;
    for answer in [one, two] {
        let answer = await_answer(answer, server.home.path()).await;
        let result = &answer["result"]["structuredContent"];
        assert_eq!(result["sent"]["full"], false, "{result}\n{}", server.log());
        assert_eq!(result["success"], true, "{result}");
    }
    assert_eq!(server.read("two.txt"), "hello\n");
    server.stop().await;
}

#[tokio::test]
async fn an_edit_is_in_the_container_before_the_next_call_and_nothing_happens_without_one() {
    need_engine!();
    let options = options().set("pool", "max_size = 1");
    let mut server = Server::start(copying(), options).await;
    logged(&server, FILLED, 1).await;
    server.write("note.txt", "edited\n");
    fs::create_dir(server.workspace.join("new")).unwrap();
    server.write("new/file", "deep\n");
    logged(&server, FILLED, 2).await;
    // What we read ourselves is no change: nothing is filled again, for longer than the longest wait.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(server.log().matches(FILLED).count(), 2, "{}", server.log());
    let result = server.run("one").await;
    assert_eq!(result["sent"], json!({"files": 0, "bytes": 0, "full": false}), "{result}");
    assert_eq!(server.read("one.txt"), "edited\n");
    // What the run itself changed, too.
    logged(&server, FILLED, 3).await;
    let result = server.run("two").await;
    assert_eq!(result["sent"], json!({"files": 0, "bytes": 0, "full": false}), "{result}");
    assert!(server.read("two.list").contains("one.txt"));
    server.stop().await;
}

#[tokio::test]
async fn a_call_for_another_workspace_does_not_wait_for_a_long_filling() {
    need_engine!();
    let (mut server, other) = filling_a_large_one(options().set("pool", "max_size = 1")).await;
    let result = server.call("codex_run", json!({"prompt": "one", "repo": other})).await;
    assert_eq!(result["success"], true, "{result}\n{}", server.log());
    assert!(server.log().contains("filling was given up"), "{}", server.log());
    assert_eq!(server.log().matches(FILLED).count(), 0, "{}", server.log());
    assert_eq!(fs::read_to_string(other.join("one.txt")).unwrap(), "of the other\n");
    // Nothing of the one is where the other is.
    let seen = fs::read_to_string(other.join("one.list")).unwrap();
    assert_eq!(seen, "README.md\nnote.txt\none.list\none.txt\nsrc\n");
    let status = server.call("codex_pool_status", json!({})).await;
    assert_eq!(status["destroyed"], json!({}), "{status}");
    server.stop().await;
}

#[tokio::test]
async fn a_workspace_that_is_edited_while_it_is_sent_arrives_as_it_is() {
    need_engine!();
    let (mut server, _) = filling_a_large_one(options().set("pool", "max_size = 1")).await;
    server.write("note.txt", "after\n");
    server.write("d00/f0", "after\n");
    fs::remove_file(server.workspace.join("d59/f0")).unwrap();
    let result = server.run("look").await;
    assert_eq!(result["success"], true, "{result}\n{}", server.log());
    assert_eq!(result["sent"]["full"], false, "{result}\n{}", server.log());
    assert_eq!(server.read("one.txt"), "after\nafter\n249\n");
    server.stop().await;
}

/// The key under which a workspace is locked.
fn key(workspace: &Path) -> WorkspaceKey {
    let stat = fs::metadata(workspace).unwrap();
    WorkspaceKey { dev: stat.dev(), ino: stat.ino() }
}

#[tokio::test]
async fn a_workspace_that_others_write_is_filled_when_they_are_done_and_not_asked_for_meanwhile() {
    need_engine!();
    let home = TempDir::new().unwrap();
    let workspace = home.path().join("project");
    make_workspace(&workspace);
    let state = home.path().join("state/mcp-codex-orchestrator");
    let others = lock::exclusive(&state, key(&workspace), Duration::ZERO).unwrap();
    let options = options().set("pool", "max_size = 1");
    let mut server = Server::start_in(copying(), options, home, workspace).await;
    logged(&server, "the workspace is in use", 1).await;
    // Longer than any wait that would end by itself.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let log = server.log();
    assert_eq!(log.matches("the workspace is in use").count(), 1, "{log}");
    assert_eq!(log.matches(FILLED).count(), 0, "{log}");
    drop(others);
    logged(&server, FILLED, 1).await;
    server.write("note.txt", "hello\n");
    let result = server.run("one").await;
    assert_eq!(result["sent"]["full"], false, "{result}\n{}", server.log());
    assert_eq!(server.read("one.txt"), "hello\n");
    server.stop().await;
}

#[tokio::test]
async fn of_a_workspace_that_was_replaced_nothing_is_where_the_new_one_is() {
    need_engine!();
    let options = options().set("pool", "max_size = 1");
    let mut server = Server::start(copying(), options).await;
    server.write("secret.txt", "of the old one\n");
    server.write("note.txt", "old\n");
    logged(&server, FILLED, 1).await;
    server.ready().await;

    // Moved away, and another directory in its place: both change, and each event names the path.
    let (here, away) = (server.workspace.clone(), server.home.path().join("away"));
    fs::rename(&here, &away).unwrap();
    make_workspace(&here);
    fs::write(here.join("note.txt"), "new\n").unwrap();
    fs::write(away.join("src/lib.rs"), "// edited where it is now\n").unwrap();
    fs::write(away.join("note.txt"), "edited where it is now\n").unwrap();
    // What is filled by that name is not what is elsewhere: it is told, and left to the next call.
    logged(&server, "is another directory by now", 1).await;
    assert_eq!(server.log().matches(FILLED).count(), 1, "{}", server.log());

    let result = server.run("one").await;
    assert_eq!(result["success"], true, "{result}\n{}", server.log());
    assert_eq!(server.read("one.txt"), "new\n");
    assert_eq!(server.read("one.list"), "README.md\nnote.txt\none.list\none.txt\nsrc\n");
    assert_eq!(fs::read_to_string(away.join("note.txt")).unwrap(), "edited where it is now\n");
    assert!(!away.join("one.txt").exists());
    // The new one is known from now on, and kept current.
    logged(&server, FILLED, 2).await;
    server.write("note.txt", "newer\n");
    logged(&server, FILLED, 3).await;
    let result = server.run("two").await;
    assert_eq!(result["sent"], json!({"files": 0, "bytes": 0, "full": false}), "{result}");
    assert_eq!(server.read("two.txt"), "newer\n");
    server.stop().await;
}

#[tokio::test]
async fn a_server_that_is_killed_while_it_fills_leaves_nothing() {
    need_engine!();
    let (mut server, _) = filling_a_large_one(options().set("pool", "max_size = 1")).await;
    server.child.start_kill().unwrap();
    server.child.wait().await.unwrap();
    let began = Instant::now();
    while !docker::containers_of(server.pid).is_empty() {
        assert!(
            began.elapsed() < Duration::from_secs(30),
            "{:?}",
            docker::containers_of(server.pid)
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn with_warm_switched_off_a_workspace_is_read_when_a_run_begins() {
    need_engine!();
    let options = options().set("workspace", "warm = false").set("pool", "max_size = 1");
    let mut server = Server::start(copying(), options).await;
    server.ready().await;
    let result = server.run("one").await;
    assert_eq!(result["sent"]["full"], true, "{result}");
    let after = server.ready().await;
    assert!(after["latency_ms"]["prepare"].is_null(), "{after}");
    assert_eq!(server.log().matches(FILLED).count(), 0);
    server.stop().await;
}
