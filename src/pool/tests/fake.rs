//! The source: what a step does is set by its gate, and what is there is counted.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::config::{PoolConfig, Recycle};
use crate::engine::ContainerId;
use crate::failure::ErrorKind;
use crate::pool::choice::WorkspaceKey;
use crate::pool::source::{Findings, Pooled, Source, StartError};

/// What a step of the fake does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gate {
    Ok,
    Err,
    Permanent,
    /// After so many milliseconds.
    Slow(u64),
    /// As [`Gate::Permanent`], after so many milliseconds.
    PermanentAfter(u64),
    Never,
}

impl Gate {
    async fn pass(self) -> Result<(), StartError> {
        let error = |kind| StartError { kind, sentence: String::from("the fake was told to fail") };
        match self {
            Self::Ok => Ok(()),
            Self::Err => Err(error(ErrorKind::ContainerLost)),
            Self::Permanent => Err(error(ErrorKind::ImageMissing)),
            Self::Slow(ms) => {
                tokio::time::sleep(Duration::from_millis(ms)).await;
                Ok(())
            }
            Self::PermanentAfter(ms) => {
                tokio::time::sleep(Duration::from_millis(ms)).await;
                Err(error(ErrorKind::ImageMissing))
            }
            Self::Never => std::future::pending().await,
        }
    }
}

#[derive(Debug)]
pub(super) struct World {
    /// What the engine would list.
    pub(super) alive: Mutex<HashSet<String>>,
    /// What runs: a container ends when its stream does, removed or not.
    pub(super) running: Mutex<HashSet<String>>,
    pub(super) most_running: AtomicUsize,
    /// The most that the engine would have listed: starting and dying ones included.
    pub(super) most_alive: AtomicUsize,
    /// Containers that were started and armed.
    pub(super) armed: AtomicU32,
    pub(super) started: AtomicU32,
    pub(super) start: Mutex<Gate>,
    pub(super) reset: Mutex<Gate>,
    pub(super) remove: Mutex<Gate>,
    pub(super) findings: Mutex<Findings>,
    /// Resets that kept nothing.
    pub(super) cleaned: AtomicU32,
    /// What of a workspace is in which container.
    pub(super) contents: Mutex<HashMap<String, WorkspaceKey>>,
    /// Of the profile that containers are started from.
    pub(super) profile: AtomicU32,
}

#[derive(Clone, Debug)]
pub(super) struct FakeSource(pub(super) Arc<World>);

#[derive(Debug)]
pub(super) struct FakeContainer {
    pub(super) id: ContainerId,
    world: Arc<World>,
    pub(super) answering: watch::Sender<bool>,
    findings: Findings,
    profile: u32,
}

impl FakeSource {
    pub(super) fn new() -> Self {
        Self(Arc::new(World {
            alive: Mutex::default(),
            running: Mutex::default(),
            most_running: AtomicUsize::new(0),
            most_alive: AtomicUsize::new(0),
            armed: AtomicU32::new(0),
            started: AtomicU32::new(0),
            start: Mutex::new(Gate::Ok),
            reset: Mutex::new(Gate::Ok),
            remove: Mutex::new(Gate::Ok),
            findings: Mutex::default(),
            cleaned: AtomicU32::new(0),
            contents: Mutex::default(),
            profile: AtomicU32::new(0),
        }))
    }

    pub(super) fn alive(&self) -> usize {
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
            {
                let mut alive = self.0.alive.lock();
                alive.insert(id.0.clone());
                self.0.most_alive.fetch_max(alive.len(), Ordering::SeqCst);
            }
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
            self.0.armed.fetch_add(1, Ordering::SeqCst);
            Ok(FakeContainer {
                id,
                world: Arc::clone(&self.0),
                answering: watch::Sender::new(true),
                findings: self.0.findings.lock().clone(),
                profile: self.0.profile.load(Ordering::SeqCst),
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

impl FakeContainer {
    /// Puts something of `workspace` into it, where nothing of another one may be.
    pub(super) fn put(&self, workspace: WorkspaceKey) {
        let before = self.world.contents.lock().insert(self.id.0.clone(), workspace);
        assert!(before.is_none_or(|before| before == workspace), "{before:?} {workspace:?}");
    }

    /// As if nothing had been put.
    pub(super) fn take_back(&self) {
        self.world.contents.lock().remove(&self.id.0);
    }
}

impl Drop for FakeContainer {
    fn drop(&mut self) {
        self.world.contents.lock().remove(&self.id.0);
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

    fn outdated(&self) -> bool {
        self.profile != self.world.profile.load(Ordering::SeqCst)
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

    fn clean(&mut self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            self.reset().await?;
            self.world.contents.lock().remove(&self.id.0);
            self.world.cleaned.fetch_add(1, Ordering::SeqCst);
            Ok(())
        })
    }
}

pub(super) fn config(min_idle: usize, max_size: usize) -> PoolConfig {
    PoolConfig {
        min_idle,
        max_size,
        acquire_timeout: Duration::from_secs(60),
        max_queue: 8,
        max_uses: 50,
        max_age: Duration::from_secs(3600),
        refill_concurrency: 2,
        recycle: Recycle::Reset,
        idle_ttl: Duration::from_secs(600),
        adaptive: false,
    }
}

pub(super) fn key(ino: u64) -> WorkspaceKey {
    WorkspaceKey { dev: 1, ino }
}

/// Polls `future` so many times at most, and drops it then.
pub(super) async fn polled<F: Future>(times: usize, future: F) -> Option<F::Output> {
    let mut future = Box::pin(future);
    let mut left = times;
    std::future::poll_fn(move |context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match future.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Numbers that look random and are the same for the same seed.
#[derive(Clone, Debug)]
pub(super) struct Dice(pub(super) u64);

impl Dice {
    /// A number under `sides`.
    pub(super) fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % sides
    }
}
