//! A place in line, as the caller is told: how many are before, and about how long it takes.

use std::fmt;
use std::time::Duration;

/// Where a caller stands in line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Calls that are before this one.
    pub ahead: usize,
    /// How long it takes, as far as that can be told from the runs so far.
    pub estimate: Option<Duration>,
}

/// What an estimate depends on.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Containers that come without a lease having to end: being started or reset, or about to be.
    pub coming: usize,
    /// How long a start usually takes.
    pub start: Option<Duration>,
    /// Containers that serve a run now.
    pub leased: usize,
    /// How long a lease usually lasts.
    pub lease: Option<Duration>,
}

/// About how long a caller waits who has `ahead` others before it; `None` if nothing tells.
pub fn estimate(ahead: usize, pace: Pace) -> Option<Duration> {
    if ahead < pace.coming {
        return pace.start;
    }
    // So many leases must end before it has a container; `leased` of them run side by side.
    let ends = u32::try_from(ahead - pace.coming + 1).ok()?;
    let side_by_side = u32::try_from(pace.leased).ok().filter(|leased| *leased > 0)?;
    pace.lease.map(|lease| lease.saturating_mul(ends) / side_by_side)
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Waiting for a container")?;
        match self.ahead {
            0 => {}
            1 => f.write_str(" behind 1 other call")?,
            ahead => write!(f, " behind {ahead} other calls")?,
        }
        match self.estimate.map(|estimate| estimate.as_secs_f64().round()) {
            None => Ok(()),
            Some(seconds) if seconds < 1.0 => Ok(()),
            Some(seconds) if seconds < 90.0 => write!(f, ", about {seconds} s"),
            Some(seconds) => write!(f, ", about {} min", (seconds / 60.0).round()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    #[test]
    fn reads_as_a_sentence() {
        let text =
            |ahead, seconds: Option<u64>| Place { ahead, estimate: seconds.map(S) }.to_string();
        assert_eq!(text(0, None), "Waiting for a container");
        assert_eq!(text(0, Some(0)), "Waiting for a container");
        assert_eq!(text(1, Some(12)), "Waiting for a container behind 1 other call, about 12 s");
        assert_eq!(text(7, Some(150)), "Waiting for a container behind 7 other calls, about 3 min");
    }

    #[test]
    fn counts_the_leases_that_must_end() {
        let pace = Pace { coming: 1, start: Some(S(1)), leased: 2, lease: Some(S(30)) };
        assert_eq!(estimate(0, pace), Some(S(1)));
        assert_eq!(estimate(1, pace), Some(S(15)));
        assert_eq!(estimate(4, pace), Some(S(60)));
        assert_eq!(estimate(4, Pace { leased: 0, ..pace }), None);
        assert_eq!(estimate(4, Pace { lease: None, ..pace }), None);
    }

    proptest! {
        #[test]
        fn never_shorter_further_back(
            ahead in 0usize..100, coming in 0usize..5, leased in 1usize..9, lease in 10u64..1000,
        ) {
            let pace = Pace { coming, start: Some(S(1)), leased, lease: Some(S(lease)) };
            prop_assert!(estimate(ahead + 1, pace) >= estimate(ahead, pace));
        }
    }
}
