//! Keeps containers ready: one task that starts what the [plan](super::plan) says, and removes what
//! the [target](super::sizing) does not need any more.

use std::sync::Arc;
use std::time::Duration;

use deadpool::unmanaged;
use tokio::time::Instant;

use crate::verdict::{DestroyReason, unfit};

use super::acquire::AcquireError;
use super::backoff::{backoff, random};
use super::choice::{self, Bound};
use super::plan::{Bounds, Counts, Plan, plan};
use super::prepare::Preparing;
use super::queue::Ticket;
use super::sizing::{Unused, surplus};
use super::source::{Findings, Pooled, Source, StartError};
use super::state::State;
use super::stats::Phase;
use super::{Member, Shared, Slot};

/// How often idle containers are looked at for their age when nothing else happens, at least; more
/// often with a short `pool.idle_ttl`.
const INSPECTION: Duration = Duration::from_secs(30);

/// The shortest wait for a silence: it counts ticks and not time, so it may be over a little later.
const A_MOMENT: Duration = Duration::from_millis(100);

/// The pause between two removals of what is surplus: they are no work that is urgent.
const GENTLE: Duration = Duration::from_secs(1);

/// After a lonely checkout the target is refilled only so much later, since starting a container
/// would take the processors from the job that has just begun. A call in line waits for nothing.
pub const QUIET: Duration = Duration::from_millis(300);

