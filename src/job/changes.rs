//! What becomes of the changes of a run: kept in its folder always, applied if they may be; and
//! the calls that come back for them later.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::failure::{ErrorKind, Failure};
use crate::path::RelPath;
use crate::record::Record;
use crate::workspace::apply::{Applied, OnConflict, Parts, apply};
use crate::workspace::change::{Change, ChangeSet, ChangeState};
use crate::workspace::git::commits::{Commits, bring_home};
use crate::workspace::lock;
use crate::workspace::{Workspace, diff};

use super::call::{ApplyCall, DiffCall};
use super::result::{ApplyReport, DiffPage, ResultChange, ResultConflict, RunResult};
use super::told::cancelled;
use super::{Orchestrator, blocking, turn};

/// Bytes of a page of a diff; a client's limit for one answer is a few times that.
const PAGE_BYTES: u64 = 24 * 1024;

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
    let lock_timeout = orchestrator.config.workspace.lock_timeout;
    blocking(move || {
        files.save(&set)?;
        let mut outcome = Outcome { set, ..Outcome::default() };
        let told = File::create(&files.diff_patch)
            .and_then(|to| diff::patch(&workspace, &outcome.set, &files.changes_tar, to))
            .map_err(|error| not_recorded(&error));
        outcome.failure = match told {
            Ok(()) if wanted => {
                apply_locked(&workspace, &mut outcome, &files, &state, lock_timeout, &cancel).err()
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
    result.changes = outcome.set.changes.iter().map(shown).collect();
    result.changes_state = outcome.set.state();
    result.conflicts = conflicts(&outcome.applied);
    result.files_changed = outcome
        .set
        .changes
        .iter()
        .filter(|change| change.state == ChangeState::Applied || (proposed && change.is_waiting()))
        .map(|change| change.path.to_string())
        .collect();
    result.notes.extend(notes(&outcome.applied));
}

/// `codex_run_diff`: a page of the diff that was made when the run ended.
pub(super) async fn diff(orchestrator: &Orchestrator, call: DiffCall) -> Result<DiffPage, Failure> {
    let runs = orchestrator.places.runs.clone();
    blocking(move || {
        let (record, _) = ended(&runs, &call.run_id)?;
        let files = Files::of(&record);
        let set = files.load()?;
        let wanted = parse_paths(&call.paths)?;
        let number = call.page as u64;
        let page = if !files.diff_patch.exists() {
            diff::Page { text: String::new(), pages: 1 }
        } else if wanted.is_empty() {
            diff::page(&files.diff_patch, number - 1, PAGE_BYTES).map_err(|e| not_read(&e))?
        } else {
            diff::page_of(&files.diff_patch, &wanted, number - 1, PAGE_BYTES)
                .map_err(|e| not_read(&e))?
        };
        if number > page.pages {
            return Err(Failure::new(
                ErrorKind::InvalidArgument,
                format!("page {number} does not exist; the diff has {} pages", page.pages),
            ));
        }
        Ok(DiffPage {
            run_id: call.run_id,
            changes_state: set.state(),
            page: number,
            pages: page.pages,
            diff: page.text,
        })
    })
    .await
}

/// `codex_run_apply`: applies what is held of a run.
pub(super) async fn apply_held(
    orchestrator: &Orchestrator,
    call: ApplyCall,
) -> Result<ApplyReport, Failure> {
    let runs = orchestrator.places.runs.clone();
    let state_dir = orchestrator.places.state.clone();
    let roots = orchestrator.roots.clone();
    let lock_timeout = orchestrator.config.workspace.lock_timeout;
    blocking(move || {
        let (record, mut result) = ended(&runs, &call.run_id)?;
        let files = Files::of(&record);
        let request = record.request()?;
        let workspace = roots.resolve(request.workspace.to_str(), None)?;
        // Held before reading, so that two calls for one run cannot both apply it.
        let _turn = lock::write(&state_dir, &workspace, lock_timeout).map_err(locked)?;
        let mut set = files.load()?;
        let wanted = parse_paths(&call.paths)?;
        let before: Vec<RelPath> = applied_paths(&set).cloned().collect();
        if let Some(missing) =
            wanted.iter().find(|path| !set.changes.iter().any(|change| change.path.is_within(path)))
        {
            return Err(Failure::new(
                ErrorKind::InvalidArgument,
                format!("the run changed nothing at {missing}; name paths as the result has them"),
            ));
        }
        let commits_wait = result.commits.as_ref().is_some_and(Commits::wait);
        if set.changes.iter().all(|change| change.state == ChangeState::Applied) && !commits_wait {
            return Err(Failure::new(
                ErrorKind::InvalidArgument,
                "every change of this run is applied already; there is nothing left to apply",
            ));
        }
        set.allow(&wanted);
        let parts = Parts { run: &call.run_id, folder: record.folder(), state: &state_dir };
        let applied = apply(&workspace, &mut set, &wanted, OnConflict::HoldAll, &parts)?;
        let files_changed: Vec<String> = applied_paths(&set)
            .filter(|path| !before.contains(path))
            .map(ToString::to_string)
            .collect();
        let notes = notes(&applied);
        if wanted.is_empty() {
            result.commits = bring_home(&workspace, &parts).or(result.commits);
        }
        result.changes = set.changes.iter().map(shown).collect();
        result.changes_state = set.state();
        let conflicts = conflicts(&applied);
        let settled = |path: &str| files_changed.iter().any(|changed| changed == path);
        result.conflicts.retain(|known| {
            !settled(&known.path) && !conflicts.iter().any(|conflict| conflict.path == known.path)
        });
        result.conflicts.extend(conflicts.iter().cloned());
        result.files_changed = applied_paths(&set).map(ToString::to_string).collect();
        result.ignored_new.retain(|ignored| !(ignored.held && settled(&ignored.path)));
        result.notes.extend(notes.iter().cloned());
        record.replace_result(&result)?;
        Ok(ApplyReport {
            run_id: call.run_id,
            changes_state: result.changes_state,
            files_changed,
            changes: result.changes,
            conflicts,
            notes,
            commits: result.commits.filter(|_| wanted.is_empty()),
            truncated: false,
        }
        .cut())
    })
    .await
}

/// Where the parts of a change set are in a run's folder.
struct Files {
    changes_json: PathBuf,
    changes_tar: PathBuf,
    diff_patch: PathBuf,
}

impl Files {
    fn of(record: &Record) -> Self {
        Self {
            changes_json: record.changes_json(),
            changes_tar: record.changes_tar(),
            diff_patch: record.diff_patch(),
        }
    }

    fn save(&self, set: &ChangeSet) -> Result<(), Failure> {
        crate::record::write_json(&self.changes_json, set).map_err(Failure::from)
    }

    fn load(&self) -> Result<ChangeSet, Failure> {
        match std::fs::read(&self.changes_json) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| not_read(&error.into())),
            // A run that changed nothing has no change set.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(ChangeSet::default()),
            Err(error) => Err(not_read(&error)),
        }
    }
}

/// The record of a run that has ended.
fn ended(runs: &Path, run_id: &str) -> Result<(Record, RunResult), Failure> {
    let record = Record::open(runs, run_id)?;
    let result = record.result()?.ok_or_else(|| {
        Failure::new(
            ErrorKind::InvalidArgument,
            format!("run {run_id} has not ended; wait for its result"),
        )
    })?;
    Ok((record, result))
}

/// Applies under the workspace's lock; the states are saved whatever comes of it.
fn apply_locked(
    workspace: &Workspace,
    outcome: &mut Outcome,
    files: &Files,
    state: &Path,
    lock_timeout: Duration,
    cancel: &CancellationToken,
) -> Result<(), Failure> {
    let folder = files.changes_json.parent().unwrap_or(Path::new("."));
    let run = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let _turn = turn::unless(cancel, lock::write, state, workspace, lock_timeout)
        .map_err(locked)?
        .ok_or_else(cancelled)?;
    let parts = Parts { run: &run, folder, state };
    outcome.applied = apply(workspace, &mut outcome.set, &[], OnConflict::HoldAll, &parts)?;
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

fn conflicts(applied: &Applied) -> Vec<ResultConflict> {
    applied
        .conflicts
        .iter()
        .map(|conflict| ResultConflict {
            path: conflict.path.to_string(),
            reason: conflict.reason.clone(),
        })
        .collect()
}

/// What the user must know of an apply besides the paths.
fn notes(applied: &Applied) -> Vec<String> {
    let kept = applied.kept.iter().map(|kept| {
        format!(
            "what was saved at {} while the changes were applied is in {}",
            kept.path,
            kept.file.display()
        )
    });
    applied.notes.iter().cloned().chain(kept).collect()
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
