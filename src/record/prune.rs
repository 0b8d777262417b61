//! Which records go, so that the runs directory does not grow for ever.
//!
//! What is never removed: a run that may still be going on, and changes that nobody has decided
//! about yet, until they are older than `runs.keep_for`.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::{Record, RecordError, list};
use crate::config::RunsConfig;
use crate::workspace::change::ChangesState;
use crate::workspace::git::commits::Commits;

/// How long a record without a result may belong to a run that goes on.
const MAY_GO_ON: Duration = Duration::from_secs(24 * 3600);

/// What the decision needs to know of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Candidate {
    age: Duration,
    bytes: u64,
    finished: bool,
    held: bool,
}

impl Candidate {
    fn may_go(&self, rules: &RunsConfig) -> bool {
        if !self.finished && self.age < MAY_GO_ON {
            return false;
        }
        !(self.held && self.age < rules.keep_for)
    }
}

/// Removes the records that `rules` do not keep; answers how many. Blocking.
///
/// # Errors
///
/// The runs directory cannot be read. A record that cannot be removed is logged and stays.
pub fn prune(runs: &Path, rules: &RunsConfig) -> Result<usize, RecordError> {
    let records = list(runs)?;
    let now = SystemTime::now();
    let candidates: Vec<Candidate> = records.iter().map(|record| candidate(record, now)).collect();
    let mut removed = 0;
    for index in to_remove(&candidates, rules) {
        match fs::remove_dir_all(records[index].folder()) {
            Ok(()) => removed += 1,
            // Another orchestrator prunes the same directory.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(run_id = records[index].id(), %error, "a record cannot be removed");
            }
        }
    }
    Ok(removed)
}

fn candidate(record: &Record, now: SystemTime) -> Candidate {
    let modified = fs::metadata(record.request_json())
        .or_else(|_| fs::metadata(record.folder()))
        .and_then(|found| found.modified())
        .unwrap_or(now);
    let result = record.result();
    Candidate {
        age: now.duration_since(modified).unwrap_or_default(),
        bytes: bytes_of(record.folder()),
        finished: !matches!(result, Ok(None)),
        // What cannot be read is not known to be settled.
        held: match &result {
            Ok(Some(result)) => {
                matches!(result.changes_state, ChangesState::Held | ChangesState::Partly)
                    || result.commits.as_ref().is_some_and(Commits::wait)
            }
            Ok(None) => record.changes_json().exists(),
            Err(_) => true,
        },
    }
}

fn bytes_of(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    entries
        .filter_map(Result::ok)
        .filter_map(|entry| entry.metadata().ok())
        .map(|found| found.len())
        .sum()
}

/// The indices of the records that go; `candidates` are the newest first.
fn to_remove(candidates: &[Candidate], rules: &RunsConfig) -> Vec<usize> {
    let mut count = candidates.len();
    let mut bytes: u64 = candidates.iter().map(|candidate| candidate.bytes).sum();
    let mut removed = Vec::new();
    for (index, candidate) in candidates.iter().enumerate().rev() {
        let over = count > rules.keep || bytes > rules.max_bytes || candidate.age >= rules.keep_for;
        if over && candidate.may_go(rules) {
            removed.push(index);
            count -= 1;
            bytes -= candidate.bytes;
        }
    }
    removed
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::job::call::Mode;
    use crate::job::result::RunResult;
    use crate::record::Request;

    fn rules(keep: usize, keep_for: u64, max_bytes: u64) -> RunsConfig {
        RunsConfig {
            dir: "".into(),
            keep,
            keep_for: Duration::from_secs(keep_for),
            max_bytes,
            log_limit: 1,
        }
    }

    fn candidate_strategy() -> impl Strategy<Value = Candidate> {
        (0_u64..200_000, 0_u64..100, any::<bool>(), any::<bool>()).prop_map(
            |(age, bytes, finished, held)| Candidate {
                age: Duration::from_secs(age),
                bytes,
                finished,
                held,
            },
        )
    }

    proptest! {
        #[test]
        fn what_may_not_go_stays_and_the_rest_is_within_the_rules(
            mut candidates in proptest::collection::vec(candidate_strategy(), 0..30),
            keep in 0_usize..10, keep_for in 3600_u64..300_000, max_bytes in 0_u64..500,
        ) {
            candidates.sort_by_key(|candidate| candidate.age);
            let rules = rules(keep, keep_for, max_bytes);
            let removed = to_remove(&candidates, &rules);
            for index in &removed {
                prop_assert!(candidates[*index].may_go(&rules));
            }
            let left: Vec<&Candidate> = (0..candidates.len())
                .filter(|index| !removed.contains(index))
                .map(|index| &candidates[index])
                .collect();
            if left.iter().any(|candidate| candidate.may_go(&rules)) {
                prop_assert!(left.len() <= keep);
                prop_assert!(left.iter().map(|candidate| candidate.bytes).sum::<u64>() <= max_bytes);
            }
        }
    }

    #[test]
    fn the_oldest_go_first_and_held_changes_stay() {
        let runs = tempfile::tempdir().unwrap();
        let request = Request {
            accepted: jiff::Timestamp::now(),
            prompt: "p".into(),
            mode: Mode::Suggest,
            timeout: 300,
            workspace: "/w".into(),
            working_dir: None,
            env_vars: Vec::new(),
            model: None,
        };
        let commits = serde_json::json!({"state": "held"});
        let ids: Vec<String> =
            [(true, false), (false, true), (false, false), (false, false), (false, false)]
                .into_iter()
                .map(|(held, commits_held)| {
                    std::thread::sleep(Duration::from_millis(2));
                    let record = Record::create(runs.path(), &request).unwrap();
                    let id = record.id().to_owned();
                    let mut result = RunResult::completed(&id);
                    if held {
                        result.changes_state = ChangesState::Held;
                    }
                    if commits_held {
                        result.commits = Some(serde_json::from_value(commits.clone()).unwrap());
                    }
                    record.finish(&result, false).unwrap();
                    id
                })
                .collect();
        let going_on = Record::create(runs.path(), &request).unwrap();
        assert_eq!(prune(runs.path(), &rules(4, 1000, 1 << 30)).unwrap(), 2);
        let left: Vec<String> =
            list(runs.path()).unwrap().iter().map(|record| record.id().to_owned()).collect();
        let expected = [going_on.id(), &ids[4], &ids[1], &ids[0]];
        assert_eq!(left, expected);
    }
}
