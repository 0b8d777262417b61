//! What an apply is about to do, before it does any of it: a pure function of the change set and
//! of what the host has.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Bound;

use serde::{Deserialize, Serialize};

use crate::path::RelPath;
use crate::workspace::NodeKind;
use crate::workspace::change::{BaseNode, Change, NewNode, PreImage};

/// One path that is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Op {
    pub(super) path: RelPath,
    /// What the host has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) base: Option<BaseNode>,
    /// What it gets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) new: Option<NewNode>,
    /// Owner, mode, time and attributes that the new one gets, if not those of the old one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) restore: Option<PreImage>,
    /// Where new contents are written; afterwards what they were exchanged with is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) staged: Option<RelPath>,
    /// Where what must go is moved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) aside: Option<RelPath>,
    /// The mode before, where only the mode is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) was: Option<u32>,
}

impl Op {
    /// Whether what was there must go first: it is deleted, or a directory comes or goes in its
    /// place.
    pub(super) fn makes_room(&self) -> bool {
        makes_room(self.base.as_ref(), self.new.as_ref())
    }

    /// Whether only the mode is set.
    pub(super) fn is_mode(&self) -> bool {
        matches!((&self.base, &self.new), (Some(base), Some(new)) if new.same_bytes(base))
    }

    /// Whether nothing takes the place of what goes.
    pub(super) fn deletes(&self) -> bool {
        self.new.is_none()
    }
}

fn makes_room(base: Option<&BaseNode>, new: Option<&NewNode>) -> bool {
    let is_directory = |kind| kind == NodeKind::Directory;
    match (base, new) {
        (Some(_), None) => true,
        (Some(base), Some(new)) => is_directory(base.kind) != is_directory(new.kind),
        (None, _) => false,
    }
}

/// Where temporary files go, by directory with its slash.
type Homes<'p> = HashMap<&'p [u8], Option<RelPath>>;

/// The changes of one transaction, by path.
#[derive(Debug)]
pub(super) struct Wanted<'a> {
    by_path: BTreeMap<&'a [u8], &'a Change>,
}

impl<'a> Wanted<'a> {
    pub(super) fn new(changes: &'a [Change]) -> Self {
        Self { by_path: changes.iter().map(|change| (change.path.as_bytes(), change)).collect() }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &'a Change> {
        self.by_path.values().copied()
    }

    /// Whether a link above the path is replaced by a directory in this very change set.
    pub(super) fn has_link_above(&self, path: &RelPath) -> bool {
        path.above().any(|above| {
            self.by_path.get(above).is_some_and(|change| {
                change.base.as_ref().is_some_and(|base| base.kind == NodeKind::Link)
            })
        })
    }

