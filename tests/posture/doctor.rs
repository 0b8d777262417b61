//! `doctor` arms a container and leaves nothing behind.

use std::process::{Command, Stdio};

use serde_json::Value;

use crate::weakened::Ground;

/// What `doctor --json` says of the container, and the pid it had.
fn doctor(ground: &Ground, settings: &str) -> (Value, u32) {
    let home = tempfile::tempdir().unwrap();
    let (workspace, file) = (home.path().join("workspace"), home.path().join("c.toml"));
    std::fs::create_dir(&workspace).unwrap();
    std::fs::write(&file, settings).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_mcp-codex-orchestrator"));
    command.args(["--config", file.to_str().unwrap(), "doctor", "--json"]);
    command.current_dir(home.path()).env("HOME", home.path()).env("CODEX_IMAGE", ground.image());
    command.env("XDG_STATE_HOME", home.path().join("state")).env("CODEX_WORKSPACE", &workspace);
    command.env("OPENAI_API_KEY", "sk-of-a-test").stdin(Stdio::null());
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = child.id();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let owners = home.path().join("state/mcp-codex-orchestrator/owners");
    assert_eq!(std::fs::read_dir(owners).unwrap().count(), 0);
    let checks: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let check = checks.into_iter().find(|check| check["name"] == "container").unwrap();
    (check, pid)
}

#[tokio::test]
async fn doctor_says_what_is_in_force_and_leaves_nothing() {
    let Some(ground) = Ground::new().await else { return };
    let (check, pid) = doctor(&ground, "");
    let line = check["found"].as_str().unwrap();
    assert!(line.starts_with(&format!("armed in {} ms; ", check["armed_ms"])), "{line}");
    assert!(
        line.ends_with("everything that was asked for is in force; reset after each run"),
        "{line}"
    );
    assert_eq!(check["unenforced"], Value::Array(vec![]));
    // The removal was awaited.
    assert_eq!(ground.containers_of(pid).await, 0);

    let (check, pid) = doctor(&ground, "[container]\nread_only = false\n");
    let line = check["found"].as_str().unwrap();
    let words = "destroyed after each run and not reset, since with container.read_only = false";
    assert!(line.contains(words), "{line}");
    assert_eq!(check["no_reset"].as_array().unwrap().len(), 1);
    assert_eq!(ground.containers_of(pid).await, 0);
}
