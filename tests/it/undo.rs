//! What a run changed is taken back: whole, by path, from a client and on the command line.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use mcp_codex_orchestrator::model::scripted::{Script, Step};
use serde_json::{Value, json};

use crate::need_engine;
use crate::support::{Options, Server, cli, paths, tree};

fn script(command: &str) -> Script {
    Script::always(vec![Step::run(command), Step::Say("Done.".into())])
}

/// Every path with its bytes and what an undo puts back besides. Times are those of files that
/// were deleted: a file that is replaced gets a new one, or programs that build would not see it.
fn whole(root: &Path) -> BTreeMap<PathBuf, (Vec<u8>, u32, u32)> {
    tree(root)
        .into_iter()
        .filter(|(path, _)| !path.starts_with(".git"))
        .map(|(path, bytes)| {
            let meta = std::fs::symlink_metadata(root.join(&path)).unwrap();
            (path, (bytes, meta.mode(), meta.uid()))
        })
        .collect()
}

#[tokio::test]
async fn a_run_is_undone_and_applied_again_and_undone_again() {
    need_engine!();
    let command = "printf 'pub fn one() -> u32 { 2 }\\n' > src/lib.rs; rm README.md; rm -r docs; \
                   mkdir -p new/deep && echo n > new/deep/n; chmod +x run.sh; ln -sfn src was; \
                   rm turn && mkdir turn && echo t > turn/t";
    let mut server = Server::start(script(command), Options::default()).await;
    let at = |name: &str| server.workspace.join(name);
    std::fs::create_dir_all(at("docs/empty")).unwrap();
    for (name, mode) in [("docs/a", 0o640), ("run.sh", 0o600), ("turn", 0o644)] {
        std::fs::write(at(name), name).unwrap();
        std::fs::set_permissions(at(name), std::fs::Permissions::from_mode(mode)).unwrap();
    }
    std::fs::set_permissions(at("src/lib.rs"), std::fs::Permissions::from_mode(0o664)).unwrap();
    std::os::unix::fs::symlink("docs", at("was")).unwrap();
    let deleted_at = std::fs::metadata(at("docs/a")).unwrap().modified().unwrap();
    let before = whole(&server.workspace);
    let result = server.run("change everything").await;
    assert_eq!(result["changes_state"], "applied", "{result}\n{}", server.log());
    let after = whole(&server.workspace);
    assert_ne!(before, after);

    let run_id = &result["run_id"];
    for round in 0..2 {
        let undone = server.call("codex_run_undo", json!({"run_id": run_id})).await;
        assert_eq!(undone["success"], true, "{undone}");
        assert_eq!(undone["refused"], json!([]), "{undone}");
        assert_eq!(undone["changes_state"], "held");
        assert_eq!(undone["files_changed"], result["files_changed"]);
        assert!(
            undone["changes"].as_array().unwrap().iter().all(|change| change["reason"] == "undone"),
            "{undone}"
        );
        assert_eq!(whole(&server.workspace), before, "round {round}");
        let restored = std::fs::metadata(server.workspace.join("docs/a")).unwrap();
        assert_eq!(restored.modified().unwrap(), deleted_at);

        let nothing = server.call("codex_run_undo", json!({"run_id": run_id})).await;
        assert_eq!(nothing["error_kind"], "invalid_argument", "{nothing}");
        assert!(nothing["error"].as_str().unwrap().contains("nothing of this run is applied"));

        let again = server.call("codex_run_apply", json!({"run_id": run_id})).await;
        assert_eq!(again["changes_state"], "applied", "{again}");
        assert_eq!(whole(&server.workspace), after);
    }
    server.stop().await;
}

