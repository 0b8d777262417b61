//! The locks that Codex takes around a change of `auth.json`.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::FlockOperation;
use tokio::time::Instant;

use super::chatgpt::LoginError;
use super::owner;

/// How long another program may hold them: a little over what a refresh may take.
const LIMIT: Duration = Duration::from_secs(45);
/// Between two attempts; `flock` cannot be waited for with a limit.
const PAUSE: Duration = Duration::from_millis(50);

/// Both locks. Dropping it gives them back.
#[derive(Debug)]
pub(super) struct Locks {
    _login: File,
    _file: File,
}

impl Locks {
    /// Takes both, `auth.lock` first. Never holds one while it waits for the other.
    pub(super) async fn hold(codex_home: &Path) -> Result<Self, LoginError> {
        let unwritable = |error: std::io::Error| LoginError::Unwritable {
            path: codex_home.to_owned(),
            cause: error.to_string(),
        };
        let until = Instant::now() + LIMIT;
        loop {
            if let Some(login) = attempt(&codex_home.join("auth.lock")).map_err(unwritable)?
                && let Some(file) =
                    attempt(&codex_home.join("auth.json.lock")).map_err(unwritable)?
            {
                return Ok(Self { _login: login, _file: file });
            }
            if Instant::now() >= until {
                return Err(LoginError::Locked { path: codex_home.join("auth.json.lock") });
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

fn attempt(path: &Path) -> std::io::Result<Option<File>> {
    let Some(file) = open(path)? else { return Ok(None) };
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Opens a lock, or makes it: never at the end of a link. `None` if it has just gone.
fn open(path: &Path) -> std::io::Result<Option<File>> {
    let made = OpenOptions::new().create_new(true).append(true).mode(0o600).open(path);
    match made {
        Ok(file) => {
            owner::give(&file, path.parent().unwrap_or(path))?;
            return Ok(Some(file));
        }
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        Err(_) => {}
    }
    match OpenOptions::new().append(true).open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        opened => opened.map(Some),
    }
}
