//! Work on an idle container ahead of the calls, such as sending a workspace into it.
//!
//! ```text
//!            prepare                          Ready: idle, for the workspace it was prepared for
//!   Idle ──────────────> Preparing ── finish ─┼ Untouched: idle, as it was
//!                            │                └ Spoiled: reset; of the workspace it is for nothing
//!                            │                           stays, or what was built in it
//!                            └─ dropped: destroyed
//! ```
//!
//! A container that is being prepared is nobody's lease: it counts neither as a use nor as a hit or a
//! miss. A call in line comes first: [`Preparation::wanted`] resolves when one could be served sooner
//! with this container than otherwise, and so it does when the pool closes.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::verdict::DestroyReason;

use super::choice::WorkspaceKey;
use super::plan::InPreparation;
use super::source::Source;
use super::state::State;
use super::stats::Phase;
use super::{Member, Pool, Shared, recycle};

/// How a preparation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prepared {
    /// The container is ready for the workspace.
    Ready,
    /// Nothing was done with the container.
    Untouched,
    /// Nobody knows what is in the container; it must be reset before anything else.
    Spoiled,
}

/// What the pool knows at one moment, for who chooses a container to prepare.
#[derive(Debug)]
pub struct View<'a, C> {
    /// The idle containers that are fit for use.
    pub idle: Vec<Idle<'a, C>>,
    /// The workspaces of the containers that are leased, being reset or being prepared.
    pub engaged: Vec<WorkspaceKey>,
    /// How many of these are being prepared.
    pub preparing: usize,
    /// Calls in line.
    pub waiting: usize,
    /// Idle containers that the pool tries to keep.
    pub target: usize,
    /// Time since the last call; `None` if there was none yet.
    pub quiet: Option<Duration>,
}

/// An idle container.
#[derive(Debug)]
pub struct Idle<'a, C> {
    /// The container.
    pub container: &'a C,
    /// The only workspace it may serve; `None` for any.
    pub workspace: Option<WorkspaceKey>,
    /// Jobs that it has served.
    pub uses: u32,
    /// Whether it can be given to another workspace by a reset that keeps nothing.
    pub cleanable: bool,
    /// Time since a job or a start made it idle.
    pub idle_for: Duration,
    index: usize,
}

/// What the pool keeps of a preparation.
#[derive(Debug)]
pub(crate) struct Preparing {
    number: u64,
    workspace: WorkspaceKey,
    spare: bool,
    /// Told when it is to be given up.
    off: watch::Sender<bool>,
}

impl Preparing {
    pub(super) fn is(&self, number: u64) -> bool {
        self.number == number
    }

    /// Whether it was told to be given up.
    pub(super) fn is_off(&self) -> bool {
        *self.off.borrow()
    }

    pub(super) fn call_off(&self) {
        self.off.send_replace(true);
    }

    pub(super) fn workspace(&self) -> WorkspaceKey {
        self.workspace
    }

    pub(super) fn in_preparation(&self) -> InPreparation {
        InPreparation { workspace: self.workspace, spare: self.spare }
    }
}

/// A container that is being prepared. It ends with [`Preparation::finish`]; dropped without, its
/// container is destroyed.
#[derive(Debug)]
pub struct Preparation<S: Source> {
    shared: Arc<Shared<S>>,
    member: Option<Member<S::Container>>,
    number: u64,
    workspace: WorkspaceKey,
    since: Instant,
    off: watch::Receiver<bool>,
}

