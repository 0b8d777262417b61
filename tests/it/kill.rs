//! SIGKILL of the server: the engine closes the keepers' streams, and they end their containers.

use std::time::{Duration, Instant};

use mcp_codex_orchestrator::model::scripted::{Script, Step};
use serde_json::json;

use crate::need_engine;
use crate::support::{Options, Server, docker, requests, tree};

#[tokio::test]
async fn nothing_runs_after_the_server_was_killed() {
    need_engine!();
    let script = Script::always(vec![
        Step::run("echo x > x.txt; setsid nohup sleep 600 & sleep 600"),
        Step::Say("never".into()),
    ]);
    let mut server = Server::start(script, Options::default().set("pool", "min_idle = 2")).await;
    server.ready().await;
    let before = tree(&server.workspace);
    let (_, _answer) = server.begin_call("codex_run", json!({"prompt": "hang"})).await;
    requests(&server, 1).await;
    assert!(!docker::containers_of(server.pid).is_empty());
    server.child.start_kill().unwrap();
    server.child.wait().await.unwrap();
    let began = Instant::now();
    while docker::containers_of(server.pid).iter().any(|line| line.contains("running")) {
        assert!(began.elapsed() < Duration::from_secs(30), "still running");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(tree(&server.workspace), before);

    // The next server of the same user sweeps what is left in any state.
    let pid = server.pid;
    let Server { home, workspace, .. } = server;
    let mut next = Server::start_in(Script::builtin(), Options::default(), home, workspace).await;
    let began = Instant::now();
    while !docker::containers_of(pid).is_empty() {
        assert!(began.elapsed() < Duration::from_secs(30), "not swept: {}", next.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // The killed run has no result, which is how a folder tells that it did not finish.
    for run in std::fs::read_dir(next.runs()).unwrap().flatten() {
        assert!(!run.path().join("result.json").exists());
        std::fs::remove_dir_all(run.path()).unwrap();
    }
    // What a server leaves that is stopped while it makes its first container is another question.
    next.ready().await;
    next.stop().await;
}
