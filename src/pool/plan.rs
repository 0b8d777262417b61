//! How many containers to start, and whether an idle one must make room: a pure function.

/// What the plan depends on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Idle containers.
    pub idle: usize,
    /// Containers on their way to idle: starting.
    pub starting: usize,
    /// Containers on their way to idle: resetting.
    pub resetting: usize,
    /// Calls in line. None of the idle containers may be given to any of them.
    pub waiting: usize,
    /// Slots without a container.
    pub free: usize,
    /// Containers whose removal is under way and will free a slot.
    pub dying: usize,
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Containers to start.
    pub start: usize,
    /// Idle containers to destroy, so that a call in line gets a slot.
    pub evict: usize,
}

/// Decides. Every call in line has a container on its way as far as slots allow; besides, idle
/// ones and those on their way to idle reach the target.
pub fn plan(counts: Counts, bounds: Bounds) -> Plan {
    let Counts { idle, starting, resetting, waiting, free, dying } = counts;
    // A container that is being reset may be bound to a workspace that nobody in line wants, so
    // only starting ones count for the line.
    let for_line = waiting.saturating_sub(starting);
    let coming = (starting + resetting).saturating_sub(waiting);
    let for_target = bounds.target.saturating_sub(idle + coming);
    let wanted = for_line + for_target;
    let start = wanted.min(free).min(bounds.refill_concurrency.saturating_sub(starting));
    let evict = for_line.saturating_sub(free + dying).min(idle);
    Plan { start, evict }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn stays_within_slots_and_concurrency_and_never_stalls_a_caller(
            idle in 0usize..6, starting in 0usize..6, resetting in 0usize..6, waiting in 0usize..6,
            free in 0usize..6, dying in 0usize..3, target in 0usize..4, refill in 1usize..4,
        ) {
            let counts = Counts { idle, starting, resetting, waiting, free, dying };
            let plan = plan(counts, Bounds { target, refill_concurrency: refill });
            prop_assert!(plan.start <= free);
            prop_assert!(plan.start == 0 || starting + plan.start <= refill);
            prop_assert!(plan.evict <= idle);
            // A caller in line with nothing starting gets a start, or room is made, or one dies
            // already, or all containers are leased or resetting.
            if waiting > 0 && starting == 0 && (free + idle + dying) > 0 {
                prop_assert!(plan.start + plan.evict + dying > 0);
            }
            if waiting == 0 {
                prop_assert_eq!(plan.evict, 0);
                prop_assert!(idle + plan.start <= idle.max(target));
            }
        }
    }
}
