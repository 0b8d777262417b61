//! The exclusive right to one container for one job.

use std::sync::Arc;

use tokio::time::Instant;

use crate::verdict::{DestroyReason, JobEnd, Verdict, verdict};

use super::choice::{MissReason, WorkspaceKey};
use super::source::Source;
use super::stats::Phase;
use super::{Member, Shared, recycle};

/// A leased container. It ends with [`Lease::settle`]; dropped without, for whatever reason, its
/// container is destroyed.
#[derive(Debug)]
pub struct Lease<S: Source> {
    shared: Arc<Shared<S>>,
    member: Option<Member<S::Container>>,
    workspace: WorkspaceKey,
    since: Instant,
    miss: Option<MissReason>,
}

impl<S: Source> Lease<S> {
    pub(super) fn new(
        shared: Arc<Shared<S>>,
        mut member: Member<S::Container>,
        workspace: WorkspaceKey,
        miss: Option<MissReason>,
    ) -> Self {
        member.workspace = Some(workspace);
        member.served = true;
        member.uses += 1;
        let since = member.leased_at;
        Self { shared, member: Some(member), workspace, since, miss }
    }

    /// The container.
    #[expect(clippy::expect_used, reason = "`member` is taken by `settle` and `drop` only")]
    pub fn container(&mut self) -> &mut S::Container {
        &mut self.member.as_mut().expect("a lease holds its container until it ends").container
    }

    /// Why the call had to wait; `None` if the container was waiting for it.
    pub fn miss(&self) -> Option<MissReason> {
        self.miss
    }

    /// Ends the lease. Returns at once: the reset or the removal happens in the background.
    pub fn settle(mut self, end: JobEnd) -> Verdict {
        let Some(member) = self.member.take() else {
            return Verdict::Destroy(DestroyReason::LeaseDropped);
        };
        let verdict = verdict(end, member.health(), self.shared.policy());
        match verdict {
            Verdict::Reset => {
                let mut state = self.shared.state.lock();
                state.leased -= 1;
                state.resetting += 1;
                state.begun.ended(self.since);
                state.stats.took(Phase::Lease, self.since.elapsed());
                // Under the lock, so that a drain never sees it neither leased nor a task.
                let reset = recycle::reset(Arc::clone(&self.shared), member, self.workspace);
                self.shared.tasks.spawn(reset);
            }
            Verdict::Destroy(reason) => self.destroy(member, reason),
        }
        self.ended();
        verdict
    }

    /// Tells those who wait for the end of leases.
    fn ended(&self) {
        self.shared.settled.notify_one();
        if self.shared.state.lock().begun.is_empty() {
            self.shared.calm.notify_waiters();
        }
    }

    fn destroy(&self, member: Member<S::Container>, reason: DestroyReason) {
        self.shared.destroy(member, reason, |state| {
            state.lease_ended(self.workspace, self.since);
            state.stats.took(Phase::Lease, self.since.elapsed());
        });
    }
}

impl<S: Source> Drop for Lease<S> {
    fn drop(&mut self) {
        if let Some(member) = self.member.take() {
            self.destroy(member, DestroyReason::LeaseDropped);
            self.ended();
        }
    }
}