impl<S: Source> Pool<S> {
    /// Takes out an idle container that `choose` names by its place in [`View::idle`], for work on
    /// behalf of the workspace that it names. `None` if it names none, or one that belongs to another
    /// workspace, or the pool is closed. `choose` runs under the pool's lock: it must not wait, and
    /// not call the pool.
    pub fn prepare(
        &self,
        choose: impl FnOnce(&View<'_, S::Container>) -> Option<(usize, WorkspaceKey)>,
    ) -> Option<Preparation<S>> {
        let shared = &self.shared;
        let mut state = shared.state.lock();
        if state.closed {
            return None;
        }
        let (index, workspace) = {
            let view = shared.view(&state);
            let (place, workspace) = choose(&view)?;
            let chosen = view.idle.get(place)?;
            (chosen.index, workspace)
        };
        if state.idle.get(index)?.workspace.is_some_and(|bound| bound != workspace) {
            return None;
        }
        let spare = {
            let member = state.idle.get(index)?;
            !member.served && shared.cleanable(member).is_ok()
        };
        let member = state.idle.swap_remove(index);
        let number = state.preparations;
        state.preparations += 1;
        let (sender, off) = watch::channel(false);
        state.preparing.push(Preparing { number, workspace, spare, off: sender });
        drop(state);
        shared.touch();
        let (shared, member, since) = (Arc::clone(shared), Some(member), Instant::now());
        Some(Preparation { shared, member, number, workspace, since, off })
    }

    /// Looks at the pool as [`Pool::prepare`] does and takes nothing out. `look` runs under the pool's
    /// lock: it must not wait, and not call the pool.
    pub fn look<T>(&self, look: impl FnOnce(&View<'_, S::Container>) -> T) -> T {
        let state = self.shared.state.lock();
        look(&self.shared.view(&state))
    }

    /// Tells when what [`Pool::look`] shows may have changed.
    pub fn watch(&self) -> watch::Receiver<()> {
        self.shared.stirred.subscribe()
    }
}

impl<S: Source> Shared<S> {
    fn view<'a>(&self, state: &'a State<S::Container>) -> View<'a, S::Container> {
        let policy = self.policy();
        let fit = |member: &Member<S::Container>| {
            crate::verdict::unfit(member.health(), policy).is_none()
        };
        let idle = state.idle.iter().enumerate().filter(|(_, member)| fit(member));
        let idle = idle.map(|(index, member)| Idle {
            container: &member.container,
            workspace: member.workspace,
            uses: member.uses,
            cleanable: self.cleanable(member).is_ok(),
            idle_for: member.idle_since.elapsed(),
            index,
        });
        let preparing = state.preparing.iter().map(Preparing::workspace);
        View {
            idle: idle.collect(),
            engaged: state.engaged.iter().copied().chain(preparing).collect(),
            preparing: state.preparing.len(),
            waiting: state.queue.len(),
            target: self.target(state),
            quiet: state.calls.since_last(),
        }
    }
}

impl<S: Source> Preparation<S> {
    /// The container.
    #[expect(clippy::expect_used, reason = "`member` is taken by `finish` and `drop` only")]
    pub fn container(&mut self) -> &mut S::Container {
        &mut self
            .member
            .as_mut()
            .expect("a preparation holds its container until it ends")
            .container
    }

    /// For which workspace it is.
    pub fn workspace(&self) -> WorkspaceKey {
        self.workspace
    }

    /// Jobs that the container has served.
    pub fn uses(&self) -> u32 {
        self.member.as_ref().map_or(0, |member| member.uses)
    }

    /// Resolves when the container is wanted for something that comes first, or the pool closes. The
    /// preparation is then to be finished soon, whichever way it is. Borrows nothing, and is cancel
    /// safe.
    pub fn wanted(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut off = self.off.clone();
        async move {
            // The sender goes only when the preparation has ended.
            let _ = off.wait_for(|off| *off).await;
        }
    }

    /// Ends the preparation. Returns at once: a reset or a removal happens in the background.
    pub fn finish(mut self, how: Prepared) {
        let Some(mut member) = self.member.take() else { return };
        let (shared, number, workspace) = (&self.shared, self.number, self.workspace);
        match how {
            Prepared::Ready => {
                member.workspace = Some(workspace);
                let took = self.since.elapsed();
                shared.put_back(member, |state| {
                    state.end_preparing(number);
                    state.stats.took(Phase::Prepare, took);
                });
            }
            Prepared::Untouched => shared.put_back(member, |state| {
                state.end_preparing(number);
            }),
            Prepared::Spoiled => {
                if let Err(reason) = shared.cleanable(&member) {
                    shared.destroy(member, reason, |state| {
                        state.end_preparing(number);
                    });
                } else {
                    let mut state = shared.state.lock();
                    let wanted = state.end_preparing(number).is_none_or(|ended| ended.is_off());
                    if member.served && !wanted {
                        state.resetting += 1;
                        state.engaged.push(workspace);
                        let reset = recycle::reset(Arc::clone(shared), member, workspace);
                        shared.tasks.spawn(reset);
                    } else {
                        state.cleaning += 1;
                        shared.begin_cleaning(member);
                    }
                }
            }
        }
        shared.settled.notify_one();
    }
}

impl<S: Source> Drop for Preparation<S> {
    fn drop(&mut self) {
        if let Some(member) = self.member.take() {
            let number = self.number;
            self.shared.destroy(member, DestroyReason::PreparationDropped, |state| {
                state.end_preparing(number);
            });
            self.shared.settled.notify_one();
        }
    }
}
