//! Writes a tree from a tar stream, or what differs into the tree that is there. A file that is there
//! and has no other name is written anew in its place, any other as a new inode; no process is there
//! that could have it open.
//!
//! Runs on a thread with uid 1000's credentials, so that the kernel itself keeps a bad path from
//! doing harm; paths are checked and opened component by component all the same, never through a
//! link.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::io::{self, Read, Write};

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{self, AtFlags, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;
use tar::EntryType;

use super::manifest::{Changes, Entry, Kind, Manifest, Of, ctime};
use super::{Doing, Refusal, places, remove};
use crate::ignored::Above;
use crate::keeper::wire::{PutReport, REMOVED, RULES_ABOVE, WITHDRAWN};
use crate::path::RelPath;

/// Directories within each other at most; each level holds a file descriptor.
pub(super) const DEEPEST: usize = 512;

const BUFFER: usize = 256 << 10;

/// Bytes of the rules above a tree at most: some pattern files, as JSON.
const MOST_RULES: u64 = 32 << 20;

/// Contents are hashed anyway until a tree has so many bytes: that takes less time than waiting for
/// the clock that makes their ctime a proof, see [`Manifest::newest_unhashed`].
const SMALL_TREE: u64 = 4 << 20;

/// What was written.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) manifest: Manifest,
    pub(super) report: PutReport,
    /// What was taken away with all that was in it.
    pub(super) removed: Vec<RelPath>,
}

