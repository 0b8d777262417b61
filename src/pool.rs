//! The pool: containers that wait, are leased to one job each, and are reset or destroyed.
//!
//! ```text
//!              slot taken                 offer                    acquire
//!   (nothing) ───────────> Starting ─────────────> Idle ─────────────────────────> Leased
//!       ▲                     │ failed              │ lost, too old,                 │ settle
//!       │                     │                     │ other workspace needs it       ▼
//!       │                     ▼                     ▼              reset proved   Resetting ──> Idle
//!       └── slot returned ── Dying <────────────────┴──── destroy, or lease dropped ─┴─ not proved
//! ```
//!
//! A *slot* is the right to have a container; `max_size` of them exist, and a container holds its
//! slot from before it is created until the engine has confirmed that it is gone. So there are never
//! more containers than slots, starting and dying ones included. deadpool holds the slots.
//!
//! What an idle container is good for, how many to start, and which one a job gets are pure
//! functions ([`choice`], [`plan`]); the state is plain data behind one lock that is never held
//! across an await; everything slow happens in tasks of the pool's tracker.

pub mod choice;
pub mod lease;
pub mod owner;
pub mod plan;
mod queue;
mod reaper;
pub mod source;
pub mod stats;
pub mod status;
pub mod sweep;
mod warmer;

use std::sync::Arc;
use std::time::Duration;

use deadpool::unmanaged;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::PoolConfig;
use crate::failure::{ErrorKind, Failure};
use crate::verdict::{DestroyReason, Policy};

use self::choice::{Candidate, MissReason, WorkspaceKey};
use self::lease::Lease;
use self::queue::{Queue, Ticket};
use self::source::{Findings, Pooled, Source, StartError};
use self::stats::{Phase, Stats};
use self::status::PoolStatus;

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
    /// Returned to deadpool when this is dropped, which is after the removal.
    pub(crate) slot: unmanaged::Object<Slot>,
}

/// Why no container could be leased.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AcquireError {
    /// The waiting line is full.
    #[error(
        "{waiting} calls wait for a container already (pool.max_queue); try again later or raise pool.max_queue"
    )]
    QueueFull {
        /// How many wait.
        waiting: usize,
    },
    /// `pool.acquire_timeout` ran out.
    #[error("no container was free within {} s (pool.acquire_timeout){}; try again, or raise pool.max_size", limit.as_secs(), last_error.as_ref().map(|e| format!("; the last start failed: {e}")).unwrap_or_default())]
    Timeout {
        /// The limit.
        limit: Duration,
        /// What the last start ran into, if it failed.
        last_error: Option<String>,
    },
    /// A container cannot be started at all.
    #[error("{0}")]
    Start(StartError),
    /// The pool was drained.
    #[error("the server is shutting down")]
    Closed,
}

impl From<AcquireError> for Failure {
    fn from(error: AcquireError) -> Self {
        let kind = match &error {
            AcquireError::QueueFull { .. } => ErrorKind::QueueFull,
            AcquireError::Timeout { .. } => ErrorKind::AcquireTimeout,
            AcquireError::Start(start) => start.kind,
            AcquireError::Closed => ErrorKind::Cancelled,
        };
        Self::new(kind, error.to_string())
    }
}

/// What the waiting caller receives.
type Grant<C> = Result<Member<C>, AcquireError>;

#[derive(Debug)]
pub(crate) struct State<C> {
    pub(crate) idle: Vec<Member<C>>,
    pub(crate) queue: Queue<Grant<C>>,
    pub(crate) starting: usize,
    pub(crate) leased: usize,
    pub(crate) resetting: usize,
    pub(crate) stats: Stats,
    pub(crate) last_error: Option<StartError>,
    /// Of the container that was armed last.
    pub(crate) findings: Findings,
    /// Starts that failed in a row; sets the backoff.
    pub(crate) failures: u32,
    /// No start before this, after a failure.
    pub(crate) not_before: Option<Instant>,
    /// No start for the floor before this, after a checkout.
    pub(crate) quiet_until: Option<Instant>,
    pub(crate) closed: bool,
}

