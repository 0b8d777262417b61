//! What a run is doing now, told by the run and read by whoever shows it.
//!
//! Telling never waits and never fails: only the newest stage is kept, and nobody need read it. So
//! a client that does not read its notifications cannot slow a run down.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// The run's end: tells what the run is doing now.
#[derive(Clone, Debug)]
pub struct ProgressSender(watch::Sender<String>);

/// The reader's end.
#[derive(Clone, Debug)]
pub struct ProgressReceiver {
    stages: watch::Receiver<String>,
    since: Instant,
}

/// A pair of both ends; the run starts now.
pub fn channel() -> (ProgressSender, ProgressReceiver) {
    let (sender, stages) = watch::channel("Accepted".to_owned());
    (ProgressSender(sender), ProgressReceiver { stages, since: Instant::now() })
}

impl ProgressSender {
    /// For a run that nobody watches.
    pub fn unheard() -> Self {
        channel().0
    }

    /// The run now does `stage`, such as "Sending the workspace". Saying the same again is nothing
    /// new.
    pub fn say(&self, stage: impl Into<String>) {
        let stage = stage.into();
        self.0.send_if_modified(|current| {
            let differs = *current != stage;
            *current = stage;
            differs
        });
    }
}

impl ProgressReceiver {
    /// The newest stage.
    pub fn stage(&mut self) -> String {
        self.stages.borrow_and_update().clone()
    }

    /// Time since the run was accepted.
    pub fn elapsed(&self) -> Duration {
        self.since.elapsed()
    }

    /// Waits until there is a newer stage than the last one read; `false` if there will be none.
    /// Cancel safe.
    pub async fn changed(&mut self) -> bool {
        self.stages.changed().await.is_ok()
    }
}
