//! The clocks by which a change is told from what was put.
//!
//! The kernel takes a file's ctime from the real-time clock as it was at its last tick. A file whose
//! ctime is older than a [`Mark`] of that clock, and did not move since, was not changed after the
//! mark; unless the clock was set back meanwhile, so that a later change got an older time. That
//! shows by the clock's distance from the time since boot: both are slewed alike and go on while the
//! machine sleeps, so only setting the clock moves it.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, Timespec, clock_gettime};

use super::manifest::Time;

/// How far the clock may go back unseen, since two clocks cannot be read at once. A ctime must be
/// older than a mark by as much.
const TOLERANCE: i128 = 1_000_000;

/// Readings at most, until the time between the clocks of one is short.
const READINGS: usize = 8;

/// A tick of the coarse clock takes at most 10 ms; past this it has been set back.
const SETTLE: Duration = Duration::from_millis(100);

/// The clocks at one moment, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    /// The real-time clock at its last tick.
    tick: i128,
    /// The distance between the real-time clock and the time since boot, at least and at most.
    ahead: (i128, i128),
}

impl Mark {
    /// Of now.
    pub(super) fn now() -> Self {
        let read = || {
            let before = since_boot();
            let real = nanoseconds(clock_gettime(ClockId::Realtime));
            (real - since_boot(), real - before)
        };
        // The one with the clocks read closest to each other: whoever is interrupted tries again.
        let mut ahead = read();
        for _ in 1..READINGS {
            if ahead.1 - ahead.0 < TOLERANCE / 10 {
                break;
            }
            let again = read();
            if again.1 - again.0 < ahead.1 - ahead.0 {
                ahead = again;
            }
        }
        Self { tick: nanoseconds(clock_gettime(ClockId::RealtimeCoarse)), ahead }
    }

    /// Waits until every change from now on has a later ctime than `newest`, for 100 ms at most.
    pub(super) fn after(newest: Time) -> Self {
        let newest = i128::from(newest.0) * 1_000_000_000 + i128::from(newest.1);
        let started = Instant::now();
        loop {
            let mark = Self::now();
            if mark.tick - TOLERANCE > newest || started.elapsed() > SETTLE {
                return mark;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// What has an older ctime than this, and still has it at `now`, was not changed after the mark.
    /// `None` if the clock was set back in between.
    pub(super) fn certifies(&self, now: &Self) -> Option<Time> {
        if now.ahead.0 + TOLERANCE < self.ahead.1 {
            return None;
        }
        let before = self.tick - TOLERANCE;
        let seconds = i64::try_from(before.div_euclid(1_000_000_000)).ok()?;
        Some((seconds, u32::try_from(before.rem_euclid(1_000_000_000)).ok()?))
    }
}

/// Time since boot, with the time in which the machine slept.
fn since_boot() -> i128 {
    nanoseconds(clock_gettime(ClockId::Boottime))
}

fn nanoseconds(time: Timespec) -> i128 {
    i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i128 = 1_000_000_000;

    fn mark(tick: i128, ahead: i128) -> Mark {
        Mark { tick, ahead: (ahead - 1000, ahead + 1000) }
    }

    #[test]
    fn a_clock_that_was_set_back_certifies_nothing() {
        let before = mark(100 * SECOND, 5 * SECOND);
        let certified = Some((99, 999_000_000));
        // Time went on, or the machine slept: the clocks are as far from each other as before.
        assert_eq!(before.certifies(&mark(160 * SECOND, 5 * SECOND)), certified);
        assert_eq!(before.certifies(&mark(160 * SECOND, 5 * SECOND - 500_000)), certified);
        // Set forward: later changes only have later times.
        assert_eq!(before.certifies(&mark(9160 * SECOND, 9005 * SECOND)), certified);
        for back in [2_000_000, SECOND, 3600 * SECOND] {
            let now = mark(160 * SECOND - back, 5 * SECOND - back);
            assert_eq!(before.certifies(&now), None, "{back}");
        }
    }

    #[test]
    fn a_reading_that_was_interrupted_is_not_trusted() {
        let before = mark(100 * SECOND, 5 * SECOND);
        let wide = Mark { tick: 160 * SECOND, ahead: (4 * SECOND, 5 * SECOND) };
        assert_eq!(before.certifies(&wide), None);
        assert_eq!(wide.certifies(&wide), None);
    }

    #[test]
    fn the_clocks_of_now_are_read_and_a_newer_file_is_waited_for() {
        let first = Mark::now();
        let newest = clock_gettime(ClockId::RealtimeCoarse);
        let newest = (newest.tv_sec, u32::try_from(newest.tv_nsec).unwrap());
        let mark = Mark::after(newest);
        assert!(mark.certifies(&Mark::now()).is_some_and(|before| before > newest));
        assert!(mark.ahead.1 - first.ahead.0 < SECOND);
    }
}
