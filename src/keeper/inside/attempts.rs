//! What a program in the container must be denied is tried at arming.
//!
//! That a seccomp filter is in force does not say which one: an engine may put another profile in
//! the place of the one that was asked for. So the keeper starts its own binary as uid 1000
//! (`codex-keeper try`), as it starts every other program, and that makes each call once:
//!
//! ```text
//!  EPERM, EACCES, ENOSYS ──> denied
//!  anything else ──────────> allowed: the call got past the filter, and the host is told
//! ```
//!
//! A program and not a thread of the keeper, since the kernel refuses a process with threads a user
//! namespace with EINVAL, whatever the filter says. The arguments are such that nothing happens
//! where a call is allowed: they are refused as invalid, or, for `unshare`, only this program is
//! changed, which then ends.

use std::ffi::CStr;
use std::io::{Read, Write};
use std::process::{Command, Stdio};

use rustix::fs::{self, Access, AtFlags, FileType, Mode};
use serde::{Deserialize, Serialize};

use super::children::Own;
use super::guard::UserInContainer;
use super::sys::{self, Call};
use super::{Doing, Refusal, places};
use crate::keeper::wire::Attempt;

/// Bytes at most of what the program says.
const MAX_SAID: u64 = 64 << 10;

/// Levels of directories in `/dev` that are looked at.
const DEEP: usize = 4;

/// Device files at most that are told.
const MOST_DEVICES: usize = 16;

/// What uid 1000 could do that it must not.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Tried {
    pub(super) allowed: Vec<Attempt>,
    pub(super) devices: Vec<String>,
}

/// Has everything tried by a program of uid 1000, and waits for it.
///
/// # Errors
///
/// When the program could not be started or did not say what it found.
pub(super) fn run() -> Result<Tried, Refusal> {
    let own = std::env::current_exe().doing("find the keeper's own binary")?;
    let mut command = Command::new(own);
    command.arg("try").env_clear();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    sys::become_user(&mut command, c"/".to_owned());
    let mut child = command.spawn().doing("start `codex-keeper try`")?;
    let own = Own::new(child.id());
    let mut said = Vec::new();
    let read = match child.stdout.take() {
        Some(stdout) => stdout.take(MAX_SAID).read_to_end(&mut said),
        None => Ok(0),
    };
    let status = child.wait();
    drop(own);
    read.doing("read what `codex-keeper try` says")?;
    let status = status.doing("wait for `codex-keeper try`")?;
    if !status.success() {
        return Err(Refusal(format!("`codex-keeper try` ended with {status}")));
    }
    serde_json::from_slice(&said).doing("read what `codex-keeper try` says")
}

/// The subcommand `try`: makes every call, and writes what was not denied to stdout.
///
/// # Errors
///
/// The proof that is missing that this is uid 1000 in a container of ours, or that stdout is gone.
pub fn main() -> Result<(), Refusal> {
    let proof = UserInContainer::prove()?;
    let mut devices = Vec::new();
    find_devices(c"/dev", 0, &mut devices);
    let allowed = make_all(&proof);
    let said = serde_json::to_vec(&Tried { allowed, devices }).doing("write what was found")?;
    std::io::stdout().write_all(&said).doing("write what was found")
}

/// Makes every call. Those that change this program, where they are allowed, come last.
fn make_all(_: &UserInContainer) -> Vec<Attempt> {
    calls().into_iter().filter(|(_, call)| !sys::is_denied(*call)).map(|it| it.0).collect()
}

