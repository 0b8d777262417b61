//! What containers hold of workspaces, and what of it goes when it is too much.
//!
//! ```text
//!  a put, a reset ──> note ──┐
//!                            ├──> used ── over workspace.disk_budget? ──> the idle container that was
//!  leased, resetting: as ────┘                     ▲                      used least recently is
//!  noted last                                      └── still over ─────── emptied, or destroyed
//! ```
//!
//! A container's note is shared with the pool, so it counts wherever the container is, and as long
//! as it lives. Looked at after each reset and each preparation, and when the budget changes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::verdict::DestroyReason;

use super::choice::WorkspaceKey;
use super::source::{Pooled, Source};
use super::state::State;
use super::{Pool, Shared};

/// What one container holds of a workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    /// Which workspace it is.
    pub workspace: WorkspaceKey,
    /// Its path, as it was when it was sent last.
    pub path: PathBuf,
    /// Files of the tree.
    pub files: u64,
    /// Bytes of these files.
    pub bytes: u64,
    /// What runs built and the container keeps.
    pub kept: Vec<KeptState>,
    /// When a run ended in it; `None` before the first one.
    pub used: Option<jiff::Timestamp>,
}

/// Build state that stays in a container for the next run on the same workspace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct KeptState {
    /// The topmost ignored path; directories end in `/`.
    pub path: String,
    /// Bytes of the files in it.
    pub bytes: u64,
}

impl Copy {
    /// All that it takes of the disk.
    pub fn disk(&self) -> u64 {
        self.kept.iter().fold(self.bytes, |sum, kept| sum.saturating_add(kept.bytes))
    }
}

/// Where a container notes what it holds; all clones are the same note.
#[derive(Clone, Debug, Default)]
pub struct Note(Arc<Mutex<Noted>>);

#[derive(Debug, Default)]
struct Noted {
    copy: Option<Copy>,
    /// Whether it is not to be used again.
    forgotten: bool,
}

impl Note {
    /// Notes what it holds now. What was to be forgotten still is, but if nothing is held.
    pub fn set(&self, copy: Option<Copy>) {
        let mut noted = self.0.lock();
        noted.forgotten &= copy.is_some();
        noted.copy = copy;
    }

    /// Whether what it holds is not to be used again.
    pub(super) fn is_forgotten(&self) -> bool {
        self.0.lock().forgotten
    }

    /// What it holds.
    pub fn get(&self) -> Option<Copy> {
        self.0.lock().copy.clone()
    }

    /// What that takes of the disk.
    pub fn disk(&self) -> u64 {
        self.0.lock().copy.as_ref().map_or(0, Copy::disk)
    }
}

/// The notes of all containers that live.
#[derive(Debug, Default)]
pub(crate) struct Notes(Vec<Weak<Mutex<Noted>>>);

impl Notes {
    pub(crate) fn add(&mut self, note: &Note) {
        self.0.retain(|note| note.strong_count() > 0);
        self.0.push(Arc::downgrade(&note.0));
    }

    /// Bytes of all.
    pub(crate) fn disk(&self) -> u64 {
        self.living().map(|note| note.disk()).fold(0, u64::saturating_add)
    }

    fn living(&self) -> impl Iterator<Item = Note> {
        self.0.iter().filter_map(|note| note.upgrade().map(Note))
    }

    /// What is held of `workspace`, or of any, is not to be used again. Gives how many hold it.
    fn forget(&self, workspace: Option<WorkspaceKey>) -> u64 {
        let mut count = 0;
        for note in self.living() {
            let mut noted = note.0.lock();
            let held = noted.copy.as_ref().map(|copy| copy.workspace);
            if held.is_some_and(|held| workspace.is_none_or(|wanted| wanted == held)) {
                noted.forgotten = true;
                count += 1;
            }
        }
        count
    }

    /// By workspace, the one used last first.
    pub(crate) fn by_workspace(&self) -> Vec<WorkspaceCopies> {
        let mut found: Vec<(WorkspaceKey, WorkspaceCopies)> = Vec::new();
        for copy in self.living().filter_map(|note| note.get()) {
            let at = found.iter().position(|(key, _)| *key == copy.workspace);
            let at = at.unwrap_or_else(|| {
                found.push((copy.workspace, WorkspaceCopies::default()));
                found.len() - 1
            });
            if let Some((_, all)) = found.get_mut(at) {
                all.add(copy);
            }
        }
        let mut all: Vec<_> = found.into_iter().map(|(_, all)| all).collect();
        all.sort_by(|a, b| (&b.last_used, &a.path).cmp(&(&a.last_used, &b.path)));
        all
    }
}

/// What containers hold of one workspace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct WorkspaceCopies {
    /// The workspace.
    pub path: String,
    /// Containers that hold it.
    pub containers: u64,
    /// Files of the tree, in the container that has most of it.
    pub files: u64,
    /// Bytes of the trees in all of them.
    pub bytes: u64,
    /// What runs built and the containers keep, the topmost paths; bytes of all containers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<KeptState>,
    /// When a run on it ended the last time; left out if it was only prepared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used: Option<String>,
}

