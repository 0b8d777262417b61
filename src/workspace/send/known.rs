//! What is known of a tree before it is sent again, and what of it may be believed.
//!
//! ```text
//!  seen now ── stat as it was? ── no ─────────────────────────────────> read, sent
//!                  │ yes
//!              a container has it? ── no ──────────────────────────────> read, sent
//!                  │ yes
//!              certain by its times? ── no ──> read ── same bytes? ─ no ─> sent
//!                  │ yes                                   │ yes
//!                  └──────────────> stays as it is <───────┘
//! ```
//!
//! Times are believed as far as git believes them: a file that was changed in the very tick of the
//! clock in which it was sent, or after, may change again without another time to show for it.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use crate::path::RelPath;
use crate::workspace::git::{GitFile, GitFiles};
use crate::workspace::held::Held;
use crate::workspace::nodes::{Named, Nodes};
use crate::workspace::{Node, NodeKind, Snapshot, beneath, is_settled};

/// What a tree is sent on; by default nothing, and all of it travels.
#[derive(Clone, Copy, Debug, Default)]
pub struct Base<'a> {
    /// What the container holds of this very workspace: only what differs travels.
    pub held: Option<&'a Held>,
    /// What was sent last of it, to whichever container: what is as it was then shares its memory.
    pub latest: Option<&'a Snapshot>,
}

/// A file system whose times come from this machine's clock in ticks of it. FAT is none: what it tells
/// of the last change of a file's inode is what anybody may set.
const LOCAL: [u64; 12] = [
    0xef53,      // ext2, ext3, ext4
    0x5846_5342, // XFS
    0x9123_683e, // Btrfs
    0x0102_1994, // tmpfs
    0x8584_58f6, // ramfs
    0x794c_7630, // overlayfs
    0x2fc1_2fc1, // ZFS
    0xf2f5_2010, // F2FS
    0xca45_1a4e, // bcachefs
    0x3153_464a, // JFS
    0x5265_4973, // ReiserFS
    0x3434,      // NILFS2
];

/// What the clock may lose against one that nobody sets: the step of a clock that is kept exact, and
/// a thousandth for one that is slowed down to become so.
const SLOW: Duration = Duration::from_millis(50);

/// What is known of a tree.
#[derive(Clone, Copy, Debug)]
pub(in crate::workspace) struct Known<'h> {
    snapshot: Option<&'h Snapshot>,
    latest: Option<&'h Snapshot>,
    /// What the container has not of the snapshot; `None` if it has nothing of it.
    dropped: Option<&'h BTreeSet<RelPath>>,
    /// The time before which a change must lie to be believed, and on which device; `None` if no time
    /// is.
    before: Option<((i64, u32), u64)>,
}

/// A node as it was seen, and what is known of it.
#[derive(Debug)]
pub(in crate::workspace) struct Item<'h> {
    /// Without a hash, unless it is known to be what it was.
    pub(in crate::workspace) named: Arc<Named>,
    pub(in crate::workspace) was: Option<&'h Arc<Named>>,
    /// What it was is in the container.
    pub(in crate::workspace) there: bool,
}

impl<'h> Known<'h> {
    /// What `base` says, at the time `taken` and `uptime`; `local` is the device of the tree if its
    /// times come from this machine's clock. Those of another one that is mounted in it may not.
    pub(super) fn new(
        base: Base<'h>,
        taken: (i64, u32),
        uptime: Duration,
        local: Option<u64>,
    ) -> Self {
        let (snapshot, dropped) = match base.held {
            Some(held) => (Some(&*held.snapshot), Some(&held.dropped)),
            None => (base.latest, None),
        };
        let before = snapshot
            .filter(|snapshot| went_on((snapshot.taken, snapshot.uptime), (taken, uptime)))
            .map(|snapshot| snapshot.taken)
            .zip(local);
        Self { snapshot, latest: base.latest, dropped, before }
    }

