//! Where a pool's containers come from, as far as the pool has to know it.

use std::fmt;
use std::time::Duration;

use futures::future::BoxFuture;
use serde::Serialize;

use crate::engine::ContainerId;
use crate::failure::{ErrorKind, Failure};

use super::copies::Note;

/// Starts, arms and removes containers of one profile.
pub trait Source: fmt::Debug + Send + Sync + 'static {
    /// An armed container.
    type Container: Pooled;

    /// Starts a container and arms it, within its own deadline. On an error nothing is left that
    /// a sweep would not find.
    fn start(&self) -> BoxFuture<'_, Result<Self::Container, StartError>>;

    /// Removes a container and its volumes. One that is gone is no error.
    fn remove<'a>(&'a self, id: &'a ContainerId) -> BoxFuture<'a, Result<(), String>>;
}

/// An armed container, as far as the pool has to know it.
pub trait Pooled: fmt::Debug + Send + Sync + 'static {
    /// The engine's identifier.
    fn id(&self) -> &ContainerId;

    /// What arming found that the user should know of.
    fn findings(&self) -> &Findings;

    /// Whether containers are started from something else by now.
    fn outdated(&self) -> bool;

    /// Whether the stream is open and the keeper was heard in time; asks nobody.
    fn answering(&self) -> bool;

    /// Where it notes what it holds of a workspace.
    fn note(&self) -> &Note;

    /// How long until it may be found not [`answering`](Self::answering) if it says nothing more, so
    /// that the pool looks again then; asks nobody.
    fn silent_in(&self) -> Duration {
        Duration::MAX
    }

    /// Resolves with the reason when the container is lost. Does not keep the stream open.
    fn lost(&self) -> BoxFuture<'static, String>;

    /// Ends every process, empties the writable places, and proves both, within its own deadline.
    /// What may stay for the next job on the same workspace stays.
    ///
    /// # Errors
    ///
    /// What was not as it was at arming; the container must then be destroyed.
    fn reset(&mut self) -> BoxFuture<'_, Result<(), String>>;

    /// The same, and nothing of the workspace that it served stays: afterwards it may serve any.
    ///
    /// # Errors
    ///
    /// As with [`reset`](Self::reset).
    fn clean(&mut self) -> BoxFuture<'_, Result<(), String>>;
}

/// Where an armed container, although fit for use, is not all that was asked for. Each is a
/// sentence for the user.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Findings {
    /// What the engine does not enforce.
    pub unenforced: Vec<String>,
    /// Why no reset can be proved; a container is then destroyed after its first job. Empty if one
    /// can.
    pub no_reset: Vec<String>,
}

/// Why a container could not be started and armed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{sentence}")]
pub struct StartError {
    /// The stable kind.
    pub kind: ErrorKind,
    /// What happened and what to do.
    pub sentence: String,
}

impl StartError {
    /// Whether trying again without a change by the user is pointless, so that callers are told
    /// at once instead of after `acquire_timeout`.
    pub fn is_permanent(&self) -> bool {
        !matches!(self.kind, ErrorKind::ContainerLost | ErrorKind::Internal)
    }
}

impl From<Failure> for StartError {
    fn from(failure: Failure) -> Self {
        Self { kind: failure.kind, sentence: failure.sentence }
    }
}
