//! Which idle container a job gets: a pure function of affinity and age.

use std::time::Duration;

use serde::Serialize;

pub use crate::workspace::WorkspaceKey;

/// An idle container, as far as the choice depends on it.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// The only workspace it may serve; `None` if it has served none.
    pub workspace: Option<WorkspaceKey>,
    /// Time since it was armed.
    pub age: Duration,
    /// Whether it may not be leased any more.
    pub unfit: bool,
}

/// Why a call found no container waiting for it; counted in the pool's status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MissReason {
    /// Nothing is there yet, and nothing is starting.
    NoneIdle,
    /// A container is starting.
    Starting,
    /// A container is being reset.
    Resetting,
    /// Every container is leased.
    AllLeased,
    /// The idle ones belong to other workspaces.
    OtherWorkspace,
    /// The idle ones were lost, too old, or used up.
    Unfit,
    /// Others are in line before this call.
    Queue,
}

/// Whether a container that served `bound` may serve `wanted`.
pub fn fits(bound: Option<WorkspaceKey>, wanted: WorkspaceKey) -> bool {
    bound.is_none_or(|bound| bound == wanted)
}

/// The index of the container for a job on `wanted`: one that served this workspace before, the
/// youngest of them; else one that served none, the oldest of them, so that none waits for ever.
///
/// # Errors
///
/// Why none fits.
pub fn choose(candidates: &[Candidate], wanted: WorkspaceKey) -> Result<usize, MissReason> {
    let fit = || candidates.iter().enumerate().filter(|(_, candidate)| !candidate.unfit);
    let own = fit()
        .filter(|(_, candidate)| candidate.workspace == Some(wanted))
        .min_by_key(|(_, candidate)| candidate.age);
    let fresh = fit()
        .filter(|(_, candidate)| candidate.workspace.is_none())
        .max_by_key(|(_, candidate)| candidate.age);
    match own.or(fresh) {
        Some((index, _)) => Ok(index),
        None if candidates.is_empty() => Err(MissReason::NoneIdle),
        None if candidates.iter().all(|candidate| candidate.unfit) => Err(MissReason::Unfit),
        None => Err(MissReason::OtherWorkspace),
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
        fn candidate()(bound in prop::option::of(0u64..3), age in 0u64..10, unfit: bool) -> Candidate {
            Candidate { workspace: bound.map(key), age: Duration::from_secs(age), unfit }
        }
    }

    proptest! {
        #[test]
        fn never_one_of_another_workspace_and_never_an_unfit_one(
            candidates in prop::collection::vec(candidate(), 0..8), wanted in 0u64..3,
        ) {
            let wanted = key(wanted);
            match choose(&candidates, wanted) {
                Ok(index) => {
                    prop_assert!(!candidates[index].unfit);
                    prop_assert!(fits(candidates[index].workspace, wanted));
                    let own = |c: &&Candidate| !c.unfit && c.workspace == Some(wanted);
                    if candidates.iter().any(|c| own(&c)) {
                        prop_assert!(own(&&candidates[index]));
                    }
                }
                Err(_) => prop_assert!(
                    candidates.iter().all(|c| c.unfit || !fits(c.workspace, wanted))
                ),
            }
        }
    }
}
