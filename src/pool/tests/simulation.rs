//! Calls as they come in practice, simulated with the real pool and a source that takes as long as
//! an engine does. The table in docs/pool.md is made here: `UPDATE_FIXTURES=1 cargo test simulated`.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::config::PoolConfig;
use crate::pool::Pool;
use crate::verdict::JobEnd;

use super::fake::{Dice, FakeSource, Gate, config, key};

/// Calls further apart than this are no burst.
const APART: Duration = Duration::from_secs(60);

/// When calls come.
struct Pattern {
    name: &'static str,
    max_size: usize,
    workspaces: u64,
    /// Seconds since the start.
    calls: Vec<f64>,
    /// Bursts at the beginning that are not counted.
    unseen: usize,
    /// Whether the pool has to hit 95 of 100 calls after a burst's third.
    bound: bool,
}

/// What came of it.
struct Outcome {
    calls: usize,
    hits: usize,
    /// Of those after a burst's third call.
    later: usize,
    later_hits: usize,
    most: usize,
    /// Idle containers on average.
    idle: f64,
}

const HOUR: f64 = 3600.0;

fn patterns() -> Vec<Pattern> {
    let pattern = |name, max_size, calls| Pattern {
        name,
        max_size,
        workspaces: 1,
        calls,
        unseen: 0,
        bound: true,
    };
    let every = |pause: f64, times: usize| (0..times).map(move |n| pause * n as f64);
    let bursts = |apart: f64, pause: f64| -> Vec<f64> {
        every(pause, 8).flat_map(|start| every(apart, 20).map(move |at| start + at)).collect()
    };
    let mut ramp = vec![0.0];
    for step in 1..400 {
        let before: f64 = ramp[step - 1];
        ramp.push(before + (60.0 * 0.985f64.powi(step as i32)).max(1.0));
    }
    let mut dice = Dice(7);
    let mut days = Vec::new();
    for day in 0..3 {
        let mut at = f64::from(day) * 24.0 * HOUR;
        let evening = at + 9.0 * HOUR;
        while at < evening {
            days.push(at);
            // Two in three come soon after the one before.
            at += if dice.roll(3) > 0 {
                1.0 + dice.roll(10) as f64
            } else {
                30.0 + dice.roll(600) as f64
            };
        }
    }
    vec![
        pattern("one call an hour, for a day", 4, every(HOUR, 24).collect()),
        pattern("one call every 20 s", 4, every(20.0, 180).collect()),
        pattern("bursts of 20, a call every 0.5 s, every 15 min", 32, bursts(0.5, 900.0)),
        Pattern {
            unseen: 1,
            ..pattern(
                "bursts of 20 at once, every 5 min, from the second on",
                32,
                bursts(0.0, 300.0),
            )
        },
        pattern("a ramp from one call a minute to one a second", 64, ramp),
        pattern("three days of nine hours, with nights", 8, days),
        Pattern {
            workspaces: 3,
            ..pattern("three workspaces by turns, a call every 20 s", 8, every(20.0, 180).collect())
        },
        Pattern {
            bound: false,
            ..pattern("the bursts of 20 every 15 min with max_size = 4", 4, bursts(0.5, 900.0))
        },
    ]
}

/// Runs one pattern with `pool.adaptive` or without. A start takes 0.3 s, a reset and a removal 50 ms, a job 20 to 60 s.
fn simulate(pattern: &Pattern, adaptive: bool) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let source = FakeSource::new();
        *source.0.start.lock() = Gate::Slow(300);
        *source.0.reset.lock() = Gate::Slow(50);
        *source.0.remove.lock() = Gate::Slow(50);
        let rules = PoolConfig {
            max_queue: 64,
            max_age: Duration::from_secs(6 * 3600),
            adaptive,
            ..config(1, pattern.max_size)
        };
        let pool = Pool::start(source.clone(), rules);
        pool.ready(1).await.unwrap();
        let began = Instant::now();
        let watched = pool.clone();
        let idle = Arc::new(Mutex::new(0.0));
        let average = Arc::clone(&idle);
        let watch = tokio::spawn(async move {
            let (mut sum, mut looks) = (0.0, 0.0);
            loop {
                let status = watched.status();
                assert!(status.target <= status.max_size);
                sum += status.idle as f64;
                looks += 1.0;
                tokio::time::sleep(Duration::from_secs(10)).await;
                *average.lock() = sum / looks;
            }
        });
        let mut calls = Vec::new();
        for (number, at) in pattern.calls.iter().enumerate() {
            tokio::time::sleep_until(began + Duration::from_secs_f64(*at)).await;
            let pool = pool.clone();
            let workspace = key(number as u64 % pattern.workspaces);
            calls.push(tokio::spawn(async move {
                let lease = pool.acquire(workspace).await;
                let hit = lease.as_ref().is_ok_and(|lease| lease.miss().is_none());
                if let Ok(lease) = lease {
                    let takes = 20_000 + Dice(number as u64).roll(40_000);
                    tokio::time::sleep(Duration::from_millis(takes)).await;
                    lease.settle(JobEnd::Completed);
                }
                hit
            }));
        }
        let mut hit = Vec::new();
        for call in calls {
            hit.push(call.await.unwrap());
        }
        watch.abort();
        let most = source.0.most_alive.load(Ordering::SeqCst);
        assert!(most <= pattern.max_size, "{}: {most} containers", pattern.name);
        let idle = *idle.lock();
        outcome(pattern, &hit, most, idle)
    })
}