/// Writes the tree into the directory `root`. It holds `base`, as was proved, and the
/// name `aside`. `hashed` says that all contents must be hashed.
pub(super) fn write(
    root: BorrowedFd<'_>,
    tar: &mut dyn Read,
    hashed: bool,
    base: Manifest,
    aside: Option<&CStr>,
) -> Result<Written, Refusal> {
    if base.len() == 0 {
        let names = places::names(root).doing("read the workspace")?;
        if names.iter().any(|name| Some(name.as_c_str()) != aside) {
            return Err(Refusal::new("the workspace is not empty; reset first"));
        }
    }
    let mut writer = Writer {
        root,
        open: Vec::new(),
        nodes: Changes::of(base),
        removed: Vec::new(),
        closed: BTreeMap::new(),
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
    let Writer { nodes, above, report, removed, .. } = writer;
    Ok(Written { manifest: nodes.into_manifest(above), report, removed })
}

struct Writer<'a> {
    root: BorrowedFd<'a>,
    /// The directories that lead to the one last written to.
    open: Vec<(Vec<u8>, OwnedFd)>,
    nodes: Changes,
    removed: Vec<RelPath>,
    /// Modes of directories that are given last: they keep their owner out, or are other ones now.
    closed: BTreeMap<Box<[u8]>, u32>,
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
        if kind == EntryType::new(WITHDRAWN) {
            return self.withdraw(&path);
        }
        if kind == EntryType::new(REMOVED) {
            return self.remove(path);
        }
        let mode = entry.header().mode().doing(format_args!("read the mode of {path}"))? & 0o777;
        let name = CString::new(path.name()).doing(format_args!("write {path}"))?;
        self.enter(&path, true)?;
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

    /// Makes the directory that holds `path` the last open one, making what is missing if `make`
    /// says so; `false` if something is missing.
    fn enter(&mut self, path: &RelPath, make: bool) -> Result<bool, Refusal> {
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
            self.unlock(&prefix, &name).doing(format_args!("open the directory of {path}"))?;
            let directory = match fs::openat(self.parent(), &name, places::DIRECTORY, Mode::empty())
            {
                Ok(directory) => directory,
                Err(Errno::NOENT) if !make => return Ok(false),
                Err(Errno::NOENT) => {
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
        Ok(true)
    }

    /// Opens a directory of an earlier put to its owner, until everything is in it.
    fn unlock(&mut self, path: &[u8], name: &CStr) -> io::Result<()> {
        if let Some(Of::Earlier(entry)) = self.nodes.get(path)
            && entry.kind == Kind::Directory
            && entry.mode & 0o700 != 0o700
            && !self.closed.contains_key(path)
        {
            let mode = u32::from(entry.mode);
            let open = Mode::from_raw_mode(mode | 0o700);
            fs::chmodat(self.parent(), name, open, AtFlags::empty())?;
            self.closed.insert(path.into(), mode);
        }
        Ok(())
    }

    fn make(&mut self, path: &[u8], name: &CStr, mode: u32) -> rustix::io::Result<()> {
        // Open to its owner until everything is in it.
        fs::mkdirat(self.parent(), name, Mode::from_raw_mode(mode | 0o700))?;
        self.report.entries += 1;
        // Of one of that path that was removed meanwhile.
        self.closed.remove(path);
        self.nodes.put(path, directory(mode));
        Ok(())
    }

    fn directory(&mut self, path: &RelPath, name: &CStr, mode: u32) -> Result<(), Refusal> {
        let mut late = mode & 0o700 != 0o700;
        match self.make(path.as_bytes(), name, mode) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                match self.nodes.get(path.as_bytes()) {
                    // Made on the way to something in it that came first.
                    Some(Of::This(entry)) if entry.kind == Kind::Directory => {}
                    Some(Of::Earlier(entry)) if entry.kind == Kind::Directory => {
                        self.report.entries += 1;
                    }
                    Some(Of::Earlier(_)) => {
                        return Err(Refusal(format!("{path} is no directory; remove it first")));
                    }
                    _ => return Err(Refusal(format!("{path} came twice"))),
                }
                self.nodes.put(path.as_bytes(), directory(mode));
                late = true;
            }
            Err(error) => return Err(error).doing(format_args!("make {path}")),
        }
        if late {
            self.closed.insert(path.as_bytes().into(), mode);
        }
        Ok(())
    }

    fn link(&mut self, path: &RelPath, name: &CStr, target: Vec<u8>) -> Result<(), Refusal> {
        let doing = format!("make the link {path}");
        let hash = self.hashes(0).then(|| Box::new(*blake3::hash(&target).as_bytes()));
        let target = CString::new(target).doing(&doing)?;
        let mut made = fs::symlinkat(&target, self.parent(), name);
        if made == Err(Errno::EXIST) && self.clear(path, name, false)? {
            made = fs::symlinkat(&target, self.parent(), name);
        }
        made.doing(&doing)?;
        let stat = fs::statat(self.parent(), name, AtFlags::SYMLINK_NOFOLLOW).doing(&doing)?;
        self.note(path, Kind::Link, &stat, hash);
        Ok(())
    }

    fn file<R: Read>(
        &mut self,
        path: &RelPath,
        name: &CStr,
        mode: u32,
        entry: &mut tar::Entry<'_, R>,
    ) -> Result<(), Refusal> {
        let doing = format!("write {path}");
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut opened = fs::openat(self.parent(), name, flags, Mode::from_raw_mode(mode));
        let mut before = 0;
        if matches!(opened, Err(Errno::EXIST)) {
            if let Some((file, size)) = self.open_earlier(path, name, mode) {
                (opened, before) = (Ok(file), size);
            } else if self.clear(path, name, true)? {
                // A file that changed while the host read it comes again, and the later one counts.
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
        if before > entry.size() {
            file.set_len(entry.size()).doing(&doing)?;
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

    /// Opens a file of an earlier put to be written anew, with its size: another inode for the same
    /// path would cost more than its bytes. `None` if it is not alone in being what was put there.
    fn open_earlier(&mut self, path: &RelPath, name: &CStr, mode: u32) -> Option<(OwnedFd, u64)> {
        let Some(Of::Earlier(entry)) = self.nodes.get(path.as_bytes()) else { return None };
        let (kind, inode, same_mode) = (entry.kind, entry.inode, u32::from(entry.mode) == mode);
        // Not cut at once: some file systems begin to write a file out that was emptied before.
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = fs::openat(self.parent(), name, flags, Mode::empty()).ok()?;
        let stat = fs::fstat(&file).ok()?;
        let alone = stat.st_ino == inode && stat.st_nlink == 1;
        if kind != Kind::File || !fs::FileType::from_raw_mode(stat.st_mode).is_file() || !alone {
            return None;
        }
        if !same_mode {
            fs::fchmod(&file, Mode::from_raw_mode(mode)).ok()?;
        }
        self.nodes.forget(path.as_bytes());
        Some((file, u64::try_from(stat.st_size).ok()?))
    }

    /// Takes a file back that the host began to send and could not finish.
    fn withdraw(&mut self, path: &RelPath) -> Result<(), Refusal> {
        let name = CString::new(path.name()).doing(format_args!("withdraw {path}"))?;
        if let Some(Of::This(entry)) = self.nodes.get(path.as_bytes())
            && entry.kind == Kind::File
            && self.enter(path, false)?
            && self.clear(path, &name, true)?
        {
            return Ok(());
        }
        Err(Refusal(format!("{path} was withdrawn, but is no file that was put")))
    }

    /// Makes room for a file or a link: removes a file or a link of an earlier put, or a file of this
    /// very one if `again` says so; `false` if there is none.
    fn clear(&mut self, path: &RelPath, name: &CStr, again: bool) -> Result<bool, Refusal> {
        match self.nodes.get(path.as_bytes()) {
            Some(Of::This(entry)) if again && entry.kind == Kind::File => {
                let size = entry.size;
                self.nodes.take_back(path.as_bytes());
                self.report.entries -= 1;
                self.report.bytes -= size;
            }
            Some(Of::Earlier(entry)) if entry.kind != Kind::Directory => {
                self.nodes.forget(path.as_bytes());
            }
            _ => return Ok(false),
        }
        fs::unlinkat(self.parent(), name, AtFlags::empty())
            .doing(format_args!("replace {path}"))?;
        Ok(true)
    }

    /// Takes away what an earlier put left at `path`, with all that is in it.
    fn remove(&mut self, path: RelPath) -> Result<(), Refusal> {
        let doing = format!("remove {path}");
        if !self.nodes.remove(path.as_bytes()) {
            return Err(Refusal(format!("{path} is to be removed, but came before that")));
        }
        let name = CString::new(path.name()).doing(&doing)?;
        if self.enter(&path, false)? {
            remove::all(self.parent(), &name).doing(&doing)?;
        }
        self.removed.push(path);
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
            mtime: stat.st_mtime,
            hash,
        };
        self.nodes.put(path.as_bytes(), entry);
    }

    /// Gives directories the modes that would have kept this writer out, the deepest first.
    fn close_directories(&mut self) -> Result<(), Refusal> {
        let mut closed: Vec<_> =
            self.closed.iter().map(|(path, mode)| (path.clone(), *mode)).collect();
        closed.sort_by_key(|(path, _)| {
            std::cmp::Reverse(path.iter().filter(|byte| **byte == b'/').count())
        });
        for (path, mode) in closed {
            // It may have been removed after it was opened.
            let Some(Of::This(entry) | Of::Earlier(entry)) = self.nodes.get(&path) else {
                continue;
            };
            if entry.kind != Kind::Directory {
                continue;
            }
            let path = RelPath::new(path.into_vec()).doing("give a directory its mode")?;
            let doing = format!("give {path} its mode");
            self.enter(&path, false)?;
            let name = CString::new(path.name()).doing(&doing)?;
            fs::chmodat(self.parent(), &name, Mode::from_raw_mode(mode), AtFlags::empty())
                .doing(&doing)?;
        }
        Ok(())
    }
}

fn directory(mode: u32) -> Entry {
    let (inode, size, ctime, mtime) = (0, 0, (0, 0), 0);
    Entry { kind: Kind::Directory, mode: mode as u16, inode, size, ctime, mtime, hash: None }
}

#[cfg(test)]
mod tests;
