//! Back to the state of arming.

use std::ffi::CStr;
use std::io;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{self, AtFlags, FileType, Mode, OFlags};
use rustix::process::{Gid, Uid};

use super::fingerprint::But;
use super::{Doing, Refusal, ipc, places};
use crate::keeper::wire::{HOME, USER, WORKSPACE};

/// Levels of directories in a template at most.
const DEEP: usize = 64;

/// Empties every writable place `but` for what it says of the workspace, removes IPC objects, gives
/// the places their owners and modes, and copies the template. All processes must have been ended.
pub(super) fn restore(template: &str, but: But<'_>) -> Result<(), Refusal> {
    let places = places::list()?;
    ipc::remove_all()?;
    // Owned before they are emptied, too: a place whose mode was taken away is still root's to open.
    for place in &places {
        match but {
            But::Contents if place == WORKSPACE.as_bytes() => {}
            But::Name(name) if place == WORKSPACE.as_bytes() => places::empty(place, Some(name))?,
            _ => places::empty(place, None)?,
        }
    }
    places::own(&places)?;
    copy_template(template).doing("copy the template of CODEX_HOME")
}

fn copy_template(template: &str) -> io::Result<()> {
    let from = match fs::open(template, places::DIRECTORY, Mode::empty()) {
        Ok(from) => from,
        Err(rustix::io::Errno::NOENT) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let home = match fs::open(HOME, places::DIRECTORY, Mode::empty()) {
        Ok(home) => home,
        Err(rustix::io::Errno::NOENT) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let to = make_directory(home.as_fd(), c".codex", 0o700)?;
    let mut stack = vec![(from, to, 0_usize)];
    while let Some((from, to, depth)) = stack.pop() {
        for name in places::names(from.as_fd())? {
            let stat = fs::statat(&from, &name, AtFlags::SYMLINK_NOFOLLOW)?;
            let mode = stat.st_mode & 0o777;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory if depth < DEEP => {
                    let inner = fs::openat(&from, &name, places::DIRECTORY, Mode::empty())?;
                    stack.push((inner, make_directory(to.as_fd(), &name, mode)?, depth + 1));
                }
                FileType::RegularFile => copy_file(from.as_fd(), to.as_fd(), &name, mode)?,
                FileType::Symlink => {
                    let target = fs::readlinkat(&from, &name, Vec::new())?;
                    fs::symlinkat(&target, &to, &name)?;
                    let flags = AtFlags::SYMLINK_NOFOLLOW;
                    fs::chownat(&to, &name, Some(uid()), Some(gid()), flags)?;
                }
                _ => {}
            }
        }
    }
    Ok(())
}

fn make_directory(parent: BorrowedFd<'_>, name: &CStr, mode: u32) -> io::Result<OwnedFd> {
    fs::mkdirat(parent, name, Mode::from_raw_mode(mode))?;
    let made = fs::openat(parent, name, places::DIRECTORY, Mode::empty())?;
    fs::fchown(&made, Some(uid()), Some(gid()))?;
    fs::fchmod(&made, Mode::from_raw_mode(mode))?;
    Ok(made)
}

fn copy_file(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr, mode: u32) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut source = std::fs::File::from(fs::openat(from, name, flags, Mode::empty())?);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let target = fs::openat(to, name, flags, Mode::from_raw_mode(mode))?;
    let mut target = std::fs::File::from(target);
    io::copy(&mut source, &mut target)?;
    fs::fchown(&target, Some(uid()), Some(gid()))?;
    fs::fchmod(&target, Mode::from_raw_mode(mode))?;
    Ok(())
}

fn uid() -> Uid {
    Uid::from_raw(USER)
}

fn gid() -> Gid {
    Gid::from_raw(USER)
}
