//! Which records go, so that the runs directory does not grow for ever.
//!
//! ```text
//!  within runs.keep, runs.max_bytes and runs.keep_for ─────────────────────> stays
//!  over ── may go on, is in use, or waits to be recovered ─────────────────> stays
//!       ── made, applied or taken back less than keep_for ago, with changes
//!          that are held, or with what the workspace had before (for an undo) > slim: its logs go
//!       ── else ───────────────────────────────────────────────────────────> goes
//! ```
//!
//! So the only copy of something, be it of Codex's work or of the user's, stays for
//! `runs.keep_for`, whatever the other limits say. A change set that was taken back is held like
//! one that was never applied: only its record has it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::{Record, RecordError, list};
use crate::config::RunsConfig;
use crate::pool::owner::{self, Alive};
use crate::workspace::apply::recover;
use crate::workspace::change::ChangesState;
use crate::workspace::git::commits::Commits;

/// How long a record without a result may belong to a run that goes on, if nobody can tell.
const MAY_GO_ON: Duration = Duration::from_secs(24 * 3600);

/// Length of an archive with nothing in it.
const EMPTY_ARCHIVE: u64 = 1024;

/// What the decision needs to know of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Candidate {
    age: Duration,
    /// Since its changes were last applied or taken back.
    settled: Duration,
    bytes: u64,
    /// Bytes of what nobody needs to apply or undo it: its logs.
    logs: u64,
    /// The run goes on, or may.
    goes_on: bool,
    /// It has changes that are not in the workspace.
    held: bool,
    /// It has what the workspace had before.
    before: bool,
}

impl Candidate {
    fn may_go(&self, rules: &RunsConfig) -> bool {
        !self.goes_on && !((self.held || self.before) && self.settled < rules.keep_for)
    }
}

/// What becomes of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Stays,
    Slim,
    Goes,
}

/// What was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Pruned {
    /// The runs whose records are gone.
    pub removed: Vec<String>,
    /// The runs whose logs are gone; their changes are still there.
    pub slimmed: Vec<String>,
    /// Bytes that are free now.
    pub bytes: u64,
    /// Records that are left.
    pub left: usize,
}

impl Pruned {
    /// Whether everything stayed.
    pub fn is_nothing(&self) -> bool {
        self.removed.is_empty() && self.slimmed.is_empty()
    }
}

/// Removes what `rules` do not keep at the time `now`. `state` is the state directory, which says whose
/// servers live. Reads every record. Blocking.
///
/// # Errors
///
/// The runs directory cannot be read. A record that cannot be removed is logged and stays.
pub fn prune(
    runs: &Path,
    state: &Path,
    rules: &RunsConfig,
    now: SystemTime,
) -> Result<Pruned, RecordError> {
    let records = list(runs)?;
    let candidates: Vec<Candidate> =
        records.iter().map(|record| candidate(record, state, now)).collect();
    let mut pruned = Pruned::default();
    for ((record, seen), fate) in records.iter().zip(&candidates).zip(fates(&candidates, rules)) {
        if fate == Fate::Stays {
            continue;
        }
        // Whoever applies or undoes it now has it, and what was seen is seen once more: it may
        // have been settled in between. Who was killed at it needs it to recover.
        let Some(_whole) = record.claim() else { continue };
        let seen_again = candidate(record, state, now);
        if (seen_again.held, seen_again.before) != (seen.held, seen.before) {
            continue;
        }
        let id = record.id().to_owned();
        match recover::pending_runs(state) {
            Ok(pending) if !pending.contains(&id) => {}
            Ok(_) => continue,
            Err(error) => {
                tracing::warn!(%error, "nothing is pruned");
                break;
            }
        }
        let done = match fate {
            Fate::Goes => {
                let gone = fs::remove_dir_all(record.folder());
                gone.map(|()| (&mut pruned.removed, seen.bytes))
            }
            _ => remove_logs(record).map(|()| (&mut pruned.slimmed, seen.logs)),
        };
        match done {
            Ok((names, bytes)) => {
                names.push(id);
                pruned.bytes += bytes;
            }
            // Another orchestrator prunes the same directory.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(run_id = id, %error, "a record cannot be removed"),
        }
    }
    pruned.left = records.len() - pruned.removed.len();
    Ok(pruned)
}

fn candidate(record: &Record, state: &Path, now: SystemTime) -> Candidate {
    let since = |path: &Path| {
        let modified = fs::symlink_metadata(path).and_then(|found| found.modified()).ok()?;
        Some(now.duration_since(modified).unwrap_or_default())
    };
    let age = since(&record.request_json()).or_else(|| since(record.folder())).unwrap_or_default();
    let kept = [record.changes_json(), record.before_tar(), record.kept()];
    let settled = kept.iter().filter_map(|path| since(path)).chain([age]).min().unwrap_or(age);
    let result = record.result();
    let held = match &result {
        Ok(Some(result)) => {
            matches!(result.changes_state, ChangesState::Held | ChangesState::Partly)
                || record.has_later_changes()
                || result.commits.as_ref().is_some_and(Commits::wait)
        }
        Ok(None) => record.changes_json().exists(),
        // What cannot be read is not known to be settled.
        Err(_) => true,
    };
    let owner = || record.request().ok().and_then(|request| request.owner);
    let goes_on = matches!(result, Ok(None))
        && match owner().map(|owner| owner::alive(&owner, state)) {
            Some(Alive::Yes) => true,
            Some(Alive::No) => false,
            Some(Alive::Unknown) | None => age < MAY_GO_ON,
        };
    Candidate {
        age,
        settled,
        bytes: bytes_of(record.folder()),
        logs: logs(record).iter().map(|log| size(log)).sum(),
        goes_on,
        held,
        before: size(&record.before_tar()) > EMPTY_ARCHIVE || record.kept().exists(),
    }
}

/// What may go from a record that stays.
fn logs(record: &Record) -> [PathBuf; 3] {
    [record.events_jsonl(), record.stderr_log(), record.log_jsonl()]
}

fn remove_logs(record: &Record) -> io::Result<()> {
    for log in logs(record) {
        match fs::remove_file(log) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn size(path: &Path) -> u64 {
    fs::symlink_metadata(path).map_or(0, |found| found.len())
}

/// Bytes of all files in a folder.
pub(super) fn bytes_of(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    entries
        .filter_map(Result::ok)
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => bytes_of(&entry.path()),
            _ => entry.metadata().map_or(0, |found| found.len()),
        })
        .sum()
}

/// What becomes of each; `candidates` are the newest first, and the oldest go first.
fn fates(candidates: &[Candidate], rules: &RunsConfig) -> Vec<Fate> {
    let mut count = candidates.len();
    let mut bytes: u64 = candidates.iter().map(|candidate| candidate.bytes).sum();
    let mut fates = vec![Fate::Stays; candidates.len()];
    for (candidate, fate) in candidates.iter().zip(&mut fates).rev() {
        let over = count > rules.keep || bytes > rules.max_bytes || candidate.age >= rules.keep_for;
        if !over || candidate.goes_on {
            continue;
        }
        if candidate.may_go(rules) {
            *fate = Fate::Goes;
            count -= 1;
            bytes -= candidate.bytes;
        } else if candidate.logs > 0 {
            *fate = Fate::Slim;
            bytes -= candidate.logs;
        }
    }
    fates
}

#[cfg(test)]
#[path = "prune_tests.rs"]
mod tests;
