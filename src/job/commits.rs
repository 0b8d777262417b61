//! Commits that a run made: out of its container into the run's folder, and home from there.

use std::io::{self, Write};
use std::time::Duration;

use crate::codex::command::ENVIRONMENT;
use crate::keeper::client::{Keeper, ProgramEvent};
use crate::keeper::wire::{SpawnRequest, WORKSPACE};
use crate::record::Record;
use crate::record::unfinished::create;
use crate::workspace::apply::Parts;
use crate::workspace::git::GitBase;
use crate::workspace::git::commits::{
    Base, CONTENTS, Commits, LIST, Listing, PACK, Tips, bring_home, contents_archive, not_yet,
    write_header,
};
use crate::workspace::{Workspace, lock};

use super::{Orchestrator, blocking};

/// Bytes of the listing at most.
const LIST_BYTES: u64 = 16 << 20;

/// Bytes of errors of a git that are kept.
const ERROR_BYTES: usize = 300;

/// How much may come, and how long it may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// `workspace.max_bytes`.
    pub(super) bytes: u64,
    /// `run.transfer_timeout`.
    pub(super) time: Duration,
}

/// Writes the commits of a run into its folder. The tree must be at rest, and is so afterwards. An
/// error of any kind costs the commits alone, and is told in what it gives; `None` if there is
/// nothing that could come.
///
/// # Cancel safety
///
/// Dropped midway it leaves nothing in the folder, and a git that the next `end` kills.
pub(super) async fn take_out(
    keeper: &Keeper,
    base: &GitBase,
    record: &Record,
    limits: Limits,
) -> Option<Commits> {
    let base = Base::of(base)?;
    let taking = fetch(keeper, &base, record, limits);
    let late =
        || format!("they took longer than {} s (run.transfer_timeout)", limits.time.as_secs_f32());
    let mut taken = tokio::time::timeout(limits.time, taking).await.unwrap_or_else(|_| Err(late()));
    if let Ok(Some((told, revisions))) = &mut taken {
        // What goes wrong here costs the contents, and not the commits.
        let taking = fetch_contents(keeper, std::mem::take(revisions), record, limits);
        let contents = tokio::time::timeout(limits.time, taking).await;
        if let Err(why) = contents.unwrap_or_else(|_| Err(late())) {
            told.lfs = Some(format!("their contents stayed in the container, because {why}"));
        }
    }
    // Whatever it was that ran there, nothing of it may be left.
    if let Err(error) = keeper.end().await {
        tracing::warn!(%error, "the processes that told of commits may be left");
    }
    match taken {
        Ok(taken) => taken.map(|(told, _)| told),
        Err(reason) => Some(Commits::left(reason)),
    }
}

/// The commits, and what was asked for them.
async fn fetch(
    keeper: &Keeper,
    base: &Base,
    record: &Record,
    limits: Limits,
) -> Result<Option<(Commits, String)>, String> {
    let mut text = Vec::new();
    let list = ["sh", "-c", LIST];
    run(keeper, &list, base.exclusions(), &mut text, (LIST_BYTES, "16 MiB of names")).await?;
    let Some(listing) = Listing::parse(&text, base.digits()) else {
        return Err("git in the container told of its references what cannot be read".to_owned());
    };
    let Some(mut tips) = Tips::new(base, &listing) else { return Ok(None) };
    let (mut bundle, unfinished) = create(record.commits_bundle()).map_err(unwritten)?;
    let pack_at = write_header(&tips, &listing, &mut bundle).map_err(unwritten)?;
    let revisions = tips.wanted() + &base.exclusions();
    let most = (limits.bytes, "the limit of workspace.max_bytes");
    run(keeper, &PACK, revisions.clone(), &mut bundle, most).await?;
    bundle.flush().map_err(unwritten)?;
    tips.save(record.folder(), pack_at).map_err(|error| error.to_string())?;
    unfinished.keep();
    Ok(Some((tips.told(record.id()), revisions)))
}