#[derive(Debug)]
pub(crate) struct Shared<S: Source> {
    pub(crate) source: S,
    pub(crate) config: PoolConfig,
    pub(crate) slots: unmanaged::Pool<Slot>,
    pub(crate) state: Mutex<State<S::Container>>,
    /// Something changed that the warmer decides on.
    pub(crate) changed: Notify,
    /// Every task of the pool; `drain` waits for it.
    pub(crate) tasks: TaskTracker,
    /// Cancelled by `drain`: a reset that is under way is not worth its time any more.
    pub(crate) closing: CancellationToken,
    /// A lease ended.
    pub(crate) settled: Notify,
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
        let slots = unmanaged::Pool::from((0..config.max_size).map(|_| Slot).collect::<Vec<_>>());
        let shared = Arc::new(Shared {
            source,
            slots,
            state: Mutex::new(State {
                idle: Vec::new(),
                queue: Queue::new(config.max_queue),
                starting: 0,
                leased: 0,
                resetting: 0,
                stats: Stats::default(),
                last_error: None,
                findings: Findings::default(),
                failures: 0,
                not_before: None,
                quiet_until: None,
                closed: false,
            }),
            changed: Notify::new(),
            tasks: TaskTracker::new(),
            closing: CancellationToken::new(),
            settled: Notify::new(),
            config,
        });
        shared.tasks.spawn(warmer::keep_warm(Arc::clone(&shared)));
        Self { shared }
    }

    /// Leases a container to a job on `workspace`: an idle one at once, else the first that
    /// becomes fit, in the order of the calls.
    ///
    /// # Errors
    ///
    /// See [`AcquireError`].
    ///
    /// # Cancel safety
    ///
    /// A caller that drops the future leaves the line at once; a container that had been granted
    /// to it in the same moment goes to the next in line.
    pub async fn acquire(&self, workspace: WorkspaceKey) -> Result<Lease<S>, AcquireError> {
        let began = Instant::now();
        let mut waiting = {
            let mut state = self.shared.state.lock();
            if state.closed {
                return Err(AcquireError::Closed);
            }
            let choice = if state.queue.is_empty() {
                choice::choose(&self.shared.candidates(&state), workspace)
            } else {
                Err(MissReason::Queue)
            };
            match choice {
                Ok(index) => {
                    let member = state.idle.swap_remove(index);
                    state.leased += 1;
                    state.quiet_until = Some(Instant::now() + warmer::QUIET);
                    state.stats.hit();
                    state.stats.took(Phase::Checkout, began.elapsed());
                    drop(state);
                    self.shared.changed.notify_one();
                    return Ok(Lease::new(Arc::clone(&self.shared), member, workspace, None));
                }
                Err(reason) => {
                    let reason = state.refine(reason);
                    state.stats.miss(reason);
                    // A new caller may have mended what made the last start fail.
                    state.not_before = None;
                    let Some((ticket, receiver)) = state.queue.push(workspace) else {
                        return Err(AcquireError::QueueFull { waiting: state.queue.len() });
                    };
                    Waiting { shared: &self.shared, ticket, receiver, reason }
                }
            }
        };
        self.shared.changed.notify_one();
        let limit = self.shared.config.acquire_timeout;
        let granted = match tokio::time::timeout(limit, &mut waiting.receiver).await {
            Ok(Ok(granted)) => granted,
            Ok(Err(_)) => Err(AcquireError::Closed),
            Err(_) => {
                let last_error =
                    self.shared.state.lock().last_error.as_ref().map(|e| e.to_string());
                Err(AcquireError::Timeout { limit, last_error })
            }
        };
        let member = granted?;
        self.shared.state.lock().stats.took(Phase::Queue, began.elapsed());
        Ok(Lease::new(Arc::clone(&self.shared), member, workspace, Some(waiting.reason)))
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
            resetting: count(state.resetting),
            target: count(self.shared.config.min_idle),
            max_size: count(self.shared.config.max_size),
            queue: count(state.queue.len()),
            hits: state.stats.hits(),
            misses: state.stats.misses().clone(),
            destroyed: state.stats.destroyed().clone(),
            latency_ms: state.stats.latencies(),
            engine: None,
            last_error: state.last_error.as_ref().map(ToString::to_string),
            unenforced: state.findings.unenforced.clone(),
            no_reset: state.findings.no_reset.clone(),
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
            std::mem::take(&mut state.idle)
        };
        for member in idle {
            self.shared.destroy(member, DestroyReason::Shutdown);
        }
        self.shared.changed.notify_one();
        self.shared.closing.cancel();
        self.shared.tasks.close();
        loop {
            let settled = self.shared.settled.notified();
            self.shared.tasks.wait().await;
            if self.shared.state.lock().leased == 0 && self.shared.tasks.is_empty() {
                return;
            }
            settled.await;
        }
    }
}

