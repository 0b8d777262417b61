//! Packs of ours, open, so that they can be sent although somebody removes them.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::super::made::ObjectFile;

/// What a pack index begins with, in its second version.
const MAGIC: [u8; 8] = [0xff, b't', b'O', b'c', 0, 0, 0, 2];

/// Bytes before the names: the magic, and for each first byte of a name how many come up to it.
const NAMES_AT: usize = 8 + 4 * 256;

#[derive(Debug, Default)]
pub(in crate::workspace::git) struct Packs {
    files: Vec<(ObjectFile, File)>,
}

impl Packs {
    pub(super) fn open(folder: &Path, names: &[String]) -> io::Result<Self> {
        let mut packs = Self::default();
        names.iter().try_for_each(|name| packs.add(folder, name))?;
        Ok(packs)
    }

    /// Opens one more.
    pub(super) fn add(&mut self, folder: &Path, name: &str) -> io::Result<()> {
        for ending in ["pack", "idx"] {
            let name = format!("{name}.{ending}");
            let file = File::open(folder.join(&name))?;
            let found = file.metadata()?;
            let told = ObjectFile {
                from: 0,
                path: format!("pack/{name}").into_bytes(),
                size: found.size(),
                mtime: found.mtime(),
                dev: found.dev(),
                ino: found.ino(),
            };
            self.files.push((told, file));
        }
        Ok(())
    }

    pub(super) fn bytes(&self) -> u64 {
        self.files.iter().map(|(file, _)| file.size).sum()
    }

    /// Bytes of all packs but the first.
    pub(super) fn added(&self) -> u64 {
        self.files.iter().skip(2).map(|(file, _)| file.size).sum()
    }

    pub(super) fn files(&self) -> Vec<ObjectFile> {
        self.files.iter().map(|(file, _)| file.clone()).collect()
    }

    pub(super) fn open_file(&self, wanted: &ObjectFile) -> io::Result<File> {
        let (_, file) = self
            .files
            .iter()
            .find(|(file, _)| file.path == wanted.path)
            .ok_or(io::ErrorKind::NotFound)?;
        // Another opening of the same file, so that it is read from its beginning.
        File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))
    }

    /// Of these objects the ones that no pack has, each on a line of its own.
    pub(super) fn missing(&self, mut named: Vec<&[u8]>, hash_len: usize) -> Result<String, String> {
        named.sort_unstable();
        named.dedup();
        for (told, _) in self.files.iter().filter(|(file, _)| file.path.ends_with(b".idx")) {
            let read = || {
                let mut bytes = Vec::new();
                io::Read::read_to_end(&mut self.open_file(told)?, &mut bytes)?;
                Ok::<_, io::Error>(bytes)
            };
            let bytes = read().map_err(|error| format!("the index of a pack: {error}"))?;
            let names = names(&bytes, hash_len).ok_or("the index of a pack is damaged")?;
            // Both are sorted.
            let mut rest = names.chunks_exact(hash_len).peekable();
            named.retain(|object| {
                while rest.next_if(|name| name < object).is_some() {}
                rest.peek() != Some(object)
            });
        }
        let lines = named.into_iter().map(|name| crate::workspace::hex::to_hex(name) + "\n");
        Ok(lines.collect())
    }
}

/// The names in a pack index, sorted, one after the other.
fn names(index: &[u8], hash_len: usize) -> Option<&[u8]> {
    let head = index.get(..NAMES_AT).filter(|head| head.starts_with(&MAGIC))?;
    let count = u32::from_be_bytes(head.get(NAMES_AT - 4..)?.try_into().ok()?);
    let bytes = usize::try_from(count).ok()?.checked_mul(hash_len)?;
    index.get(NAMES_AT..NAMES_AT.checked_add(bytes)?)
}
