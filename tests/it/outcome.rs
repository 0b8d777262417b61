//! The truth about how a run ended.

use std::time::{Duration, Instant};

use mcp_codex_orchestrator::model::scripted::{Fault, Script, Step};
use serde_json::json;

use crate::need_engine;
use crate::support::{Options, Server, tree};

fn short_timeouts() -> Options {
    Options::default().set("run", "min_timeout = \"1s\"")
}

#[tokio::test]
async fn the_timeout_fires_on_a_silent_process_and_holds_what_had_changed() {
    need_engine!();
    let script = Script::always(vec![
        Step::run("echo early > early.txt; setsid sleep 600 & sleep 600"),
        Step::Say("never".into()),
    ]);
    let mut server = Server::start(script, short_timeouts()).await;
    server.ready().await;
    let before = tree(&server.workspace);
    let began = Instant::now();
    let result = server.call("codex_run", json!({"prompt": "hang", "timeout": 4})).await;
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    assert_eq!(result["success"], false);
    assert_eq!(result["status"], "timed_out", "{result}");
    assert_eq!(result["exit_code"], -1);
    assert_eq!(result["error_kind"], "timed_out");
    assert!(result["error"].as_str().unwrap().starts_with("Execution timeout"));
    assert!(result["output"].as_str().unwrap().starts_with("Timeout exceeded"));
    assert_eq!(result["changes_state"], "held");
    assert_eq!(result["changes"][0]["path"], "early.txt");
    assert_eq!(tree(&server.workspace), before);
    // Its container is not used again.
    let status = server.ready().await;
    assert_eq!(status["destroyed"]["timed_out"], 1, "{status}");
    server.stop().await;
}

#[tokio::test]
async fn a_model_that_never_answers_ends_with_the_timeout() {
    need_engine!();
    let stall = Fault { stall: true, ..Fault::default() };
    let script = Script::always(vec![Step::Fault(stall)]);
    let mut server = Server::start(script, short_timeouts()).await;
    let result = server.call("codex_run", json!({"prompt": "wait", "timeout": 3})).await;
    assert_eq!(result["status"], "timed_out", "{result}");
    assert_eq!(result["changes_state"], "none");
    assert!(result["error"].as_str().unwrap().ends_with("Codex had changed nothing"), "{result}");
    server.stop().await;
}

#[tokio::test]
async fn a_refusal_of_the_provider_is_told_in_its_own_words() {
    need_engine!();
    let fault = Fault {
        status: Some(400),
        message: Some("this model cannot do that".into()),
        ..Fault::default()
    };
    let script = Script::always(vec![Step::Fault(fault)]);
    let mut server = Server::start(script, Options::default()).await;
    let result = server.run("ask").await;
    assert_eq!(result["success"], false);
    assert_eq!(result["error_kind"], "codex_failed", "{result}");
    assert!(result["error"].as_str().unwrap().contains("this model cannot do that"), "{result}");
    assert_eq!(result["exit_code"], 1);
    // A run that failed by itself leaves a container that can be reset.
    let status = server.ready().await;
    assert!(status["destroyed"].as_object().unwrap().is_empty(), "{status}");
    server.stop().await;
}

#[tokio::test]
async fn a_container_killed_during_a_run_is_container_lost() {
    need_engine!();
    let script = Script::always(vec![Step::run("sleep 600"), Step::Say("never".into())]);
    let mut server = Server::start(script, Options::default()).await;
    server.ready().await;
    let before = tree(&server.workspace);
    let (_, answer) = server.begin_call("codex_run", json!({"prompt": "hang"})).await;
    crate::support::requests(&server, 1).await;
    let containers = crate::support::docker::containers_of(server.pid);
    for container in &containers {
        let id = container.split_whitespace().next().unwrap();
        let killed = std::process::Command::new("docker").args(["kill", id]).output().unwrap();
        assert!(killed.status.success(), "{killed:?}");
    }
    let answer = crate::support::await_answer(answer, server.home.path()).await;
    let result = &answer["result"]["structuredContent"];
    assert_eq!(result["error_kind"], "container_lost", "{result}");
    assert_eq!(result["retryable"], true);
    assert_eq!(tree(&server.workspace), before);
    // The pool recovers by itself.
    server.ready().await;
    server.stop().await;
}

