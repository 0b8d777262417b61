//! Takes back what was applied of a run.
//!
//! An undo is the same transaction as an apply, with both sides exchanged: what the run left is
//! what must be there, and what was there before is what comes. So it refuses, path by path, what
//! is no longer as the run left it, and an undo of it is an apply again.

use super::apply::{Applied, ApplyError, Direction, OnConflict, Order, Parts, as_base, transact};
use super::change::{Change, ChangeKind, ChangeSet, ChangeState, NewNode};
use super::{NodeKind, Workspace};
use crate::path::RelPath;

/// What an undo did.
#[derive(Clone, Debug, Default)]
pub struct Undone {
    /// What was taken back.
    pub paths: Vec<RelPath>,
    /// The same as of an apply; its conflicts are what was not taken back.
    pub applied: Applied,
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
    let paths: Vec<RelPath> = wanted.iter().map(|change| change.path.clone()).collect();
    let archive = parts.folder.join("before.tar");
    let order = Order {
        direction: Direction::Undo,
        wanted,
        archive: &archive,
        on_conflict: OnConflict::HoldConflicting,
        parts: *parts,
    };
    let mut applied = transact(workspace, changes, order)?;
    // A directory above that nobody named may stay for what else is in it.
    applied.conflicts.retain(|conflict| {
        only.is_empty() || only.iter().any(|path| conflict.path.is_within(path))
    });
    let held = |path: &RelPath| {
        let mut found = changes.changes.iter();
        found.any(|change| change.path == *path && change.state == ChangeState::Held)
    };
    Ok(Undone { paths: paths.into_iter().filter(held).collect(), applied })
}

/// The way back of what is applied within `only` (empty: all), with the directories above that it
/// cannot be without, and those that the run made for nothing else.
fn reversed(changes: &ChangeSet, only: &[RelPath]) -> Vec<Change> {
    let applied = || changes.changes.iter().filter(|c| c.state == ChangeState::Applied);
    let named = |path: &RelPath| only.is_empty() || only.iter().any(|only| path.is_within(only));
    let above = |change: &Change| {
        only.iter().any(|only| only.is_within(&change.path))
            && (change.base.is_some()
                || applied().all(|other| {
                    other.path == change.path
                        || !other.path.is_within(&change.path)
                        || named(&other.path)
                        || only.iter().any(|only| only.is_within(&other.path))
                }))
    };
    applied().filter(|change| named(&change.path) || above(change)).map(reverse).collect()
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
    Change { kind, base, new, state: ChangeState::Held, reason: None, hold: None, ..change.clone() }
}
