//! The pool over a source whose containers are counters: every fault on demand, time paused.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use futures::future::BoxFuture;
use proptest::prelude::*;
use tokio::sync::watch;

use crate::config::Recycle;
use crate::engine::ContainerId;
use crate::verdict::{JobEnd, Verdict};

use super::*;

/// What a step of the fake does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gate {
    Ok,
    Err,
    Permanent,
    Slow,
    Never,
}

impl Gate {
    async fn pass(self) -> Result<(), StartError> {
        let error = |kind| StartError { kind, sentence: String::from("the fake was told to fail") };
        match self {
            Self::Ok => Ok(()),
            Self::Err => Err(error(ErrorKind::ContainerLost)),
            Self::Permanent => Err(error(ErrorKind::ImageMissing)),
            Self::Slow => {
                tokio::time::sleep(Duration::from_secs(1)).await;
                Ok(())
            }
            Self::Never => std::future::pending().await,
        }
    }
}

#[derive(Debug)]
struct World {
    /// What the engine would list.
    alive: Mutex<HashSet<String>>,
    /// What runs: a container ends when its stream does, removed or not.
    running: Mutex<HashSet<String>>,
    most_running: AtomicUsize,
    started: AtomicU32,
    start: Mutex<Gate>,
    reset: Mutex<Gate>,
    remove: Mutex<Gate>,
    findings: Mutex<Findings>,
}

#[derive(Clone, Debug)]
struct FakeSource(Arc<World>);

#[derive(Debug)]
struct FakeContainer {
    id: ContainerId,
    world: Arc<World>,
    answering: watch::Sender<bool>,
    findings: Findings,
}

impl FakeSource {
    fn new() -> Self {
        Self(Arc::new(World {
            alive: Mutex::default(),
            running: Mutex::default(),
            most_running: AtomicUsize::new(0),
            started: AtomicU32::new(0),
            start: Mutex::new(Gate::Ok),
            reset: Mutex::new(Gate::Ok),
            remove: Mutex::new(Gate::Ok),
            findings: Mutex::default(),
        }))
    }

    fn alive(&self) -> usize {
        self.0.alive.lock().len()
    }
}

impl Source for FakeSource {
    type Container = FakeContainer;

    fn start(&self) -> BoxFuture<'_, Result<FakeContainer, StartError>> {
        Box::pin(async {
            let number = self.0.started.fetch_add(1, Ordering::SeqCst);
            let gate = *self.0.start.lock();
            let id = ContainerId(format!("fake-{number}"));
            self.0.alive.lock().insert(id.0.clone());
            {
                let mut running = self.0.running.lock();
                running.insert(id.0.clone());
                self.0.most_running.fetch_max(running.len(), Ordering::SeqCst);
            }
            let limited = tokio::time::timeout(Duration::from_secs(30), gate.pass()).await;
            let passed = limited.unwrap_or_else(|_| {
                Err(StartError { kind: ErrorKind::ContainerLost, sentence: "start_timeout".into() })
            });
            if let Err(error) = passed {
                self.0.running.lock().remove(&id.0);
                self.0.alive.lock().remove(&id.0);
                return Err(error);
            }
            Ok(FakeContainer {
                id,
                world: Arc::clone(&self.0),
                answering: watch::Sender::new(true),
                findings: self.0.findings.lock().clone(),
            })
        })
    }

    fn remove<'a>(&'a self, id: &'a ContainerId) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async {
            let gate = *self.0.remove.lock();
            gate.pass().await.map_err(|error| error.to_string())?;
            self.0.alive.lock().remove(&id.0);
            Ok(())
        })
    }
}

impl Drop for FakeContainer {
    fn drop(&mut self) {
        self.world.running.lock().remove(&self.id.0);
    }
}

impl Pooled for FakeContainer {
    fn id(&self) -> &ContainerId {
        &self.id
    }

    fn findings(&self) -> &Findings {
        &self.findings
    }

    fn answering(&self) -> bool {
        *self.answering.borrow()
    }

    fn lost(&self) -> BoxFuture<'static, String> {
        let mut watch = self.answering.subscribe();
        Box::pin(async move {
            let _ = watch.wait_for(|answering| !answering).await;
            String::from("lost")
        })
    }

    fn reset(&mut self) -> BoxFuture<'_, Result<(), String>> {
        let gate = *self.world.reset.lock();
        Box::pin(async move {
            match tokio::time::timeout(Duration::from_secs(5), gate.pass()).await {
                Ok(passed) => passed.map_err(|error| error.to_string()),
                Err(_) => Err(String::from("reset took too long")),
            }
        })
    }
}