impl WorkspaceCopies {
    fn add(&mut self, copy: Copy) {
        self.path = copy.path.to_string_lossy().into_owned();
        self.containers += 1;
        self.files = self.files.max(copy.files);
        self.bytes = self.bytes.saturating_add(copy.bytes);
        let mut kept: BTreeMap<_, _> =
            std::mem::take(&mut self.kept).into_iter().map(|one| (one.path, one.bytes)).collect();
        for one in copy.kept {
            let bytes: &mut u64 = kept.entry(one.path).or_default();
            *bytes = bytes.saturating_add(one.bytes);
        }
        self.kept = kept.into_iter().map(|(path, bytes)| KeptState { path, bytes }).collect();
        // Of the same length and in UTC, so that the text is in the order of the times.
        let used = copy.used.map(|used| format!("{used:.3}"));
        self.last_used = self.last_used.take().max(used);
    }

    /// Bytes of all that is kept.
    pub fn kept_bytes(&self) -> u64 {
        self.kept.iter().fold(0, |sum, kept| sum.saturating_add(kept.bytes))
    }
}

/// The disk that copies of workspaces and what was built in them take.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema,
)]
pub struct Disk {
    /// Bytes in all containers of this server.
    pub used: u64,
    /// `workspace.disk_budget` in bytes.
    pub budget: u64,
    /// How many copies were given up for it since the server started.
    pub dropped: u64,
}

/// A container, as far as the budget has to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holding {
    /// What it holds.
    pub disk: u64,
    /// Time since it became idle; `None` for one that is not.
    pub idle_for: Option<Duration>,
}

/// Which containers give up what they hold so that the rest is within `budget`: idle ones that hold
/// something, the one used least recently first, and no more than needed.
pub fn over_budget(all: &[Holding], budget: u64) -> Vec<usize> {
    let mut used = all.iter().map(|one| u128::from(one.disk)).sum::<u128>();
    let mut idle: Vec<_> = all
        .iter()
        .enumerate()
        .filter(|(_, one)| one.disk > 0)
        .filter_map(|(index, one)| one.idle_for.map(|idle_for| (idle_for, index, one.disk)))
        .collect();
    idle.sort_by_key(|(idle_for, ..)| std::cmp::Reverse(*idle_for));
    let mut dropped = Vec::new();
    for (_, index, disk) in idle {
        if used <= u128::from(budget) {
            break;
        }
        used -= u128::from(disk);
        dropped.push(index);
    }
    dropped
}

impl<S: Source> Pool<S> {
    /// Puts a budget in force for what containers hold, in bytes; what is over it goes at once.
    pub fn set_disk_budget(&self, bytes: u64) {
        let mut state = self.shared.state.lock();
        state.disk_budget = bytes;
        let over = self.shared.give_up(&mut state);
        drop(state);
        self.shared.end_given_up(over);
    }
}

/// What came of [`Pool::forget`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forgotten {
    /// Containers that give up what they hold now.
    pub dropped: u64,
    /// Containers that are in use and give it up afterwards.
    pub in_use: u64,
}

impl<S: Source> Pool<S> {
    /// Drops what containers hold of `workspace`, or of any: idle ones are emptied or destroyed,
    /// those in use when their work ends. No call that comes later finds any of it. Returns at once.
    pub fn forget(&self, workspace: Option<WorkspaceKey>) -> Forgotten {
        let mut state = self.shared.state.lock();
        let all = state.notes.forget(workspace);
        let is_forgotten =
            |member: &super::Member<S::Container>| member.container.note().is_forgotten();
        let mut dropped = Vec::new();
        while let Some(index) = state.idle.iter().position(is_forgotten) {
            dropped.push(state.idle.swap_remove(index));
        }
        let count = dropped.len() as u64;
        let destroyed = self.shared.empty(&mut state, dropped);
        drop(state);
        for member in destroyed {
            self.shared.destroy(member, DestroyReason::CopyDropped, |_| {});
        }
        self.shared.touch();
        Forgotten { dropped: count, in_use: all.saturating_sub(count) }
    }
}

/// Containers that can only be destroyed to give up what they hold.
pub(super) type GivenUp<C> = Vec<super::Member<C>>;

impl<S: Source> Shared<S> {
    /// Empties the idle containers that the budget has no room for. Those that cannot be emptied are
    /// for [`Shared::end_given_up`], once the lock is free.
    #[must_use]
    pub(super) fn give_up(
        self: &Arc<Self>,
        state: &mut State<S::Container>,
    ) -> GivenUp<S::Container> {
        if state.closed || state.notes.disk() <= state.disk_budget {
            return Vec::new();
        }
        let idle = state.idle.iter().map(|member| Holding {
            disk: member.container.note().disk(),
            idle_for: Some(member.idle_since.elapsed()),
        });
        let mut all: Vec<_> = idle.collect();
        let disk = all.iter().fold(0, |sum: u64, one| sum.saturating_add(one.disk));
        let others = state.notes.disk().saturating_sub(disk);
        all.push(Holding { disk: others, idle_for: None });
        let mut over = over_budget(&all, state.disk_budget);
        // From the end, so that the places of the others stay what they are.
        over.sort_unstable_by(|a, b| b.cmp(a));
        let mut members = Vec::new();
        for index in over {
            let member = state.idle.swap_remove(index);
            state.given_up += 1;
            let id = member.container.id();
            tracing::info!(container = %id, "what it holds is given up (workspace.disk_budget)");
            members.push(member);
        }
        self.empty(state, members)
    }

