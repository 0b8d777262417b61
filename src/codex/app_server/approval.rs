//! What Codex asks leave for: a command, or an edit.
//!
//! ```text
//!  Codex asks ─┬─ ours, for just this ─────────────> open ── answered once ──> accept or decline
//!              ├─ ours, for more than can be shown ─> open, marked ───────────> decline
//!              └─ of another turn, of another kind ─> refused at once
//! ```
//!
//! An answer holds for the one command or edit it was given for. Nothing that Codex may propose
//! beside it (the same for the session, a rule for commands like it, a host, a directory) is ever
//! granted.

use std::collections::VecDeque;

use serde_json::Value;
use tokio::sync::mpsc;

use super::super::events::{cut, without_shell};

/// Asks whether a command may run.
pub(super) const COMMAND: &str = "item/commandExecution/requestApproval";
/// Asks whether files may be changed.
pub(super) const EDIT: &str = "item/fileChange/requestApproval";

/// Bytes of a command at most.
const MAX_COMMAND: usize = 16 * 1024;
/// Bytes of the diffs of one edit at most.
const MAX_DIFF: usize = 64 * 1024;
/// Paths of one edit at most.
const MAX_FILES: usize = 200;
/// Bytes of a path or a reason at most.
const MAX_NAME: usize = 1024;
/// Edits whose diffs are kept until Codex asks for them.
const MAX_EDITS: usize = 32;
/// Questions that are open at a time.
pub(super) const MAX_OPEN: usize = 32;

/// What Codex asks leave for. Comes out of a container: bounded, but neither cleaned nor redacted.
#[derive(Clone, Debug, PartialEq)]
pub struct Approval {
    /// Goes back with the answer.
    pub id: Value,
    /// What it wants to do.
    pub what: Wanted,
    /// Why, in its own words.
    pub reason: Option<String>,
    /// Why nobody is to be asked, and the answer is no.
    pub refused: Option<&'static str>,
}

/// What Codex wants to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Wanted {
    /// Run a command.
    Command {
        /// Without the shell around it.
        command: String,
        /// Where, in the container.
        cwd: String,
        /// Bytes that were cut off.
        cut: usize,
    },
    /// Change files.
    Edit(Edit),
}

/// A change of files, as Codex announced it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Edit {
    /// Each file: its path, what becomes of it, and the diff.
    pub files: Vec<EditedFile>,
    /// Bytes of diffs, and files, that were cut off.
    pub cut: usize,
}

/// One file of an edit.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EditedFile {
    /// Its path, in the container.
    pub path: String,
    /// `add`, `update`, `delete`, or what else Codex calls it.
    pub kind: String,
    /// Where it goes, if it is moved.
    pub moved_to: Option<String>,
    /// The diff, or the contents of a new file.
    pub diff: String,
}

/// An answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// Of the question.
    pub id: Value,
    /// Whether it may, this one time.
    pub accept: bool,
}

/// The end of those who run Codex: gives questions, takes answers.
#[derive(Debug)]
pub struct Desk {
    pub(crate) questions: mpsc::UnboundedSender<Approval>,
    pub(crate) answers: mpsc::UnboundedReceiver<Answer>,
}

/// The end of those who answer.
#[derive(Debug)]
pub struct Counter {
    /// Questions, in their order; bounded by those that are open.
    pub questions: mpsc::UnboundedReceiver<Approval>,
    /// Answers.
    pub answers: mpsc::UnboundedSender<Answer>,
}

/// Both ends.
pub fn desk() -> (Desk, Counter) {
    let ((asks, questions), (answers, answered)) =
        (mpsc::unbounded_channel(), mpsc::unbounded_channel());
    (Desk { questions: asks, answers: answered }, Counter { questions, answers })
}

/// The edits that Codex announced last, by the id of their item.
#[derive(Debug, Default)]
pub(super) struct Edits(VecDeque<(String, Edit)>);

impl Edits {
    /// Keeps the diff of an item that begins, if it is an edit.
    pub(super) fn note(&mut self, item: &Value) {
        let (Some("fileChange"), Some(id)) = (item["type"].as_str(), item["id"].as_str()) else {
            return;
        };
        if self.0.len() == MAX_EDITS {
            self.0.pop_front();
        }
        self.0.push_back((cut(id, MAX_NAME), edit(&item["changes"])));
    }

    fn take(&mut self, id: &str) -> Option<Edit> {
        // The first of that name: whatever announces it again later cannot put another in its place.
        let at = self.0.iter().position(|(known, _)| known == id)?;
        self.0.remove(at).map(|(_, edit)| edit)
    }
}

fn edit(changes: &Value) -> Edit {
    let changes = changes.as_array().map(Vec::as_slice).unwrap_or_default();
    let mut left = MAX_DIFF;
    let mut edit = Edit { cut: changes.len().saturating_sub(MAX_FILES), ..Edit::default() };
    for change in changes.iter().take(MAX_FILES) {
        let diff = change["diff"].as_str().unwrap_or_default();
        let shown = cut(diff, left);
        left -= shown.len();
        edit.cut += diff.len() - shown.len();
        edit.files.push(EditedFile {
            path: name(&change["path"]),
            kind: name(&change["kind"]["type"]),
            moved_to: change["kind"]["move_path"].as_str().map(|path| cut(path, MAX_NAME)),
            diff: shown,
        });
    }
    edit
}

fn name(value: &Value) -> String {
    cut(value.as_str().unwrap_or_default(), MAX_NAME)
}

/// Reads a request of Codex that is known to be of the turn under way; `None` if it is none for
/// leave.
pub(super) fn read(
    method: &str,
    id: &Value,
    params: &Value,
    edits: &mut Edits,
) -> Option<Approval> {
    let mut refused = None;
    let mut refuse = |when: bool, why| {
        if when && refused.is_none() {
            refused = Some(why);
        }
    };
    let what = match method {
        COMMAND => {
            let whole = without_shell(params["command"].as_str().unwrap_or_default());
            let command = cut(&whole, MAX_COMMAND);
            refuse(params["kind"].as_str() != Some("command"), "it is no command of its own");
            refuse(command.trim().is_empty(), "it names no command");
            refuse(whole.len() > command.len(), "the command is too long to be shown");
            refuse(!params["networkApprovalContext"].is_null(), "it asks for the network");
            refuse(!params["additionalPermissions"].is_null(), "it asks for more permissions");
            let cut = whole.len() - command.len();
            Wanted::Command { command, cwd: name(&params["cwd"]), cut }
        }
        EDIT => {
            let edit = edits.take(params["itemId"].as_str().unwrap_or_default());
            refuse(edit.as_ref().is_none_or(|e| e.files.is_empty()), "its diff was not told");
            refuse(!params["grantRoot"].is_null(), "it asks to write for the rest of the session");
            Wanted::Edit(edit.unwrap_or_default())
        }
        _ => return None,
    };
    let reason = params["reason"].as_str().map(|reason| cut(reason, MAX_NAME));
    Some(Approval { id: id.clone(), what, reason, refused })
}
