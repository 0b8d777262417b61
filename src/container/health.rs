//! What the engine says of the containers of this server, noted as it is said.
//!
//! A checkout asks nobody. It reads what is known already: the heartbeats on the stream, and here
//! the engine's events, which tell within milliseconds what silence would tell after 15 s (a paused
//! container) and what nobody else would tell at all (a program that memory ran out for).
//!
//! ```text
//!  engine ── events ──> watch ── of a container of ours ──> its Mark ──> the pool finds it unfit
//!             ▲           │ the connection ends                ▲
//!             └─ backoff ─┘                                    │
//!                └─ connected again ── list: what it is not as it was ─┘
//! ```
//!
//! What is said while no connection is there is missed; so after each new one the engine is asked
//! once what its containers are.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use futures::StreamExt;
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::label;
use crate::engine::{ContainerId, Engine, Event, Happened};

/// The wait before the first new connection; doubles with each that fails.
const FIRST_BACKOFF: Duration = Duration::from_millis(500);

/// The longest wait.
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);

/// A connection that held for so long was a good one: the wait after it is the first again.
const GOOD: Duration = Duration::from_secs(10);

/// What the engine said against one container.
#[derive(Debug, Default)]
pub(super) struct Mark {
    what: OnceLock<Happened>,
    bad: CancellationToken,
}

impl Mark {
    /// What is against it; asks nobody.
    pub(super) fn get(&self) -> Option<Happened> {
        self.what.get().copied()
    }

    /// Resolves once there is something against it, with what that is.
    pub(super) async fn told(&self) -> Happened {
        self.bad.cancelled().await;
        self.get().unwrap_or(Happened::Ended)
    }

    fn set(&self, what: Happened) {
        // The first is the cause of the others.
        let _ = self.what.set(what);
        self.bad.cancel();
    }
}

/// What is said of a container to which this happened.
pub(super) fn sentence(what: Happened) -> String {
    let what = match what {
        Happened::OutOfMemory => "ran out of memory",
        Happened::Paused => "was paused from outside",
        Happened::Removed => "was removed from outside",
        Happened::Ended => "ended or was stopped from outside",
    };
    format!("the engine says that the container {what}")
}

/// The marks of the containers that are there.
#[derive(Debug, Default)]
pub(super) struct Marks(Mutex<HashMap<ContainerId, Weak<Mark>>>);

impl Marks {
    /// A mark for a container that was just started; forgotten when it is dropped.
    pub(super) fn add(&self, id: &ContainerId) -> Arc<Mark> {
        let mark = Arc::new(Mark::default());
        let mut marks = self.0.lock();
        marks.retain(|_, mark| mark.strong_count() > 0);
        marks.insert(id.clone(), Arc::downgrade(&mark));
        mark
    }

    /// Those that are there now.
    fn known(&self) -> Vec<ContainerId> {
        let marks = self.0.lock();
        let there = marks.iter().filter(|(_, mark)| mark.strong_count() > 0);
        there.map(|(id, _)| id.clone()).collect()
    }

    /// Notes an event.
    pub(super) fn note(&self, event: &Event) {
        let mark = self.0.lock().get(&event.id).and_then(Weak::upgrade);
        if let Some(mark) = mark {
            tracing::debug!(container = %event.id, what = ?event.what, "told by the engine");
            mark.set(event.what);
        }
    }
}

/// Notes what became of the containers while nobody listened. Those that are started meanwhile are
/// not looked at, since the list may be of before.
async fn catch_up(engine: &dyn Engine, marks: &Marks) {
    let known = marks.known();
    let listed = match engine.list(label::OWNER).await {
        Ok(listed) => listed,
        Err(error) => return tracing::debug!(%error, "no list"),
    };
    let states: HashMap<_, _> = listed.iter().map(|it| (&it.id, it.state.as_str())).collect();
    for id in known {
        let what = match states.get(&id).copied() {
            None => Happened::Removed,
            Some("paused") => Happened::Paused,
            Some("exited" | "dead" | "removing" | "stopped") => Happened::Ended,
            Some(_) => continue,
        };
        marks.note(&Event { id, what });
    }
}

/// Notes what the engine says of the containers of `owner`, until the handle is dropped. Must be
/// called in a tokio runtime.
pub(super) fn watch(
    engine: Arc<dyn Engine>,
    owner: String,
    marks: Arc<Marks>,
) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(async move {
        let mut backoff = FIRST_BACKOFF;
        let mut first = true;
        loop {
            match engine.events(label::OWNER, &owner).await {
                Ok(mut events) => {
                    let since = Instant::now();
                    if !std::mem::take(&mut first) {
                        catch_up(&*engine, &marks).await;
                    }
                    while let Some(event) = events.next().await {
                        marks.note(&event);
                    }
                    if since.elapsed() >= GOOD {
                        backoff = FIRST_BACKOFF;
                    }
                    tracing::debug!("the engine's events ended");
                }
                Err(error) => tracing::debug!(%error, "no events"),
            }
            tokio::time::sleep(backoff).await;
            backoff = (backoff * 2).min(LONGEST_BACKOFF);
        }
    }))
}

#[cfg(test)]
mod tests;
