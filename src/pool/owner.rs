//! Who started a container, and whether that orchestrator still lives.
//!
//! Every container carries the label of its owner. A sweep by any orchestrator removes containers
//! whose owner is certainly dead, so the question is answered carefully:
//!
//! ```text
//!  label not ours to read, or of another machine ───────────────> Unknown (never swept)
//!  same machine, another boot ──────────────────────────────────> No
//!  this process ── claimed and not dropped? ────────────────────> Yes / No
//!  lock file there ── locked? ──────────────────────────────────> Yes / No
//!  no lock file ── a process with its pid? none ────────────────> No
//!                       started when it was ────────────────────> Yes
//!                       started at another time (pid reused) ───> No
//!                       cannot be told ─────────────────────────> Unknown
//! ```
//!
//! An owner is machine, boot, pid, start time and a number within the process, so no label is ever
//! used twice: once dead, always dead. That makes the rest free of races:
//!
//! - The lock file appears under its name only when it is locked already, and before its label is
//!   on any container. Nobody finds it unlocked in between.
//! - Owners lock exclusively, sweeps try a shared lock for a moment. Several sweeps at once do not
//!   take each other for the owner, and none can meet an owner that is about to lock.
//! - The kernel drops the lock with the process, also after SIGKILL. A lock file that stayed behind
//!   is removed by [`tidy`].
//!
//! The machine is the machine id together with the host's name and the pid namespace: clones of one
//! virtual machine often share the id, and an orchestrator that runs in a container sees other
//! pids. Whoever differs in one of them counts as another machine, which is the safe side.
//!
//! Where files cannot be locked (some network file systems) there is no lock file, and the process
//! table decides.

use std::collections::BTreeSet;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::Mutex;
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use rustix::process::Pid;

/// Why an orchestrator could not make itself known.
#[derive(Debug, thiserror::Error)]
pub enum OwnerError {
    /// Its file could not be written.
    #[error("cannot write {}: {source}", path.display())]
    File {
        /// Which file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Whether the orchestrator that started a container lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alive {
    /// It does.
    Yes,
    /// It is dead, for certain and for ever.
    No,
    /// Cannot be told from here.
    Unknown,
}

/// The identity of a running orchestrator. Alive until it is dropped or its process ends.
#[derive(Debug)]
pub struct Owner {
    identity: Identity,
    label: String,
    path: PathBuf,
    /// Keeps the lock; `None` where files cannot be locked.
    _lock: Option<File>,
}

/// What a label says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Identity {
    machine: String,
    boot: String,
    pid: i32,
    /// Clock ticks after boot at which the process started.
    start: u64,
    /// Counts the owners of one process.
    number: u32,
}

/// The part of an identity that is the same for all owners of this process.
static HERE: LazyLock<Identity> = LazyLock::new(|| {
    let pid = rustix::process::getpid().as_raw_nonzero().get();
    Identity {
        machine: machine(),
        boot: boot(),
        pid,
        start: start_time(pid).unwrap_or(0),
        number: 0,
    }
});

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Numbers of the owners of this process that were claimed and not dropped.
static CLAIMED: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

impl Owner {
    /// Makes this process known as an owner of containers. The file is
    /// `<state_dir>/owners/<label>.lock`. Blocks for a few file operations.
    ///
    /// # Errors
    ///
    /// When the file cannot be made. That locks are not supported is no error.
    pub fn claim(state_dir: &Path) -> Result<Owner, OwnerError> {
        let identity = Identity { number: NEXT.fetch_add(1, Ordering::Relaxed), ..HERE.clone() };
        let label = identity.label();
        let directory = directory(state_dir);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)
            .map_err(|source| OwnerError::File { path: directory.clone(), source })?;
        let path = directory.join(format!("{label}.lock"));
        // First, so that a `tidy` of this process leaves the file alone while it is being made.
        CLAIMED.lock().insert(identity.number);
        let lock =
            make_locked(&directory.join(format!("{label}.new")), &path).map_err(|source| {
                CLAIMED.lock().remove(&identity.number);
                OwnerError::File { path: path.clone(), source }
            })?;
        Ok(Owner { identity, label, path, _lock: lock })
    }

    /// The value of the label [`OWNER`](crate::container::label::OWNER).
    pub fn label(&self) -> &str {
        &self.label
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        CLAIMED.lock().remove(&self.identity.number);
        // A file that stays is taken for what it is, since the lock goes with the process.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Identity {
    fn label(&self) -> String {
        let Identity { machine, boot, pid, start, number } = self;
        format!("{machine}-{boot}-{pid}-{start}-{number}")
    }

    /// Reads a label. `None` for what no orchestrator of this version wrote.
    fn parse(label: &str) -> Option<Identity> {
        let mut parts = label.split('-');
        let mut hash = || {
            parts.next().filter(|part| {
                part.len() == HASH && part.bytes().all(|byte| byte.is_ascii_hexdigit())
            })
        };
        let (machine, boot) = (hash()?.to_owned(), hash()?.to_owned());
        let pid = parts.next()?.parse().ok().filter(|pid| *pid > 0)?;
        let start = parts.next()?.parse().ok()?;
        let number = parts.next()?.parse().ok()?;
        let identity = Identity { machine, boot, pid, start, number };
        // Also refuses what parses and is written otherwise, so that a label is always a safe
        // file name and always the same one.
        (parts.next().is_none() && identity.label() == label).then_some(identity)
    }
}

