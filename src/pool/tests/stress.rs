//! Random histories.

use std::sync::atomic::Ordering;
use std::time::Duration;

use proptest::prelude::*;

use crate::config::PoolConfig;
use crate::pool::lease::Lease;
use crate::pool::prepare::{Preparation, Prepared};
use crate::pool::{AcquireError, Pool};
use crate::verdict::JobEnd;

use super::fake::{Dice, FakeSource, Gate, config, key, polled};

/// One step of a random history.
#[derive(Clone, Debug)]
enum Step {
    Acquire { workspace: u64, patience: u64 },
    Settle { which: usize, end: JobEnd },
    Drop { which: usize },
    Prepare { workspace: u64 },
    Finish { which: usize, how: Option<Prepared> },
    Lose,
    Gates { start: Gate, reset: Gate, remove: Gate },
    Wait { ms: u64 },
}

fn outcomes() -> impl Strategy<Value = Prepared> {
    prop::sample::select(vec![
        Prepared::Ready,
        Prepared::Ready,
        Prepared::Untouched,
        Prepared::Spoiled,
    ])
}

fn steps() -> impl Strategy<Value = Step> {
    let gate =
        || prop::sample::select(vec![Gate::Ok, Gate::Ok, Gate::Err, Gate::Slow(1000), Gate::Never]);
    let no_hang = || prop::sample::select(vec![Gate::Ok, Gate::Ok, Gate::Err, Gate::Slow(1000)]);
    prop_oneof![
        4 => (0u64..3, 0u64..2000)
            .prop_map(|(workspace, patience)| Step::Acquire { workspace, patience }),
        3 => (any::<usize>(), prop::sample::select(vec![
            JobEnd::Completed, JobEnd::Completed, JobEnd::TimedOut, JobEnd::Lost,
        ])).prop_map(|(which, end)| Step::Settle { which, end }),
        1 => any::<usize>().prop_map(|which| Step::Drop { which }),
        2 => (0u64..3).prop_map(|workspace| Step::Prepare { workspace }),
        2 => (any::<usize>(), prop::option::weighted(0.8, outcomes()))
            .prop_map(|(which, how)| Step::Finish { which, how }),
        1 => Just(Step::Lose),
        1 => (gate(), gate(), no_hang())
            .prop_map(|(start, reset, remove)| Step::Gates { start, reset, remove }),
        1 => (0u64..3000).prop_map(|ms| Step::Wait { ms }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever fails, hangs or is given up: never more containers than slots, none leased twice,
    /// none lost, and in the end the pool serves again and drains to nothing.
    #[test]
    fn no_history_loses_a_slot_or_a_caller(history in prop::collection::vec(steps(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let source = FakeSource::new();
            let pool = Pool::start(source.clone(), PoolConfig { adaptive: true, ..config(1, 3) });
            let mut leases: Vec<Lease<FakeSource>> = Vec::new();
            let mut preparations = Vec::new();
            for step in history {
                match step {
                    Step::Acquire { workspace, patience } => {
                        let acquire = pool.acquire(key(workspace));
                        let limit = Duration::from_millis(patience);
                        if let Ok(Ok(mut lease)) = tokio::time::timeout(limit, acquire).await {
                            lease.container().put(key(workspace));
                            leases.push(lease);
                        }
                    }
                    Step::Settle { which, end } if !leases.is_empty() => {
                        let lease = leases.swap_remove(which % leases.len());
                        lease.settle(end);
                    }
                    Step::Drop { which } if !leases.is_empty() => {
                        drop(leases.swap_remove(which % leases.len()));
                    }
                    Step::Prepare { workspace } => {
                        preparations.extend(prepare(&pool, workspace));
                    }
                    Step::Finish { which, how } if !preparations.is_empty() => {
                        let one = preparations.swap_remove(which % preparations.len());
                        end(one, how);
                    }
                    Step::Lose => {
                        if let Some(member) = pool.shared.state.lock().idle.first() {
                            member.container.answering.send_replace(false);
                        }
                    }
                    Step::Gates { start, reset, remove } => {
                        *source.0.start.lock() = start;
                        *source.0.reset.lock() = reset;
                        *source.0.remove.lock() = remove;
                    }
                    Step::Wait { ms } => tokio::time::sleep(Duration::from_millis(ms)).await,
                    _ => {}
                }
                let mut ids: Vec<_> = leases.iter_mut().map(|l| l.container().id.0.clone()).collect();
                ids.extend(preparations.iter_mut().map(|one| one.container().id.0.clone()));
                ids.sort();
                ids.dedup();
                let out = leases.len() + preparations.len();
                prop_assert_eq!(ids.len(), out, "a container is taken twice");
            }
            *source.0.start.lock() = Gate::Ok;
            *source.0.reset.lock() = Gate::Ok;
            *source.0.remove.lock() = Gate::Ok;
            drop(leases);
            // Whoever prepares lets go when it is told to.
            for one in preparations {
                tokio::spawn(async move {
                    one.wanted().await;
                    end(one, Some(Prepared::Spoiled));
                });
            }
            for workspace in [7, 8, 7] {
                let lease = pool.acquire(key(workspace)).await;
                prop_assert!(lease.is_ok(), "the pool serves no more: {:?}", lease.err());
            }
            prop_assert!(source.0.most_running.load(Ordering::SeqCst) <= 3);
            pool.drain().await;
            let status = pool.status();
            prop_assert_eq!((status.idle, status.leased, status.starting, status.resetting), (0, 0, 0, 0));
            prop_assert_eq!(status.preparing, 0);
            prop_assert_eq!(pool.shared.slots.status().available, 3);
            prop_assert_eq!(status.destroyed.values().sum::<u64>(), armed(&source));
            Ok(())
        })?;
    }
}

/// Prepares an idle container for a workspace, if there is one.
fn prepare(pool: &Pool<FakeSource>, workspace: u64) -> Option<Preparation<FakeSource>> {
    let workspace = key(workspace);
    let mut one = pool.prepare(|view| {
        let fits = |bound: Option<_>| bound.is_none_or(|bound| bound == workspace);
        let place = view.idle.iter().position(|one| fits(one.workspace))?;
        Some((place, workspace))
    })?;
    one.container().put(workspace);
    Some(one)
}

/// Ends a preparation; drops it without a word if nothing is said.
fn end(mut one: Preparation<FakeSource>, how: Option<Prepared>) {
    match how {
        // What was put is taken for not put: nothing else is untouched.
        Some(Prepared::Untouched) => {
            one.container().take_back();
            one.finish(Prepared::Untouched);
        }
        Some(how) => one.finish(how),
        None => drop(one),
    }
}

/// Prepares again and again, for as long as it is let.
async fn preparer(pool: Pool<FakeSource>, mut dice: Dice) {
    loop {
        tokio::time::sleep(Duration::from_millis(dice.roll(100))).await;
        let Some(one) = prepare(&pool, dice.roll(3)) else { continue };
        let how = match dice.roll(8) {
            0 => None,
            1 => Some(Prepared::Spoiled),
            2 => Some(Prepared::Untouched),
            _ => Some(Prepared::Ready),
        };
        // It takes long, but for who is wanted.
        let work = tokio::time::sleep(Duration::from_secs(dice.roll(1000)));
        tokio::select! {
            () = one.wanted() => end(one, how.and(Some(Prepared::Spoiled))),
            () = work => end(one, how),
        }
    }
}

fn armed(source: &FakeSource) -> u64 {
    source.0.armed.load(Ordering::SeqCst).into()
}

/// How a client of the stress test lets a lease go.
async fn use_and_end(mut lease: Lease<FakeSource>, workspace: u64, dice: &mut Dice) {
    lease.container().put(key(workspace));
    tokio::time::sleep(Duration::from_millis(dice.roll(200))).await;
    match dice.roll(6) {
        0 => drop(lease),
        1 => drop(lease.settle(JobEnd::Cancelled)),
        _ => drop(lease.settle(JobEnd::Completed)),
    }
}

/// One client: acquires, waits, gives up, uses, again and again.
async fn client(pool: Pool<FakeSource>, mut dice: Dice, calls: usize) -> Vec<AcquireError> {
    let mut errors = Vec::new();
    for _ in 0..calls {
        tokio::time::sleep(Duration::from_millis(dice.roll(300))).await;
        let workspace = dice.roll(3);
        let acquire = pool.acquire(key(workspace));
        let acquired = match dice.roll(4) {
            0 => {
                let patience = Duration::from_millis(dice.roll(500));
                tokio::time::timeout(patience, acquire).await.ok()
            }
            1 => polled(1 + dice.roll(4) as usize, acquire).await,
            _ => Some(acquire.await),
        };
        match acquired {
            Some(Ok(lease)) => use_and_end(lease, workspace, &mut dice).await,
            Some(Err(error)) => errors.push(error),
            None => {}
        }
    }
    errors
}

/// Breaks and mends every step of the source, and loses containers that wait.
async fn chaos(pool: Pool<FakeSource>, source: FakeSource, mut dice: Dice) {
    const START: [Gate; 6] =
        [Gate::Ok, Gate::Ok, Gate::Err, Gate::Permanent, Gate::Slow(400), Gate::Never];
    const LATER: [Gate; 4] = [Gate::Ok, Gate::Ok, Gate::Err, Gate::Slow(400)];
    loop {
        tokio::time::sleep(Duration::from_millis(dice.roll(500))).await;
        *source.0.start.lock() = START[dice.roll(6) as usize];
        *source.0.reset.lock() = LATER[dice.roll(4) as usize];
        // One that fails again and again is left to the sweep, which is not here.
        *source.0.remove.lock() = if dice.roll(2) == 0 { Gate::Ok } else { Gate::Slow(400) };
        if let Some(member) = pool.shared.state.lock().idle.first() {
            member.container.answering.send_replace(dice.roll(4) != 0);
        }
    }
}

/// Few and many clients, 34 calls of each with faults and 34 without, for each of a few seeds.
/// Without faults nobody may wait in vain: a wake-up that is lost, or a slot, shows as a timeout.
#[test]
fn thousands_of_calls_lose_no_wake_up_and_no_slot() {
    for seed in 0..4u64 {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let source = FakeSource::new();
            let clients = if seed % 2 == 0 { 30 } else { 6 };
            let rules = PoolConfig { adaptive: true, max_queue: 20, max_uses: 7, ..config(2, 5) };
            let pool = Pool::start(source.clone(), rules);
            for faults in [true, false] {
                let breaking = tokio::spawn(chaos(pool.clone(), source.clone(), Dice(!seed)));
                if !faults {
                    breaking.abort();
                    // What began with a fault ends within its own deadline.
                    *source.0.start.lock() = Gate::Ok;
                    *source.0.reset.lock() = Gate::Slow(20);
                    *source.0.remove.lock() = Gate::Slow(20);
                    tokio::time::sleep(Duration::from_secs(40)).await;
                }
                let preparing = tokio::spawn(preparer(pool.clone(), Dice(seed + 77)));
                let dice = |n: u64| Dice(seed * 1000 + n * 2 + u64::from(faults));
                let clients: Vec<_> =
                    (0..clients).map(|n| tokio::spawn(client(pool.clone(), dice(n), 34))).collect();
                for client in clients {
                    let errors = client.await.unwrap();
                    let in_vain =
                        |error: &&AcquireError| !matches!(error, AcquireError::QueueFull { .. });
                    let found = errors.iter().find(in_vain);
                    assert!(faults || found.is_none(), "seed {seed}: {found:?}");
                }
                breaking.abort();
                preparing.abort();
                // What it prepared is destroyed when it is gone.
                let _ = preparing.await;
                let state = pool.shared.state.lock();
                assert_eq!((state.queue.len(), state.leased), (0, 0), "seed {seed}");
                assert_eq!(state.preparing.len(), 0, "seed {seed}");
            }
            assert!(source.0.most_running.load(Ordering::SeqCst) <= 5, "seed {seed}");
            pool.drain().await;
            let status = pool.status();
            assert_eq!((source.alive(), status.idle, status.resetting), (0, 0, 0), "seed {seed}");
            assert_eq!(pool.shared.slots.status().available, 5, "seed {seed}");
            assert_eq!(pool.shared.state.lock().engaged, [], "seed {seed}");
            // Every container that there was has gone for a reason.
            assert_eq!(status.destroyed.values().sum::<u64>(), armed(&source), "seed {seed}");
            let calls = status.hits + status.misses.values().sum::<u64>();
            assert!(calls > clients * 40, "seed {seed}: {status:?}");
        });
    }
}

