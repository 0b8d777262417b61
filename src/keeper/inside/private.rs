//! Files that a program is started with.

use std::ffi::CString;
use std::io::Write;

use rustix::fd::AsFd;
use rustix::fs::{self, Mode, OFlags};

use super::{Doing, Refusal, places, user};
use crate::keeper::wire::{HOME, PrivateFile};

/// Writes them, owned by uid 1000 and readable by it alone.
///
/// # Errors
///
/// A sentence with the path of the file, never with what is in it.
pub(super) fn write_all(files: &[PrivateFile]) -> Result<(), Refusal> {
    files.iter().try_for_each(|file| {
        write(file).doing(format_args!("write {:?} in the home directory", file.path))
    })
}

fn write(file: &PrivateFile) -> std::io::Result<()> {
    let invalid = || std::io::Error::from(std::io::ErrorKind::InvalidInput);
    let mut directory = fs::open(HOME, places::DIRECTORY, Mode::empty())?;
    let (parents, name) = file.path.rsplit_once('/').unwrap_or(("", &file.path));
    if matches!(name, "" | "." | "..") {
        return Err(invalid());
    }
    for parent in parents.split('/').filter(|_| !parents.is_empty()) {
        if matches!(parent, "" | "." | "..") {
            return Err(invalid());
        }
        directory =
            fs::openat(&directory, CString::new(parent)?, places::DIRECTORY, Mode::empty())?;
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let made =
        fs::openat(directory.as_fd(), CString::new(name)?, flags, Mode::from_raw_mode(0o600))?;
    fs::fchown(&made, Some(user::uid()), Some(user::gid()))?;
    std::fs::File::from(made).write_all(file.contents.as_bytes())
}
