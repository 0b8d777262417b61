//! Threads that are kept in a run's folder, and gone on with in another container.
//!
//! ```text
//!  keep_thread    Codex ended ──> rollout ──> thread.jsonl, then thread.json   (else: a note, not kept)
//!  continue_run   open (checked before anything starts) ──> put ──> Codex resumes ──> reset takes it out
//! ```
//!
//! The thread goes through programs of the container that run as Codex's user, so what comes is as
//! little to be trusted as anything else of it. Since each run has a copy of its own, a run can be
//! continued any number of times, also at once.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::codex::command::ENVIRONMENT;
use crate::codex::outcome::Usage;
use crate::codex::thread::{Copy, MAX_THREAD, SESSIONS, ThreadId, unwritten};
use crate::failure::{ErrorKind, Failure};
use crate::keeper::client::{Keeper, Program, ProgramEvent};
use crate::keeper::wire::{SpawnRequest, WORKSPACE};
use crate::pool::owner::{self, Alive};
use crate::record::unfinished::create;
use crate::record::{Record, RecordError, read_json, write_json};

use super::blocking;
use super::transfer::keeper_failure;

/// Bytes that are put at a time; a keeper takes at most four times as many for one program.
const PIECE: usize = 4 << 20;

/// Pieces of output that wait to be written.
const WAITING: usize = 8;

/// Bytes of errors of a program that are told.
const ERROR_BYTES: usize = 300;

/// What is known of a kept thread: `thread.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct About {
    thread_id: String,
    /// The model that Codex was given; `None`: its own default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    /// Tokens of all its turns, from which Codex goes on counting.
    usage: Usage,
    /// Length of `thread.jsonl`.
    bytes: u64,
}

/// A kept thread, open, so that it stays whatever becomes of its record.
#[derive(Debug)]
pub(super) struct Kept {
    /// Which it is.
    pub(super) id: ThreadId,
    /// The model that it had.
    pub(super) model: Option<String>,
    /// What it has used.
    pub(super) usage: Usage,
    file: File,
    bytes: u64,
}

/// Opens the thread of the run `run_id`, which was on `workspace`. Blocking.
///
/// # Errors
///
/// Kind `invalid_argument`: it is no run, or none any more; it has not ended, was on another workspace,
/// or its thread was not kept. `internal`: its record cannot be read.
pub(super) fn open(
    runs: &Path,
    state: &Path,
    workspace: &Path,
    run_id: &str,
) -> Result<Kept, Failure> {
    let record = Record::open(runs, run_id).map_err(|error| match error {
        RecordError::BadId(id) => refused(format!(
            "continue_run {id:?} is no run id; give the run_id from the result of a codex_run"
        )),
        RecordError::Missing(id) => refused(format!(
            "there is no run {id} to continue, or no more: records are kept for a limited time \
             (runs.keep, runs.keep_for); call without continue_run"
        )),
        error => error.into(),
    })?;
    let _stays = record.share()?;
    let request = record.request()?;
    let Some(result) = record.result()? else {
        let alive = request.owner.map(|owner| owner::alive(&owner, state));
        return Err(refused(match alive {
            Some(Alive::No) => format!(
                "run {run_id} was cut off before its thread was kept; call without continue_run"
            ),
            _ => format!("run {run_id} has not ended; wait for its result, then continue it"),
        }));
    };
    if request.workspace != workspace {
        return Err(refused(format!(
            "run {run_id} was on the workspace {}, not on {}; only a run on the same workspace \
             can continue it",
            request.workspace.display(),
            workspace.display()
        )));
    }
    if !result.thread_kept {
        return Err(refused(format!(
            "the thread of run {run_id} was not kept, so it cannot be continued; give keep_thread \
             to a run that shall be"
        )));
    }
    let gone = || {
        refused(format!(
            "the thread of run {run_id} is no longer kept (runs.max_bytes, runs.keep, \
             runs.keep_for); call without continue_run"
        ))
    };
    let about: About = match read_json(&record.thread_json()) {
        Err(RecordError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            return Err(gone());
        }
        about => about?,
    };
    let file = File::open(record.thread_jsonl()).map_err(|_| gone())?;
    let length = file.metadata().map_or(0, |found| found.len());
    match ThreadId::parse(&about.thread_id) {
        Some(id) if length == about.bytes && length <= MAX_THREAD => {
            Ok(Kept { id, model: about.model, usage: about.usage, file, bytes: length })
        }
        _ => Err(refused(format!(
            "the thread of run {run_id} is damaged on disk; call without continue_run"
        ))),
    }
}

fn refused(sentence: String) -> Failure {
    Failure::new(ErrorKind::InvalidArgument, sentence)
}

/// Puts a kept thread to where Codex finds it. The reset takes it out with all that Codex makes of
/// it.
///
/// # Errors
///
/// The container is lost or refuses, or `limit` is over.
pub(super) async fn put(keeper: &Keeper, kept: &Kept, limit: Duration) -> Result<(), Failure> {
    let putting = async {
        let (directory, path) = kept.id.rollout();
        let mut file = kept.file.try_clone().map_err(unread)?;
        std::io::Seek::rewind(&mut file).map_err(unread)?;
        let mut left = kept.bytes;
        while left > 0 {
            let size = left.min(PIECE as u64);
            let piece;
            (file, piece) = blocking(move || {
                let mut piece = Vec::new();
                (&file).take(size).read_to_end(&mut piece).map_err(unread)?;
                Ok::<_, Failure>((file, piece))
            })
            .await?;
            if piece.len() as u64 != size {
                return Err(unread(std::io::ErrorKind::UnexpectedEof.into()));
            }
            let script = "umask 077; mkdir -p \"$0\" && exec head -c \"$2\" >> \"$1\"";
            let size_text = size.to_string();
            let request = shell(script, &[&directory, &path, &size_text]);
            let mut program = keeper.spawn_open(request).await.map_err(keeper_failure)?;
            program.write(&piece);
            ended(&mut program).await?;
            left -= size;
        }
        Ok(())
    };
    tokio::time::timeout(limit, putting).await.unwrap_or_else(|_| {
        Err(not_put(&format!("it took longer than {} s (run.transfer_timeout)", limit.as_secs())))
    })
}