fn config(min_idle: usize, max_size: usize) -> PoolConfig {
    PoolConfig {
        min_idle,
        max_size,
        acquire_timeout: Duration::from_secs(60),
        max_queue: 8,
        max_uses: 50,
        max_age: Duration::from_secs(3600),
        refill_concurrency: 2,
        recycle: Recycle::Reset,
    }
}

fn key(ino: u64) -> WorkspaceKey {
    WorkspaceKey { dev: 1, ino }
}

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
async fn a_container_never_serves_a_second_workspace() {
    let source = FakeSource::new();
    let pool = Pool::start(source.clone(), config(1, 1));
    let mut lease = pool.acquire(key(1)).await.unwrap();
    let id = lease.container().id.clone();
    lease.settle(JobEnd::Completed);
    pool.ready(1).await.unwrap();
    let mut other = pool.acquire(key(2)).await.unwrap();
    assert_ne!(other.container().id, id);
    assert_eq!(other.miss(), Some(MissReason::OtherWorkspace));
    assert_eq!(pool.status().destroyed["other_workspace"], 1);
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
    assert!(source.0.started.load(Ordering::SeqCst) < 16);
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
async fn a_caller_in_line_gets_no_container_of_another_workspace() {
    let source = FakeSource::new();
    let pool = Pool::start(source.clone(), config(0, 1));
    let mut held = pool.acquire(key(1)).await.unwrap();
    let id = held.container().id.clone();
    let mut waiting = Box::pin(pool.acquire(key(2)));
    assert!(futures::poll!(&mut waiting).is_pending());
    held.settle(JobEnd::Completed);
    assert_ne!(waiting.await.unwrap().container().id, id);
    assert_eq!(pool.status().destroyed["other_workspace"], 1);
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

/// One step of a random history.
#[derive(Clone, Debug)]
enum Step {
    Acquire { workspace: u64, patience: u64 },
    Settle { which: usize, end: JobEnd },
    Drop { which: usize },
    Lose,
    Gates { start: Gate, reset: Gate, remove: Gate },
    Wait { ms: u64 },
}

fn steps() -> impl Strategy<Value = Step> {
    let gate =
        || prop::sample::select(vec![Gate::Ok, Gate::Ok, Gate::Err, Gate::Slow, Gate::Never]);
    let no_hang = || prop::sample::select(vec![Gate::Ok, Gate::Ok, Gate::Err, Gate::Slow]);
    prop_oneof![
        4 => (0u64..3, 0u64..2000)
            .prop_map(|(workspace, patience)| Step::Acquire { workspace, patience }),
        3 => (any::<usize>(), prop::sample::select(vec![
            JobEnd::Completed, JobEnd::Completed, JobEnd::TimedOut, JobEnd::Lost,
        ])).prop_map(|(which, end)| Step::Settle { which, end }),
        1 => any::<usize>().prop_map(|which| Step::Drop { which }),
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
            let pool = Pool::start(source.clone(), config(1, 3));
            let mut leases: Vec<Lease<FakeSource>> = Vec::new();
            for step in history {
                match step {
                    Step::Acquire { workspace, patience } => {
                        let acquire = pool.acquire(key(workspace));
                        let limit = Duration::from_millis(patience);
                        if let Ok(Ok(lease)) = tokio::time::timeout(limit, acquire).await {
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
                ids.sort();
                ids.dedup();
                prop_assert_eq!(ids.len(), leases.len(), "a container is leased twice");
            }
            *source.0.start.lock() = Gate::Ok;
            *source.0.reset.lock() = Gate::Ok;
            *source.0.remove.lock() = Gate::Ok;
            drop(leases);
            for workspace in [7, 8, 7] {
                let lease = pool.acquire(key(workspace)).await;
                prop_assert!(lease.is_ok(), "the pool serves no more: {:?}", lease.err());
            }
            prop_assert!(source.0.most_running.load(Ordering::SeqCst) <= 3);
            pool.drain().await;
            let status = pool.status();
            prop_assert_eq!((status.idle, status.leased, status.starting, status.resetting), (0, 0, 0, 0));
            prop_assert_eq!(pool.shared.slots.status().available, 3);
            Ok(())
        })?;
    }
}
