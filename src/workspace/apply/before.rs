//! `before.tar`: the bytes of everything that will be replaced or deleted, kept before it is.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::path::RelPath;
use crate::workspace::NodeKind;
use crate::workspace::archive::write::TarWriter;
use crate::workspace::change::BaseNode;
use crate::workspace::conflict::{HostNow, same};
use crate::workspace::host::Host;

/// The pre-image of a run, being written.
#[derive(Debug)]
pub(super) struct Before {
    out: TarWriter,
}

impl Before {
    /// Creates the archive, or goes on with one that an earlier apply of the same run left.
    ///
    /// # Errors
    ///
    /// What the disk says.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        let empty = file.metadata()?.len() == 0;
        Ok(Self { out: if empty { TarWriter::new(file) } else { TarWriter::resume(file)? } })
    }

    /// Looks at a path of the host, and keeps what is there if it is still `base`. One reading
    /// serves both, so what is kept is what was compared.
    ///
    /// # Errors
    ///
    /// As [`Host::look`], and what the disk says.
    pub(super) fn keep(
        &mut self,
        host: &Host,
        path: &RelPath,
        base: &BaseNode,
    ) -> io::Result<HostNow> {
        let start = self.out.position();
        let target = base.target.as_ref().map_or(&b""[..], |target| &target.0);
        self.out.entry(path.as_bytes(), base.kind, base.mode, base.size, target)?;
        let mut sink = AtMost { out: &mut self.out, left: base.size };
        let now = host.look(path, &mut sink);
        match &now {
            Ok(HostNow::Node(node)) if same(base, node) => {
                if base.kind == NodeKind::File {
                    self.out.pad()?;
                }
            }
            _ => self.out.rewind(start)?,
        }
        now
    }

    /// Ends the archive and brings it to the disk.
    ///
    /// # Errors
    ///
    /// What the disk says.
    pub(super) fn finish(self) -> io::Result<()> {
        self.out.finish()?.sync_data()
    }
}

/// Lets no more through than the header promised; a longer file is no longer the base anyway.
struct AtMost<'a> {
    out: &'a mut TarWriter,
    left: u64,
}

impl Write for AtMost<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
        self.out.write_all(&bytes[..n])?;
        self.left -= n as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
