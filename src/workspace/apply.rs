//! Writes a change set into the user's files: all of it or nothing.
//!
//! ```text
//!  look ──> stage ──> step, step, … ──> check ──> commit
//!   │         │             │              │
//!   │conflict │failed       │either        │changed
//!   ▼         ▼             ▼              ▼
//!  held     sweep       undo in reverse, sweep ──> held
//! ```
//!
//! *Look* compares every path three ways and keeps the base bytes in `before.tar`. *Stage* writes
//! all new contents beside their targets. The *steps* are in [`self::step`]; none of them
//! destroys anything. Only *commit* lets go of what was displaced.

mod before;
#[cfg(test)]
mod editor_tests;
mod lease;
#[cfg(test)]
mod properties;
mod settle;
mod stage;
mod step;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use self::before::Before;
use self::stage::{Names, StageError, stage};
pub use self::step::Kept;
use self::step::{Stop, Work};
use super::change::{Change, ChangeKind, ChangeSet, ChangeState};
use super::conflict::{Decision, HostNow, decide};
use super::host::Host;
use super::{NodeKind, Workspace};
use crate::failure::{ErrorKind, Failure};
use crate::path::RelPath;

/// Up to so many new files are brought to the disk one by one; more of them by one flush of the
/// whole file system, which may have other work of its own to write.
const FEW: usize = 16;

/// A path that both sides changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conflict {
    /// Which.
    pub path: RelPath,
    /// How.
    pub reason: String,
}

/// What became of a change set.
#[derive(Clone, Debug, Default)]
pub struct Applied {
    /// Paths that both sides changed. If there are any, nothing was applied (but for a save in
    /// the very moment of the commit, which keeps its own path back alone).
    pub conflicts: Vec<Conflict>,
    /// How many changes the workspace has now.
    pub applied: usize,
    /// What the user saved while the change set was applied and could not stay in its place.
    pub kept: Vec<Kept>,
    /// Sentences for the user: ways that were less than the best, and what was left behind.
    pub notes: Vec<String>,
}

/// Why a change set could not be applied. The workspace is as before.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The host refused.
    #[error("cannot {verb} {path}: {source}{}", tail(.left))]
    Host {
        /// What was tried.
        verb: &'static str,
        /// With which path.
        path: String,
        /// Why not.
        source: io::Error,
        /// What could not be put right after it.
        left: Vec<String>,
    },
    /// `changes.tar` is gone or damaged.
    #[error("cannot use {path}: {reason}{}", tail(.left))]
    Archive {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
        /// What could not be put right after it.
        left: Vec<String>,
    },
}

fn tail(left: &[String]) -> String {
    left.iter().map(|sentence| format!("; {sentence}")).collect()
}

impl From<ApplyError> for Failure {
    fn from(error: ApplyError) -> Self {
        Self::new(
            ErrorKind::ApplyFailed,
            format!(
                "the change set could not be applied, {error}; it is held, mend this and call \
                 codex_run_apply"
            ),
        )
    }
}

/// Where an apply stands; tests do things there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Point {
    Looked,
    Staged,
    Stepped,
    Checked,
    Undoing,
}

/// What becomes of a change set of which some paths cannot be applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnConflict {
    /// Nothing is applied: half a change is a broken tree.
    #[default]
    HoldAll,
    /// The rest is applied.
    HoldConflicting,
}

/// Where an apply has its parts.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a> {
    /// The run id.
    pub run: &'a str,
    /// The run's folder, with `changes.json` and `changes.tar`; `before.tar` and, if need be, the
    /// folder `kept` are written there.
    pub folder: &'a Path,
    /// The state directory, where the journal is.
    pub state: &'a Path,
}

/// Which way a transaction goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Direction {
    /// The changes go into the workspace. What succeeds becomes `applied`, with its pre-image.
    Apply,
    /// They go out of it again. What succeeds becomes `held`, with the reason [`UNDONE`]; what does
    /// not stays `applied`, with the reason why.
    Undo,
}

/// The reason of a change that was undone.
pub(crate) const UNDONE: &str = "undone";

