//! What becomes of the changes of a run: kept in its folder always, applied if they may be; and
//! the calls that come back for them later.

pub(super) mod later;
pub(super) mod undo;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::config::workspace::WorkspaceConfig;
use crate::failure::{ErrorKind, Failure};
use crate::path::RelPath;
use crate::record::Record;
use crate::workspace::apply::{Applied, Kept, OnConflict, Parts, apply};
use crate::workspace::change::{Change, ChangeKind, ChangeSet, ChangeState};
use crate::workspace::lock;
use crate::workspace::{Workspace, diff};

use super::result::{ResultChange, ResultConflict, RunResult};
use super::told::cancelled;
use super::{Orchestrator, blocking, turn};

/// How `[workspace]` says that changes are written.
#[derive(Clone, Copy, Debug)]
pub(super) struct How {
    /// What becomes of the rest where both sides changed a path.
    pub(super) on_conflict: OnConflict,
    /// How long others who read or write the workspace are waited for.
    pub(super) lock_timeout: Duration,
}

impl How {
    pub(super) fn of(config: &WorkspaceConfig) -> Self {
        Self { on_conflict: config.on_conflict, lock_timeout: config.lock_timeout }
    }
}

/// What became of a change set that is kept.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    set: ChangeSet,
    applied: Applied,
    /// What went wrong after it was kept; `set` says what was applied all the same.
    pub(super) failure: Option<Failure>,
}

impl Outcome {
    /// Whether the run made a repository at the top of a workspace that was sent without one.
    pub(super) fn repository_made(&self) -> bool {
        self.set.changes.iter().any(|change| change.path.as_bytes() == b".git")
    }
}

/// Keeps a change set in the run's folder, with its diff, and applies it if that is `wanted`,
/// unless `cancel` comes first.
///
/// # Errors
///
/// The run's folder cannot be written, so the change set is lost. Nothing of it is applied then.
pub(super) async fn keep_and_apply(
    orchestrator: &Orchestrator,
    workspace: &Workspace,
    record: &Record,
    set: ChangeSet,
    wanted: bool,
    cancel: CancellationToken,
) -> Result<Outcome, Failure> {
    if set.changes.is_empty() {
        return Ok(Outcome { set, ..Outcome::default() });
    }
    let files = Files::of(record);
    let workspace = workspace.clone();
    let state = orchestrator.places.state.clone();
    let how = How::of(&orchestrator.settings().config.workspace);
    blocking(move || {
        files.save(&set)?;
        let mut outcome = Outcome { set, ..Outcome::default() };
        let told = File::create(&files.diff_patch)
            .and_then(|to| diff::patch(&workspace, &outcome.set, &files.changes_tar, to))
            .map_err(|error| not_recorded(&error));
        outcome.failure = match told {
            Ok(()) if wanted => {
                apply_locked(&workspace, &mut outcome, &files, &state, how, &cancel).err()
            }
            told => told.err(),
        };
        Ok::<_, Failure>(outcome)
    })
    .await
}

/// Puts what became of the changes into a result. `proposed`: the held ones are what the caller
/// asked for, so they count as changed files.
pub(super) fn tell(result: &mut RunResult, outcome: &Outcome, proposed: bool) {
    tell_state(result, &outcome.set);
    result.conflicts = conflicts(&outcome.applied, &outcome.set);
    if proposed {
        let proposed = outcome.set.changes.iter().filter(|change| change.is_waiting());
        result.files_changed.extend(proposed.map(|change| change.path.to_string()));
        result.files_changed.sort();
    }
    result.notes.extend(notes(&outcome.applied.notes, &outcome.applied.kept));
}

/// Puts the changes as they are now into a result.
pub(super) fn tell_state(result: &mut RunResult, set: &ChangeSet) {
    result.changes = shown_all(set);
    result.changes_state = set.state();
    result.files_changed = applied_paths(set).map(ToString::to_string).collect();
}

/// Where the parts of a change set are in a run's folder.
pub(super) struct Files {
    pub(super) changes_json: PathBuf,
    pub(super) changes_tar: PathBuf,
    pub(super) diff_patch: PathBuf,
}

impl Files {
    pub(super) fn of(record: &Record) -> Self {
        Self {
            changes_json: record.changes_json(),
            changes_tar: record.changes_tar(),
            diff_patch: record.diff_patch(),
        }
    }

    fn save(&self, set: &ChangeSet) -> Result<(), Failure> {
        crate::record::write_json(&self.changes_json, set).map_err(Failure::from)
    }

    pub(super) fn load(&self) -> Result<ChangeSet, Failure> {
        match std::fs::read(&self.changes_json) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| not_read(&error.into())),
            // A run that changed nothing has no change set.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(ChangeSet::default()),
            Err(error) => Err(not_read(&error)),
        }
    }
}

