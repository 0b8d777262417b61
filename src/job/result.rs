//! What a caller is told when a run has ended: structured, and its essentials as text.
//!
//! The first six fields are those of the server that this one replaces, so that its callers need no
//! change. A field that has nothing to say is left out; none is ever null.

use serde::{Deserialize, Serialize};
use serde_json::Value;

mod ignored;

pub use self::ignored::IgnoredNew;
pub use super::ask::Approvals;
pub use crate::codex::outcome::Usage;
use crate::failure::{ErrorKind, Failure};
pub use crate::workspace::change::{ChangeKind, ChangeState, ChangesState};
use crate::workspace::git::commits::Commits;

/// Entries of a list that go to a caller at most; the run folder has them all.
pub const MAX_LISTED: usize = 500;

/// `exit_code` of a run that timed out.
pub const EXIT_TIMED_OUT: i32 = -1;
/// `exit_code` of a run that was cancelled.
pub const EXIT_CANCELLED: i32 = -2;
/// `exit_code` of a run whose Codex was never started.
pub const EXIT_NEVER_STARTED: i32 = -3;

/// How far a run has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Not ended yet.
    Running,
    /// Codex did what it could and said so.
    Completed,
    /// Something failed; `error_kind` says what.
    Failed,
    /// The call's `timeout` ran out.
    TimedOut,
    /// The caller cancelled.
    Cancelled,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ResultChange {
    /// Relative to the workspace; quoted as git quotes names if it is no plain text.
    pub path: String,
    /// What happened to it.
    pub kind: ChangeKind,
    /// Size of the new content in bytes; 0 for what has none.
    pub bytes: u64,
    /// What has become of it.
    pub state: ChangeState,
    /// Why it is held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A path that could not be written: the user changed it while Codex worked on it, or the host
/// refuses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ResultConflict {
    /// Relative to the workspace; quoted as git quotes names if it is no plain text.
    pub path: String,
    /// What both sides did, or what the host refuses and why.
    pub reason: String,
}

/// Where the time went, in milliseconds. A phase that was not reached is left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default)]
pub struct Timings {
    /// Waiting for a turn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<f64>,
    /// Choosing a container, or waiting until one was started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkout: Option<f64>,
    /// Sending the workspace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub send: Option<f64>,
    /// From the acceptance of the call to the first request to the model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_request: Option<f64>,
    /// Codex, from its start to its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub codex: Option<f64>,
    /// Collecting the changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub collect: Option<f64>,
    /// Writing them to the workspace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub apply: Option<f64>,
    /// From the acceptance of the call to its result.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total: Option<f64>,
}

/// What was sent into the container.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema,
)]
pub struct Sent {
    /// Files that travelled; those of `.git` do not count.
    pub files: u64,
    /// Bytes of these files.
    pub bytes: u64,
    /// Whether it was the whole workspace, not only what differed.
    pub full: bool,
}

/// The result of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct RunResult {
    /// Whether Codex completed the run.
    pub success: bool,
    /// Codex's own; -1 timed out, -2 cancelled, -3 never started.
    pub exit_code: i32,
    /// The last message of Codex; on failure ending with the tail of its stderr.
    pub output: String,
    /// The last message in the form of `output_schema`; only if that was given and it has the form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_json: Option<Value>,
    /// The paths that were applied; in `suggest` those that would be.
    pub files_changed: Vec<String>,
    /// The container that was used, as 12 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_id: Option<String>,
    /// From the acceptance of the call to its result, in milliseconds.
    pub execution_time_ms: u64,
    /// Names the run in `codex_run_diff` and `codex_run_apply`. Left out if the call was refused
    /// before there was a run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_id: Option<String>,
    /// How far the run has come.
    pub status: Status,
    /// What has become of the changes as a whole.
    pub changes_state: ChangesState,
    /// Every change.
    pub changes: Vec<ResultChange>,
    /// Paths that could not be applied: the user changed them meanwhile, or the host refuses.
    pub conflicts: Vec<ResultConflict>,
    /// What else to know of how the changes were applied, such as where something that was saved
    /// meanwhile is kept. Left out if there is nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Commits that were made in the container. Left out if there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commits: Option<Commits>,
    /// What was not sent into the container.
    pub stayed_home: Vec<String>,
    /// New paths that git ignores, which were not applied.
    pub ignored_new: Vec<IgnoredNew>,
    /// Hosts that something in the container asked for and did not get.
    pub denied_hosts: Vec<String>,
    /// Whether a waiting container was used. Left out if none was used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warm: Option<bool>,
    /// Why no waiting container was used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cold_reason: Option<String>,
    /// Whether the thread was kept, so that `continue_run` can go on with it.
    pub thread_kept: bool,
    /// Tokens; left out if Codex reported none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// What became of Codex's questions; only in mode `ask`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approvals: Option<Approvals>,
    /// Where the time went.
    pub timings_ms: Timings,
    /// What was sent; left out if nothing was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent: Option<Sent>,
    /// Whether a list was cut at 500 entries; the run folder has it whole.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
    /// What happened, then what to do. Only on failure, like the next two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The stable kind of the failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_kind: Option<ErrorKind>,
    /// Whether the same call may succeed later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retryable: Option<bool>,
}

