//! What the engine itself says, asked through its own client.

use std::process::Command;
use std::sync::OnceLock;

fn docker(arguments: &[&str]) -> Result<String, String> {
    let output =
        Command::new("docker").args(arguments).output().map_err(|error| error.to_string())?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }
}

/// Whether an engine answers and has the image.
pub(crate) fn usable() -> Result<(), String> {
    static USABLE: OnceLock<Result<(), String>> = OnceLock::new();
    USABLE
        .get_or_init(|| {
            docker(&["image", "inspect", "codex-runner:latest", "--format", "{{.Id}}"]).map(|_| ())
        })
        .clone()
}

/// Containers in any state whose owner is the process `pid`.
pub(crate) fn containers_of(pid: u32) -> Vec<String> {
    let format = "{{.ID}} {{.State}} {{.Label \"mcp-codex-orchestrator.owner\"}}";
    let listed =
        docker(&["ps", "-a", "--filter", "label=mcp-codex-orchestrator.owner", "--format", format])
            .unwrap();
    listed
        .lines()
        .filter(|line| line.split_whitespace().nth(2).is_some_and(|owner| is_of(owner, pid)))
        .map(str::to_owned)
        .collect()
}

/// Whether a label of an owner (machine, boot, pid, start, number) names the process `pid`.
fn is_of(owner: &str, pid: u32) -> bool {
    owner.split('-').nth(2) == Some(&pid.to_string())
}