fn outcome(pattern: &Pattern, hit: &[bool], most: usize, idle: f64) -> Outcome {
    let mut found = Outcome { calls: 0, hits: 0, later: 0, later_hits: 0, most, idle };
    let (mut bursts, mut in_burst) = (0, 0);
    let mut before = f64::NEG_INFINITY;
    for (at, hit) in pattern.calls.iter().zip(hit) {
        if at - before >= APART.as_secs_f64() {
            bursts += 1;
            in_burst = 0;
        }
        before = *at;
        in_burst += 1;
        if bursts <= pattern.unseen {
            continue;
        }
        found.calls += 1;
        found.hits += usize::from(*hit);
        if in_burst > 3 {
            found.later += 1;
            found.later_hits += usize::from(*hit);
        }
    }
    found
}

/// The bound on hits.
fn is_enough(hits: usize, calls: usize) -> bool {
    hits * 100 >= calls * 95
}

/// Seconds that 20 calls at once wait, the shortest first, with one container idle.
async fn waits_of_the_first_burst() -> Vec<f64> {
    let source = FakeSource::new();
    *source.0.start.lock() = Gate::Slow(300);
    let pool = Pool::start(source, PoolConfig { adaptive: true, max_queue: 64, ..config(1, 32) });
    pool.ready(1).await.unwrap();
    let call = |pool: Pool<FakeSource>| async move {
        let began = Instant::now();
        let lease = pool.acquire(key(1)).await.unwrap();
        (began.elapsed().as_secs_f64(), lease)
    };
    let calls: Vec<_> = (0..20).map(|_| tokio::spawn(call(pool.clone()))).collect();
    let mut ended = Vec::new();
    for call in calls {
        ended.push(call.await.unwrap());
    }
    let hits = ended.iter().filter(|(_, lease)| lease.miss().is_none()).count();
    assert_eq!(hits, 1);
    let mut waits: Vec<_> = ended.iter().map(|(wait, _)| *wait).collect();
    waits.sort_by(f64::total_cmp);
    waits
}

#[tokio::test(start_paused = true)]
async fn what_the_documents_say_of_the_first_burst_is_so() {
    let waits = waits_of_the_first_burst().await;
    let text = include_str!("../../../docs/pool.md").replace('\n', " ");
    let sentence = format!(
        "one finds the idle container, the tenth waits {:.1} s and the last {:.1} s",
        waits[9], waits[19]
    );
    assert!(text.contains(&sentence), "docs/pool.md does not say: {sentence}");
}

#[test]
fn simulated_calls_find_a_container_waiting_and_the_table_of_the_documents_is_true() {
    let mut table = String::from(
        "| calls | `max_size` | hits | hits after a burst's third call | containers at most | idle on average |\n\
         |---|---|---|---|---|---|\n",
    );
    for pattern in patterns() {
        let Outcome { calls, hits, later, later_hits, most, idle } = simulate(&pattern, true);
        let of = |hits: usize, calls: usize| match calls {
            0 => String::from("no such calls"),
            _ => format!("{hits} of {calls} ({:.0} %)", hits as f64 * 100.0 / calls as f64),
        };
        table.push_str(&format!(
            "| {} | {} | {} | {} | {most} | {idle:.1} |\n",
            pattern.name,
            pattern.max_size,
            of(hits, calls),
            of(later_hits, later),
        ));
        println!("{}", table.lines().last().unwrap());
        if pattern.bound {
            assert!(is_enough(later_hits, later), "{}: {later_hits} of {later}", pattern.name);
            // A pattern without such calls says nothing of them, so all of its calls count.
            assert!(later >= 50 || is_enough(hits, calls), "{}: {hits} of {calls}", pattern.name);
        }
        // What runs gave back would do for bursts that come again soon; for these it is the target.
        if pattern.name.starts_with("bursts of 20, a call") {
            let floor = simulate(&pattern, false);
            let missed = !is_enough(floor.later_hits, floor.later);
            assert!(missed, "{}: the floor alone would do", pattern.name);
        }
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/pool.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once("| calls |").unwrap();
    let (_, after) = rest.split_once("\n\n").unwrap();
    let now = format!("{before}{table}\n{after}");
    if std::env::var_os("UPDATE_FIXTURES").is_some() {
        std::fs::write(&path, now).unwrap();
    } else {
        assert_eq!(text, now, "UPDATE_FIXTURES=1 writes the new table");
    }
}
