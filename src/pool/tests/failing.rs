//! Starts that fail.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use crate::config::PoolConfig;
use crate::failure::{ErrorKind, Failure};
use crate::pool::{AcquireError, Pool};
use crate::verdict::JobEnd;

use super::fake::{FakeSource, Gate, config, key};

#[tokio::test(start_paused = true)]
async fn what_waiting_cannot_mend_is_told_at_once() {
    let source = FakeSource::new();
    *source.0.start.lock() = Gate::Permanent;
    let pool = Pool::start(source.clone(), config(1, 2));
    let began = Instant::now();
    let error = pool.acquire(key(1)).await.unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(1));
    assert_eq!(Failure::from(error).kind, ErrorKind::ImageMissing);
    // The user builds the image; the next call tries again at once.
    *source.0.start.lock() = Gate::Ok;
    assert!(pool.acquire(key(1)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn failing_starts_back_off() {
    let source = FakeSource::new();
    *source.0.start.lock() = Gate::Err;
    let _pool = Pool::start(source.clone(), config(1, 2));
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert!(source.0.started.load(Ordering::SeqCst) < 20);
}

#[tokio::test(start_paused = true)]
async fn who_can_be_served_by_a_lease_that_comes_back_is_not_refused_with_the_others() {
    let source = FakeSource::new();
    let pool = Pool::start(source.clone(), config(0, 3));
    let held = pool.acquire(key(1)).await.unwrap();
    *source.0.start.lock() = Gate::Permanent;
    let mut same = Box::pin(pool.acquire(key(1)));
    assert!(futures::poll!(&mut same).is_pending());
    let refused = pool.acquire(key(2)).await.unwrap_err();
    assert_eq!(Failure::from(refused).kind, ErrorKind::ImageMissing);
    assert!(futures::poll!(&mut same).is_pending());
    held.settle(JobEnd::Completed);
    assert!(same.await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_does_not_come_back_gives_no_hope() {
    let source = FakeSource::new();
    let pool = Pool::start(source.clone(), config(0, 3));
    let held = pool.acquire(key(1)).await.unwrap();
    *source.0.start.lock() = Gate::Permanent;
    let mut same = Box::pin(pool.acquire(key(1)));
    assert!(futures::poll!(&mut same).is_pending());
    tokio::time::sleep(Duration::from_secs(1)).await;
    drop(held);
    let began = Instant::now();
    let refused = same.await.unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    assert_eq!(Failure::from(refused).kind, ErrorKind::ImageMissing);
}

#[tokio::test(start_paused = true)]
async fn a_start_under_way_is_waited_for_by_the_first_in_line() {
    let source = FakeSource::new();
    *source.0.start.lock() = Gate::Slow(1000);
    let pool = Pool::start(source.clone(), config(0, 3));
    let mut first = Box::pin(pool.acquire(key(1)));
    assert!(futures::poll!(&mut first).is_pending());
    tokio::time::sleep(Duration::from_millis(100)).await;
    *source.0.start.lock() = Gate::Permanent;
    assert!(matches!(pool.acquire(key(2)).await, Err(AcquireError::Start(_))));
    assert!(first.await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_start_that_began_before_the_call_says_nothing_to_it() {
    let source = FakeSource::new();
    *source.0.start.lock() = Gate::PermanentAfter(1000);
    let pool = Pool::start(source.clone(), PoolConfig { refill_concurrency: 1, ..config(1, 3) });
    tokio::time::sleep(Duration::from_millis(500)).await;
    *source.0.start.lock() = Gate::Ok;
    let began = Instant::now();
    assert!(pool.acquire(key(1)).await.is_ok());
    assert_eq!(began.elapsed().as_millis() / 100, 5);
}

#[tokio::test(start_paused = true)]
async fn what_fails_again_and_again_is_told_with_its_reason_long_before_the_timeout() {
    let source = FakeSource::new();
    *source.0.start.lock() = Gate::Err;
    let pool = Pool::start(source.clone(), config(0, 2));
    let began = Instant::now();
    let error = pool.acquire(key(1)).await.unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert_eq!(source.0.started.load(Ordering::SeqCst), 3);
    assert!(error.to_string().contains("told to fail"), "{error}");
    let error = pool.acquire(key(1)).await.unwrap_err();
    assert!(matches!(error, AcquireError::Start(_)), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_timeout_names_what_the_last_start_ran_into() {
    let source = FakeSource::new();
    let pool = Pool::start(source.clone(), config(0, 2));
    let _held = pool.acquire(key(1)).await.unwrap();
    *source.0.start.lock() = Gate::Permanent;
    let error = pool.acquire(key(1)).await.unwrap_err();
    assert!(matches!(error, AcquireError::Timeout { .. }), "{error:?}");
    assert!(error.to_string().contains("told to fail"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_comes_back_is_found_without_a_call() {
    let source = FakeSource::new();
    *source.0.start.lock() = Gate::Permanent;
    let pool = Pool::start(source.clone(), config(1, 2));
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let tries = source.0.started.load(Ordering::SeqCst);
    assert!((60..130).contains(&tries), "{tries} tries in an hour");
    *source.0.start.lock() = Gate::Ok;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let status = pool.status();
    assert_eq!((status.idle, status.last_error), (1, None));
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_removed_gives_its_slot_back_and_is_removed_when_it_can_be() {
    let source = FakeSource::new();
    let pool = Pool::start(source.clone(), config(0, 1));
    let lease = pool.acquire(key(1)).await.unwrap();
    *source.0.remove.lock() = Gate::Err;
    drop(lease);
    // The next call does not wait for it.
    let began = Instant::now();
    let lease = pool.acquire(key(2)).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    tokio::time::sleep(Duration::from_secs(200)).await;
    assert_eq!(source.alive(), 2);
    *source.0.remove.lock() = Gate::Ok;
    tokio::time::sleep(Duration::from_secs(31)).await;
    assert_eq!(source.alive(), 1);
    // A pool that is closed does not wait for what cannot be removed.
    *source.0.remove.lock() = Gate::Err;
    drop(lease);
    let began = Instant::now();
    pool.drain().await;
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_removed_is_removed_as_soon_as_the_engine_starts_containers_again() {
    let source = FakeSource::new();
    let pool = Pool::start(source.clone(), config(0, 1));
    let lease = pool.acquire(key(1)).await.unwrap();
    *source.0.remove.lock() = Gate::Err;
    *source.0.start.lock() = Gate::Err;
    drop(lease);
    // Longer than the longest wait, so that the next try is far away.
    tokio::time::sleep(Duration::from_secs(90)).await;
    *source.0.remove.lock() = Gate::Ok;
    *source.0.start.lock() = Gate::Ok;
    let mut watch = pool.watch();
    let _lease = pool.acquire(key(1)).await.unwrap();
    let began = Instant::now();
    while source.alive() > 1 {
        watch.changed().await.unwrap();
    }
    assert!(began.elapsed() < Duration::from_millis(100), "{:?}", began.elapsed());
}
