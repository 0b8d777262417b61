//! A run whose server was killed: what there is of it can be looked at, applied and taken back.

use std::fs;
use std::path::Path;

use mcp_codex_orchestrator::model::scripted::{Script, Step};
use serde_json::json;

use crate::need_engine;
use crate::support::{Options, Server, cli, requests, tree};

fn only_run(runs: &Path) -> String {
    let mut names = fs::read_dir(runs).unwrap().flatten().map(|entry| entry.file_name());
    names.next().unwrap().into_string().unwrap()
}

/// One container, so that none is being made when the server is killed, which only a later sweep
/// would find.
fn options() -> Options {
    Options::default().set("pool", "max_size = 1")
}

/// Kills a server as a crash does, and starts another one with the same home.
async fn killed(mut server: Server, script: Script) -> Server {
    server.child.kill().await.unwrap();
    let Server { home, workspace, .. } = server;
    Server::start_in(script, options(), home, workspace).await
}

#[tokio::test]
async fn a_run_goes_on_as_long_as_its_server_lives_and_then_has_a_result() {
    need_engine!();
    let script = || {
        Script::always(vec![
            Step::run("echo theirs > src/lib.rs"),
            Step::Wait(600_000),
            Step::Say("Done.".into()),
        ])
    };
    let mut server = Server::start(script(), options()).await;
    let before = tree(&server.workspace);
    let _answer = server.begin_call("codex_run", json!({"prompt": "edit"})).await;
    requests(&server, 2).await;
    let run_id = only_run(&server.runs());
    for tool in ["codex_run_diff", "codex_run_apply", "codex_run_undo"] {
        let refused = server.call(tool, json!({"run_id": run_id})).await;
        assert_eq!(refused["error_kind"], "invalid_argument", "{refused}");
        assert!(refused["error"].as_str().unwrap().contains("has not ended; wait"), "{refused}");
    }
    let mut server = killed(server, script()).await;
    let shown = cli(server.home.path(), &["runs", "show", "latest", "--json"]);
    assert!(shown.status.success(), "{shown:?}");
    let result: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!((&result["status"], &result["error_kind"]), (&json!("failed"), &json!("internal")));
    assert_eq!(result["changes_state"], "none");
    let error = result["error"].as_str().unwrap();
    assert!(error.starts_with("the server ended before the run had a result"), "{error}");
    let refused = server.call("codex_run_undo", json!({"run_id": run_id})).await;
    assert_eq!(refused["error_kind"], "invalid_argument", "{refused}");
    assert_eq!(tree(&server.workspace), before);
    server.ready().await;
    server.stop().await;
}

#[tokio::test]
async fn what_a_killed_server_had_collected_is_applied_and_taken_back_later() {
    need_engine!();
    let script = || {
        Script::always(vec![
            Step::run("echo theirs > src/lib.rs; echo n > n"),
            Step::Say("Done.".into()),
        ])
    };
    let mut server = Server::start(script(), options()).await;
    let before = tree(&server.workspace);
    let result = server.call("codex_run", json!({"prompt": "p", "mode": "suggest"})).await;
    assert_eq!(result["changes_state"], "held", "{result}\n{}", server.log());
    let run_id = result["run_id"].as_str().unwrap().to_owned();
    let folder = server.runs().join(&run_id);
    // As it is if the kill came after the changes were kept and before the diff was written.
    for file in ["result.json", "diff.patch"] {
        fs::remove_file(folder.join(file)).unwrap();
    }
    let mut server = killed(server, script()).await;
    let page = server.call("codex_run_diff", json!({"run_id": run_id})).await;
    assert!(page["diff"].as_str().unwrap().contains("+theirs"), "{page}");
    let result: serde_json::Value =
        serde_json::from_slice(&fs::read(folder.join("result.json")).unwrap()).unwrap();
    assert_eq!(result["changes_state"], "held", "{result}");
    let applied = server.call("codex_run_apply", json!({"run_id": run_id})).await;
    assert_eq!(applied["files_changed"], json!(["n", "src/lib.rs"]), "{applied}");
    assert_eq!(server.read("src/lib.rs"), "theirs\n");
    fs::remove_file(folder.join("result.json")).unwrap();
    server.ready().await;
    let mut server = killed(server, script()).await;
    let undone = server.call("codex_run_undo", json!({"run_id": run_id})).await;
    assert_eq!(undone["changes_state"], "held", "{undone}");
    assert_eq!(tree(&server.workspace), before);
    server.ready().await;
    server.stop().await;
}
