//! What the pool knows at one moment, and what is done with it under its lock.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::Instant;

use crate::config::{PoolConfig, Recycle};
use crate::verdict::{DestroyReason, Health, Policy, unfit};

use super::acquire::Grant;
use super::begun::Begun;
use super::choice::{self, Candidate, Others, WorkspaceKey};
use super::copies::Notes;
use super::place::{Pace, Place, estimate};
use super::prepare::Preparing;
use super::queue::{Queue, Ticket};
use super::sizing::{self, Calls, Limits};
use super::source::{Findings, Pooled, Source, StartError};
use super::stats::{Phase, Stats};
use super::{Member, Shared, Slot, reaper, warmer};

#[derive(Debug)]
pub(crate) struct State<C> {
    pub(crate) idle: Vec<Member<C>>,
    pub(crate) queue: Queue<Grant<C>>,
    pub(crate) starting: usize,
    pub(crate) leased: usize,
    pub(crate) resetting: usize,
    /// Being reset so that nothing is kept.
    pub(crate) cleaning: usize,
    pub(crate) preparing: Vec<Preparing>,
    /// Preparations so far.
    pub(crate) preparations: u64,
    /// The workspaces of those that are leased or being reset.
    pub(crate) engaged: Vec<WorkspaceKey>,
    pub(crate) stats: Stats,
    pub(crate) calls: Calls,
    /// Those that serve a job, by when it began.
    pub(crate) begun: Begun,
    /// Whether the engine runs in a desktop's virtual machine.
    pub(crate) desktop: bool,
    pub(crate) last_error: Option<StartError>,
    /// Of the container that was armed last.
    pub(crate) findings: Findings,
    /// Starts that failed in a row; sets the backoff.
    pub(crate) failures: u32,
    /// No start before this, after a failure.
    pub(crate) not_before: Option<Instant>,
    /// No start for the target before this, after a checkout.
    pub(crate) quiet_until: Option<Instant>,
    pub(crate) closed: bool,
    /// What containers hold.
    pub(crate) notes: Notes,
    /// `workspace.disk_budget`
    pub(crate) disk_budget: u64,
    /// Copies that were given up for the budget.
    pub(crate) given_up: u64,
}

impl<C> State<C> {
    pub(crate) fn new(max_queue: usize) -> Self {
        Self {
            idle: Vec::new(),
            queue: Queue::new(max_queue),
            starting: 0,
            leased: 0,
            resetting: 0,
            cleaning: 0,
            preparing: Vec::new(),
            preparations: 0,
            engaged: Vec::new(),
            stats: Stats::default(),
            calls: Calls::none(),
            begun: Begun::default(),
            desktop: false,
            last_error: None,
            findings: Findings::default(),
            failures: 0,
            not_before: None,
            quiet_until: None,
            closed: false,
            notes: Notes::default(),
            disk_budget: u64::MAX,
            given_up: 0,
        }
    }

    /// Takes an idle container for a job on `workspace`.
    pub(crate) fn grant(&mut self, index: usize, workspace: WorkspaceKey) -> Member<C> {
        self.leased += 1;
        self.engaged.push(workspace);
        let mut member = self.idle.swap_remove(index);
        member.leased_at = Instant::now();
        self.begun.came(member.leased_at);
        member
    }

    /// A container of `workspace`, leased at `since`, is not leased any more, and not being reset.
    pub(crate) fn lease_ended(&mut self, workspace: WorkspaceKey, since: Instant) {
        self.leased -= 1;
        self.begun.ended(since);
        self.disengage(workspace);
    }

    /// A container of `workspace` is neither leased nor being reset any more.
    pub(crate) fn disengage(&mut self, workspace: WorkspaceKey) {
        if let Some(index) = self.engaged.iter().position(|engaged| *engaged == workspace) {
            self.engaged.swap_remove(index);
        }
    }

    /// A preparation is none any more.
    pub(crate) fn end_preparing(&mut self, number: u64) -> Option<Preparing> {
        let index = self.preparing.iter().position(|one| one.is(number))?;
        Some(self.preparing.swap_remove(index))
    }

    pub(crate) fn others(&self) -> Others {
        Others {
            starting: self.starting,
            resetting: self.resetting + self.cleaning,
            preparing: self.preparing.len(),
            leased: self.leased,
            failing: self.failures > 0,
        }
    }

