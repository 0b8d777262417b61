//! The pool: containers that wait, are leased to one job each, and are reset or destroyed.
//!
//! ```text
//!                                             Preparing
//!                                    prepare ▲  │ finish, or given up and reset
//!              slot taken              offer │  ▼                  acquire
//!   (nothing) ───────────> Starting ─────────> Idle ─────────────────────────────> Leased
//!       ▲                     │ failed         │  │ another workspace               │ settle
//!       │                     │    lost, old,  │  │ needs it                        ▼
//!       │                     │    surplus     │  └───────────────────────────> Resetting ──> Idle
//!       │                     ▼                ▼                                    │  proved
//!       └── slot returned ── Dying <───────────┴── destroy, or lease dropped ───────┴─ not proved
//! ```
//!
//! A *slot* is the right to have a container; `max_size` of them exist, and a container holds its
//! slot from before it is created until the engine has confirmed that it is gone. So there are never
//! more containers than slots, starting and dying ones included. deadpool holds the slots.
//!
//! Which container a job gets, how many are kept idle, how many to start now, and how long to wait
//! after a failure are pure functions ([`choice`], [`sizing`], [`plan`], [`backoff`]); the state is
//! plain data behind one lock that is never held across an await; everything slow happens in tasks
//! of the pool's tracker.

pub mod acquire;
pub mod backoff;
mod begun;
pub mod choice;
pub mod copies;
pub mod lease;
pub mod owner;
pub mod place;
pub mod plan;
pub mod prepare;
mod queue;
mod reaper;
mod recycle;
pub mod sizing;
pub mod source;
mod state;
pub mod stats;
pub mod status;
pub mod sweep;
mod warmer;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use deadpool::unmanaged;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::PoolConfig;
use crate::verdict::DestroyReason;

pub use self::acquire::AcquireError;
use self::choice::WorkspaceKey;
use self::copies::Disk;
use self::prepare::Preparing;
use self::source::{Source, StartError};
use self::state::State;
use self::stats::Phase;
use self::status::PoolStatus;
pub use self::warmer::QUIET;

/// The largest `pool.max_size` that the settings allow.
const MAX_SLOTS: usize = 256;

/// The right to have a container.
#[derive(Debug)]
pub(crate) struct Slot;

/// A container with what the pool knows of it.
#[derive(Debug)]
pub(crate) struct Member<C> {
    pub(crate) container: C,
    pub(crate) armed_at: Instant,
    pub(crate) uses: u32,
    /// The only workspace it may serve; `None` while it has served none.
    pub(crate) workspace: Option<WorkspaceKey>,
    /// Whether a job on that workspace ran in it, so that what it built may be there.
    pub(crate) served: bool,
    /// When it became idle the last time.
    pub(crate) idle_since: Instant,
    /// When it was leased the last time; when it was armed before that.
    pub(crate) leased_at: Instant,
    /// Returned to deadpool when this is dropped, which is after the removal.
    pub(crate) slot: unmanaged::Object<Slot>,
}

#[derive(Debug)]
pub(crate) struct Shared<S: Source> {
    pub(crate) source: S,
    /// Never locked while another lock is waited for.
    pub(crate) config: Mutex<Arc<PoolConfig>>,
    pub(crate) slots: unmanaged::Pool<Slot>,
    pub(crate) state: Mutex<State<S::Container>>,
    /// Something changed that the warmer decides on.
    pub(crate) changed: Notify,
    /// The same for who decides on what is prepared.
    pub(crate) stirred: watch::Sender<()>,
    /// Every task of the pool; `drain` waits for it.
    pub(crate) tasks: TaskTracker,
    /// Cancelled by `drain`: a reset that is under way is not worth its time any more.
    pub(crate) closing: CancellationToken,
    /// A lease ended.
    pub(crate) settled: Notify,
    /// No lease is young any more, or a call is in line: resets need not give way.
    pub(crate) calm: Notify,
    /// The line moved; those in it look where they stand.
    pub(crate) moved: watch::Sender<()>,
    /// Whether the engine failed at what it was asked last.
    pub(crate) failing: AtomicBool,
    /// The engine did something again after it had failed: what is still to be removed is tried
    /// again, and what it lost is looked for.
    pub(crate) recovered: watch::Sender<()>,
}

/// A pool of containers of one profile. Cheap to clone; all clones are the same pool.
#[derive(Debug)]
pub struct Pool<S: Source> {
    shared: Arc<Shared<S>>,
}

