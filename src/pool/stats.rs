//! What the pool counts and times, for `codex_pool_status`.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::Serialize;

use crate::verdict::DestroyReason;

use super::choice::MissReason;
use super::status::Percentiles;

/// Samples kept for each phase; older ones fall out.
const SAMPLES: usize = 1024;

/// A part of a container's life or of a job that is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Leasing a container that was waiting.
    Checkout,
    /// Waiting in line for a container.
    Queue,
    /// From the checkout of a container to the end of its lease.
    Lease,
    /// Sending the workspace.
    Send,
    /// From the call to the first model request.
    FirstRequest,
    /// Collecting the changes.
    Collect,
    /// Writing them to the workspace.
    Apply,
    /// Resetting a container, in the background.
    Reset,
    /// Preparing an idle container for a workspace, in the background.
    Prepare,
    /// Starting and arming a container, in the background.
    Start,
}

#[derive(Debug, Default)]
pub(crate) struct Stats {
    hits: u64,
    misses: BTreeMap<String, u64>,
    destroyed: BTreeMap<String, u64>,
    samples: BTreeMap<Phase, Samples>,
}

/// The latest samples of a phase. Sorted all the time, since they are asked for under the lock at
/// every turn of the pool.
#[derive(Debug, Default)]
struct Samples {
    recent: VecDeque<Duration>,
    sorted: Vec<Duration>,
}

impl Samples {
    fn add(&mut self, sample: Duration) {
        if self.recent.len() == SAMPLES
            && let Some(oldest) = self.recent.pop_front()
            && let Ok(index) = self.sorted.binary_search(&oldest)
        {
            self.sorted.remove(index);
        }
        self.recent.push_back(sample);
        self.sorted.insert(self.sorted.partition_point(|other| *other < sample), sample);
    }
}

impl Stats {
    pub(crate) fn hit(&mut self) {
        self.hits += 1;
    }

    pub(crate) fn miss(&mut self, reason: MissReason) {
        *self.misses.entry(name(reason)).or_default() += 1;
    }

    pub(crate) fn destroyed_for(&mut self, reason: DestroyReason) {
        *self.destroyed.entry(name(reason)).or_default() += 1;
    }

    pub(crate) fn took(&mut self, phase: Phase, duration: Duration) {
        self.samples.entry(phase).or_default().add(duration);
    }

    pub(crate) fn hits(&self) -> u64 {
        self.hits
    }

    pub(crate) fn misses(&self) -> &BTreeMap<String, u64> {
        &self.misses
    }

    pub(crate) fn destroyed(&self) -> &BTreeMap<String, u64> {
        &self.destroyed
    }

    /// What `percent` of the samples of `phase` are at most.
    pub(crate) fn percentile(&self, phase: Phase, percent: usize) -> Option<Duration> {
        let sorted = &self.samples.get(&phase)?.sorted;
        let index = (sorted.len() * percent).div_ceil(100).max(1) - 1;
        sorted.get(index).copied()
    }

    pub(crate) fn latencies(&self) -> BTreeMap<String, Percentiles> {
        let at = |phase, percent| {
            self.percentile(phase, percent).map_or(0.0, |duration| duration.as_secs_f64() * 1e3)
        };
        let percentiles =
            |phase| Percentiles { p50: at(phase, 50), p95: at(phase, 95), p99: at(phase, 99) };
        self.samples.keys().map(|phase| (name(phase), percentiles(*phase))).collect()
    }
}

/// The name under which `value` is serialized.
pub(crate) fn name(value: impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(name)) => name,
        _ => String::from("unknown"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_samples_that_were_seen() {
        let mut stats = Stats::default();
        for ms in 1..=100 {
            stats.took(Phase::Send, Duration::from_millis(ms));
        }
        let percentiles = stats.latencies()["send"];
        assert_eq!((percentiles.p50, percentiles.p95, percentiles.p99), (50.0, 95.0, 99.0));
    }
    #[test]
    fn old_samples_fall_out() {
        let mut stats = Stats::default();
        for ms in (0..3000).rev().chain([7, 7]) {
            stats.took(Phase::Send, Duration::from_millis(ms));
        }
        let samples = &stats.samples[&Phase::Send];
        let mut expected: Vec<_> = samples.recent.iter().copied().collect();
        expected.sort_unstable();
        assert_eq!((&samples.sorted, expected.len()), (&expected, SAMPLES));
        assert_eq!(stats.percentile(Phase::Send, 100), Some(Duration::from_millis(1021)));
        assert_eq!(stats.percentile(Phase::Apply, 50), None);
    }
}
