//! What time it is, for the ages of files, by a clock that anybody may set at any moment.
//!
//! A file's age decides whether the only copy of something goes. So time is what the machine's clock
//! says, but never later than what it would say if nobody had set it since the start of this process:
//! set forward it makes nothing old, and set back it makes everything younger.

use std::time::{Duration, SystemTime};

/// A clock that started with this process, or with whatever has it.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    wall: SystemTime,
    up: Duration,
}

impl Clock {
    /// Starts it: the machine's clock is believed once.
    pub fn start() -> Self {
        Self { wall: SystemTime::now(), up: uptime() }
    }

    /// The time now.
    pub fn now(&self) -> SystemTime {
        self.at(SystemTime::now(), uptime())
    }

    fn at(&self, wall: SystemTime, up: Duration) -> SystemTime {
        wall.min(self.wall + up.saturating_sub(self.up))
    }
}

/// How long the system has been up, sleep included.
pub fn uptime() -> Duration {
    use rustix::time::{ClockId, clock_gettime};
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    #[test]
    fn a_clock_that_is_set_makes_nothing_older_than_it_is() {
        let clock = Clock { wall: SystemTime::UNIX_EPOCH + 100 * DAY, up: 3 * DAY };
        let lived = clock.wall + 2 * DAY;
        assert_eq!(clock.at(lived, 5 * DAY), lived);
        assert_eq!(clock.at(lived + DAY, 5 * DAY), lived);
        assert_eq!(clock.at(lived - DAY, 5 * DAY), lived - DAY);
        assert!(Clock::start().now() <= SystemTime::now());
    }
}
