//! What became of each path, written into the change set.

use serde::{Deserialize, Serialize};

use super::{Direction, UNDONE};
use crate::path::RelPath;
use crate::workspace::change::{BaseNode, ChangeSet, ChangeState, NewNode, PreImage};

/// What became of one path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Settled {
    pub(super) path: RelPath,
    /// Whether the host has what was wanted.
    pub(super) done: bool,
    /// Why not, or why it is held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<String>,
    /// What was there and what is there now, if it was done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) base: Option<BaseNode>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) new: Option<NewNode>,
    /// What was displaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) before: Option<PreImage>,
}

impl Settled {
    pub(super) fn refused(path: RelPath, reason: impl Into<String>) -> Self {
        let reason = Some(reason.into());
        Self { path, done: false, reason, base: None, new: None, before: None }
    }
}

/// Sets states, reasons and pre-images.
pub(super) fn record(set: &mut ChangeSet, direction: Direction, settled: Vec<Settled>) {
    for settled in settled {
        let Some(change) = set.at_mut(&settled.path) else { continue };
        match (direction, settled.done) {
            (Direction::Apply, true) => {
                change.state = ChangeState::Applied;
                change.reason = None;
                change.base = settled.base;
                change.new = settled.new;
                change.before = settled.before;
            }
            (Direction::Undo, true) => {
                change.state = ChangeState::Held;
                change.reason = Some(UNDONE.into());
                change.before = None;
            }
            (_, false) => change.reason = settled.reason,
        }
    }
}
