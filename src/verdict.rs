//! What becomes of a container after its job: reset or destroy. A pure function of how the job
//! ended, how the container is, and what the policy says.

use std::time::Duration;

use serde::Serialize;

use crate::config::Recycle;

/// What becomes of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is reset, and is idle again for the same workspace once that is proved.
    Reset,
    /// It is removed.
    Destroy(DestroyReason),
}

/// Why a container was destroyed; counted in the pool's status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DestroyReason {
    /// The lease was dropped without a verdict: a panic or a caller that went away.
    LeaseDropped,
    /// The same for a preparation.
    PreparationDropped,
    /// The job ran into its timeout.
    TimedOut,
    /// The job was cancelled.
    Cancelled,
    /// The container's memory limit was hit.
    OutOfMemory,
    /// A writable place was full.
    DiskFull,
    /// The stream to the keeper was lost, or the keeper fell silent.
    Lost,
    /// The workspace could not be sent, or the change set did not arrive whole.
    TransferFailed,
    /// A process of the run was left after `run.end_timeout`.
    NotEnded,
    /// After the reset the container was not as it was when it was armed.
    ResetNotProved,
    /// `pool.recycle = "destroy"`.
    Policy,
    /// Containers are started from another image or with other settings by now.
    Outdated,
    /// Where it runs, nothing can prove that a reset is complete.
    NoProof,
    /// `pool.max_age` is over.
    TooOld,
    /// `pool.max_uses` is reached.
    UsedUp,
    /// It waited for one workspace, and a call for another needed its place.
    OtherWorkspace,
    /// What it held of a workspace was over `workspace.disk_budget`, and it could not be emptied.
    DiskBudget,
    /// What it held of a workspace was dropped by the user, and it could not be emptied.
    CopyDropped,
    /// Nobody used it for a while, and fewer calls come than would need it.
    Surplus,
    /// The orchestrator shuts down.
    Shutdown,
}

/// How a job left its container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobEnd {
    /// Codex ended by itself, whatever its exit code, and the change set was collected.
    Completed,
    /// See [`DestroyReason::TimedOut`].
    TimedOut,
    /// See [`DestroyReason::Cancelled`].
    Cancelled,
    /// See [`DestroyReason::OutOfMemory`].
    OutOfMemory,
    /// See [`DestroyReason::DiskFull`].
    DiskFull,
    /// See [`DestroyReason::Lost`].
    Lost,
    /// See [`DestroyReason::TransferFailed`].
    TransferFailed,
    /// See [`DestroyReason::NotEnded`].
    NotEnded,
    /// Nothing of the job was run in it, for a reason that is not its own: a log that could not be
    /// written, a program that could not be started.
    NotStarted,
}

/// How a container is, without asking it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    /// Whether the stream to the keeper is open and the keeper was heard in time.
    pub answering: bool,
    /// Time since it was armed.
    pub age: Duration,
    /// Jobs it has served.
    pub uses: u32,
    /// Whether containers are started from something else by now.
    pub outdated: bool,
    /// Whether a reset of it can be proved.
    pub provable: bool,
}

/// The part of the configuration that a verdict depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// `pool.recycle`
    pub recycle: Recycle,
    /// `pool.max_age`
    pub max_age: Duration,
    /// `pool.max_uses`
    pub max_uses: u32,
}

/// Decides. Only a job that was completed, or of which nothing was run, in an answering container
/// within the policy's bounds leaves one that is reset.
pub fn verdict(end: JobEnd, health: Health, policy: Policy) -> Verdict {
    use DestroyReason as Reason;
    let reason = match end {
        JobEnd::TimedOut => Reason::TimedOut,
        JobEnd::Cancelled => Reason::Cancelled,
        JobEnd::OutOfMemory => Reason::OutOfMemory,
        JobEnd::DiskFull => Reason::DiskFull,
        JobEnd::Lost => Reason::Lost,
        JobEnd::TransferFailed => Reason::TransferFailed,
        JobEnd::NotEnded => Reason::NotEnded,
        JobEnd::Completed | JobEnd::NotStarted => return resettable(health, policy),
    };
    Verdict::Destroy(reason)
}

