//! A run that has ended, also one whose server was killed in the middle of it.
//!
//! ```text
//!  result.json there ── nothing became of the changes since ──────> it
//!         │             └─ something did, and its process was killed ─> it, brought up to date
//!         │ none
//!         ├── its server lives, or nobody can tell ────────────────> not ended
//!         └── its server is dead ── changes.json there ────────────> a result that says so, with
//!                                │                                   the changes as they are
//!                                └─ none ──────────────────────────> a result that says so
//! ```

use std::fs::File;

use super::changes::{Files, tell_state};
use super::result::RunResult;
use super::{LOCK_TIMEOUT, Places};
use crate::failure::{ErrorKind, Failure};
use crate::pool::owner::{Alive, alive};
use crate::record::Record;
use crate::workspace::apply::recover;
use crate::workspace::change::{ChangeSet, ChangesState};
use crate::workspace::root::Roots;
use crate::workspace::{diff, lock};

/// A run that has ended.
#[derive(Debug)]
pub struct Ended {
    /// Its folder.
    pub record: Record,
    /// Its result.
    pub result: RunResult,
}

/// Finds a run that has ended. Where its server was killed before there was a result, an apply that
/// was under way is brought to its end, and a result is written that says what there is. Blocking.
///
/// # Errors
///
/// There is no such run, it goes on, or its folder cannot be read or written.
pub fn ended(places: &Places, roots: &Roots, run_id: &str) -> Result<Ended, Failure> {
    let record = Record::open(&places.runs, run_id)?;
    match record.result()? {
        Some(result) if !record.has_later_changes() => return Ok(Ended { record, result }),
        Some(_) => {}
        None => server_is_dead(&record, places)?,
    }
    // A turn, because an apply that was interrupted is brought to its end before anybody has one,
    // and one that goes on is waited for. A workspace that is gone has none.
    let workspace = record
        .request()
        .ok()
        .and_then(|request| roots.resolve(request.workspace.to_str(), None).ok());
    let _turn = match &workspace {
        Some(workspace) => Some(
            lock::read(&places.state, workspace, LOCK_TIMEOUT)
                .map_err(|error| Failure::new(ErrorKind::ApplyFailed, error.to_string()))?,
        ),
        None => None,
    };
    let files = Files::of(&record);
    let set = files.load()?;
    // It may have ended in between, and another call may have written this.
    let mut result = match record.result()? {
        Some(result) if !record.has_later_changes() => return Ok(Ended { record, result }),
        Some(result) => result,
        None => {
            // The patch may be cut off; once something is applied it was written before that.
            if let (Some(workspace), ChangesState::Held) = (&workspace, set.state()) {
                let patch = File::create(&files.diff_patch)
                    .and_then(|to| diff::patch(workspace, &set, &files.changes_tar, to));
                if let Err(error) = patch {
                    tracing::warn!(run_id, %error, "the diff of a run could not be written");
                }
            }
            RunResult::never_started(run_id, &killed(&set, files.changes_json.exists()))
        }
    };
    tell_state(&mut result, &set);
    for note in recover::notes(record.folder()) {
        if !result.notes.contains(&note) {
            result.notes.push(note);
        }
    }
    record.replace_result(&result)?;
    Ok(Ended { record, result })
}

/// Refuses a run that goes on, or may.
fn server_is_dead(record: &Record, places: &Places) -> Result<(), Failure> {
    let goes_on = |advice: &str| {
        let sentence = format!("run {} has not ended{advice}", record.id());
        Err(Failure::new(ErrorKind::InvalidArgument, sentence))
    };
    // Without a request nobody knows whose it is.
    let owner = record.request().ok().and_then(|request| request.owner);
    match owner.map(|owner| alive(&owner, &places.state)) {
        Some(Alive::No) => Ok(()),
        Some(Alive::Yes) => goes_on("; wait for its result"),
        Some(Alive::Unknown) | None => goes_on(&format!(
            ", or its server was killed and nobody here can tell; what there is of it is in {}",
            record.folder().display()
        )),
    }
}

/// What is told of a run whose server was killed.
fn killed(set: &ChangeSet, collected: bool) -> Failure {
    let fate = match set.state() {
        ChangesState::None if !collected => {
            "what Codex had changed was not collected; call codex_run again"
        }
        ChangesState::None => "Codex had changed nothing",
        ChangesState::Held => {
            "what Codex had changed is held: look at it with codex_run_diff, codex_run_apply \
             applies it"
        }
        ChangesState::Applied => "what Codex had changed is applied: codex_run_undo takes it back",
        ChangesState::Partly => {
            "a part of what Codex had changed is applied, the rest is held: codex_run_apply \
             applies it, codex_run_undo takes the other part back"
        }
    };
    Failure::new(
        ErrorKind::Internal,
        format!("the server ended before the run had a result; {fate}"),
    )
}
