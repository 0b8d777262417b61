//! The one way in which git runs on the host.
//!
//! A repository is not trusted: its config can name programs. Here git runs without hooks, without
//! a file system monitor, without maintenance, without a network and without the caller's `GIT_*`
//! variables, under a deadline and with bounded output; and it is never asked for what runs
//! filters all the same (`status`, `diff`, `add`, `checkout`).

use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// How long one git command may take; the name of the limit in errors is "git's time".
pub(super) const TIME: Duration = Duration::from_secs(30);

/// Bytes of output that are taken at most.
pub(super) const OUTPUT_BYTES: usize = 256 << 20;

/// Bytes of errors that are kept.
const ERROR_BYTES: usize = 4096;

/// Why git gave no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum GitCommandError {
    /// It could not be started.
    #[error("git is not installed, or cannot be started ({0})")]
    Start(#[source] io::Error),
    /// It said no.
    #[error("git {command} failed: {message}")]
    Failed {
        /// The subcommand.
        command: String,
        /// Exit code, unless a signal ended it.
        code: Option<i32>,
        /// The first line of its errors.
        message: String,
    },
    /// The repository belongs to another user and git's `safe.directory` does not name it.
    #[error(
        "git does not trust the repository because it belongs to another user; name it in git's \
         safe.directory setting"
    )]
    OtherOwner,
    /// It took too long.
    #[error("git {command} took longer than git's time of {} s", TIME.as_secs())]
    Late {
        /// The subcommand.
        command: String,
    },
    /// It wrote more than is taken.
    #[error("git {command} wrote more than {OUTPUT_BYTES} bytes")]
    Flood {
        /// The subcommand.
        command: String,
    },
    /// Its output could not be read.
    #[error("output of git could not be read ({0})")]
    Read(#[source] io::Error),
}

/// Runs `git ARGUMENTS` in `directory` and gives its output. Blocking.
///
/// # Errors
///
/// When git cannot run, fails, is late, or floods; see [`GitCommandError`].
pub(super) fn git(
    directory: BorrowedFd<'_>,
    arguments: &[&str],
) -> Result<Vec<u8>, GitCommandError> {
    git_below(directory, None, arguments)
}

/// As [`git()`], and git does not look for a repository in the directory `above` or higher.
///
/// # Errors
///
/// As [`git()`].
pub(super) fn git_below(
    directory: BorrowedFd<'_>,
    above: Option<&Path>,
    arguments: &[&str],
) -> Result<Vec<u8>, GitCommandError> {
    let mut command = command(directory);
    if let Some(above) = above {
        command.env("GIT_CEILING_DIRECTORIES", above);
    }
    let mut child = command
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(GitCommandError::Start)?;
    let name = arguments.first().copied().unwrap_or_default().to_owned();
    let read = read_both(&mut child, Instant::now() + TIME);
    let (output, errors) = match read {
        Ok(both) => both,
        Err(stop) => {
            end(&mut child);
            return Err(match stop {
                Stop::Late => GitCommandError::Late { command: name },
                Stop::Flood => GitCommandError::Flood { command: name },
                Stop::Read(error) => GitCommandError::Read(error),
            });
        }
    };
    let status = child.wait().map_err(GitCommandError::Read)?;
    if status.success() {
        return Ok(output);
    }
    let errors = String::from_utf8_lossy(&errors);
    if errors.contains("dubious ownership") {
        return Err(GitCommandError::OtherOwner);
    }
    let message = errors.lines().next().unwrap_or("no reason given").to_owned();
    Err(GitCommandError::Failed { command: name, code: status.code(), message })
}

/// Git with what every use of it here has.
fn command(directory: BorrowedFd<'_>) -> Command {
    let mut command = Command::new(program());
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"GIT_") {
            command.env_remove(name);
        }
    }
    command
        // The child is in the directory that was opened, whatever its path leads to by now.
        .current_dir(format!("/proc/self/fd/{}", directory.as_raw_fd()))
        .args(["-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false"])
        .args(["-c", "maintenance.auto=false", "-c", "gc.auto=0", "--no-pager"])
        .env("GIT_OPTIONAL_LOCKS", "0")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_ALLOW_PROTOCOL", "file")
        .env("GIT_NO_LAZY_FETCH", "1")
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .process_group(0);
    command
}

