//! Writes a tree from a tar stream, every file as a new inode.
//!
//! Runs on a thread with uid 1000's credentials, so that the kernel itself keeps a bad path from
//! doing harm; paths are checked and opened component by component all the same, never through a
//! link.

use std::ffi::{CStr, CString};
use std::io::{self, Read, Write};

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{self, AtFlags, Mode, OFlags, Timespec, Timestamps};
use tar::EntryType;

use super::manifest::{Entry, Kind, Manifest, ctime};
use super::{Doing, Refusal, places};
use crate::ignored::Above;
use crate::keeper::wire::{PutReport, RULES_ABOVE};
use crate::path::RelPath;

/// Directories within each other at most; each level holds a file descriptor.
pub(super) const DEEPEST: usize = 512;

const BUFFER: usize = 256 << 10;

/// Bytes of the rules above a tree at most: some pattern files, as JSON.
const MOST_RULES: u64 = 32 << 20;

/// Contents are hashed anyway until a tree has so many bytes: that takes less time than waiting for
/// the clock that makes their ctime a proof, see [`Manifest::newest_unhashed`].
const SMALL_TREE: u64 = 4 << 20;

/// Writes the tree into the directory `root`, which is empty but for the name `aside`. `hashed` says that all contents must be hashed.
pub(super) fn write(
    root: BorrowedFd<'_>,
    tar: &mut dyn Read,
    hashed: bool,
    aside: Option<&CStr>,
) -> Result<(Manifest, PutReport), Refusal> {
    let names = places::names(root).doing("read the workspace")?;
    if names.iter().any(|name| Some(name.as_c_str()) != aside) {
        return Err(Refusal::new("the workspace is not empty; reset first"));
    }
    let mut writer = Writer {
        root,
        open: Vec::new(),
        nodes: Vec::new(),
        closed: Vec::new(),
        above: Above::default(),
        report: PutReport::default(),
        buffer: vec![0; BUFFER],
        hashed,
    };
    {
        let mut archive = tar::Archive::new(&mut *tar);
        for entry in archive.entries().doing("read the tree")? {
            writer.entry(&mut entry.doing("read the tree")?)?;
        }
    }
    // What follows the end of the archive is padding; the stream must end well all the same.
    io::copy(tar, &mut io::sink()).doing("read the tree to its end")?;
    writer.close_directories()?;
    let mut manifest = Manifest::new(writer.nodes);
    manifest.above = writer.above;
    Ok((manifest, writer.report))
}

struct Writer<'a> {
    root: BorrowedFd<'a>,
    /// The directories that lead to the one last written to.
    open: Vec<(Vec<u8>, OwnedFd)>,
    nodes: Vec<(Box<[u8]>, Entry)>,
    /// Directories whose modes keep their owner out, applied last.
    closed: Vec<(RelPath, u32)>,
    above: Above,
    report: PutReport,
    buffer: Vec<u8>,
    hashed: bool,
}

