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
#[cfg(test)]
mod misfortune_tests;
mod plan;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod race_tests;
mod record;
pub mod recover;
#[cfg(test)]
mod recover_tests;
mod refusal;
#[cfg(test)]
mod refused_tests;
mod settle;
mod stage;
pub(crate) mod step;
#[cfg(test)]
mod tests;
mod transaction;

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use self::journal::{Journal, JournalError};
use self::plan::Wanted;
use self::record::record;
pub use self::step::Kept;
use self::transaction::Transaction;
use super::Workspace;
use super::change::{Change, ChangeSet};
use super::host::Host;
use crate::failure::{ErrorKind, Failure};
use crate::path::RelPath;

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

/// Why a change set could not be applied. The workspace is as before, but for
/// [`Unrecorded`](Self::Unrecorded).
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
    /// Everything was written, only the run's folder does not say so yet. The journal does, so the
    /// next turn to use the workspace records it.
    #[error(
        "the changes are {done}, but {path} cannot be written: {reason}; make room there or make it \
         writable: the next call that uses the workspace records them{}", tail(.left)
    )]
    Unrecorded {
        /// What was done: "applied" or "taken back".
        done: &'static str,
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
        /// What could not be put right besides.
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
        let sentence = match error {
            ApplyError::Unrecorded { .. } => error.to_string(),
            error => format!(
                "the change set could not be applied, {error}; it is held, mend this and call \
                 codex_run_apply"
            ),
        };
        Self::new(ErrorKind::ApplyFailed, sentence)
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

/// What stands against applying the part `only` (empty: all) now: every waiting path is compared three
/// ways. Files that are as they were sent, by their stamps, are not read. Writes nothing; blocks.
pub fn check(workspace: &Workspace, changes: &ChangeSet, only: &[RelPath]) -> Vec<Conflict> {
    let mut waiting = changes.clone();
    if !only.is_empty() {
        waiting = waiting.split_off(only);
    }
    waiting.changes.retain(Change::is_waiting);
    let looked = look::look(&Host::of(workspace), &Wanted::new(&waiting.changes));
    looked.refused.into_iter().map(|(path, reason)| Conflict { path, reason }).collect()
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
        let done = match (&journal, order.direction) {
            (None, _) => None,
            (Some(_), Direction::Apply) => Some("applied"),
            (Some(_), Direction::Undo) => Some("taken back"),
        };
        save(set, order.parts.folder, done).map_err(|error| error.with_left(&applied))?;
    }
    // Only now: what is to be known of it is in the run's folder.
    if let Some(Err(error)) = journal.map(Journal::end) {
        applied.notes.push(error.to_string());
    }
    Ok(applied)
}

/// `done`: what the workspace has already.
fn save(set: &ChangeSet, folder: &Path, done: Option<&'static str>) -> Result<(), ApplyError> {
    let path = folder.join("changes.json");
    kill::point();
    crate::record::write_json_to_disk(&path, set).map_err(|error| {
        let (reason, left) = (with_causes(&error), Vec::new());
        match done {
            Some(done) => ApplyError::Unrecorded { done, path, reason, left },
            None => ApplyError::Archive { path, reason, left },
        }
    })
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

impl ApplyError {
    fn with_left(mut self, applied: &Applied) -> Self {
        let kept = applied
            .kept
            .iter()
            .map(|kept| format!("an earlier version of {} is {}", kept.path, kept.file.display()));
        match &mut self {
            Self::Host { left, .. }
            | Self::Archive { left, .. }
            | Self::Journal { left, .. }
            | Self::Unrecorded { left, .. } => {
                *left = applied.notes.iter().cloned().chain(kept).collect();
            }
        }
        self
    }
}
