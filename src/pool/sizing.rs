//! How many idle containers are kept: a pure function of the calls of the recent past.
//!
//! ```text
//!   calls        |    || |             |||||
//!   peak         1     3                5         most calls within one time to ready
//!   wanted       1     5                7         peak + ceil(sqrt(peak - 1))
//!   target    ▁▁▁██████████████▆▅▃▂▁▁▁▁▁███████   all of it for half of idle_ttl, then less and less
//!             min_idle                            of it, none after idle_ttl
//! ```
//!
//! While a container is being started, calls go on coming. So many containers must be waiting as
//! calls come within one *time to ready*, and some more, since calls come in clusters. The most that
//! came so close together is what may come again; it is kept for half of `pool.idle_ttl` and
//! forgotten by its end. A lonely call asks for one container, which the floor gives.
//!
//! What the target does not need any more is removed by [`surplus`], which looks at how long each
//! container was unused.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::choice::WorkspaceKey;

/// Calls that are remembered. No target is over `pool.max_size`, which is at most 256.
const MOST_CALLS: usize = 1024;

/// The time to ready before any start was timed.
pub(super) const UNKNOWN_START: Duration = Duration::from_millis(500);

/// After so many times `pool.idle_ttl` without a call, an engine in a desktop's virtual machine has
/// no idle containers at all.
const LONG_QUIET: u32 = 6;

/// What the pool has seen of its callers.
#[derive(Clone, Debug)]
pub struct Demand {
    /// Time since each call of the last `pool.idle_ttl`, the latest first: it is gone through at every
    /// turn of the pool and not put in order each time.
    pub calls: Vec<Duration>,
    /// Time since the last call, however long ago; since the start of the pool if there was none.
    pub quiet: Duration,
    /// From the moment a container is missed to the moment it is idle.
    pub time_to_ready: Duration,
}

/// What bounds the target.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// `pool.min_idle`
    pub min_idle: usize,
    /// `pool.max_size` less the containers that are leased or being removed.
    pub room: usize,
    /// `pool.idle_ttl`
    pub idle_ttl: Duration,
    /// `pool.adaptive`
    pub adaptive: bool,
    /// Whether the engine runs in a virtual machine that a desktop keeps for it.
    pub desktop: bool,
}

/// How many idle containers there should be. Never over `limits.room`; else never under
/// `min_idle`, but for the desktop after a long quiet.
pub fn target(demand: &Demand, limits: &Limits) -> usize {
    let Limits { min_idle, room, idle_ttl, adaptive, desktop } = *limits;
    if !adaptive {
        return min_idle.min(room);
    }
    let asleep = desktop && demand.quiet >= idle_ttl.saturating_mul(LONG_QUIET);
    let floor = if asleep { 0 } else { min_idle };
    wanted(demand, idle_ttl).max(floor).min(room)
}

/// What the calls alone ask for.
fn wanted(demand: &Demand, idle_ttl: Duration) -> usize {
    let calls = &demand.calls;
    let mut most = 0;
    let mut oldest = 0;
    for (newest, ago) in calls.iter().enumerate() {
        while calls.get(oldest).is_some_and(|other| *other <= *ago + demand.time_to_ready) {
            oldest += 1;
        }
        let weighed = with_headroom(oldest - newest) as f64 * weight(*ago, idle_ttl);
        most = most.max(weighed.ceil() as usize);
    }
    most
}

/// Containers for `peak` calls that may come at once.
fn with_headroom(peak: usize) -> usize {
    let spread = (peak.saturating_sub(1) as f64).sqrt().ceil();
    peak + spread as usize
}

/// How much of a call is remembered after `ago`: all of it for half of `idle_ttl`, nothing at its
/// end.
fn weight(ago: Duration, idle_ttl: Duration) -> f64 {
    let part = ago.as_secs_f64() / idle_ttl.as_secs_f64().max(f64::MIN_POSITIVE);
    (2.0 * (1.0 - part)).clamp(0.0, 1.0)
}

