//! What is held, and what is held because of it.

use std::collections::{BTreeSet, HashSet};

use super::links::Links;
use super::names::is_git_name;
use super::policy::Policy;
use super::repository;
use crate::path::{Above, RelPath, shown};
use crate::workspace::change::{Change, ChangeKind, Hold};
use crate::workspace::{NodeKind, Snapshot};

/// Longest name the usual file systems hold.
const MAX_NAME: usize = 255;

/// Sets `hold` and `reason` of all changes, which are in tree order. `ignored`: those that are new
/// files and that git ignores.
pub(super) fn hold(
    changes: &mut [Change],
    ignored: &BTreeSet<RelPath>,
    snapshot: &Snapshot,
    policy: &Policy,
) {
    for (index, hold, reason) in reasons(changes, snapshot, policy) {
        let change = &mut changes[index];
        change.hold = Some(hold);
        change.reason = Some(reason);
    }
    for change in changes.iter_mut().filter(|change| ignored.contains(&change.path)) {
        if change.hold != Some(Hold::Never) {
            let more = change.reason.take().map(|reason| format!("; {reason}")).unwrap_or_default();
            change.hold = Some(Hold::Ignored);
            change.reason = Some(format!("new, and git ignores it{more}"));
        }
    }
    let (replaced, emptied) = look_below(changes);
    for (index, len) in replaced {
        // What is in it is held already, or goes with it.
        let person = (Hold::Person, "something in the directory that it replaces is held");
        let with = (Hold::Person, "the directory it is in is replaced, which is held");
        let all = changes[index..=index + len].iter_mut().enumerate();
        for (at, change) in all.filter(|(_, change)| change.hold.is_none()) {
            let (hold, reason) = if at == 0 { person } else { with };
            change.hold = Some(hold);
            change.reason = Some(reason.into());
        }
    }
    for (index, only_ignored) in emptied {
        // What only ignored files need comes and goes with them.
        changes[index].hold = Some(if only_ignored { Hold::Ignored } else { Hold::Person });
        changes[index].reason = Some("everything in it is held".into());
    }
}

/// What is known of a directory.
#[derive(Clone, Debug, Default)]
struct Directory<'a> {
    protected: bool,
    /// Of a new repository.
    embedded: bool,
    /// Itself or one above it, and which.
    held: Option<(Hold, &'a [u8])>,
}

fn reasons(changes: &[Change], snapshot: &Snapshot, policy: &Policy) -> Vec<(usize, Hold, String)> {
    let links = Links::new(changes, snapshot);
    let embedded = embedded_repositories(changes, snapshot);
    let bare = repository::parts(changes, snapshot);
    let mut above: Above<'_, Directory<'_>> = Above::new();
    let mut reasons = Vec::new();
    let known = |path: &[u8], over: Option<&Directory<'_>>, says: Option<bool>| {
        (
            says.unwrap_or_else(|| over.is_some_and(|over| over.protected)),
            over.is_some_and(|over| over.embedded) || embedded.contains(path),
        )
    };
    for (index, change) in changes.iter().enumerate() {
        let path = change.path.as_bytes();
        let holder = above.go(&change.path, |directory, over| {
            let (protected, embedded) =
                known(directory, over, policy.protects(directory, true, false));
            Directory { protected, embedded, held: over.and_then(|over| over.held) }
        });
        let kind = change.new.as_ref().map(|n| n.kind).or(change.base.as_ref().map(|b| b.kind));
        let is = |one| kind == Some(one);
        let says = policy.protects(path, is(NodeKind::Directory), is(NodeKind::Link));
        let (protected, embedded) = known(path, holder, says);
        let held_above = holder.and_then(|holder| holder.held);
        let own = never(change)
            .map(|reason| (Hold::Never, reason))
            .or_else(|| {
                let target = change.new.as_ref()?.target.as_ref()?;
                Some((Hold::Person, links.reason(&change.path, &target.0)?.into()))
            })
            .or_else(|| {
                let reason = "protected (workspace.protect): editors or agents may execute it";
                protected.then(|| (Hold::Person, reason.into()))
            })
            .or_else(|| {
                let reason = "part of a new embedded repository";
                embedded.then(|| (Hold::Person, reason.into()))
            })
            .or_else(|| {
                let reason = "part of a bare repository, whose config and hooks git executes";
                bare.contains(path).then(|| (Hold::Person, reason.into()))
            })
            // What was found before, such as a setuid bit, stands unless it is one of these.
            .filter(|_| change.hold != Some(Hold::Never));
        let hold = own.as_ref().map(|(hold, _)| *hold).or(change.hold);
        let below = held_above
            .filter(|(above, _)| hold.is_none() || *above == Hold::Never)
            .filter(|_| hold != Some(Hold::Never))
            .map(|(above, which)| (above, format!("{} above it is held", shown(which))));
        let hold = below.as_ref().map(|(hold, _)| *hold).or(hold);
        let held = hold.filter(|_| change.kind != ChangeKind::Deleted).map(|hold| (hold, path));
        if let Some((hold, reason)) = below.or(own) {
            reasons.push((index, hold, reason));
        }
        let held = match held_above {
            Some((Hold::Never, _)) | None => held_above.or(held),
            Some(_) => held.or(held_above),
        };
        above.say(Directory { protected, embedded, held });
    }
    reasons
}