/// Whether a container that is to be used again may be, whatever it is reset from: a job that
/// completed, or a workspace that another one needs its place of.
pub fn resettable(health: Health, policy: Policy) -> Verdict {
    match unfit(health, policy) {
        _ if policy.recycle == Recycle::Destroy => Verdict::Destroy(DestroyReason::Policy),
        _ if !health.provable => Verdict::Destroy(DestroyReason::NoProof),
        Some(reason) => Verdict::Destroy(reason),
        None => Verdict::Reset,
    }
}

/// Why an idle container may not be leased any more; `None` if it may.
pub fn unfit(health: Health, policy: Policy) -> Option<DestroyReason> {
    if !health.answering {
        Some(DestroyReason::Lost)
    } else if health.outdated {
        Some(DestroyReason::Outdated)
    } else if health.age >= policy.max_age {
        Some(DestroyReason::TooOld)
    } else if health.uses >= policy.max_uses {
        Some(DestroyReason::UsedUp)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ends() -> impl Strategy<Value = JobEnd> {
        prop::sample::select(vec![
            JobEnd::Completed,
            JobEnd::TimedOut,
            JobEnd::Cancelled,
            JobEnd::OutOfMemory,
            JobEnd::DiskFull,
            JobEnd::Lost,
            JobEnd::TransferFailed,
            JobEnd::NotEnded,
            JobEnd::NotStarted,
        ])
    }

    fn leaves_it_sound(end: JobEnd) -> bool {
        matches!(end, JobEnd::Completed | JobEnd::NotStarted)
    }

    prop_compose! {
        fn healths()(
            answering: bool, outdated: bool, provable: bool, age in 0u64..100, uses in 0u32..100,
        ) -> Health {
            Health { answering, age: Duration::from_secs(age), uses, outdated, provable }
        }
    }

    prop_compose! {
        fn policies()(destroy: bool, age in 1u64..100, max_uses in 1u32..100) -> Policy {
            Policy {
                recycle: if destroy { Recycle::Destroy } else { Recycle::Reset },
                max_age: Duration::from_secs(age),
                max_uses,
            }
        }
    }

    #[test]
    fn the_bounds_themselves_are_over_the_bounds() {
        let policy =
            Policy { recycle: Recycle::Reset, max_age: Duration::from_secs(9), max_uses: 3 };
        let age = Duration::from_secs(8);
        let good = Health { answering: true, age, uses: 2, outdated: false, provable: true };
        assert_eq!(unfit(good, policy), None);
        assert_eq!(unfit(Health { uses: 3, ..good }, policy), Some(DestroyReason::UsedUp));
        let old = Health { age: Duration::from_secs(9), ..good };
        assert_eq!(unfit(old, policy), Some(DestroyReason::TooOld));
    }

    proptest! {
        #[test]
        fn only_a_clean_end_in_a_sound_container_within_policy_is_reset(
            end in ends(), health in healths(), policy in policies(),
        ) {
            let sound = leaves_it_sound(end)
                && health.answering
                && !health.outdated
                && health.provable
                && health.age < policy.max_age
                && health.uses < policy.max_uses
                && policy.recycle == Recycle::Reset;
            prop_assert_eq!(verdict(end, health, policy) == Verdict::Reset, sound);
        }

        #[test]
        fn the_reason_of_a_bad_end_is_that_end_whatever_else_is_wrong(
            end in ends(), health in healths(), policy in policies(),
        ) {
            if !leaves_it_sound(end) {
                let Verdict::Destroy(reason) = verdict(end, health, policy) else {
                    return Err(TestCaseError::fail("reset"));
                };
                prop_assert_eq!(format!("{reason:?}"), format!("{end:?}"));
            }
        }

        #[test]
        fn what_is_destroyed_stays_destroyed_when_older_or_more_used(
            end in ends(), health in healths(), policy in policies(), more in 0u32..50,
        ) {
            let later = Health {
                age: health.age + Duration::from_secs(more.into()),
                uses: health.uses + more,
                ..health
            };
            if verdict(end, health, policy) != Verdict::Reset {
                prop_assert_ne!(verdict(end, later, policy), Verdict::Reset);
            }
        }
    }
}
