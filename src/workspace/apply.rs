//! Writes a change set into the user's files, or takes it out again: all of it or nothing.
//!
//! ```text
//!  look ─> plan, journal ─> stage ─> flush ─> step, step, … ─> check ─> commit ─> flush ─> record
//!   │                         │       stepping    │              │     committed      changes.json
//!   │conflict                 │refused            │either        │changed             no journal
//!   ▼                         ▼                   ▼              ▼
//!  held                     sweep         undo in reverse, sweep ──> held, or once more without
//! ```
//!
//! *Look* compares every path three ways. The [journal](self::journal) has the whole plan before
//! the first temporary file is made. *Stage* writes all new contents beside their targets, and one
//! flush brings them to the disk before anything is renamed, so that also after a power failure
//! what stands in a target is whole. The *steps* are in [`self::step`]; none of them destroys
//! anything, and what they displace is read once, to compare it and to keep it in `before.tar`.
//! Only *commit* lets go of it, after that archive is on the disk and the journal says so. A process
//! that is killed anywhere leaves what [`recover`] needs to undo, or after the commit to finish.
//!
//! What the host refuses at a path (a full disk, a read-only directory, a name it does not take)
//! is told at that path like a conflict. [`OnConflict`] says what becomes of the rest.

mod attributes;
mod before;
#[cfg(test)]
mod editor_tests;
pub mod journal;
pub(in crate::workspace) mod kill;
#[cfg(test)]
mod kill_tests;
mod lease;
mod look;
mod plan;
#[cfg(test)]
mod properties;
mod record;
pub mod recover;
mod refusal;
mod settle;
mod stage;
pub(crate) mod step;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use self::before::Before;
use self::journal::{Intent, Journal, JournalError, Mark};
use self::look::{Looked, look};
use self::plan::{Op, STAYS, Wanted};
use self::record::{Settled, record};
use self::refusal::{SAME_NAME, refusal};
use self::stage::{StageError, stage};
pub use self::step::Kept;
use self::step::{Stop, Work};
use super::change::{Change, ChangeSet};
use super::host::Host;
use super::{NodeKind, Workspace};
use crate::failure::{ErrorKind, Failure};
use crate::path::RelPath;

/// Up to so many new files are brought to the disk one by one; more of them by one flush of the
/// whole file system, which may have other work of its own to write.
const FEW: usize = 16;

/// How often an apply is tried anew without what was refused; then all of it is held.
const ROUNDS: usize = 8;

/// A path that was not written, because both sides changed it or because the host refused it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conflict {
    /// Which.
    pub path: RelPath,
    /// How both changed it, or what the host refused, and what to do.
    pub reason: String,
}

