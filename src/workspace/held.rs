//! What a container holds of a workspace, as the host knows it.
//!
//! ```text
//!  nothing ── put ──> what was sent ── a run, a reset ──> what was sent, less what the run touched
//!     ▲                    ▲                                   │
//!     │                    └──────── put of what differs ──────┤
//!     └── a reset that keeps nothing, a put that failed ───────┘
//! ```

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use rustix::fs::{AtFlags, StatxFlags, statx};

use super::{Snapshot, Workspace, WorkspaceKey};
use crate::keeper::wire::{IgnoredTotal, KeptTree};
use crate::path::RelPath;

/// A tree in a container, between two puts.
#[derive(Clone, Debug)]
pub struct Held {
    /// Of which workspace it is; of no other anything may be put on it.
    pub workspace: WorkspaceKey,
    /// The keeper's name for it, see [`PutRequest::base`](crate::keeper::wire::PutRequest::base).
    pub tree: u64,
    /// What was sent last. Shared with whoever else holds it.
    pub snapshot: Arc<Snapshot>,
    /// What is in the snapshot, or in the `.git` that went with it, and not in the container.
    pub dropped: BTreeSet<RelPath>,
    /// Where the workspace was when it was sent.
    pub path: PathBuf,
    /// Bytes of the files in the container.
    pub bytes: u64,
    /// Build state that is kept with it, the topmost paths.
    pub kept: Vec<IgnoredTotal>,
}

impl Held {
    /// What is held after a put.
    pub fn new(workspace: WorkspaceKey, tree: u64, snapshot: Arc<Snapshot>) -> Self {
        let (dropped, kept, path) = (BTreeSet::new(), Vec::new(), PathBuf::new());
        let bytes = snapshot.bytes;
        Self { workspace, tree, snapshot, dropped, path, bytes, kept }
    }

    /// What is left of it after a reset that kept `tree`, and `kept` of what was built.
    #[must_use]
    pub fn after_reset(mut self, tree: KeptTree, kept: Vec<IgnoredTotal>) -> Self {
        self.tree = tree.tree;
        self.bytes = tree.bytes;
        self.dropped.extend(tree.dropped);
        self.kept = kept;
        self
    }
}

/// When a directory was made, as far as its file system tells, and where it is: what tells it from a
/// later one that got its inode number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Birth {
    made: Option<(i64, u32)>,
    path: PathBuf,
}

impl Birth {
    /// That of `workspace`. Blocking, one system call.
    pub fn of(workspace: &Workspace) -> Self {
        let (flags, mask) = (AtFlags::EMPTY_PATH, StatxFlags::BTIME);
        let found = statx(&*workspace.root, c"", flags, mask).ok();
        let found = found.filter(|found| found.stx_mask & StatxFlags::BTIME.bits() != 0);
        let made = found.map(|found| (found.stx_btime.tv_sec, found.stx_btime.tv_nsec));
        Self { made, path: workspace.path.clone() }
    }

    /// Whether both are of one directory, whose inode number is the same. Where no time tells, one
    /// that was moved counts as another.
    pub fn is(&self, other: &Self) -> bool {
        match (self.made, other.made) {
            (None, None) => self.path == other.path,
            (one, other) => one == other,
        }
    }
}

/// What was sent last of each workspace, as long as some container holds it: whoever sends it to
/// another one shares the memory of what is the same.
#[derive(Clone, Debug, Default)]
pub struct Manifests(Arc<Mutex<HashMap<WorkspaceKey, Weak<Snapshot>>>>);

impl Manifests {
    /// What was sent last, if somebody has it still.
    pub fn latest(&self, workspace: WorkspaceKey) -> Option<Arc<Snapshot>> {
        self.0.lock().get(&workspace)?.upgrade()
    }

    /// Notes what was sent last.
    pub fn note(&self, workspace: WorkspaceKey, snapshot: &Arc<Snapshot>) {
        let mut all = self.0.lock();
        all.retain(|_, snapshot| snapshot.strong_count() > 0);
        all.insert(workspace, Arc::downgrade(snapshot));
    }
}
