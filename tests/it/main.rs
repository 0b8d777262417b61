//! The real binary over stdio, on a real engine, with the real Codex; only the model is scripted.
//!
//! Without an engine these tests print why they are skipped; with `CODEX_TESTS_REQUIRE_ENGINE=1`,
//! as `make test` sets it, they fail instead.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod apply_later;
mod bad_input;
mod cancel;
mod commits;
mod commits_more;
mod ignored;
mod interrupted;
mod kill;
mod leaks;
mod leftovers;
mod lfs;
mod main_job;
mod memory;
mod odd_tree;
mod outcome;
mod parallel;
mod python;
mod repositories;
mod suggest;
mod support;
mod tokens;
mod told;
mod two_jobs;
mod undo;
mod unfinished;
