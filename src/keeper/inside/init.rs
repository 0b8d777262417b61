//! Pid 1: ends the container as soon as the keeper it has seen ends.
//!
//! ```text
//!  waiting ── a keeper is seen ──> watching ── it ends ──> exit, and the kernel ends the container
//!     └────── start_timeout ────────────────────────────────^
//! ```
//!
//! The keeper is no child of pid 1, since an exec started it. Pid 1 looks for it in `/proc`: a
//! process of this very binary, run by root as `serve`. uid 1000 cannot make one
//! (no-new-privileges), and there is no socket or file it could write to. Once seen, a pidfd tells
//! its end without delay or cost. Orphans are reaped by the kernel, since SIGCHLD is ignored.

use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::{Doing, Refusal, process, sys};

const LOOK_SOON: Duration = Duration::from_millis(10);
const LOOK_LATER: Duration = Duration::from_millis(100);
const SOON: Duration = Duration::from_secs(5);

/// Runs as pid 1 until the keeper has ended.
///
/// # Errors
///
/// A sentence if this is not pid 1 or no keeper came within `start_timeout`.
pub fn run(start_timeout: Duration) -> Result<(), Refusal> {
    if !rustix::process::getpid().is_init() {
        return Err(Refusal::new("codex-keeper init runs as pid 1 of a container only"));
    }
    sys::reap_and_end_on_term();
    let started = Instant::now();
    loop {
        if let Some(keeper) = watch_keeper() {
            let mut fds = [PollFd::new(&keeper, PollFlags::IN)];
            while poll(&mut fds, None).is_err() {}
            return Ok(());
        }
        let waited = started.elapsed();
        if waited >= start_timeout {
            return Err(Refusal::new(format!(
                "no keeper came within {} s (start_timeout)",
                start_timeout.as_secs()
            )));
        }
        std::thread::sleep(if waited < SOON { LOOK_SOON } else { LOOK_LATER });
    }
}

/// A handle to the keeper. Looked at again after it was opened, lest the pid is another's by then.
fn watch_keeper() -> Option<rustix::fd::OwnedFd> {
    for pid in process::keepers() {
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw)?;
        let handle = pidfd_open(raw, PidfdFlags::empty()).doing("watch the keeper").ok()?;
        if process::is_keeper(pid) {
            return Some(handle);
        }
    }
    None
}

/// The subcommand `init`.
///
/// # Errors
///
/// As [`run`], and if `seconds` is no number.
pub fn main(seconds: &str) -> Result<(), Refusal> {
    let seconds = seconds.parse().doing("read START_TIMEOUT_SECONDS")?;
    run(Duration::from_secs(seconds))
}
