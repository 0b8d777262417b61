//! Puts the parts together for the commands that run Codex.

use std::sync::Arc;

use futures::future::BoxFuture;

use super::Context;
use crate::failure::{ErrorKind, Failure};
use crate::mcp::Jobs;

/// The jobs, and how to end what is behind them.
pub(super) struct Parts {
    pub(super) jobs: Arc<dyn Jobs>,
    /// Removes every container of ours; to be awaited after the last job has ended.
    pub(super) end: BoxFuture<'static, ()>,
}

/// Makes the parts. Does not wait for a container or an engine: a server must answer `initialize`
/// at once.
pub(super) fn start(_context: &Context) -> Result<Parts, Failure> {
    Err(Failure::new(ErrorKind::EngineUnavailable, "this build has no engine"))
}
