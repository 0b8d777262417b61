//! Calls that have just begun: the processors are theirs before any reset's.
//!
//! ```text
//!  calls     ├─ a ─┤
//!            ├─── b ───┤                          ├──── d ────
//!            ├────── c ──────┤                       less than YOUNG old, so e gives way
//!  resets          ·   ·     └ a, b, c        e ·····
//!                  give way  now                  at most LONGEST
//! ```
//!
//! A reset is some milliseconds of work for nobody who waits. While it gives way its container cannot
//! be leased, so it does not where a call is in line, which may be waiting for just that.

use std::time::Duration;

use tokio::time::Instant;

use super::Shared;
use super::source::Source;

/// So long after its checkout a call is on its way to its first model request.
const YOUNG: Duration = Duration::from_millis(100);

/// A reset gives way so long at most.
const LONGEST: Duration = Duration::from_millis(250);

/// When the leases that there are were granted.
#[derive(Debug, Default)]
pub(crate) struct Begun(Vec<Instant>);

impl Begun {
    pub(super) fn came(&mut self, at: Instant) {
        self.0.push(at);
    }

    pub(super) fn ended(&mut self, at: Instant) {
        if let Some(index) = self.0.iter().position(|one| *one == at) {
            self.0.swap_remove(index);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// When the youngest is young no more.
    fn until(&self) -> Option<Instant> {
        self.0.iter().max().map(|youngest| *youngest + YOUNG)
    }
}

/// Waits until no call is young, one is in line, or it was long enough. Cancel safe.
pub(super) async fn give_way<S: Source>(shared: &Shared<S>) {
    let latest = Instant::now() + LONGEST;
    loop {
        // Before the look, so that nothing is missed between the two.
        let calm = shared.calm.notified();
        let until = {
            let state = shared.state.lock();
            if state.queue.is_empty() { state.begun.until() } else { None }
        };
        let Some(until) = until.map(|until| until.min(latest)) else { return };
        if until <= Instant::now() {
            return;
        }
        tokio::select! {
            () = calm => {}
            () = tokio::time::sleep_until(until) => {}
        }
    }
}