/// What one transaction shall do.
#[derive(Debug)]
pub(crate) struct Order<'a> {
    /// Which way.
    pub(crate) direction: Direction,
    /// Every path with what the host must have there (`base`) and what it gets (`new`, whose
    /// `offset` is in `archive`). To undo, these are the other way round than in the change set,
    /// and `before` has the owner, mode, time and attributes that `new` gets back. States, reasons
    /// and holds are not looked at.
    pub(crate) wanted: Vec<Change>,
    /// The tar file that has the new bytes: `changes.tar` to apply, `before.tar` to undo.
    pub(crate) archive: &'a Path,
    /// What becomes of the rest if some paths are refused.
    pub(crate) on_conflict: OnConflict,
    /// The run, its folder and the state directory. What is displaced goes into the folder's
    /// `before.tar` when applying; to undo it is in `changes.tar` already.
    pub(crate) parts: Parts<'a>,
}

/// Applies every change of the part `only` (empty: all) that is [waiting](Change::is_waiting),
/// sets the states and reasons in `changes`, and saves it as `changes.json`. Blocks; the caller has
/// the workspace's [turn to write](super::lock::write).
///
/// # Errors
///
/// Whatever the host refuses, such as a full disk; every step is undone before it is returned.
/// A conflict is no error.
pub fn apply(
    workspace: &Workspace,
    changes: &mut ChangeSet,
    only: &[RelPath],
    on_conflict: OnConflict,
    parts: &Parts<'_>,
) -> Result<Applied, ApplyError> {
    let _ = (on_conflict, parts.state, UNDONE, Direction::Undo);
    let _ = Direction::Apply;
    let mut chosen =
        if only.is_empty() { std::mem::take(changes) } else { changes.split_off(only) };
    let archive = parts.folder.join("changes.tar");
    let applied = apply_at(workspace, &mut chosen, &archive, parts.run, &mut |_| {});
    changes.merge(chosen);
    let set = parts.folder.join("changes.json");
    crate::record::write_json(&set, changes).map_err(|error| ApplyError::Archive {
        path: set,
        reason: error.to_string(),
        left: Vec::new(),
    })?;
    applied
}

// The heart of both directions, which `workspace::undo` calls too:
// pub(crate) fn transact(workspace: &Workspace, set: &mut ChangeSet, order: Order<'_>) -> Result<Applied, ApplyError>
// `set` is the whole change set as it is saved; `transact` sets its states, reasons, bases and
// pre-images for the paths of `order.wanted`, by `order.direction`, and saves it as changes.json.

pub(super) fn apply_at(
    workspace: &Workspace,
    changes: &mut ChangeSet,
    archive: &Path,
    run: &str,
    at: &mut dyn FnMut(Point),
) -> Result<Applied, ApplyError> {
    let waiting: Vec<&Change> = changes.changes.iter().filter(|c| c.is_waiting()).collect();
    if waiting.is_empty() {
        return Ok(Applied::default());
    }
    let folder = archive.parent().unwrap_or(Path::new("."));
    let plan = Plan::new(&waiting);
    let mut work = Work::new(Host::of(workspace), Names::of(run), folder.join("kept"));
    let mut staged = BTreeMap::new();
    let mut stays = BTreeSet::new();
    let ended = plan.look(&work.host, &folder.join("before.tar")).and_then(|todo| {
        at(Point::Looked);
        plan.stage(&mut work, &todo, archive, &mut staged)?;
        at(Point::Staged);
        plan.steps(&mut work, &todo, &staged, &mut stays, at)?;
        work.check().map_err(|(path, reason)| End::conflict(&path, reason))?;
        at(Point::Checked);
        Ok(())
    });
    let committed = ended.is_ok();
    let conflicts = match ended {
        Ok(()) => work.commit(),
        Err(end) => {
            work.undo(|| at(Point::Undoing));
            work.sweep(staged.values());
            match end {
                End::Conflicts(conflicts) => conflicts,
                End::Failed(error) => {
                    let kept = work.kept.iter().map(|kept| {
                        format!("an earlier version of {} is {}", kept.path, kept.file.display())
                    });
                    let left = work.left.iter().cloned().chain(kept).collect();
                    return Err(error.with_left(left));
                }
            }
        }
    };
    let conflicts: BTreeMap<RelPath, String> = conflicts.into_iter().collect();
    let mut applied = Applied { kept: work.kept, ..Applied::default() };
    applied.notes.extend(work.notes);
    applied.notes.extend(work.left);
    for change in changes.changes.iter_mut().filter(|c| c.is_waiting()) {
        if let Some(reason) = conflicts.get(&change.path) {
            change.reason = Some(reason.clone());
        } else if stays.contains(&change.path) {
            change.reason = Some("still has files that are no part of the change".into());
        } else if !committed {
            change.reason = Some("held because other paths are in conflict".into());
        } else {
            change.state = ChangeState::Applied;
            change.reason = None;
            applied.applied += 1;
        }
    }
    applied.conflicts =
        conflicts.into_iter().map(|(path, reason)| Conflict { path, reason }).collect();
    Ok(applied)
}

