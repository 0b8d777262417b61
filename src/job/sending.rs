//! The workspace on its way into a container: all of it, or what differs from what is there.
//!
//! ```text
//!  held of this workspace? ── no ──────────────────────────────> put all of it ──> held
//!        │ yes                                                        ▲
//!  put what differs ── done ──> held                                  │
//!        └── the keeper refuses ──> cleaned, so that nothing of it stays
//! ```
//!
//! What a container holds is forgotten before anything is put and noted once all of it was: a
//! sending that ends midway, however that is, leaves nothing that is known.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::io::SyncIoBridge;
use tokio_util::sync::CancellationToken;

use crate::container::ArmedContainer;
use crate::failure::{ErrorKind, Failure};
use crate::keeper::client::{Keeper, KeeperError};
use crate::keeper::wire::{PutReport, PutRequest};
use crate::pool::source::Pooled;
use crate::workspace::git::commits::switch;
use crate::workspace::held::{Birth, Held, Manifests};
use crate::workspace::lock::{self, LockError};
use crate::workspace::send::{Base, Delta, SendError, SendRules, send_on};
use crate::workspace::{Snapshot, Workspace};

use super::told::cancelled;
use super::transfer::keeper_failure;
use super::{blocking, turn};

/// How a workspace is sent.
#[derive(Clone, Debug)]
pub(super) struct Sending {
    pub(super) workspace: Workspace,
    /// Paths of the host that are to lead to it.
    pub(super) links: Vec<String>,
    pub(super) rules: SendRules,
    pub(super) state_dir: PathBuf,
    pub(super) lock_timeout: Duration,
    pub(super) limit: Duration,
    /// What other containers hold.
    pub(super) manifests: Manifests,
    /// No job has asked for it yet.
    pub(super) ahead: bool,
}

/// What was sent.
#[derive(Clone, Debug)]
pub(super) struct SentTree {
    /// The whole workspace, as the container has it now.
    pub(super) snapshot: Arc<Snapshot>,
    /// Files that travelled; those of `.git` do not count.
    pub(super) files: u64,
    /// Their bytes.
    pub(super) bytes: u64,
    /// Whether all of it travelled.
    pub(super) full: bool,
}

impl Sending {
    /// Makes the tree in `container` that of the workspace, and notes there what it holds.
    ///
    /// # Errors
    ///
    /// What is wrong with the workspace, or the loss of the container, or `run.transfer_timeout`, or
    /// `workspace.lock_timeout`. The container holds nothing that is known then; it must be cleaned
    /// or destroyed.
    pub(super) async fn send(self, container: &mut ArmedContainer) -> Result<SentTree, Failure> {
        Ok(self.try_send(container).await?)
    }

    /// As [`Sending::send`], and tells whether nothing but others who have the workspace was in the way.
    ///
    /// # Errors
    ///
    /// As [`Sending::send`].
    pub(super) async fn try_send(
        self,
        container: &mut ArmedContainer,
    ) -> Result<SentTree, SendingError> {
        let limit = self.limit;
        let sending = self.put(container);
        tokio::time::timeout(limit, sending).await.unwrap_or_else(|_| {
            Err(SendingError::Failed(Failure::new(
                ErrorKind::TransferFailed,
                format!(
                    "sending the workspace took longer than {} s (run.transfer_timeout); exclude \
                     what Codex does not need with workspace.exclude or .codexignore",
                    limit.as_secs()
                ),
            )))
        })
    }

    async fn put(self, container: &mut ArmedContainer) -> Result<SentTree, SendingError> {
        let workspace = self.workspace.clone();
        let birth = blocking(move || Ok::<_, Failure>(Birth::of(&workspace))).await?;
        container.give_to(birth).await.map_err(uncleaned)?;
        let held = container.held().cloned();
        container.set_held(None);
        let keeper = container.keeper();
        let (mut full, mut kept) = (true, Vec::new());
        let (delta, report) = match held {
            None => self.attempt(&keeper, None).await?,
            Some(held) => {
                let own = held.workspace == self.workspace.key;
                let attempt = if own {
                    kept.clone_from(&held.kept);
                    self.attempt(&keeper, Some(Arc::new(held))).await
                } else {
                    Err(NotSent::Refused("it holds another workspace".to_owned()))
                };
                match attempt {
                    Ok(sent) => {
                        full = false;
                        sent
                    }
                    Err(NotSent::Failed(failure)) => return Err(failure.into()),
                    Err(NotSent::InUse(failure)) => return Err(SendingError::InUse(failure)),
                    Err(NotSent::Refused(reason)) => {
                        let id = container.id();
                        tracing::info!(container = %id, %reason, "what differs was refused");
                        container.clean().await.map_err(uncleaned)?;
                        kept.clear();
                        self.attempt(&keeper, None).await?
                    }
                }
            }
        };
        let Delta { snapshot, files, bytes, .. } = delta;
        let snapshot = Arc::new(snapshot);
        let key = self.workspace.key;
        self.manifests.note(key, &snapshot);
        let path = self.workspace.path.clone();
        let held = Held { kept, path, ..Held::new(key, report.tree, Arc::clone(&snapshot)) };
        container.set_held(Some(held));
        Ok(SentTree { snapshot, files, bytes, full })
    }