/// Where git is, looked up once: a `PATH` may have many entries, and each try costs a system call in
/// a process that is being born.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let is_program = |file: &PathBuf| {
            file.is_absolute()
                && file.metadata().is_ok_and(|found| {
                    found.is_file() && std::os::unix::fs::MetadataExt::mode(&found) & 0o111 != 0
                })
        };
        let found = std::env::split_paths(&path).map(|folder| folder.join("git"));
        found.into_iter().find(is_program).unwrap_or_else(|| PathBuf::from("git"))
    })
}

/// Why reading stopped early.
enum Stop {
    Late,
    Flood,
    Read(io::Error),
}

/// Reads both outputs to their ends.
fn read_both(child: &mut Child, deadline: Instant) -> Result<(Vec<u8>, Vec<u8>), Stop> {
    let mut output = child.stdout.take();
    let mut errors = child.stderr.take();
    let (mut output_bytes, mut error_bytes) = (Vec::new(), Vec::new());
    let mut chunk = vec![0; 64 << 10];
    while output.is_some() || errors.is_some() {
        let (from_output, from_errors) = {
            let mut fds: Vec<PollFd<'_>> = Vec::with_capacity(2);
            fds.extend(
                output.as_ref().map(|fd| PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)),
            );
            fds.extend(
                errors.as_ref().map(|fd| PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)),
            );
            let left = deadline.checked_duration_since(Instant::now()).ok_or(Stop::Late)?;
            let left = Timespec::try_from(left).map_err(|_| Stop::Late)?;
            match poll(&mut fds, Some(&left)) {
                Ok(0) => return Err(Stop::Late),
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(Stop::Read(error.into())),
            }
            let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
            match (output.is_some(), errors.is_some()) {
                (true, true) => (ready[0], ready[1]),
                (true, false) => (ready[0], false),
                _ => (false, ready[0]),
            }
        };
        if let Some(pipe) = output.as_mut().filter(|_| from_output) {
            match pipe.read(&mut chunk).map_err(Stop::Read)? {
                0 => output = None,
                count => output_bytes.extend_from_slice(&chunk[..count]),
            }
            if output_bytes.len() > OUTPUT_BYTES {
                return Err(Stop::Flood);
            }
        }
        if let Some(pipe) = errors.as_mut().filter(|_| from_errors) {
            match pipe.read(&mut chunk).map_err(Stop::Read)? {
                0 => errors = None,
                count => {
                    let room = ERROR_BYTES.saturating_sub(error_bytes.len());
                    error_bytes.extend_from_slice(&chunk[..count.min(room)]);
                }
            }
        }
    }
    Ok((output_bytes, error_bytes))
}

/// Ends git and what it started, and waits for git.
fn end(child: &mut Child) {
    use rustix::process::{Pid, Signal, kill_process_group};
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // It leads a group of its own and has not been waited for, so the number is still its own.
        let _ = kill_process_group(group, Signal::KILL);
    }
    let _ = child.wait();
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn tells_what_git_said() {
        let directory = tempfile::tempdir().unwrap();
        let directory = File::open(directory.path()).unwrap();
        let version = git(directory.as_fd(), &["version"]).unwrap();
        assert!(version.starts_with(b"git version"));
        let error = git(directory.as_fd(), &["no-such-command"]).unwrap_err();
        assert!(matches!(error, GitCommandError::Failed { code: Some(1), .. }), "{error}");
    }

    #[test]
    fn no_hook_monitor_or_alias_of_the_repository_runs() {
        let tree = tempfile::tempdir().unwrap();
        let mark = tree.path().join("ran");
        let directory = File::open(tree.path()).unwrap();
        git(directory.as_fd(), &["init", "-q"]).unwrap();
        let config = format!(
            "[core]\n\tfsmonitor = touch {0}\n\tpager = touch {0}\n[pager]\n\tconfig = true\n",
            mark.display()
        );
        std::fs::write(tree.path().join(".git/config"), config).unwrap();
        git(directory.as_fd(), &["config", "-z", "--list"]).unwrap();
        git(directory.as_fd(), &["ls-files", "-z"]).unwrap();
        git(directory.as_fd(), &["for-each-ref"]).unwrap();
        assert!(!mark.exists());
    }
}
