//! New contents, written whole beside their targets before anything is replaced.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use rustix::fs::{
    Gid, Mode, Uid, XattrFlags, fchmod, fchown, fgetxattr, flistxattr, fsetxattr, fstat,
};
use rustix::io::Errno;

use crate::path::RelPath;
use crate::workspace::NodeKind;
use crate::workspace::change::{ContentHash, NewNode, executable};
use crate::workspace::host::Host;

/// Attributes of a file that its new contents must not inherit: what they grant was granted to
/// the old contents, or is computed from them.
const NOT_INHERITED: [&[u8]; 3] = [b"security.capability", b"security.ima", b"security.evm"];

/// Gives names to temporary files; all of one run share a beginning, by which they can be found
/// after a crash.
#[derive(Debug)]
pub(super) struct Names {
    run: String,
    next: u32,
}

impl Names {
    /// Names for a run.
    pub(super) fn of(run: &str) -> Self {
        let plain: String = run.chars().filter(char::is_ascii_alphanumeric).collect();
        let run = plain[plain.len().saturating_sub(12)..].to_owned();
        Self { run, next: 0 }
    }

    /// A name in a directory; `None` is the root.
    ///
    /// # Errors
    ///
    /// `ENAMETOOLONG` where the path would be too long.
    pub(super) fn next(&mut self, directory: Option<&RelPath>) -> Result<RelPath, Errno> {
        self.next += 1;
        let name = format!(".codex-{}-{}.tmp", self.run, self.next);
        match directory {
            Some(directory) => directory.join(name.as_bytes()),
            None => RelPath::new(name),
        }
        .map_err(|_| Errno::NAMETOOLONG)
    }
}

/// Does something with a fresh name, and takes another name where that one exists.
pub(super) fn with_fresh_name<T>(
    names: &mut Names,
    directory: Option<&RelPath>,
    mut make: impl FnMut(&RelPath) -> Result<T, Errno>,
) -> Result<(RelPath, T), Errno> {
    for _ in 0..1000 {
        let path = names.next(directory)?;
        match make(&path) {
            Ok(made) => return Ok((path, made)),
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
    }
    Err(Errno::EXIST)
}

/// Why contents could not be staged.
#[derive(Debug, thiserror::Error)]
pub(super) enum StageError {
    /// The host refused.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// `changes.tar` no longer has what arrived.
    #[error("changes.tar no longer holds what arrived from the container")]
    Damaged,
}

impl From<Errno> for StageError {
    fn from(error: Errno) -> Self {
        Self::Io(error.into())
    }
}

/// Writes the new file or link under a fresh name in `directory` and gives that name. A file gets
/// owner, group, access list, extended attributes and mode of `old`, the file it replaces, except
/// for the executable bit; without one it gets what the umask leaves.
///
/// # Errors
///
/// Whatever the host refuses; nothing is left behind then.
pub(super) fn stage(
    host: &Host,
    names: &mut Names,
    directory: Option<&RelPath>,
    new: &NewNode,
    archive: &File,
    old: Option<&File>,
) -> Result<RelPath, StageError> {
    if new.kind == NodeKind::Link {
        let target = new.target.as_ref().map_or(&b""[..], |target| &target.0);
        let (path, ()) = with_fresh_name(names, directory, |path| host.link(path, target))?;
        return Ok(path);
    }
    let mode = match old {
        Some(_) => 0o600,
        None if new.executable => 0o777,
        None => 0o666,
    };
    let (path, file) = with_fresh_name(names, directory, |path| host.create(path, mode))?;
    let filled = fill(&file, new, archive).and_then(|()| match old {
        Some(old) => Ok(inherit(&file, old, new.executable)?),
        None => Ok(()),
    });
    match filled {
        Ok(()) => Ok(path),
        Err(error) => {
            // Ours, and nobody has seen it yet.
            let _ = host.unlink(&path);
            Err(error)
        }
    }
}

fn fill(mut file: &File, new: &NewNode, archive: &File) -> Result<(), StageError> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 64 * 1024];
    let (mut at, end) = (new.offset, new.offset.saturating_add(new.size));
    while at < end {
        let n = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
        match archive.read_at(&mut buffer[..n], at) {
            Ok(0) => return Err(StageError::Damaged),
            Ok(n) => {
                hasher.update(&buffer[..n]);
                file.write_all(&buffer[..n])?;
                at += n as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    match new.hash == Some(ContentHash(*hasher.finalize().as_bytes())) {
        true => Ok(()),
        false => Err(StageError::Damaged),
    }
}

/// Owner and attributes as far as they can be had; the mode must succeed.
fn inherit(file: &File, old: &File, executable_now: bool) -> Result<(), Errno> {
    let (ours, theirs) = (fstat(file)?, fstat(old)?);
    if (ours.st_uid, ours.st_gid) != (theirs.st_uid, theirs.st_gid) {
        let (owner, group) = (Uid::from_raw(theirs.st_uid), Gid::from_raw(theirs.st_gid));
        if fchown(file, Some(owner), Some(group)).is_err() {
            // Only root gives files away; a group of one's own may be set.
            let _ = fchown(file, None, Some(group));
        }
    }
    copy_attributes(file, old);
    let mode = with_executable(theirs.st_mode & 0o777, executable_now);
    fchmod(file, Mode::from_raw_mode(mode))
}

fn copy_attributes(file: &File, old: &File) {
    let mut names = vec![0; 64 * 1024];
    let Ok(len) = flistxattr(old, &mut names[..]) else { return };
    let mut value = vec![0; 64 * 1024];
    for name in names[..len].split(|b| *b == 0).filter(|name| !name.is_empty()) {
        if NOT_INHERITED.contains(&name) {
            continue;
        }
        if let Ok(len) = fgetxattr(old, name, &mut value[..]) {
            // Best effort: some belong to the kernel or to root.
            let _ = fsetxattr(file, name, &value[..len], XattrFlags::empty());
        }
    }
}

/// A mode with its executable bit as it shall be; one that is right already stays as it is.
pub(super) fn with_executable(mode: u32, executable_now: bool) -> u32 {
    match executable_now {
        now if now == executable(mode) => mode,
        true => mode | ((mode & 0o444) >> 2),
        false => mode & !0o111,
    }
}