/// A place in line; leaving it, however, frees it.
struct Waiting<'a, S: Source> {
    shared: &'a Arc<Shared<S>>,
    ticket: Ticket,
    receiver: tokio::sync::oneshot::Receiver<Grant<S::Container>>,
    reason: MissReason,
}

impl<S: Source> Drop for Waiting<'_, S> {
    fn drop(&mut self) {
        self.shared.state.lock().queue.leave(self.ticket);
        self.receiver.close();
        // Granted in the moment of giving up: it is as clean as it was, so the next may have it.
        if let Ok(Ok(member)) = self.receiver.try_recv() {
            self.shared.offer(member);
            self.shared.state.lock().leased -= 1;
            self.shared.settled.notify_one();
        }
    }
}

impl<C> State<C> {
    /// Tells a miss more exactly by what the other containers are doing.
    fn refine(&self, reason: MissReason) -> MissReason {
        match reason {
            MissReason::NoneIdle if self.resetting > 0 => MissReason::Resetting,
            MissReason::NoneIdle if self.starting > 0 => MissReason::Starting,
            MissReason::NoneIdle if self.leased > 0 => MissReason::AllLeased,
            other => other,
        }
    }
}

impl<S: Source> Shared<S> {
    pub(crate) fn policy(&self) -> Policy {
        Policy {
            recycle: self.config.recycle,
            max_age: self.config.max_age,
            max_uses: self.config.max_uses,
        }
    }

    /// What [`choice::choose`] decides on; the same order as `state.idle`.
    pub(crate) fn candidates(&self, state: &State<S::Container>) -> Vec<Candidate> {
        let policy = self.policy();
        state
            .idle
            .iter()
            .map(|member| Candidate {
                workspace: member.workspace,
                age: member.armed_at.elapsed(),
                unfit: crate::verdict::unfit(member.health(), policy).is_some(),
            })
            .collect()
    }

    /// Gives a clean container to the first in line that it fits, else makes it idle.
    pub(crate) fn offer(self: &Arc<Self>, member: Member<S::Container>) {
        let mut state = self.state.lock();
        if state.closed {
            drop(state);
            return self.destroy(member, DestroyReason::Shutdown);
        }
        if let Some(reason) = crate::verdict::unfit(member.health(), self.policy()) {
            drop(state);
            return self.destroy(member, reason);
        }
        let mut grant = Ok(member);
        loop {
            let Ok(member) = grant else { return };
            let fits = |workspace| choice::fits(member.workspace, workspace);
            let Some(sender) = state.queue.pop_first(fits) else {
                state.idle.push(member);
                break;
            };
            match sender.send(Ok(member)) {
                Ok(()) => {
                    state.leased += 1;
                    break;
                }
                Err(refused) => grant = refused,
            }
        }
        drop(state);
        self.changed.notify_one();
    }

    /// Removes a container in the background; its slot is free again when it is gone.
    pub(crate) fn destroy(self: &Arc<Self>, member: Member<S::Container>, reason: DestroyReason) {
        self.state.lock().stats.destroyed_for(reason);
        tracing::debug!(container = %member.container.id(), ?reason, "container is destroyed");
        self.tasks.spawn(reaper::remove(Arc::clone(self), member));
    }
}

impl<C: Pooled> Member<C> {
    pub(crate) fn health(&self) -> crate::verdict::Health {
        crate::verdict::Health {
            answering: self.container.answering(),
            age: self.armed_at.elapsed(),
            uses: self.uses,
            provable: self.container.findings().no_reset.is_empty(),
        }
    }
}

#[cfg(test)]
mod tests;
