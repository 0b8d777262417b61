//! Change sets on file systems that cannot do all that is asked of them: other ones than usual, full
//! ones, and ones with places that cannot be written.
//!
//! Each test mounts its own where nobody else sees it ([`ground`]), which takes root. Whatever a
//! file system refuses ends with both versions safe: the user's in place, Codex's in the run
//! folder, and a sentence with the path.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test fails by panicking")]

mod editor;
mod fallback;
mod full;
mod ground;
mod names;
mod place;
mod refused;
mod seconds;