/// What became of a change set.
#[derive(Clone, Debug, Default)]
pub struct Applied {
    /// Paths that could not be written. With [`OnConflict::HoldAll`] nothing was applied if there
    /// are any (but for a save in the very moment of the commit, which keeps its own path back
    /// alone).
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
    /// The journal could not be written.
    #[error("{source}{}", tail(.left))]
    Journal {
        /// Why not.
        source: JournalError,
        /// What could not be put right after it.
        left: Vec<String>,
    },
    /// A file of the run's folder is gone, damaged or cannot be written.
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
    pub(crate) archive: PathBuf,
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
/// Where nothing can be applied at all: the journal or the run's folder cannot be used. Every step
/// is undone before it is returned. A conflict, or a path that the host refuses, is no error.
pub fn apply(
    workspace: &Workspace,
    changes: &mut ChangeSet,
    only: &[RelPath],
    on_conflict: OnConflict,
    parts: &Parts<'_>,
) -> Result<Applied, ApplyError> {
    let order = Order::apply(changes, only, on_conflict, parts);
    transact(workspace, changes, &order)
}

impl<'a> Order<'a> {
    fn apply(
        changes: &mut ChangeSet,
        only: &[RelPath],
        on_conflict: OnConflict,
        parts: &Parts<'a>,
    ) -> Self {
        let mut wanted = match only {
            [] => changes.changes.clone(),
            only => {
                let chosen = changes.split_off(only);
                let wanted = chosen.changes.clone();
                changes.merge(chosen);
                wanted
            }
        };
        wanted.retain(Change::is_waiting);
        for change in &mut wanted {
            // It is about what was displaced, not about what comes.
            change.before = None;
        }
        let archive = parts.folder.join("changes.tar");
        Self { direction: Direction::Apply, wanted, archive, on_conflict, parts: *parts }
    }
}

/// Does what `order` says with the workspace's files, sets states, reasons, bases and pre-images of
/// its paths in `set`, the whole change set, and saves that as `changes.json`. Blocks; the caller
/// has the workspace's turn to write.
///
/// # Errors
///
/// As [`apply`].
pub(crate) fn transact(
    workspace: &Workspace,
    set: &mut ChangeSet,
    order: &Order<'_>,
) -> Result<Applied, ApplyError> {
    transact_at(&Host::of(workspace), workspace, set, order, &mut |_| {})
}

pub(super) fn transact_at(
    host: &Host,
    workspace: &Workspace,
    set: &mut ChangeSet,
    order: &Order<'_>,
    at: &mut dyn FnMut(Point),
) -> Result<Applied, ApplyError> {
    let mut transaction =
        Transaction { host, workspace, order, applied: Applied::default(), journal: None, at };
    let settled = transaction.run();
    let Transaction { mut applied, journal, .. } = transaction;
    let settled = settled.map_err(|error| error.with_left(&applied))?;
    applied.applied = settled.iter().filter(|settled| settled.done).count();
    let changed = !settled.is_empty();
    record(set, order.direction, settled);
    if changed {
        save(set, order.parts.folder).map_err(|error| error.with_left(&applied))?;
    }
    // Only now: what is to be known of it is in the run's folder.
    if let Some(Err(error)) = journal.map(Journal::end) {
        applied.notes.push(error.to_string());
    }
    Ok(applied)
}

fn save(set: &ChangeSet, folder: &Path) -> Result<(), ApplyError> {
    let path = folder.join("changes.json");
    kill::point();
    crate::record::write_json(&path, set).map_err(|error| ApplyError::Archive {
        path,
        reason: with_causes(&error),
        left: Vec::new(),
    })
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// How an attempt ends before its commit.
enum End {
    /// These paths cannot be written.
    Refused(BTreeMap<RelPath, String>),
    Failed(ApplyError),
}

impl End {
    fn refused(path: &RelPath, reason: impl Into<String>) -> Self {
        Self::Refused(BTreeMap::from([(path.clone(), reason.into())]))
    }

    fn archive(path: &Path, reason: impl ToString) -> Self {
        let (path, reason) = (path.to_owned(), reason.to_string());
        Self::Failed(ApplyError::Archive { path, reason, left: Vec::new() })
    }
}

impl From<JournalError> for End {
    fn from(source: JournalError) -> Self {
        Self::Failed(ApplyError::Journal { source, left: Vec::new() })
    }
}

impl ApplyError {
    fn with_left(mut self, applied: &Applied) -> Self {
        let kept = applied
            .kept
            .iter()
            .map(|kept| format!("an earlier version of {} is {}", kept.path, kept.file.display()));
        match &mut self {
            Self::Host { left, .. } | Self::Archive { left, .. } | Self::Journal { left, .. } => {
                *left = applied.notes.iter().cloned().chain(kept).collect();
            }
        }
        self
    }
}

/// What became of each operation, and which of them a save in the last moment kept back.
type Written = (Vec<Settled>, Vec<(RelPath, String)>);

/// One transaction under way.
struct Transaction<'a> {
    host: &'a Host,
    workspace: &'a Workspace,
    order: &'a Order<'a>,
    applied: Applied,
    /// Of what was committed, until it is recorded.
    journal: Option<Journal>,
    at: &'a mut dyn FnMut(Point),
}

impl Transaction<'_> {
    /// Writes what can be written; gives what became of each path.
    fn run(&mut self) -> Result<Vec<Settled>, ApplyError> {
        let order = self.order;
        let wanted = Wanted::new(&order.wanted);
        let Looked { ops, had, mut refused } = look(self.host, &wanted);
        (self.at)(Point::Looked);
        for _ in 0..ROUNDS {
            let held = match order.on_conflict {
                OnConflict::HoldAll if !refused.is_empty() => break,
                _ => wanted.closure(&refused),
            };
            let mut todo = ops.clone();
            todo.retain(|op| !held.contains_key(&op.path));
            match self.attempt(&wanted, todo) {
                Ok((mut settled, late)) => {
                    let told = refused.into_iter().chain(late);
                    self.applied.conflicts =
                        told.map(|(path, reason)| Conflict { path, reason }).collect();
                    settled.extend(had.into_iter().filter(|had| !held.contains_key(&had.path)));
                    settled.extend(held.into_iter().map(|(path, why)| Settled::refused(path, why)));
                    return Ok(settled);
                }
                Err(End::Refused(more)) => refused.extend(more),
                Err(End::Failed(error)) => return Err(error),
            }
        }
        let because = match order.direction {
            Direction::Apply => "held because other paths are in conflict",
            Direction::Undo => "not undone because other paths are in conflict",
        };
        let settled = wanted.iter().map(|change| {
            let reason = refused.get(&change.path).map_or(because, String::as_str);
            Settled::refused(change.path.clone(), reason)
        });
        let settled = settled.collect();
        self.applied.conflicts =
            refused.into_iter().map(|(path, reason)| Conflict { path, reason }).collect();
        Ok(settled)
    }

