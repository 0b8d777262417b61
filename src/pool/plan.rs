//! What is done for the calls in line and for the target: a pure function.
//!
//! A call in line that none of the idle containers may serve gets the one that costs least, in this
//! order:
//!
//! ```text
//!  1  one that is on its way to serve anybody (starting, or being cleaned)
//!  2  one that is being prepared for the call's own workspace: it is waited for
//!  3  one that is being prepared for another one and has not served it: the preparation is given up
//!  4  an idle one that another workspace can spare: it is cleaned
//!  5  a free slot, or one that will be free: a start
//!  6  what 3 and 4 left out, with what was built in it: only now, when there is no slot
//! ```

use super::choice::WorkspaceKey;

/// What the plan depends on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Idle containers.
    pub idle: usize,
    /// Those of the idle ones that can be cleaned and hold nothing that takes long to make again.
    pub spare: usize,
    /// Containers on their way to idle: starting.
    pub starting: usize,
    /// Containers on their way to idle: resetting.
    pub resetting: usize,
    /// Containers on their way to serve any workspace: being cleaned, or prepared and called off.
    pub cleaning: usize,
    /// Slots without a container.
    pub free: usize,
    /// Containers whose removal is under way and will free a slot.
    pub dying: usize,
}

/// A container that is being prepared and was not called off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InPreparation {
    /// For which workspace.
    pub workspace: WorkspaceKey,
    /// Whether it can be cleaned and holds nothing that takes long to make again.
    pub spare: bool,
}

/// The bounds of the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Idle containers that there should be; see [`target`](super::sizing::target).
    pub target: usize,
    /// `pool.refill_concurrency`
    pub refill_concurrency: usize,
}

/// What to do now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Containers to start.
    pub start: usize,
    /// Preparations to give up.
    pub call_off: Vec<usize>,
    /// Idle containers to clean for a call in line; one that cannot be is destroyed, so that the call
    /// gets its slot.
    pub clean: usize,
}

/// Decides. `line` has the workspaces of the calls in line, of whom none may be given any of the
/// idle containers. Every one of them has a container on its way as far as there are any; besides,
/// idle ones and those on their way to idle reach the target.
pub fn plan(
    line: &[WorkspaceKey],
    preparing: &[InPreparation],
    counts: Counts,
    bounds: Bounds,
) -> Plan {
    let Counts { idle, spare, starting, resetting, cleaning, free, dying } = counts;
    let mut plan = Plan::default();
    let mut for_line = 0;
    // A container that is being reset may be bound to a workspace that nobody in line wants, so
    // it does not count for the line.
    let mut coming = starting + cleaning;
    let mut slots = free + dying;
    let mut left: Vec<(usize, InPreparation)> = preparing.iter().copied().enumerate().collect();
    let mut take = |fits: &dyn Fn(&InPreparation) -> bool| {
        left.iter().position(|(_, one)| fits(one)).map(|found| left.remove(found).0)
    };
    for wanted in line {
        if coming > 0 {
            coming -= 1;
        } else if take(&|one| one.workspace == *wanted).is_some() {
            // Waited for.
        } else if let Some(index) = take(&|one| one.spare) {
            plan.call_off.push(index);
        } else if plan.clean < spare {
            plan.clean += 1;
        } else if slots > 0 {
            slots -= 1;
            for_line += 1;
        } else if let Some(index) = take(&|_| true) {
            plan.call_off.push(index);
        } else if plan.clean < idle {
            plan.clean += 1;
        }
    }
    let on_way = starting + resetting + cleaning + preparing.len() + plan.clean;
    let coming = on_way.saturating_sub(line.len());
    let for_target = bounds.target.saturating_sub(idle.saturating_sub(plan.clean) + coming);
    let room = bounds.refill_concurrency.saturating_sub(starting);
    plan.start = (for_line + for_target).min(free).min(room);
    plan
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn key(ino: u64) -> WorkspaceKey {
        WorkspaceKey { dev: 1, ino }
    }

    const BOUNDS: Bounds = Bounds { target: 1, refill_concurrency: 2 };

    fn in_preparation(workspace: u64, spare: bool) -> InPreparation {
        InPreparation { workspace: key(workspace), spare }
    }

    #[test]
    fn what_costs_least_is_taken_first() {
        let line = [key(1)];
        let all = Counts { idle: 2, spare: 1, free: 1, ..Counts::default() };
        let plan = |preparing: &[InPreparation], counts| plan(&line, preparing, counts, BOUNDS);
        let own = [in_preparation(2, true), in_preparation(1, false)];
        assert_eq!(plan(&own, all), Plan::default());
        let others = [in_preparation(2, false), in_preparation(2, true)];
        assert_eq!(plan(&others, all), Plan { call_off: vec![1], ..Plan::default() });
        assert_eq!(plan(&others[..1], all), Plan { clean: 1, ..Plan::default() });
        let dear = Counts { spare: 0, ..all };
        assert_eq!(plan(&others[..1], dear), Plan { start: 1, ..Plan::default() });
        let full = Counts { free: 0, ..dear };
        assert_eq!(plan(&others[..1], full), Plan { call_off: vec![0], ..Plan::default() });
        assert_eq!(plan(&[], full), Plan { clean: 1, ..Plan::default() });
        let on_its_way = Counts { cleaning: 1, ..all };
        assert_eq!(plan(&others, on_its_way), Plan::default());
    }

    fn preparations() -> impl Strategy<Value = Vec<InPreparation>> {
        prop::collection::vec((0u64..3, any::<bool>()), 0..3).prop_map(|all| {
            all.into_iter().map(|(workspace, spare)| in_preparation(workspace, spare)).collect()
        })
    }

    proptest! {
        #[test]
        fn stays_within_slots_and_concurrency_and_never_stalls_a_caller(
            idle in 0usize..6, spare in 0usize..6, starting in 0usize..6, resetting in 0usize..6,
            cleaning in 0usize..3, line in prop::collection::vec(0u64..3, 0..6),
            preparing in preparations(),
            free in 0usize..6, dying in 0usize..3, target in 0usize..4, refill in 1usize..4,
        ) {
            let spare = spare.min(idle);
            let line: Vec<_> = line.into_iter().map(key).collect();
            let counts = Counts { idle, spare, starting, resetting, cleaning, free, dying };
            let bounds = Bounds { target, refill_concurrency: refill };
            let plan = plan(&line, &preparing, counts, bounds);
            prop_assert!(plan.start <= free);
            prop_assert!(plan.start == 0 || starting + plan.start <= refill);
            prop_assert!(plan.clean <= idle);
            let off: BTreeSet<_> = plan.call_off.iter().collect();
            prop_assert_eq!(off.len(), plan.call_off.len());
            prop_assert!(plan.call_off.iter().all(|index| *index < preparing.len()));
            // What holds something dear goes only where there is no slot.
            let dear = plan.call_off.iter().any(|index| !preparing[*index].spare)
                || plan.clean > spare;
            prop_assert!(!dear || line.len() > starting + cleaning + free + dying);
            // A caller in line with nothing coming gets something, or somebody waits for its own
            // preparation, or all containers are leased or resetting.
            let own = preparing.iter().any(|one| line.contains(&one.workspace));
            let any = free + idle + dying + preparing.len() > 0;
            if !line.is_empty() && starting + cleaning == 0 && any && !own {
                prop_assert!(plan.start + plan.clean + plan.call_off.len() + dying > 0);
            }
            if line.is_empty() {
                prop_assert_eq!((plan.clean, plan.call_off.len()), (0, 0));
                prop_assert!(idle + plan.start <= idle.max(target));
            }
        }
    }
}