#[tokio::test]
async fn a_container_killed_while_the_workspace_is_sent_is_lost_and_no_file_is_touched() {
    need_engine!();
    let options = Options::default()
        .set("pool", "min_idle = 1\nmax_size = 1")
        .set("workspace", "warm = false");
    let script = Script::always(vec![Step::Say("Done.".into())]);
    let mut server = Server::start(script, options).await;
    // Takes seconds to send, and no room here.
    let large = std::fs::File::create(server.workspace.join("large")).unwrap();
    large.set_len(1 << 30).unwrap();
    server.ready().await;
    let of = crate::support::docker::containers_of(server.pid).remove(0);
    let container = of.split_whitespace().next().unwrap();
    let (_, answer) = server.begin_call("codex_run", json!({"prompt": "work"})).await;
    server.stage("Sending the workspace").await;
    crate::support::docker::docker(&["kill", container]).unwrap();
    let answer = crate::support::await_answer(answer, server.home.path()).await;
    let result = &answer["result"]["structuredContent"];
    assert_eq!(result["error_kind"], "container_lost", "{result}\n{}", server.log());
    assert_eq!(result["status"], "failed", "{result}");
    assert_eq!(result["retryable"], true, "{result}");
    assert_eq!(result["changes_state"], "none", "{result}");
    assert_eq!(result["container_id"], container, "{result}");
    assert!(result["sent"].is_null(), "it was sent before: {result}");
    let error = result["error"].as_str().unwrap();
    assert!(error.ends_with("the workspace is unchanged, run it again"), "{error}");
    assert!(error.contains("from outside"), "{error}");
    // Codex was never asked for anything.
    assert_eq!(server.model.as_ref().unwrap().requests().len(), 0);
    drop(large);
    std::fs::remove_file(server.workspace.join("large")).unwrap();
    assert_eq!(crate::support::git(&server.workspace, &["status", "--porcelain"]), "");
    let status = server.ready().await;
    assert_eq!(status["destroyed"], json!({"lost": 1}), "{status}");
    let result = server.run("again").await;
    assert_eq!(result["success"], true, "{result}\n{}", server.log());
    server.stop().await;
}

#[tokio::test]
async fn a_run_that_eats_the_memory_is_told_so_and_its_container_is_destroyed() {
    need_engine!();
    // If the kernel kills the eater only, Codex goes on; here it takes Codex along.
    let eat = "python3 -c 'x = bytearray(2_000_000_000); print(len(x))'";
    let script = Script::always(vec![
        Step::run(format!("{eat}; if [ -e both ]; then pkill -9 codex; fi")),
        Step::Say("done".into()),
    ]);
    let options = Options::default().set("container", "memory = \"768MiB\"");
    let mut server = Server::start(script, options).await;
    let result = server.run("eat").await;
    assert_eq!(result["success"], true, "{result}\n{}", server.log());
    let told = result["notes"].as_array().is_some_and(|notes| {
        notes.iter().any(|note| note.as_str().unwrap().contains("killed at the memory limit"))
    });
    assert!(told, "{result}");
    let status = server.ready().await;
    assert_eq!(status["destroyed"]["out_of_memory"], 1, "{status}\n{}", server.log());
    server.write("both", "");
    let before = tree(&server.workspace);
    let result = server.run("eat").await;
    assert_eq!(result["error_kind"], "out_of_memory", "{result}\n{}", server.log());
    assert_eq!(result["status"], "failed", "{result}");
    let error = result["error"].as_str().unwrap();
    assert!(error.contains("container.memory"), "{error}");
    assert_eq!(tree(&server.workspace), before);
    let status = server.ready().await;
    assert_eq!(status["destroyed"], json!({"out_of_memory": 2}), "{status}\n{}", server.log());
    server.stop().await;
}

#[tokio::test]
async fn a_codex_without_its_tools_is_unusable_not_a_success() {
    need_engine!();
    // Exit code 0 and `turn.completed`, though every tool call failed: judged from a recorded run.
    use mcp_codex_orchestrator::codex::exec::{self, CodexRun, Output, Source};
    use mcp_codex_orchestrator::codex::{log::LimitedLog, outcome::judge};
    use mcp_codex_orchestrator::failure::ErrorKind;
    use mcp_codex_orchestrator::keeper::wire::ExitReport;

    struct Recorded(std::collections::VecDeque<Output>);
    impl Source for Recorded {
        type Error = ();
        async fn next(&mut self) -> Result<Output, ()> {
            self.0.pop_front().ok_or(())
        }
    }
    let exit = ExitReport {
        nonce: "n".into(),
        code: Some(0),
        signal: None,
        out_of_memory: false,
        disk_full: None,
        dropped_bytes: 0,
    };
    let lines = "{\"type\":\"item.completed\",\"item\":{\"id\":\"0\",\"type\":\"error\",\"message\":\
        \"Code Mode is unavailable because failed to spawn code-mode host /x: not found\"}}\n\
        {\"type\":\"turn.completed\",\"usage\":{\"input_tokens\":1}}\n";
    let mut recorded =
        Recorded([Output::Stdout(lines.into()), Output::Exited(exit)].into_iter().collect());
    let logs = || LimitedLog::new(Vec::new(), 1000);
    let outcome =
        exec::run(&mut recorded, CodexRun::new("n", logs(), logs()), |_| {}).await.unwrap();
    assert_eq!(judge(&outcome).unwrap_err().kind, ErrorKind::CodexUnusable);
}
