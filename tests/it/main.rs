//! The real binary over stdio, on a real engine, with the real Codex; only the model is scripted.
//!
//! Without an engine these tests print why they are skipped; with `CODEX_TESTS_REQUIRE_ENGINE=1`,
//! as `make test` sets it, they fail instead.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod answer;
mod apply_later;
mod ask;
mod attempts;
mod bad_input;
mod builds;
mod cancel;
mod commits;
mod commits_more;
mod continued;
mod health;
mod history;
mod host_paths;
mod ignored;
mod inherited;
mod interrupted;
mod kill;
mod kill_at_random;
mod leaks;
mod leftovers;
mod lfs;
mod list_changed;
mod login;
mod login_runs;
mod main_job;
mod memory;
mod network;
mod network_modes;
mod odd_tree;
mod outcome;
mod parallel;
mod progress;
mod python;
mod repositories;
mod rounds;
mod settings;
mod suggest;
mod support;
mod sweep;
mod tokens;
mod told;
mod two_jobs;
mod two_ways;
mod undo;
mod unfinished;
mod warm;
