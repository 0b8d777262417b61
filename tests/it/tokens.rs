//! The gateway's part in a run: `run.max_tokens`, and what is told of refusals.

use mcp_codex_orchestrator::model::scripted::{Script, Step};

use crate::need_engine;
use crate::support::{Options, Server, tree};

#[tokio::test]
async fn a_runaway_is_ended_and_what_it_changed_is_held() {
    need_engine!();
    // Each answer costs 1,234 tokens.
    let script = Script::always(vec![
        Step::run("echo early > early.txt"),
        Step::run("sleep 600"),
        Step::Say("never".into()),
    ]);
    let options = Options::default().set("run", "max_tokens = 2000");
    let mut server = Server::start(script, options).await;
    server.ready().await;
    let before = tree(&server.workspace);
    let result = server.run("run away").await;
    assert_eq!(result["status"], "failed", "{result}");
    assert_eq!(result["error_kind"], "codex_failed");
    assert_eq!(result["retryable"], false);
    let error = result["error"].as_str().unwrap();
    assert!(
        error.starts_with("the run was ended after about 2468 tokens, over run.max_tokens (2000)"),
        "{error}"
    );
    assert!(error.contains("codex_run_diff"), "{error}");
    assert_eq!(result["changes_state"], "held");
    assert_eq!(result["changes"][0]["path"], "early.txt");
    assert_eq!(tree(&server.workspace), before);
    server.stop().await;
}

#[tokio::test]
async fn what_the_gateway_refused_is_in_the_result() {
    need_engine!();
    let ask = "bash -c 'exec 3<>/dev/tcp/127.0.0.1/8787; printf \"GET /v1/files HTTP/1.1\\r\\n\
               host: x\\r\\nconnection: close\\r\\n\\r\\n\" >&3; cat <&3 > answer.txt'";
    let script = Script::always(vec![Step::run(ask), Step::Say("Done.".into())]);
    let mut server = Server::start(script, Options::default()).await;
    server.ready().await;
    let result = server.run("look around").await;
    assert_eq!(result["success"], true, "{result}");
    let notes = result["notes"].to_string();
    assert!(notes.contains("model access: GET /v1/files is refused"), "{result}");
    assert!(server.read("answer.txt").starts_with("HTTP/1.1 403"));
    server.stop().await;
}
