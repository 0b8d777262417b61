//! What a run changed on its way out of a container. The archive is read on a blocking thread; the
//! stream's back-pressure slows the keeper down, so nothing piles up in between. The way in is
//! [`sending`](super::sending).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::io::SyncIoBridge;

use crate::failure::{ErrorKind, Failure, MAKE_ROOM, is_full_disk};
use crate::keeper::client::{Keeper, KeeperError};
use crate::keeper::wire::{CollectReport, CollectRequest};
use crate::record::Record;
use crate::workspace::change::ChangeSet;
use crate::workspace::classify::classify;
use crate::workspace::receive::{ReceiveError, ReceiveLimits, Received, receive};
use crate::workspace::{Snapshot, Workspace, pointers};

use super::{Orchestrator, blocking};

/// Takes in what the run changed. The tree in the container must be at rest.
///
/// # Errors
///
/// What did not arrive as it must, or the loss of the container, or `run.transfer_timeout`.
pub(super) async fn collect_changes(
    keeper: &Keeper,
    snapshot: Arc<Snapshot>,
    archive: PathBuf,
    limits: ReceiveLimits,
    limit: Duration,
) -> Result<(Received, CollectReport), Failure> {
    let collecting = async {
        let request = CollectRequest {
            max_bytes: limits.bytes,
            max_entries: limits.entries,
            ignored: limits.ignored,
        };
        let collect = keeper.collect(request).await.map_err(keeper_failure)?;
        let (received, collect) = blocking(move || {
            let mut bridge = SyncIoBridge::new(collect);
            let received = receive(&mut bridge, &snapshot, &limits, &archive);
            Ok::<_, Failure>((received, bridge.into_inner()))
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
        Ok((received, report))
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
    if let KeeperError::Refused(reason) = &error
        && is_full_disk(reason)
    {
        let sentence = format!("{error}; {MAKE_ROOM}; the workspace is unchanged");
        return Failure::new(ErrorKind::DiskFull, sentence);
    }
    let kind = match &error {
        KeeperError::Lost(_) | KeeperError::Silent(_) => ErrorKind::ContainerLost,
        KeeperError::Protocol { .. } => ErrorKind::ImageOutdated,
        KeeperError::Refused(_) | KeeperError::Corrupt(_) => ErrorKind::TransferFailed,
    };
    Failure::new(kind, format!("{error}; the workspace is unchanged, run it again"))
}
