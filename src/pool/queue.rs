//! The waiting line: first come, first served.
//!
//! Whom a container fits is decided by the pool; the line keeps the order, its bound, and how often
//! a start has failed for each caller.

use std::collections::VecDeque;

use tokio::sync::oneshot;

use super::choice::WorkspaceKey;

/// Starts that may fail for one caller, in a row, before it is told. What a user must put right is
/// told after the first.
const PATIENCE: u32 = 3;

/// A place in line. Later ones are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(u64);

#[derive(Debug)]
pub(crate) struct Queue<T> {
    line: VecDeque<Caller<T>>,
    next: u64,
    limit: usize,
}

#[derive(Debug)]
struct Caller<T> {
    ticket: Ticket,
    workspace: WorkspaceKey,
    /// Starts in a row that began and failed while this call was in line.
    failed: u32,
    sender: oneshot::Sender<T>,
}

impl<T> Queue<T> {
    pub(crate) fn new(limit: usize) -> Self {
        Self { line: VecDeque::new(), next: 0, limit }
    }

    /// Sets how long the line may be; those in it stay.
    pub(crate) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    pub(crate) fn len(&self) -> usize {
        self.line.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.line.is_empty()
    }

    /// The ticket of the next caller.
    pub(crate) fn next_ticket(&self) -> Ticket {
        Ticket(self.next)
    }

    /// The last place in line; `None` if the line is full.
    pub(crate) fn push(
        &mut self,
        workspace: WorkspaceKey,
    ) -> Option<(Ticket, oneshot::Receiver<T>)> {
        if self.line.len() >= self.limit {
            return None;
        }
        let ticket = self.next_ticket();
        self.next += 1;
        let (sender, receiver) = oneshot::channel();
        self.line.push_back(Caller { ticket, workspace, failed: 0, sender });
        Some((ticket, receiver))
    }

    /// How many are before `ticket`; `None` if it is not in line any more.
    pub(crate) fn ahead_of(&self, ticket: Ticket) -> Option<usize> {
        self.line.binary_search_by_key(&ticket, |caller| caller.ticket).ok()
    }

    /// What the caller with `ahead` others before it wants.
    pub(crate) fn workspace_at(&self, ahead: usize) -> Option<WorkspaceKey> {
        self.line.get(ahead).map(|caller| caller.workspace)
    }

    /// What those in line want, in their order.
    pub(crate) fn workspaces(&self) -> Vec<WorkspaceKey> {
        self.line.iter().map(|caller| caller.workspace).collect()
    }

    /// Whether anybody in line wants `workspace`.
    pub(crate) fn wants(&self, workspace: Option<WorkspaceKey>) -> bool {
        self.line.iter().any(|caller| Some(caller.workspace) == workspace)
    }

    /// Takes the caller with `ahead` others before it out of the line.
    pub(crate) fn take(&mut self, ahead: usize) -> Option<oneshot::Sender<T>> {
        self.line.remove(ahead).map(|caller| caller.sender)
    }

    /// Gives a place up; `false` if it was served already.
    pub(crate) fn leave(&mut self, ticket: Ticket) -> bool {
        self.ahead_of(ticket).and_then(|index| self.line.remove(index)).is_some()
    }

    /// A start that began when `began` was the next ticket has failed. Takes those out of the line
    /// whom waiting does not help: it was `permanent` or not the first for them, they have no hope
    /// of another container, and `coming` others that are on their way to serve
    /// anybody are for callers before
    /// them. A start that began before a call came says nothing to it: what failed may have been
    /// put right.
    pub(crate) fn start_failed(
        &mut self,
        began: Ticket,
        permanent: bool,
        coming: usize,
        hope: impl Fn(WorkspaceKey) -> bool,
    ) -> Vec<oneshot::Sender<T>> {
        let mut provided = coming;
        let mut told = Vec::new();
        for mut caller in std::mem::take(&mut self.line) {
            let seen = caller.ticket < began;
            caller.failed += u32::from(seen);
            let in_vain = seen && (permanent || caller.failed >= PATIENCE);
            if !in_vain || hope(caller.workspace) {
                self.line.push_back(caller);
            } else if provided > 0 {
                provided -= 1;
                self.line.push_back(caller);
            } else {
                told.push(caller.sender);
            }
        }
        told
    }

    /// Whether a caller waits that came after `ticket` was the next one.
    pub(crate) fn has_since(&self, ticket: Ticket) -> bool {
        self.line.back().is_some_and(|caller| caller.ticket >= ticket)
    }

    /// Starts work again.
    pub(crate) fn start_succeeded(&mut self) {
        for caller in &mut self.line {
            caller.failed = 0;
        }
    }

    /// Empties the line with the same answer for all.
    pub(crate) fn answer_all(&mut self, answer: impl Fn() -> T) {
        for caller in self.line.drain(..) {
            // A receiver that is gone has given its place up.
            let _ = caller.sender.send(answer());
        }
    }
}