/// How an apply ends before its commit.
enum End {
    Conflicts(Vec<(RelPath, String)>),
    Failed(ApplyError),
}

impl End {
    fn conflict(path: &RelPath, reason: impl Into<String>) -> Self {
        Self::Conflicts(vec![(path.clone(), reason.into())])
    }

    fn host(verb: &'static str, path: &RelPath, source: impl Into<io::Error>) -> Self {
        let (path, source) = (path.to_string(), source.into());
        Self::Failed(ApplyError::Host { verb, path, source, left: Vec::new() })
    }

    fn archive(path: &Path, reason: impl ToString) -> Self {
        let (path, reason) = (path.to_owned(), reason.to_string());
        Self::Failed(ApplyError::Archive { path, reason, left: Vec::new() })
    }

    fn of(stop: Stop, verb: &'static str, path: &RelPath) -> Self {
        match stop {
            Stop::Conflict(reason) => Self::conflict(path, reason),
            Stop::StaysHome => {
                Self::conflict(path, "the directory there still has files that stayed home")
            }
            Stop::Failed(source) => Self::host(verb, path, source),
        }
    }
}

impl ApplyError {
    fn with_left(mut self, sentences: Vec<String>) -> Self {
        match &mut self {
            Self::Host { left, .. } | Self::Archive { left, .. } => *left = sentences,
        }
        self
    }
}

/// The changes of one apply.
struct Plan<'a> {
    waiting: &'a [&'a Change],
    by_path: BTreeMap<&'a RelPath, &'a Change>,
}