impl RunResult {
    /// A completed run without changes; the rest is filled in by who has it.
    pub fn completed(run_id: impl Into<String>) -> Self {
        Self {
            success: true,
            exit_code: 0,
            output: String::new(),
            output_json: None,
            files_changed: Vec::new(),
            container_id: None,
            execution_time_ms: 0,
            run_id: Some(run_id.into()),
            status: Status::Completed,
            changes_state: ChangesState::None,
            changes: Vec::new(),
            conflicts: Vec::new(),
            notes: Vec::new(),
            commits: None,
            stayed_home: Vec::new(),
            ignored_new: Vec::new(),
            denied_hosts: Vec::new(),
            warm: None,
            cold_reason: None,
            thread_kept: false,
            usage: None,
            approvals: None,
            timings_ms: Timings::default(),
            sent: None,
            truncated: false,
            error: None,
            error_kind: None,
            retryable: None,
        }
    }

    /// A call that was refused before there was a run.
    pub fn refused(failure: &Failure) -> Self {
        let mut result = Self::completed("");
        result.run_id = None;
        result.fail(failure);
        result
    }

    /// A run that failed before Codex was started; see [`RunResult::fail`] for one that failed
    /// later.
    pub fn never_started(run_id: impl Into<String>, failure: &Failure) -> Self {
        let mut result = Self::completed(run_id);
        result.fail(failure);
        result
    }

    /// Turns this result into that of a failed run. `status` and `exit_code` follow the kind; the
    /// exit code of a Codex that ended by itself must be set after this, and if none is set the
    /// run counts as never started.
    pub fn fail(&mut self, failure: &Failure) {
        self.success = false;
        (self.status, self.exit_code) = match failure.kind {
            ErrorKind::TimedOut => (Status::TimedOut, EXIT_TIMED_OUT),
            ErrorKind::Cancelled => (Status::Cancelled, EXIT_CANCELLED),
            _ => (Status::Failed, EXIT_NEVER_STARTED),
        };
        self.error = Some(failure.sentence.clone());
        self.error_kind = Some(failure.kind);
        self.retryable = Some(failure.retryable());
    }

    /// The result as it goes to a caller: every list at most [`MAX_LISTED`] long.
    pub fn cut(mut self) -> Self {
        let mut cut = false;
        cut |= cut_list(&mut self.files_changed);
        cut |= cut_list(&mut self.changes);
        cut |= cut_list(&mut self.conflicts);
        cut |= cut_list(&mut self.notes);
        cut |= cut_list(&mut self.stayed_home);
        cut |= cut_list(&mut self.ignored_new);
        cut |= cut_list(&mut self.denied_hosts);
        self.truncated |= cut;
        self
    }

    /// The essentials, for a person or a model: what happened, the files, what to do, the run id.
    pub fn text(&self) -> String {
        let mut text = String::new();
        match &self.error {
            Some(error) => push_paragraph(&mut text, error),
            None => push_paragraph(
                &mut text,
                &format!("Codex completed in {}.", seconds(self.execution_time_ms)),
            ),
        }
        push_paragraph(&mut text, self.output.trim());
        push_paragraph(&mut text, &self.changes_text());
        let run_id = self.run_id.as_deref().unwrap_or_default();
        push_paragraph(&mut text, &ignored::text(&self.ignored_new, run_id));
        if let Some(run_id) = &self.run_id {
            let kept = if self.thread_kept { "; continue_run goes on with its thread" } else { "" };
            push_paragraph(&mut text, &format!("Run {run_id}{kept}"));
        }
        text
    }

