//! The waiting line.

use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::config::PoolConfig;
use crate::failure::{ErrorKind, Failure};
use crate::pool::{AcquireError, Pool};
use crate::verdict::JobEnd;

use super::fake::{FakeSource, Gate, config, key};

#[tokio::test(start_paused = true)]
async fn the_line_is_bounded_served_in_order_and_left_at_once() {
    let pool = Pool::start(FakeSource::new(), PoolConfig { max_queue: 2, ..config(0, 1) });
    let held = pool.acquire(key(1)).await.unwrap();
    let mut first = Box::pin(pool.acquire(key(1)));
    let mut second = Box::pin(pool.acquire(key(1)));
    assert!(futures::poll!(&mut first).is_pending());
    assert!(futures::poll!(&mut second).is_pending());
    assert!(matches!(pool.acquire(key(1)).await, Err(AcquireError::QueueFull { waiting: 2 })));
    drop(first);
    assert_eq!(pool.waiting(), 1);
    held.settle(JobEnd::Completed);
    assert!(second.await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn waiting_too_long_names_the_setting() {
    let pool = Pool::start(FakeSource::new(), config(0, 1));
    let _held = pool.acquire(key(1)).await.unwrap();
    let began = Instant::now();
    let error = pool.acquire(key(1)).await.unwrap_err();
    assert_eq!(began.elapsed().as_secs(), 60);
    assert!(error.to_string().contains("pool.acquire_timeout"), "{error}");
    assert_eq!(Failure::from(error).kind, ErrorKind::AcquireTimeout);
    assert_eq!(pool.waiting(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_caller_in_line_gets_nothing_of_another_workspace() {
    let source = FakeSource::new();
    let pool = Pool::start(source.clone(), config(0, 1));
    let mut held = pool.acquire(key(1)).await.unwrap();
    held.container().put(key(1));
    let mut waiting = Box::pin(pool.acquire(key(2)));
    assert!(futures::poll!(&mut waiting).is_pending());
    held.settle(JobEnd::Completed);
    waiting.await.unwrap().container().put(key(2));
    assert_eq!(source.0.cleaned.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn draining_is_not_held_up_by_a_caller_that_leaves_with_a_grant() {
    let source = FakeSource::new();
    let pool = Pool::start(source.clone(), config(0, 1));
    let held = pool.acquire(key(1)).await.unwrap();
    let mut waiting = Box::pin(pool.acquire(key(1)));
    assert!(futures::poll!(&mut waiting).is_pending());
    held.settle(JobEnd::Completed);
    while pool.waiting() > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut draining = Box::pin(pool.drain());
    for _ in 0..10 {
        assert!(futures::poll!(&mut draining).is_pending());
        tokio::task::yield_now().await;
    }
    drop(waiting);
    tokio::time::timeout(Duration::from_secs(60), draining).await.unwrap();
    assert_eq!((source.alive(), pool.status().leased), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_container_that_comes_back_is_not_given_past_the_first_in_line() {
    let source = FakeSource::new();
    let pool = Pool::start(source.clone(), config(0, 1));
    let held = pool.acquire(key(1)).await.unwrap();
    let mut other = Box::pin(pool.acquire(key(2)));
    let mut same = Box::pin(pool.acquire(key(1)));
    assert!(futures::poll!(&mut other).is_pending());
    assert!(futures::poll!(&mut same).is_pending());
    held.settle(JobEnd::Completed);
    let lease = other.await.unwrap();
    assert!(futures::poll!(&mut same).is_pending());
    lease.settle(JobEnd::Completed);
    assert!(same.await.is_ok());
    assert_eq!(source.0.cleaned.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn who_has_a_container_coming_is_overtaken_by_a_call_that_it_does_not_delay() {
    let source = FakeSource::new();
    let pool = Pool::start(source.clone(), config(0, 2));
    let held = pool.acquire(key(1)).await.unwrap();
    *source.0.start.lock() = Gate::Slow(10_000);
    let began = Instant::now();
    let mut other = Box::pin(pool.acquire(key(2)));
    let mut same = Box::pin(pool.acquire(key(1)));
    assert!(futures::poll!(&mut other).is_pending());
    assert!(futures::poll!(&mut same).is_pending());
    tokio::time::sleep(Duration::from_secs(1)).await;
    held.settle(JobEnd::Completed);
    let lease = same.await.unwrap();
    assert_eq!(began.elapsed().as_secs(), 1);
    lease.settle(JobEnd::Completed);
    // Also one that comes now: its container waits, and the other one is being started.
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert!(pool.acquire(key(1)).await.unwrap().miss().is_none());
    assert!(other.await.is_ok());
    assert_eq!(began.elapsed().as_secs(), 10);
    assert!(!pool.status().destroyed.contains_key("other_workspace"));
}

#[tokio::test(start_paused = true)]
async fn a_caller_learns_its_place_and_about_how_long_it_takes() {
    let pool = Pool::start(FakeSource::new(), config(0, 1));
    for _ in 0..3 {
        let lease = pool.acquire(key(1)).await.unwrap();
        tokio::time::sleep(Duration::from_secs(30)).await;
        lease.settle(JobEnd::Completed);
    }
    let held = pool.acquire(key(1)).await.unwrap();
    let mut first = Box::pin(pool.acquire(key(1)));
    assert!(futures::poll!(&mut first).is_pending());
    let told = Mutex::new(Vec::new());
    let mut second =
        Box::pin(pool.acquire_telling(key(1), |place| told.lock().push(place.to_string())));
    assert!(futures::poll!(&mut second).is_pending());
    held.settle(JobEnd::Completed);
    let lease = first.await.unwrap();
    assert!(futures::poll!(&mut second).is_pending());
    lease.settle(JobEnd::Completed);
    assert!(second.await.is_ok());
    let told = told.into_inner();
    assert_eq!(told[0], "Waiting for a container behind 1 other call, about 60 s");
    assert_eq!(told[1], "Waiting for a container, about 30 s");
}

#[tokio::test(start_paused = true)]
async fn a_place_that_is_given_up_moves_the_others_up_at_once() {
    let pool = Pool::start(FakeSource::new(), config(0, 1));
    let _held = pool.acquire(key(1)).await.unwrap();
    let mut first = Box::pin(pool.acquire(key(1)));
    assert!(futures::poll!(&mut first).is_pending());
    let told = Mutex::new(Vec::new());
    let mut second = Box::pin(pool.acquire_telling(key(1), |place| told.lock().push(place.ahead)));
    assert!(futures::poll!(&mut second).is_pending());
    drop(first);
    assert!(futures::poll!(&mut second).is_pending());
    drop(second);
    assert_eq!(told.into_inner(), [1, 0]);
}
