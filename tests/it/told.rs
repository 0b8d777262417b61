//! What a caller is told when something goes wrong after Codex has ended, or before it began.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use mcp_codex_orchestrator::model::scripted::{Script, Step};
use mcp_codex_orchestrator::workspace::WorkspaceKey;
use mcp_codex_orchestrator::workspace::lock::{self, WorkspaceLock};
use serde_json::json;

use crate::need_engine;
use crate::support::{Options, Server, await_answer, requests, tree};

fn writing() -> Script {
    Script::always(vec![
        Step::run("echo new > new.txt"),
        Step::Wait(1000),
        Step::Say("Done.".into()),
    ])
}

fn state(server: &Server) -> PathBuf {
    server.home.path().join("state/mcp-codex-orchestrator")
}

/// As a call that applies for long.
fn lock(server: &Server) -> WorkspaceLock {
    let found = std::fs::metadata(&server.workspace).unwrap();
    let key = WorkspaceKey { dev: found.dev(), ino: found.ino() };
    lock::exclusive(&state(server), key, Duration::from_secs(10)).unwrap()
}

fn only_result(server: &Server) -> serde_json::Value {
    let run = std::fs::read_dir(server.runs()).unwrap().next().unwrap().unwrap().path();
    serde_json::from_slice(&std::fs::read(run.join("result.json")).unwrap()).unwrap()
}

#[tokio::test]
async fn changes_that_could_not_be_applied_are_in_the_result_and_can_be_applied_later() {
    need_engine!();
    let mut server = Server::start(writing(), Options::default()).await;
    server.ready().await;
    let before = tree(&server.workspace);
    let (_, answer) = server.begin_call("codex_run", json!({"prompt": "write"})).await;
    requests(&server, 2).await;
    let locks = state(&server).join("locks");
    std::fs::remove_dir_all(&locks).unwrap();
    std::fs::write(&locks, "in the way").unwrap();
    let answer = await_answer(answer, server.home.path()).await;
    let result = answer["result"]["structuredContent"].clone();
    assert_eq!(result["success"], false, "{result}");
    assert_eq!(result["error_kind"], "apply_failed");
    assert_eq!(result["exit_code"], 0);
    assert_eq!(result["changes_state"], "held");
    assert_eq!(result["changes"][0]["path"], "new.txt");
    assert_eq!(result["files_changed"], json!([]));
    let text = answer["result"]["content"][0]["text"].as_str().unwrap();
    assert!(text.contains("codex_run_apply"), "{text}");
    assert_eq!(tree(&server.workspace), before);

    std::fs::remove_file(&locks).unwrap();
    let report = server.call("codex_run_apply", json!({"run_id": result["run_id"]})).await;
    assert_eq!(report["changes_state"], "applied", "{report}");
    assert_eq!(server.read("new.txt"), "new\n");
    server.stop().await;
}

#[tokio::test]
async fn cancelled_after_codex_has_ended_nothing_is_applied() {
    need_engine!();
    let mut server = Server::start(writing(), Options::default()).await;
    server.ready().await;
    let (id, _answer) = server.begin_call("codex_run", json!({"prompt": "write"})).await;
    requests(&server, 2).await;
    let before = tree(&server.workspace);
    let other = lock(&server);
    server.stage("Applying").await;
    server
        .send(&json!({"jsonrpc": "2.0", "method": "notifications/cancelled",
                      "params": {"requestId": id}}))
        .await;
    let run = crate::cancel::await_record(&server).await;
    drop(other);
    assert_eq!(run["status"], "cancelled", "{run}");
    assert_eq!(run["exit_code"], -2);
    assert_eq!(run["changes_state"], "held");
    assert_eq!(tree(&server.workspace), before);
    server.stop().await;
}

