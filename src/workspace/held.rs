//! What a container holds of a workspace, as the host knows it.
//!
//! ```text
//!  nothing ── put ──> what was sent ── a run, a reset ──> what was sent, less what the run touched
//!     ▲                    ▲                                   │
//!     │                    └──────── put of what differs ──────┤
//!     └── a reset that keeps nothing, a put that failed ───────┘
//! ```

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::{Snapshot, WorkspaceKey};
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
    /// Build state that is kept with it, the topmost paths.
    pub kept: Vec<IgnoredTotal>,
}

impl Held {
    /// What is held after a put.
    pub fn new(workspace: WorkspaceKey, tree: u64, snapshot: Arc<Snapshot>) -> Self {
        Self { workspace, tree, snapshot, dropped: BTreeSet::new(), kept: Vec::new() }
    }

    /// What is left of it after a reset that kept `tree`, and `kept` of what was built.
    #[must_use]
    pub fn after_reset(mut self, tree: KeptTree, kept: Vec<IgnoredTotal>) -> Self {
        self.tree = tree.tree;
        self.dropped.extend(tree.dropped);
        self.kept = kept;
        self
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
