//! `codex_run_apply` with chosen paths, and what it does about conflicts.

use mcp_codex_orchestrator::model::scripted::{Script, Step};
use serde_json::{Value, json};

use crate::need_engine;
use crate::support::{Options, Server, git, paths};

const LINES: &str = "one\ntwo\nthree\nfour\nfive\nsix\nseven\n";

/// A server whose run changes the first and the last line of `text`, of `same` the first, and some
/// more.
async fn start(options: Options) -> Server {
    let command = "sed -i '1s/.*/ONE/' text same; sed -i '7s/.*/SEVEN/' text; rm README.md; \
                   echo n > new.txt; echo o > other.txt";
    let script = Script::always(vec![Step::run(command), Step::Say("Done.".into())]);
    let server = Server::start(script, options).await;
    server.write("text", LINES);
    server.write("same", LINES);
    git(&server.workspace, &["add", "-A"]);
    git(&server.workspace, &["commit", "-q", "-m", "second"]);
    server
}

async fn suggested(server: &mut Server) -> Value {
    let result = server.call("codex_run", json!({"prompt": "p", "mode": "suggest"})).await;
    assert_eq!(result["changes_state"], "held", "{result}\n{}", server.log());
    result["run_id"].clone()
}

#[tokio::test]
async fn chosen_paths_are_applied_and_conflicts_held() {
    need_engine!();
    let mut server = start(Options::default()).await;
    let run_id = suggested(&mut server).await;
    server.write("text", "mine\n");
    server.write("README.md", "mine\n");
    let all = server.call("codex_run_apply", json!({"run_id": run_id})).await;
    assert_eq!(all["files_changed"], json!([]), "{all}");
    assert_eq!(paths(&all["conflicts"]), ["README.md", "text"]);
    let reason = all["conflicts"][0]["reason"].as_str().unwrap();
    assert!(reason.starts_with("deleted by Codex; "), "{reason}");

    let chosen = json!({"run_id": run_id, "paths": ["text", "new.txt"],
                        "on_conflict": "hold_conflicting"});
    let part = server.call("codex_run_apply", chosen.clone()).await;
    assert_eq!(part["files_changed"], json!(["new.txt"]), "{part}");
    assert_eq!(paths(&part["conflicts"]), ["text"]);
    assert_eq!(server.read("text"), "mine\n");
    assert!(!server.workspace.join("other.txt").exists());
    let twice = json!({"run_id": run_id, "paths": ["new.txt"]});
    let twice = server.call("codex_run_apply", twice).await;
    assert_eq!(twice["error_kind"], "invalid_argument", "{twice}");
    assert!(twice["error"].as_str().unwrap().starts_with("new.txt is applied already"));

    let rest = json!({"run_id": run_id, "on_conflict": "hold_conflicting"});
    let rest = server.call("codex_run_apply", rest).await;
    assert_eq!(rest["files_changed"], json!(["other.txt", "same"]), "{rest}");
    assert_eq!(rest["changes_state"], "partly");
    assert_eq!(server.read("README.md"), "mine\n");
    // Settled by the user: what the run began with is there again.
    server.write("text", LINES);
    let last = json!({"run_id": run_id, "on_conflict": "hold_conflicting"});
    let last = server.call("codex_run_apply", last).await;
    assert_eq!(last["files_changed"], json!(["text"]), "{last}");
    server.stop().await;
}

#[tokio::test]
async fn the_setting_lets_a_run_apply_the_rest() {
    need_engine!();
    let script = Script::always(vec![
        Step::run("echo theirs > src/lib.rs; echo n > new.txt"),
        Step::Wait(1500),
        Step::Say("Done.".into()),
    ]);
    let options = Options::default().set("workspace", "on_conflict = \"hold_conflicting\"");
    let mut server = Server::start(script, options).await;
    server.ready().await;
    let (_, answer) = server.begin_call("codex_run", json!({"prompt": "edit"})).await;
    crate::support::requests(&server, 2).await;
    server.write("src/lib.rs", "mine\n");
    let answer = crate::support::await_answer(answer, server.home.path()).await;
    let result = &answer["result"]["structuredContent"];
    assert_eq!(result["changes_state"], "partly", "{result}\n{}", server.log());
    assert_eq!(result["files_changed"], json!(["new.txt"]));
    assert_eq!(paths(&result["conflicts"]), ["src/lib.rs"]);
    assert_eq!(server.read("src/lib.rs"), "mine\n");
    let text = answer["result"]["content"][0]["text"].as_str().unwrap();
    assert!(text.contains("Both versions are safe"), "{text}");
    // A call chooses for itself.
    let strict = json!({"run_id": result["run_id"], "on_conflict": "hold_all"});
    let strict = server.call("codex_run_apply", strict).await;
    assert_eq!(strict["files_changed"], json!([]), "{strict}");
    server.stop().await;
}

#[tokio::test]
async fn text_is_merged_with_markers_where_it_must_be() {
    need_engine!();
    let mut server = start(Options::default()).await;
    let run_id = suggested(&mut server).await;
    let ours = "uno\ntwo\nthree\nfour\nfive\nsix\nseven\n";
    server.write("same", &LINES.replace("seven", "7"));
    server.write("text", ours);
    server.write("README.md", "mine\n");
    let call = json!({"run_id": run_id, "on_conflict": "markers"});
    let report = server.call("codex_run_apply", call.clone()).await;
    assert_eq!(
        report["merged"],
        json!([{"path": "same", "conflicts": 0}, {"path": "text", "conflicts": 1}]),
        "{report}\n{}",
        server.log()
    );
    assert_eq!(report["files_changed"], json!(["new.txt", "other.txt", "same", "text"]));
    assert_eq!(server.read("same"), LINES.replace("one", "ONE").replace("seven", "7"));
    let text = server.read("text");
    assert!(text.starts_with("<<<<<<< workspace\nuno\n=======\nONE\n>>>>>>> codex run "), "{text}");
    assert!(text.ends_with("six\nSEVEN\n"), "{text}");
    assert_eq!(paths(&report["conflicts"]), ["README.md"]);
    let reason = report["conflicts"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("not merged: one side has no file there"), "{reason}");

    let twice = json!({"run_id": run_id, "paths": ["text"], "on_conflict": "markers"});
    let twice = server.call("codex_run_apply", twice).await;
    assert_eq!(twice["error_kind"], "invalid_argument", "{twice}");
    assert_eq!(server.read("text"), text);

    // An undo brings back what the user had, and an apply of that the merge.
    let undone = json!({"run_id": run_id, "paths": ["text"]});
    let undone = server.call("codex_run_undo", undone).await;
    assert_eq!(undone["files_changed"], json!(["text"]), "{undone}");
    assert_eq!(server.read("text"), ours);
    let again = json!({"run_id": run_id, "paths": ["text"]});
    let again = server.call("codex_run_apply", again).await;
    assert_eq!(again["files_changed"], json!(["text"]), "{again}");
    assert_eq!(server.read("text"), text);
    server.stop().await;
}