/// An idle container, as far as it matters whether it is kept.
#[derive(Clone, Copy, Debug)]
pub struct Unused {
    /// The only workspace it may serve.
    pub workspace: Option<WorkspaceKey>,
    /// Whether a job on that workspace ran in it.
    pub served: bool,
    /// Time since it became idle.
    pub idle_for: Duration,
}

/// The idle container to remove, if there are more than `target`: one without a workspace first,
/// then one of several of the same workspace, those that served it last, then the last one of a
/// workspace; of these the one that was unused the longest. Those of the first two kinds go when they were unused for half of
/// `idle_ttl`, the last one of a workspace after all of it.
pub fn surplus(idle: &[Unused], target: usize, idle_ttl: Duration) -> Option<usize> {
    if idle.len() <= target {
        return None;
    }
    let is_last = |one: &Unused| {
        one.workspace.is_some()
            && idle.iter().filter(|other| other.workspace == one.workspace).count() == 1
    };
    idle.iter()
        .enumerate()
        .filter(|(_, one)| one.idle_for >= if is_last(one) { idle_ttl } else { idle_ttl / 2 })
        .max_by_key(|(_, one)| (!is_last(one), one.workspace.is_none(), !one.served, one.idle_for))
        .map(|(index, _)| index)
}

/// The calls of the recent past.
#[derive(Debug)]
pub(crate) struct Calls {
    times: VecDeque<Instant>,
    last: Instant,
}

impl Calls {
    pub(super) fn none() -> Self {
        Self { times: VecDeque::new(), last: Instant::now() }
    }

    /// Time since the last call, if there was one.
    pub(super) fn since_last(&self) -> Option<Duration> {
        self.times.back().map(Instant::elapsed)
    }

    /// A call came now.
    pub(super) fn came(&mut self) {
        if self.times.len() == MOST_CALLS {
            self.times.pop_front();
        }
        self.last = Instant::now();
        self.times.push_back(self.last);
    }

