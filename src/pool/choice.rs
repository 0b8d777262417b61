//! Which idle container a job gets: a pure function of affinity and age. And why it gets none.
//!
//! A pool is of one profile, so that what is idle in it was started from what the job asks for. An
//! affine container comes first; whether something already waits in it would come next, and its age
//! last.

use std::time::Duration;

use serde::Serialize;

pub use crate::workspace::WorkspaceKey;

/// An idle container, as far as the choice depends on it.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// The only workspace it may serve; `None` if it has served none.
    pub workspace: Option<WorkspaceKey>,
    /// Whether a job on that workspace ran in it, so that what it built may be there.
    pub served: bool,
    /// Time since it was armed.
    pub age: Duration,
    /// Whether it may not be leased any more.
    pub unfit: bool,
}

/// What the containers that are not idle are doing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Others {
    /// Being started.
    pub starting: usize,
    /// Being reset.
    pub resetting: usize,
    /// Being prepared for a workspace.
    pub preparing: usize,
    /// Serving a job.
    pub leased: usize,
    /// Whether the last start has failed and the next one has not begun.
    pub failing: bool,
}

/// Why a call found no container waiting for it; counted in the pool's status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MissReason {
    /// There is no container of this profile, and none is being started.
    ColdProfile,
    /// The last start has failed.
    StartFailed,
    /// A container is starting.
    Starting,
    /// A container is being reset.
    Resetting,
    /// A container is being prepared for a workspace.
    Preparing,
    /// Every container is leased.
    AllLeased,
    /// The idle ones belong to other workspaces.
    OtherWorkspace,
    /// The idle ones were lost, too old, or used up.
    Unfit,
    /// One fits, but others are in line before this call.
    Queue,
}

/// Whether a container that served `bound` may serve `wanted`.
pub fn fits(bound: Option<WorkspaceKey>, wanted: WorkspaceKey) -> bool {
    bound.is_none_or(|bound| bound == wanted)
}

/// The index of the container for a job on `wanted`: one that served this workspace before, else one
/// that was prepared for it, the youngest of them; else one without a workspace, the oldest of them,
/// so that none waits for ever.
pub fn choose(candidates: &[Candidate], wanted: WorkspaceKey) -> Option<usize> {
    let fit = || candidates.iter().enumerate().filter(|(_, candidate)| !candidate.unfit);
    let own = fit()
        .filter(|(_, candidate)| candidate.workspace == Some(wanted))
        .min_by_key(|(_, candidate)| (!candidate.served, candidate.age));
    let fresh = fit()
        .filter(|(_, candidate)| candidate.workspace.is_none())
        .max_by_key(|(_, candidate)| candidate.age);
    own.or(fresh).map(|(index, _)| index)
}

/// An idle container of a workspace, as far as it matters whether it is given up for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Whether a call in line is for its workspace.
    pub wanted: bool,
    /// Whether it can be cleaned and holds nothing that takes long to make again; see [`is_spare`].
    pub spare: bool,
    /// Time since it became idle.
    pub idle_for: Duration,
}

/// The index of the idle container that a call for another workspace gets, cleaned: one that nobody
/// in line wants, then one that its workspace can spare, of these the one unused the longest.
pub fn least_wanted(idle: &[Bound]) -> Option<usize> {
    let rank = |one: &Bound| (!one.wanted, one.spare, one.idle_for);
    idle.iter().enumerate().max_by_key(|(_, one)| rank(one)).map(|(index, _)| index)
}

/// Whether nothing is lost with one of the idle containers but what was sent into it: no job ran in
/// it since it was clean, or another one of its workspace in which one ran stays.
pub fn is_spare(idle: &[Candidate], index: usize) -> bool {
    let Some(one) = idle.get(index) else { return false };
    let alike = |other: &&Candidate| other.workspace == one.workspace && other.served;
    !one.served || idle.iter().filter(alike).nth(1).is_some()
}

