//! One lock for each workspace, shared to take a snapshot and exclusive to apply.
//!
//! Who wants to write closes a gate first, a second file, through which all must go who come later;
//! so readers who follow one another without a gap do not keep a writer waiting for ever.
//!
//! It is an advisory lock on a file in the state directory, so it also holds between two servers
//! and ends with the process that has it. The files stay: removing a lock file that another
//! process is about to lock would give two processes the same lock.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::apply::journal::JournalError;
use super::apply::recover;
use super::{Workspace, WorkspaceKey};

const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// Why the lock was not had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another run had it all the time.
    #[error(
        "another run is reading or writing this workspace and did not finish within {} s \
         (workspace.lock_timeout)",
        .0.as_secs_f32()
    )]
    Timeout(Duration),
    /// The lock file cannot be used.
    #[error("cannot lock {path}: {source}", path = .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An apply was interrupted in this workspace and cannot be undone or finished.
    #[error(transparent)]
    Recovery(#[from] JournalError),
}

/// A lock that is held; given up when dropped.
#[derive(Debug)]
pub struct WorkspaceLock {
    _file: LockFile,
}

/// A turn to read a workspace, shared with other readers. Blocks, at most `timeout`. An apply that
/// was interrupted there is undone or finished first.
///
/// # Errors
///
/// See [`LockError`].
pub fn read(
    state_dir: &Path,
    workspace: &Workspace,
    timeout: Duration,
) -> Result<WorkspaceLock, LockError> {
    let start = Instant::now();
    loop {
        let left = timeout.saturating_sub(start.elapsed());
        let turn = shared(state_dir, workspace.key, left)?;
        // Nobody applies now, so a journal is one that was left.
        if !recover::is_pending(state_dir, workspace)? {
            return Ok(turn);
        }
        drop(turn);
        drop(write(state_dir, workspace, timeout.saturating_sub(start.elapsed()))?);
    }
}

/// A turn to write a workspace, alone. Blocks, at most `timeout`. An apply that was interrupted
/// there is undone or finished first.
///
/// # Errors
///
/// See [`LockError`].
pub fn write(
    state_dir: &Path,
    workspace: &Workspace,
    timeout: Duration,
) -> Result<WorkspaceLock, LockError> {
    let turn = exclusive(state_dir, workspace.key, timeout)?;
    recover::recover(state_dir, workspace)?;
    Ok(turn)
}

/// Locks against [`exclusive`]. Blocks, at most `timeout`.
///
/// # Errors
///
/// See [`LockError`].
pub fn shared(
    state_dir: &Path,
    key: WorkspaceKey,
    timeout: Duration,
) -> Result<WorkspaceLock, LockError> {
    lock(state_dir, key, timeout, FlockOperation::NonBlockingLockShared)
}

/// Whether somebody has the workspace to write it, or waits for that. Blocks for a moment; what cannot
/// be looked at counts as no.
pub fn writer_waits(state_dir: &Path, key: WorkspaceKey) -> bool {
    let path = state_dir.join("locks").join(format!("{}-{}.gate", key.dev, key.ino));
    let Ok(gate) = LockFile::open(&path) else { return false };
    gate.lock(FlockOperation::NonBlockingLockShared).is_ok_and(|open| !open)
}

/// Waits until nobody writes the workspace or waits to write it, for ever if need be: for a thread of
/// its own, which holds nothing meanwhile and nothing afterwards. The kernel wakes it, nothing is
/// polled.
///
/// # Errors
///
/// The lock file cannot be used, or the file system has no such wait.
pub fn wait_until_free(state_dir: &Path, key: WorkspaceKey) -> io::Result<()> {
    // In the order in which readers go, each let go at once.
    for kind in ["gate", "lock"] {
        let path = state_dir.join("locks").join(format!("{}-{}.{kind}", key.dev, key.ino));
        let file = LockFile::open(&path)?;
        while let Err(error) = flock(&file.0, FlockOperation::LockShared) {
            if error != Errno::INTR {
                return Err(error.into());
            }
        }
    }
    Ok(())
}

/// Locks against everybody else. Blocks, at most `timeout`.
///
/// # Errors
///
/// See [`LockError`].
pub fn exclusive(
    state_dir: &Path,
    key: WorkspaceKey,
    timeout: Duration,
) -> Result<WorkspaceLock, LockError> {
    lock(state_dir, key, timeout, FlockOperation::NonBlockingLockExclusive)
}

