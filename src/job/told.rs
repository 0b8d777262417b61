//! The sentences of a run, and the text around them.

use std::time::Duration;

use crate::failure::{ErrorKind, Failure};
use crate::keeper::client::KeeperError;
use crate::model::gateway::TrafficReport;
use crate::workspace::{Snapshot, Workspace};

use super::transfer::keeper_failure;

/// What a caller is told that cancelled; what became of the changes is added where it is known.
pub(super) fn cancelled() -> Failure {
    Failure::new(ErrorKind::Cancelled, "the run was cancelled; the workspace is unchanged")
}

/// What a caller is told whose changes were not collected before the server ended.
pub(super) fn given_up() -> Failure {
    Failure::new(
        ErrorKind::Cancelled,
        "the server ended before the changes were collected (server.shutdown_grace); the workspace \
         is unchanged",
    )
}

/// What a caller is told whose time for Codex ran out.
pub(super) fn timed_out(timeout: Duration) -> Failure {
    Failure::new(
        ErrorKind::TimedOut,
        format!(
            "Execution timeout after {} s; call again with a longer timeout",
            timeout.as_secs()
        ),
    )
}

/// What a caller is told whose run used more tokens than it may.
pub(super) fn over_tokens(used: u64, limit: u64) -> Failure {
    Failure::new(
        ErrorKind::CodexFailed,
        format!(
            "the run was ended after about {used} tokens, over run.max_tokens ({limit}); raise it or give it \
             less to do at once"
        ),
    )
}

/// What a caller is told of refusals and of trouble at the provider; all is in the log.
pub(super) fn gateway_notes(report: &TrafficReport) -> Vec<String> {
    for denied in &report.denied {
        tracing::warn!(what = %denied, "the gateway refused a request");
    }
    for trouble in &report.troubles {
        tracing::warn!(what = %trouble, "the model provider gave trouble");
    }
    let more = report.denied_total.saturating_sub(report.denied.len().try_into().unwrap_or(0));
    let more = (more > 0).then(|| format!("the gateway refused {more} more requests like these"));
    let denied = report.denied.iter().map(|what| format!("model access: {what}"));
    denied.chain(more).chain(report.troubles.iter().cloned()).collect()
}

/// Refuses a working directory that did not go into the container.
pub(super) fn has_working_dir(snapshot: &Snapshot, workspace: &Workspace) -> Result<(), Failure> {
    match &workspace.working_dir {
        Some(dir) if !snapshot.nodes.contains_key(dir) => Err(Failure::new(
            ErrorKind::InvalidArgument,
            format!(
                "working_dir {dir} stays home, since git ignores it or the settings exclude it; \
                 choose a directory that is sent"
            ),
        )),
        _ => Ok(()),
    }
}

/// What a caller is told if the keeper did not start Codex.
pub(super) fn not_started(error: KeeperError) -> Failure {
    match error {
        KeeperError::Refused(sentence) => Failure::new(
            ErrorKind::CodexUnusable,
            format!(
                "Codex could not be started ({sentence}); rebuild the image with \
                 `mcp-codex-orchestrator image build`"
            ),
        ),
        error => keeper_failure(error),
    }
}

/// What a caller is told whose container was lost while Codex ran in it. What Codex said until then
/// is in the result and the run's folder; what it changed was in the container only.
pub(super) fn lost(error: &KeeperError) -> Failure {
    let mut failure = keeper_failure(error.clone());
    if failure.kind == ErrorKind::ContainerLost {
        failure.sentence = format!(
            "the container was lost during the run ({error}), and with it what Codex had changed; \
             the workspace is unchanged, run it again"
        );
    }
    failure
}

/// Adds what became of the changes to the sentence of a run that `was_ended` by somebody.
pub(super) fn with_fate(mut failure: Failure, was_ended: bool, fate: &str) -> Failure {
    if was_ended || failure.kind == ErrorKind::Cancelled {
        failure.sentence.push_str("; ");
        failure.sentence.push_str(fate);
    }
    failure
}

/// Two texts, one below the other.
pub(super) fn join(first: &str, second: &str) -> String {
    match (first.is_empty(), second.is_empty()) {
        (true, _) => second.to_owned(),
        (_, true) => first.to_owned(),
        _ => format!("{first}\n{second}"),
    }
}

/// The end of `text`, whole characters, with a mark where something was cut.
pub(super) fn last_bytes(text: &str, limit: usize) -> String {
    if text.len() <= limit {
        return text.to_owned();
    }
    let from = (text.len() - limit..=text.len()).find(|at| text.is_char_boundary(*at));
    format!("[{} bytes cut]\n{}", text.len() - limit, &text[from.unwrap_or(text.len())..])
}
