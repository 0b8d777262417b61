//! A history over the limit: what Codex sees of it, and how its commits come home.

use std::path::Path;

use mcp_codex_orchestrator::model::scripted::{Script, Step};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::need_engine;
use crate::support::{Options, Server, git, make_workspace};

/// A small tree with `count` commits after one with a large file.
fn make(workspace: &Path, count: usize) {
    make_workspace(workspace);
    let mut noise = vec![0; 400 << 10];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| std::io::Read::read_exact(&mut file, &mut noise))
        .unwrap();
    std::fs::write(workspace.join("large"), noise).unwrap();
    git(workspace, &["add", "-A"]);
    git(workspace, &["commit", "-q", "-m", "large"]);
    git(workspace, &["rm", "-q", "large"]);
    for number in 0..count {
        std::fs::write(workspace.join("counter"), format!("{number}\n")).unwrap();
        git(workspace, &["add", "-A"]);
        git(workspace, &["commit", "-q", "-m", &format!("number {number}")]);
    }
}

async fn server(count: usize, scripts: &[(&str, &str)]) -> Server {
    let home = TempDir::new().unwrap();
    let workspace = home.path().join("project");
    make(&workspace, count);
    let steps = |commands: &str| vec![Step::run(commands), Step::Say("Done.".into())];
    let script = scripts.iter().fold(Script::always(Vec::new()), |script, (prompt, commands)| {
        script.with(prompt, steps(commands))
    });
    let options = Options::default().set("workspace", "history_limit = \"256KiB\"");
    Server::start_in(script, options, home, workspace).await
}

fn here(server: &Server, arguments: &[&str]) -> String {
    git(&server.workspace, arguments)
}

async fn run(server: &mut Server, prompt: &str) -> Value {
    let result = server.call("codex_run", json!({"prompt": prompt})).await;
    assert_eq!(result["success"], true, "{result}\n{}", server.log());
    result
}

#[tokio::test]
async fn commits_made_on_a_cut_history_come_home_one_run_after_the_other() {
    need_engine!();
    let commands = "git rev-list --count HEAD > seen; git fsck --strict --no-dangling >> seen 2>&1; \
                    git diff --name-only HEAD~1 HEAD >> seen; git status --porcelain >> seen; \
                    git add seen; git commit -qm 'by codex'";
    let scripts = [("first-run", commands), ("second-run", commands)];
    let mut server = server(53, &scripts).await;
    for (prompt, seen) in
        [("first-run", "50\ncounter\n?? seen\n"), ("second-run", "51\nseen\n M seen\n")]
    {
        let before = here(&server, &["rev-parse", "HEAD"]);
        let result = run(&mut server, prompt).await;
        let notes = result["notes"].to_string();
        assert!(notes.contains("commits went") && notes.contains("history_limit"), "{result}");
        assert_eq!(server.read("seen"), seen, "{result}");
        assert_eq!(result["commits"]["state"], "moved", "{result}\n{}", server.log());
        assert_eq!(here(&server, &["rev-parse", "HEAD~1"]), before);
        assert_eq!(here(&server, &["status", "--porcelain"]), "");
    }
    assert_eq!(here(&server, &["rev-list", "--count", "HEAD"]), "57\n");
    here(&server, &["fsck", "--strict"]);
    server.stop().await;
}

#[tokio::test]
async fn a_commit_that_lost_its_parent_to_the_limit_does_not_become_the_branch() {
    need_engine!();
    let amend = "echo n > new; git add new; git commit -q --amend -m amended";
    // Fifty commits would hold the large one.
    let mut server = server(3, &[("amend-it", amend)]).await;
    let before = here(&server, &["rev-parse", "HEAD"]);
    let result = run(&mut server, "amend-it").await;
    assert!(result["notes"].to_string().contains("only the last commit went"), "{result}");
    let commits = &result["commits"];
    assert_eq!(commits["state"], "arrived", "{result}");
    assert!(commits["reason"].as_str().unwrap().contains("workspace.history_limit"), "{result}");
    assert_eq!(here(&server, &["rev-parse", "HEAD"]), before);
    assert_eq!(server.read("new"), "n\n");
    server.stop().await;
}
