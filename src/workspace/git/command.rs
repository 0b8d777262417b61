//! The one way in which git runs on the host.
//!
//! A repository is not trusted: its config can name programs. Here git runs without hooks, without
//! a file system monitor, without maintenance, without a network, and of the environment with a few
//! variables only (no `GIT_*` of the caller's, no secret), under a deadline and with bounded output;
//! and it is never asked for what runs filters all the same (`status`, `diff`, `add`, `checkout`).

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process_group, prlimit};

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
    #[error("git {command} took longer than git's time of {} s", .time.as_secs())]
    Late {
        /// The subcommand.
        command: String,
        /// The time it had.
        time: Duration,
    },
    /// It wrote more than is taken.
    #[error("git {command} wrote more than is taken of it")]
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
    Git::new(directory).run(arguments)
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
    Git::new(directory).below(above).run(arguments)
}

/// What one git may use, for input that a container made. Over a limit it fails or is killed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Bytes of memory that it writes; the packs that it maps do not count.
    pub(super) memory: u64,
    /// Seconds of a processor.
    pub(super) cpu: u64,
}

/// One git command with more than arguments.
#[derive(Clone, Debug)]
pub(super) struct Git<'a> {
    directory: BorrowedFd<'a>,
    environment: Vec<(&'static str, OsString)>,
    settings: Vec<String>,
    accepted: &'a [i32],
    limits: Option<Limits>,
    most: usize,
    time: Duration,
    file_bytes: Option<u64>,
}

impl<'a> Git<'a> {
    pub(super) fn new(directory: BorrowedFd<'a>) -> Self {
        Self {
            directory,
            environment: Vec::new(),
            settings: Vec::new(),
            accepted: &[0],
            limits: None,
            most: OUTPUT_BYTES,
            time: TIME,
            file_bytes: None,
        }
    }

    /// Git does not look for a repository in the directory `above` or higher.
    pub(super) fn below(self, above: Option<&Path>) -> Self {
        match above {
            Some(above) => self.with("GIT_CEILING_DIRECTORIES", above),
            None => self,
        }
    }

    /// Sets a variable of git's environment.
    pub(super) fn with(mut self, name: &'static str, value: impl Into<OsString>) -> Self {
        self.environment.push((name, value.into()));
        self
    }

    /// Sets a setting, `key=value`.
    pub(super) fn set(mut self, setting: &str) -> Self {
        self.settings.push(setting.to_owned());
        self
    }

    /// Takes these exit codes for an answer; 0 alone where this is not called.
    pub(super) fn accept(self, accepted: &'a [i32]) -> Self {
        Self { accepted, ..self }
    }

    /// Bounds what it uses.
    pub(super) fn limit(self, limits: Limits) -> Self {
        Self { limits: Some(limits), ..self }
    }

    /// Takes at most so many bytes of output.
    pub(super) fn most(self, most: usize) -> Self {
        Self { most, ..self }
    }

    /// Gives it another time than [`TIME`].
    pub(super) fn time(self, time: Duration) -> Self {
        Self { time, ..self }
    }

    /// Ends it when a file that it writes becomes longer.
    pub(super) fn longest_file(self, bytes: u64) -> Self {
        Self { file_bytes: Some(bytes), ..self }
    }

    /// Runs it without input; see [`git()`].
    pub(super) fn run(&self, arguments: &[&str]) -> Result<Vec<u8>, GitCommandError> {
        self.run_from(Stdio::null(), arguments)
    }

    /// Runs it with these bytes as its input; see [`git()`].
    pub(super) fn run_on(
        &self,
        input: &[u8],
        arguments: &[&str],
    ) -> Result<Vec<u8>, GitCommandError> {
        // A file and not a pipe: nobody has to write while git writes.
        let memory = memfd_create(c"input", MemfdFlags::CLOEXEC)
            .map_err(|error| GitCommandError::Start(error.into()))?;
        let mut file = File::from(memory);
        file.write_all(input).and_then(|()| file.rewind()).map_err(GitCommandError::Start)?;
        self.run_from(file.into(), arguments)
    }

