//! The pool over a source whose containers are counters: every fault on demand, time paused.

mod changing;
mod copies;
mod engine;
mod failing;
mod fake;
mod findings;
mod giving_way;
mod line;
mod prepare;
mod simulation;
mod stress;

use std::sync::atomic::Ordering;

use crate::config::Recycle;
use crate::verdict::{JobEnd, Verdict};

use self::fake::{FakeSource, Gate, config, key};
use super::choice::MissReason;
use super::lease::Lease;
use super::source::Pooled;
use super::*;

#[tokio::test(start_paused = true)]
async fn keeps_min_idle_ready_and_a_call_hits() {
    let source = FakeSource::new();
    let pool = Pool::start(source.clone(), config(2, 4));
    pool.ready(2).await.unwrap();
    let lease = pool.acquire(key(1)).await.unwrap();
    assert!(lease.miss().is_none());
    pool.ready(2).await.unwrap();
    assert_eq!(lease.settle(JobEnd::Completed), Verdict::Reset);
    pool.ready(3).await.unwrap();
    let status = pool.status();
    assert_eq!((status.hits, status.leased, source.alive()), (1, 0, 3));
}

#[tokio::test(start_paused = true)]
async fn the_floor_is_refilled_a_moment_after_a_checkout_but_a_call_in_line_waits_for_nothing() {
    let source = FakeSource::new();
    let pool = Pool::start(source.clone(), config(1, 4));
    pool.ready(1).await.unwrap();
    let _first = pool.acquire(key(1)).await.unwrap();
    tokio::time::sleep(warmer::QUIET / 2).await;
    assert_eq!(source.0.started.load(Ordering::SeqCst), 1);
    let began = Instant::now();
    let _second = pool.acquire(key(1)).await.unwrap();
    assert!(began.elapsed() < warmer::QUIET / 4, "{:?}", began.elapsed());
    tokio::time::sleep(warmer::QUIET).await;
    assert_eq!(pool.status().idle, 1);
}

#[tokio::test(start_paused = true)]
async fn a_lease_dropped_without_a_verdict_destroys() {
    let source = FakeSource::new();
    let pool = Pool::start(source.clone(), config(1, 1));
    pool.ready(1).await.unwrap();
    let mut lease = pool.acquire(key(1)).await.unwrap();
    let id = lease.container().id.clone();
    drop(lease);
    let mut next = pool.acquire(key(1)).await.unwrap();
    assert_ne!(next.container().id, id);
    assert_eq!(pool.status().destroyed["lease_dropped"], 1);
    assert!(!source.0.alive.lock().contains(&id.0));
}

#[tokio::test(start_paused = true)]
async fn a_reset_that_is_not_proved_destroys() {
    let source = FakeSource::new();
    let pool = Pool::start(source.clone(), config(1, 1));
    *source.0.reset.lock() = Gate::Err;
    let mut lease = pool.acquire(key(1)).await.unwrap();
    let id = lease.container().id.clone();
    lease.settle(JobEnd::Completed);
    let mut next = pool.acquire(key(1)).await.unwrap();
    assert_ne!(next.container().id, id);
    assert_eq!(pool.status().destroyed["reset_not_proved"], 1);
}

#[tokio::test(start_paused = true)]
async fn a_container_serves_another_workspace_only_after_a_reset_that_keeps_nothing() {
    let source = FakeSource::new();
    let pool = Pool::start(source.clone(), config(1, 1));
    let mut lease = pool.acquire(key(1)).await.unwrap();
    let id = lease.container().id.clone();
    lease.container().put(key(1));
    lease.settle(JobEnd::Completed);
    pool.ready(1).await.unwrap();
    let mut other = pool.acquire(key(2)).await.unwrap();
    assert_eq!(other.container().id, id);
    other.container().put(key(2));
    assert_eq!(other.miss(), Some(MissReason::OtherWorkspace));
    assert_eq!(source.0.cleaned.load(Ordering::SeqCst), 1);
    assert_eq!(pool.status().destroyed.values().sum::<u64>(), 0);
}

#[tokio::test(start_paused = true)]
async fn where_nothing_can_be_proved_another_workspace_gets_another_container() {
    let source = FakeSource::new();
    let pool = Pool::start(source.clone(), config(1, 1));
    let mut lease = pool.acquire(key(1)).await.unwrap();
    let id = lease.container().id.clone();
    lease.settle(JobEnd::Completed);
    pool.ready(1).await.unwrap();
    pool.change(PoolConfig { recycle: Recycle::Destroy, ..config(1, 1) });
    let mut other = pool.acquire(key(2)).await.unwrap();
    assert_ne!(other.container().id, id);
    assert_eq!(other.miss(), Some(MissReason::OtherWorkspace));
    assert_eq!(pool.status().destroyed["other_workspace"], 1);
}

