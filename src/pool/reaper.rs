//! The one place that removes containers.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::source::{Pooled, Source};
use super::{Member, Shared};

/// Tries for which the container keeps its slot.
const ATTEMPTS: u32 = 6;

/// The wait after the first failure; doubles with each.
const FIRST_BACKOFF: Duration = Duration::from_millis(50);

/// The longest wait.
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);

/// How long it is tried at most; afterwards the sweep, which takes only what is that old, finds the
/// container by its labels.
const GIVES_UP: Duration = Duration::from_secs(600);

/// Removes a container; gives its slot back when it is gone. One that cannot be removed gives its
/// slot back after some tries, since its stream is closed by then and it ends by itself; it is tried
/// further until the pool is closed, and at once when the engine does something again.
pub(super) async fn remove<S: Source>(shared: Arc<Shared<S>>, member: Member<S::Container>) {
    let Member { container, slot, .. } = member;
    let mut slot = Some(slot);
    let id = container.id().clone();
    // The stream's end is the switch: whatever the engine does, nothing in it runs on.
    drop(container);
    let mut recovered = shared.recovered.subscribe();
    let (began, mut backoff) = (Instant::now(), FIRST_BACKOFF);
    for attempt in 1_u32.. {
        let removed = shared.source.remove(&id).await;
        shared.engine_did(removed.is_ok());
        let Err(reason) = removed else { break };
        let urgent = attempt < ATTEMPTS;
        if !urgent {
            slot = None;
            shared.changed.notify_one();
        }
        if !urgent && (began.elapsed() >= GIVES_UP || shared.closing.is_cancelled()) {
            tracing::error!(container = %id, %reason, "a container could not be removed; the sweep will try again");
            break;
        }
        tracing::warn!(container = %id, %reason, attempt, "removing a container failed");
        tokio::select! {
            () = tokio::time::sleep(backoff) => backoff = (backoff * 2).min(LONGEST_BACKOFF),
            _ = recovered.changed() => backoff = FIRST_BACKOFF,
            () = shared.closing.cancelled(), if !urgent => {}
        }
    }
    drop(slot);
    shared.touch();
}
