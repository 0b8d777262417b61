//! Commits that Codex makes: how they come home, and what of the user's stays as it was.

use mcp_codex_orchestrator::model::scripted::{Fault, Script, Step};
use serde_json::{Value, json};

use crate::need_engine;
use crate::support::{Options, Server, await_answer, git, make_workspace, requests, tree};

/// Runs these commands in a workspace as `prepare` leaves it.
async fn run_in(
    prepare: impl FnOnce(&std::path::Path),
    commands: &str,
    arguments: Value,
) -> (Server, Value) {
    let script = Script::always(vec![Step::run(commands), Step::Say("Done.".into())]);
    let home = tempfile::TempDir::new().unwrap();
    let workspace = home.path().join("project");
    make_workspace(&workspace);
    prepare(&workspace);
    let mut server = Server::start_in(script, Options::default(), home, workspace).await;
    let mut call = json!({"prompt": "commit"});
    call.as_object_mut().unwrap().extend(arguments.as_object().unwrap().clone());
    let result = server.call("codex_run", call).await;
    assert_eq!(result["success"], true, "{result}\n{}", server.log());
    (server, result)
}

fn here(server: &Server, arguments: &[&str]) -> String {
    git(&server.workspace, arguments)
}

#[tokio::test]
async fn a_commit_moves_the_branch_and_the_users_work_stays_as_it_was() {
    need_engine!();
    let prepare = |workspace: &std::path::Path| {
        std::fs::write(workspace.join("staged.txt"), "staged\n").unwrap();
        git(workspace, &["add", "staged.txt"]);
        std::fs::write(workspace.join("README.md"), "unstaged\n").unwrap();
        std::fs::write(workspace.join("untracked.txt"), "untracked\n").unwrap();
    };
    let commands = "printf 'pub fn one() -> u32 { 2 }\\n' > src/lib.rs; echo n > new.txt; \
                    git add new.txt && git commit -qm 'by codex' -- src/lib.rs new.txt && \
                    git tag made-there && git log -1 --format=%an";
    let (server, result) = run_in(prepare, commands, json!({})).await;
    let commits = &result["commits"];
    assert_eq!(commits["state"], "moved", "{result}\n{}", server.log());
    assert_eq!((&commits["branch"], &commits["count"]), (&json!("main"), &json!(1)));
    let run = result["run_id"].as_str().unwrap();
    assert_eq!(commits["ref"], format!("refs/codex/{run}"));
    assert_eq!(commits["refs"], json!([format!("refs/codex/{run}-refs/tags/made-there")]));
    let head = here(&server, &["rev-parse", "HEAD"]);
    assert_eq!(commits["commit"], head.trim());
    assert_eq!(here(&server, &["rev-parse", commits["ref"].as_str().unwrap()]), head);
    assert_eq!(here(&server, &["log", "-1", "--format=%s"]), "by codex\n");
    let status = here(&server, &["status", "--porcelain"]);
    assert_eq!(status, " M README.md\nA  staged.txt\n?? untracked.txt\n");
    here(&server, &["fsck", "--strict"]);
    assert_eq!(here(&server, &["tag"]), "");
    server.stop().await;
}

#[tokio::test]
async fn an_amended_commit_a_rebase_a_new_branch_and_a_stash() {
    need_engine!();
    let (server, result) = run_in(
        |_| {},
        "echo x > x; git add x; git commit -qm x; echo y > y; git add y; \
         git commit -q --amend -m 'first, amended'",
        json!({}),
    )
    .await;
    assert_eq!(result["commits"]["state"], "moved", "{result}");
    assert_eq!(here(&server, &["log", "--format=%s"]), "first, amended\nfirst\n");
    assert_eq!(here(&server, &["status", "--porcelain"]), "");
    server.stop().await;

    let (server, result) = run_in(
        |_| {},
        "git commit -q --amend -m 'first, again'; echo x > x; git add x; git commit -qm x; \
         git rebase -q --force-rebase --root; git checkout -qb side; echo z > z; git add z; \
         git commit -qm z; git checkout -q main; echo s >> README.md; git stash -q",
        json!({}),
    )
    .await;
    let run = result["run_id"].as_str().unwrap();
    assert_eq!(result["commits"]["state"], "moved", "{result}");
    assert_eq!(result["commits"]["count"], 2, "{result}");
    let inner = |name: &str| format!("refs/codex/{run}-refs/{name}");
    assert_eq!(result["commits"]["refs"], json!([inner("heads/side"), inner("stash")]));
    assert_eq!(here(&server, &["log", "--format=%s"]), "x\nfirst, again\n");
    assert_eq!(
        here(&server, &["show", "--format=%s", "--name-only", &inner("heads/side")]),
        "z\n\nz\n"
    );
    assert_eq!(here(&server, &["status", "--porcelain"]), "");
    server.stop().await;
}

