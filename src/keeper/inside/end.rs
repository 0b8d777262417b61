//! Ending every process.
//!
//! `kill(-1, SIGKILL)` reaches every process in the pid namespace at once, pid 1 and the keeper
//! excepted, and needs no fork: at the process limit a fork would fail. A process that is just
//! being made can slip through one round, so rounds are repeated until `/proc` shows none and,
//! where it can be read, the cgroup counts no thread but those of init, the keeper and the dead.

use super::guard::InContainer;
use super::{Doing, Refusal, cgroup, children, process, sys};

/// Kills once, and counts what is left.
pub(super) fn round(proof: &InContainer) -> Result<u32, Refusal> {
    sys::kill_everything(proof).doing("end the processes")?;
    children::reap_strays();
    left()
}

/// Processes other than init and keeper, by `/proc` or by the cgroup, whichever sees more.
pub(super) fn left() -> Result<u32, Refusal> {
    let seen = u32::try_from(process::others()?.len()).unwrap_or(u32::MAX);
    if seen > 0 {
        return Ok(seen);
    }
    let Some(counted) = cgroup::pids_current() else { return Ok(0) };
    let ours = process::threads(std::process::id()) + process::threads(1) + process::zombies();
    Ok(counted.saturating_sub(ours))
}
