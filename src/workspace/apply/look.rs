//! The comparison of every path, before anything is written.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;

use rustix::io::Errno;

use super::plan::{Op, Wanted};
use super::record::Settled;
use super::refusal::{SAME_NAME, refusal};
use super::step::as_base;
use crate::path::RelPath;
use crate::workspace::change::Change;
use crate::workspace::conflict::{Decision, HostNow, decide};
use crate::workspace::host::{Host, Looking, folded};

/// What was seen.
pub(super) struct Looked {
    /// What must be written, in the order of the paths.
    pub(super) ops: Vec<Op>,
    /// What the host has already.
    pub(super) had: Vec<Settled>,
    /// What cannot be written, and why.
    pub(super) refused: BTreeMap<RelPath, String>,
}

/// Compares every path.
pub(super) fn look(host: &Host, wanted: &Wanted<'_>) -> Looked {
    let mut looked = Looked { ops: Vec::new(), had: Vec::new(), refused: BTreeMap::new() };
    let mut looking = Looking::at(host);
    let mut moved = BTreeSet::new();
    let mut gone = Gone::new();
    for change in wanted.iter().filter(|change| change.base.is_some() && change.new.is_none()) {
        gone.entry(key(&change.path)).or_default().push(&change.path);
    }
    for change in wanted.iter() {
        let path = &change.path;
        let now = match looking.look(path, change.base.as_ref()) {
            Ok(now) => now,
            Err(error) => match blocked(&error, || wanted.has_link_above(path)) {
                Ok(now) => now,
                Err(reason) => {
                    looked.refused.insert(path.clone(), reason);
                    continue;
                }
            },
        };
        let is_new_name = change.base.is_none() && matches!(now, HostNow::Node(_));
        let now = if is_new_name && goes_first(host, &gone, path, &moved) {
            moved.insert(path.clone());
            HostNow::Absent
        } else if is_new_name && matches!(looking.is_spelled_so(path), Ok(false)) {
            looked.refused.insert(path.clone(), SAME_NAME.into());
            continue;
        } else {
            now
        };
        match decide(change.base.as_ref(), change.new.as_ref(), &now) {
            Decision::Apply => looked.ops.push(op(change, None, &now)),
            Decision::ApplyBytes => {
                let mode = match &now {
                    HostNow::Node(now) => Some(now.mode),
                    _ => None,
                };
                looked.ops.push(op(change, mode, &now));
            }
            Decision::Nothing => looked.had.push(had(change)),
            Decision::Conflict(reason) => {
                looked.refused.insert(path.clone(), reason.into());
            }
        }
    }
    looked
}

/// Whether what is found at a new path goes before the path is written, since it is found there under
/// another spelling of its name, and that one, or one above it, is deleted in this very change set:
/// a name that only changes its case.
fn goes_first(host: &Host, gone: &Gone<'_>, path: &RelPath, moved: &BTreeSet<RelPath>) -> bool {
    path.above().any(|above| moved.contains(above))
        || gone.get(&key(path)).into_iter().flatten().any(|other| host.are_one(other, path))
}

/// What is deleted, by the directory and by the name without regard to its case.
type Gone<'a> = HashMap<(&'a [u8], String), Vec<&'a RelPath>>;

fn key(path: &RelPath) -> (&[u8], String) {
    let (parent, name) = path.as_bytes().split_at(path.as_bytes().len() - path.name().len());
    (parent, folded(name))
}

/// What there is where the way is blocked; or why the path cannot be written.
fn blocked(error: &io::Error, has_link_above: impl FnOnce() -> bool) -> Result<HostNow, String> {
    match Errno::from_io_error(error) {
        // It went between two looks, or a file is above it: there is nothing here.
        Some(Errno::NOENT | Errno::NOTDIR) => Ok(HostNow::Absent),
        Some(Errno::LOOP) if has_link_above() => Ok(HostNow::Absent),
        Some(Errno::LOOP) => Err("a directory above it became a link on the host".into()),
        Some(Errno::INVAL | Errno::NXIO) => Ok(HostNow::Special),
        _ => Err(refusal("read", error)),
    }
}

/// `mode`: the one on the host, which stays.
fn op(change: &Change, mode: Option<u32>, now: &HostNow) -> Op {
    let mut base = change.base.clone();
    let mut new = change.new.clone();
    if let (Some(mode), Some(base), Some(new)) = (mode, &mut base, &mut new) {
        base.mode = mode;
        new.executable = base.executable();
    }
    let mut op = Op {
        path: change.path.clone(),
        base,
        new,
        restore: change.before.clone(),
        staged: None,
        aside: None,
        was: None,
    };
    if op.is_mode() {
        op.was = match now {
            HostNow::Node(now) => Some(now.mode),
            _ => None,
        };
    }
    op
}

/// What the host had before is what it has now, so there is nothing to undo.
fn had(change: &Change) -> Settled {
    Settled {
        path: change.path.clone(),
        done: true,
        reason: None,
        base: change.new.as_ref().map(as_base),
        new: change.new.clone(),
        before: None,
    }
}