#[tokio::test]
async fn a_detached_head_comes_as_a_reference_alone() {
    need_engine!();
    let (server, result) = run_in(
        |_| {},
        "git checkout -q --detach; echo x > x; git add x; git commit -qm x",
        json!({}),
    )
    .await;
    assert_eq!(result["commits"]["state"], "arrived", "{result}");
    let reason = result["commits"]["reason"].as_str().unwrap();
    assert!(reason.contains("detached"), "{reason}");
    assert_eq!(here(&server, &["log", "--format=%s"]), "first\n");
    let reference = result["commits"]["ref"].as_str().unwrap();
    assert_eq!(here(&server, &["log", "--format=%s", reference]), "x\nfirst\n");
    assert_eq!(server.read("x"), "x\n");
    server.stop().await;
}

/// Lets Codex commit and the user do something before the run ends.
async fn while_codex_thinks(user: impl FnOnce(&Server)) -> (Server, Value) {
    let script = Script::always(vec![
        Step::run("echo x > x; git add x; git commit -qm x"),
        Step::Wait(1500),
        Step::Say("Done.".into()),
    ]);
    let mut server = Server::start(script, Options::default()).await;
    server.ready().await;
    let (_, answer) = server.begin_call("codex_run", json!({"prompt": "commit"})).await;
    requests(&server, 2).await;
    user(&server);
    let answer = await_answer(answer, server.home.path()).await;
    assert_eq!(answer["result"]["structuredContent"]["success"], true, "{answer}");
    (server, answer)
}

#[tokio::test]
async fn a_merge_is_under_way_and_stays_so() {
    need_engine!();
    let (server, answer) = while_codex_thinks(|server| {
        here(server, &["checkout", "-qb", "side"]);
        server.write("mine.txt", "mine\n");
        here(server, &["add", "mine.txt"]);
        here(server, &["commit", "-qm", "mine"]);
        here(server, &["checkout", "-q", "main"]);
        here(server, &["merge", "-q", "--no-ff", "--no-commit", "side"]);
    })
    .await;
    let commits = &answer["result"]["structuredContent"]["commits"];
    assert_eq!(commits["reason"], "a merge is under way", "{answer}");
    assert_eq!(here(&server, &["log", "--format=%s"]), "first\n");
    assert_eq!(here(&server, &["status", "--porcelain"]), "A  mine.txt\n?? x\n");
    assert!(server.workspace.join(".git/MERGE_HEAD").exists());
    server.stop().await;
}

#[tokio::test]
async fn the_user_commits_meanwhile() {
    need_engine!();
    let (server, answer) = while_codex_thinks(|server| {
        server.write("mine.txt", "mine\n");
        here(server, &["add", "mine.txt"]);
        here(server, &["commit", "-qm", "mine"]);
    })
    .await;
    let commits = &answer["result"]["structuredContent"]["commits"];
    assert_eq!(commits["state"], "arrived", "{answer}\n{}", server.log());
    assert_eq!(commits["reason"], "main was moved meanwhile");
    assert_eq!(here(&server, &["log", "--format=%s"]), "mine\nfirst\n");
    let text = answer["result"]["content"][0]["text"].as_str().unwrap();
    let command = commits["take_over"].as_str().unwrap();
    assert!(text.contains(&format!("`{command}` takes them over")), "{text}");
    server.stop().await;
}

#[tokio::test]
async fn a_commit_with_a_held_path_comes_as_a_reference_until_it_is_applied() {
    need_engine!();
    let commands = "echo x > x; echo e > .envrc; git add -A; git commit -qm x";
    let (mut server, result) = run_in(|_| {}, commands, json!({})).await;
    assert_eq!(result["commits"]["state"], "arrived", "{result}");
    assert_eq!(result["commits"]["reason"], ".envrc is held");
    assert_eq!(here(&server, &["log", "--format=%s"]), "first\n");
    let run_id = &result["run_id"];
    let part = server.call("codex_run_apply", json!({"run_id": run_id, "paths": [".envrc"]})).await;
    assert_eq!(part["changes_state"], "applied", "{part}");
    assert!(part["commits"].is_null(), "{part}");
    server.stop().await;
}