/// Applies under the workspace's lock; the states are saved whatever comes of it.
fn apply_locked(
    workspace: &Workspace,
    outcome: &mut Outcome,
    files: &Files,
    state: &Path,
    how: How,
    cancel: &CancellationToken,
) -> Result<(), Failure> {
    let folder = files.changes_json.parent().unwrap_or(Path::new("."));
    let run = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let _turn = turn::unless(cancel, lock::write, state, workspace, how.lock_timeout)
        .map_err(locked)?
        .ok_or_else(cancelled)?;
    let parts = Parts { run: &run, folder, state };
    outcome.applied = apply(workspace, &mut outcome.set, &[], how.on_conflict, &parts)?;
    Ok(())
}

fn applied_paths(set: &ChangeSet) -> impl Iterator<Item = &RelPath> {
    set.changes
        .iter()
        .filter(|change| change.state == ChangeState::Applied)
        .map(|change| &change.path)
}

fn parse_paths(paths: &[String]) -> Result<Vec<RelPath>, Failure> {
    paths
        .iter()
        .map(|path| {
            RelPath::parse(path.trim_end_matches('/')).map_err(|error| {
                Failure::new(
                    ErrorKind::InvalidArgument,
                    format!("paths has {path:?}, which is no path in the workspace: {error}"),
                )
            })
        })
        .collect()
}

/// The changes that a call is about: those at the given paths and below them, else all that count.
///
/// # Errors
///
/// The run changed nothing at one of the paths.
fn chosen<'a>(set: &'a ChangeSet, wanted: &[RelPath]) -> Result<Vec<&'a Change>, Failure> {
    let within = |path: &RelPath| set.changes.iter().any(|change| change.path.is_within(path));
    if let Some(missing) = wanted.iter().find(|path| !within(path)) {
        return Err(Failure::new(
            ErrorKind::InvalidArgument,
            format!("the run changed nothing at {missing}; name paths as the result has them"),
        ));
    }
    let chosen = |change: &&Change| match wanted {
        [] => change.counts(),
        _ => wanted.iter().any(|path| change.path.is_within(path)),
    };
    Ok(set.changes.iter().filter(chosen).collect())
}

/// The conflicts of an apply, with what each side did.
fn conflicts(applied: &Applied, set: &ChangeSet) -> Vec<ResultConflict> {
    let by_codex = |path: &RelPath| set.at(path).map_or("changed", |change| did(change.kind));
    applied
        .conflicts
        .iter()
        .map(|conflict| ResultConflict {
            path: conflict.path.to_string(),
            reason: format!("{} by Codex; {}", by_codex(&conflict.path), conflict.reason),
        })
        .collect()
}

/// What Codex did, as in "... by Codex".
fn did(kind: ChangeKind) -> &'static str {
    match kind {
        ChangeKind::Added => "added",
        ChangeKind::Modified => "modified",
        ChangeKind::Deleted => "deleted",
        ChangeKind::Mode => "made executable or no longer so",
        ChangeKind::Link => "made a link",
        ChangeKind::Directory => "made a directory",
    }
}

/// What the user must know of an apply besides the paths.
fn notes(notes: &[String], kept: &[Kept]) -> Vec<String> {
    let kept = kept.iter().map(|kept| {
        format!(
            "what was saved at {} while the changes were applied is in {}",
            kept.path,
            kept.file.display()
        )
    });
    notes.iter().cloned().chain(kept).collect()
}

/// Every change as a result has it. New files that git ignores are no part of it until somebody
/// asks for them; `ignored_new` names them.
fn shown_all(set: &ChangeSet) -> Vec<ResultChange> {
    set.changes.iter().filter(|change| change.counts()).map(shown).collect()
}

fn shown(change: &Change) -> ResultChange {
    ResultChange {
        path: change.path.to_string(),
        kind: change.kind,
        bytes: change.bytes,
        state: change.state,
        reason: change.reason.clone(),
    }
}

pub(super) fn locked(error: lock::LockError) -> Failure {
    Failure::new(ErrorKind::ApplyFailed, format!("{error}; the changes are held, apply them later"))
}

fn not_recorded(error: &io::Error) -> Failure {
    Failure::new(
        ErrorKind::ApplyFailed,
        format!("the run's folder cannot be written ({error}); check runs.dir and its disk"),
    )
}

fn not_read(error: &io::Error) -> Failure {
    Failure::new(
        ErrorKind::Internal,
        format!("the run's folder cannot be read ({error}); was it changed by hand?"),
    )
}

#[cfg(test)]
mod tests;
