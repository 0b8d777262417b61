//! The MCP side: tools, their schemas, their results. Only this module and [`crate::server`] know
//! `rmcp`.
//!
//! ```text
//!  tools/call ─> handler ─ arguments checked ─> Jobs ─> result ─> structured content + text
//!                   │                            │
//!                   │      stage (newest only)   │
//!                   └──── progress task <────────┘
//! ```
//!
//! Every call runs as a task of its own, so a panic is an answer like any other failure, and a
//! client that goes away cancels the run but does not drop it in the middle of writing files.
//! Notifications are sent by a side task: the run never waits for a client that does not read.

pub mod handler;
mod progress;
pub mod schema;
pub mod tools;

use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use crate::failure::Failure;
use crate::job::call::{ApplyCall, DiffCall, RunCall};
use crate::job::progress::ProgressSender;
use crate::job::result::{ApplyReport, DiffPage, RunResult};
use crate::pool::status::PoolStatus;

pub use self::handler::CodexTools;

/// What the tools do; behind it are the pool, the workspaces and the records.
pub trait Jobs: Send + Sync + 'static {
    /// Runs Codex. Once `cancel` is cancelled it ends soon, with a result like any other; the
    /// future itself is not dropped before it is done.
    fn run(
        &self,
        call: RunCall,
        progress: ProgressSender,
        cancel: CancellationToken,
    ) -> BoxFuture<'_, RunResult>;

    /// One page of the diff of a run.
    fn diff(&self, call: DiffCall) -> BoxFuture<'_, Result<DiffPage, Failure>>;

    /// Applies what is held of a run.
    fn apply(&self, call: ApplyCall) -> BoxFuture<'_, Result<ApplyReport, Failure>>;

    /// The pool now. Must answer at once, also while containers start.
    fn pool_status(&self) -> PoolStatus;
}