/// Whether the owner with this label lives. Blocks for a few file operations.
pub fn alive(label: &str, state_dir: &Path) -> Alive {
    let Some(identity) = Identity::parse(label) else { return Alive::Unknown };
    let here = &*HERE;
    if identity.machine != here.machine {
        return Alive::Unknown;
    }
    if identity.boot != here.boot {
        return Alive::No;
    }
    if (identity.pid, identity.start) == (here.pid, here.start) {
        let claimed = CLAIMED.lock().contains(&identity.number);
        return if claimed { Alive::Yes } else { Alive::No };
    }
    match is_locked(&directory(state_dir).join(format!("{label}.lock"))) {
        Ok(true) => Alive::Yes,
        Ok(false) => Alive::No,
        // None, or one that cannot be looked at.
        Err(_) => process_alive(&identity),
    }
}

/// The labels of the owners of this machine that live and have a lock file. Blocks.
pub fn living(state_dir: &Path) -> Vec<String> {
    let files = std::fs::read_dir(directory(state_dir)).into_iter().flatten().flatten();
    let labels =
        files.filter_map(|file| Some(file.file_name().to_str()?.strip_suffix(".lock")?.to_owned()));
    labels.filter(|label| alive(label, state_dir) == Alive::Yes).collect()
}

/// Removes the files of dead owners of this machine. Gives their number. Any number of
/// orchestrators may do it at once. Blocks.
pub fn tidy(state_dir: &Path) -> usize {
    let Ok(files) = std::fs::read_dir(directory(state_dir)) else { return 0 };
    files
        .flatten()
        .filter(|file| {
            let name = file.file_name();
            let label = name
                .to_str()
                .and_then(|name| name.strip_suffix(".lock").or_else(|| name.strip_suffix(".new")));
            label.is_some_and(|label| alive(label, state_dir) == Alive::No)
                && std::fs::remove_file(file.path()).is_ok()
        })
        .count()
}

fn directory(state_dir: &Path) -> PathBuf {
    state_dir.join("owners")
}

/// Makes a file, locks it, and only then gives it its name. `None` if it cannot be locked; then
/// there is no file.
fn make_locked(temporary: &Path, path: &Path) -> io::Result<Option<File>> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(temporary)?;
    if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        std::fs::remove_file(temporary)?;
        return Ok(None);
    }
    std::fs::rename(temporary, path)?;
    Ok(Some(file))
}

fn is_locked(path: &Path) -> io::Result<bool> {
    let file = File::open(path)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(false),
        Err(Errno::WOULDBLOCK) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// Asks the process table.
fn process_alive(identity: &Identity) -> Alive {
    match start_time(identity.pid) {
        Some(start) if start == identity.start => Alive::Yes,
        Some(_) => Alive::No,
        // Gone, or hidden from us (hidepid), or a system without such a table.
        None => match Pid::from_raw(identity.pid).map(rustix::process::test_kill_process) {
            Some(Err(Errno::SRCH)) => Alive::No,
            _ => Alive::Unknown,
        },
    }
}

/// Clock ticks after boot at which a process started; `None` if it cannot be read.
fn start_time(pid: i32) -> Option<u64> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    // The name of the program stands in parentheses and may hold anything, these included.
    let after = stat.iter().rposition(|byte| *byte == b')')?;
    let fields = std::str::from_utf8(stat.get(after + 1..)?).ok()?;
    // Field 22, counted from 1; the first one here is field 3.
    fields.split_ascii_whitespace().nth(22 - 3)?.parse().ok()
}

/// Hexadecimal digits of a hash in a label.
const HASH: usize = 16;

fn machine() -> String {
    let id = ["/etc/machine-id", "/var/lib/dbus/machine-id"]
        .into_iter()
        .find_map(|path| std::fs::read(path).ok().filter(|id| !id.is_empty()))
        .unwrap_or_default();
    let name = rustix::system::uname();
    let namespace = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    digest(&[&id, name.nodename().to_bytes(), namespace.as_os_str().as_encoded_bytes()])
}

fn boot() -> String {
    digest(&[&std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default()])
}

