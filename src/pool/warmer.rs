//! Keeps containers ready: one task that starts what the [plan](super::plan) says.

use std::sync::Arc;
use std::time::Duration;

use deadpool::unmanaged;
use tokio::time::Instant;

use crate::verdict::{DestroyReason, unfit};

use super::plan::{Bounds, Counts, plan};
use super::source::{Findings, Pooled, Source};
use super::stats::Phase;
use super::{AcquireError, Member, Shared, Slot};

/// How often idle containers are looked at for their age when nothing else happens.
const INSPECTION: Duration = Duration::from_secs(30);

/// The wait after the first failed start; doubles with each, up to [`LONGEST_BACKOFF`].
const FIRST_BACKOFF: Duration = Duration::from_millis(500);

/// After a checkout the floor is refilled only so much later, since starting a container would
/// take the processors from the job that has just begun. A call in line waits for nothing.
pub(super) const QUIET: Duration = Duration::from_millis(300);

/// The longest wait between failed starts.
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);

/// The longest wait between failed starts while a call is in line.
const LONGEST_BACKOFF_IN_LINE: Duration = Duration::from_secs(5);

/// Runs until the pool is closed.
pub(super) async fn keep_warm<S: Source>(shared: Arc<Shared<S>>) {
    loop {
        let wait = step(&shared);
        let Some(wait) = wait else { return };
        tokio::select! {
            () = shared.changed.notified() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Does what is to be done now; gives how long until it must look again, `None` when closed.
fn step<S: Source>(shared: &Arc<Shared<S>>) -> Option<Duration> {
    let policy = shared.policy();
    let mut leaving = Vec::new();
    let mut begun = Vec::new();
    let mut wait = INSPECTION;
    {
        let mut state = shared.state.lock();
        if state.closed {
            return None;
        }
        let mut index = 0;
        while index < state.idle.len() {
            match unfit(state.idle[index].health(), policy) {
                Some(reason) => leaving.push((state.idle.swap_remove(index), reason)),
                None => index += 1,
            }
        }
        let known = state.idle.len() + state.starting + state.leased + state.resetting;
        let free = shared.slots.status().available;
        let counts = Counts {
            idle: state.idle.len(),
            starting: state.starting,
            resetting: state.resetting,
            waiting: state.queue.len(),
            free,
            dying: (shared.config.max_size - free).saturating_sub(known),
        };
        let bounds = Bounds {
            min_idle: shared.config.min_idle,
            refill_concurrency: shared.config.refill_concurrency,
        };
        let plan = plan(counts, bounds);
        for _ in 0..plan.evict {
            // The oldest has gone unused the longest.
            let oldest = (0..state.idle.len()).max_by_key(|i| state.idle[*i].armed_at.elapsed());
            if let Some(index) = oldest {
                leaving.push((state.idle.swap_remove(index), DestroyReason::OtherWorkspace));
            }
        }
        let now = Instant::now();
        let quiet_until = state.quiet_until.filter(|_| state.queue.is_empty());
        match state.not_before.max(quiet_until) {
            Some(not_before) if not_before > now => wait = wait.min(not_before - now),
            _ => {
                for _ in 0..plan.start {
                    let Ok(slot) = shared.slots.try_get() else { break };
                    state.starting += 1;
                    begun.push(slot);
                }
            }
        }
    }
    for (member, reason) in leaving {
        shared.destroy(member, reason);
    }
    for slot in begun {
        shared.tasks.spawn(start(Arc::clone(shared), slot));
    }
    Some(wait)
}

/// Logs what is not as it was asked for; once, until a container differs from the one before.
fn tell(findings: &Findings) {
    for sentence in &findings.unenforced {
        tracing::warn!("not enforced: {sentence}");
    }
    for sentence in &findings.no_reset {
        tracing::warn!("containers are destroyed after each run, not reset: {sentence}");
    }
}

/// Starts one container and offers it.
async fn start<S: Source>(shared: Arc<Shared<S>>, slot: unmanaged::Object<Slot>) {
    let began = Instant::now();
    let started = shared.source.start().await;
    match started {
        Ok(container) => {
            {
                let mut state = shared.state.lock();
                if state.findings != *container.findings() {
                    tell(container.findings());
                    state.findings = container.findings().clone();
                }
                state.starting -= 1;
                state.failures = 0;
                state.not_before = None;
                state.last_error = None;
                state.stats.took(Phase::Start, began.elapsed());
            }
            // The watch tells the warmer, which finds the container unfit.
            let lost = container.lost();
            let watch = Arc::downgrade(&shared);
            tokio::spawn(async move {
                let reason = lost.await;
                tracing::debug!(%reason, "a container's stream ended");
                if let Some(shared) = watch.upgrade() {
                    shared.changed.notify_one();
                }
            });
            shared.offer(Member {
                container,
                armed_at: Instant::now(),
                uses: 0,
                workspace: None,
                slot,
            });
        }
        Err(error) => {
            tracing::warn!(%error, "a container could not be started");
            drop(slot);
            let mut state = shared.state.lock();
            state.starting -= 1;
            state.failures = state.failures.saturating_add(1);
            let exponent = state.failures.saturating_sub(1).min(16);
            let longest =
                if state.queue.is_empty() { LONGEST_BACKOFF } else { LONGEST_BACKOFF_IN_LINE };
            let backoff = (FIRST_BACKOFF * 2u32.pow(exponent)).min(longest);
            state.not_before = Some(Instant::now() + backoff);
            if error.is_permanent() {
                state.queue.answer_all(|| Err(AcquireError::Start(error.clone())));
            }
            state.last_error = Some(error);
            drop(state);
            shared.changed.notify_one();
        }
    }
}
