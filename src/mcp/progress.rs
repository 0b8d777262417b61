//! Progress notifications: the first at once, then what is newest at most every [`SHORTEST`], and at
//! least one every [`HEARTBEAT`], because clients give up calls that say nothing. What was newest at
//! the end of the call is told before its answer.
//!
//! The progress value is the time in seconds since the call was accepted, and strictly increases
//! as the protocol asks, even if two notifications fall into one millisecond.

use std::time::Duration;

use rmcp::model::{ProgressNotificationParam, ProgressToken};
use rmcp::{Peer, RoleServer, ServiceError};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::job::progress::ProgressReceiver;

/// The longest time between two notifications.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// The shortest time between two notifications; what passes faster is not shown, but always what
/// came last.
const SHORTEST: Duration = Duration::from_millis(250);

/// How long the last notification may hold up the answer. A client that does not read gets its
/// answer late anyway.
const LAST: Duration = Duration::from_millis(200);

/// The side task that sends the notifications of one call.
#[derive(Debug)]
pub(super) struct Forwarder {
    task: JoinHandle<()>,
    stop: CancellationToken,
}

impl Forwarder {
    /// Starts sending what `stages` tells to `peer`, under the client's `token`.
    pub(super) fn start(
        peer: Peer<RoleServer>,
        token: ProgressToken,
        stages: ProgressReceiver,
    ) -> Self {
        let stop = CancellationToken::new();
        let task = tokio::spawn(forward(peer, token, stages, stop.clone()));
        Self { task, stop }
    }

    /// Ends the notifications; none follows once this has returned.
    pub(super) async fn stop(mut self) {
        self.stop.cancel();
        if tokio::time::timeout(LAST, &mut self.task).await.is_err() {
            self.task.abort();
        }
    }
}

async fn forward(
    peer: Peer<RoleServer>,
    token: ProgressToken,
    mut stages: ProgressReceiver,
    stop: CancellationToken,
) {
    let mut last = 0.0_f64;
    loop {
        let elapsed = stages.elapsed();
        last = next_value(last, elapsed);
        let told = stages.stage();
        // A notification that began to go out is not dropped here: cut off, it might be sent after
        // the answer.
        if notify(&peer, &token, last, &told, elapsed).await.is_err() {
            return;
        }
        let more = async {
            tokio::time::sleep(SHORTEST).await;
            tokio::time::timeout(HEARTBEAT - SHORTEST, stages.changed()).await.unwrap_or(true)
        };
        let more = tokio::select! {
            biased;
            () = stop.cancelled() => false,
            more = more => more,
        };
        if !more {
            let (newest, elapsed) = (stages.stage(), stages.elapsed());
            if newest != told {
                let _ = notify(&peer, &token, next_value(last, elapsed), &newest, elapsed).await;
            }
            return;
        }
    }
}

async fn notify(
    peer: &Peer<RoleServer>,
    token: &ProgressToken,
    progress: f64,
    stage: &str,
    elapsed: Duration,
) -> Result<(), ServiceError> {
    let message = format!("{stage} ({} s)", elapsed.as_secs());
    let notification =
        ProgressNotificationParam::new(token.clone(), progress).with_message(message);
    peer.notify_progress(notification).await
}

/// Seconds, to the millisecond, and more than `last`.
fn next_value(last: f64, elapsed: Duration) -> f64 {
    let seconds = (elapsed.as_secs_f64() * 1000.0).round() / 1000.0;
    seconds.max(((last + 0.001) * 1000.0).round() / 1000.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn values_strictly_increase(steps in proptest::collection::vec(0_u64..2_000_000, 1..50)) {
            let mut elapsed = Duration::ZERO;
            let mut last = 0.0;
            for step in steps {
                elapsed += Duration::from_micros(step);
                let next = next_value(last, elapsed);
                prop_assert!(next > last);
                last = next;
            }
        }
    }
}
