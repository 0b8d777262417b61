//! Cancelling in each phase, and ends of the client.

use std::time::Duration;

use mcp_codex_orchestrator::model::scripted::{Script, Step};
use serde_json::json;

use crate::need_engine;
use crate::support::{Options, Server, requests, tree};

fn hanging() -> Script {
    Script::always(vec![Step::run("echo early > early.txt; sleep 600"), Step::Say("never".into())])
}

#[tokio::test]
async fn cancelled_while_codex_works_everything_ends_and_the_workspace_is_unchanged() {
    need_engine!();
    let mut server = Server::start(hanging(), Options::default()).await;
    server.ready().await;
    let before = tree(&server.workspace);
    let (id, _answer) = server.begin_call("codex_run", json!({"prompt": "hang"})).await;
    requests(&server, 1).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    server
        .send(&json!({"jsonrpc": "2.0", "method": "notifications/cancelled",
                      "params": {"requestId": id, "reason": "test"}}))
        .await;
    let run = await_record(&server).await;
    assert_eq!(run["status"], "cancelled", "{run}");
    assert_eq!(run["exit_code"], -2);
    assert_eq!(run["changes_state"], "held");
    assert_eq!(tree(&server.workspace), before);
    let status = server.ready().await;
    assert_eq!(status["destroyed"]["cancelled"], 1, "{status}");
    server.stop().await;
}

#[tokio::test]
async fn cancelled_while_waiting_for_a_container_leaves_the_line() {
    need_engine!();
    let options = Options::default().set("pool", "max_size = 1");
    let mut server = Server::start(hanging(), options).await;
    server.ready().await;
    let (first, _a) = server.begin_call("codex_run", json!({"prompt": "hang"})).await;
    requests(&server, 1).await;
    let (second, _b) = server.begin_call("codex_run", json!({"prompt": "wait"})).await;
    loop {
        let status = server.call("codex_pool_status", json!({})).await;
        if status["queue"] == 1 {
            break;
        }
    }
    for id in [second, first] {
        server
            .send(&json!({"jsonrpc": "2.0", "method": "notifications/cancelled",
                          "params": {"requestId": id}}))
            .await;
    }
    loop {
        let status = server.call("codex_pool_status", json!({})).await;
        if status["queue"] == 0 && status["leased"] == 0 {
            break;
        }
    }
    server.stop().await;
}

/// Cancels once the run says that it does `stage`, and gives its result.
async fn cancel_at(server: &mut Server, stage: &str) -> serde_json::Value {
    let (id, _answer) = server.begin_call("codex_run", json!({"prompt": "go"})).await;
    server.stage(stage).await;
    server
        .send(&json!({"jsonrpc": "2.0", "method": "notifications/cancelled",
                      "params": {"requestId": id}}))
        .await;
    await_record(server).await
}

#[tokio::test]
async fn cancelled_while_the_workspace_is_sent() {
    need_engine!();
    let mut server = Server::start(hanging(), Options::default()).await;
    let big = std::fs::File::create(server.workspace.join("big")).unwrap();
    big.set_len(1900 << 20).unwrap();
    server.ready().await;
    let run = cancel_at(&mut server, "Sending the workspace").await;
    assert_eq!(run["status"], "cancelled", "{run}");
    assert_eq!(server.model.as_ref().unwrap().requests().len(), 0);
    let status = server.ready().await;
    assert_eq!(status["destroyed"]["cancelled"], 1, "{status}");
    server.stop().await;
}

#[tokio::test]
async fn cancelled_while_the_changes_are_collected() {
    need_engine!();
    let script = Script::always(vec![Step::run("truncate -s 600M big"), Step::Say("made".into())]);
    let mut server = Server::start(script, Options::default()).await;
    server.ready().await;
    let run = cancel_at(&mut server, "Collecting the changes").await;
    assert_eq!(run["status"], "cancelled", "{run}");
    assert!(!server.workspace.join("big").exists());
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_closes_stdin_during_a_run_leaves_nothing() {
    need_engine!();
    let mut server = Server::start(hanging(), Options::default()).await;
    server.ready().await;
    let (_, _answer) = server.begin_call("codex_run", json!({"prompt": "hang"})).await;
    requests(&server, 1).await;
    let took = server.stop().await;
    assert!(took < Duration::from_secs(2), "the server took {took:?} to end");
}

#[tokio::test]
async fn sigterm_ends_the_server_and_its_containers() {
    need_engine!();
    let mut server = Server::start(hanging(), Options::default()).await;
    server.ready().await;
    let (_, _answer) = server.begin_call("codex_run", json!({"prompt": "hang"})).await;
    requests(&server, 1).await;
    let pid = rustix::process::Pid::from_raw(server.pid.cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let began = std::time::Instant::now();
    server.child.wait().await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    server.check_nothing_left().await;
}

#[tokio::test]
async fn progress_begins_at_once_and_always_grows() {
    need_engine!();
    let script =
        Script::always(vec![Step::Wait(500), Step::run("sleep 1"), Step::Say("ok".into())]);
    let mut server = Server::start(script, Options::default()).await;
    let result = server.run("work").await;
    assert_eq!(result["success"], true, "{result}");
    let mut last = -1.0;
    let mut count = 0;
    while let Ok(message) = server.notifications.try_recv() {
        if message["method"] == "notifications/progress" {
            let progress = message["params"]["progress"].as_f64().unwrap();
            assert!(progress > last, "{message}");
            last = progress;
            count += 1;
        }
    }
    assert!(count >= 3, "only {count} notifications");
    server.stop().await;
}

/// Waits for the one run on record to have its result.
pub(crate) async fn await_record(server: &Server) -> serde_json::Value {
    loop {
        for run in std::fs::read_dir(server.runs()).unwrap().flatten() {
            if let Ok(bytes) = std::fs::read(run.path().join("result.json")) {
                return serde_json::from_slice(&bytes).unwrap();
            }
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