/// Why a call for `wanted` gets none of `candidates` at once. What is soonest to end the wait is
/// named first.
pub fn miss(candidates: &[Candidate], wanted: WorkspaceKey, others: Others) -> MissReason {
    if choose(candidates, wanted).is_some() {
        MissReason::Queue
    } else if candidates.iter().any(|candidate| !candidate.unfit) {
        MissReason::OtherWorkspace
    } else if !candidates.is_empty() {
        MissReason::Unfit
    } else if others.resetting > 0 {
        MissReason::Resetting
    } else if others.preparing > 0 {
        MissReason::Preparing
    } else if others.starting > 0 {
        MissReason::Starting
    } else if others.failing {
        MissReason::StartFailed
    } else if others.leased > 0 {
        MissReason::AllLeased
    } else {
        MissReason::ColdProfile
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(ino: u64) -> WorkspaceKey {
        WorkspaceKey { dev: 1, ino }
    }

    prop_compose! {
        fn candidate()(
            bound in prop::option::of(0u64..3), served: bool, age in 0u64..10, unfit: bool,
        ) -> Candidate {
            Candidate { workspace: bound.map(key), served, age: Duration::from_secs(age), unfit }
        }
    }

    #[test]
    fn each_miss_has_its_reason() {
        let one = |bound: Option<u64>, unfit| Candidate {
            workspace: bound.map(key),
            served: false,
            age: Duration::ZERO,
            unfit,
        };
        let none = Others::default();
        assert_eq!(miss(&[one(None, false)], key(1), none), MissReason::Queue);
        assert_eq!(miss(&[one(Some(2), false)], key(1), none), MissReason::OtherWorkspace);
        assert_eq!(miss(&[one(Some(1), true)], key(1), none), MissReason::Unfit);
        let all = Others { resetting: 1, preparing: 1, starting: 1, leased: 1, failing: true };
        assert_eq!(miss(&[], key(1), all), MissReason::Resetting);
        let all = Others { resetting: 0, ..all };
        assert_eq!(miss(&[], key(1), all), MissReason::Preparing);
        let all = Others { preparing: 0, ..all };
        assert_eq!(miss(&[], key(1), all), MissReason::Starting);
        let all = Others { starting: 0, ..all };
        assert_eq!(miss(&[], key(1), all), MissReason::StartFailed);
        let all = Others { failing: false, ..all };
        assert_eq!(miss(&[], key(1), all), MissReason::AllLeased);
        assert_eq!(miss(&[], key(1), none), MissReason::ColdProfile);
    }

    proptest! {
        #[test]
        fn who_is_given_up_is_wanted_by_nobody_and_spare_if_there_is_such_a_one(
            idle in prop::collection::vec((any::<bool>(), any::<bool>(), 0u64..5), 0..8),
        ) {
            let idle: Vec<_> = idle
                .into_iter()
                .map(|(wanted, spare, ago)| {
                    Bound { wanted, spare, idle_for: Duration::from_secs(ago) }
                })
                .collect();
            let Some(chosen) = least_wanted(&idle).map(|index| idle[index]) else {
                prop_assert!(idle.is_empty());
                return Ok(());
            };
            prop_assert!(!chosen.wanted || idle.iter().all(|one| one.wanted));
            let rivals = || idle.iter().filter(|one| one.wanted == chosen.wanted);
            prop_assert!(chosen.spare || !rivals().any(|one| one.spare));
            let rivals = rivals().filter(|one| one.spare == chosen.spare);
            prop_assert!(rivals.map(|one| one.idle_for).max() == Some(chosen.idle_for));
        }

        #[test]
        fn never_one_of_another_workspace_and_never_an_unfit_one(
            candidates in prop::collection::vec(candidate(), 0..8), wanted in 0u64..3,
        ) {
            let wanted = key(wanted);
            let fits = |c: &&Candidate| !c.unfit && fits(c.workspace, wanted);
            let own = |c: &&Candidate| !c.unfit && c.workspace == Some(wanted);
            match choose(&candidates, wanted).map(|index| candidates[index]) {
                Some(chosen) => {
                    prop_assert!(fits(&&chosen));
                    let rivals = || candidates.iter().filter(own);
                    match rivals().map(|c| (!c.served, c.age)).min() {
                        Some(best) => {
                            prop_assert!(own(&&chosen) && (!chosen.served, chosen.age) == best);
                        }
                        None => prop_assert!(
                            candidates.iter().filter(fits).all(|c| c.age <= chosen.age)
                        ),
                    }
                    prop_assert_eq!(miss(&candidates, wanted, Others::default()), MissReason::Queue);
                }
                None => prop_assert!(!candidates.iter().any(|c| fits(&c))),
            }
        }
    }
}
