//! What one run may ask of the gateway, and what the provider may take.

use std::time::{Duration, Instant};

use crate::config::ModelConfig;

/// The limits of one run; see `[model]` and `[run]` of the settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// `model.request_limit`, in KiB: of one body, and of all that are held at one moment.
    pub request_kib: u32,
    /// `model.max_concurrent`.
    pub concurrent: u32,
    /// `model.max_per_minute`.
    pub per_minute: u32,
    /// `model.response_timeout`.
    pub response_timeout: Duration,
    /// `model.idle_timeout`.
    pub idle_timeout: Duration,
    /// `run.max_tokens`; 0 means no limit.
    pub tokens: u64,
}

impl Limits {
    /// Those of `config`, with `run.max_tokens`.
    pub fn new(config: &ModelConfig, max_tokens: u64) -> Self {
        Self {
            request_kib: u32::try_from(config.request_limit / 1024).unwrap_or(u32::MAX),
            concurrent: config.max_concurrent,
            per_minute: config.max_per_minute,
            response_timeout: config.response_timeout,
            idle_timeout: config.idle_timeout,
            tokens: max_tokens,
        }
    }
}

/// Requests in a minute, as a bucket that holds a minute's worth and fills evenly.
#[derive(Debug)]
pub(super) struct Rate {
    per_minute: f64,
    left: f64,
    at: Option<Instant>,
}

impl Rate {
    pub(super) fn new(per_minute: u32) -> Self {
        Self { per_minute: per_minute.into(), left: per_minute.into(), at: None }
    }

    /// Whether one more fits at `now`, which it then is counted in.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let since = self.at.map_or(0.0, |at| now.saturating_duration_since(at).as_secs_f64());
        self.at = Some(now);
        self.left = (self.left + since * self.per_minute / 60.0).min(self.per_minute);
        let fits = self.left >= 1.0;
        self.left -= f64::from(u8::from(fits));
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bucket_empties_and_fills() {
        let begun = Instant::now();
        let mut rate = Rate::new(6);
        assert!((0..6).all(|_| rate.take(begun)));
        assert!(!rate.take(begun));
        assert!(!rate.take(begun + Duration::from_secs(9)));
        assert!(rate.take(begun + Duration::from_secs(11)));
        assert!(!rate.take(begun + Duration::from_secs(11)));
        let later = begun + Duration::from_secs(3600);
        assert_eq!((0..10).filter(|_| rate.take(later)).count(), 6);
    }
}
