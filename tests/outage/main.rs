//! Faults from outside while a run goes on: of its container, of the server, of the whole engine.
//! The real binary over stdio, on real engines, with the real Codex.
//!
//! Without an engine these tests print why they are skipped; with `CODEX_TESTS_REQUIRE_ENGINE=1`
//! they fail instead. The same for the second engine, which needs root on Linux.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "helpers of tests"
)]

mod container;
mod disk;
mod engine;
mod full;
mod restart;

#[path = "../it"]
mod shared {
    #[allow(dead_code, reason = "more tests than these use it")]
    pub(crate) mod support;
}

use shared::support;
