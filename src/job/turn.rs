//! Waiting for a workspace's lock in short turns, so that a call that ends meanwhile does not wait on.

use std::path::Path;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::workspace::Workspace;
use crate::workspace::lock::{LockError, WorkspaceLock};

/// How long one turn of waiting takes.
const TURN: Duration = Duration::from_millis(100);

/// A way to wait for a lock: [`read`](crate::workspace::lock::read) or [`write`](crate::workspace::lock::write).
pub(super) type Lock = fn(&Path, &Workspace, Duration) -> Result<WorkspaceLock, LockError>;

/// Waits for a lock at most `timeout`; `None` once `cancel` is cancelled, also if the lock could be
/// had: what comes later comes too late. Blocks.
///
/// # Errors
///
/// See [`LockError`].
pub(super) fn unless(
    cancel: &CancellationToken,
    lock: Lock,
    state: &Path,
    workspace: &Workspace,
    timeout: Duration,
) -> Result<Option<WorkspaceLock>, LockError> {
    let began = Instant::now();
    loop {
        let left = timeout.saturating_sub(began.elapsed());
        match lock(state, workspace, TURN.min(left)) {
            Ok(_) | Err(LockError::Timeout(_)) if cancel.is_cancelled() => return Ok(None),
            Err(LockError::Timeout(_)) if began.elapsed() < timeout => {}
            Err(LockError::Timeout(_)) => return Err(LockError::Timeout(timeout)),
            done => return done.map(Some),
        }
    }
}
