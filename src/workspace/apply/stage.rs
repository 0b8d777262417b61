//! New contents, written whole beside their targets before anything is replaced.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use rustix::io::Errno;

use super::attributes;
use super::kill::point;
use super::plan::Op;
use crate::path::RelPath;
use crate::workspace::change::{ContentHash, NewNode};
use crate::workspace::host::Host;

/// Why contents could not be staged.
#[derive(Debug, thiserror::Error)]
pub(super) enum StageError {
    /// The host refused.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The archive no longer has what was kept there.
    #[error("it no longer holds what was kept there; was it changed by hand?")]
    Damaged,
    /// No symbolic link can be made.
    #[error(
        "it cannot be written: the file system does not hold symbolic links, or this user may not \
         make one there"
    )]
    NoLinks,
}

impl From<Errno> for StageError {
    fn from(error: Errno) -> Self {
        Self::Io(error.into())
    }
}

/// Writes the new file or link of an operation under its temporary name. A file gets owner, group,
/// access list, extended attributes and mode of `old`, the file it replaces, except for the
/// executable bit, or what the operation says; without either it gets what the umask leaves.
///
/// # Errors
///
/// Whatever the host refuses; nothing is left behind then.
pub(super) fn stage(
    host: &Host,
    op: &Op,
    new: &NewNode,
    path: &RelPath,
    archive: &File,
    old: Option<&File>,
) -> Result<File, StageError> {
    let mode = match (old, &op.restore) {
        (None, None) if new.executable => 0o777,
        (None, None) => 0o666,
        _ => 0o600,
    };
    let file = host.create(path, mode)?;
    let filled = fill(&file, new, archive).and_then(|()| match (&op.restore, old) {
        (Some(was), _) => Ok(attributes::restore(&file, was)?),
        (None, Some(old)) => Ok(attributes::inherit(&file, old, new.executable)?),
        (None, None) => Ok(()),
    });
    match filled {
        Ok(()) => Ok(file),
        Err(error) => {
            // Ours, and nobody has seen it yet.
            let _ = host.unlink(path);
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
                point();
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
