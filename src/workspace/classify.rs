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

use std::collections::{BTreeMap, BTreeSet, HashSet};

use ignore::gitignore::{Gitignore, GitignoreBuilder};

use super::change::{BaseNode, Change, ChangeKind, ChangeSet, ChangeState, Hold, NewNode};
use super::receive::{Arrived, Received};
use super::{NodeKind, Snapshot};
use crate::path::RelPath;

/// Longest name the usual file systems hold.
const MAX_NAME: usize = 255;

/// What is held besides what can never be applied.
#[derive(Clone, Debug)]
pub struct Policy {
    protect: Gitignore,
}

/// A pattern of `workspace.protect` that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("workspace.protect has a pattern that cannot be read, {pattern:?}: {why}")]
pub struct PolicyError {
    /// The pattern.
    pub pattern: String,
    /// What is wrong with it.
    pub why: String,
}

impl Policy {
    /// Takes `workspace.protect`: patterns in the syntax of `.gitignore`, read without regard to
    /// case, since the file system of the host may have none.
    ///
    /// # Errors
    ///
    /// The first pattern that cannot be read.
    pub fn new(protect: &[String]) -> Result<Self, PolicyError> {
        let wrong = |pattern: &str, why: ignore::Error| PolicyError {
            pattern: pattern.to_owned(),
            why: why.to_string(),
        };
        let mut builder = GitignoreBuilder::new("");
        builder.case_insensitive(true).map_err(|e| wrong("", e))?;
        for pattern in protect {
            builder.add_line(None, pattern).map_err(|e| wrong(pattern, e))?;
        }
        Ok(Self { protect: builder.build().map_err(|e| wrong("", e))? })
    }
}

/// Sorts out what came back.
pub fn classify(received: &Received, snapshot: &Snapshot, policy: &Policy) -> ChangeSet {
    let mut changes = BTreeMap::new();
    for (path, arrived) in &received.entries {
        let base = snapshot.base(path);
        if let Some(change) = change(path, arrived, base) {
            changes.insert(path.clone(), change);
        }
    }
    for path in gone(received, snapshot) {
        if let Some(base) = snapshot.base(&path) {
            changes.insert(path.clone(), deleted(path, base));
        }
    }
    add_missing_directories(&mut changes, snapshot);
    let embedded = embedded_repositories(received, snapshot);
    for change in changes.values_mut() {
        let reason = reason(change, policy).or_else(|| {
            embedded
                .iter()
                .any(|directory| change.path.is_within(directory))
                .then(|| (Hold::Person, "part of a new embedded repository".to_owned()))
        });
        if let Some((hold, reason)) = reason {
            // What `change` found, such as a setuid bit, stands unless something graver is found.
            if change.hold != Some(Hold::Never) {
                change.hold = Some(hold);
                change.reason = Some(reason);
            }
        }
    }
    hold_below(&mut changes);
    hold_emptied(&mut changes);
    ChangeSet { changes: changes.into_values().collect() }
}

/// Holds a new directory of which everything is held: the empty shell of it is nothing that
/// anybody asked for.
fn hold_emptied(changes: &mut BTreeMap<RelPath, Change>) {
    let mut full: BTreeSet<RelPath> = BTreeSet::new();
    let mut emptied = Vec::new();
    // Deepest first, so that a directory is judged after what it holds.
    for (path, change) in changes.iter().rev() {
        let is_new_directory = change.kind == ChangeKind::Directory && change.base.is_none();
        let holds_some = |changes: &BTreeMap<RelPath, Change>| {
            changes.range(path.clone()..).skip(1).any(|(other, _)| other.is_within(path))
        };
        if is_new_directory && change.hold.is_none() && !full.contains(path) && holds_some(changes)
        {
            emptied.push(path.clone());
        } else if change.hold.is_none()
            && let Some(parent) = path.parent()
        {
            full.insert(parent);
        }
    }
    for path in emptied {
        if let Some(change) = changes.get_mut(&path) {
            change.hold = Some(Hold::Person);
            change.reason = Some("everything in it is held".to_owned());
        }
    }
}