    /// Empties containers that are not idle any more; gives those that cannot be emptied.
    #[must_use]
    fn empty(
        self: &Arc<Self>,
        state: &mut State<S::Container>,
        members: GivenUp<S::Container>,
    ) -> GivenUp<S::Container> {
        let mut destroyed = Vec::new();
        for member in members {
            if self.cleanable(&member).is_ok() {
                state.cleaning += 1;
                self.begin_cleaning(member);
            } else {
                destroyed.push(member);
            }
        }
        destroyed
    }

    pub(super) fn end_given_up(self: &Arc<Self>, members: GivenUp<S::Container>) {
        for member in members {
            self.destroy(member, DestroyReason::DiskBudget, |_| {});
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn holding(disk: u64, idle_for: Option<u64>) -> Holding {
        Holding { disk, idle_for: idle_for.map(Duration::from_secs) }
    }

    #[test]
    fn the_least_recently_used_goes_first_and_what_is_in_use_never() {
        let all = [
            holding(10, Some(5)),
            holding(10, Some(50)),
            holding(100, None),
            holding(0, Some(900)),
            holding(10, Some(20)),
        ];
        assert_eq!(over_budget(&all, 130), Vec::<usize>::new());
        assert_eq!(over_budget(&all, 129), [1]);
        assert_eq!(over_budget(&all, 119), [1, 4]);
        assert_eq!(over_budget(&all, 5), [1, 4, 0]);
        assert_eq!(over_budget(&[holding(u64::MAX, None), holding(2, Some(1))], u64::MAX), [1]);
    }

    #[test]
    fn copies_of_a_workspace_are_told_together_and_the_one_used_last_first() {
        let copy = |ino: u64, used: Option<i64>, kept: &[(&str, u64)]| Copy {
            workspace: WorkspaceKey { dev: 1, ino },
            path: format!("/w{ino}").into(),
            files: ino,
            bytes: 100,
            kept: kept
                .iter()
                .map(|(path, bytes)| KeptState { path: (*path).to_owned(), bytes: *bytes })
                .collect(),
            used: used.map(|second| jiff::Timestamp::from_second(second).unwrap()),
        };
        let (mut notes, mut alive) = (Notes::default(), Vec::new());
        for held in [
            copy(1, Some(1), &[("target/", 7)]),
            copy(2, Some(10), &[]),
            copy(1, Some(9), &[("target/", 5), ("a/", 1)]),
            copy(3, None, &[]),
        ] {
            let note = Note::default();
            note.set(Some(held));
            notes.add(&note);
            alive.push(note);
        }
        assert_eq!(notes.disk(), 413);
        let told = notes.by_workspace();
        let names: Vec<_> = told.iter().map(|one| one.path.as_str()).collect();
        assert_eq!(names, ["/w2", "/w1", "/w3"]);
        let kept = |path: &str, bytes| KeptState { path: path.to_owned(), bytes };
        assert_eq!(told[1].kept, [kept("a/", 1), kept("target/", 12)]);
        assert_eq!((told[1].containers, told[1].bytes, told[1].kept_bytes()), (2, 200, 13));
        assert_eq!(told[1].last_used.as_deref(), Some("1970-01-01T00:00:09.000Z"));
        alive.remove(0);
        assert_eq!(notes.disk(), 306);
    }

    proptest! {
        #[test]
        fn within_the_budget_if_idle_ones_allow_and_no_more_than_needed_in_order_of_use(
            all in prop::collection::vec((0u64..1000, prop::option::of(0u64..50)), 0..10),
            budget in 0u64..3000,
        ) {
            let all: Vec<_> = all.into_iter().map(|(disk, idle)| holding(disk, idle)).collect();
            let dropped = over_budget(&all, budget);
            let is_left = |index: &usize| !dropped.contains(index);
            let disk = |indices: &mut dyn Iterator<Item = usize>| -> u64 {
                indices.map(|index| all[index].disk).sum()
            };
            let left = disk(&mut (0..all.len()).filter(is_left));
            let in_use = disk(&mut (0..all.len()).filter(|index| all[*index].idle_for.is_none()));
            prop_assert!(left <= budget.max(in_use));
            prop_assert!(dropped.iter().all(|index| all[*index].idle_for.is_some()));
            if let Some(last) = dropped.last() {
                // Without the last one it would be over the budget.
                prop_assert!(left + all[*last].disk > budget);
                prop_assert!(dropped.iter().all(|index| all[*index].disk > 0));
                let since = all[*last].idle_for;
                let older = |index: &usize| all[*index].disk > 0 && all[*index].idle_for > since;
                prop_assert!(!(0..all.len()).filter(is_left).any(|index| older(&index)));
            }
        }
    }
}
