//! Changes that are held: proposed, looked at, and applied later; and conflicts.

use mcp_codex_orchestrator::model::scripted::{Script, Step};
use serde_json::json;

use crate::need_engine;
use crate::support::{Options, Server, tree};

fn script() -> Script {
    Script::always(vec![
        Step::run(
            "printf 'pub fn one() -> u32 { 2 }\\n' > src/lib.rs; rm README.md; echo n > new.txt",
        ),
        Step::Say("I propose this.".into()),
    ])
}

#[tokio::test]
async fn suggest_changes_nothing_until_it_is_applied() {
    need_engine!();
    let mut server = Server::start(script(), Options::default()).await;
    let before = tree(&server.workspace);
    let result = server.call("codex_run", json!({"prompt": "propose", "mode": "suggest"})).await;
    assert_eq!(result["success"], true, "{result}\n{}", server.log());
    assert_eq!(result["changes_state"], "held");
    assert_eq!(result["files_changed"], json!(["README.md", "new.txt", "src/lib.rs"]));
    assert_eq!(tree(&server.workspace), before);

    let run_id = &result["run_id"];
    let page = server.call("codex_run_diff", json!({"run_id": run_id})).await;
    let diff = page["diff"].as_str().unwrap();
    assert!(diff.contains("-pub fn one() -> u32 { 1 }\n+pub fn one() -> u32 { 2 }"), "{diff}");
    assert!(diff.contains("deleted file mode 100644"), "{diff}");
    let part = server.call("codex_run_diff", json!({"run_id": run_id, "paths": ["new.txt"]})).await;
    let diff = part["diff"].as_str().unwrap();
    assert!(diff.contains("+n") && !diff.contains("lib.rs"), "{diff}");

    let applied =
        server.call("codex_run_apply", json!({"run_id": run_id, "paths": ["new.txt"]})).await;
    assert_eq!(applied["files_changed"], json!(["new.txt"]), "{applied}");
    assert_eq!(applied["changes_state"], "partly");
    assert_eq!(server.read("new.txt"), "n\n");
    assert!(server.workspace.join("README.md").exists());

    let rest = server.call("codex_run_apply", json!({"run_id": run_id})).await;
    assert_eq!(rest["changes_state"], "applied", "{rest}");
    assert_eq!(server.read("src/lib.rs"), "pub fn one() -> u32 { 2 }\n");
    assert!(!server.workspace.join("README.md").exists());

    let twice = server.call("codex_run_apply", json!({"run_id": run_id})).await;
    assert_eq!(twice["error_kind"], "invalid_argument", "{twice}");
    server.stop().await;
}

#[tokio::test]
async fn a_file_that_the_user_saved_meanwhile_is_a_conflict_and_nothing_is_applied() {
    need_engine!();
    let script = Script::always(vec![
        Step::run("echo theirs > src/lib.rs; echo n > new.txt; echo waiting > /tmp/mark"),
        Step::Wait(1500),
        Step::Say("Done.".into()),
    ]);
    let mut server = Server::start(script, Options::default()).await;
    server.ready().await;
    let (_, answer) = server.begin_call("codex_run", json!({"prompt": "edit"})).await;
    // The model is asked a second time once the command has run; the user saves while it thinks.
    crate::support::requests(&server, 2).await;
    server.write("src/lib.rs", "mine\n");
    let answer = crate::support::await_answer(answer, server.home.path()).await;
    let result = &answer["result"]["structuredContent"];
    assert_eq!(result["success"], true, "{result}\n{}", server.log());
    assert_eq!(result["changes_state"], "held");
    assert_eq!(result["conflicts"][0]["path"], "src/lib.rs");
    assert_eq!(server.read("src/lib.rs"), "mine\n");
    assert!(!server.workspace.join("new.txt").exists());

    let other = server
        .call("codex_run_apply", json!({"run_id": result["run_id"], "paths": ["new.txt"]}))
        .await;
    assert_eq!(other["files_changed"], json!(["new.txt"]), "{other}");
    assert_eq!(server.read("src/lib.rs"), "mine\n");
    server.stop().await;
}

#[tokio::test]
async fn what_editors_execute_is_held_for_a_person() {
    need_engine!();
    let script = Script::always(vec![
        Step::run(
            "mkdir -p .vscode sub/.git/hooks .GIT && echo '{}' > .vscode/tasks.json && \
             echo evil > sub/.git/hooks/x && echo evil > .GIT/config && echo evil > .git/hooks/post-checkout; \
             ln -s /etc/passwd out; ln -s ../../x up; echo fine > fine.txt",
        ),
        Step::Say("Done.".into()),
    ]);
    let mut server = Server::start(script, Options::default()).await;
    let result = server.run("plant").await;
    assert_eq!(result["success"], true, "{result}\n{}", server.log());
    assert_eq!(result["changes_state"], "partly", "{result}");
    assert_eq!(result["files_changed"], json!(["fine.txt"]));
    for path in
        [".vscode/tasks.json", "sub/.git", ".GIT/config", "out", "up", ".git/hooks/post-checkout"]
    {
        assert!(
            std::fs::symlink_metadata(server.workspace.join(path)).is_err(),
            "{path} was applied"
        );
    }
    for change in result["changes"].as_array().unwrap() {
        assert_eq!(change["state"] == "held", change["reason"].is_string(), "{change}");
    }
    server.stop().await;
}