    /// All that was, in order; empty if nothing is known.
    fn all(&self) -> &'h [Arc<Named>] {
        self.snapshot.map_or(&[], |snapshot| snapshot.nodes.all())
    }

    /// Where `path` is in what was, or would be, at or after `from`.
    pub(in crate::workspace) fn seek(&self, from: usize, path: &[u8]) -> usize {
        let rest = self.all().get(from..).unwrap_or_default();
        // Neighbours are asked for one after the other.
        let mut step = 1;
        while rest.get(step - 1).is_some_and(|named| named.path.as_bytes() < path) {
            step *= 2;
        }
        let (low, high) = (step / 2, step.min(rest.len()));
        let near = rest.get(low..high).unwrap_or_default();
        from + low + near.partition_point(|named| named.path.as_bytes() < path)
    }

    /// What is to be done about `node`, which is seen at `path` now; `at` is where [`Self::seek`]
    /// found that. `None` for a path that is none.
    pub(in crate::workspace) fn item(
        &self,
        path: &[u8],
        node: Node,
        at: usize,
    ) -> Option<Item<'h>> {
        let was = self.all().get(at).filter(|named| named.path.as_bytes() == path);
        let there = was.is_some() && self.dropped.is_some_and(|dropped| !dropped.contains(path));
        let named = match was {
            Some(was) if same(&was.node, &node) => Arc::clone(was),
            _ => self.share(RelPath::new(path).ok()?, node),
        };
        Some(Item { named, was, there })
    }

    /// The node, or the one that is the same in what was sent last.
    fn share(&self, path: RelPath, node: Node) -> Arc<Named> {
        let named = Named { path, node };
        let latest = self.latest.map_or(&[][..], |latest| latest.nodes.all());
        let found = latest.binary_search_by(|had| had.path.cmp(&named.path)).ok();
        match found.and_then(|at| latest.get(at)).filter(|had| ***had == named) {
            Some(had) => Arc::clone(had),
            None => Arc::new(named),
        }
    }

    /// Notes in `item` what was sent.
    pub(super) fn complete(&self, item: &mut Item<'_>, node: Node) {
        if item.named.node != node {
            item.named = self.share(item.named.path.clone(), node);
        }
    }

    /// Whether a container has `item` as it is, so far as one can tell without reading it.
    pub(super) fn stays(&self, item: &Item<'_>) -> bool {
        let Some(was) = item.was.filter(|was| item.there && was.node.kind == item.named.node.kind)
        else {
            return false;
        };
        match item.named.node.kind {
            NodeKind::Directory => true,
            NodeKind::Link => was.node.target == item.named.node.target,
            NodeKind::File => {
                Arc::ptr_eq(was, &item.named)
                    && self.before.is_some_and(|(before, device)| {
                        was.node.dev == device && is_settled(was.node.ctime, before)
                    })
            }
        }
    }

    /// What a container has and `items` have not, or have as something else: the topmost paths.
    pub(super) fn gone(&self, items: &[Item<'_>]) -> Vec<&'h [u8]> {
        let Some(dropped) = self.dropped else { return Vec::new() };
        let mut items = items.iter().peekable();
        let mut gone = Gone::default();
        for was in self.all() {
            while items.next_if(|item| item.named.path < was.path).is_some() {}
            let now =
                items.next_if(|item| Arc::ptr_eq(&item.named, was) || item.named.path == was.path);
            let stays = now.is_some_and(|item| item.named.node.kind == was.node.kind);
            if !stays && !dropped.contains(&was.path) {
                gone.add(was.path.as_bytes());
            }
        }
        gone.topmost
    }

    /// What a container has of a `.git`.
    pub(super) fn git_file(&self, path: &[u8]) -> Option<&'h GitFile> {
        let dropped = self.dropped?;
        self.git_files()?.get(path).filter(|_| !dropped.contains(path))
    }

    /// What was sent of a `.git`, to whichever container.
    pub(super) fn git_files(&self) -> Option<&'h GitFiles> {
        self.snapshot.map(|snapshot| &snapshot.git_files)
    }

    /// What a container has of a `.git` and is not in `plan`, or something else there: the topmost
    /// paths.
    pub(super) fn git_gone(&self, plan: impl Fn(&[u8]) -> Option<GitFile>) -> Vec<&'h [u8]> {
        let mut gone = Gone::default();
        for (path, was) in self.git_files().into_iter().flat_map(GitFiles::iter) {
            let stays = plan(path).is_some_and(|now| now.is_directory() == was.is_directory());
            if !stays && self.git_file(path).is_some() {
                gone.add(path);
            }
        }
        gone.topmost
    }

    /// The nodes of `items`, in order; those that were if nothing changed.
    pub(super) fn nodes(&self, items: Vec<Item<'_>>) -> Nodes {
        let same = |(item, was): (&Item<'_>, &Arc<Named>)| Arc::ptr_eq(&item.named, was);
        let is = |known: &&Snapshot| {
            let all = known.nodes.all();
            items.len() == all.len() && items.iter().zip(all).all(same)
        };
        match [self.latest, self.snapshot].into_iter().flatten().find(is) {
            Some(known) => known.nodes.clone(),
            None => Nodes::from_sorted(items.into_iter().map(|item| item.named).collect()),
        }
    }
}

impl Item<'_> {
    /// The file that the container has, if it has one.
    pub(super) fn file_there(&self) -> Option<&Node> {
        let was = self.was.filter(|_| self.there)?;
        (was.node.kind == NodeKind::File).then_some(&was.node)
    }
}

/// Paths that are gone, in order of their bytes, so that a directory comes before what is in it.
#[derive(Default)]
struct Gone<'h> {
    topmost: Vec<&'h [u8]>,
    all: HashSet<&'h [u8]>,
}

impl<'h> Gone<'h> {
    fn add(&mut self, path: &'h [u8]) {
        let (parent, _) = beneath::split(path);
        if !self.all.contains(parent) {
            self.topmost.push(path);
        }
        self.all.insert(path);
    }
}

