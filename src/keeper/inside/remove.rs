//! Removes a node with all that is in it, whatever modes it has.

use std::ffi::{CStr, CString};
use std::io;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{self, AtFlags, Mode};
use rustix::io::Errno;

use super::places;

/// One directory on the way down: its name in the one above, its handle, and the names in it that are
/// still to be removed.
struct Level {
    name: CString,
    directory: OwnedFd,
    names: Vec<CString>,
}

/// Removes `name` in `parent`, with the caller's rights; nothing if it is not there. What is in
/// another file system is not removed, and then this fails.
///
/// A level holds a descriptor, so this is for trees that were put: those have a limit of depth.
pub(super) fn all(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    let stat = match fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(()),
        stat => stat?,
    };
    if !places::is_directory(&stat) {
        return Ok(fs::unlinkat(parent, name, AtFlags::empty())?);
    }
    let mut stack = vec![open(parent, name, &stat)?];
    while let Some(level) = stack.last_mut() {
        let Some(name) = level.names.pop() else {
            let Some(done) = stack.pop() else { break };
            let above = stack.last().map_or(parent, |level| level.directory.as_fd());
            fs::unlinkat(above, &done.name, AtFlags::REMOVEDIR)?;
            continue;
        };
        let inner = fs::statat(&level.directory, &name, AtFlags::SYMLINK_NOFOLLOW)?;
        if places::is_directory(&inner) && inner.st_dev == stat.st_dev {
            let inner = open(level.directory.as_fd(), &name, &inner)?;
            stack.push(inner);
        } else {
            fs::unlinkat(&level.directory, &name, AtFlags::empty())?;
        }
    }
    Ok(())
}

fn open(parent: BorrowedFd<'_>, name: &CStr, stat: &fs::Stat) -> io::Result<Level> {
    if stat.st_mode & 0o700 != 0o700 {
        // It is a directory and nothing runs, so this follows no link.
        fs::chmodat(parent, name, Mode::RWXU, AtFlags::empty())?;
    }
    let directory = fs::openat(parent, name, places::DIRECTORY, Mode::empty())?;
    Ok(Level { name: name.to_owned(), names: places::names(directory.as_fd())?, directory })
}
