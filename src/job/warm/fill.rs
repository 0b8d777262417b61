//! One sending ahead of the calls.
//!
//! It reads the workspace as a run does, under the same lock, and gives way to everybody: to a call
//! that could have the container, to the end of the server, and to whoever waits to write the
//! workspace.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::container::Starter;
use crate::failure::{ErrorKind, Failure};
use crate::job::sending::{Sending, SendingError, SentTree};
use crate::job::{Settings, blocking};
use crate::pool::prepare::{Preparation, Prepared};
use crate::workspace::held::Manifests;
use crate::workspace::send::SendRules;
use crate::workspace::{Workspace, WorkspaceKey, lock};

/// How long others may keep the workspace before it is left to them.
const PATIENCE: Duration = Duration::from_millis(200);

/// How often it is looked whether somebody waits to write the workspace, while it is being sent.
const LOOK: Duration = Duration::from_millis(100);

/// What a sending takes.
#[derive(Clone, Debug)]
pub(super) struct Fill {
    pub(super) settings: Arc<Settings>,
    /// Of the workspace.
    pub(super) path: PathBuf,
    /// Files and bytes at most, besides what the settings say.
    pub(super) bounds: Option<(u64, u64)>,
    pub(super) state_dir: PathBuf,
    pub(super) manifests: Manifests,
}

/// What came of it.
#[derive(Debug)]
pub(super) enum Filled {
    /// The container holds the workspace.
    Done(SentTree),
    /// The container was wanted for something that comes first.
    GivenUp,
    /// Others use the workspace.
    Busy,
    /// The container was lost.
    Lost(Failure),
    /// The workspace cannot be sent.
    Unfit(Failure),
}

impl Fill {
    /// Sends the workspace to the container, and ends the preparation.
    pub(super) async fn run(self, mut preparation: Preparation<Starter>) -> Filled {
        let key = preparation.workspace();
        let workspace = match self.find(key).await {
            Ok(Some(workspace)) => workspace,
            Ok(None) => {
                preparation.finish(Prepared::Untouched);
                return Filled::Busy;
            }
            Err(failure) => {
                preparation.finish(Prepared::Untouched);
                return Filled::Unfit(failure);
            }
        };
        let config = &self.settings.config;
        let mut rules = SendRules::from(&config.workspace);
        if let Some((files, bytes)) = self.bounds {
            rules.max_files = rules.max_files.min(files);
            rules.max_bytes = rules.max_bytes.min(bytes);
        }
        let sending = Sending {
            links: self.settings.links(&workspace),
            workspace,
            rules,
            state_dir: self.state_dir.clone(),
            lock_timeout: PATIENCE,
            limit: config.run.transfer_timeout,
            manifests: self.manifests.clone(),
            ahead: true,
        };
        let wanted = preparation.wanted();
        let filled = tokio::select! {
            biased;
            () = wanted => Filled::GivenUp,
            () = written(&self.state_dir, key) => Filled::Busy,
            sent = sending.try_send(preparation.container()) => match sent {
                Ok(sent) => Filled::Done(sent),
                Err(SendingError::InUse(_)) => Filled::Busy,
                Err(SendingError::Failed(failure)) => match failure.kind {
                    ErrorKind::ContainerLost => Filled::Lost(failure),
                    _ => Filled::Unfit(failure),
                },
            },
        };
        let stays = preparation.finish(match filled {
            Filled::Done(_) => Prepared::Ready,
            _ => Prepared::Spoiled,
        });
        match filled {
            Filled::Done(_) if !stays => Filled::Unfit(no_room()),
            filled => filled,
        }
    }

    /// Opens the workspace; `None` if somebody writes it now.
    async fn find(&self, key: WorkspaceKey) -> Result<Option<Workspace>, Failure> {
        let (settings, path) = (Arc::clone(&self.settings), self.path.clone());
        let state_dir = self.state_dir.clone();
        blocking(move || {
            let workspace = settings.roots.resolve(path.to_str(), None)?;
            if workspace.key != key {
                let sentence = format!("{} is another directory by now", path.display());
                return Err(Failure::new(ErrorKind::WorkspaceMissing, sentence));
            }
            let free = lock::shared(&state_dir, key, Duration::ZERO).is_ok();
            Ok::<_, Failure>(free.then_some(workspace))
        })
        .await
    }
}

/// Why a workspace that was sent is not there any more.
fn no_room() -> Failure {
    Failure::new(
        ErrorKind::TransferFailed,
        "it is more than workspace.disk_budget has room for".to_owned(),
    )
}

/// Resolves when somebody waits to write the workspace.
async fn written(state_dir: &Path, key: WorkspaceKey) {
    loop {
        tokio::time::sleep(LOOK).await;
        let state_dir = state_dir.to_owned();
        let waits = tokio::task::spawn_blocking(move || lock::writer_waits(&state_dir, key));
        if waits.await.unwrap_or(false) {
            return;
        }
    }
}