impl<'a> Plan<'a> {
    fn new(waiting: &'a [&'a Change]) -> Self {
        Self { waiting, by_path: waiting.iter().map(|change| (&change.path, *change)).collect() }
    }

    /// Compares every path; gives those that must be written.
    fn look(&self, host: &Host, before: &Path) -> Result<Vec<&'a Change>, End> {
        let mut archive = Before::open(before).map_err(|e| End::archive(before, e))?;
        let mut todo = Vec::new();
        let mut conflicts = Vec::new();
        for change in self.waiting {
            let path = &change.path;
            let now = match &change.base {
                Some(base) => archive.keep(host, path, base),
                None => host.look(path, &mut io::sink()),
            };
            let now = match now {
                Err(error) => match Errno::from_io_error(&error) {
                    // A file is above it, so there is nothing here.
                    Some(Errno::NOTDIR) => HostNow::Absent,
                    Some(Errno::LOOP) if self.has_link_above(path) => HostNow::Absent,
                    Some(Errno::LOOP) => {
                        let reason = "a directory above it became a link on the host";
                        conflicts.push((path.clone(), reason.into()));
                        continue;
                    }
                    Some(Errno::INVAL | Errno::NXIO) => HostNow::Special,
                    Some(Errno::NOSPC | Errno::DQUOT) => return Err(End::archive(before, error)),
                    _ => return Err(End::host("read", path, error)),
                },
                Ok(now) => now,
            };
            match decide(change.base.as_ref(), change.new.as_ref(), &now) {
                Decision::Apply => todo.push(*change),
                Decision::Nothing => {}
                Decision::Conflict(reason) => conflicts.push((path.clone(), reason.into())),
            }
        }
        archive.finish().map_err(|e| End::archive(before, e))?;
        match conflicts.is_empty() {
            true => Ok(todo),
            false => Err(End::Conflicts(conflicts)),
        }
    }

    /// Whether a link above the path is replaced by a directory in this very change set.
    fn has_link_above(&self, path: &RelPath) -> bool {
        std::iter::successors(path.parent(), RelPath::parent).any(|above| {
            self.by_path.get(&above).is_some_and(|change| {
                change.base.as_ref().is_some_and(|base| base.kind == NodeKind::Link)
            })
        })
    }

    /// The nearest directory above that is one before and after: where temporary files go, so
    /// that none of them is in a directory that is about to go, or not there yet.
    fn home(&self, path: &RelPath) -> Option<RelPath> {
        std::iter::successors(path.parent(), RelPath::parent)
            .find(|above| !self.by_path.contains_key(above))
            .filter(|home| {
                // Above `home` nothing may change either.
                std::iter::successors(home.parent(), RelPath::parent)
                    .all(|above| !self.by_path.contains_key(&above))
            })
    }

    fn stage(
        &self,
        work: &mut Work,
        todo: &[&Change],
        archive: &Path,
        staged: &mut BTreeMap<RelPath, RelPath>,
    ) -> Result<(), End> {
        let bytes = File::open(archive).map_err(|e| End::archive(archive, e))?;
        let few = todo.len() <= FEW;
        for change in todo {
            let Some(new) = change.new.as_ref().filter(|new| new.kind != NodeKind::Directory)
            else {
                continue;
            };
            if change.kind == ChangeKind::Mode {
                continue;
            }
            let path = &change.path;
            let old = match &change.base {
                Some(base) if base.kind == NodeKind::File => {
                    Some(work.host.open(path).map_err(|e| End::of(e.into(), "read", path))?)
                }
                _ => None,
            };
            let home = self.home(path);
            let temp = stage(&work.host, &mut work.names, home.as_ref(), new, &bytes, old.as_ref());
            match temp {
                Ok(temp) => {
                    staged.insert(path.clone(), temp.clone());
                    if few && new.kind == NodeKind::File {
                        let file = work.host.open(&temp).map_err(io::Error::from);
                        file.and_then(|file| file.sync_data())
                            .map_err(|e| End::host("write", path, e))?;
                    }
                }
                Err(StageError::Damaged) => {
                    return Err(End::archive(archive, StageError::Damaged));
                }
                Err(StageError::Io(error)) => {
                    return Err(match Errno::from_io_error(&error) {
                        Some(errno @ (Errno::NOENT | Errno::NOTDIR | Errno::LOOP)) => {
                            End::of(errno.into(), "write", path)
                        }
                        _ => End::host("write", path, error),
                    });
                }
            }
        }
        match few {
            true => Ok(()),
            false => work.host.sync().map_err(|e| End::archive(archive, io::Error::from(e))),
        }
    }

    fn steps(
        &self,
        work: &mut Work,
        todo: &[&Change],
        staged: &BTreeMap<RelPath, RelPath>,
        stays: &mut BTreeSet<RelPath>,
        at: &mut dyn FnMut(Point),
    ) -> Result<(), End> {
        // What lies in a directory has a greater path than the directory itself.
        for change in todo.iter().rev().filter(|change| makes_room(change)) {
            let (path, home) = (&change.path, self.home(&change.path));
            let Some(base) = &change.base else { continue };
            match work.remove(path, home.as_ref(), base) {
                Ok(()) => {}
                Err(Stop::StaysHome) if change.kind == ChangeKind::Deleted => {
                    stays.insert(path.clone());
                }
                Err(stop) => return Err(End::of(stop, "remove", path)),
            }
            at(Point::Stepped);
        }
        for change in todo {
            let (path, Some(new)) = (&change.path, &change.new) else { continue };
            let home = self.home(path);
            let step = match (new.kind, &change.base, staged.get(path)) {
                (NodeKind::Directory, ..) => work.make(path),
                (_, Some(base), Some(temp)) if !makes_room(change) => {
                    work.replace(path, temp, home.as_ref(), base, new)
                }
                (_, _, Some(temp)) => work.add(path, temp, home.as_ref(), new),
                (_, _, None) => work.mode(path, new.executable),
            };
            step.map_err(|stop| End::of(stop, "write", path))?;
            at(Point::Stepped);
        }
        Ok(())
    }
}

/// Whether what was there must go first: it is deleted, or a directory comes or goes in its place.
fn makes_room(change: &Change) -> bool {
    let is_directory = |kind| kind == NodeKind::Directory;
    match (&change.base, &change.new) {
        (Some(_), None) => true,
        (Some(base), Some(new)) => is_directory(base.kind) != is_directory(new.kind),
        (None, _) => false,
    }
}