/// Writes the contents of large files that the commits mean into the run's folder, if there are any.
async fn fetch_contents(
    keeper: &Keeper,
    revisions: String,
    record: &Record,
    limits: Limits,
) -> Result<(), String> {
    let path = contents_archive(record.folder());
    let (mut archive, unfinished) = create(path.clone()).map_err(unwritten)?;
    let most = (limits.bytes, "the limit of workspace.max_bytes");
    run(keeper, &["sh", "-c", CONTENTS], revisions, &mut archive, most).await?;
    archive.flush().map_err(unwritten)?;
    let bytes = archive.get_ref().metadata().map_err(unwritten)?.len();
    if bytes > 0 {
        unfinished.keep();
    }
    Ok(())
}

fn unwritten(error: io::Error) -> String {
    format!("the run's folder cannot be written ({error})")
}

/// Runs a program of the container, with at most so much output.
async fn run(
    keeper: &Keeper,
    argv: &[&str],
    stdin: String,
    out: &mut (impl Write + Send),
    (most, limit): (u64, &str),
) -> Result<(), String> {
    let set = [("LC_ALL", "C"), ("GIT_TERMINAL_PROMPT", "0"), ("GIT_NO_LAZY_FETCH", "1")];
    let env = ENVIRONMENT.iter().chain(&set);
    let nonce = uuid::Uuid::new_v4().to_string();
    let request = SpawnRequest {
        argv: argv.iter().map(|word| (*word).to_owned()).collect(),
        env: env.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        cwd: WORKSPACE.to_owned(),
        files: Vec::new(),
        stdin,
        nonce,
    };
    let lost = |error| format!("the container was lost meanwhile ({error})");
    let mut program = keeper.spawn(request).await.map_err(lost)?;
    let (mut bytes, mut errors) = (0, Vec::new());
    loop {
        match program.next().await.map_err(lost)? {
            ProgramEvent::Stdout(chunk) => {
                bytes += chunk.len() as u64;
                if bytes > most {
                    return Err(format!("they are larger than {limit}"));
                }
                out.write_all(&chunk).map_err(unwritten)?;
            }
            ProgramEvent::Stderr(chunk) => {
                let room = ERROR_BYTES.saturating_sub(errors.len());
                errors.extend_from_slice(&chunk[..chunk.len().min(room)]);
            }
            ProgramEvent::Exited(report) if report.code == Some(0) => return Ok(()),
            ProgramEvent::Exited(_) => {
                let errors = String::from_utf8_lossy(&errors);
                let said: String =
                    errors.lines().next().unwrap_or_default().escape_debug().collect();
                return Err(format!("git in the container failed ({said})"));
            }
        }
    }
}

/// What is said of a repository that was made in the container.
pub(super) fn made_there() -> String {
    "a repository was made in the container, where there was none; commits in it did not come"
        .to_owned()
}

/// Takes the commits of a run into the workspace's repository, once its changes are applied;
/// `None` if there are none.
pub(super) async fn home(
    orchestrator: &Orchestrator,
    workspace: &Workspace,
    record: &Record,
) -> Option<Commits> {
    if !record.commits_bundle().exists() {
        return None;
    }
    let (run, folder) = (record.id().to_owned(), record.folder().to_owned());
    let (workspace, state) = (workspace.clone(), orchestrator.places.state.clone());
    let lock_timeout = orchestrator.settings().config.workspace.lock_timeout;
    let brought = blocking(move || {
        let _turn = lock::write(&state, &workspace, lock_timeout).map_err(|error| {
            crate::failure::Failure::new(crate::failure::ErrorKind::ApplyFailed, error.to_string())
        })?;
        let parts = Parts { run: &run, folder: &folder, state: &state };
        Ok::<_, crate::failure::Failure>(bring_home(&workspace, &parts))
    });
    // They are in the folder still, and come with the next apply.
    let not_yet =
        |failure: crate::failure::Failure| not_yet(record.folder(), record.id(), &failure.sentence);
    brought.await.unwrap_or_else(not_yet)
}
