//! That a reset is proved: a program of uid 1000 leaves something of every kind behind, and after
//! the reset the container is as it was when it was armed, by the keeper's own fingerprint and by a
//! second look at it that has nothing in common with the keeper; or the reset is refused, and such a
//! container is destroyed.
//!
//! Through the real engine, with the containers that the server itself starts. Left out, with a
//! printed reason, where no engine answers, unless `CODEX_TESTS_REQUIRE_ENGINE=1` says that this is
//! an error.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests, and figures")]

#[path = "../common/engine.rs"]
mod engine;
mod files;
mod full;
mod harness;
mod kept;
mod processes;
mod settings;