#[tokio::test]
async fn what_was_edited_since_stays_and_the_rest_is_taken_back() {
    need_engine!();
    let command = "echo codex > src/lib.rs; rm README.md; mkdir -p new/deep && echo n > new/deep/n \
                   && echo m > new/m";
    let mut server = Server::start(script(command), Options::default()).await;
    let before = tree(&server.workspace);
    let result = server.run("edit").await;
    let run_id = result["run_id"].as_str().unwrap().to_owned();
    assert_eq!(result["changes_state"], "applied", "{result}\n{}", server.log());
    server.write("src/lib.rs", "mine\n");
    server.write("new/mine", "mine\n");

    // By path: a directory counts for what lies in it.
    let part =
        server.call("codex_run_undo", json!({"run_id": run_id, "paths": ["new/deep"]})).await;
    assert_eq!(part["files_changed"], json!(["new/deep", "new/deep/n"]), "{part}");
    assert_eq!(part["changes_state"], "partly");
    assert!(!server.workspace.join("new/deep").exists());
    assert_eq!(server.read("new/m"), "m\n");
    let wrong = server.call("codex_run_undo", json!({"run_id": run_id, "paths": ["nope"]})).await;
    assert_eq!(wrong["error_kind"], "invalid_argument", "{wrong}");

    let rest = server.call("codex_run_undo", json!({"run_id": run_id})).await;
    assert_eq!(rest["files_changed"], json!(["README.md", "new/m"]), "{rest}");
    assert_eq!(paths(&rest["refused"]), ["new", "src/lib.rs"], "{rest}");
    assert_eq!(rest["changes_state"], "partly");
    assert_eq!(server.read("src/lib.rs"), "mine\n");
    assert_eq!(server.read("README.md").as_bytes(), before[Path::new("README.md")]);
    assert_eq!(server.read("new/mine"), "mine\n");
    assert!(!server.workspace.join("new/m").exists());

    // As the run left it, it can be taken back after all.
    server.write("src/lib.rs", "codex\n");
    std::fs::remove_file(server.workspace.join("new/mine")).unwrap();
    let last = server.call("codex_run_undo", json!({"run_id": run_id})).await;
    assert_eq!(last["changes_state"], "held", "{last}");
    assert_eq!(tree(&server.workspace), before);
    server.stop().await;
}

#[tokio::test]
async fn of_two_runs_on_a_file_the_latest_is_undone_first() {
    need_engine!();
    let command = "echo run >> src/lib.rs; [ -e b ] || echo b > b";
    let mut server = Server::start(script(command), Options::default()).await;
    let before = tree(&server.workspace);
    let first = server.run("first").await;
    let second = server.run("second").await;
    assert_eq!(second["files_changed"], json!(["src/lib.rs"]), "{second}\n{}", server.log());
    let undone = server.call("codex_run_undo", json!({"run_id": first["run_id"]})).await;
    assert_eq!(undone["files_changed"], json!(["b"]), "{undone}");
    assert_eq!(paths(&undone["refused"]), ["src/lib.rs"]);
    assert!(server.read("src/lib.rs").ends_with("run\nrun\n"));
    for run in [&second, &first] {
        let undone = server.call("codex_run_undo", json!({"run_id": run["run_id"]})).await;
        assert_eq!(undone["changes_state"], "held", "{undone}");
    }
    assert_eq!(tree(&server.workspace), before);
    server.stop().await;
}

#[tokio::test]
async fn the_command_line_takes_a_run_back_and_applies_it_again() {
    need_engine!();
    let mut server =
        Server::start(script("echo codex > src/lib.rs; echo n > n"), Options::default()).await;
    let before = tree(&server.workspace);
    let result = server.run("edit").await;
    assert_eq!(result["changes_state"], "applied", "{result}\n{}", server.log());
    let home = server.home.path().to_owned();
    let go = |arguments: &[&str]| {
        let output = cli(&home, arguments);
        let text = String::from_utf8(output.stdout).unwrap();
        (output.status.code(), text, String::from_utf8(output.stderr).unwrap())
    };
    let (code, text, log) = go(&["runs", "undo", "latest", "n"]);
    assert_eq!(code, Some(0), "{text}{log}");
    assert!(text.starts_with("Taken back;") && text.contains("\n  n\n"), "{text}");
    server.write("src/lib.rs", "mine\n");
    let (code, text, log) = go(&["runs", "undo", "latest", "--json"]);
    assert_eq!(code, Some(1), "{text}{log}");
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(paths(&report["refused"]), ["src/lib.rs"], "{report}");
    server.write("src/lib.rs", "codex\n");
    assert_eq!(go(&["runs", "undo", "latest"]).0, Some(0));
    assert_eq!(tree(&server.workspace), before);
    let (code, _, log) = go(&["runs", "undo", "latest"]);
    assert_eq!(code, Some(2), "{log}");
    assert!(log.contains("nothing to undo"), "{log}");
    let (code, text, log) = go(&["runs", "apply", "latest"]);
    assert_eq!((code, &text[..20]), (Some(0), "Applied to the works"), "{log}");
    assert_eq!(server.read("src/lib.rs"), "codex\n");
    // Nothing is over a limit.
    let (code, text, _) = go(&["runs", "prune"]);
    assert_eq!((code, text.starts_with("Nothing to remove")), (Some(0), true), "{text}");
    server.stop().await;
}