    fn changes_text(&self) -> String {
        let run_id = self.run_id.as_deref().unwrap_or_default();
        let applied = self.paths_text(ChangeState::Applied);
        let held = self.paths_text(ChangeState::Held);
        let later = format!(
            "codex_run_diff with run_id \"{run_id}\" shows them, codex_run_apply applies them."
        );
        let mut text = match self.changes_state {
            ChangesState::None if self.success => "No file changed.".to_owned(),
            ChangesState::None => String::new(),
            ChangesState::Applied => format!("Changed in the workspace:{applied}"),
            ChangesState::Partly => {
                format!("Changed in the workspace:{applied}\nHeld, not applied:{held}\n{later}")
            }
            ChangesState::Held => {
                format!("The workspace is unchanged. Held, not applied:{held}\n{later}")
            }
        };
        let run_id = self.run_id.as_deref().unwrap_or_default();
        push_paragraph(&mut text, &conflicts_text(&self.conflicts, run_id));
        if let Some(commits) = &self.commits {
            push_paragraph(&mut text, &commits.text());
        }
        push_notes(&mut text, &self.notes);
        text
    }

    fn paths_text(&self, state: ChangeState) -> String {
        let mut text = String::new();
        let changes = self.changes.iter().filter(|change| change.state == state);
        let line = |change: &ResultChange| {
            let reason = change.reason.as_ref().map(|reason| format!(" ({reason})"));
            format!("{} {}{}", change.kind.as_str(), change.path, reason.unwrap_or_default())
        };
        push_paths(&mut text, changes.map(line));
        text
    }
}

/// Paths in the text at most; clients cut long texts.
const MAX_TEXT_PATHS: usize = 50;

/// What both sides did, that both are safe, and what to do.
fn conflicts_text(conflicts: &[ResultConflict], run_id: &str) -> String {
    if conflicts.is_empty() {
        return String::new();
    }
    let mut text = "Could not be applied:".to_owned();
    push_paths(&mut text, conflicts.iter().map(|c| format!("{} ({})", c.path, c.reason)));
    text.push_str(&format!(
        "\nBoth versions are safe: the workspace has yours, the run folder Codex's. Next: \
         codex_run_apply with run_id \"{run_id}\" and on_conflict \"hold_conflicting\" applies all \
         but these, on_conflict \"markers\" merges text, paths names single ones; for Codex's \
         version of a path first put back there what the run began with."
    ));
    text
}

fn push_paths(text: &mut String, lines: impl Iterator<Item = String>) {
    let mut count = 0;
    for line in lines {
        count += 1;
        if count <= MAX_TEXT_PATHS {
            text.push_str("\n  ");
            text.push_str(&line);
        }
    }
    push_rest(text, count);
}

fn push_notes(text: &mut String, notes: &[String]) {
    for note in notes.iter().take(MAX_TEXT_PATHS) {
        text.push_str(&format!("\nNote: {note}"));
    }
    push_rest(text, notes.len());
}

fn push_rest(text: &mut String, count: usize) {
    if count > MAX_TEXT_PATHS {
        text.push_str(&format!("\n  and {} more", count - MAX_TEXT_PATHS));
    }
}

fn push_paragraph(text: &mut String, paragraph: &str) {
    if paragraph.is_empty() {
        return;
    }
    if !text.is_empty() {
        text.push_str("\n\n");
    }
    text.push_str(paragraph);
}

fn cut_list<T>(list: &mut Vec<T>) -> bool {
    let cut = list.len() > MAX_LISTED;
    list.truncate(MAX_LISTED);
    cut
}

fn seconds(milliseconds: u64) -> String {
    if milliseconds < 1000 {
        return format!("{milliseconds} ms");
    }
    format!("{}.{} s", milliseconds / 1000, milliseconds % 1000 / 100)
}

/// One page of a run's diff.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct DiffPage {
    /// The run.
    pub run_id: String,
    /// What has become of the changes as a whole.
    pub changes_state: ChangesState,
    /// This page, from 1.
    pub page: u64,
    /// Pages in all.
    pub pages: u64,
    /// Unified diff in git's format.
    pub diff: String,
}

mod report;

pub use report::{ApplyReport, ResultMerge, UndoReport};

#[cfg(test)]
mod tests;
