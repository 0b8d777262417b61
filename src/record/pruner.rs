//! When old records are looked for. A look reads every record, so there is none after each run.
//!
//! ```text
//!  a run ended ─> counted ─┬─ the first, or a tenth of runs.keep or of runs.max_bytes has come,
//!                          │  and a twentieth of the records that there were ──┬──> look, one at a time
//!                          ├─ the last look was PAUSE ago ─────────────────────┘
//!                          └─ else ─────────────────────────────────────────────> nothing
//! ```
//!
//! So at most a tenth more is there than `[runs]` says, and what a run pays for looks does not grow
//! with the number of records: it is that of at most twenty.

use std::path::Path;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::prune::{bytes_of, prune};
use crate::clock::Clock;
use crate::config::RunsConfig;

/// A run that ends so long after the last look gives rise to one.
const PAUSE: Duration = Duration::from_secs(600);

/// Looks for old records when it is time to.
#[derive(Debug)]
pub struct Pruner {
    clock: Clock,
    since: Mutex<Since>,
}

/// What came since the last look.
#[derive(Clone, Copy, Debug, Default)]
struct Since {
    looked: Option<Instant>,
    looking: bool,
    /// Records that were left then.
    left: usize,
    runs: usize,
    bytes: u64,
}

impl Since {
    fn is_due(&self, rules: &RunsConfig) -> bool {
        let Some(looked) = self.looked else { return true };
        let many = self.runs > (rules.keep / 10).max(self.left / 20);
        let much = self.bytes > rules.max_bytes / 10 && self.runs > self.left / 20;
        looked.elapsed() >= PAUSE || many || much
    }
}

impl Pruner {
    /// One that has looked at nothing yet.
    pub fn start() -> Self {
        Self { clock: Clock::start(), since: Mutex::default() }
    }

    /// Counts a run that has ended, with what is in its folder, and looks if that is due. Blocking.
    pub fn ended(&self, folder: &Path, runs: &Path, state: &Path, rules: &RunsConfig) {
        let bytes = bytes_of(folder);
        {
            let mut since = self.since.lock();
            since.runs += 1;
            since.bytes = since.bytes.saturating_add(bytes);
            if since.looking || !since.is_due(rules) {
                return;
            }
            *since = Since { looking: true, ..Since::default() };
        }
        let left = match prune(runs, state, rules, self.clock.now()) {
            Ok(pruned) => {
                if !pruned.is_nothing() {
                    tracing::debug!(?pruned, "removed old records");
                }
                pruned.left
            }
            Err(error) => {
                tracing::warn!(%error, "old records could not be removed");
                0
            }
        };
        let mut since = self.since.lock();
        *since = Since { looked: Some(Instant::now()), looking: false, left, ..*since };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(keep: usize, max_bytes: u64) -> RunsConfig {
        RunsConfig {
            dir: "".into(),
            keep,
            keep_for: Duration::from_secs(3600),
            max_bytes,
            log_limit: 1,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_due_at_first_and_then_after_a_tenth_a_twentieth_or_some_time() {
        let rules = rules(500, 1000);
        assert!(Since::default().is_due(&rules));
        let looked = Since { looked: Some(Instant::now()), ..Since::default() };
        let after = |runs, bytes, left| Since { runs, bytes, left, ..looked }.is_due(&rules);
        assert!(!after(50, 100, 500) && after(51, 0, 500));
        // Reading many records is worth more runs.
        assert!(!after(100, 0, 2000) && after(101, 0, 2000));
        assert!(!after(5, 101, 100) && after(6, 101, 100) && !after(6, 100, 100));
        tokio::time::advance(PAUSE).await;
        assert!(looked.is_due(&rules));
    }

    #[test]
    fn the_records_of_many_runs_are_read_seldom_and_stay_few() {
        let base = tempfile::tempdir().unwrap();
        let (runs, state) = (base.path().join("runs"), base.path().join("state"));
        let rules = rules(20, 1 << 30);
        let pruner = Pruner::start();
        let mut most = 0;
        let mut looks = 0;
        for _ in 0..200 {
            // Without a request nobody can know that it goes on, and its folder is its age.
            let id = uuid::Uuid::now_v7().to_string();
            let folder = runs.join(&id);
            std::fs::create_dir_all(&folder).unwrap();
            let result = crate::job::result::RunResult::completed(&id);
            std::fs::write(folder.join("result.json"), serde_json::to_vec(&result).unwrap())
                .unwrap();
            let before = pruner.since.lock().looked;
            pruner.ended(&folder, &runs, &state, &rules);
            looks += usize::from(pruner.since.lock().looked != before);
            most = most.max(std::fs::read_dir(&runs).unwrap().count());
        }
        assert!(most <= 23, "{most} records");
        assert!(looks <= 200 / 3 + 1, "{looks} looks");
    }
}
