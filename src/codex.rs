//! Codex in a container: its command line, what it says, and what that means.
//!
//! ```text
//!  CodexCommand ──> keeper spawns ──> CodexRun follows ──> CodexOutcome ──> judge ──> success | Failure
//!                                        │ events.jsonl, stderr.log, progress
//! ```
//!
//! Codex's own sandbox is off, because the container is the sandbox. Its exit code proves nothing:
//! a turn in which every tool failed ends with 0. Nor do its events tell what changed; that comes
//! from the tree.

pub mod app_server;
pub mod command;
pub mod events;
pub mod exec;
pub mod home;
pub mod lines;
pub mod log;
pub mod login;
pub mod outcome;
pub mod progress;
pub mod schema;
pub mod thread;

pub use self::command::CodexCommand;
pub use self::events::{CodexEvent, EventParser};
pub use self::exec::{CodexRun, Output, Source};
pub use self::log::LimitedLog;
pub use self::outcome::{CodexOutcome, Usage, judge};
