//! Takes back what was applied of a run.
//!
//! An undo is the same transaction as an apply, with both sides exchanged: what the run left is
//! what must be there, and what was there before is what comes. So it refuses, path by path, what
//! is no longer as the run left it, and an undo of it is an apply again.

use std::fs::File;
use std::time::SystemTime;

use super::apply::step::as_base;
use super::apply::{ApplyError, Conflict, Direction, Kept, OnConflict, Order, Parts, transact};
use super::change::{Change, ChangeKind, ChangeSet, ChangeState, NewNode};
use super::{NodeKind, Workspace};
use crate::path::RelPath;

/// What an undo did.
#[derive(Clone, Debug, Default)]
pub struct Undone {
    /// What was taken back.
    pub paths: Vec<RelPath>,
    /// What was not, and why; it stays as it is.
    pub refused: Vec<Conflict>,
    /// What the user saved meanwhile and could not stay in its place.
    pub kept: Vec<Kept>,
    /// Sentences for the user.
    pub notes: Vec<String>,
}

/// Takes back every change that is applied within `only` (empty: all), sets the states and reasons
/// in `changes` and saves it as `changes.json`. What was edited since is refused by itself. Blocks;
/// the caller has the workspace's [turn to write](super::lock::write).
///
/// # Errors
///
/// As [`apply`](super::apply::apply).
pub fn undo(
    workspace: &Workspace,
    changes: &mut ChangeSet,
    only: &[RelPath],
    parts: &Parts<'_>,
) -> Result<Undone, ApplyError> {
    let wanted = reversed(changes, only);
    keep_displaced(&wanted, parts)?;
    let order = Order {
        direction: Direction::Undo,
        wanted,
        archive: parts.folder.join("before.tar"),
        on_conflict: OnConflict::HoldConflicting,
        parts: *parts,
    };
    let applied = transact(workspace, changes, &order)?;
    let mut undone = Undone { kept: applied.kept, notes: applied.notes, ..Undone::default() };
    for wanted in &order.wanted {
        let path = &wanted.path;
        let Some(change) = changes.at_mut(path) else { continue };
        if change.state == ChangeState::Held {
            undone.paths.push(path.clone());
            continue;
        }
        // It is applied, and there is nothing to say about that.
        let reason = change.reason.take().unwrap_or_default();
        // A directory above that nobody named may stay for what else is in it.
        if named(only, path) {
            undone.refused.push(Conflict { path: path.clone(), reason: in_reverse(&reason) });
        }
    }
    Ok(undone)
}

/// What an undo displaces is not kept a second time: `changes.tar` has it, so that must be there,
/// and on the disk.
fn keep_displaced(wanted: &[Change], parts: &Parts<'_>) -> Result<(), ApplyError> {
    // Identical contents may lie there once, so this is the least that must be there.
    let bytes = wanted.iter().filter_map(|change| change.base.as_ref()).map(|base| base.size);
    let needed = bytes.max().unwrap_or(0);
    let path = parts.folder.join("changes.tar");
    let kept = File::open(&path).and_then(|file| {
        file.sync_data()?;
        file.metadata()
    });
    match kept {
        Ok(found) if found.len() >= needed => Ok(()),
        _ if needed == 0 => Ok(()),
        other => Err(ApplyError::Archive {
            path,
            reason: other.map_or_else(|error| error.to_string(), |_| "it is cut off".into()),
            left: Vec::new(),
        }),
    }
}

/// The reason of an apply as one of an undo: it compares with what the run left, not with what was
/// sent to it.
fn in_reverse(reason: &str) -> String {
    reason
        .replace("since it was sent", "since the run changed it")
        .replace("exists on the host, where nothing was sent from", "made on the host since")
        .replace("directory on the host, where nothing was sent from", "directory made there since")
        .replace("held with", "stays with")
}

fn named(only: &[RelPath], path: &RelPath) -> bool {
    only.is_empty() || only.iter().any(|only| path.is_within(only))
}

/// The way back of what is applied within `only` (empty: all), with the directories above that it
/// cannot be without, and those that the run made for nothing else.
fn reversed(changes: &ChangeSet, only: &[RelPath]) -> Vec<Change> {
    let applied = || changes.changes.iter().filter(|c| c.state == ChangeState::Applied);
    let above = |change: &Change| {
        only.iter().any(|only| only.is_within(&change.path))
            && (change.base.is_some()
                || applied().all(|other| {
                    other.path == change.path
                        || !other.path.is_within(&change.path)
                        || named(only, &other.path)
                        || only.iter().any(|only| only.is_within(&other.path))
                }))
    };
    applied().filter(|change| named(only, &change.path) || above(change)).map(reverse).collect()
}

/// The way back of one change.
fn reverse(change: &Change) -> Change {
    let base = change.new.as_ref().map(as_base);
    let new = change.base.as_ref().map(|base| NewNode {
        kind: base.kind,
        executable: base.executable(),
        size: base.size,
        hash: base.hash,
        offset: change.before.as_ref().map_or(0, |before| before.offset),
        target: base.target.clone(),
    });
    let kind = match (&base, &new) {
        (_, None) => ChangeKind::Deleted,
        (_, Some(new)) if new.kind == NodeKind::Directory => ChangeKind::Directory,
        (_, Some(new)) if new.kind == NodeKind::Link => ChangeKind::Link,
        (None, Some(_)) => ChangeKind::Added,
        (Some(_), Some(_)) if change.kind == ChangeKind::Mode => ChangeKind::Mode,
        (Some(_), Some(_)) => ChangeKind::Modified,
    };
    let mut before = change.before.clone();
    if let (Some(before), Some(base)) = (&mut before, &base)
        && base.kind == NodeKind::File
        && kind == ChangeKind::Modified
    {
        // With its old time, a program that builds would take what it made of the run's version
        // for up to date. What was deleted gets its own time back.
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        before.mtime = (i64::try_from(now.as_secs()).unwrap_or(0), now.subsec_nanos());
    }
    let (state, reason, hold) = (ChangeState::Held, None, None);
    Change { kind, base, new, before, state, reason, hold, ..change.clone() }
}

#[cfg(test)]
#[path = "undo_tests.rs"]
mod tests;