impl<S: Source> Clone for Pool<S> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<S: Source> Pool<S> {
    /// A pool that keeps `config.min_idle` containers ready, from now on. Returns at once; the
    /// first container is started in the background.
    ///
    /// Must be called in a tokio runtime.
    pub fn start(source: S, config: PoolConfig) -> Self {
        let slots = unmanaged::Pool::from_config(&unmanaged::PoolConfig::new(MAX_SLOTS));
        let shared = Arc::new(Shared {
            source,
            slots,
            state: Mutex::new(State::new(config.max_queue)),
            changed: Notify::new(),
            stirred: watch::Sender::new(()),
            tasks: TaskTracker::new(),
            closing: CancellationToken::new(),
            settled: Notify::new(),
            calm: Notify::new(),
            moved: watch::Sender::new(()),
            failing: AtomicBool::new(false),
            recovered: watch::Sender::new(()),
            config: Mutex::new(Arc::new(config)),
        });
        shared.resize(shared.config().max_size);
        shared.tasks.spawn(warmer::keep_warm(Arc::clone(&shared)));
        Self { shared }
    }

    /// Puts new settings in force, at once: more containers are started, or idle ones go; leased
    /// ones stay until their lease ends. Callers in line keep the `acquire_timeout` they came with.
    pub fn change(&self, config: PoolConfig) {
        self.shared.state.lock().queue.set_limit(config.max_queue);
        *self.shared.config.lock() = Arc::new(config);
        self.shared.touch();
    }

    /// Looks at the idle containers again, since what they are started from may have changed.
    pub fn inspect(&self) {
        self.shared.touch();
    }

    /// Tells when the engine did something again after it had failed.
    pub fn recoveries(&self) -> watch::Receiver<()> {
        self.shared.recovered.subscribe()
    }

    /// Whether a container is being started.
    pub fn is_starting(&self) -> bool {
        self.shared.state.lock().starting > 0
    }

    /// Where the containers come from.
    pub fn source(&self) -> &S {
        &self.shared.source
    }

    /// How many calls are in line before one that comes now.
    pub fn waiting(&self) -> usize {
        self.shared.state.lock().queue.len()
    }

    /// The pool in numbers.
    pub fn status(&self) -> PoolStatus {
        let state = self.shared.state.lock();
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        PoolStatus {
            idle: count(state.idle.len()),
            warm: 0,
            leased: count(state.leased),
            starting: count(state.starting),
            resetting: count(state.resetting + state.cleaning),
            preparing: count(state.preparing.len()),
            target: count(self.shared.target(&state)),
            max_size: count(self.shared.config().max_size),
            queue: count(state.queue.len()),
            hits: state.stats.hits(),
            misses: state.stats.misses().clone(),
            destroyed: state.stats.destroyed().clone(),
            latency_ms: state.stats.latencies(),
            engine: None,
            settings_error: None,
            warning: None,
            last_error: state.last_error.as_ref().map(ToString::to_string),
            unenforced: state.findings.unenforced.clone(),
            no_reset: state.findings.no_reset.clone(),
            copies: state.notes.by_workspace(),
            disk: Disk {
                used: state.notes.disk(),
                budget: state.disk_budget,
                dropped: state.given_up,
            },
        }
    }

    /// Tells the pool whether the engine runs in a virtual machine that a desktop keeps for it. Such
    /// a machine cannot rest while a container runs, so after a long quiet there is none.
    pub fn set_desktop(&self, desktop: bool) {
        let before = std::mem::replace(&mut self.shared.state.lock().desktop, desktop);
        if before != desktop {
            self.shared.touch();
        }
    }

    /// Notes how long a phase of a job took, for the status.
    pub fn took(&self, phase: Phase, duration: Duration) {
        self.shared.state.lock().stats.took(phase, duration);
    }

    /// Resolves when `count` containers are idle, or the next start has failed.
    ///
    /// # Errors
    ///
    /// What the start ran into.
    pub async fn ready(&self, count: usize) -> Result<(), StartError> {
        let mut tick = tokio::time::interval(Duration::from_millis(5));
        loop {
            {
                let state = self.shared.state.lock();
                if state.idle.len() >= count {
                    return Ok(());
                }
                if let (Some(error), 0) = (&state.last_error, state.starting) {
                    return Err(error.clone());
                }
            }
            tick.tick().await;
        }
    }

    /// Closes the pool: callers in line get their answer, idle containers are removed, leased
    /// ones when their lease ends. Resolves when every container is gone; bound it with a timeout.
    pub async fn drain(&self) {
        let idle = {
            let mut state = self.shared.state.lock();
            state.closed = true;
            state.queue.answer_all(|| Err(AcquireError::Closed));
            state.preparing.iter().for_each(Preparing::call_off);
            std::mem::take(&mut state.idle)
        };
        for member in idle {
            self.shared.destroy(member, DestroyReason::Shutdown, |_| {});
        }
        self.shared.touch();
        self.shared.closing.cancel();
        self.shared.tasks.close();
        loop {
            let settled = self.shared.settled.notified();
            self.shared.tasks.wait().await;
            let in_use = {
                let state = self.shared.state.lock();
                state.leased > 0 || !state.preparing.is_empty()
            };
            if !in_use && self.shared.tasks.is_empty() {
                return;
            }
            settled.await;
        }
    }
}

#[cfg(test)]
mod tests;
