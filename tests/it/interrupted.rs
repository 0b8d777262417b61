//! A server that starts finds what a killed one left half applied.

use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use mcp_codex_orchestrator::model::scripted::Script;
use serde_json::json;

use crate::need_engine;
use crate::support::{Options, Server, tree};

#[tokio::test]
async fn what_was_half_applied_is_undone_at_the_next_start() {
    need_engine!();
    let mut server = Server::start(Script::builtin(), Options::default()).await;
    // No container is being made then, which only a later sweep would find.
    server.ready().await;
    server.child.start_kill().unwrap();
    server.child.wait().await.unwrap();
    let before = tree(&server.workspace);
    let Server { home, workspace, .. } = server;

    // As killed after the first of two files was put into its place.
    let found = std::fs::metadata(&workspace).unwrap();
    let file = |path: &str, temp: &str| {
        let hash = blake3::hash(path.as_bytes()).to_string();
        let new = json!({
            "kind": "file", "executable": false, "size": path.len(), "offset": 0, "hash": hash
        });
        json!({"path": path, "staged": temp, "new": new})
    };
    let plan = json!({
        "version": 1,
        "workspace": workspace,
        "key": {"dev": found.dev(), "ino": found.ino()},
        "run": "0190-killed",
        "folder": home.path().join("gone"),
        "direction": "apply",
        "ops": [file("one", ".codex-x-1.tmp"), file("two", ".codex-x-2.tmp")],
    });
    std::fs::write(workspace.join("one"), "one").unwrap();
    std::fs::write(workspace.join(".codex-x-2.tmp"), "two").unwrap();
    let applies = home.path().join("state/mcp-codex-orchestrator/applies");
    std::fs::create_dir_all(&applies).unwrap();
    let journal = applies.join(format!("{}-{}.json", found.dev(), found.ino()));
    std::fs::write(&journal, format!("{plan}\n\"stepping\"\n")).unwrap();

    let next = Server::start_in(Script::builtin(), Options::default(), home, workspace).await;
    let began = Instant::now();
    while journal.exists() {
        assert!(began.elapsed() < Duration::from_secs(30), "not recovered: {}", next.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(tree(&next.workspace), before);
    assert!(next.log().contains("0190-killed"), "{}", next.log());
    next.stop().await;
}
