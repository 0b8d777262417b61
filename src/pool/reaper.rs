//! The one place that removes containers.

use std::sync::Arc;
use std::time::Duration;

use super::source::{Pooled, Source};
use super::{Member, Shared};

/// Tries; afterwards the sweep finds the container by its labels.
const ATTEMPTS: u32 = 6;

/// The wait after the first failure; doubles with each.
const FIRST_BACKOFF: Duration = Duration::from_millis(50);

/// Removes a container; gives its slot back when it is gone. A container that cannot be removed
/// gives its slot back after the last try, since its stream is closed by then and it ends by
/// itself.
pub(super) async fn remove<S: Source>(shared: Arc<Shared<S>>, member: Member<S::Container>) {
    let Member { container, slot, .. } = member;
    let id = container.id().clone();
    // The stream's end is the switch: whatever the engine does, nothing in it runs on.
    drop(container);
    let mut backoff = FIRST_BACKOFF;
    for attempt in 1..=ATTEMPTS {
        match shared.source.remove(&id).await {
            Ok(()) => break,
            Err(reason) if attempt == ATTEMPTS => {
                tracing::error!(container = %id, %reason, "a container could not be removed; the sweep will try again");
            }
            Err(reason) => {
                tracing::warn!(container = %id, %reason, attempt, "removing a container failed");
                tokio::time::sleep(backoff).await;
                backoff *= 2;
            }
        }
    }
    drop(slot);
    shared.touch();
}