/// A call that is given up at any of its awaits, whatever the engine does just then.
#[test]
fn a_call_can_be_dropped_at_every_await() {
    for gate in [Gate::Ok, Gate::Slow(5), Gate::Err, Gate::Permanent, Gate::Never] {
        for polls in 1..12 {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build()
                .unwrap();
            runtime.block_on(async {
                let source = FakeSource::new();
                let pool = Pool::start(source.clone(), config(0, 1));
                let held = pool.acquire(key(1)).await.unwrap();
                *source.0.start.lock() = gate;
                let first = polled(polls, pool.acquire(key(1)));
                let second = polled(13 - polls, pool.acquire(key(2)));
                let ended = async {
                    tokio::task::yield_now().await;
                    held.settle(JobEnd::Completed);
                };
                let limit = Duration::from_secs(90);
                let all = async { tokio::join!(first, second, ended) };
                drop(tokio::time::timeout(limit, all).await);
                assert_eq!(pool.waiting(), 0, "{gate:?} {polls}");
                *source.0.start.lock() = Gate::Ok;
                tokio::time::sleep(Duration::from_secs(40)).await;
                assert!(pool.acquire(key(3)).await.is_ok(), "{gate:?} {polls}");
                pool.drain().await;
                assert_eq!(source.alive(), 0, "{gate:?} {polls}");
                assert_eq!(pool.shared.slots.status().available, 1, "{gate:?} {polls}");
            });
        }
    }
}
