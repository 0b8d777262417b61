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

mod elicit;
pub mod handler;
mod list_changes;
mod progress;
pub mod schema;
pub mod tools;

pub use self::handler::CodexTools;