#[tokio::test]
async fn cancelled_while_the_workspace_is_sent_it_ends_at_once() {
    need_engine!();
    let mut server = Server::start(writing(), Options::default()).await;
    server.ready().await;
    let other = lock(&server);
    let (id, _answer) = server.begin_call("codex_run", json!({"prompt": "write"})).await;
    server.stage("Sending").await;
    server
        .send(&json!({"jsonrpc": "2.0", "method": "notifications/cancelled",
                      "params": {"requestId": id}}))
        .await;
    let run = crate::cancel::await_record(&server).await;
    assert_eq!(run["status"], "cancelled", "{run}");
    assert_eq!(run["exit_code"], -2);
    assert_eq!(run["changes_state"], "none");
    assert!(!run["error"].as_str().unwrap().contains("held"), "{run}");
    drop(other);
    let status = server.ready().await;
    assert_eq!(status["destroyed"]["cancelled"], 1, "{status}");
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_goes_while_runs_are_sent_and_in_line_is_not_waited_for() {
    need_engine!();
    let options = Options::default().set("pool", "max_size = 1");
    let mut server = Server::start(writing(), options).await;
    server.ready().await;
    let _other = lock(&server);
    let (_, first) = server.begin_call("codex_run", json!({"prompt": "write"})).await;
    server.stage("Sending").await;
    let (_, second) = server.begin_call("codex_run", json!({"prompt": "wait"})).await;
    server.stage("Waiting").await;
    server.close();
    let took = server.ended().await;
    assert!(took < Duration::from_secs(2), "the server took {took:?} to end");
    for answer in [first, second] {
        let answer = await_answer(answer, server.home.path()).await;
        assert_eq!(answer["result"]["structuredContent"]["status"], "cancelled", "{answer}");
    }
    server.check_nothing_left().await;
}

#[tokio::test]
async fn a_client_that_goes_while_much_is_collected_is_not_waited_for() {
    need_engine!();
    let script = Script::always(vec![
        Step::run("truncate -s 900M big; truncate -s 900M bigger"),
        Step::Say("Done.".into()),
    ]);
    let mut server = Server::start(script, Options::default()).await;
    server.ready().await;
    let (_, answer) = server.begin_call("codex_run", json!({"prompt": "write"})).await;
    server.stage("Collecting").await;
    server.close();
    let took = server.ended().await;
    assert!(took < Duration::from_secs(2), "the server took {took:?} to end");
    let answer = await_answer(answer, server.home.path()).await;
    assert_eq!(answer["result"]["structuredContent"]["status"], "cancelled", "{answer}");
    assert_eq!(only_result(&server)["status"], "cancelled");
    server.check_nothing_left().await;
}

#[tokio::test]
async fn a_client_that_goes_while_a_run_waits_to_apply_is_not_waited_for() {
    need_engine!();
    let mut server = Server::start(writing(), Options::default()).await;
    server.ready().await;
    let (_, _answer) = server.begin_call("codex_run", json!({"prompt": "write"})).await;
    requests(&server, 2).await;
    let _other = lock(&server);
    server.stage("Applying").await;
    server.close();
    let took = server.ended().await;
    assert!(took < Duration::from_secs(2), "the server took {took:?} to end");
    assert_eq!(only_result(&server)["status"], "cancelled");
    server.check_nothing_left().await;
}

#[tokio::test]
async fn a_working_dir_that_stays_home_is_named() {
    need_engine!();
    let mut server = Server::start(writing(), Options::default()).await;
    std::fs::create_dir_all(server.workspace.join("target/debug")).unwrap();
    server.write("target/debug/x", "built\n");
    let result =
        server.call("codex_run", json!({"prompt": "write", "working_dir": "target/debug"})).await;
    assert_eq!(result["error_kind"], "invalid_argument", "{result}");
    assert_eq!(result["exit_code"], -3);
    assert!(result["error"].as_str().unwrap().contains("working_dir target/debug"), "{result}");
    // What is wrong with the call alone is told before there is a run.
    let long = "x".repeat(200 * 1024);
    let result =
        server.call("codex_run", json!({"prompt": "write", "env_vars": {"LONG": long}})).await;
    assert_eq!(result["error_kind"], "invalid_argument", "{result}");
    assert!(result["run_id"].is_null(), "{result}");
    server.ready().await;
    server.stop().await;
}