#[tokio::test(start_paused = true)]
async fn what_was_built_goes_only_where_there_is_no_room_for_another_container() {
    let source = FakeSource::new();
    let pool = Pool::start(source.clone(), config(0, 2));
    for (workspace, cleaned) in [(1, 0), (2, 0), (1, 0), (3, 1), (1, 1)] {
        let mut lease = pool.acquire(key(workspace)).await.unwrap();
        lease.container().put(key(workspace));
        lease.settle(JobEnd::Completed);
        while pool.status().resetting > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(source.0.cleaned.load(Ordering::SeqCst), cleaned, "{workspace}");
    }
    assert_eq!(source.0.started.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn while_nothing_can_be_started_what_waits_for_others_is_cleaned() {
    let source = FakeSource::new();
    let pool = Pool::start(source.clone(), config(0, 4));
    pool.acquire(key(1)).await.unwrap().settle(JobEnd::Completed);
    pool.ready(1).await.unwrap();
    *source.0.start.lock() = Gate::Permanent;
    let lease = pool.acquire(key(2)).await.unwrap();
    assert_eq!(lease.miss(), Some(MissReason::OtherWorkspace));
}

#[tokio::test(start_paused = true)]
async fn a_container_lost_while_idle_is_replaced_without_a_call() {
    let source = FakeSource::new();
    let pool = Pool::start(source.clone(), config(1, 2));
    pool.ready(1).await.unwrap();
    pool.shared.state.lock().idle[0].container.answering.send_replace(false);
    while !pool.status().destroyed.contains_key("lost") || pool.status().idle == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(source.0.started.load(Ordering::SeqCst), 2);
    assert!(pool.acquire(key(1)).await.unwrap().container().answering());
}

#[tokio::test(start_paused = true)]
async fn draining_removes_all_and_answers_the_line() {
    let source = FakeSource::new();
    let pool = Pool::start(source.clone(), config(1, 1));
    let held = pool.acquire(key(1)).await.unwrap();
    let mut waiting = Box::pin(pool.acquire(key(1)));
    assert!(futures::poll!(&mut waiting).is_pending());
    let mut draining = Box::pin(pool.drain());
    assert!(futures::poll!(&mut draining).is_pending());
    assert!(matches!(waiting.await, Err(AcquireError::Closed)));
    drop(held);
    draining.await;
    assert_eq!(source.alive(), 0);
    assert!(matches!(pool.acquire(key(1)).await, Err(AcquireError::Closed)));
}

#[tokio::test(start_paused = true)]
async fn a_container_goes_after_its_last_use() {
    let pool = Pool::start(FakeSource::new(), PoolConfig { max_uses: 2, ..config(1, 1) });
    for verdict in [Verdict::Reset, Verdict::Destroy(DestroyReason::UsedUp)] {
        let lease = pool.acquire(key(1)).await.unwrap();
        assert_eq!(lease.settle(JobEnd::Completed), verdict);
    }
}

#[tokio::test(start_paused = true)]
async fn a_removal_that_fails_is_tried_again_and_holds_its_slot() {
    let source = FakeSource::new();
    let pool = Pool::start(source.clone(), config(0, 1));
    let held = pool.acquire(key(1)).await.unwrap();
    *source.0.remove.lock() = Gate::Err;
    drop(held);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!((source.alive(), pool.shared.slots.status().available), (1, 0));
    *source.0.remove.lock() = Gate::Ok;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!((source.alive(), pool.shared.slots.status().available), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn what_a_burst_left_is_removed_bit_by_bit_and_the_last_one_stays() {
    let source = FakeSource::new();
    let pool = Pool::start(source.clone(), PoolConfig { adaptive: true, ..config(1, 8) });
    let mut leases = Vec::new();
    for _ in 0..4 {
        leases.push(pool.acquire(key(1)).await.unwrap());
    }
    assert_eq!(pool.status().target, 4, "what max_size leaves");
    for lease in leases {
        lease.settle(JobEnd::Completed);
    }
    tokio::time::sleep(Duration::from_secs(290)).await;
    assert_eq!((pool.status().target, pool.status().idle), (6, 8));
    tokio::time::sleep(Duration::from_secs(150)).await;
    let status = pool.status();
    assert!((2..6).contains(&status.target) && status.idle == status.target, "{status:?}");
    tokio::time::sleep(Duration::from_secs(200)).await;
    let status = pool.status();
    assert_eq!((status.target, status.idle, source.alive()), (1, 1, 1));
    assert_eq!(status.destroyed["surplus"], 7);
    assert!(pool.acquire(key(1)).await.unwrap().miss().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_desktop_has_no_container_after_a_long_quiet_until_the_next_call() {
    let source = FakeSource::new();
    let pool = Pool::start(source.clone(), PoolConfig { adaptive: true, ..config(1, 4) });
    pool.set_desktop(true);
    tokio::time::sleep(Duration::from_secs(3599)).await;
    assert_eq!(pool.status().idle, 1);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!((pool.status().target, source.alive()), (0, 0));
    let lease = pool.acquire(key(1)).await.unwrap();
    assert_eq!(lease.miss(), Some(MissReason::ColdProfile));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(pool.status().idle, 1);
}
