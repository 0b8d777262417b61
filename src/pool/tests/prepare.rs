//! Containers that are prepared ahead of the calls.

use futures::poll;

use crate::config::Recycle;
use crate::pool::prepare::{Preparation, Prepared};
use crate::verdict::JobEnd;

use super::fake::polled;
use super::*;

/// Prepares the first idle container that fits.
fn prepare(pool: &Pool<FakeSource>, workspace: u64) -> Option<Preparation<FakeSource>> {
    let workspace = key(workspace);
    pool.prepare(|view| {
        let fits = |bound: Option<_>| bound.is_none_or(|bound| bound == workspace);
        let place = view.idle.iter().position(|one| fits(one.workspace))?;
        Some((place, workspace))
    })
}

async fn pool_of(min_idle: usize, max_size: usize) -> (FakeSource, Pool<FakeSource>) {
    let source = FakeSource::new();
    let pool = Pool::start(source.clone(), config(min_idle, max_size));
    pool.ready(min_idle).await.unwrap();
    (source, pool)
}

#[tokio::test(start_paused = true)]
async fn what_is_prepared_is_no_use_no_hit_and_no_miss_and_serves_its_workspace_at_once() {
    let (source, pool) = pool_of(1, 1).await;
    let mut watch = pool.watch();
    watch.mark_unchanged();
    let mut one = prepare(&pool, 1).unwrap();
    assert!(watch.has_changed().unwrap());
    one.container().put(key(1));
    let id = one.container().id.clone();
    let status = pool.status();
    assert_eq!((status.idle, status.preparing, status.leased), (0, 1, 0));
    assert_eq!(pool.look(|view| view.engaged.clone()), [key(1)]);
    watch.mark_unchanged();
    one.finish(Prepared::Ready);
    assert!(watch.has_changed().unwrap());
    let status = pool.status();
    assert_eq!((status.idle, status.preparing, status.hits, status.misses.len()), (1, 0, 0, 0));
    pool.look(|view| {
        let one = &view.idle[0];
        assert_eq!((one.workspace, one.uses, one.cleanable), (Some(key(1)), 0, true));
    });
    let mut lease = pool.acquire(key(1)).await.unwrap();
    assert_eq!((lease.miss(), &lease.container().id), (None, &id));
    assert_eq!(source.0.started.load(Ordering::SeqCst), 1);
    assert!(pool.status().latency_ms.contains_key("prepare"));
}

#[tokio::test(start_paused = true)]
async fn nothing_of_another_workspace_is_prepared_and_nothing_that_is_not_there() {
    let (_, pool) = pool_of(1, 1).await;
    prepare(&pool, 1).unwrap().finish(Prepared::Ready);
    assert!(pool.prepare(|_| Some((0, key(2)))).is_none());
    assert!(pool.prepare(|_| Some((1, key(1)))).is_none());
    assert_eq!(pool.status().idle, 1);
}

#[tokio::test(start_paused = true)]
async fn one_that_is_dropped_destroys() {
    let (source, pool) = pool_of(1, 1).await;
    let mut one = prepare(&pool, 1).unwrap();
    let id = one.container().id.0.clone();
    drop(one);
    pool.ready(1).await.unwrap();
    assert_eq!(pool.status().destroyed["preparation_dropped"], 1);
    assert!(!source.0.alive.lock().contains(&id));
}

#[tokio::test(start_paused = true)]
async fn what_was_spoiled_serves_again_with_nothing_in_it() {
    let (source, pool) = pool_of(1, 1).await;
    let mut one = prepare(&pool, 1).unwrap();
    one.container().put(key(1));
    one.finish(Prepared::Spoiled);
    let mut lease = pool.acquire(key(2)).await.unwrap();
    lease.container().put(key(2));
    assert_eq!(source.0.started.load(Ordering::SeqCst), 1);
    lease.settle(JobEnd::Completed);
    pool.ready(1).await.unwrap();
    // Where a job ran, what it built stays for its workspace.
    prepare(&pool, 2).unwrap().finish(Prepared::Spoiled);
    pool.ready(1).await.unwrap();
    assert_eq!(pool.look(|view| view.idle[0].workspace), Some(key(2)));
    assert_eq!(source.0.cleaned.load(Ordering::SeqCst), 1);
    pool.change(PoolConfig { recycle: Recycle::Destroy, ..config(1, 1) });
    prepare(&pool, 2).unwrap().finish(Prepared::Spoiled);
    assert_eq!(pool.status().destroyed["policy"], 1);
}

#[tokio::test(start_paused = true)]
async fn what_nothing_was_done_with_is_idle_as_it_was() {
    let (_, pool) = pool_of(1, 1).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    prepare(&pool, 1).unwrap().finish(Prepared::Untouched);
    pool.look(|view| {
        assert_eq!(view.idle[0].workspace, None);
        assert!(view.idle[0].idle_for >= Duration::from_secs(60));
    });
}