fn lock(
    state_dir: &Path,
    key: WorkspaceKey,
    timeout: Duration,
    operation: FlockOperation,
) -> Result<WorkspaceLock, LockError> {
    let folder = state_dir.join("locks");
    let failed = |path: &Path, source: io::Error| LockError::File { path: path.into(), source };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&folder)
        .map_err(|error| failed(&folder, error))?;
    let open = |kind: &str| {
        let path = folder.join(format!("{}-{}.{kind}", key.dev, key.ino));
        match LockFile::open(&path) {
            Ok(file) => Ok((file, path)),
            Err(error) => Err(failed(&path, error)),
        }
    };
    let (file, path) = open("lock")?;
    let (gate, gate_path) = open("gate")?;
    let start = Instant::now();
    let mut pause = FIRST_PAUSE;
    // The kernel's own wait has no deadline, and a thread left in it would take the lock long
    // after its caller went away. Trying again is cheap: nobody holds the lock for long.
    loop {
        if gate.lock(operation).map_err(|error| failed(&gate_path, error))? {
            if file.lock(operation).map_err(|error| failed(&path, error))? {
                return Ok(WorkspaceLock { _file: file });
            }
            // A writer keeps the gate closed while it waits.
            if operation == FlockOperation::NonBlockingLockShared {
                gate.unlock().map_err(|error| failed(&gate_path, error))?;
            }
        }
        let left = timeout.saturating_sub(start.elapsed());
        if left.is_zero() {
            return Err(LockError::Timeout(timeout));
        }
        thread::sleep(pause.min(left));
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// An open file that is only there to be locked; the lock ends with it.
#[derive(Debug)]
struct LockFile(File);

impl LockFile {
    fn open(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        options.open(path).map(Self)
    }

    /// Whether it has the lock now.
    fn lock(&self, operation: FlockOperation) -> io::Result<bool> {
        match flock(&self.0, operation) {
            Ok(()) => Ok(true),
            Err(Errno::WOULDBLOCK | Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn unlock(&self) -> io::Result<()> {
        Ok(flock(&self.0, FlockOperation::Unlock)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: WorkspaceKey = WorkspaceKey { dev: 1, ino: 2 };

    #[test]
    fn two_may_read_and_one_may_write() {
        let dir = tempfile::tempdir().unwrap();
        let first = shared(dir.path(), KEY, Duration::ZERO).unwrap();
        let second = shared(dir.path(), KEY, Duration::ZERO).unwrap();
        let other = WorkspaceKey { dev: 1, ino: 3 };
        exclusive(dir.path(), other, Duration::ZERO).unwrap();
        assert!(matches!(
            exclusive(dir.path(), KEY, Duration::from_millis(5)),
            Err(LockError::Timeout(_))
        ));
        drop((first, second));
        let writer = exclusive(dir.path(), KEY, Duration::ZERO).unwrap();
        assert!(shared(dir.path(), KEY, Duration::ZERO).is_err());
        drop(writer);
        shared(dir.path(), KEY, Duration::ZERO).unwrap();
    }

    #[test]
    fn readers_who_follow_one_another_do_not_keep_a_writer_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let first = shared(dir.path(), KEY, Duration::ZERO).unwrap();
        thread::scope(|scope| {
            let writer = scope.spawn(|| exclusive(dir.path(), KEY, Duration::from_secs(20)));
            // The writer waits for the first reader, and from then on nobody else comes before it.
            let began = Instant::now();
            while let Ok(reader) = shared(dir.path(), KEY, Duration::ZERO) {
                drop(reader);
                assert!(began.elapsed() < Duration::from_secs(10), "the gate never closed");
                thread::yield_now();
            }
            // It stays closed, not only while the writer looks.
            for _ in 0..100 {
                assert!(shared(dir.path(), KEY, Duration::ZERO).is_err());
            }
            assert!(!writer.is_finished());
            drop(first);
            let written = writer.join().unwrap().unwrap();
            assert!(shared(dir.path(), KEY, Duration::ZERO).is_err());
            drop(written);
        });
        shared(dir.path(), KEY, Duration::ZERO).unwrap();
    }

    #[test]
    fn who_waits_until_it_is_free_is_told_when_the_writer_is_done_and_hinders_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let held = exclusive(dir.path(), KEY, Duration::ZERO).unwrap();
        thread::scope(|scope| {
            let waiting = scope.spawn(|| wait_until_free(dir.path(), KEY).unwrap());
            assert!(shared(dir.path(), KEY, Duration::from_millis(20)).is_err());
            assert!(!waiting.is_finished());
            drop(held);
            waiting.join().unwrap();
        });
        exclusive(dir.path(), KEY, Duration::ZERO).unwrap();
        // A reader is no hindrance.
        let _reader = shared(dir.path(), KEY, Duration::ZERO).unwrap();
        wait_until_free(dir.path(), KEY).unwrap();
    }

    #[test]
    fn a_writer_who_gives_up_opens_the_gate_again() {
        let dir = tempfile::tempdir().unwrap();
        let _reader = shared(dir.path(), KEY, Duration::ZERO).unwrap();
        exclusive(dir.path(), KEY, Duration::from_millis(3)).unwrap_err();
        shared(dir.path(), KEY, Duration::ZERO).unwrap();
    }

    #[test]
    fn who_waits_gets_it_when_it_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let held = exclusive(dir.path(), KEY, Duration::ZERO).unwrap();
        thread::scope(|scope| {
            let waiting =
                scope.spawn(|| exclusive(dir.path(), KEY, Duration::from_secs(20)).unwrap());
            drop(held);
            drop(waiting.join().unwrap());
        });
    }
}