    /// Writes all of `ops`, or nothing.
    fn attempt(&mut self, wanted: &Wanted<'_>, mut ops: Vec<Op>) -> Result<Written, End> {
        if ops.is_empty() {
            return Ok(Default::default());
        }
        let order = self.order;
        let Parts { run, folder, state } = order.parts;
        let nonce = uuid::Uuid::now_v7().simple().to_string();
        let too_long = wanted.name(&mut ops, &nonce[nonce.len() - 12..]);
        if !too_long.is_empty() {
            let error = Errno::NAMETOOLONG.into();
            let told = too_long.into_iter().map(|path| (path, refusal("written", &error)));
            return Err(End::Refused(told.collect()));
        }
        let archive = folder.join("before.tar");
        let before = match order.direction {
            Direction::Apply => {
                Some(Before::open(&archive).map_err(|error| End::archive(&archive, error))?)
            }
            Direction::Undo => None,
        };
        let start = before.as_ref().map(Before::start);
        let intent = Intent::new(self.workspace, run, folder, order.direction, start, ops);
        let mut journal = Journal::begin(state, &intent)?;
        let ops = intent.ops;
        let mut work = Work::new(self.host.clone(), folder.join("kept"), before);
        let ended = self.write(&mut work, &mut journal, wanted, &ops);
        let ended = match ended {
            Ok(settled) => {
                let late = work.commit();
                if let Err(error) = flush(self.host, &ops, false) {
                    work.left.push(format!("the disk did not confirm the changes: {error}"));
                }
                self.journal = Some(journal);
                Ok((without(settled, &late), late))
            }
            Err(end) => {
                work.undo(|| (self.at)(Point::Undoing));
                work.sweep(&ops);
                if let Some(before) = work.before.take()
                    && !work.before_counts
                    && let Err(error) = before.take_back()
                {
                    work.left.push(format!("{} is cut off: {error}", archive.display()));
                }
                if let Err(error) = journal.end() {
                    work.left.push(error.to_string());
                }
                Err(end)
            }
        };
        self.applied.kept.extend(work.kept);
        self.applied.notes.extend(work.notes);
        self.applied.notes.extend(work.left);
        ended
    }

    /// Everything up to the point from which there is no way back.
    fn write(
        &mut self,
        work: &mut Work,
        journal: &mut Journal,
        wanted: &Wanted<'_>,
        ops: &[Op],
    ) -> Result<Vec<Settled>, End> {
        stage_all(self.host, ops, &self.order.archive)?;
        (self.at)(Point::Staged);
        flush(self.host, ops, true).map_err(|e| End::archive(&self.workspace.path, e))?;
        journal.mark(&Mark::Stepping)?;
        let stays = steps(work, wanted, ops, self.at)?;
        work.check().map_err(|(path, reason)| End::refused(&path, reason))?;
        (self.at)(Point::Checked);
        if let Some(before) = work.before.take() {
            let path = before.path().to_owned();
            before.finish().map_err(|error| End::archive(&path, error))?;
        }
        let settled = settle(work, ops, &stays);
        journal.mark(&Mark::Committed(settled.clone()))?;
        Ok(settled)
    }
}

fn without(mut settled: Vec<Settled>, late: &[(RelPath, String)]) -> Vec<Settled> {
    for settled in &mut settled {
        if let Some((path, reason)) = late.iter().find(|(path, _)| *path == settled.path) {
            *settled = Settled::refused(path.clone(), reason.clone());
        }
    }
    settled
}

/// What became of each operation once all steps are taken.
fn settle(work: &mut Work, ops: &[Op], stays: &BTreeSet<RelPath>) -> Vec<Settled> {
    let mut images: BTreeMap<RelPath, _> = std::mem::take(&mut work.images).into_iter().collect();
    let settled = ops.iter().map(|op| match stays.contains(&op.path) {
        true => Settled::refused(op.path.clone(), STAYS),
        false => Settled {
            path: op.path.clone(),
            done: true,
            reason: None,
            base: op.base.clone(),
            new: op.new.clone(),
            before: images.remove(&op.path),
        },
    });
    settled.collect()
}

/// Writes all new contents under their temporary names. Goes on where one is refused, so that all
/// that are refused are told at once.
fn stage_all(host: &Host, ops: &[Op], archive: &Path) -> Result<(), End> {
    let mut refused = BTreeMap::new();
    let needs = ops.iter().any(|op| op.staged.is_some());
    let bytes = match needs {
        true => Some(File::open(archive).map_err(|e| End::archive(archive, e))?),
        false => None,
    };
    for op in ops {
        let (Some(new), Some(temp), Some(bytes)) = (&op.new, &op.staged, &bytes) else { continue };
        match stage_one(host, op, new, temp, bytes) {
            Ok(()) => {}
            Err(StageError::Damaged) => return Err(End::archive(archive, StageError::Damaged)),
            Err(error @ StageError::NoLinks) => {
                refused.insert(op.path.clone(), error.to_string());
            }
            Err(StageError::Io(error)) => {
                let reason = match Errno::from_io_error(&error).map(Stop::from) {
                    Some(Stop::Conflict(reason)) => reason,
                    _ => refusal("written", &error),
                };
                refused.insert(op.path.clone(), reason);
            }
        }
    }
    match refused.is_empty() {
        true => Ok(()),
        false => Err(End::Refused(refused)),
    }
}