#[tokio::test]
async fn what_suggest_committed_comes_with_the_apply() {
    need_engine!();
    let commands = "echo x > x; git add x; git commit -qm x";
    let (mut server, result) = run_in(|_| {}, commands, json!({"mode": "suggest"})).await;
    assert_eq!(result["commits"]["state"], "held", "{result}");
    assert_eq!(here(&server, &["for-each-ref", "refs/codex"]), "");
    let applied = server.call("codex_run_apply", json!({"run_id": result["run_id"]})).await;
    assert_eq!(applied["commits"]["state"], "moved", "{applied}");
    assert_eq!(here(&server, &["log", "--format=%s"]), "x\nfirst\n");
    assert_eq!(here(&server, &["status", "--porcelain"]), "");
    server.stop().await;

    // A commit of what the user had not committed changes no file.
    let dirty = |workspace: &std::path::Path| {
        std::fs::write(workspace.join("README.md"), "not committed\n").unwrap();
    };
    let suggest = json!({"mode": "suggest"});
    let (mut server, result) = run_in(dirty, "git commit -qam all", suggest).await;
    assert_eq!(result["changes_state"], "none", "{result}");
    assert_eq!(result["commits"]["state"], "held", "{result}");
    let call = json!({"run_id": result["run_id"]});
    let applied = server.call("codex_run_apply", call.clone()).await;
    assert_eq!(applied["commits"]["state"], "moved", "{applied}");
    assert_eq!(server.call("codex_run_apply", call).await["error_kind"], "invalid_argument");
    assert_eq!(here(&server, &["status", "--porcelain"]), "");
    server.stop().await;
}

#[tokio::test]
async fn nothing_that_the_repository_names_runs_on_the_host() {
    need_engine!();
    let mark = std::env::temp_dir().join(format!("codex-test-{}", std::process::id()));
    let run = format!("touch {}", mark.display());
    let plant = |workspace: &std::path::Path| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::write(workspace.join(".gitattributes"), "* filter=evil\n").unwrap();
        git(workspace, &["add", "-A"]);
        git(workspace, &["commit", "-qm", "second"]);
        // As young as the index, so that git reads it whenever it writes the index.
        let file = std::fs::File::options().write(true).open(workspace.join(".git/index")).unwrap();
        file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1)).unwrap();
        let hooks = ["reference-transaction", "post-index-change", "pre-auto-gc", "post-commit"];
        for hook in hooks {
            let path = workspace.join(".git/hooks").join(hook);
            std::fs::write(&path, format!("#!/bin/sh\n{run}\n")).unwrap();
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let keys = ["core.fsmonitor", "filter.evil.clean", "filter.evil.smudge", "gpg.program"];
        for key in keys {
            git(workspace, &["config", key, &run]);
        }
        git(workspace, &["config", "commit.gpgSign", "true"]);
    };
    let commands = "echo x > x; git add x; git commit -qm x";
    let (server, result) = run_in(plant, commands, json!({})).await;
    assert_eq!(result["commits"]["state"], "moved", "{result}");
    assert!(!mark.exists(), "something that was planted ran");
    server.stop().await;
    assert!(!mark.exists(), "something that was planted ran");
}

#[tokio::test]
async fn what_a_failed_run_committed_waits_in_its_folder() {
    need_engine!();
    let fault = Fault { status: Some(400), ..Fault::default() };
    let script = Script::always(vec![
        Step::run("echo x > x; git add x; git commit -qm x"),
        Step::Fault(fault),
    ]);
    let mut server = Server::start(script, Options::default()).await;
    let result = server.run("commit").await;
    assert_eq!(result["status"], "failed", "{result}");
    assert_eq!(result["commits"]["state"], "held", "{result}");
    assert_eq!(here(&server, &["for-each-ref", "refs/codex"]), "");
    let applied = server.call("codex_run_apply", json!({"run_id": result["run_id"]})).await;
    assert_eq!(applied["commits"]["state"], "moved", "{applied}");
    assert_eq!(here(&server, &["status", "--porcelain"]), "");
    server.stop().await;
}

