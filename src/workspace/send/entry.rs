//! Entries of a tar stream, byte for byte as given: no path is cleaned up, long ones are written
//! the GNU way.

use std::io::{self, BufWriter, Write};

use tar::{EntryType, Header};

use crate::ignored::Above;
use crate::keeper::wire;

const BLOCK: usize = 512;

/// Bytes that are gathered before they are written on.
const BUFFER: usize = 256 << 10;

/// The longest name in a header.
const NAME: usize = 100;

/// A writer of tar entries.
pub(super) struct Entries<W: Write> {
    out: BufWriter<W>,
}

impl<W: Write> Entries<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out: BufWriter::with_capacity(BUFFER, out) }
    }

    /// The rules that hold in the tree and are not in it.
    pub(super) fn rules_above(&mut self, above: &Above) -> io::Result<()> {
        let bytes = serde_json::to_vec(above)?;
        let size = bytes.len() as u64;
        self.head(EntryType::XGlobalHeader, wire::RULES_ABOVE.as_bytes(), None, size, 0o644, 0)?;
        self.data(&bytes)?;
        self.end_file(size, 0)
    }

    pub(super) fn directory(&mut self, path: &[u8], mtime: i64) -> io::Result<()> {
        self.head(EntryType::Directory, path, None, 0, 0o755, mtime)
    }

    pub(super) fn link(&mut self, path: &[u8], target: &[u8], mtime: i64) -> io::Result<()> {
        self.head(EntryType::Symlink, path, Some(target), 0, 0o777, mtime)
    }

    /// A whole file.
    pub(super) fn file(
        &mut self,
        path: &[u8],
        contents: &[u8],
        executable: bool,
        mtime: i64,
    ) -> io::Result<()> {
        let size = contents.len() as u64;
        self.begin_file(path, size, executable, mtime)?;
        self.data(contents)?;
        self.end_file(size, 0)
    }

    /// The head of a file of `size` bytes, which must follow.
    pub(super) fn begin_file(
        &mut self,
        path: &[u8],
        size: u64,
        executable: bool,
        mtime: i64,
    ) -> io::Result<()> {
        let mode = if executable { 0o755 } else { 0o644 };
        self.head(EntryType::Regular, path, None, size, mode, mtime)
    }

    /// Bytes of the file that was begun.
    pub(super) fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)
    }

    /// Ends the file of `size` bytes, of which `missing` were not given.
    pub(super) fn end_file(&mut self, size: u64, missing: u64) -> io::Result<()> {
        let padding = size.next_multiple_of(BLOCK as u64) - size;
        io::copy(&mut io::Read::take(io::repeat(0), missing + padding), &mut self.out)?;
        Ok(())
    }

    /// Takes back the file that was sent under this path.
    pub(super) fn withdrawn(&mut self, path: &[u8]) -> io::Result<()> {
        self.head(EntryType::new(wire::WITHDRAWN), path, None, 0, 0o644, 0)
    }

    /// Takes away what a container has at this path, with all that is in it.
    pub(super) fn removed(&mut self, path: &[u8]) -> io::Result<()> {
        self.head(EntryType::new(wire::REMOVED), path, None, 0, 0o644, 0)
    }

    /// Ends the stream.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.out.write_all(&[0; 2 * BLOCK])?;
        self.out.flush()
    }

    fn head(
        &mut self,
        kind: EntryType,
        path: &[u8],
        target: Option<&[u8]>,
        size: u64,
        mode: u32,
        mtime: i64,
    ) -> io::Result<()> {
        if let Some(target) = target.filter(|target| target.len() > NAME) {
            self.long(EntryType::GNULongLink, target)?;
        }
        if path.len() > NAME {
            self.long(EntryType::GNULongName, path)?;
        }
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(wire::USER.into());
        header.set_gid(wire::USER.into());
        header.set_size(size);
        header.set_mtime(u64::try_from(mtime).unwrap_or(0));
        let old = header.as_old_mut();
        copy(&mut old.name, path);
        copy(&mut old.linkname, target.unwrap_or_default());
        header.set_cksum();
        self.out.write_all(header.as_bytes())
    }

    /// An entry whose contents are the name or target of the entry after it.
    fn long(&mut self, kind: EntryType, name: &[u8]) -> io::Result<()> {
        let size = name.len() as u64 + 1;
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_size(size);
        copy(&mut header.as_old_mut().name, b"././@LongLink");
        header.set_cksum();
        self.out.write_all(header.as_bytes())?;
        self.out.write_all(name)?;
        self.out.write_all(b"\0")?;
        self.end_file(size, 0)
    }
}

fn copy(slot: &mut [u8; NAME], bytes: &[u8]) {
    let count = bytes.len().min(NAME);
    slot[..count].copy_from_slice(&bytes[..count]);
}
