//! The keeper in a real container, through the docker command line. Left out, with a printed
//! reason, where no engine answers, unless `CODEX_TESTS_REQUIRE_ENGINE=1` says that this is an
//! error. `CODEX_IMAGE` names the image (any Linux with a shell and python3).

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests, and figures")]

mod attack;
mod collected;
#[path = "../common/engine.rs"]
mod engine;
mod full;
mod harness;
mod kept;
mod life;
mod stays;
mod stays_attack;