/// Whether a node is still as it was by all that its stat says.
fn same(was: &Node, now: &Node) -> bool {
    let key = |node: &Node| {
        let Node { kind, mode, size, mtime, ctime, dev, ino, .. } = *node;
        (kind, mode, size, mtime, ctime, dev, ino)
    };
    key(was) == key(now)
        && match was.kind {
            NodeKind::Directory => true,
            NodeKind::File => was.hash.is_some(),
            NodeKind::Link => was.target == now.target,
        }
}

/// Whether the clock went on between `then` and `now` as it does when nobody sets it back. Each is
/// the time and that since the system was started.
fn went_on(then: ((i64, u32), Duration), now: ((i64, u32), Duration)) -> bool {
    let nanos = |(sec, nsec): (i64, u32)| i128::from(sec) * 1_000_000_000 + i128::from(nsec);
    let passed = nanos(now.0) - nanos(then.0);
    let Some(really) = now.1.checked_sub(then.1) else { return false };
    let least = really.saturating_sub(really / 1000 + SLOW);
    passed >= 0 && passed.unsigned_abs() >= least.as_nanos()
}

/// The device of the tree at `root`, if its times come from this machine's clock.
pub(super) fn local(root: impl std::os::fd::AsFd) -> Option<u64> {
    let kind = rustix::fs::fstatfs(&root).map(|found| u64::try_from(found.f_type).unwrap_or(0));
    // The kernel's constants have 32 bits; some systems give them with a sign.
    let is_local = kind.is_ok_and(|kind| LOCAL.contains(&(kind & 0xffff_ffff)));
    is_local.then(|| rustix::fs::fstat(&root).ok().map(|stat| stat.st_dev)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_set_back_is_seen_and_one_that_is_slowed_down_is_not_taken_for_it() {
        let at = |seconds: i64, up: u64| ((1000 + seconds, 0), Duration::from_secs(up));
        assert!(went_on(at(0, 5), at(0, 5)));
        assert!(went_on(at(0, 5), at(3600, 3605)));
        assert!(went_on(at(0, 5), at(7200, 3605)), "set forward");
        assert!(went_on(at(0, 0), at(9_991, 10_000)), "a thousandth slower");
        assert!(!went_on(at(0, 5), at(3599, 3605 + 5)));
        assert!(!went_on(at(0, 5), at(-1, 3605)));
        assert!(!went_on(at(0, 5), at(0, 4)), "started anew");
    }

    #[test]
    fn times_in_coarse_steps_count_later() {
        assert!(is_settled((9, 999_999_999), (10, 0)));
        assert!(!is_settled((10, 1), (10, 1)));
        assert!(!is_settled((9, 0), (10, 500_000_000)));
        assert!(!is_settled((9, 20_000_000), (11, 20_000_000)));
        assert!(is_settled((9, 20_000_000), (11, 20_000_001)));
    }

    #[test]
    fn times_of_a_file_system_that_is_not_known_are_not_believed() {
        // Of processes: made up whenever they are looked at.
        assert_eq!(local(std::fs::File::open("/proc").unwrap()), None);
    }

    #[test]
    fn times_of_another_device_in_the_tree_are_not_believed() {
        let node = |dev| Node {
            kind: NodeKind::File,
            mode: 0o644,
            size: 1,
            mtime: (1, 1),
            ctime: (1, 1),
            dev,
            ino: 1,
            hash: Some([0; 32]),
            target: None,
        };
        for (dev, stays) in [(7, true), (8, false)] {
            let nodes: Nodes = [(RelPath::new("f").unwrap(), node(dev))].into_iter().collect();
            let snapshot = Snapshot { nodes, taken: (10, 0), ..Snapshot::default() };
            let key = crate::workspace::WorkspaceKey { dev: 7, ino: 1 };
            let held = Held::new(key, 1, Arc::new(snapshot));
            let base = Base { held: Some(&held), latest: None };
            let known = Known::new(base, (11, 0), Duration::from_secs(1), Some(7));
            let seen = Node { hash: None, ..node(dev) };
            let item = known.item(b"f", seen, known.seek(0, b"f")).unwrap();
            assert_eq!(known.stays(&item), stays, "{dev}");
        }
    }

    #[test]
    fn every_path_is_found_from_wherever_one_looks() {
        let name = |at: usize| RelPath::new(format!("f{at:03}")).unwrap();
        let node = |at: usize| Node {
            kind: NodeKind::Directory,
            mode: 0,
            size: 0,
            mtime: (0, 0),
            ctime: (0, 0),
            dev: 0,
            ino: at as u64,
            hash: None,
            target: None,
        };
        let nodes: Nodes = (0..40).map(|at| (name(at * 2), node(at))).collect();
        let snapshot = Snapshot { nodes, ..Snapshot::default() };
        let base = Base { held: None, latest: Some(&snapshot) };
        let known = Known::new(base, (0, 0), Duration::ZERO, None);
        for from in 0..=40 {
            for path in from * 2..82 {
                assert_eq!(known.seek(from, name(path).as_bytes()), path.div_ceil(2).min(40));
            }
        }
    }
}
