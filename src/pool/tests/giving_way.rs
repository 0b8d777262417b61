//! Resets give way to calls that have just begun.

use super::*;

const MS: fn(u64) -> Duration = Duration::from_millis;

/// How long after its return a container is idle again.
async fn until_idle(pool: &Pool<FakeSource>, idle: u64) -> Duration {
    let began = Instant::now();
    while pool.status().idle != idle {
        tokio::time::sleep(MS(1)).await;
    }
    began.elapsed()
}

#[tokio::test(start_paused = true)]
async fn a_reset_waits_for_a_young_call_and_no_longer_than_it_is_young_or_runs() {
    let pool = Pool::start(FakeSource::new(), config(3, 3));
    pool.ready(3).await.unwrap();
    let given_back = |lease: Lease<FakeSource>| lease.settle(JobEnd::Completed);

    // Alone: at once.
    given_back(pool.acquire(key(1)).await.unwrap());
    assert!(until_idle(&pool, 3).await <= MS(2));

    // Until the other one is young no more.
    let first = pool.acquire(key(1)).await.unwrap();
    let other = pool.acquire(key(1)).await.unwrap();
    tokio::time::sleep(MS(30)).await;
    given_back(first);
    let waited = until_idle(&pool, 2).await;
    assert!(waited >= MS(68) && waited <= MS(75), "{waited:?}");
    drop(other);
    pool.ready(3).await.unwrap();

    // Until the other one has ended.
    let first = pool.acquire(key(1)).await.unwrap();
    let other = pool.acquire(key(1)).await.unwrap();
    given_back(first);
    tokio::time::sleep(MS(20)).await;
    assert_eq!(pool.status().resetting, 1);
    given_back(other);
    assert!(until_idle(&pool, 3).await <= MS(2));
}

#[tokio::test(start_paused = true)]
async fn a_reset_that_a_call_in_line_may_wait_for_gives_way_to_nobody() {
    let pool = Pool::start(FakeSource::new(), config(2, 2));
    pool.ready(2).await.unwrap();
    let first = pool.acquire(key(1)).await.unwrap();
    let _other = pool.acquire(key(1)).await.unwrap();
    first.settle(JobEnd::Completed);
    tokio::time::sleep(MS(20)).await;
    assert_eq!(pool.status().resetting, 1);
    let began = Instant::now();
    let third = pool.acquire(key(1)).await.unwrap();
    assert_eq!(third.miss(), Some(MissReason::Resetting));
    assert!(began.elapsed() <= MS(2), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn calls_that_never_end_to_come_do_not_put_a_reset_off_for_ever() {
    let pool = Pool::start(FakeSource::new(), config(12, 12));
    pool.ready(12).await.unwrap();
    pool.acquire(key(1)).await.unwrap().settle(JobEnd::Completed);
    let mut leases = vec![pool.acquire(key(2)).await.unwrap()];
    assert_eq!(pool.status().resetting, 1);
    let began = Instant::now();
    while pool.status().resetting > 0 {
        tokio::time::sleep(MS(50)).await;
        leases.push(pool.acquire(key(2)).await.unwrap());
    }
    let waited = began.elapsed();
    assert!(waited >= MS(250) && waited <= MS(300), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_no_reset_that_gives_way() {
    let pool = Pool::start(FakeSource::new(), config(2, 2));
    pool.ready(2).await.unwrap();
    let first = pool.acquire(key(1)).await.unwrap();
    let other = pool.acquire(key(1)).await.unwrap();
    first.settle(JobEnd::Completed);
    let began = Instant::now();
    let draining = tokio::spawn({
        let pool = pool.clone();
        async move { pool.drain().await }
    });
    tokio::task::yield_now().await;
    other.settle(JobEnd::Completed);
    draining.await.unwrap();
    assert!(began.elapsed() < MS(50), "{:?}", began.elapsed());
}