fn calls() -> [(Attempt, Call); 18] {
    // No address, no descriptor, no number of anything.
    const NONE: libc::c_long = -1;
    let call = |number, arguments| Call { number, arguments, forks: false };
    // With a flag that contradicts: a signal table cannot be shared without the memory.
    let clone = |flags: libc::c_int| Call {
        number: libc::SYS_clone,
        arguments: [(flags | libc::CLONE_SIGHAND).into(), 0, 0, 0, 0],
        forks: true,
    };
    [
        (Attempt::Clone, clone(libc::CLONE_NEWUSER)),
        (Attempt::CloneParent, clone(libc::CLONE_PARENT)),
        (Attempt::Clone3, call(libc::SYS_clone3, [0, 0, 0, 0, 0])),
        (Attempt::Setns, call(libc::SYS_setns, [NONE, 0, 0, 0, 0])),
        (Attempt::Mount, call(libc::SYS_mount, [0, 0, 0, 0, 0])),
        (Attempt::Fsopen, call(libc::SYS_fsopen, [0, NONE, 0, 0, 0])),
        (Attempt::PivotRoot, call(libc::SYS_pivot_root, [0, 0, 0, 0, 0])),
        (Attempt::Chroot, call(libc::SYS_chroot, [0, 0, 0, 0, 0])),
        (Attempt::Keyctl, call(libc::SYS_keyctl, [NONE, 0, 0, 0, 0])),
        (Attempt::AddKey, call(libc::SYS_add_key, [0, 0, 0, 0, 0])),
        (Attempt::IoUring, call(libc::SYS_io_uring_setup, [0, 0, 0, 0, 0])),
        (Attempt::Bpf, call(libc::SYS_bpf, [NONE, 0, 0, 0, 0])),
        (Attempt::Perf, call(libc::SYS_perf_event_open, [0, 0, NONE, NONE, NONE])),
        (Attempt::Ptrace, call(libc::SYS_ptrace, [NONE, 0, 0, 0, 0])),
        (Attempt::ProcessMemory, call(libc::SYS_process_vm_readv, [0, 0, 0, 0, 0])),
        (Attempt::Userfaultfd, call(libc::SYS_userfaultfd, [NONE, 0, 0, 0, 0])),
        (Attempt::Kexec, call(libc::SYS_kexec_load, [0, 0, 0, NONE, 0])),
        (Attempt::Unshare, call(libc::SYS_unshare, [libc::CLONE_NEWUSER.into(), 0, 0, 0, 0])),
    ]
}

/// Device files that the caller may open, without those that every container has.
fn find_devices(directory: &CStr, depth: usize, found: &mut Vec<String>) {
    let Ok(opened) = fs::open(directory, places::DIRECTORY, Mode::empty()) else { return };
    let Ok(names) = places::names(opened_fd(&opened)) else { return };
    for name in names {
        let Ok(stat) = fs::statat(&opened, &name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        let path = [directory.to_bytes(), b"/", name.to_bytes()].concat();
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory if depth < DEEP => {
                if let Ok(path) = std::ffi::CString::new(path) {
                    find_devices(&path, depth + 1, found);
                }
            }
            FileType::CharacterDevice | FileType::BlockDevice
                if !is_usual(&stat) && found.len() < MOST_DEVICES =>
            {
                let may = |access| fs::accessat(&opened, &name, access, AtFlags::EACCESS).is_ok();
                if may(Access::READ_OK) || may(Access::WRITE_OK) {
                    found.push(String::from_utf8_lossy(&path).into_owned());
                }
            }
            _ => {}
        }
    }
}

fn opened_fd(opened: &rustix::fd::OwnedFd) -> rustix::fd::BorrowedFd<'_> {
    rustix::fd::AsFd::as_fd(opened)
}

/// Whether every container has it: null, zero, full, random, urandom, tty, console, ptmx, and the
/// terminals.
fn is_usual(stat: &fs::Stat) -> bool {
    let (major, minor) = (fs::major(stat.st_rdev), fs::minor(stat.st_rdev));
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && matches!((major, minor), (1, 3 | 5 | 7 | 8 | 9) | (5, 0..=2) | (136..=143, _))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn nothing_is_tried_where_tests_run() {
        main().unwrap_err();
    }

    #[test]
    fn every_attempt_is_made_once_and_the_lasting_one_last() {
        let made: Vec<Attempt> = calls().into_iter().map(|(attempt, _)| attempt).collect();
        assert_eq!(made.iter().collect::<BTreeSet<_>>().len(), made.len());
        assert_eq!(made.last(), Some(&Attempt::Unshare));
    }

    #[test]
    fn the_usual_devices_are_told_from_others() {
        let stat = |path: &str| fs::stat(path).unwrap();
        assert!(is_usual(&stat("/dev/null")) && is_usual(&stat("/dev/urandom")));
        assert!(!is_usual(&stat("/")));
    }
}
