//! Writes the tar files of a run folder, which are read back by offset, and by people with `tar`.

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

use crate::workspace::NodeKind;

const BLOCK: u64 = 512;
const END: [u8; 1024] = [0; 1024];

/// A tar file that is being written.
#[derive(Debug)]
pub(in crate::workspace) struct TarWriter {
    out: BufWriter<File>,
    at: u64,
}

impl TarWriter {
    /// Begins an archive in an empty file.
    pub(in crate::workspace) fn new(file: File) -> Self {
        Self { out: BufWriter::with_capacity(128 * 1024, file), at: 0 }
    }

    /// Goes on with an archive that [`finish`](Self::finish) ended. Its end mark stays until it is
    /// written over: without it, the zeros at the end of the last file would be taken for one when
    /// this process is killed before it has ended the archive again.
    pub(in crate::workspace) fn resume(mut file: File) -> io::Result<Self> {
        let len = file.metadata()?.len();
        let at = len.saturating_sub(END.len() as u64);
        file.seek(SeekFrom::Start(at))?;
        let mut end = Vec::new();
        (&mut file).take(END.len() as u64).read_to_end(&mut end)?;
        if len % BLOCK != 0 || end.iter().any(|b| *b != 0) {
            // It was cut off; what follows is still found by offset.
            let at = len.next_multiple_of(BLOCK);
            file.set_len(at + END.len() as u64)?;
            file.seek(SeekFrom::Start(at))?;
            return Ok(Self { out: BufWriter::with_capacity(128 * 1024, file), at });
        }
        file.seek(SeekFrom::Start(at))?;
        Ok(Self { out: BufWriter::with_capacity(128 * 1024, file), at })
    }

    /// Writes the header of an entry; `size` bytes of a file must follow by
    /// [`write_all`](Write::write_all), then [`pad`](Self::pad). Gives where those bytes begin.
    pub(in crate::workspace) fn entry(
        &mut self,
        name: &[u8],
        kind: NodeKind,
        mode: u32,
        size: u64,
        target: &[u8],
    ) -> io::Result<u64> {
        if name.len() > 99 {
            self.long(b'L', name)?;
        }
        if target.len() > 99 {
            self.long(b'K', target)?;
        }
        let mut header = tar::Header::new_gnu();
        if let Some(gnu) = header.as_gnu_mut() {
            copy(&mut gnu.name, name);
            copy(&mut gnu.linkname, target);
        }
        header.set_entry_type(match kind {
            NodeKind::File => tar::EntryType::Regular,
            NodeKind::Directory => tar::EntryType::Directory,
            NodeKind::Link => tar::EntryType::Symlink,
        });
        header.set_mode(mode & 0o7777);
        header.set_size(size);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_cksum();
        self.write_all(header.as_bytes())?;
        Ok(self.at)
    }

    /// Fills the last block after a file's bytes.
    pub(in crate::workspace) fn pad(&mut self) -> io::Result<()> {
        let rest = self.at.next_multiple_of(BLOCK) - self.at;
        self.write_all(&END[..usize::try_from(rest).unwrap_or(0)])
    }

    /// Where the next byte goes.
    pub(in crate::workspace) fn position(&self) -> u64 {
        self.at
    }

    /// Takes back everything from `position` on. At no time is the archive without an end mark.
    pub(in crate::workspace) fn rewind(&mut self, position: u64) -> io::Result<()> {
        self.out.flush()?;
        self.out.get_ref().write_all_at(&END, position)?;
        self.out.get_ref().set_len(position + END.len() as u64)?;
        self.out.seek(SeekFrom::Start(position))?;
        self.at = position;
        Ok(())
    }

    /// Brings everything written so far to the disk, as an archive that is whole if nothing follows.
    pub(in crate::workspace) fn secure(&mut self) -> io::Result<()> {
        self.out.flush()?;
        self.out.get_ref().write_all_at(&END, self.at)?;
        self.out.get_ref().sync_data()
    }

    /// Ends the archive and gives its file; nothing is flushed to the disk.
    pub(in crate::workspace) fn finish(mut self) -> io::Result<File> {
        self.write_all(&END)?;
        self.out.into_inner().map_err(io::IntoInnerError::into_error)
    }

    fn long(&mut self, kind: u8, bytes: &[u8]) -> io::Result<()> {
        let mut header = tar::Header::new_gnu();
        if let Some(gnu) = header.as_gnu_mut() {
            copy(&mut gnu.name, b"././@LongLink");
        }
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_mode(0o644);
        header.set_size(bytes.len() as u64 + 1);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_cksum();
        self.write_all(header.as_bytes())?;
        self.write_all(bytes)?;
        self.write_all(&[0])?;
        self.pad()
    }
}

impl Write for TarWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.at += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn copy(field: &mut [u8], bytes: &[u8]) {
    let len = bytes.len().min(field.len().saturating_sub(1));
    field[..len].copy_from_slice(&bytes[..len]);
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use super::*;

    /// A file whose last blocks look like the end of an archive, and a writer that is killed, or
    /// whose apply fails, before it has ended the archive again.
    #[test]
    fn who_goes_on_and_is_killed_takes_nothing_away() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let open = || OpenOptions::new().read(true).write(true).open(file.path()).unwrap();
        let put = |out: &mut TarWriter, bytes: &[u8]| {
            let at = out.entry(b"a", NodeKind::File, 0o644, bytes.len() as u64, b"").unwrap();
            out.write_all(bytes).unwrap();
            out.pad().unwrap();
            at
        };
        let mut out = TarWriter::new(open());
        let bytes = [&b"text"[..], &[0; 8188]].concat();
        let at = put(&mut out, &bytes);
        out.finish().unwrap();
        for round in 0..4 {
            for _ in 0..3 {
                let mut out = TarWriter::resume(open()).unwrap();
                if round > 0 {
                    put(&mut out, &[0; 3000]);
                    out.flush().unwrap();
                }
                if round > 1 {
                    out.rewind(out.position() - 1024).unwrap();
                }
                if round == 3 {
                    put(&mut out, b"");
                    out.flush().unwrap();
                }
                drop(out);
            }
            let mut kept = vec![1; bytes.len()];
            open().read_exact_at(&mut kept, at).unwrap();
            assert!(kept == bytes, "{round}");
        }
    }
}