#[tokio::test(start_paused = true)]
async fn a_call_for_another_workspace_has_it_given_up_and_gets_it() {
    let (source, pool) = pool_of(1, 4).await;
    *source.0.start.lock() = Gate::Slow(10_000);
    let mut one = prepare(&pool, 1).unwrap();
    one.container().put(key(1));
    let mut wanted = Box::pin(one.wanted());
    assert!(poll!(&mut wanted).is_pending());
    let mut call = Box::pin(pool.acquire(key(2)));
    assert!(poll!(&mut call).is_pending());
    wanted.await;
    one.finish(Prepared::Spoiled);
    let mut lease = call.await.unwrap();
    lease.container().put(key(2));
    assert_eq!(lease.miss(), Some(MissReason::Preparing));
    assert_eq!(source.0.armed.load(Ordering::SeqCst), 1, "a start is slower than a reset");
}

#[tokio::test(start_paused = true)]
async fn a_call_for_the_workspace_that_is_being_prepared_waits_for_it() {
    let (source, pool) = pool_of(1, 1).await;
    let mut one = prepare(&pool, 1).unwrap();
    let id = one.container().id.clone();
    let mut wanted = Box::pin(one.wanted());
    let mut call = Box::pin(pool.acquire(key(1)));
    assert!(poll!(&mut call).is_pending());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(poll!(&mut wanted).is_pending() && poll!(&mut call).is_pending());
    one.finish(Prepared::Ready);
    assert_eq!(call.await.unwrap().container().id, id);
    assert_eq!(source.0.cleaned.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_refreshed_with_builds_in_it_is_given_up_only_where_there_is_no_room() {
    for (max_size, off) in [(2, false), (1, true)] {
        let (_, pool) = pool_of(1, max_size).await;
        pool.acquire(key(1)).await.unwrap().settle(JobEnd::Completed);
        while pool.status().resetting > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let one = prepare(&pool, 1).unwrap();
        let mut wanted = Box::pin(one.wanted());
        let mut call = Box::pin(pool.acquire(key(2)));
        assert!(poll!(&mut call).is_pending());
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(poll!(&mut wanted).is_ready(), off);
        one.finish(if off { Prepared::Spoiled } else { Prepared::Ready });
        call.await.unwrap().container().put(key(2));
    }
}

#[tokio::test(start_paused = true)]
async fn a_container_that_is_lost_meanwhile_goes_however_it_ended() {
    for how in [Prepared::Ready, Prepared::Untouched, Prepared::Spoiled] {
        let (source, pool) = pool_of(1, 1).await;
        let mut one = prepare(&pool, 1).unwrap();
        one.container().answering.send_replace(false);
        one.finish(how);
        pool.ready(1).await.unwrap();
        assert_eq!(pool.status().destroyed["lost"], 1, "{how:?}");
        assert_eq!(source.alive(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn closing_calls_it_off_and_waits_for_it() {
    for how in [Some(Prepared::Ready), Some(Prepared::Untouched), Some(Prepared::Spoiled), None] {
        let (source, pool) = pool_of(1, 2).await;
        let one = prepare(&pool, 1).unwrap();
        let mut draining = Box::pin(pool.drain());
        assert!(poll!(&mut draining).is_pending());
        one.wanted().await;
        assert!(prepare(&pool, 1).is_none());
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(poll!(&mut draining).is_pending());
        match how {
            Some(how) => one.finish(how),
            None => drop(one),
        }
        draining.await;
        assert_eq!((source.alive(), pool.status().preparing), (0, 0), "{how:?}");
    }
}

/// A call that is given up at any of its awaits while the only container is being prepared.
#[tokio::test(start_paused = true)]
async fn a_call_that_is_given_up_leaves_a_pool_that_serves() {
    for polls in 1..8 {
        for how in [Some(Prepared::Ready), Some(Prepared::Spoiled), None] {
            let (source, pool) = pool_of(0, 1).await;
            pool.acquire(key(3)).await.unwrap().settle(JobEnd::Completed);
            pool.ready(1).await.unwrap();
            let one = prepare(&pool, 3).unwrap();
            let work = async {
                one.wanted().await;
                match how {
                    Some(how) => one.finish(how),
                    None => drop(one),
                }
            };
            let limit = Duration::from_secs(5);
            let call = polled(polls, pool.acquire(key(2)));
            let _ = tokio::time::timeout(limit, async { tokio::join!(call, work) }).await;
            assert!(pool.acquire(key(1)).await.is_ok(), "{polls} {how:?}");
            pool.drain().await;
            assert_eq!((source.alive(), pool.shared.slots.status().available), (0, 1));
        }
    }
}
