//! How long the other side has said nothing.
//!
//! Any byte is life. Silence counts only time that this process lived through: it grows by ticks,
//! and a tick that comes late (laptop sleep, a frozen cgroup, `SIGSTOP`) counts as one late tick
//! and not as the hours that passed. So a machine that wakes up gives the other side the chance to
//! speak before anyone is given up.
//!
//! Both sides follow the same rule of how much of it is too much ([`Patience`]):
//!
//! ```text
//!  starting ── arm ──> nobody's ── put, spawn ──> a job is in it ── reset ──> nobody's
//!   (job)               (idle)  ── put ahead ──> still nobody's, whatever is spawned on it
//! ```

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// How long the other side may say nothing, of the time this one lived through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// While no job is in the container.
    pub idle: Duration,
    /// While one is: a server that was stopped or swapped out for a minute finds its run alive.
    pub job: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { idle: Duration::from_secs(15), job: Duration::from_secs(180) }
    }
}

/// Which limit holds now. What is sent ahead of a job is no job: a container that was only filled is
/// given up as soon as an empty one, and costs as little.
#[derive(Debug)]
pub struct Patience {
    limits: Limits,
    job: AtomicBool,
    ahead: AtomicBool,
}

impl Patience {
    /// Begins with the limit of a job, or of a container that is nobody's.
    pub fn new(limits: Limits, job: bool) -> Self {
        Self { limits, job: AtomicBool::new(job), ahead: AtomicBool::new(false) }
    }

    /// The limit.
    pub fn limit(&self) -> Duration {
        if self.job.load(Ordering::Relaxed) { self.limits.job } else { self.limits.idle }
    }

    /// A tree is put, ahead of a job or for one.
    pub fn put(&self, ahead: bool) {
        self.ahead.store(ahead, Ordering::Relaxed);
        if !ahead {
            self.job.store(true, Ordering::Relaxed);
        }
    }

    /// A program starts: of a job, unless it waits on a tree that was put ahead of one.
    pub fn spawned(&self) {
        if !self.ahead.load(Ordering::Relaxed) {
            self.job.store(true, Ordering::Relaxed);
        }
    }

    /// The container was armed or reset: it is nobody's.
    pub fn cleared(&self) {
        self.ahead.store(false, Ordering::Relaxed);
        self.job.store(false, Ordering::Relaxed);
    }
}

/// A count of silence, fed by the reader of a stream and by a clock of its own.
#[derive(Debug)]
pub struct Silence {
    tick: Duration,
    heard: AtomicBool,
    counted: Mutex<Counted>,
}

#[derive(Debug)]
struct Counted {
    quiet: Duration,
    last: Instant,
}

impl Silence {
    /// Starts counting now, in ticks of `tick`.
    pub fn new(tick: Duration) -> Self {
        Self {
            tick,
            heard: AtomicBool::new(false),
            counted: Mutex::new(Counted { quiet: Duration::ZERO, last: Instant::now() }),
        }
    }

    /// The tick for a limit of silence: fine enough to meet it, coarse enough to cost nothing.
    pub fn tick_for(limit: Duration) -> Duration {
        (limit / 15).clamp(Duration::from_millis(20), Duration::from_secs(1))
    }

    /// A byte came.
    pub fn hear(&self) {
        self.heard.store(true, Ordering::Relaxed);
    }

    /// How long nothing came, of the time lived through. Needs no tick to be exact.
    pub fn length(&self) -> Duration {
        let now = Instant::now();
        let mut counted = self.counted.lock();
        let lived = now.saturating_duration_since(counted.last).min(self.tick * 2);
        counted.last = now;
        if self.heard.swap(false, Ordering::Relaxed) {
            counted.quiet = Duration::ZERO;
        } else {
            counted.quiet += lived;
        }
        counted.quiet
    }

    /// Resolves with the length of the silence once it is over what `limit` says at that time.
    pub async fn over(&self, limit: impl Fn() -> Duration) -> Duration {
        let mut ticks = tokio::time::interval(self.tick);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let length = self.length();
            if length > limit() {
                return length;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn silence_grows_with_lived_time_and_a_byte_ends_it() {
        let silence = Silence::new(SECOND);
        for _ in 0..5 {
            tokio::time::advance(SECOND).await;
            silence.length();
        }
        assert_eq!(silence.length(), 5 * SECOND);
        silence.hear();
        assert_eq!(silence.length(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn an_hour_of_sleep_counts_as_two_ticks() {
        let silence = Silence::new(SECOND);
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(silence.length(), 2 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn over_resolves_at_the_limit() {
        let silence = Silence::new(SECOND);
        let started = Instant::now();
        silence.over(|| 15 * SECOND).await;
        assert!(started.elapsed() <= 17 * SECOND, "{:?}", started.elapsed());
    }
}