fn change(path: &RelPath, arrived: &Arrived, base: Option<BaseNode>) -> Option<Change> {
    let (new, mode) = match arrived {
        Arrived::Node { new, mode } => (new, *mode),
        Arrived::Special => {
            let kind = if base.is_some() { ChangeKind::Modified } else { ChangeKind::Added };
            let mut change = held(path.clone(), kind, 0, base, None);
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
    let mut change = held(path.clone(), kind, new.size, base, Some(new.clone()));
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
    let no_more: HashSet<&RelPath> = snapshot
        .nodes
        .iter()
        .filter(|(path, node)| node.kind == NodeKind::Directory && !is_directory(path))
        .map(|(path, _)| path)
        .collect();
    let below = |path: &RelPath| {
        !no_more.is_empty()
            && std::iter::successors(path.parent(), RelPath::parent).any(|p| no_more.contains(&p))
    };
    snapshot
        .nodes
        .keys()
        .filter(|path| received.deleted.contains(*path) || below(path))
        .cloned()
        .collect()
}

/// A new path needs its directories, also where the container did not name them.
fn add_missing_directories(changes: &mut BTreeMap<RelPath, Change>, snapshot: &Snapshot) {
    let mut missing = Vec::new();
    for change in changes.values().filter(|c| c.kind != ChangeKind::Deleted) {
        let mut above = change.path.parent();
        while let Some(parent) = above {
            if !changes.contains_key(&parent) && !snapshot.nodes.contains_key(&parent) {
                missing.push(parent.clone());
            }
            above = parent.parent();
        }
    }
    for path in missing {
        let new = NewNode {
            kind: NodeKind::Directory,
            executable: false,
            size: 0,
            hash: None,
            offset: 0,
            target: None,
        };
        changes
            .entry(path.clone())
            .or_insert_with(|| held(path, ChangeKind::Directory, 0, None, Some(new)));
    }
}

/// New directories that are repositories of their own.
fn embedded_repositories(received: &Received, snapshot: &Snapshot) -> Vec<RelPath> {
    received
        .entries
        .keys()
        .filter(|path| is_git_name(path.name()))
        .filter_map(RelPath::parent)
        .filter(|directory| !snapshot.nodes.contains_key(directory))
        .collect()
}

/// Why a change must not be applied as it is.
fn reason(change: &Change, policy: &Policy) -> Option<(Hold, String)> {
    let path = &change.path;
    if path.components().any(is_git_name) {
        return Some((Hold::Never, "a spelling of .git, which belongs to git alone".into()));
    }
    if path.components().any(|name| name.len() > MAX_NAME) {
        return Some((Hold::Never, format!("has a name of more than {MAX_NAME} bytes")));
    }
    if let Some(target) = change.new.as_ref().and_then(|new| new.target.as_ref())
        && let Some(reason) = link_reason(path, &target.0)
    {
        return Some((Hold::Person, reason.into()));
    }
    let is_directory = |kind| kind == NodeKind::Directory;
    let is_dir = change.new.as_ref().map(|n| n.kind).or(change.base.as_ref().map(|b| b.kind));
    if policy
        .protect
        .matched_path_or_any_parents(path.as_path(), is_dir.is_some_and(is_directory))
        .is_ignore()
    {
        let reason = "protected (workspace.protect): editors or agents may execute it";
        return Some((Hold::Person, reason.into()));
    }
    None
}

/// Why a link must not be made; judged by its text alone, so what cannot be judged so is held.
fn link_reason(path: &RelPath, target: &[u8]) -> Option<&'static str> {
    if target.first() == Some(&b'/') {
        return Some("a link to an absolute path");
    }
    let mut depth = path.components().count() - 1;
    let mut named = false;
    for part in target.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." if named => return Some("a link through another path and up again"),
            b".." if depth == 0 => return Some("a link that leads out of the workspace"),
            b".." => depth -= 1,
            name if is_git_name(name) => return Some("a link into git's own files"),
            _ => named = true,
        }
    }
    None
}

/// Whatever lies below something held is held with it.
fn hold_below(changes: &mut BTreeMap<RelPath, Change>) {
    let held: BTreeMap<RelPath, Hold> = changes
        .values()
        .filter(|change| change.kind != ChangeKind::Deleted)
        .filter_map(|change| Some((change.path.clone(), change.hold?)))
        .collect();
    if held.is_empty() {
        return;
    }
    for change in changes.values_mut().filter(|change| change.hold != Some(Hold::Never)) {
        let mut above = change.path.parent();
        while let Some(parent) = above {
            if let Some(hold) = held.get(&parent)
                && (change.hold.is_none() || *hold == Hold::Never)
            {
                change.hold = Some(*hold);
                change.reason = Some(format!("{parent} above it is held"));
            }
            above = parent.parent();
        }
    }
}

/// Whether some file system takes `name` for `.git`: by git's own rules for case, for the code
/// points that HFS+ ignores, and for what NTFS makes of trailing dots and blanks, streams, short
/// names and backslashes.
pub fn is_git_name(name: &[u8]) -> bool {
    let plain = without_ignorable(name);
    [name, &plain].into_iter().any(|name| name.split(|b| *b == b'\\').any(ntfs_git))
}

fn ntfs_git(name: &[u8]) -> bool {
    let starts = |with: &[u8]| {
        name.get(..with.len())
            .filter(|head| head.eq_ignore_ascii_case(with))
            .map(|_| &name[with.len()..])
    };
    let Some(rest) = starts(b".git").or_else(|| starts(b"git~1")) else {
        return false;
    };
    let end = rest.iter().find(|b| !matches!(b, b'.' | b' '));
    end.is_none_or(|b| *b == b':')
}

/// The name without the code points that HFS+ ignores.
fn without_ignorable(name: &[u8]) -> Vec<u8> {
    let mut rest = name;
    let mut plain = Vec::with_capacity(name.len());
    while let [first, tail @ ..] = rest {
        // In UTF-8: U+200C..U+200F, U+202A..U+202E, U+206A..U+206F, U+FEFF.
        let ignorable = matches!(
            rest,
            [0xe2, 0x80, 0x8c..=0x8f | 0xaa..=0xae, ..]
                | [0xe2, 0x81, 0xaa..=0xaf, ..]
                | [0xef, 0xbb, 0xbf, ..]
        );
        if ignorable {
            rest = &rest[3..];
        } else {
            plain.push(*first);
            rest = tail;
        }
    }
    plain
}

#[cfg(test)]
#[path = "classify_tests.rs"]
mod tests;
