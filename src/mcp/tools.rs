//! The list of tools: always the same, in the same order.

use std::sync::Arc;

use rmcp::model::{Tool, ToolAnnotations};

use super::schema;
use crate::config::{NetworkConfig, RunConfig};
use crate::engine::Network;
use crate::job::result::{ApplyReport, DiffPage, RunResult, UndoReport};
use crate::pool::status::PoolStatus;

/// Runs Codex.
pub const CODEX_RUN: &str = "codex_run";
/// Shows what a run changed.
pub const CODEX_RUN_DIFF: &str = "codex_run_diff";
/// Applies what is held of a run.
pub const CODEX_RUN_APPLY: &str = "codex_run_apply";
/// Takes back what was applied of a run.
pub const CODEX_RUN_UNDO: &str = "codex_run_undo";
/// Shows the pool.
pub const CODEX_POOL_STATUS: &str = "codex_pool_status";

/// What a client shows to its model about the server; clients cut it at 2 KiB.
pub fn instructions(network: &NetworkConfig) -> String {
    format!("{INSTRUCTIONS} {} {PARALLEL}", instruction(network))
}

/// What a program in a container can reach.
fn instruction(network: &NetworkConfig) -> String {
    match (&network.mode, network.allow_hosts.as_slice()) {
        (Network::None, []) => {
            "The container has no network except the way to the model.".to_owned()
        }
        (Network::None, hosts) => {
            format!(
                "The container has no network except the way to the model and to {}.",
                few(hosts)
            )
        }
        _ => "The container has a network.".to_owned(),
    }
}

/// The kind of container in the description of a tool.
fn container(network: &NetworkConfig) -> String {
    match (&network.mode, network.allow_hosts.as_slice()) {
        (Network::None, []) => "an isolated container without network".to_owned(),
        (Network::None, hosts) => {
            format!("an isolated container that reaches the hosts {} only", few(hosts))
        }
        (Network::Host, _) => "a container on the host's network".to_owned(),
        (Network::Bridge | Network::Named(_), _) => "an isolated container with network".to_owned(),
    }
}

/// The first of them; clients cut long texts.
fn few(hosts: &[String]) -> String {
    const MOST: usize = 5;
    let told = hosts.iter().take(MOST).map(String::as_str).collect::<Vec<_>>().join(", ");
    match hosts.len().saturating_sub(MOST) {
        0 => told,
        more => format!("{told} and {more} more"),
    }
}

const INSTRUCTIONS: &str = "\
Runs OpenAI's Codex CLI, a coding agent, in an isolated container that is already waiting. \
codex_run hands a task to Codex: the workspace is sent into the container, Codex reads, runs \
commands and edits there, and its changes come back into the workspace. Files that the user \
changed meanwhile are never overwritten: such a conflict holds all changes.\n\
Codex knows nothing of this conversation: write a prompt that says everything. With mode \
\"suggest\" the changes are held: look at them with codex_run_diff and write them with \
codex_run_apply and the run_id of the result. The changes of a run that failed, timed out or was \
cancelled are held in the same way. codex_run_undo takes back what a run changed.";

const PARALLEL: &str = "\
Runs may be called in parallel. codex_pool_status shows whether containers are ready.";

/// All tools, with the limits of the settings in their schemas.
pub fn all(limits: &RunConfig, network: &NetworkConfig) -> Vec<Tool> {
    vec![
        Tool::new(
            CODEX_RUN,
            format!(
                "Runs Codex, a coding agent, on a workspace, in {}. \
             Codex reads the files, runs commands and edits; the changes are written to the \
             workspace (mode full-auto) or held for review (mode suggest). Returns the last message \
             of Codex, the changed files and a run_id. Give it one whole task with everything it \
             needs to know. May take minutes; sends progress.",
                container(network)
            ),
            Arc::new(schema::run_input(limits)),
        )
        .with_title("Run Codex in a container")
        .with_raw_output_schema(Arc::new(schema::result_output::<RunResult>()))
        .with_annotations(
            ToolAnnotations::new()
                .read_only(false)
                .destructive(true)
                .idempotent(false)
                .open_world(true),
        ),
        Tool::new(
            CODEX_RUN_DIFF,
            "Shows what a run of codex_run changed, as a unified diff in pages, applied or held. \
             Records are kept for a limited time.",
            Arc::new(schema::diff_input()),
        )
        .with_title("Show the changes of a Codex run")
        .with_raw_output_schema(Arc::new(schema::answer_output::<DiffPage>()))
        .with_annotations(ToolAnnotations::new().read_only(true).open_world(false)),
        Tool::new(
            CODEX_RUN_APPLY,
            "Writes the held changes of a run of codex_run to its workspace. If a path was changed \
             there since the run began, it is never overwritten: nothing is written and the \
             conflicts are named, or on_conflict says otherwise. What is applied already is refused.",
            Arc::new(schema::apply_input()),
        )
        .with_title("Apply the held changes of a Codex run")
        .with_raw_output_schema(Arc::new(schema::answer_output::<ApplyReport>()))
        .with_annotations(
            ToolAnnotations::new()
                .read_only(false)
                .destructive(true)
                .idempotent(true)
                .open_world(false),
        ),
        Tool::new(
            CODEX_RUN_UNDO,
            "Takes back what a run of codex_run changed in its workspace, all of it or by path: \
             files are put back as they were before, files that it added are removed. A path that \
             was edited since is left alone and named; the others are taken back. The changes are \
             held then, and codex_run_apply applies them again.",
            Arc::new(schema::undo_input()),
        )
        .with_title("Undo the changes of a Codex run")
        .with_raw_output_schema(Arc::new(schema::answer_output::<UndoReport>()))
        .with_annotations(
            ToolAnnotations::new()
                .read_only(false)
                .destructive(true)
                .idempotent(true)
                .open_world(false),
        ),
        Tool::new(
            CODEX_POOL_STATUS,
            "Shows the pool of waiting containers: how many are ready or busy, how long recent runs \
             took, and the last error, for instance why no container starts.",
            Arc::new(schema::no_input()),
        )
        .with_title("Show the pool of containers")
        .with_raw_output_schema(Arc::new(schema::answer_output::<PoolStatus>()))
        .with_annotations(ToolAnnotations::new().read_only(true).open_world(false)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_texts_tell_the_network_of_the_settings() {
        let network = |mode, hosts: &[&str]| NetworkConfig {
            mode,
            allow_hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
        };
        for (network, words) in [
            (network(Network::None, &[]), "no network except the way to the model."),
            (network(Network::None, &["crates.example"]), "to the model and to crates.example."),
            (network(Network::Bridge, &[]), "The container has a network."),
        ] {
            let text = instructions(&network);
            assert!(text.contains(words) && text.len() < 2048, "{text}");
        }
        assert!(container(&network(Network::None, &["crates.example"])).contains("crates.example"));
        assert!(container(&network(Network::Host, &[])).contains("host's network"));
    }
}
