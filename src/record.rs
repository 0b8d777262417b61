//! The record of a run: a folder that outlives it.
//!
//! ```text
//!  create ── request.json ──> logs, change set, diff as they come ──> finish ── result.json
//!    │                                                                   (last, by rename)
//!    └── dropped without finish (panic, shutdown) ──> result.json that says so
//! ```
//!
//! A folder without `result.json` is that of a run that has not ended, or whose server was killed.
//! No secret of ours goes in; of `env_vars` only the names do.

pub mod event;
pub mod prune;
pub mod pruner;
pub mod unfinished;

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::failure::{ErrorKind, Failure};
use crate::job::call::{Mode, RunCall};
use crate::job::result::RunResult;

/// Why a record cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// What stands for a run id is none, so no path is made of it.
    #[error("{0:?} is no run id; give the run_id from the result of a codex_run")]
    BadId(String),
    /// There is no such run, or no more.
    #[error(
        "no run {0} is recorded; records are kept for a limited time (runs.keep, runs.keep_for)"
    )]
    Missing(String),
    /// The file system refuses.
    #[error("the record {} cannot be {verb}", path.display())]
    Io {
        /// What was tried: "read", "written", …
        verb: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file of a record is not what was written.
    #[error("the record {} is damaged", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

impl From<RecordError> for Failure {
    fn from(error: RecordError) -> Self {
        let kind = match &error {
            RecordError::BadId(_) | RecordError::Missing(_) => ErrorKind::InvalidArgument,
            RecordError::Io { .. } | RecordError::Damaged { .. } => ErrorKind::Internal,
        };
        let sentence = match std::error::Error::source(&error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        };
        Self::new(kind, sentence)
    }
}

/// What was asked for, as `request.json` keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// When the call was accepted.
    pub accepted: Timestamp,
    /// The whole prompt.
    pub prompt: String,
    /// As in the call.
    pub mode: Mode,
    /// In seconds.
    pub timeout: u64,
    /// The real path of the workspace on the host.
    pub workspace: PathBuf,
    /// Relative to the workspace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    /// Names of the variables; their values may be secrets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env_vars: Vec<String>,
    /// As in the call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The run whose thread it goes on with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub continue_run: Option<String>,
    /// Whether its thread is to be kept.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep_thread: bool,
    /// The label of the orchestrator that has the run, by which others know whether it lives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
}

impl Request {
    /// The request of `call` on the workspace at `workspace`, accepted now by the orchestrator with
    /// the label `owner`.
    pub fn new(call: &RunCall, workspace: &Path, owner: &str) -> Self {
        Self {
            accepted: Timestamp::now(),
            prompt: call.prompt.clone(),
            mode: call.mode,
            timeout: call.timeout.as_secs(),
            workspace: workspace.to_owned(),
            working_dir: call.working_dir.clone(),
            env_vars: call.env_vars.names().map(str::to_owned).collect(),
            model: call.model.clone(),
            continue_run: call.thread.continues.clone(),
            keep_thread: call.thread.keep,
            owner: Some(owner.to_owned()),
        }
    }
}

/// Keeps a record where it is; given up when dropped.
#[derive(Debug)]
pub struct RecordLock {
    _folder: File,
}

/// The folder of one run.
#[derive(Debug)]
pub struct Record {
    id: String,
    folder: PathBuf,
    /// The request, as long as this run is ours to finish.
    unfinished: Option<Request>,
}

impl Record {
    /// Makes the folder of a new run in `runs`, which is made if needed. Blocking.
    ///
    /// # Errors
    ///
    /// The file system refuses.
    pub fn create(runs: &Path, request: &Request) -> Result<Self, RecordError> {
        let id = Uuid::now_v7().to_string();
        let folder = runs.join(&id);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(runs)
            .map_err(|source| io_error("made", runs, source))?;
        DirBuilder::new()
            .mode(0o700)
            .create(&folder)
            .map_err(|source| io_error("made", &folder, source))?;
        let record = Self { id, folder, unfinished: Some(request.clone()) };
        write_json(&record.request_json(), request)?;
        Ok(record)
    }

