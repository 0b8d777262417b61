//! `codex_run_undo`: takes back what was applied of a run.

use std::time::Duration;

use crate::failure::{ErrorKind, Failure};
use crate::job::call::UndoCall;
use crate::job::ended::{Ended, ended};
use crate::job::result::{MAX_LISTED, ResultConflict, UndoReport};
use crate::job::{Orchestrator, Places, blocking};
use crate::workspace::apply::{ApplyError, Parts};
use crate::workspace::change::{ChangeSet, ChangeState, ChangesState};
use crate::workspace::git::commits::take_back;
use crate::workspace::lock::{self, LockError};
use crate::workspace::root::Roots;
use crate::workspace::undo;

use super::{Files, chosen, notes, parse_paths};

/// Takes back what was applied of a run, all of it or by path. What was edited since stays as it
/// is, and the rest is taken back all the same.
pub(in crate::job) async fn undo(
    orchestrator: &Orchestrator,
    call: UndoCall,
) -> Result<UndoReport, Failure> {
    let places = orchestrator.places.clone();
    let settings = orchestrator.settings();
    let roots = settings.roots.clone();
    let lock_timeout = settings.config.workspace.lock_timeout;
    blocking(move || undo_now(&places, &roots, lock_timeout, call)).await
}

pub(super) fn undo_now(
    places: &Places,
    roots: &Roots,
    lock_timeout: Duration,
    call: UndoCall,
) -> Result<UndoReport, Failure> {
    let Ended { record, .. } = ended(places, roots, lock_timeout, &call.run_id)?;
    let _stays = record.share()?;
    let files = Files::of(&record);
    let workspace = roots.resolve(record.request()?.workspace.to_str(), None)?;
    // Held before reading, so that two calls for one run do not both take it back.
    let _turn = lock::write(&places.state, &workspace, lock_timeout).map_err(locked)?;
    let mut set = files.load()?;
    let wanted = parse_paths(&call.paths)?;
    check_applied(&set, &wanted)?;
    let parts = Parts { run: &call.run_id, folder: record.folder(), state: &places.state };
    let undone = undo::undo(&workspace, &mut set, &wanted, &parts).map_err(failed)?;
    let notes = notes(&undone.notes, &undone.kept);
    // The branch goes back with all of the files, or not at all.
    let whole = wanted.is_empty() && undone.refused.is_empty();
    let commits = if whole { take_back(&workspace, &parts) } else { None };
    if let Some(mut result) = record.result()? {
        super::tell_state(&mut result, &set);
        result.notes.extend(notes.iter().cloned());
        result.notes.truncate(MAX_LISTED);
        if commits.is_some() {
            result.commits.clone_from(&commits);
        }
        record.replace_result(&result)?;
    }
    let refused = undone.refused.iter().map(|conflict| ResultConflict {
        path: conflict.path.to_string(),
        reason: conflict.reason.clone(),
    });
    Ok(UndoReport {
        run_id: call.run_id,
        changes_state: set.state(),
        files_changed: undone.paths.iter().map(ToString::to_string).collect(),
        refused: refused.collect(),
        changes: super::shown_all(&set),
        notes,
        commits,
        truncated: false,
    }
    .cut())
}

/// Refuses paths that the run did not change, and those of which nothing is applied.
fn check_applied(set: &ChangeSet, wanted: &[crate::path::RelPath]) -> Result<(), Failure> {
    let chosen = chosen(set, wanted)?;
    if chosen.iter().any(|change| change.state == ChangeState::Applied) {
        return Ok(());
    }
    let sentence = match (set.state(), wanted) {
        (ChangesState::None, []) => "this run changed nothing; there is nothing to undo".to_owned(),
        (_, []) => "nothing of this run is applied (its changes are held), so there is nothing to \
                    undo; codex_run_apply applies them"
            .to_owned(),
        (_, [path, ..]) => format!(
            "the change of {path} is not applied (it is held), so there is nothing to undo at it; \
             codex_run_apply applies it"
        ),
    };
    Err(Failure::new(ErrorKind::InvalidArgument, sentence))
}

fn failed(error: ApplyError) -> Failure {
    let sentence = match error {
        ApplyError::Unrecorded { .. } => error.to_string(),
        error => format!("the changes could not be taken back, {error}; mend this and call again"),
    };
    Failure::new(ErrorKind::ApplyFailed, sentence)
}

fn locked(error: LockError) -> Failure {
    Failure::new(ErrorKind::ApplyFailed, format!("{error}; nothing was taken back, call again"))
}
