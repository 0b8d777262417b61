//! Settings that change while the pool works.

use super::*;
use crate::verdict::DestroyReason;

#[tokio::test(start_paused = true)]
async fn a_larger_pool_is_filled_and_a_smaller_one_gives_up_what_waits() {
    let source = FakeSource::new();
    let pool = Pool::start(source.clone(), config(1, 1));
    pool.ready(1).await.unwrap();
    pool.change(config(3, 5));
    pool.ready(3).await.unwrap();
    let lease = pool.acquire(key(1)).await.unwrap();
    let other = pool.acquire(key(2)).await.unwrap();
    pool.ready(1).await.unwrap();
    pool.change(config(1, 1));
    while source.alive() > 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Two are leased, which is over the bound: nobody is disturbed, and nothing is started.
    assert_eq!((pool.status().leased, pool.status().idle), (2, 0));
    let waiting = pool.acquire(key(3));
    let mut waiting = std::pin::pin!(waiting);
    assert!(futures::poll!(&mut waiting).is_pending());
    assert_eq!(lease.settle(JobEnd::TimedOut), Verdict::Destroy(DestroyReason::TimedOut));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(futures::poll!(&mut waiting).is_pending());
    assert_eq!(source.alive(), 1);
    assert_eq!(other.settle(JobEnd::TimedOut), Verdict::Destroy(DestroyReason::TimedOut));
    let third = waiting.await.unwrap();
    assert_eq!(source.alive(), 1);
    drop(third);
    pool.drain().await;
    assert_eq!(source.alive(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_was_started_from_something_else_is_replaced_and_a_lease_ends_in_peace() {
    let source = FakeSource::new();
    let pool = Pool::start(source.clone(), config(2, 4));
    pool.ready(2).await.unwrap();
    let lease = pool.acquire(key(1)).await.unwrap();
    source.0.profile.store(1, Ordering::SeqCst);
    pool.inspect();
    while pool.status().destroyed.get("outdated") != Some(&1) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    pool.ready(2).await.unwrap();
    assert_eq!(lease.settle(JobEnd::Completed), Verdict::Destroy(DestroyReason::Outdated));
    let lease = pool.acquire(key(1)).await.unwrap();
    assert_eq!(lease.miss(), None);
    assert_eq!(lease.settle(JobEnd::Completed), Verdict::Reset);
    pool.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_longer_or_shorter_line_takes_effect_and_nobody_is_put_out_of_it() {
    let source = FakeSource::new();
    let pool = Pool::start(source.clone(), config(1, 1));
    pool.ready(1).await.unwrap();
    let lease = pool.acquire(key(1)).await.unwrap();
    let mut waiting = std::pin::pin!(pool.acquire(key(1)));
    assert!(futures::poll!(&mut waiting).is_pending());
    pool.change(PoolConfig { max_queue: 1, ..config(1, 1) });
    assert!(matches!(pool.acquire(key(1)).await, Err(AcquireError::QueueFull { waiting: 1 })));
    drop(lease);
    waiting.await.unwrap();
    pool.drain().await;
}
