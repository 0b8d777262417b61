//! The first stages: a container, and the workspace in it.

use std::sync::Arc;

use tokio::time::Instant;

use super::{Job, milliseconds};
use crate::container::Starter;
use crate::failure::Failure;
use crate::job::result::Sent;
use crate::job::sending::{Sending, SentTree};
use crate::job::told::{cancelled, has_working_dir};
use crate::pool::lease::Lease;
use crate::pool::place::Place;
use crate::pool::source::Pooled;
use crate::pool::stats::{Phase, name};
use crate::workspace::send::SendRules;
use crate::workspace::{GitSent, Snapshot, Workspace};

impl Job<'_> {
    pub(super) async fn lease(&mut self, workspace: &Workspace) -> Result<Lease<Starter>, Failure> {
        let pool = &self.orchestrator.pool;
        self.progress.say("Waiting for a container");
        let tell = |place: Place| self.progress.say(place.to_string());
        let began = Instant::now();
        let mut lease = tokio::select! {
            biased;
            () = self.cancel.cancelled() => return Err(cancelled()),
            lease = pool.acquire_telling(workspace.key, tell) => lease?,
        };
        let took = milliseconds(began.elapsed());
        let miss = lease.miss();
        self.result.timings_ms.queue = Some(if miss.is_some() { took } else { 0.0 });
        self.result.timings_ms.checkout = Some(if miss.is_some() { 0.0 } else { took });
        self.result.warm = Some(miss.is_none());
        self.result.cold_reason = miss.map(name);
        lease.container().keep_built(self.keeps);
        self.result.container_id = Some(lease.container().id().short().to_owned());
        Ok(lease)
    }

    /// Makes the tree in the container that of the workspace.
    pub(super) async fn send(
        &mut self,
        lease: &mut Lease<Starter>,
        workspace: &Workspace,
    ) -> Result<Arc<Snapshot>, Failure> {
        self.progress.say("Sending the workspace");
        let config = &self.settings.config;
        let began = Instant::now();
        let sending = Sending {
            workspace: workspace.clone(),
            links: self.settings.links(workspace),
            rules: SendRules::from(&config.workspace),
            state_dir: self.orchestrator.places.state.clone(),
            lock_timeout: config.workspace.lock_timeout,
            limit: config.run.transfer_timeout,
            manifests: self.orchestrator.manifests.clone(),
            ahead: false,
        };
        let sent = tokio::select! {
            biased;
            () = self.cancel.cancelled() => return Err(cancelled()),
            sent = sending.send(lease.container()) => sent?,
        };
        let took = began.elapsed();
        self.orchestrator.pool.took(Phase::Send, took);
        self.result.timings_ms.send = Some(milliseconds(took));
        let SentTree { snapshot, files, bytes, full } = sent;
        self.result.sent = Some(Sent { files, bytes, full });
        self.result.stayed_home =
            snapshot.stayed_home.iter().map(|stayed| stayed.path.clone()).collect();
        self.result.notes.extend(snapshot.notes());
        if let GitSent::StayedHome(reason) = &snapshot.git {
            self.result.stayed_home.retain(|path| path.trim_end_matches('/') != ".git");
            self.result.stayed_home.push(format!(".git ({reason})"));
        }
        self.orchestrator.warm.used(workspace, &snapshot);
        has_working_dir(&snapshot, workspace)?;
        Ok(snapshot)
    }
}
