//! Making a container that was used fit for the next one, in the background.
//!
//! ```text
//!  reset   after a job:  what may stay for the next job on the same workspace stays
//!  clean   for another workspace, or after a preparation that failed: nothing stays
//! ```

use std::sync::Arc;

use tokio::time::Instant;

use crate::verdict::{DestroyReason, Verdict, resettable};

use super::begun;
use super::choice::WorkspaceKey;
use super::source::{Pooled, Source};
use super::state::State;
use super::stats::Phase;
use super::{Member, Shared};

/// Resets a container and makes it idle again, or destroys it.
pub(super) async fn reset<S: Source>(
    shared: Arc<Shared<S>>,
    mut member: Member<S::Container>,
    workspace: WorkspaceKey,
) {
    let mut began = Instant::now();
    let outcome = tokio::select! {
        outcome = async {
            begun::give_way(&shared).await;
            began = Instant::now();
            member.container.reset().await
        } => Some(outcome),
        () = shared.closing.cancelled() => None,
    };
    let settle = |state: &mut State<S::Container>| {
        state.resetting -= 1;
        state.disengage(workspace);
        state.stats.took(Phase::Reset, began.elapsed());
    };
    offer_if_proved(&shared, member, outcome, settle);
}

/// Cleans a container and makes it idle for any workspace, or destroys it.
async fn clean<S: Source>(shared: Arc<Shared<S>>, mut member: Member<S::Container>) {
    let began = Instant::now();
    let outcome = tokio::select! {
        outcome = member.container.clean() => Some(outcome),
        () = shared.closing.cancelled() => None,
    };
    member.workspace = None;
    member.served = false;
    let settle = |state: &mut State<S::Container>| {
        state.cleaning -= 1;
        state.stats.took(Phase::Reset, began.elapsed());
    };
    offer_if_proved(&shared, member, outcome, settle);
}

fn offer_if_proved<S: Source>(
    shared: &Arc<Shared<S>>,
    member: Member<S::Container>,
    outcome: Option<Result<(), String>>,
    settle: impl FnOnce(&mut State<S::Container>),
) {
    match outcome {
        Some(Ok(())) => shared.offer(member, settle),
        Some(Err(reason)) => {
            tracing::warn!(container = %member.container.id(), %reason, "a reset was not proved");
            shared.destroy(member, DestroyReason::ResetNotProved, settle);
        }
        None => shared.destroy(member, DestroyReason::Shutdown, settle),
    }
}

impl<S: Source> Shared<S> {
    /// Whether a container can be cleaned; if not, why it is to be destroyed.
    pub(super) fn cleanable(&self, member: &Member<S::Container>) -> Result<(), DestroyReason> {
        match resettable(member.health(), self.policy()) {
            Verdict::Reset => Ok(()),
            Verdict::Destroy(reason) => Err(reason),
        }
    }

    /// Cleans a container in the background. It is to be counted as being cleaned already, under the
    /// same lock as what it was before, so that a drain never sees it neither counted nor a task.
    pub(super) fn begin_cleaning(self: &Arc<Self>, member: Member<S::Container>) {
        self.tasks.spawn(clean(Arc::clone(self), member));
    }
}