    /// Whether nothing is started for now, since the last start has failed.
    pub(crate) fn is_backing_off(&self) -> bool {
        self.not_before.is_some_and(|not_before| not_before > Instant::now())
    }
}

impl<S: Source> Shared<S> {
    /// Something changed: the warmer looks, and who [watches](super::Pool::watch).
    pub(crate) fn touch(&self) {
        self.changed.notify_one();
        self.stirred.send_replace(());
    }

    /// The engine did what it was asked, or did not.
    pub(crate) fn engine_did(&self, what: bool) {
        let failed = self.failing.swap(!what, Ordering::Relaxed);
        if what && failed {
            self.recovered.send_replace(());
        }
    }

    /// The settings now.
    pub(crate) fn config(&self) -> Arc<PoolConfig> {
        Arc::clone(&self.config.lock())
    }

    /// Makes as many slots as `pool.max_size` says now. Of too many, those without a container go;
    /// those of others go as their containers end.
    pub(crate) fn resize(&self, max_size: usize) {
        while self.slots.status().size < max_size && self.slots.try_add(Slot).is_ok() {}
        while self.slots.status().size > max_size && self.slots.try_remove().is_ok() {}
    }

    pub(crate) fn policy(&self) -> Policy {
        let config = self.config();
        Policy { recycle: config.recycle, max_age: config.max_age, max_uses: config.max_uses }
    }

    /// What [`choice`] decides on, in the order of `state.idle`. Of their health nothing is asked
    /// yet: it takes most of the time, and a hundred may be idle.
    pub(crate) fn candidates(&self, state: &State<S::Container>) -> Vec<Candidate> {
        let now = Instant::now();
        let candidate = |member: &Member<S::Container>| Candidate {
            workspace: member.workspace,
            served: member.served,
            age: now.saturating_duration_since(member.armed_at),
            unfit: false,
        };
        state.idle.iter().map(candidate).collect()
    }

    /// The index of the idle container for a job on `workspace`. One that went bad a moment ago is
    /// seen now, and the next one taken.
    pub(crate) fn choose(
        &self,
        state: &State<S::Container>,
        workspace: WorkspaceKey,
    ) -> Option<usize> {
        let policy = self.policy();
        let mut candidates = self.candidates(state);
        loop {
            let index = choice::choose(&candidates, workspace)?;
            if unfit(state.idle.get(index)?.health(), policy).is_none() {
                return Some(index);
            }
            candidates.get_mut(index)?.unfit = true;
        }
    }

    /// Why a call for `workspace` gets none of the idle containers.
    pub(crate) fn miss(
        &self,
        state: &State<S::Container>,
        workspace: WorkspaceKey,
    ) -> choice::MissReason {
        let policy = self.policy();
        let mut candidates = self.candidates(state);
        for (candidate, member) in candidates.iter_mut().zip(&state.idle) {
            candidate.unfit = unfit(member.health(), policy).is_some();
        }
        choice::miss(&candidates, workspace, state.others())
    }

    /// Slots without a container.
    pub(crate) fn free(&self) -> usize {
        self.slots.status().available
    }

    /// Containers whose removal is under way and will free a slot.
    pub(crate) fn dying(&self, state: &State<S::Container>) -> usize {
        let away = state.starting + state.leased + state.resetting + state.cleaning;
        let known = state.idle.len() + state.preparing.len() + away;
        (self.slots.status().size - self.free()).saturating_sub(known)
    }

    /// How many in line have a container coming without any of the idle ones. While nothing can be
    /// started that is nobody, and nobody is waited for: whom an idle one fits gets it.
    pub(crate) fn coming(&self, state: &State<S::Container>) -> usize {
        if state.is_backing_off() {
            return usize::MAX;
        }
        let fit_soon = state.starting + state.cleaning + state.preparing.len();
        fit_soon + self.free() + self.dying(state)
    }

    /// How many idle containers there should be now.
    pub(crate) fn target(&self, state: &State<S::Container>) -> usize {
        let start = state.stats.percentile(Phase::Start, 95).unwrap_or(sizing::UNKNOWN_START);
        let config = self.config();
        let demand = state.calls.demand(config.idle_ttl, warmer::QUIET + start);
        let limits = Limits {
            min_idle: config.min_idle,
            room: config.max_size.saturating_sub(state.leased + self.dying(state)),
            idle_ttl: config.idle_ttl,
            adaptive: config.adaptive,
            desktop: state.desktop,
        };
        sizing::target(&demand, &limits)
    }