/// Runs until the pool is closed.
pub(super) async fn keep_warm<S: Source>(shared: Arc<Shared<S>>) {
    loop {
        let wait = step(&shared);
        let Some(wait) = wait else { return };
        tokio::select! {
            biased;
            () = shared.changed.notified() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Does what is to be done now; gives how long until it must look again, `None` when closed.
fn step<S: Source>(shared: &Arc<Shared<S>>) -> Option<Duration> {
    let (config, policy) = (shared.config(), shared.policy());
    let mut leaving = Vec::new();
    let mut begun = Vec::new();
    let mut wait = INSPECTION.min(config.idle_ttl / 20);
    let ticket;
    {
        let mut state = shared.state.lock();
        if state.closed {
            return None;
        }
        let mut index = 0;
        while index < state.idle.len() {
            match unfit(state.idle[index].health(), policy) {
                Some(reason) => leaving.push((state.idle.swap_remove(index), reason)),
                None => index += 1,
            }
        }
        if let Some(oldest) = state.idle.iter().map(|member| member.armed_at.elapsed()).max() {
            wait = wait.min(policy.max_age.saturating_sub(oldest));
        }
        // Silence is no event: it is looked for when it may be over the limit.
        let silent_in = state.idle.iter().map(|member| member.container.silent_in()).min();
        wait = wait.min(silent_in.map_or(wait, |silent_in| silent_in.max(A_MOMENT)));
        shared.resize(config.max_size);
        while shared.slots.status().size > config.max_size + shared.dying(&state) {
            let Some(index) = least_wanted(shared, &state) else { break };
            leaving.push((state.idle.swap_remove(index), DestroyReason::Surplus));
        }
        let target = shared.target(&state);
        let bounds = Bounds { target, refill_concurrency: config.refill_concurrency };
        let backing_off = state.not_before.filter(|not_before| *not_before > Instant::now());
        let plan = loop {
            shared.serve(&mut state);
            let plan = planned(shared, &state, bounds, backing_off.is_some());
            // One at a time: each changes what can be spared next.
            if let Some(index) = plan.call_off.first() {
                if let Some(one) = state.preparing.iter().filter(|one| !one.is_off()).nth(*index) {
                    one.call_off();
                }
            } else if let (1.., Some(index)) = (plan.clean, least_wanted(shared, &state)) {
                let cleanable = shared.cleanable(&state.idle[index]).is_ok();
                // Without a start its place would be of use to nobody.
                if !cleanable && backing_off.is_some() {
                    break plan;
                }
                let member = state.idle.swap_remove(index);
                if cleanable {
                    state.cleaning += 1;
                    shared.begin_cleaning(member);
                } else {
                    leaving.push((member, DestroyReason::OtherWorkspace));
                }
            } else {
                break plan;
            }
        };
        if let Some(index) = surplus(&unused(&state), target, config.idle_ttl) {
            leaving.push((state.idle.swap_remove(index), DestroyReason::Surplus));
            wait = wait.min(GENTLE);
        }
        let quiet_until = state.quiet_until.filter(|_| state.queue.is_empty());
        match backing_off.max(quiet_until) {
            Some(not_before) if not_before > Instant::now() => {
                wait = wait.min(not_before - Instant::now());
            }
            _ => {
                for _ in 0..plan.start {
                    let Ok(slot) = shared.slots.try_get() else { break };
                    state.starting += 1;
                    begun.push(slot);
                }
            }
        }
        ticket = state.queue.next_ticket();
    }
    for (member, reason) in leaving {
        shared.destroy(member, reason, |_| {});
    }
    for slot in begun {
        shared.tasks.spawn(start(Arc::clone(shared), slot, ticket));
    }
    Some(wait)
}

fn planned<S: Source>(
    shared: &Shared<S>,
    state: &State<S::Container>,
    bounds: Bounds,
    backing_off: bool,
) -> Plan {
    let on: Vec<_> =
        state.preparing.iter().filter(|one| !one.is_off()).map(Preparing::in_preparation).collect();
    // While nothing can be started a slot is of no use to those in line.
    let (free, dying) = (shared.free(), shared.dying(state));
    // Only for those in line something is cleaned.
    let spare = match state.queue.is_empty() {
        true => 0,
        false => bound(shared, state).iter().filter(|one| one.spare).count(),
    };
    let counts = Counts {
        idle: state.idle.len(),
        spare,
        starting: state.starting,
        resetting: state.resetting,
        cleaning: state.cleaning + state.preparing.len() - on.len(),
        free: if backing_off { 0 } else { free },
        dying: if backing_off { 0 } else { dying },
    };
    plan(&state.queue.workspaces(), &on, counts, bounds)
}

/// The idle containers, as [`choice::least_wanted`] decides on them.
fn bound<S: Source>(shared: &Shared<S>, state: &State<S::Container>) -> Vec<Bound> {
    let candidates = shared.candidates(state);
    let bound = |(index, member): (usize, &Member<S::Container>)| Bound {
        wanted: state.queue.wants(member.workspace),
        spare: shared.cleanable(member).is_ok() && choice::is_spare(&candidates, index),
        idle_for: member.idle_since.elapsed(),
    };
    state.idle.iter().enumerate().map(bound).collect()
}

fn least_wanted<S: Source>(shared: &Shared<S>, state: &State<S::Container>) -> Option<usize> {
    choice::least_wanted(&bound(shared, state))
}

fn unused<C>(state: &State<C>) -> Vec<Unused> {
    let unused = |member: &Member<C>| Unused {
        workspace: member.workspace,
        served: member.served,
        idle_for: member.idle_since.elapsed(),
    };
    state.idle.iter().map(unused).collect()
}

/// Logs what is not as it was asked for; once, until a container differs from the one before.
fn tell(findings: &Findings) {
    for sentence in &findings.unenforced {
        tracing::warn!("not enforced: {sentence}");
    }
    for sentence in &findings.no_reset {
        tracing::warn!("containers are destroyed after each run, not reset: {sentence}");
    }
}

/// Starts one container and offers it. `began` is the ticket of the first call that came later.
async fn start<S: Source>(shared: Arc<Shared<S>>, slot: unmanaged::Object<Slot>, began: Ticket) {
    let begun_at = Instant::now();
    match shared.source.start().await {
        Ok(container) => {
            shared.engine_did(true);
            // The watch tells the warmer, which finds the container unfit.
            let lost = container.lost();
            let watch = Arc::downgrade(&shared);
            tokio::spawn(async move {
                let reason = lost.await;
                tracing::debug!(%reason, "a container's stream ended");
                if let Some(shared) = watch.upgrade() {
                    shared.touch();
                }
            });
            let findings = container.findings().clone();
            let note = container.note().clone();
            let now = Instant::now();
            let member = Member {
                container,
                armed_at: now,
                uses: 0,
                workspace: None,
                served: false,
                idle_since: now,
                leased_at: now,
                slot,
            };
            shared.offer(member, |state| {
                if state.findings != findings {
                    tell(&findings);
                    state.findings = findings;
                }
                state.notes.add(&note);
                state.starting -= 1;
                state.failures = 0;
                state.not_before = None;
                state.last_error = None;
                state.queue.start_succeeded();
                state.stats.took(Phase::Start, begun_at.elapsed());
            });
        }
        Err(error) => {
            tracing::warn!(%error, "a container could not be started");
            shared.engine_did(false);
            drop(slot);
            failed(&shared, error, began);
        }
    }
}

/// Backs off, and tells those in line whom waiting does not help.
fn failed<S: Source>(shared: &Shared<S>, error: StartError, began: Ticket) {
    let mut state = shared.state.lock();
    let state = &mut *state;
    state.starting -= 1;
    state.failures = state.failures.saturating_add(1);
    // What waits, or is prepared, for others is cleaned for those in line while nothing starts.
    let coming = state.starting
        + state.cleaning
        + state.preparing.len()
        + state.idle.iter().filter(|member| shared.cleanable(member).is_ok()).count();
    let (queue, engaged) = (&mut state.queue, &state.engaged);
    let provable = state.findings.no_reset.is_empty();
    let hope = |workspace| provable && shared.may_come_back(engaged, workspace);
    let told = queue.start_failed(began, error.is_permanent(), coming, hope);
    for sender in told {
        // A receiver that is gone has given its place up.
        let _ = sender.send(Err(AcquireError::Start(error.clone())));
    }
    // A call that came meanwhile may have mended it, and has a try of its own.
    let has_since = state.queue.has_since(began);
    let wait = backoff(state.failures, !state.queue.is_empty(), random());
    state.not_before = (!has_since).then(|| Instant::now() + wait);
    state.last_error = Some(error);
    shared.moved.send_replace(());
    shared.touch();
}