    /// The nearest directory above that is one before and after: where temporary files go, so
    /// that none of them is in a directory that is about to go, or not there yet.
    ///
    /// `known`: those of the directories that were asked about already.
    fn home<'p>(&self, path: &'p RelPath, known: &mut Homes<'p>) -> Option<RelPath> {
        let bytes = path.as_bytes();
        let parent = &bytes[..bytes.len() - path.name().len()];
        if let Some(home) = known.get(parent) {
            return home.clone();
        }
        // From the top, since above it nothing may change either.
        let home = path.above().take_while(|above| !self.by_path.contains_key(above)).last();
        let home = home.and_then(|home| RelPath::new(home).ok());
        known.insert(parent, home.clone());
        home
    }

    /// Gives every operation its temporary names; they begin with `.codex-` and `nonce`. A path
    /// whose temporary name would be too long is given back.
    pub(super) fn name(&self, ops: &mut [Op], nonce: &str) -> Vec<RelPath> {
        let mut number = 0;
        let mut too_long = Vec::new();
        let mut homes = Homes::new();
        for op in ops {
            let home = self.home(&op.path, &mut homes);
            let mut next = || {
                number += 1;
                let name = format!(".codex-{nonce}-{number}.tmp");
                match &home {
                    Some(home) => home.join(name.as_bytes()).ok(),
                    None => RelPath::new(name).ok(),
                }
            };
            let is_directory = op.new.as_ref().is_some_and(|n| n.kind == NodeKind::Directory);
            let stages = op.new.is_some() && !is_directory && !op.is_mode();
            let moves = op.base.is_some() && !op.is_mode();
            op.staged = stages.then(&mut next).flatten();
            op.aside = moves.then(&mut next).flatten();
            if stages != op.staged.is_some() || moves != op.aside.is_some() {
                too_long.push(op.path.clone());
            }
        }
        too_long
    }

    /// What must be held if the paths in `refused` are: what lies below a directory that is not
    /// made, what would have made room for something that does not come, and what cannot go
    /// because something in it stays. Each with the reason; those in `refused` are part of it.
    pub(super) fn closure(&self, refused: &BTreeMap<RelPath, String>) -> BTreeMap<RelPath, String> {
        let mut held = refused.clone();
        // The topmost first, since with it all that lies below is held, and is not looked at again.
        let mut news: Vec<RelPath> = refused.keys().rev().cloned().collect();
        let mut whole: HashSet<Vec<u8>> = HashSet::new();
        while let Some(path) = news.pop() {
            let Some(change) = self.by_path.get(path.as_bytes()) else { continue };
            let is_directory = |kind: Option<NodeKind>| kind == Some(NodeKind::Directory);
            let was = is_directory(change.base.as_ref().map(|base| base.kind));
            let is = is_directory(change.new.as_ref().map(|new| new.kind));
            let mut more = Vec::new();
            // A directory that does not come, or one that should make room and does not.
            if ((is && !was) || (was && !is && change.new.is_some()))
                && !path.above().any(|above| whole.contains(above))
            {
                whole.insert(path.as_bytes().to_vec());
                let from = (Bound::Excluded(path.as_bytes()), Bound::Unbounded);
                let below = self.by_path.range::<[u8], _>(from).map(|(_, other)| other);
                let below =
                    below.take_while(|other| other.path.as_bytes().starts_with(path.as_bytes()));
                more.extend(below.filter(|other| other.path.is_within(&path)).map(|other| {
                    let reason = format!("held with {path}, which is above it");
                    (other.path.clone(), reason)
                }));
            }
            // Something stays in it.
            if change.base.is_some() {
                more.extend(path.above().filter_map(|above| {
                    let change = self.by_path.get(above)?;
                    let goes = change.base.as_ref()?.kind == NodeKind::Directory
                        && change.new.as_ref().is_none_or(|n| n.kind != NodeKind::Directory);
                    let reason = || format!("held with {path}, which is in it");
                    let goes = goes && !held.contains_key(above);
                    goes.then(|| (change.path.clone(), reason()))
                }));
            }
            for (path, reason) in more {
                if !held.contains_key(&path) {
                    held.insert(path.clone(), reason);
                    news.push(path);
                }
            }
        }
        held
    }
}

/// The order of the steps: first what makes room, the deepest first, since what lies in a directory
/// has a greater path than the directory; then what is written, from the top.
pub(super) fn removals(ops: &[Op]) -> impl DoubleEndedIterator<Item = &Op> {
    ops.iter().rev().filter(|op| op.makes_room())
}

/// The second half of the steps.
pub(super) fn writes(ops: &[Op]) -> impl DoubleEndedIterator<Item = &Op> {
    ops.iter().filter(|op| op.new.is_some())
}

/// What a person calls a directory that stays because of what is in it.
pub(super) const STAYS: &str = "still has files that are no part of the change";

/// Whether a directory that should go may stay because it is not empty, without harm to the rest.
pub(super) fn may_stay(op: &Op) -> bool {
    op.deletes()
}

/// All directories in which something is named by these operations; `None` is the root.
pub(super) fn directories(ops: &[Op]) -> BTreeSet<Option<RelPath>> {
    ops.iter()
        .flat_map(|op| [Some(&op.path), op.staged.as_ref(), op.aside.as_ref()])
        .flatten()
        .map(RelPath::parent)
        .collect()
}