fn stage_one(
    host: &Host,
    op: &Op,
    new: &super::change::NewNode,
    temp: &RelPath,
    bytes: &File,
) -> Result<(), StageError> {
    if new.kind == NodeKind::Link {
        let target = new.target.as_ref().map_or(&b""[..], |target| &target.0);
        return host.link(temp, target).map_err(|error| match error {
            Errno::NOSYS | Errno::NOTSUP | Errno::PERM => StageError::NoLinks,
            error => error.into(),
        });
    }
    let old = match &op.base {
        Some(base) if base.kind == NodeKind::File && op.restore.is_none() => {
            Some(host.open(&op.path)?)
        }
        _ => None,
    };
    stage(host, op, new, temp, bytes, old.as_ref())?;
    Ok(())
}

/// Brings what was done to the disk: the staged files if there are few, and the directories in
/// which something was named; or by one flush of the whole file system.
fn flush(host: &Host, ops: &[Op], staged: bool) -> io::Result<()> {
    if ops.len() > FEW {
        return match host.sync() {
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => Ok(()),
            done => Ok(done?),
        };
    }
    for op in ops {
        let file = match &op.staged {
            Some(temp) if staged => temp,
            _ if !staged && op.is_mode() => &op.path,
            _ => continue,
        };
        if op.new.as_ref().is_some_and(|new| new.kind == NodeKind::File)
            && let Ok(file) = host.open(file)
        {
            file.sync_all()?;
        }
    }
    for directory in plan::directories(ops) {
        if let Ok(directory) = host.directory(directory.as_ref()) {
            match rustix::fs::fsync(directory) {
                Ok(()) | Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

/// Takes every step; gives the directories that stay, since they have what is no part of it. Goes on
/// where one is refused, with all that does not need it, so that all that are refused are told at
/// once; the steps are undone then.
fn steps(
    work: &mut Work,
    wanted: &Wanted<'_>,
    ops: &[Op],
    at: &mut dyn FnMut(Point),
) -> Result<BTreeSet<RelPath>, End> {
    let mut stays = BTreeSet::new();
    let mut refused = BTreeMap::new();
    let mut idle = BTreeMap::new();
    let removals = plan::removals(ops).map(|op| (op, "removed"));
    for (op, verb) in removals.chain(plan::writes(ops).map(|op| (op, "written"))) {
        if idle.contains_key(&op.path) {
            continue;
        }
        let done = match verb {
            "removed" => work.remove(op),
            _ => step(work, op),
        };
        match done {
            Ok(()) => {}
            Err(Stop::StaysHome) if plan::may_stay(op) => {
                stays.insert(op.path.clone());
            }
            Err(stop) => match stopped(work, stop, verb, op) {
                End::Refused(more) => {
                    refused.extend(more);
                    idle = wanted.closure(&refused);
                }
                end => return Err(end),
            },
        }
        at(Point::Stepped);
    }
    match refused.is_empty() {
        true => Ok(stays),
        false => Err(End::Refused(refused)),
    }
}

/// Writes one path, for which there is room.
fn step(work: &mut Work, op: &Op) -> Result<(), Stop> {
    match &op.new {
        Some(new) if new.kind == NodeKind::Directory => work.make(op),
        Some(_) if op.staged.is_none() => work.mode(op),
        Some(_) if op.base.is_some() && !op.makes_room() => work.replace(op),
        Some(_) => work.add(op),
        None => Ok(()),
    }
}

fn stopped(work: &Work, stop: Stop, verb: &str, op: &Op) -> End {
    let path = &op.path;
    match stop {
        // Where upper and lower case are the same, another name of this very change set was first.
        Stop::Conflict(_)
            if op.base.is_none()
                && (matches!(work.host.is_spelled_so(path), Ok(false))
                    || work.has_added_as(path))
                && work.host.stat(path).is_ok() =>
        {
            End::refused(path, SAME_NAME)
        }
        Stop::Conflict(reason) => End::refused(path, reason),
        Stop::StaysHome => {
            End::refused(path, "the directory there still has files that stayed home")
        }
        Stop::Failed(source) => End::refused(path, refusal(verb, &source)),
        Stop::Before(source) => match &work.before {
            Some(before) => End::archive(before.path(), source),
            None => End::refused(path, refusal(verb, &source)),
        },
    }
}