impl Writer<'_> {
    fn entry<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>) -> Result<(), Refusal> {
        let kind = entry.header().entry_type();
        if kind == EntryType::XGlobalHeader {
            return self.global(entry);
        }
        let mut bytes = entry.path_bytes().into_owned();
        while bytes.last() == Some(&b'/') {
            bytes.pop();
        }
        let path = RelPath::new(bytes.clone())
            .map_err(|error| Refusal(format!("{:?}: {error}", String::from_utf8_lossy(&bytes))))?;
        let mode = entry.header().mode().doing(format_args!("read the mode of {path}"))? & 0o777;
        let name = CString::new(path.name()).doing(format_args!("write {path}"))?;
        self.enter(&path)?;
        match kind {
            EntryType::Directory => self.directory(&path, &name, mode),
            EntryType::Symlink => {
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                self.link(&path, &name, target)
            }
            EntryType::Regular | EntryType::Continuous => self.file(&path, &name, mode, entry),
            other => Err(Refusal(format!("{path}: a {other:?} entry cannot be put"))),
        }
    }

    fn global<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>) -> Result<(), Refusal> {
        if *entry.path_bytes() == *RULES_ABOVE.as_bytes() {
            let mut bytes = Vec::new();
            entry.take(MOST_RULES).read_to_end(&mut bytes).doing("read the tree")?;
            self.above = serde_json::from_slice(&bytes).doing("read the rules above the tree")?;
        }
        Ok(())
    }

    fn parent(&self) -> BorrowedFd<'_> {
        self.open.last().map_or(self.root, |(_, directory)| directory.as_fd())
    }

    /// Makes the directory that holds `path` the last open one, making what is missing.
    fn enter(&mut self, path: &RelPath) -> Result<(), Refusal> {
        let mut parents: Vec<&[u8]> = path.components().collect();
        parents.pop();
        if parents.len() > DEEPEST {
            return Err(Refusal(format!("{path} is deeper than {DEEPEST} directories")));
        }
        let same =
            self.open.iter().zip(&parents).take_while(|((open, _), want)| open == *want).count();
        self.open.truncate(same);
        let mut prefix = parents[..same].join(&b'/');
        for component in &parents[same..] {
            if !prefix.is_empty() {
                prefix.push(b'/');
            }
            prefix.extend_from_slice(component);
            let name = CString::new(*component).doing(format_args!("write {path}"))?;
            let directory = match fs::openat(self.parent(), &name, places::DIRECTORY, Mode::empty())
            {
                Ok(directory) => directory,
                Err(rustix::io::Errno::NOENT) => {
                    self.make(&prefix, &name, 0o755).doing(format_args!("make {path}"))?;
                    fs::openat(self.parent(), &name, places::DIRECTORY, Mode::empty())
                        .doing(format_args!("open the directory of {path}"))?
                }
                Err(error) => {
                    return Err(error).doing(format_args!("open the directory of {path}"));
                }
            };
            self.open.push((component.to_vec(), directory));
        }
        Ok(())
    }

    fn make(&mut self, path: &[u8], name: &CString, mode: u32) -> io::Result<()> {
        // Open to its owner until everything is in it.
        fs::mkdirat(self.parent(), name, Mode::from_raw_mode(mode | 0o700))?;
        self.report.entries += 1;
        let entry = Entry {
            kind: Kind::Directory,
            mode: mode as u16,
            inode: 0,
            size: 0,
            ctime: (0, 0),
            hash: None,
        };
        self.nodes.push((path.into(), entry));
        Ok(())
    }

    fn directory(&mut self, path: &RelPath, name: &CString, mode: u32) -> Result<(), Refusal> {
        match self.make(path.as_bytes(), name, mode) {
            Ok(()) => {}
            // Made on the way to something in it that came first.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let had = self.nodes.iter_mut().rfind(|(had, _)| &**had == path.as_bytes());
                match had {
                    Some((_, entry)) if entry.kind == Kind::Directory => {
                        entry.mode = mode as u16;
                        self.closed.push((path.clone(), mode));
                    }
                    _ => return Err(Refusal(format!("{path} came twice"))),
                }
            }
            Err(error) => return Err(error).doing(format_args!("make {path}")),
        }
        if mode & 0o700 != 0o700 {
            self.closed.push((path.clone(), mode));
        }
        Ok(())
    }

    fn link(&mut self, path: &RelPath, name: &CString, target: Vec<u8>) -> Result<(), Refusal> {
        let doing = format!("make the link {path}");
        let hash = self.hashes(0).then(|| Box::new(*blake3::hash(&target).as_bytes()));
        let target = CString::new(target).doing(&doing)?;
        fs::symlinkat(&target, self.parent(), name).doing(&doing)?;
        let stat = fs::statat(self.parent(), name, AtFlags::SYMLINK_NOFOLLOW).doing(&doing)?;
        self.note(path, Kind::Link, &stat, hash);
        Ok(())
    }

    fn file<R: Read>(
        &mut self,
        path: &RelPath,
        name: &CString,
        mode: u32,
        entry: &mut tar::Entry<'_, R>,
    ) -> Result<(), Refusal> {
        let doing = format!("write {path}");
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut opened = fs::openat(self.parent(), name, flags, Mode::from_raw_mode(mode));
        // A file that changed while the host read it comes again, and the later one counts. Only a
        // file of this very put is replaced.
        if matches!(opened, Err(rustix::io::Errno::EXIST)) {
            let had = self.nodes.iter().rposition(|(had, _)| &**had == path.as_bytes());
            if let Some(had) = had.filter(|had| self.nodes[*had].1.kind == Kind::File) {
                let (_, earlier) = self.nodes.remove(had);
                self.report.entries -= 1;
                self.report.bytes -= earlier.size;
                fs::unlinkat(self.parent(), name, AtFlags::empty()).doing(&doing)?;
                opened = fs::openat(self.parent(), name, flags, Mode::from_raw_mode(mode));
            }
        }
        let mut file = std::fs::File::from(opened.doing(&doing)?);
        let mut hash = self.hashes(entry.size()).then(blake3::Hasher::new);
        let mut left = entry.size();
        while left > 0 {
            let want = usize::try_from(left).unwrap_or(BUFFER).min(BUFFER);
            let came = entry.read(&mut self.buffer[..want]).doing("read the tree")?;
            if came == 0 {
                return Err(Refusal(format!("the tree ended within {path}")));
            }
            file.write_all(&self.buffer[..came]).doing(&doing)?;
            if let Some(hash) = &mut hash {
                hash.update(&self.buffer[..came]);
            }
            left -= came as u64;
            self.report.bytes += came as u64;
        }
        let seconds = entry.header().mtime().unwrap_or(0);
        let time = Timespec { tv_sec: i64::try_from(seconds).unwrap_or(0), tv_nsec: 0 };
        fs::futimens(&file, &Timestamps { last_access: time, last_modification: time })
            .doing(&doing)?;
        let stat = fs::fstat(&file).doing(&doing)?;
        let hash = hash.map(|hash| Box::new(*hash.finalize().as_bytes()));
        self.note(path, Kind::File, &stat, hash);
        Ok(())
    }

    /// Whether the next content, of `size` bytes, is hashed.
    fn hashes(&self, size: u64) -> bool {
        self.hashed || self.report.bytes.saturating_add(size) <= SMALL_TREE
    }

    fn note(&mut self, path: &RelPath, kind: Kind, stat: &fs::Stat, hash: Option<Box<[u8; 32]>>) {
        self.report.entries += 1;
        let entry = Entry {
            kind,
            mode: (stat.st_mode & 0o7777) as u16,
            inode: stat.st_ino,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            ctime: ctime(stat),
            hash,
        };
        self.nodes.push((path.as_bytes().into(), entry));
    }

    /// Gives directories the modes that would have kept this writer out, the deepest first.
    fn close_directories(&mut self) -> Result<(), Refusal> {
        let mut closed = std::mem::take(&mut self.closed);
        closed.sort_by_key(|(path, _)| std::cmp::Reverse(path.components().count()));
        for (path, mode) in closed {
            let doing = format!("give {path} its mode");
            self.enter(&path)?;
            let name = CString::new(path.name()).doing(&doing)?;
            let directory = fs::openat(self.parent(), &name, places::DIRECTORY, Mode::empty());
            fs::fchmod(directory.doing(&doing)?, Mode::from_raw_mode(mode)).doing(&doing)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn put(
        make: impl FnOnce(&mut tar::Builder<Vec<u8>>),
    ) -> (tempfile::TempDir, Result<Manifest, Refusal>) {
        let place = tempfile::tempdir().unwrap();
        let mut builder = tar::Builder::new(Vec::new());
        make(&mut builder);
        let bytes = builder.into_inner().unwrap();
        let root = std::fs::File::open(place.path()).unwrap();
        let done = write(root.as_fd(), &mut &bytes[..], true, None).map(|(manifest, _)| manifest);
        (place, done)
    }

    fn header(kind: EntryType, mode: u32, size: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size);
        header.set_mtime(1_000_000);
        header
    }

    #[test]
    fn files_directories_links_and_long_names_arrive() {
        let long = format!("d/{}/f", "long".repeat(60));
        let (place, done) = put(|tar| {
            tar.append_data(&mut header(EntryType::Directory, 0o500, 0), "closed", io::empty())
                .unwrap();
            tar.append_data(&mut header(EntryType::Regular, 0o755, 3), "closed/run", &b"abc"[..])
                .unwrap();
            tar.append_data(&mut header(EntryType::Regular, 0o644, 1), &long, &b"x"[..]).unwrap();
            tar.append_link(&mut header(EntryType::Symlink, 0o777, 0), "link", "/nowhere").unwrap();
        });
        let manifest = done.unwrap();
        let mode = |path: &str| {
            std::fs::metadata(place.path().join(path)).unwrap().permissions().mode() & 0o777
        };
        assert_eq!(mode("closed"), 0o500);
        assert_eq!(std::fs::read(place.path().join("closed/run")).unwrap(), b"abc");
        assert_eq!(std::fs::read(place.path().join(&long)).unwrap(), b"x");
        assert_eq!(
            std::fs::read_link(place.path().join("link")).unwrap().to_str(),
            Some("/nowhere")
        );
        assert!(manifest.find(b"d").is_some(), "directories that were made on the way count");
        assert_eq!(manifest.len(), 6);
        std::fs::set_permissions(place.path().join("closed"), PermissionsExt::from_mode(0o700))
            .unwrap();
    }

    #[test]
    fn a_path_through_a_link_is_refused() {
        let outside = tempfile::tempdir().unwrap();
        let (_place, done) = put(|tar| {
            tar.append_link(&mut header(EntryType::Symlink, 0o777, 0), "link", outside.path())
                .unwrap();
            tar.append_data(&mut header(EntryType::Regular, 0o644, 1), "link/f", &b"x"[..])
                .unwrap();
        });
        done.unwrap_err();
        assert!(!outside.path().join("f").exists());
    }

    #[test]
    fn a_file_that_comes_again_replaces_the_earlier_one_and_nothing_else_may_come_twice() {
        let (place, done) = put(|tar| {
            for bytes in [&b"old and long"[..], b"new"] {
                let size = bytes.len() as u64;
                tar.append_data(&mut header(EntryType::Regular, 0o644, size), "f", bytes).unwrap();
            }
        });
        let manifest = done.unwrap();
        assert_eq!(std::fs::read(place.path().join("f")).unwrap(), b"new");
        assert_eq!(manifest.len(), 1);
        let (_place, done) = put(|tar| {
            tar.append_link(&mut header(EntryType::Symlink, 0o777, 0), "f", "t").unwrap();
            tar.append_data(&mut header(EntryType::Regular, 0o644, 1), "f", &b"x"[..]).unwrap();
        });
        assert!(done.unwrap_err().0.contains("write f"));
    }

    #[test]
    fn a_tree_that_is_not_empty_is_refused() {
        let place = tempfile::tempdir().unwrap();
        std::fs::write(place.path().join("old"), "").unwrap();
        let root = std::fs::File::open(place.path()).unwrap();
        let error = write(root.as_fd(), &mut io::empty(), false, Some(c"other")).unwrap_err();
        assert!(error.0.contains("not empty"), "{error}");
    }
}