    /// Where a caller stands in line; `None` if it is not in line any more.
    pub(crate) fn place(&self, ticket: Ticket) -> Option<Place> {
        let state = self.state.lock();
        let ahead = state.queue.ahead_of(ticket)?;
        let startable = self.free() + self.dying(&state);
        let startable = if state.is_backing_off() { 0 } else { startable };
        let pace = Pace {
            coming: state.starting
                + state.resetting
                + state.cleaning
                + state.preparing.len()
                + startable,
            start: state.stats.percentile(Phase::Start, 50),
            leased: state.leased,
            lease: state.stats.percentile(Phase::Lease, 50),
        };
        Some(Place { ahead, estimate: estimate(ahead, pace) })
    }

    /// Whether a caller for `workspace` may get a container however starts go: one of its workspace,
    /// of those that are `engaged`, may come back.
    pub(crate) fn may_come_back(&self, engaged: &[WorkspaceKey], workspace: WorkspaceKey) -> bool {
        self.config().recycle == Recycle::Reset && engaged.contains(&workspace)
    }

    /// Gives idle containers to those in line, in their order. A caller whom none fits is overtaken
    /// only if a container is coming for it; else one that does not fit is to make room for it.
    pub(crate) fn serve(&self, state: &mut State<S::Container>) {
        let mut ahead = 0;
        while !state.idle.is_empty() && ahead <= self.coming(state) {
            let Some(workspace) = state.queue.workspace_at(ahead) else { return };
            let Some(index) = self.choose(state, workspace) else {
                ahead += 1;
                continue;
            };
            let Some(sender) = state.queue.take(ahead) else { return };
            let member = state.grant(index, workspace);
            if let Err(Ok(member)) = sender.send(Ok(member)) {
                // Given up in this moment.
                state.lease_ended(workspace, member.leased_at);
                state.idle.push(member);
            }
            self.moved.send_replace(());
        }
    }

    /// Makes a clean container idle, and gives it to the first in line that it fits. `settle` says
    /// what it was until now, so that it is never counted twice and never not at all.
    pub(crate) fn offer(
        self: &Arc<Self>,
        mut member: Member<S::Container>,
        settle: impl FnOnce(&mut State<S::Container>),
    ) {
        member.idle_since = Instant::now();
        self.put_back(member, settle);
    }

    /// The same for one that nobody has used meanwhile.
    pub(crate) fn put_back(
        self: &Arc<Self>,
        member: Member<S::Container>,
        settle: impl FnOnce(&mut State<S::Container>),
    ) {
        let mut state = self.state.lock();
        let reason = match state.closed {
            true => Some(DestroyReason::Shutdown),
            false => unfit(member.health(), self.policy()),
        };
        if let Some(reason) = reason {
            drop(state);
            return self.destroy(member, reason, settle);
        }
        if member.container.note().is_forgotten() {
            if let Err(reason) = self.cleanable(&member) {
                drop(state);
                return self.destroy(member, reason, settle);
            }
            settle(&mut state);
            state.cleaning += 1;
            self.begin_cleaning(member);
            return;
        }
        settle(&mut state);
        state.idle.push(member);
        self.serve(&mut state);
        let over = self.give_up(&mut state);
        drop(state);
        self.end_given_up(over);
        self.touch();
    }

    /// Removes a container in the background; its slot is free again when it is gone. `settle` says
    /// what it was until now.
    pub(crate) fn destroy(
        self: &Arc<Self>,
        member: Member<S::Container>,
        reason: DestroyReason,
        settle: impl FnOnce(&mut State<S::Container>),
    ) {
        tracing::debug!(container = %member.container.id(), ?reason, "container is destroyed");
        let mut state = self.state.lock();
        state.stats.destroyed_for(reason);
        settle(&mut state);
        // Under the lock, so that a drain never sees it neither counted nor a task.
        self.tasks.spawn(reaper::remove(Arc::clone(self), member));
    }
}

impl<C: Pooled> Member<C> {
    pub(crate) fn health(&self) -> Health {
        Health {
            answering: self.container.answering(),
            age: self.armed_at.elapsed(),
            uses: self.uses,
            outdated: self.container.outdated(),
            provable: self.container.findings().no_reset.is_empty(),
        }
    }
}