/// The machine id is not to leave the machine, so it is hashed, together with our name.
fn digest(parts: &[&[u8]]) -> String {
    let mut hasher = blake3::Hasher::new_derive_key("mcp-codex-orchestrator owner");
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hasher.finalize().to_hex()[..HASH].to_owned()
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use proptest::prelude::*;

    use super::*;

    /// Another process, which ends when its stdin closes.
    fn other() -> (std::process::Child, Identity) {
        let child =
            Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let start = start_time(pid).unwrap();
        (child, Identity { pid, start, ..HERE.clone() })
    }

    fn lock_file(state: &Path, identity: &Identity) -> PathBuf {
        let directory = directory(state);
        std::fs::create_dir_all(&directory).unwrap();
        directory.join(format!("{}.lock", identity.label()))
    }

    #[test]
    fn an_owner_lives_from_its_claim_until_it_is_dropped() {
        let state = tempfile::tempdir().unwrap();
        let owner = Owner::claim(state.path()).unwrap();
        let second = Owner::claim(state.path()).unwrap();
        let label = owner.label().to_owned();
        assert_ne!(label, second.label());
        assert_eq!(alive(&label, state.path()), Alive::Yes);
        assert_eq!(tidy(state.path()), 0);
        assert_eq!(living(state.path()).len(), 2);
        assert!(owner.path.exists());
        drop(owner);
        assert_eq!(alive(&label, state.path()), Alive::No);
        assert_eq!(alive(second.label(), state.path()), Alive::Yes);
        assert_eq!(living(state.path()), [second.label()]);
        drop(second);
        assert_eq!(std::fs::read_dir(directory(state.path())).unwrap().count(), 0);
    }

    #[test]
    fn another_machine_is_never_judged_and_another_boot_is_dead() {
        let state = tempfile::tempdir().unwrap();
        let other = Identity { machine: "0".repeat(HASH), ..HERE.clone() };
        assert_eq!(alive(&other.label(), state.path()), Alive::Unknown);
        let earlier = Identity { boot: "0".repeat(HASH), ..HERE.clone() };
        assert_eq!(alive(&earlier.label(), state.path()), Alive::No);
    }

    #[test]
    fn labels_that_nobody_of_us_wrote_are_never_judged() {
        let label = HERE.label();
        for odd in [
            "",
            "me",
            "../../etc/passwd",
            &format!("{label}-0"),
            &format!("{label}/x"),
            &label.replace('-', "_"),
            &format!("{}-{}--5-1-0", HERE.machine, HERE.boot),
            &format!("{}-{}-+5-1-0", HERE.machine, HERE.boot),
        ] {
            assert_eq!(alive(odd, Path::new("/nowhere")), Alive::Unknown, "{odd}");
        }
    }

    #[test]
    fn the_lock_decides_where_there_is_a_file() {
        let state = tempfile::tempdir().unwrap();
        let (mut child, identity) = other();
        let path = lock_file(state.path(), &identity);
        let file = make_locked(&path.with_extension("new"), &path).unwrap().unwrap();
        assert_eq!(alive(&identity.label(), state.path()), Alive::Yes);
        assert_eq!(tidy(state.path()), 0);
        drop(file);
        assert_eq!(alive(&identity.label(), state.path()), Alive::No);
        assert_eq!(tidy(state.path()), 1);
        assert!(!path.exists());
        drop(child.stdin.take());
        child.wait().unwrap();
    }

    #[test]
    fn without_a_file_the_process_decides_and_a_reused_pid_does_not_deceive() {
        let state = tempfile::tempdir().unwrap();
        let (mut child, identity) = other();
        assert_eq!(alive(&identity.label(), state.path()), Alive::Yes);
        let before = Identity { start: identity.start - 1, ..identity.clone() };
        assert_eq!(alive(&before.label(), state.path()), Alive::No);
        drop(child.stdin.take());
        child.wait().unwrap();
        assert_eq!(alive(&identity.label(), state.path()), Alive::No);
    }

    #[test]
    fn sweeps_at_once_do_not_take_each_other_for_the_owner() {
        let state = tempfile::tempdir().unwrap();
        let (mut child, identity) = other();
        let path = lock_file(state.path(), &identity);
        std::fs::write(&path, "").unwrap();
        let label = identity.label();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        assert_eq!(alive(&label, state.path()), Alive::No);
                    }
                });
            }
        });
        drop(child.stdin.take());
        child.wait().unwrap();
    }

    #[test]
    fn owners_claim_while_others_tidy() {
        let state = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let owner = Owner::claim(state.path()).unwrap();
                        assert_eq!(alive(owner.label(), state.path()), Alive::Yes);
                        assert_eq!(is_locked(&owner.path).ok(), Some(true));
                    }
                });
                scope.spawn(|| {
                    for _ in 0..200 {
                        tidy(state.path());
                    }
                });
            }
        });
    }

    proptest! {
        #[test]
        fn a_label_reads_as_what_was_written(
            machine in "[0-9a-f]{16}", boot in "[0-9a-f]{16}",
            pid in 1..i32::MAX, start in any::<u64>(), number in any::<u32>(),
        ) {
            let identity = Identity { machine, boot, pid, start, number };
            prop_assert_eq!(Identity::parse(&identity.label()), Some(identity));
        }

        #[test]
        fn any_text_is_read_without_harm(label in ".{0,80}") {
            prop_assert!(Identity::parse(&label).is_none_or(|read| read.label() == label));
        }
    }
}