    /// Puts what differs from `held`, or everything.
    async fn attempt(
        &self,
        keeper: &Keeper,
        held: Option<Arc<Held>>,
    ) -> Result<(Delta, PutReport), NotSent> {
        // Cancelled when this future ends, however that is: nobody is left then to wait for the
        // lock.
        let over = CancellationToken::new();
        let _over = over.clone().drop_guard();
        let (base, links) = (held.as_ref().map(|held| held.tree), self.links.clone());
        let request = PutRequest { base, links, ahead: self.ahead };
        let put = keeper.put(request).await?;
        let Self { workspace, rules, state_dir, .. } = self.clone();
        let (lock_timeout, latest) = (self.lock_timeout, self.manifests.latest(workspace.key));
        let work = move || {
            // Held until all is read, so that no other run's changes are half in what is sent.
            let _turn = turn::unless(&over, lock::read, &state_dir, &workspace, lock_timeout)
                .map_err(NotSent::locked)?
                .ok_or_else(cancelled)?;
            switch::recover(&state_dir, workspace.key);
            let base = Base { held: held.as_deref(), latest: latest.as_deref() };
            let mut bridge = Until { inner: SyncIoBridge::new(put), over };
            let rules = rules.with_state(&state_dir);
            let sent = send_on(&workspace, &rules, base, &mut bridge);
            Ok::<_, NotSent>((sent, bridge.inner.into_inner()))
        };
        let (sent, put) = blocking(move || Ok::<_, Failure>(work())).await??;
        match sent {
            Ok(delta) => Ok((delta, put.finish().await?)),
            // Why the stream takes no more is what the keeper answers.
            Err(error @ SendError::Write(_)) => {
                put.finish().await?;
                Err(Failure::from(error).into())
            }
            Err(error) => Err(Failure::from(error).into()),
        }
    }
}

/// A writer that fails once nobody waits for what is written: a container whose filling was given up is
/// soon free for another use.
struct Until<W> {
    inner: W,
    over: CancellationToken,
}

impl<W: Write> Write for Until<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.over.is_cancelled() {
            return Err(io::Error::other("given up"));
        }
        self.inner.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Why a workspace was not sent.
#[derive(Debug)]
pub(super) enum SendingError {
    /// Others read or write it, and did not let it go in time.
    InUse(Failure),
    Failed(Failure),
}

impl From<Failure> for SendingError {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<SendingError> for Failure {
    fn from(error: SendingError) -> Self {
        match error {
            SendingError::InUse(failure) | SendingError::Failed(failure) => failure,
        }
    }
}

/// Why a tree was not put.
enum NotSent {
    /// The keeper lives and does not take it.
    Refused(String),
    InUse(Failure),
    Failed(Failure),
}

impl NotSent {
    /// Others did not let the workspace go, or its lock cannot be had at all.
    fn locked(error: LockError) -> Self {
        let in_use = matches!(error, LockError::Timeout(_));
        let failure = locked(error);
        if in_use { Self::InUse(failure) } else { Self::Failed(failure) }
    }
}

impl From<KeeperError> for NotSent {
    fn from(error: KeeperError) -> Self {
        match error {
            KeeperError::Refused(reason) => Self::Refused(reason),
            error => Self::Failed(keeper_failure(error)),
        }
    }
}

impl From<Failure> for NotSent {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<NotSent> for SendingError {
    fn from(error: NotSent) -> Self {
        match error {
            NotSent::Refused(reason) => Self::Failed(keeper_failure(KeeperError::Refused(reason))),
            NotSent::InUse(failure) => Self::InUse(failure),
            NotSent::Failed(failure) => Self::Failed(failure),
        }
    }
}

/// What a caller is told whose container could not be made ready for the whole workspace.
fn uncleaned(reason: String) -> Failure {
    Failure::new(
        ErrorKind::TransferFailed,
        format!(
            "the container could not be cleaned for the workspace ({reason}) and is destroyed; the \
             workspace is unchanged, run it again"
        ),
    )
}

/// What a caller is told whose workspace others did not let go.
fn locked(error: LockError) -> Failure {
    Failure::new(ErrorKind::TransferFailed, format!("{error}; call again when it is done"))
}

#[cfg(test)]
mod tests;