    /// Runs it with `input`; see [`git()`].
    pub(super) fn run_from(
        &self,
        input: Stdio,
        arguments: &[&str],
    ) -> Result<Vec<u8>, GitCommandError> {
        let mut child = self.start(input, arguments)?;
        let name = arguments.first().copied().unwrap_or_default().to_owned();
        let (output, errors) = match read_both(&mut child, self.most, Instant::now() + self.time) {
            Ok(both) => both,
            Err(stop) => {
                end(&mut child);
                return Err(stop.error(name, self.time));
            }
        };
        let status = child.wait().map_err(GitCommandError::Read)?;
        if status.code().is_some_and(|code| self.accepted.contains(&code)) {
            return Ok(output);
        }
        let errors = String::from_utf8_lossy(&errors);
        if errors.contains("dubious ownership") {
            return Err(GitCommandError::OtherOwner);
        }
        let message = match (errors.lines().next(), status.signal()) {
            (Some(line), _) => line.to_owned(),
            // Of the limits, the one that ends a program without a word.
            (None, Some(signal)) if self.limits.is_some() && is_over(signal) => {
                "it used more of a processor than it may".to_owned()
            }
            (None, Some(signal)) => format!("it was ended by signal {signal}"),
            (None, None) => "no reason given".to_owned(),
        };
        Err(GitCommandError::Failed { command: name, code: status.code(), message })
    }

    /// Starts a command that is spoken with.
    pub(super) fn talk(&self, arguments: &[&str]) -> Result<Talk, GitCommandError> {
        let mut child = self.start(Stdio::piped(), arguments)?;
        let name = arguments.first().copied().unwrap_or_default().to_owned();
        let input = child.stdin.take();
        Ok(Talk { child, input, name, deadline: Instant::now() + TIME })
    }

    fn start(&self, input: Stdio, arguments: &[&str]) -> Result<Child, GitCommandError> {
        let mut command = command(self.directory);
        for setting in &self.settings {
            command.args(["-c", setting]);
        }
        let child = command
            .args(arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(input)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(GitCommandError::Start)?;
        if let Some(limits) = self.limits {
            bound(&child, Resource::Data, limits.memory);
            bound(&child, Resource::Cpu, limits.cpu);
        }
        if let Some(bytes) = self.file_bytes {
            bound(&child, Resource::Fsize, bytes);
        }
        Ok(child)
    }
}

/// Whether it is the signal of too much time of a processor.
fn is_over(signal: i32) -> bool {
    [Signal::XCPU, Signal::KILL].iter().any(|over| over.as_raw() == signal)
}

/// Bounds a program that runs already; it cannot have used much yet.
fn bound(child: &Child, resource: Resource, most: u64) {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    // It fails where it has ended, and then there is nothing to bound.
    let _ = prlimit(pid, resource, Rlimit { current: Some(most), maximum: Some(most) });
}

/// A git that answers each line it is told. Dropped before [`Talk::close`], it sees the end of its
/// input and gives up what it has not committed.
#[derive(Debug)]
pub(super) struct Talk {
    child: Child,
    input: Option<ChildStdin>,
    name: String,
    deadline: Instant,
}

impl Talk {
    /// Says something, and waits for exactly this answer.
    pub(super) fn ask(&mut self, words: &[u8], answer: &str) -> Result<(), GitCommandError> {
        let said = self.input.as_mut().map(|input| input.write_all(words));
        let mut heard = Vec::new();
        while heard.len() < answer.len() {
            match self.hear() {
                Ok(Some(byte)) => heard.push(byte),
                Ok(None) => break,
                Err(stop) => return Err(stop.error(self.name.clone(), TIME)),
            }
        }
        match said {
            Some(Ok(())) if heard == answer.as_bytes() => Ok(()),
            _ => Err(self.failed()),
        }
    }