    /// Opens the folder of a run that there is already.
    ///
    /// # Errors
    ///
    /// `id` is no run id, or there is no such run.
    pub fn open(runs: &Path, id: &str) -> Result<Self, RecordError> {
        // Only the form that we write: lower case with hyphens, so no path can be hidden in it.
        let known = Uuid::try_parse(id).is_ok_and(|uuid| uuid.to_string() == id);
        if !known {
            return Err(RecordError::BadId(id.chars().take(80).collect()));
        }
        let folder = runs.join(id);
        match fs::symlink_metadata(&folder) {
            Ok(found) if found.is_dir() => Ok(Self { id: id.to_owned(), folder, unfinished: None }),
            Ok(_) => Err(RecordError::Missing(id.to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(RecordError::Missing(id.to_owned()))
            }
            Err(source) => Err(io_error("read", &folder, source)),
        }
    }

    /// The run id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What was asked for.
    pub fn request_json(&self) -> PathBuf {
        self.folder.join("request.json")
    }

    /// Codex's events as they came.
    pub fn events_jsonl(&self) -> PathBuf {
        self.folder.join("events.jsonl")
    }

    /// What Codex asked leave for, and the answers; absent if the run asks nothing.
    pub fn approvals_jsonl(&self) -> PathBuf {
        self.folder.join("approvals.jsonl")
    }

    /// Codex's stderr as it came.
    pub fn stderr_log(&self) -> PathBuf {
        self.folder.join("stderr.log")
    }

    /// The contents of the change set.
    pub fn changes_tar(&self) -> PathBuf {
        self.folder.join("changes.tar")
    }

    /// The change set.
    pub fn changes_json(&self) -> PathBuf {
        self.folder.join("changes.json")
    }

    /// The commits that were made in the container, as a bundle.
    pub fn commits_bundle(&self) -> PathBuf {
        self.folder.join("commits.bundle")
    }

    /// What the proxy decided of the hosts that programs asked for; absent if none was.
    pub fn network_json(&self) -> PathBuf {
        self.folder.join("network.json")
    }

    /// Codex's thread, if it was kept.
    pub fn thread_jsonl(&self) -> PathBuf {
        self.folder.join("thread.jsonl")
    }

    /// What is known of that thread; written last, so that with it the thread is whole.
    pub fn thread_json(&self) -> PathBuf {
        self.folder.join("thread.json")
    }

    /// What the changes replaced.
    pub fn before_tar(&self) -> PathBuf {
        self.folder.join("before.tar")
    }

    /// What the user saved in the very moment of an apply and could not stay in its place.
    pub fn kept(&self) -> PathBuf {
        self.folder.join("kept")
    }

    /// Whether what became of the changes was written after the result, so that the result says
    /// less: whoever applied or undid them was killed in between.
    pub fn has_later_changes(&self) -> bool {
        let time = |path: &Path| fs::metadata(path).and_then(|found| found.modified()).ok();
        let (changes, result) = (time(&self.changes_json()), time(&self.result_json()));
        changes.is_some_and(|changes| result.is_none_or(|result| changes > result))
    }

    /// Keeps the record from being removed until what is returned is dropped.
    ///
    /// # Errors
    ///
    /// The folder is gone, or is just being removed.
    pub fn share(&self) -> Result<RecordLock, RecordError> {
        let lock = self.lock(FlockOperation::NonBlockingLockShared);
        lock.ok_or_else(|| RecordError::Missing(self.id.clone()))
    }

    /// The right to remove the record, unless somebody [shares](Self::share) it.
    fn claim(&self) -> Option<RecordLock> {
        self.lock(FlockOperation::NonBlockingLockExclusive)
    }

    fn lock(&self, operation: FlockOperation) -> Option<RecordLock> {
        let folder = File::open(&self.folder).ok()?;
        match flock(&folder, operation) {
            Ok(()) => {}
            // Where nothing can be locked, nobody is kept waiting.
            Err(Errno::NOTSUP | Errno::NOSYS | Errno::NOLCK | Errno::INVAL) => {}
            Err(_) => return None,
        }
        self.folder.exists().then_some(RecordLock { _folder: folder })
    }

    /// The changes as a unified diff.
    pub fn diff_patch(&self) -> PathBuf {
        self.folder.join("diff.patch")
    }

    /// The log events of the run.
    pub fn log_jsonl(&self) -> PathBuf {
        self.folder.join("log.jsonl")
    }

    /// The result, once the run has ended.
    pub fn result_json(&self) -> PathBuf {
        self.folder.join("result.json")
    }

    /// Reads the request. Blocking.
    ///
    /// # Errors
    ///
    /// It cannot be read or is damaged.
    pub fn request(&self) -> Result<Request, RecordError> {
        read_json(&self.request_json())
    }

    /// Reads the result; `None` if the run has not ended. Blocking.
    ///
    /// # Errors
    ///
    /// It cannot be read or is damaged.
    pub fn result(&self) -> Result<Option<RunResult>, RecordError> {
        match read_json(&self.result_json()) {
            Ok(result) => Ok(Some(result)),
            Err(RecordError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Ends the run: writes its log event to stderr and to the folder, then its result. Blocking.
    ///
    /// # Errors
    ///
    /// The file system refuses. The event has been on stderr all the same.
    pub fn finish(mut self, result: &RunResult, log_prompts: bool) -> Result<(), RecordError> {
        match self.unfinished.take() {
            Some(request) => self.close(&request, result, log_prompts),
            None => self.replace_result(result),
        }
    }

    /// Writes another result for a run that has ended, after `codex_run_apply` for instance.
    /// Blocking.
    ///
    /// # Errors
    ///
    /// The file system refuses; the old result stays.
    pub fn replace_result(&self, result: &RunResult) -> Result<(), RecordError> {
        write_json(&self.result_json(), result)
    }

    fn close(
        &self,
        request: &Request,
        result: &RunResult,
        log_prompts: bool,
    ) -> Result<(), RecordError> {
        let line = event::completed(&self.id, request, result, log_prompts);
        event::to_stderr(&line);
        let path = self.log_jsonl();
        let logged = File::options()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| file.write_all(line.as_bytes()))
            .map_err(|source| io_error("written", &path, source));
        // The result is worth more than its log.
        self.replace_result(result).and(logged)
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let Some(request) = self.unfinished.take() else { return };
        let failure = Failure::new(
            ErrorKind::Internal,
            "the run was given up before it had a result; look at stderr.log and events.jsonl in \
             its folder, and call again",
        );
        // The prompt stays out: nobody is left who knows the setting.
        let result = RunResult::never_started(&self.id, &failure);
        if let Err(error) = self.close(&request, &result, false) {
            tracing::warn!(run_id = %self.id, %error, "the record could not be closed");
        }
    }
}

/// The runs in `runs`, the newest first. Blocking.
///
/// # Errors
///
/// The directory is there but cannot be read.
pub fn list(runs: &Path) -> Result<Vec<Record>, RecordError> {
    let entries = match fs::read_dir(runs) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(io_error("read", runs, source)),
    };
    let mut records: Vec<Record> = entries
        .filter_map(Result::ok)
        .filter_map(|entry| Record::open(runs, entry.file_name().to_str()?).ok())
        .collect();
    // The ids are sorted by time.
    records.sort_by(|a, b| b.id.cmp(&a.id));
    Ok(records)
}

fn io_error(verb: &'static str, path: &Path, source: io::Error) -> RecordError {
    RecordError::Io { verb, path: path.to_owned(), source }
}

pub(crate) fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T, RecordError> {
    let bytes = fs::read(path).map_err(|source| io_error("read", path, source))?;
    serde_json::from_slice(&bytes)
        .map_err(|source| RecordError::Damaged { path: path.to_owned(), source })
}

/// Writes beside and renames, so that a reader sees the old file, the new one, or none.
pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), RecordError> {
    write_json_and(path, value, |_| Ok(()))
}

/// The same, and it is on the disk when this returns.
pub(crate) fn write_json_to_disk<T: Serialize>(path: &Path, value: &T) -> Result<(), RecordError> {
    write_json_and(path, value, |file| file.sync_data())?;
    let folder = path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all());
    folder.map_err(|source| io_error("written", path, source))
}

pub(crate) fn write_json_and<T: Serialize>(
    path: &Path,
    value: &T,
    then: impl FnOnce(&File) -> io::Result<()>,
) -> Result<(), RecordError> {
    let mut bytes = serde_json::to_vec_pretty(value)
        .map_err(|source| RecordError::Damaged { path: path.to_owned(), source })?;
    bytes.push(b'\n');
    let beside = path.with_extension(format!("json.{}", Uuid::new_v4().simple()));
    let written = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&beside)
        .and_then(|mut file| file.write_all(&bytes).and_then(|()| then(&file)))
        .and_then(|()| fs::rename(&beside, path));
    written.map_err(|source| {
        let _ = fs::remove_file(&beside);
        io_error("written", path, source)
    })
}

#[cfg(test)]
mod tests;
