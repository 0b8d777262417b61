//! The waiting line: first come, first served, among those that a container fits.

use std::collections::VecDeque;

use tokio::sync::oneshot;

use super::choice::WorkspaceKey;

/// A place in line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket(u64);

#[derive(Debug)]
pub(crate) struct Queue<T> {
    line: VecDeque<Place<T>>,
    next: u64,
    limit: usize,
}

#[derive(Debug)]
struct Place<T> {
    ticket: Ticket,
    workspace: WorkspaceKey,
    sender: oneshot::Sender<T>,
}

impl<T> Queue<T> {
    pub(crate) fn new(limit: usize) -> Self {
        Self { line: VecDeque::new(), next: 0, limit }
    }

    pub(crate) fn len(&self) -> usize {
        self.line.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.line.is_empty()
    }

    /// The last place in line; `None` if the line is full.
    pub(crate) fn push(
        &mut self,
        workspace: WorkspaceKey,
    ) -> Option<(Ticket, oneshot::Receiver<T>)> {
        if self.line.len() >= self.limit {
            return None;
        }
        let ticket = Ticket(self.next);
        self.next += 1;
        let (sender, receiver) = oneshot::channel();
        self.line.push_back(Place { ticket, workspace, sender });
        Some((ticket, receiver))
    }

    /// Takes the first in line whose workspace `fits`.
    pub(crate) fn pop_first(
        &mut self,
        fits: impl Fn(WorkspaceKey) -> bool,
    ) -> Option<oneshot::Sender<T>> {
        let index = self.line.iter().position(|place| fits(place.workspace))?;
        self.line.remove(index).map(|place| place.sender)
    }

    /// Gives a place up; one that was served already is no error.
    pub(crate) fn leave(&mut self, ticket: Ticket) {
        self.line.retain(|place| place.ticket != ticket);
    }

    /// Empties the line with the same answer for all.
    pub(crate) fn answer_all(&mut self, answer: impl Fn() -> T) {
        for place in self.line.drain(..) {
            // A receiver that is gone has given its place up.
            let _ = place.sender.send(answer());
        }
    }
}
