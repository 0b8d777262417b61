//! Opening things beneath a directory handle without following any link.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{Mode, OFlags, openat};

/// How directories are opened.
pub(super) const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// How files are opened: a FIFO that took the file's place must not block.
pub(super) const FILE: OFlags = OFlags::RDONLY
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC)
    .union(OFlags::NOCTTY);

/// Opens `path` (components separated by `/`, empty for `root` itself) one component at a time.
/// A link anywhere in it is an error (`ELOOP` or `ENOTDIR`).
pub(super) fn directory(root: BorrowedFd<'_>, path: &[u8]) -> io::Result<OwnedFd> {
    let mut here: Option<OwnedFd> = None;
    for component in path.split(|byte| *byte == b'/').filter(|component| !component.is_empty()) {
        let above = here.as_ref().map_or(root, |fd| fd.as_fd());
        here = Some(openat(above, OsStr::from_bytes(component), DIRECTORY, Mode::empty())?);
    }
    match here {
        Some(fd) => Ok(fd),
        None => Ok(openat(root, c".", DIRECTORY, Mode::empty())?),
    }
}

/// Opens directories one after the other, and keeps the last one open: neighbours share it.
#[derive(Debug)]
pub(super) struct Parents<'a> {
    root: BorrowedFd<'a>,
    last: Option<(Vec<u8>, OwnedFd)>,
}

impl<'a> Parents<'a> {
    pub(super) fn new(root: BorrowedFd<'a>) -> Self {
        Self { root, last: None }
    }

    /// The directory at `path`; empty for the root.
    pub(super) fn open(&mut self, path: &[u8]) -> io::Result<BorrowedFd<'_>> {
        if path.is_empty() {
            return Ok(self.root);
        }
        if self.last.as_ref().is_none_or(|(open, _)| open != path) {
            self.last = Some((path.to_vec(), directory(self.root, path)?));
        }
        match &self.last {
            Some((_, fd)) => Ok(fd.as_fd()),
            None => Ok(self.root),
        }
    }
}

/// The directory part and the last component of `path`.
pub(super) fn split(path: &[u8]) -> (&[u8], &OsStr) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], OsStr::from_bytes(&path[at + 1..])),
        None => (b"", OsStr::from_bytes(path)),
    }
}

/// The bytes of the regular file `name` in `directory`, at most `limit` of them; `None` if there
/// is no regular file of that name.
pub(super) fn read_small(
    directory: BorrowedFd<'_>,
    name: impl rustix::path::Arg,
    limit: u64,
) -> io::Result<Option<Vec<u8>>> {
    use std::io::Read;

    use rustix::io::Errno;

    let fd = match openat(directory, name, FILE, Mode::empty()) {
        Ok(fd) => fd,
        Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR | Errno::NXIO) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let stat = rustix::fs::fstat(&fd)?;
    if !rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file() {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    std::fs::File::from(fd).take(limit).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}
