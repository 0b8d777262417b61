//! What comes out of a container, as an attacker would write it who controls the keeper as well:
//! streams made byte by byte, taken in, sorted out and applied as those of a real run are.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test fails by panicking")]

mod endless;
mod git_rules;
mod held;
mod ignored;
mod large;
mod legal;
mod place;
mod race;
mod refused;
mod tar;

#[global_allocator]
static ALLOCATOR: large::Counting = large::Counting;