    /// Ends its input, and waits until it has ended.
    pub(super) fn close(mut self) -> Result<(), GitCommandError> {
        drop(self.input.take());
        let read = read_both(&mut self.child, OUTPUT_BYTES, self.deadline);
        let (_, errors) = read.map_err(|stop| {
            end(&mut self.child);
            stop.error(self.name.clone(), TIME)
        })?;
        match self.child.wait() {
            Ok(status) if status.success() => Ok(()),
            _ => Err(self.said(&errors)),
        }
    }

    /// One byte of its output; `None` at its end.
    fn hear(&mut self) -> Result<Option<u8>, Stop> {
        let Some(output) = self.child.stdout.as_mut() else { return Ok(None) };
        let left = self.deadline.checked_duration_since(Instant::now()).ok_or(Stop::Late)?;
        let left = Timespec::try_from(left).map_err(|_| Stop::Late)?;
        let ready = {
            let mut fds = [PollFd::new(output, PollFlags::IN)];
            rustix::io::retry_on_intr(|| poll(&mut fds, Some(&left)))
        };
        if ready.map_err(|error| Stop::Read(error.into()))? == 0 {
            return Err(Stop::Late);
        }
        let mut byte = [0];
        Ok((output.read(&mut byte).map_err(Stop::Read)? == 1).then_some(byte[0]))
    }

    /// Why it did not answer as it should.
    fn failed(&mut self) -> GitCommandError {
        drop(self.input.take());
        let errors =
            read_both(&mut self.child, OUTPUT_BYTES, self.deadline).map(|(_, errors)| errors);
        self.said(&errors.unwrap_or_default())
    }

    fn said(&self, errors: &[u8]) -> GitCommandError {
        let errors = String::from_utf8_lossy(errors);
        let message = errors.lines().next().unwrap_or("no reason given").to_owned();
        GitCommandError::Failed { command: self.name.clone(), code: None, message }
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        drop(self.input.take());
        // It gives up by itself at the end of its input; one that does not is ended.
        if read_both(&mut self.child, OUTPUT_BYTES, self.deadline).is_err() {
            end(&mut self.child);
        }
        let _ = self.child.wait();
    }
}

/// What git gets of the environment: where its settings are and who asks. Keys and tokens of the
/// server's environment are nothing to it, or to what a repository might make it start.
const ENVIRONMENT: [&str; 9] = [
    "PATH",
    "HOME",
    "XDG_CONFIG_HOME",
    "TMPDIR",
    "USER",
    "LOGNAME",
    // By which git knows whose repositories root may use.
    "SUDO_UID",
    // Where its libraries are, if not in the usual place.
    "LD_LIBRARY_PATH",
    "DEVELOPER_DIR",
];

/// Git with what every use of it here has.
fn command(directory: BorrowedFd<'_>) -> Command {
    let mut command = Command::new(program());
    command.env_clear();
    for name in ENVIRONMENT {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command
        // The child is in the directory that was opened, whatever its path leads to by now.
        .current_dir(format!("/proc/self/fd/{}", directory.as_raw_fd()))
        .args(["-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false"])
        .args(["-c", "maintenance.auto=false", "-c", "gc.auto=0", "--no-pager"])
        .env("GIT_OPTIONAL_LOCKS", "0")
        .env("GIT_TERMINAL_PROMPT", "0")
        // Not even of this machine: the program at the other end is the repository's to name.
        .env("GIT_ALLOW_PROTOCOL", "none")
        .env("GIT_NO_LAZY_FETCH", "1")
        .env("LC_ALL", "C")
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

impl Stop {
    fn error(self, command: String, time: Duration) -> GitCommandError {
        match self {
            Self::Late => GitCommandError::Late { command, time },
            Self::Flood => GitCommandError::Flood { command },
            Self::Read(error) => GitCommandError::Read(error),
        }
    }
}

/// Reads both outputs to their ends.
fn read_both(
    child: &mut Child,
    most: usize,
    deadline: Instant,
) -> Result<(Vec<u8>, Vec<u8>), Stop> {
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
            if output_bytes.len() > most {
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
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // It leads a group of its own and has not been waited for, so the number is still its own.
        let _ = kill_process_group(group, Signal::KILL);
    }
    let _ = child.wait();
}
