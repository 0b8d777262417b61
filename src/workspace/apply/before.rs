//! `before.tar`: the bytes of everything that was replaced or deleted, kept before it goes.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::path::RelPath;
use crate::workspace::archive::write::TarWriter;
use crate::workspace::change::{BaseNode, ContentHash};
use crate::workspace::host::hash;

/// The pre-image of a run, being written.
#[derive(Debug)]
pub(super) struct Before {
    path: PathBuf,
    out: TarWriter,
    start: u64,
}

/// Why a file was not kept.
#[derive(Debug)]
pub(super) enum KeepError {
    /// It cannot be read.
    Read(io::Error),
    /// The archive cannot be written.
    Write(io::Error),
}

impl Before {
    /// Creates the archive, or goes on with one that an earlier apply of the same run left.
    ///
    /// # Errors
    ///
    /// What the disk says.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = open(path)?;
        let empty = file.metadata()?.len() == 0;
        let out = if empty { TarWriter::new(file) } else { TarWriter::resume(file)? };
        let start = out.position();
        Ok(Self { path: path.to_owned(), out, start })
    }

    /// Which file it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads a file and keeps what it reads, if that is `base`; one reading serves both, so what
    /// is kept is what was compared. Gives what was read, and where it is.
    pub(super) fn keep(
        &mut self,
        path: &RelPath,
        base: &BaseNode,
        mut file: &File,
    ) -> Result<(u64, ContentHash, u64), KeepError> {
        let start = self.out.position();
        let offset = self.entry(path, base)?;
        let mut sink = AtMost { out: &mut self.out, left: base.size, failed: None };
        let read = hash(&mut file, &mut sink);
        if let Some(error) = sink.failed {
            return Err(KeepError::Write(error));
        }
        match read {
            Ok((size, hash)) if size == base.size && Some(hash) == base.hash => {
                self.out.pad().map_err(KeepError::Write)?;
                Ok((size, hash, offset))
            }
            other => {
                self.out.rewind(start).map_err(KeepError::Write)?;
                other.map(|(size, hash)| (size, hash, offset)).map_err(KeepError::Read)
            }
        }
    }

    /// Keeps that there was something that has no bytes.
    pub(super) fn entry(&mut self, path: &RelPath, base: &BaseNode) -> Result<u64, KeepError> {
        let target = base.target.as_ref().map_or(&b""[..], |target| &target.0);
        self.out
            .entry(path.as_bytes(), base.kind, base.mode, base.size, target)
            .map_err(KeepError::Write)
    }

    /// Ends the archive and brings it to the disk.
    ///
    /// # Errors
    ///
    /// What the disk says.
    pub(super) fn finish(self) -> io::Result<()> {
        self.out.finish()?.sync_data()?;
        // Its name too, if it is new.
        match self.path.parent() {
            Some(folder) if self.start == 0 => File::open(folder)?.sync_all(),
            _ => Ok(()),
        }
    }

    /// Brings what was kept so far to the disk, so that it can be let go of before the end.
    ///
    /// # Errors
    ///
    /// What the disk says.
    pub(super) fn secure(&mut self) -> io::Result<()> {
        self.out.secure()
    }

    /// Takes back what this apply wrote.
    ///
    /// # Errors
    ///
    /// What the disk says.
    pub(super) fn take_back(mut self) -> io::Result<()> {
        self.out.rewind(self.start)?;
        self.out.finish().map(drop)
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// Lets no more through than the header promised; a longer file is no longer the base anyway.
struct AtMost<'a> {
    out: &'a mut TarWriter,
    left: u64,
    failed: Option<io::Error>,
}

impl Write for AtMost<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
        if let Err(error) = self.out.write_all(&bytes[..n]) {
            let kind = error.kind();
            self.failed = Some(error);
            return Err(kind.into());
        }
        self.left -= n as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
