//! What containers hold, and the budget for it.

use super::fake::{FakeContainer, FakeSource, config, key};
use super::*;
use crate::pool::copies::{Copy, Forgotten, KeptState};
use crate::pool::prepare::{Preparation, Prepared};
use crate::verdict::JobEnd;

fn copy(ino: u64, bytes: u64, built: u64) -> Copy {
    Copy {
        workspace: key(ino),
        path: format!("/w{ino}").into(),
        files: 1,
        bytes,
        kept: vec![KeptState { path: "target/".to_owned(), bytes: built }],
        used: None,
    }
}

/// A job on a workspace, after which so much is held.
async fn job(pool: &Pool<FakeSource>, ino: u64, bytes: u64, built: u64) {
    let mut lease = pool.acquire(key(ino)).await.unwrap();
    lease.container().put(key(ino));
    lease.container().note().set(Some(copy(ino, bytes, built)));
    lease.settle(JobEnd::Completed);
    tokio::time::sleep(Duration::from_secs(1)).await;
}

fn held(pool: &Pool<FakeSource>) -> Vec<String> {
    let mut held: Vec<_> = pool.status().copies.into_iter().map(|copies| copies.path).collect();
    held.sort();
    held
}

fn prepare(pool: &Pool<FakeSource>, ino: u64) -> Preparation<FakeSource> {
    let empty = |container: &FakeContainer| container.note().get().is_none();
    pool.prepare(|view| Some((view.idle.iter().position(|idle| empty(idle.container))?, key(ino))))
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn over_the_budget_the_idle_container_used_least_recently_gives_up_what_it_holds() {
    let source = FakeSource::new();
    let pool = Pool::start(source.clone(), config(3, 3));
    pool.set_disk_budget(100);
    pool.ready(3).await.unwrap();
    job(&pool, 1, 30, 10).await;
    job(&pool, 2, 30, 10).await;
    let status = pool.status();
    assert_eq!((status.disk.used, status.disk.budget, status.disk.dropped), (80, 100, 0));
    assert_eq!(held(&pool), ["/w1", "/w2"]);
    // Used again, so that the other one is the older.
    job(&pool, 1, 30, 10).await;
    job(&pool, 3, 10, 11).await;
    assert_eq!(held(&pool), ["/w1", "/w3"]);
    let status = pool.status();
    assert_eq!((status.disk.used, status.disk.dropped), (61, 1));
    assert_eq!((status.idle, status.destroyed.len()), (3, 0));
    assert_eq!(source.0.cleaned.load(Ordering::SeqCst), 1);
    // A smaller budget is in force at once.
    pool.set_disk_budget(25);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(held(&pool), ["/w3"]);
    pool.drain().await;
    assert_eq!((pool.status().disk.used, source.alive()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn what_a_job_works_with_counts_and_stays() {
    let pool = Pool::start(FakeSource::new(), config(2, 2));
    pool.set_disk_budget(100);
    pool.ready(2).await.unwrap();
    job(&pool, 1, 40, 0).await;
    let mut lease = pool.acquire(key(2)).await.unwrap();
    lease.container().note().set(Some(copy(2, 500, 0)));
    let mut other = pool.acquire(key(1)).await.unwrap();
    other.container().note().set(Some(copy(1, 40, 0)));
    other.settle(JobEnd::Completed);
    tokio::time::sleep(Duration::from_secs(1)).await;
    // The idle one makes room as far as it can; what is leased is there until its end.
    assert_eq!(held(&pool), ["/w2"]);
    assert_eq!(pool.status().disk.used, 500);
    lease.settle(JobEnd::Completed);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!((held(&pool).len(), pool.status().disk.dropped), (0, 2));
}

#[tokio::test(start_paused = true)]
async fn what_is_only_prepared_takes_nothing_from_what_was_used() {
    let pool = Pool::start(FakeSource::new(), config(2, 2));
    pool.set_disk_budget(100);
    pool.ready(2).await.unwrap();
    job(&pool, 1, 60, 0).await;
    assert_eq!(pool.look(|view| view.room), 40);
    let mut one = prepare(&pool, 2);
    one.container().note().set(Some(copy(2, 50, 0)));
    assert!(!one.finish(Prepared::Ready));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(held(&pool), ["/w1"]);
    let mut one = prepare(&pool, 2);
    one.container().note().set(Some(copy(2, 40, 0)));
    assert!(one.finish(Prepared::Ready));
    assert_eq!(held(&pool), ["/w1", "/w2"]);
}

#[tokio::test(start_paused = true)]
async fn what_the_user_drops_goes_at_once_where_it_is_idle_and_after_the_job_where_not() {
    let source = FakeSource::new();
    let pool = Pool::start(source.clone(), config(3, 3));
    pool.ready(3).await.unwrap();
    job(&pool, 1, 30, 10).await;
    job(&pool, 2, 30, 10).await;
    let mut lease = pool.acquire(key(3)).await.unwrap();
    lease.container().put(key(3));
    lease.container().note().set(Some(copy(3, 1, 1)));
    assert_eq!(pool.forget(Some(key(9))), Forgotten { dropped: 0, in_use: 0 });
    assert_eq!(pool.forget(Some(key(1))), Forgotten { dropped: 1, in_use: 0 });
    // Under way already, so that no call finds it.
    assert_eq!(pool.status().idle, 1);
    assert_eq!(pool.forget(None), Forgotten { dropped: 1, in_use: 2 });
    lease.container().note().set(Some(copy(3, 2, 2)));
    lease.settle(JobEnd::Completed);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let status = pool.status();
    assert_eq!((status.idle, status.copies.len(), status.destroyed.len()), (3, 0, 0));
    assert_eq!(source.0.cleaned.load(Ordering::SeqCst), 3);
    // What comes afterwards is kept again.
    job(&pool, 3, 1, 1).await;
    assert_eq!(held(&pool), ["/w3"]);
}

#[tokio::test(start_paused = true)]
async fn one_that_cannot_be_emptied_is_destroyed_for_the_budget() {
    let pool = Pool::start(FakeSource::new(), config(1, 1));
    pool.ready(1).await.unwrap();
    job(&pool, 1, 60, 0).await;
    pool.change(PoolConfig { recycle: crate::config::Recycle::Destroy, ..config(1, 1) });
    pool.set_disk_budget(10);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let status = pool.status();
    assert_eq!((status.destroyed["disk_budget"], status.disk.used), (1, 0));
    assert_eq!(status.idle, 1);
}
