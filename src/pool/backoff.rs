//! How long to wait after starts that failed: a pure function.

use std::time::Duration;

/// The longest wait after the first failure; doubles with each.
const FIRST: Duration = Duration::from_millis(500);

/// The longest wait between failed starts. An engine that comes back is found after so long at
/// most, without a call.
const LONGEST: Duration = Duration::from_secs(60);

/// The same while a call is in line.
const LONGEST_IN_LINE: Duration = Duration::from_secs(5);

/// The wait after `failures` starts in a row have failed. A part of it is `random`, so that the
/// orchestrators of one engine do not all come back to it in the same moment.
pub fn backoff(failures: u32, in_line: bool, random: u32) -> Duration {
    let longest = if in_line { LONGEST_IN_LINE } else { LONGEST };
    let doublings = failures.saturating_sub(1).min(16);
    let whole = FIRST.saturating_mul(2u32.pow(doublings)).min(longest);
    let part = f64::from(random) / f64::from(u32::MAX);
    whole / 2 + whole.mul_f64(part / 2.0)
}

/// A random number, from what the standard library seeds its maps with.
pub(super) fn random() -> u32 {
    use std::hash::{BuildHasher, RandomState};
    let hash = RandomState::new().hash_one(0u8);
    u32::try_from(hash & u64::from(u32::MAX)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn waits_double_up_to_a_limit_and_differ() {
        let most: Vec<_> = (1..10).map(|n| backoff(n, false, u32::MAX).as_millis()).collect();
        assert_eq!(most, [500, 1000, 2000, 4000, 8000, 16000, 32000, 60000, 60000]);
        assert_eq!(backoff(9, true, u32::MAX), LONGEST_IN_LINE);
        assert!((0..8).any(|_| random() != random()));
    }

    proptest! {
        #[test]
        fn at_least_half_of_it_and_never_less_after_more_failures(
            failures: u32, in_line: bool, random: u32,
        ) {
            let wait = backoff(failures, in_line, random);
            let most = backoff(failures, in_line, u32::MAX);
            prop_assert!(wait >= most / 2 && wait <= most && most >= FIRST);
            prop_assert!(backoff(failures.saturating_add(1), in_line, random) >= wait);
        }
    }
}