    /// What they ask for now.
    pub(super) fn demand(&self, idle_ttl: Duration, time_to_ready: Duration) -> Demand {
        let now = Instant::now();
        let ago = |time: &Instant| now.saturating_duration_since(*time);
        Demand {
            calls: self.times.iter().rev().map(ago).take_while(|ago| *ago <= idle_ttl).collect(),
            quiet: ago(&self.last),
            time_to_ready,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TTL: Duration = Duration::from_secs(600);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn demand(calls: &[u64]) -> Demand {
        let mut calls: Vec<_> = calls.iter().map(|ago| ms(*ago)).collect();
        calls.sort_unstable();
        let quiet = calls.iter().min().copied().unwrap_or_default();
        Demand { calls, quiet, time_to_ready: ms(600) }
    }

    fn limits(min_idle: usize, room: usize) -> Limits {
        Limits { min_idle, room, idle_ttl: TTL, adaptive: true, desktop: false }
    }

    #[test]
    fn calls_that_come_together_ask_for_as_many_and_some_more_and_are_forgotten() {
        let at = |age: u64, calls: usize| target(&demand(&vec![age; calls]), &limits(1, 100));
        assert_eq!((at(0, 0), at(0, 1), at(0, 2), at(0, 5), at(0, 20)), (1, 1, 3, 7, 25));
        assert_eq!((at(300_000, 20), at(450_000, 20), at(599_000, 20)), (25, 13, 1));
        assert_eq!(at(600_000, 20), 1);
        assert_eq!(target(&demand(&[0; 20]), &limits(1, 4)), 4);
        let floor_only = Limits { adaptive: false, ..limits(2, 100) };
        assert_eq!(target(&demand(&[0; 20]), &floor_only), 2);
    }

    #[test]
    fn calls_further_apart_than_a_start_takes_do_not_add_up() {
        assert_eq!(target(&demand(&[0, 601, 1202, 1803]), &limits(0, 9)), 1);
        assert_eq!(target(&demand(&[0, 600, 1200, 1800]), &limits(0, 9)), 3);
    }

    #[test]
    fn only_a_desktop_sleeps_after_a_long_quiet() {
        let quiet = |quiet| Demand { quiet, ..demand(&[]) };
        let desktop = Limits { desktop: true, ..limits(1, 4) };
        assert_eq!(target(&quiet(TTL * 6 - ms(1)), &desktop), 1);
        assert_eq!(target(&quiet(TTL * 6), &desktop), 0);
        assert_eq!(target(&quiet(TTL * 600), &limits(1, 4)), 1);
        assert_eq!(target(&quiet(TTL * 600), &Limits { adaptive: false, ..desktop }), 1);
    }

    #[test]
    fn the_last_one_of_a_workspace_is_kept_the_longest() {
        let key = |ino| Some(WorkspaceKey { dev: 1, ino });
        let one = |workspace, seconds| Unused {
            workspace,
            served: true,
            idle_for: Duration::from_secs(seconds),
        };
        let idle = [one(key(1), 900), one(key(1), 400), one(None, 350), one(key(2), 5000)];
        assert_eq!(surplus(&idle, 4, TTL), None);
        assert_eq!(surplus(&idle, 3, TTL), Some(2));
        let idle = [one(key(1), 900), one(key(1), 400), one(key(2), 5000)];
        assert_eq!(surplus(&idle, 1, TTL), Some(0));
        let idle = [one(key(1), 599), one(key(2), 599)];
        assert_eq!(surplus(&idle, 0, TTL), None);
        let idle = [one(key(1), 600), one(key(2), 900), one(None, 299)];
        assert_eq!(surplus(&idle, 0, TTL), Some(1));
    }

    proptest! {
        #[test]
        fn within_its_bounds_and_never_less_for_more_calls_a_longer_start_or_a_higher_floor(
            calls in prop::collection::vec(0u64..700_000, 0..40), more in 0u64..700_000,
            ready in 0u64..30_000, longer in 0u64..30_000, older in 0u64..700_000,
            min_idle in 0usize..6, room in 0usize..40,
        ) {
            let now = Demand { time_to_ready: ms(ready), ..demand(&calls) };
            let bounds = limits(min_idle, room);
            let found = target(&now, &bounds);
            prop_assert!(found <= room);
            prop_assert!(found >= min_idle.min(room));
            let mut with_more = now.clone();
            with_more.calls.push(ms(more));
            with_more.calls.sort_unstable();
            prop_assert!(target(&with_more, &bounds) >= found);
            let slower = Demand { time_to_ready: ms(ready + longer), ..now.clone() };
            prop_assert!(target(&slower, &bounds) >= found);
            prop_assert!(target(&now, &limits(min_idle + 1, room)) >= found);
            prop_assert!(target(&now, &limits(min_idle, room + 1)) >= found);
            let later = Demand { calls: now.calls.iter().map(|c| *c + ms(older)).collect(), ..now.clone() };
            prop_assert!(target(&later, &bounds) <= found);
            let forgotten = Demand { calls: now.calls.iter().map(|c| *c + TTL).collect(), ..now };
            prop_assert_eq!(target(&forgotten, &bounds), min_idle.min(room));
        }

        #[test]
        fn what_is_removed_is_surplus_was_unused_and_spares_the_last_of_a_workspace(
            idle in prop::collection::vec(
                (prop::option::of(0u64..3), any::<bool>(), 0u64..900), 0..8,
            ),
            target in 0usize..8,
        ) {
            let idle: Vec<_> = idle.into_iter().map(|(ino, served, seconds)| Unused {
                workspace: ino.map(|ino| WorkspaceKey { dev: 1, ino }),
                served,
                idle_for: Duration::from_secs(seconds),
            }).collect();
            let of = |one: &Unused| idle.iter().filter(|o| o.workspace == one.workspace).count();
            let spare = |one: &Unused| one.workspace.is_none() || of(one) > 1;
            match surplus(&idle, target, TTL) {
                Some(index) => {
                    prop_assert!(idle.len() > target);
                    prop_assert!(idle[index].idle_for >= TTL / 2);
                    let another = idle.iter().any(|one| spare(one) && one.idle_for >= TTL / 2);
                    prop_assert_eq!(spare(&idle[index]), another);
                }
                None => prop_assert!(
                    idle.len() <= target || idle.iter().all(|one| one.idle_for < TTL)
                ),
            }
        }
    }
}
