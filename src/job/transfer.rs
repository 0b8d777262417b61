//! The workspace on its way into a container and back. The archives are made and read on blocking
//! threads; the stream's back-pressure slows them down, so nothing piles up in between.

use std::path::PathBuf;
use std::time::Duration;

use tokio_util::io::SyncIoBridge;
use tokio_util::sync::CancellationToken;

use crate::failure::{ErrorKind, Failure};
use crate::keeper::client::{Keeper, KeeperError};
use crate::keeper::wire::{CollectReport, CollectRequest, PutRequest};
use crate::record::Record;
use crate::workspace::change::ChangeSet;
use crate::workspace::classify::classify;
use crate::workspace::git::commits::switch;
use crate::workspace::lock::{self, LockError};
use crate::workspace::receive::{ReceiveError, ReceiveLimits, Received, receive};
use crate::workspace::send::{SendRules, send};
use crate::workspace::{Snapshot, Workspace, pointers};

use super::told::cancelled;
use super::{Orchestrator, blocking, turn};

/// Sends the whole workspace; `links` are the host's paths that are to lead to it.
///
/// # Errors
///
/// What is wrong with the workspace, or the loss of the container, or `run.transfer_timeout`, or
/// `workspace.lock_timeout`.
pub(super) async fn send_workspace(
    keeper: &Keeper,
    workspace: Workspace,
    links: Vec<String>,
    rules: SendRules,
    state_dir: PathBuf,
    lock_timeout: Duration,
    limit: Duration,
) -> Result<Snapshot, Failure> {
    // Cancelled when this future ends, however that is: nobody is left then to wait for the lock.
    let over = CancellationToken::new();
    let _over = over.clone().drop_guard();
    let sending = async {
        let put = keeper.put(PutRequest { base: None, links }).await.map_err(keeper_failure)?;
        let (snapshot, put) = blocking(move || {
            // Held until all is read, so that no other run's changes are half in what is sent.
            let _turn = turn::unless(&over, lock::read, &state_dir, &workspace, lock_timeout)
                .map_err(locked)?
                .ok_or_else(cancelled)?;
            switch::recover(&state_dir, workspace.key);
            let mut bridge = SyncIoBridge::new(put);
            let snapshot = send(&workspace, &rules, &mut bridge).map_err(Failure::from)?;
            Ok::<_, Failure>((snapshot, bridge.into_inner()))
        })
        .await?;
        put.finish().await.map_err(keeper_failure)?;
        Ok(snapshot)
    };
    tokio::time::timeout(limit, sending).await.unwrap_or_else(|_| {
        Err(Failure::new(
            ErrorKind::TransferFailed,
            format!(
                "sending the workspace took longer than {} s (run.transfer_timeout); exclude what \
                 Codex does not need with workspace.exclude or .codexignore",
                limit.as_secs()
            ),
        ))
    })
}

/// Takes in what the run changed. The tree in the container must be at rest.
///
/// # Errors
///
/// What did not arrive as it must, or the loss of the container, or `run.transfer_timeout`.
pub(super) async fn collect_changes(
    keeper: &Keeper,
    snapshot: Snapshot,
    archive: PathBuf,
    limits: ReceiveLimits,
    limit: Duration,
) -> Result<(Received, Snapshot, CollectReport), Failure> {
    let collecting = async {
        let request = CollectRequest {
            max_bytes: limits.bytes,
            max_entries: limits.entries,
            ignored: limits.ignored,
        };
        let collect = keeper.collect(request).await.map_err(keeper_failure)?;
        let (received, snapshot, collect) = blocking(move || {
            let mut bridge = SyncIoBridge::new(collect);
            let received = receive(&mut bridge, &snapshot, &limits, &archive);
            Ok::<_, Failure>((received, snapshot, bridge.into_inner()))
        })
        .await?;
        let received = match received {
            // What the keeper refused says more than the archive that it cut off.
            Ok(_) | Err(ReceiveError::Stream(_)) => received,
            // Nothing more is read of what is wrong: it may have no end.
            Err(error) => return Err(error.into()),
        };
        let report = match collect.finish().await {
            Ok(report) => report,
            Err(error) => return Err(keeper_failure(error)),
        };
        let received = received?;
        let arrived = received.entries.len() as u64;
        let gone = received.deleted.len() as u64;
        if (arrived, gone, received.bytes) != (report.entries, report.deleted, report.bytes) {
            return Err(Failure::new(
                ErrorKind::TransferFailed,
                format!(
                    "the change set did not arrive whole ({arrived} of {} entries, {gone} of {} \
                     deletions); nothing was changed in the workspace, run it again",
                    report.entries, report.deleted
                ),
            ));
        }
        Ok((received, snapshot, report))
    };
    tokio::time::timeout(limit, collecting).await.unwrap_or_else(|_| {
        Err(Failure::new(
            ErrorKind::TransferFailed,
            format!(
                "collecting the changes took longer than {} s (run.transfer_timeout); nothing was \
                 changed in the workspace",
                limit.as_secs()
            ),
        ))
    })
}

/// What the paths that came mean; see [`classify`] and [`pointers`].
///
/// # Errors
///
/// The run's folder cannot be read.
pub(super) async fn sort_out(
    orchestrator: &Orchestrator,
    received: Received,
    snapshot: &Snapshot,
    workspace: &Workspace,
    record: &Record,
) -> Result<ChangeSet, Failure> {
    let set = classify(received, snapshot, &orchestrator.settings().policy);
    if !set.changes.iter().any(pointers::may_be) {
        return Ok(set);
    }
    let (workspace, archive) = (workspace.clone(), record.changes_tar());
    blocking(move || {
        pointers::settle(set, &workspace, &archive)
            .map_err(|source| ReceiveError::Unread { path: archive.display().to_string(), source })
            .map_err(Failure::from)
    })
    .await
}

/// What a caller is told whose workspace others did not let go.
fn locked(error: LockError) -> Failure {
    Failure::new(ErrorKind::TransferFailed, format!("{error}; call again when it is done"))
}

impl From<ReceiveError> for Failure {
    fn from(error: ReceiveError) -> Self {
        let what_to_do = match &error {
            ReceiveError::TooLarge { .. } => {
                "raise the setting, or tell Codex to leave less behind"
            }
            ReceiveError::Archive { .. } | ReceiveError::Unread { .. } => {
                "check runs.dir and its disk"
            }
            _ => "run it again",
        };
        Self::new(
            ErrorKind::TransferFailed,
            format!("{error}; nothing was changed in the workspace, {what_to_do}"),
        )
    }
}

/// The kind under which a caller knows a keeper's error during a job.
pub(super) fn keeper_failure(error: KeeperError) -> Failure {
    let kind = match &error {
        KeeperError::Lost(_) | KeeperError::Silent(_) => ErrorKind::ContainerLost,
        KeeperError::Protocol { .. } => ErrorKind::ImageOutdated,
        KeeperError::Refused(_) | KeeperError::Corrupt(_) => ErrorKind::TransferFailed,
    };
    Failure::new(kind, format!("{error}; the workspace is unchanged, run it again"))
}
