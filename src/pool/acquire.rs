//! Leasing a container: at once, or in line.
//!
//! ```text
//!   acquire ── one fits, and all in line have one coming ──────────────> Lease (a hit)
//!      │
//!      └─ line full ──> QueueFull
//!      └─ in line ── granted ─────────────────────────────────────────> Lease (a miss, with reason)
//!             ├───── a start failed, and no other container can come ──> Start, with the real reason
//!             ├───── pool.acquire_timeout ─────────────────────────────> Timeout
//!             └───── dropped: the place is free at once; a container granted in that moment goes on
//! ```

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::failure::{ErrorKind, Failure};

use super::choice::{MissReason, WorkspaceKey};
use super::lease::Lease;
use super::place::Place;
use super::queue::Ticket;
use super::source::{Source, StartError};
use super::stats::Phase;
use super::{Member, Pool, Shared};

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
pub(super) type Grant<C> = Result<Member<C>, AcquireError>;

impl<S: Source> Pool<S> {
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
        self.acquire_telling(workspace, |_| {}).await
    }

    /// The same; `tell` learns the place in line, at first and when it changes.
    ///
    /// # Errors
    ///
    /// See [`AcquireError`].
    pub async fn acquire_telling(
        &self,
        workspace: WorkspaceKey,
        mut tell: impl FnMut(Place),
    ) -> Result<Lease<S>, AcquireError> {
        let shared = &self.shared;
        let began = Instant::now();
        let mut moved = shared.moved.subscribe();
        let mut waiting = {
            let mut state = shared.state.lock();
            if state.closed {
                return Err(AcquireError::Closed);
            }
            let lonely = state.calls.since_last().is_none_or(|since| since >= super::warmer::QUIET);
            state.calls.came();
            // Nobody in line is overtaken by this but who has a container coming.
            let in_turn = state.queue.len() <= shared.coming(&state);
            match shared.choose(&state, workspace).filter(|_| in_turn) {
                Some(index) => {
                    let member = state.grant(index, workspace);
                    // Not prolonged by the calls of a burst, which are to find one waiting too.
                    if lonely {
                        state.quiet_until = Some(began + super::warmer::QUIET);
                    }
                    state.stats.hit();
                    state.stats.took(Phase::Checkout, began.elapsed());
                    drop(state);
                    shared.touch();
                    return Ok(Lease::new(Arc::clone(shared), member, workspace, None));
                }
                None => {
                    let reason = shared.miss(&state, workspace);
                    state.stats.miss(reason);
                    let Some((ticket, receiver)) = state.queue.push(workspace) else {
                        return Err(AcquireError::QueueFull { waiting: state.queue.len() });
                    };
                    // A new caller may have mended what made the last start fail.
                    state.not_before = None;
                    shared.calm.notify_waiters();
                    Waiting { shared, ticket, workspace, receiver, reason }
                }
            }
        };
        shared.touch();
        let limit = shared.config().acquire_timeout;
        let mut timeout = std::pin::pin!(tokio::time::sleep(limit));
        let granted = loop {
            if let Some(place) = shared.place(waiting.ticket) {
                tell(place);
            }
            tokio::select! {
                biased;
                granted = &mut waiting.receiver => {
                    break granted.unwrap_or(Err(AcquireError::Closed));
                }
                () = &mut timeout => {
                    let state = shared.state.lock();
                    let last_error = state.last_error.as_ref().map(ToString::to_string);
                    break Err(AcquireError::Timeout { limit, last_error });
                }
                _ = moved.changed() => {}
            }
        };
        let member = granted?;
        shared.state.lock().stats.took(Phase::Queue, began.elapsed());
        Ok(Lease::new(Arc::clone(shared), member, workspace, Some(waiting.reason)))
    }
}

/// A place in line; leaving it, however, frees it.
struct Waiting<'a, S: Source> {
    shared: &'a Arc<Shared<S>>,
    ticket: Ticket,
    workspace: WorkspaceKey,
    receiver: tokio::sync::oneshot::Receiver<Grant<S::Container>>,
    reason: MissReason,
}

impl<S: Source> Drop for Waiting<'_, S> {
    fn drop(&mut self) {
        let left = self.shared.state.lock().queue.leave(self.ticket);
        if left {
            // Those behind move up, and what was to come for this one may be for nobody.
            self.shared.moved.send_replace(());
            self.shared.touch();
        }
        self.receiver.close();
        // Granted in the moment of giving up: it is as clean as it was, so the next may have it.
        if let Ok(Ok(member)) = self.receiver.try_recv() {
            let since = member.leased_at;
            self.shared.offer(member, |state| state.lease_ended(self.workspace, since));
            self.shared.settled.notify_one();
        }
    }
}