fn unread(error: std::io::Error) -> Failure {
    Failure::new(
        ErrorKind::Internal,
        format!("the thread that was to be continued cannot be read ({error}); check runs.dir"),
    )
}

fn not_put(why: &str) -> Failure {
    Failure::new(
        ErrorKind::TransferFailed,
        format!(
            "the thread could not be put into the container ({why}); nothing was changed in the \
             workspace, run it again"
        ),
    )
}

/// Follows a program that says nothing to its end.
async fn ended(program: &mut Program) -> Result<(), Failure> {
    let mut said = Said::default();
    loop {
        match program.next().await.map_err(keeper_failure)? {
            ProgramEvent::Stdout(_) => {}
            ProgramEvent::Stderr(chunk) => said.add(&chunk),
            ProgramEvent::Exited(report) if report.code == Some(0) => return Ok(()),
            ProgramEvent::Exited(_) => return Err(not_put(&said.text())),
        }
    }
}

/// Keeps the thread of a run whose processes have ended, in its folder.
///
/// # Errors
///
/// A clause that says why it was not kept.
///
/// # Cancel safety
///
/// Dropped midway it leaves no kept thread, and a program that the next `end` kills.
pub(super) async fn keep(
    keeper: &Keeper,
    record: &Record,
    id: &ThreadId,
    model: Option<&str>,
    redact: impl Fn(&str) -> String + Send + 'static,
    limit: Duration,
) -> Result<(), String> {
    let keeping = async {
        let (bytes, usage) = take_out(keeper, record, id, redact).await?;
        let model = model.map(str::to_owned);
        let about = About { thread_id: id.as_str().to_owned(), model, usage, bytes };
        let path = record.thread_json();
        let written = blocking(move || write_json(&path, &about)).await;
        written.map_err(|failure| failure.sentence)
    };
    let kept = tokio::time::timeout(limit, keeping).await.unwrap_or_else(|_| {
        Err(format!("it took longer than {} s (run.transfer_timeout)", limit.as_secs()))
    });
    // Whatever it was that ran there, nothing of it may be left.
    if let Err(error) = keeper.end().await {
        tracing::warn!(%error, "the processes that told of a thread may be left");
    }
    kept
}

/// Writes what Codex wrote of it to the folder: its length, and what it has used.
async fn take_out(
    keeper: &Keeper,
    record: &Record,
    id: &ThreadId,
    redact: impl Fn(&str) -> String + Send + 'static,
) -> Result<(u64, Usage), String> {
    let lost = |error| format!("the container was lost meanwhile ({error})");
    let (file, unfinished) = create(record.thread_jsonl()).map_err(|error| unwritten(&error))?;
    let mut copy = Copy::new(id.clone(), file, redact);
    let (chunks, mut taken) = mpsc::channel::<Vec<u8>>(WAITING);
    let writing = tokio::task::spawn_blocking(move || {
        while let Some(chunk) = taken.blocking_recv() {
            copy.feed(&chunk)?;
        }
        copy.finish()
    });
    // Links and pipes of that name are none of Codex's.
    let script = "exec find \"$0\" -type f -name \"rollout-*-$1.jsonl\" -exec cat {} +";
    let mut program = keeper.spawn(shell(script, &[SESSIONS, id.as_str()])).await.map_err(lost)?;
    let mut said = Said::default();
    let exit = loop {
        match program.next().await.map_err(lost)? {
            ProgramEvent::Stdout(chunk) => {
                if chunks.send(chunk).await.is_err() {
                    // It was refused; its task says why.
                    break None;
                }
            }
            ProgramEvent::Stderr(chunk) => said.add(&chunk),
            ProgramEvent::Exited(report) => break report.code,
        }
    };
    drop(chunks);
    let written =
        writing.await.map_err(|panic| format!("a part of the server failed ({panic})"))?;
    match (written, exit) {
        (Ok(written), Some(0)) => {
            unfinished.keep();
            Ok(written)
        }
        (Ok(_), _) => Err(format!("it could not be read in the container ({})", said.text())),
        (Err(why), _) => Err(why),
    }
}

/// A script as a program of the container.
fn shell(script: &str, arguments: &[&str]) -> SpawnRequest {
    let words = ["/bin/sh", "-c", script].into_iter().chain(arguments.iter().copied());
    let env = ENVIRONMENT.iter().copied().filter(|(name, _)| *name != "PATH");
    // None of what the job may have installed.
    let env = env.chain([("PATH", "/usr/bin:/bin")]);
    SpawnRequest {
        argv: words.map(str::to_owned).collect(),
        env: env.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        cwd: WORKSPACE.to_owned(),
        nonce: uuid::Uuid::new_v4().to_string(),
        ..SpawnRequest::default()
    }
}

/// The beginning of what a program said against what it was to do.
#[derive(Default)]
struct Said(Vec<u8>);

impl Said {
    fn add(&mut self, chunk: &[u8]) {
        let room = ERROR_BYTES.saturating_sub(self.0.len());
        self.0.extend_from_slice(&chunk[..chunk.len().min(room)]);
    }

    fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.0);
        let line = text.lines().next().filter(|line| !line.is_empty());
        line.unwrap_or("it said no reason").escape_debug().collect()
    }
}
