//! What each path that came back means, and what a person must decide first. Pure.
//!
//! ```text
//!  Received + Snapshot ──> same as sent? ──yes──> no change
//!                               │no
//!                               ▼
//!                           a change ──> a reason to hold it? ──> held, and all below it
//!                                                │no
//!                                                ▼
//!                                             waiting to be applied
//! ```
//!
//! Time and memory are in proportion to the paths, whatever tree they make: everything here goes
//! over the changes in [tree order](RelPath::tree_order), so that a directory is looked at once
//! and not once for each path in it.

mod hold;
mod links;
mod names;
mod policy;
mod repository;

pub use self::names::is_git_name;
pub use self::policy::{Policy, PolicyError};

use super::change::{BaseNode, Change, ChangeKind, ChangeSet, ChangeState, Hold, NewNode};
use super::receive::{Arrived, Received};
use super::{NodeKind, Snapshot};
use crate::path::{Above, RelPath};

/// Sorts out what came back.
pub fn classify(received: Received, snapshot: &Snapshot, policy: &Policy) -> ChangeSet {
    let gone = gone(&received, snapshot);
    let missing = missing_directories(&received, snapshot);
    let most = received.entries.len() + gone.len() + missing.len();
    let mut changes = Vec::new();
    let mut push = |change| {
        // In steps, while what was received goes: both whole would be half as much again.
        if changes.len() == changes.capacity() {
            changes.reserve_exact((most / 16).max(64));
        }
        changes.push(change);
    };
    let base = |path: &RelPath| snapshot.base(path);
    let ignored = received.ignored;
    for (path, arrived) in received.entries {
        let base = base(&path);
        change(path, arrived, base).map(&mut push);
    }
    for path in gone {
        if let Some(base) = base(&path) {
            push(deleted(path, base));
        }
    }
    missing.into_iter().for_each(push);
    changes.sort_unstable_by(|one: &Change, other| one.path.tree_order(&other.path));
    hold::hold(&mut changes, &ignored, snapshot, policy);
    changes.sort_unstable_by(|one, other| one.path.cmp(&other.path));
    ChangeSet { changes }
}

fn change(path: RelPath, arrived: Arrived, base: Option<BaseNode>) -> Option<Change> {
    let (new, mode) = match arrived {
        Arrived::Node { new, mode } => (new, mode),
        Arrived::Special => {
            let kind = if base.is_some() { ChangeKind::Modified } else { ChangeKind::Added };
            let mut change = held(path, kind, 0, base, None);
            change.hold = Some(Hold::Never);
            change.reason = Some("special file: a FIFO, device, socket or hard link".into());
            return Some(change);
        }
    };
    let special_bits = new.kind == NodeKind::File && mode & 0o7000 != 0;
    let same = base.as_ref().is_some_and(|base| new.same_as(base));
    if same && !special_bits {
        return None;
    }
    let kind = match (new.kind, &base) {
        (NodeKind::Link, _) => ChangeKind::Link,
        (NodeKind::Directory, _) => ChangeKind::Directory,
        (NodeKind::File, None) => ChangeKind::Added,
        (NodeKind::File, Some(base)) if new.same_bytes(base) => ChangeKind::Mode,
        (NodeKind::File, Some(_)) => ChangeKind::Modified,
    };
    let mut change = held(path, kind, new.size, base, Some(new));
    if special_bits {
        change.hold = Some(if same { Hold::Never } else { Hold::Person });
        change.reason = Some("has the setuid, setgid or sticky bit, which is never applied".into());
    }
    Some(change)
}

fn deleted(path: RelPath, base: BaseNode) -> Change {
    held(path, ChangeKind::Deleted, base.size, Some(base), None)
}

fn held(
    path: RelPath,
    kind: ChangeKind,
    bytes: u64,
    base: Option<BaseNode>,
    new: Option<NewNode>,
) -> Change {
    Change {
        path,
        kind,
        bytes,
        state: ChangeState::Held,
        reason: None,
        hold: None,
        base,
        new,
        before: None,
    }
}

/// What is gone: what the container says, and everything that was below a directory that is none
/// any more.
fn gone(received: &Received, snapshot: &Snapshot) -> Vec<RelPath> {
    let is_directory = |path: &RelPath| match received.entries.get(path) {
        Some(Arrived::Node { new, .. }) => new.kind == NodeKind::Directory,
        Some(Arrived::Special) => false,
        None => !received.deleted.contains(path),
    };
    let mut order: Vec<_> = snapshot.nodes.iter().collect();
    order.sort_unstable_by(|(one, _), (other, _)| one.tree_order(other));
    let mut gone = Vec::new();
    let mut no_more: Option<&RelPath> = None;
    for (path, node) in order {
        let below = no_more.is_some_and(|directory| path.is_within(directory));
        if below || received.deleted.contains(path) {
            gone.push(path.clone());
        }
        if !below && node.kind == NodeKind::Directory && !is_directory(path) {
            no_more = Some(path);
        }
    }
    gone
}

/// A new path needs its directories, also where the container did not name them.
fn missing_directories(received: &Received, snapshot: &Snapshot) -> Vec<Change> {
    let is_new = |path: &&RelPath| !snapshot.nodes.contains_key(*path);
    let mut order: Vec<&RelPath> = received.entries.keys().filter(is_new).collect();
    order.sort_unstable_by(|one, other| one.tree_order(other));
    let mut missing = Vec::new();
    let mut above = Above::new();
    for path in order {
        above.go(path, |directory, _| {
            if !snapshot.nodes.contains_key(directory)
                && let Ok(path) = RelPath::new(directory)
            {
                let new = NewNode {
                    kind: NodeKind::Directory,
                    executable: false,
                    size: 0,
                    hash: None,
                    offset: 0,
                    target: None,
                };
                missing.push(held(path, ChangeKind::Directory, 0, None, Some(new)));
            }
        });
        above.say(());
    }
    missing
}

#[cfg(test)]
#[path = "classify_tests.rs"]
mod tests;
