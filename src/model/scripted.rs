//! A model that follows a script: a local server of the Responses API that makes Codex read, run
//! commands and patch files. The demo, the tests and the benchmarks start it; nothing else does,
//! and a server that is set to a real provider has no way to it.
//!
//! What comes next is told by the request itself: each tool call that the model makes carries the
//! number of its step in its id, and Codex sends the ids back with the results. So one model serves
//! any number of runs at once and keeps no conversation. Only the count of faults that go away
//! ([`Fault::times`]) is kept, by Codex's session.
//!
//! The form of a tool call follows the tools that the request offers: JavaScript for `exec` where
//! the model works in code mode, else `exec_command` and `apply_patch` themselves.

mod builtin;
mod reply;
mod script;
mod server;

pub use self::script::{Fault, Scenario, Script, ScriptError, Step, Usage};
pub use self::server::{Recorded, ScriptedModel};