#[tokio::test]
async fn a_run_that_commits_nothing_says_nothing_of_commits() {
    need_engine!();
    let commands = "echo x > x; git add x; git status -s; git diff --cached; git log -1; ls .git";
    let (server, result) = run_in(|_| {}, commands, json!({})).await;
    assert!(result["commits"].is_null(), "{result}");
    assert_eq!(here(&server, &["status", "--porcelain"]), "?? x\n");
    let folder = server.runs().join(result["run_id"].as_str().unwrap());
    assert!(!folder.join("commits.bundle").exists());
    server.stop().await;
}

#[tokio::test]
async fn without_a_repository_that_was_sent_nothing_comes_and_it_is_said() {
    need_engine!();
    let none = |workspace: &std::path::Path| {
        std::fs::remove_dir_all(workspace.join(".git")).unwrap();
    };
    let commands = "git init -q; echo x > x; git add -A; git commit -qm x";
    let (server, result) = run_in(none, commands, json!({})).await;
    assert!(result["commits"].is_null(), "{result}");
    let notes = result["notes"].to_string();
    assert!(notes.contains("a repository was made in the container"), "{result}");
    assert!(!server.workspace.join(".git").exists());
    server.stop().await;
}

#[tokio::test]
async fn a_repository_above_or_below_the_workspace_is_left_alone() {
    need_engine!();
    let script = Script::always(vec![
        Step::run(
            "echo x > x; git init -q . ; git add -A; git commit -qm x; \
                   cd inner && echo y > y && git init -q && git add -A && git commit -qm y",
        ),
        Step::Say("Done.".into()),
    ]);
    let home = tempfile::TempDir::new().unwrap();
    let above = home.path().join("project");
    make_workspace(&above);
    let workspace = above.join("src");
    make_workspace(&workspace.join("inner"));
    let before = (tree(&above.join(".git")), tree(&workspace.join("inner/.git")));
    let mut server = Server::start_in(script, Options::default(), home, workspace).await;
    let result = server.run("commit").await;
    assert_eq!(result["success"], true, "{result}\n{}", server.log());
    assert!(result["commits"].is_null(), "{result}");
    assert!(before == (tree(&above.join(".git")), tree(&server.workspace.join("inner/.git"))));
    server.stop().await;
}

#[tokio::test]
async fn commits_over_the_limit_do_not_come_and_the_run_does() {
    need_engine!();
    let commands = "head -c 3000000 /dev/urandom > big; git add big; git commit -qm big; \
                    git rm -q big; echo x > x; git add x; git commit -qm x";
    let script = Script::always(vec![Step::run(commands), Step::Say("Done.".into())]);
    let options = Options::default().set("workspace", "max_bytes = \"2MiB\"");
    let mut server = Server::start(script, options).await;
    let result = server.run("commit").await;
    assert_eq!(result["success"], true, "{result}\n{}", server.log());
    assert_eq!(result["commits"]["state"], "left", "{result}");
    let reason = result["commits"]["reason"].as_str().unwrap();
    assert_eq!(reason, "they are larger than the limit of workspace.max_bytes");
    assert_eq!(result["files_changed"], json!(["x"]));
    assert_eq!(server.read("x"), "x\n");
    let folder = server.runs().join(result["run_id"].as_str().unwrap());
    assert!(!folder.join("commits.bundle").exists());
    server.stop().await;
}

#[tokio::test]
async fn a_container_whose_git_lies_costs_the_commits_alone() {
    need_engine!();
    for lie in [
        // A git that never ends is given up with the transfer's time; one that floods with its bytes.
        "printf '#!/bin/sh\\nyes\\n' > ~/.local/bin/git",
        "printf '#!/bin/sh\\necho refs/heads/main\\n' > ~/.local/bin/git",
        "printf '#!/bin/sh\\nexit 3\\n' > ~/.local/bin/git",
    ] {
        let commands = format!(
            "echo x > x; git add x; git commit -qm x; mkdir -p ~/.local/bin; {lie}; \
             chmod +x ~/.local/bin/git"
        );
        let (server, result) = run_in(|_| {}, &commands, json!({})).await;
        assert_eq!(result["commits"]["state"], "left", "{result}");
        assert_eq!(server.read("x"), "x\n");
        assert_eq!(here(&server, &["for-each-ref", "refs/codex"]), "");
        server.stop().await;
    }
}
