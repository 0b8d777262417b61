//! Files: what is not writable, and what a change set brings to the host.

use serde_json::Value;

use mcp_codex_orchestrator::model::scripted::Step;

use super::{
    Then, check, command, group, next_is_as_ever, options, restore, script, stop, undisturbed,
};
use crate::need_engine;
use crate::support::{Server, tree};

const OUTSIDE: &str = include_str!("outside.py");

/// Links into /proc and what else a change set may not bring, all in the workspace at its end.
const LEFT: &str = include_str!("left.py");

#[tokio::test]
async fn nothing_outside_the_writable_places_can_be_written_or_read() {
    need_engine!();
    group(OUTSIDE, "").await;
}

fn change<'a>(result: &'a Value, path: &str) -> Option<&'a Value> {
    result["changes"].as_array().unwrap().iter().find(|change| change["path"] == path)
}

#[tokio::test]
async fn what_is_left_in_the_workspace_leads_nowhere_on_the_host() {
    need_engine!();
    let steps = vec![Step::run(command(LEFT, "")), Step::Say("Tried.".into())];
    let mut server = Server::start(script(steps), options()).await;
    server.ready().await;
    let executed = std::path::Path::new("/tmp/executed-on-the-host");
    let as_ever = undisturbed(options()).await;
    let shadow = std::fs::read("/etc/shadow").unwrap_or_default();
    let hooks = server.workspace.join(".git/hooks/pre-commit");
    let config = server.read(".git/config");
    let attacked = server.run("Try it").await;
    assert_eq!(attacked["status"], "completed", "{attacked}\n{}", server.log());
    check(&server, LEFT);
    // What leads out is held for a person, and nothing of it is on the host.
    for path in [
        "links/root",
        "links/shadow",
        "links/self",
        "links/fd",
        "links/keeper",
        "links/stdin",
        "links/environ",
        "links/sys",
        "links/dev",
        "links/up",
        "links/abs",
        "README.md",
        ".vscode/tasks.json",
        ".envrc",
        ".mcp.json",
        ".claude/settings.json",
        ".husky/pre-commit",
        "sub/.cursor/mcp.json",
        "root-shell",
        "pipe",
        "socket",
    ] {
        let change = change(&attacked, path);
        assert!(change.is_some_and(|c| c["state"] == "held"), "{path}: {change:?} {attacked}");
        let there = server.workspace.join(path).symlink_metadata();
        let as_before = path == "README.md" && there.as_ref().is_ok_and(|m| m.is_file());
        assert!(there.is_err() || as_before, "{path} is on the host");
    }
    assert_eq!(server.read("README.md"), "# A project\n");
    for (path, bytes) in tree(&server.workspace) {
        let text = path.to_string_lossy().into_owned();
        if text.starts_with(".git") {
            continue;
        }
        assert!(!text.to_lowercase().contains(".git/"), "{text}");
        assert!(shadow.is_empty() || bytes != shadow, "{text} has what is the host's");
        let found = server.workspace.join(&path).symlink_metadata().unwrap();
        if found.is_symlink() {
            let to = std::fs::read_link(server.workspace.join(&path)).unwrap();
            assert!(to.is_relative() && !to.starts_with(".."), "{text} -> {}", to.display());
        }
    }
    assert!(!hooks.exists() && !executed.exists());
    assert_eq!(server.read(".git/config"), config);
    restore(&server);
    next_is_as_ever(&mut server, &attacked, Then::Reset, &as_ever).await;
    stop(server).await;
}