/// Why a change can never be applied, by its path alone.
fn never(change: &Change) -> Option<String> {
    let path = &change.path;
    if path.components().any(is_git_name) {
        return Some("a spelling of .git, which belongs to git alone".into());
    }
    let long = path.components().any(|name| name.len() > MAX_NAME);
    long.then(|| format!("has a name of more than {MAX_NAME} bytes"))
}

/// New directories that are repositories of their own.
fn embedded_repositories<'a>(changes: &'a [Change], snapshot: &Snapshot) -> HashSet<&'a [u8]> {
    let mut found = HashSet::new();
    for change in changes.iter().filter(|change| change.kind != ChangeKind::Deleted) {
        let mut above = 0;
        for name in change.path.components() {
            if is_git_name(name) {
                let directory = &change.path.as_bytes()[..above];
                if !directory.is_empty() && !snapshot.nodes.contains_key(directory) {
                    found.insert(directory);
                }
                break;
            }
            above += name.len() + usize::from(above > 0);
        }
    }
    found
}

/// The index of a directory that is replaced, and how many changes lie below it.
type Replaced = (usize, usize);

/// The index of a new directory, and whether all in it is held only because git ignores it.
type Emptied = (usize, bool);

/// A change that others may lie below.
struct Open {
    index: usize,
    below: usize,
    held: bool,
    /// Something is held for another reason than that git ignores it.
    decided: bool,
    alive: bool,
}

/// Directories with something held in them that are replaced by what is no directory, each with how
/// many changes lie below it; and new directories in which everything is held: the empty shell of
/// one is nothing that anybody asked for.
fn look_below(changes: &[Change]) -> (Vec<Replaced>, Vec<Emptied>) {
    let (mut replaced, mut emptied) = (Vec::new(), Vec::new());
    let mut stack: Vec<Open> = Vec::new();
    let mut close = |stack: &mut Vec<Open>| {
        let Some(open) = stack.pop() else { return };
        let change = &changes[open.index];
        let was_directory =
            change.base.as_ref().is_some_and(|base| base.kind == NodeKind::Directory);
        let is_directory = change.new.as_ref().is_some_and(|new| new.kind == NodeKind::Directory);
        let is_new = change.kind == ChangeKind::Directory && change.base.is_none();
        let is_held = change.hold.is_some();
        if was_directory && !is_directory && change.kind != ChangeKind::Deleted && open.held {
            replaced.push((open.index, open.below));
        }
        let is_emptied = is_new && !is_held && open.below > 0 && !open.alive;
        if is_emptied {
            emptied.push((open.index, !open.decided));
        }
        if let Some(over) = stack.last_mut() {
            over.below += 1 + open.below;
            over.held |= is_held || open.held;
            over.decided |= open.decided || !matches!(change.hold, None | Some(Hold::Ignored));
            over.alive |= open.alive || !(is_held || is_emptied);
        }
    };
    for (index, change) in changes.iter().enumerate() {
        while stack.last().is_some_and(|open| !change.path.is_within(&changes[open.index].path)) {
            close(&mut stack);
        }
        stack.push(Open { index, below: 0, held: false, decided: false, alive: false });
    }
    while !stack.is_empty() {
        close(&mut stack);
    }
    (replaced, emptied)
}
