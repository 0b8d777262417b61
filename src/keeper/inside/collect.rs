//! Sends what differs from what was put, as a tar stream: `tree/<path>` for each added or changed
//! node, parents before what is in them, `ignored/<path>` for small new files that git ignores, and
//! last `meta/deleted`, the paths that were put and are gone, each followed by a NUL.
//!
//! The tree must be at rest. It is walked without following a link and without recursion. A hard
//! link comes as a file; a FIFO, a device or a socket as an empty entry (a socket as a FIFO, since
//! tar has no kind for it). The `.git` at the top that was put does not come back; any other `.git`
//! directory that is new comes as itself, without what is in it.

mod git;

use std::ffi::{CStr, CString, OsStr};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, Stat};
use tar::{EntryType, Header};

use super::ignored_new::IgnoredNew;
use super::kept::{self, Room};
use super::manifest::{self, Manifest, Time, Verdict};
use super::put::DEEPEST;
use super::wanted::Rules;
use super::{Doing, Refusal, places};
use crate::keeper::wire::{CollectReport, CollectRequest, USER};
use crate::path::RelPath;

/// What is before the path of a node that differs.
const TREE: &[u8] = b"tree/";

/// What is before the path of a new file that git ignores.
const IGNORED: &[u8] = b"ignored/";

/// Writes the tar stream. `certified_before` as in [`manifest::compare`].
pub(super) fn read(
    root: BorrowedFd<'_>,
    manifest: &Manifest,
    certified_before: Option<Time>,
    limits: &CollectRequest,
    out: &mut dyn Write,
) -> Result<CollectReport, Refusal> {
    let mut reader = Reader {
        manifest,
        certified_before,
        limits,
        tar: tar::Builder::new(out),
        seen: vec![false; manifest.len()],
        last: 0,
        report: CollectReport::default(),
        ignored: IgnoredNew::default(),
        room: Room::on(root),
        buffer: vec![0; 256 << 10],
    };
    reader.walk(root)?;
    reader.deleted()?;
    reader.tar.finish().doing("send the changes")?;
    let mut report = reader.report;
    report.ignored = reader.ignored.totals();
    report.git_changed = git::changed(root, manifest, certified_before);
    Ok(report)
}

struct Reader<'a> {
    manifest: &'a Manifest,
    certified_before: Option<Time>,
    limits: &'a CollectRequest,
    tar: tar::Builder<&'a mut dyn Write>,
    seen: Vec<bool>,
    /// As in [`Manifest::find_after`].
    last: usize,
    report: CollectReport,
    ignored: IgnoredNew,
    room: Room,
    buffer: Vec<u8>,
}

/// One directory on the way down.
struct Level {
    directory: OwnedFd,
    names: Vec<CString>,
    path: Vec<u8>,
    rules: Rules,
    /// git ignores it, though something in it was put; what is new in it is ignored, too.
    ignored: bool,
}

impl Reader<'_> {
    fn walk(&mut self, root: BorrowedFd<'_>) -> Result<(), Refusal> {
        let opened = fs::openat(root, c".", places::DIRECTORY, Mode::empty());
        let mut stack = vec![Level {
            directory: opened.doing("open the workspace")?,
            names: places::sorted_names(root).doing("read the workspace")?,
            path: Vec::new(),
            rules: Rules::top(root, &self.manifest.above),
            ignored: false,
        }];
        while let Some(level) = stack.last_mut() {
            let Some(name) = level.names.pop() else {
                stack.pop();
                continue;
            };
            let mut path = Vec::with_capacity(level.path.len() + 1 + name.as_bytes().len());
            path.extend_from_slice(&level.path);
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name.as_bytes());
            if stack.len() > DEEPEST {
                return Err(Refusal(format!(
                    "the tree is deeper than {DEEPEST} directories at {}…",
                    String::from_utf8_lossy(&path[..path.len().min(80)])
                )));
            }
            if let Some(inner) = self.node(&stack, &name, path)? {
                stack.push(inner);
            }
        }
        Ok(())
    }

    /// Looks at one node, sends it if it differs, and gives the level below if it is a directory
    /// whose nodes count.
    fn node(
        &mut self,
        stack: &[Level],
        name: &CString,
        path: Vec<u8>,
    ) -> Result<Option<Level>, Refusal> {
        let Some(level) = stack.last() else { return Ok(None) };
        let parent = level.directory.as_fd();
        // Only formatted where something is said: most nodes are as they were put.
        let shown = String::from_utf8_lossy(&path);
        let doing = format_args!("collect {shown}");
        let stat = fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).doing(doing)?;
        let is_directory = places::is_directory(&stat);
        let known = self.manifest.find_after(&mut self.last, &path);
        let mut ignored = level.ignored;
        if let Some(index) = known {
            self.seen[index] = true;
            if stack.len() == 1 && name.as_c_str() == c".git" {
                return Ok(None);
            }
            ignored |= is_directory && level.rules.ignored_new(&path, true);
            let Some(entry) = self.manifest.get(index) else { return Ok(None) };
            let changed = match manifest::compare(entry, &stat, self.certified_before) {
                Verdict::Same => false,
                Verdict::Changed => true,
                Verdict::Compare => {
                    let hash = hash_of(parent, name, &stat, &mut self.buffer).doing(doing)?;
                    entry.hash.as_deref() != Some(&hash)
                }
            };
            if changed {
                self.send(parent, name, TREE, &RelPath::new(&path[..]).doing(doing)?, &stat)?;
            }
        } else {
            let path = RelPath::new(&path[..]).doing(doing)?;
            if ignored
                || level.rules.ignored_new(path.as_bytes(), is_directory)
                || (is_directory && level.rules.says_so_itself(parent, name, path.as_bytes()))
            {
                self.ignored_new(level, name, &path, &stat)?;
                return Ok(None);
            }
            self.send(parent, name, TREE, &path, &stat)?;
            if is_directory && name.as_c_str() == c".git" {
                return Ok(None);
            }
        }
        if !is_directory {
            return Ok(None);
        }
        let directory = fs::openat(parent, name, places::DIRECTORY, Mode::empty()).doing(doing)?;
        Ok(Some(Level {
            names: places::sorted_names(directory.as_fd()).doing(doing)?,
            rules: level.rules.enter(directory.as_fd(), &path),
            directory,
            path,
            ignored,
        }))
    }

    fn send(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &CString,
        place: &[u8],
        path: &RelPath,
        stat: &Stat,
    ) -> Result<(), Refusal> {
        let doing = format!("send {path}");
        self.count_entry()?;
        let mut header = Header::new_gnu();
        header.set_mode(stat.st_mode & 0o7777);
        header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
        header.set_size(0);
        let name_in_tar = [place, path.as_bytes()].concat();
        let shown = Path::new(OsStr::from_bytes(&name_in_tar));
        let kind = FileType::from_raw_mode(stat.st_mode);
        header.set_entry_type(match kind {
            FileType::RegularFile => EntryType::Regular,
            FileType::Directory => EntryType::Directory,
            FileType::Symlink => EntryType::Symlink,
            FileType::CharacterDevice => EntryType::Char,
            FileType::BlockDevice => EntryType::Block,
            _ => EntryType::Fifo,
        });
        match kind {
            FileType::RegularFile => {
                let size = u64::try_from(stat.st_size).unwrap_or(0);
                self.report.bytes = self.report.bytes.saturating_add(size);
                if self.report.bytes > self.limits.max_bytes {
                    return Err(Refusal(format!(
                        "the changes are larger than the limit of {} bytes (workspace.max_bytes), at \
                         {path} of {size} bytes",
                        self.limits.max_bytes
                    )));
                }
                let file = open_file(parent, name).doing(&doing)?;
                header.set_size(size);
                let mut whole = Whole { inner: file.take(size), left: size };
                self.tar.append_data(&mut header, shown, &mut whole).doing(&doing)
            }
            FileType::Symlink => {
                let target = fs::readlinkat(parent, name, Vec::new()).doing(&doing)?;
                self.link_target(&mut header, target.as_bytes()).doing(&doing)?;
                self.tar.append_data(&mut header, shown, io::empty()).doing(&doing)
            }
            _ => self.tar.append_data(&mut header, shown, io::empty()).doing(&doing),
        }
    }

    /// Puts a link's target into its header byte by byte, since the tar crate would tidy it; one
    /// that does not fit goes before it, as GNU tar does.
    fn link_target(&mut self, header: &mut Header, target: &[u8]) -> io::Result<()> {
        if target.len() <= 100 {
            return header.set_link_name_literal(target);
        }
        let mut long = Header::new_gnu();
        long.set_entry_type(EntryType::GNULongLink);
        long.set_path("././@LongLink")?;
        long.set_mode(0o644);
        long.set_size(target.len() as u64 + 1);
        long.set_cksum();
        self.tar.append(&long, target.chain(&b"\0"[..]))?;
        header.set_link_name_literal(&target[..100])
    }

    fn deleted(&mut self) -> Result<(), Refusal> {
        let mut list = Vec::new();
        for index in (0..self.manifest.len()).filter(|index| !self.seen[*index]) {
            let path = self.manifest.path(index);
            if path == b".git" || path.starts_with(b".git/") {
                continue;
            }
            self.report.deleted += 1;
            list.extend_from_slice(path);
            list.push(0);
        }
        self.check_entries()?;
        let mut header = Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(list.len() as u64);
        self.tar.append_data(&mut header, "meta/deleted", &list[..]).doing("send the deletions")
    }

    fn count_entry(&mut self) -> Result<(), Refusal> {
        self.report.entries += 1;
        self.check_entries()
    }

    fn check_entries(&self) -> Result<(), Refusal> {
        if self.report.entries.saturating_add(self.report.deleted) > self.limits.max_entries {
            return Err(Refusal(format!(
                "more than {} paths changed, which is the limit (workspace.max_files)",
                self.limits.max_entries
            )));
        }
        Ok(())
    }

    /// Counts a new path that git ignores, and sends it if it is a file that comes along.
    fn ignored_new(
        &mut self,
        level: &Level,
        name: &CString,
        path: &RelPath,
        stat: &Stat,
    ) -> Result<(), Refusal> {
        let parent = level.directory.as_fd();
        let is_directory = places::is_directory(stat);
        let size = kept::size_of(parent, name, stat, (USER, USER), false);
        let builds = is_directory || level.ignored;
        let stays = builds && self.room.take(&size);
        self.ignored.count(path, is_directory, size.bytes, stays);
        let single = !builds && FileType::from_raw_mode(stat.st_mode).is_file();
        if single && self.ignored.takes(size.bytes, &self.limits.ignored) {
            return self.send(parent, name, IGNORED, path, stat);
        }
        Ok(())
    }
}

/// The hash of a file's contents or of a link's target, read through `buffer`.
pub(super) fn hash_of(
    parent: BorrowedFd<'_>,
    name: &CStr,
    stat: &Stat,
    buffer: &mut [u8],
) -> io::Result<[u8; 32]> {
    if FileType::from_raw_mode(stat.st_mode).is_symlink() {
        let target = fs::readlinkat(parent, name, Vec::new())?;
        return Ok(*blake3::hash(target.as_bytes()).as_bytes());
    }
    let mut file = open_file(parent, name)?;
    let mut hash = blake3::Hasher::new();
    loop {
        let came = file.read(buffer)?;
        if came == 0 {
            return Ok(*hash.finalize().as_bytes());
        }
        hash.update(&buffer[..came]);
    }
}

pub(super) fn open_file(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<std::fs::File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = fs::openat(parent, name, flags, Mode::empty())?;
    if !FileType::from_raw_mode(fs::fstat(&file)?.st_mode).is_file() {
        return Err(io::Error::other("it is no regular file any more"));
    }
    Ok(file.into())
}

/// A reader that fails if it ends early: the header has already promised a size.
struct Whole<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Whole<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let came = self.inner.read(buf)?;
        self.left -= came as u64;
        if came == 0 && self.left > 0 && !buf.is_empty() {
            return Err(io::Error::other("it became shorter while it was read"));
        }
        Ok(came)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::super::put;
    use super::*;

    type Found = Vec<(String, EntryType, Vec<u8>)>;

    /// Puts two files and a link, lets `change` change the tree, and collects it by hashes.
    fn after(
        change: impl FnOnce(&Path),
        limits: &CollectRequest,
    ) -> Result<(CollectReport, Found), Refusal> {
        let place = tempfile::tempdir().unwrap();
        let mut tar = tar::Builder::new(Vec::new());
        for path in ["d/a", "b"] {
            let mut header = Header::new_gnu();
            header.set_size(3);
            header.set_mode(0o644);
            tar.append_data(&mut header, path, &b"old"[..]).unwrap();
        }
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        tar.append_link(&mut header, "l", "b").unwrap();
        let tar = tar.into_inner().unwrap();
        let root = std::fs::File::open(place.path()).unwrap();
        let manifest = put::write(root.as_fd(), &mut &tar[..], true, Manifest::default(), None)
            .unwrap()
            .manifest;
        change(place.path());
        let mut out = Vec::new();
        let report = read(root.as_fd(), &manifest, None, limits, &mut out)?;
        let mut archive = tar::Archive::new(&out[..]);
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let mut bytes = entry.link_name_bytes().unwrap_or_default().into_owned();
            entry.read_to_end(&mut bytes).unwrap();
            (path, entry.header().entry_type(), bytes)
        });
        Ok((report, entries.collect()))
    }

    #[test]
    fn the_same_contents_written_again_are_no_change_where_hashes_decide() {
        let again = |place: &Path| {
            std::fs::write(place.join("b"), "old").unwrap();
            std::fs::remove_file(place.join("l")).unwrap();
            symlink("b", place.join("l")).unwrap();
        };
        let (report, found) = after(again, &CollectRequest::default()).unwrap();
        assert_eq!((report.entries, report.deleted), (0, 0), "{found:?}");
        assert_eq!(found.len(), 1);
    }

    #[test]
    fn a_change_of_the_same_length_and_a_long_link_travel() {
        let target = format!("./x//{}", "y".repeat(200));
        let change = |place: &Path| {
            std::fs::write(place.join("b"), "new").unwrap();
            std::fs::remove_file(place.join("l")).unwrap();
            symlink(&target, place.join("l")).unwrap();
            std::fs::remove_dir_all(place.join("d")).unwrap();
            std::fs::write(place.join("d"), "now a file").unwrap();
        };
        let (report, found) = after(change, &CollectRequest::default()).unwrap();
        let expected: [(&str, EntryType, &[u8]); 4] = [
            ("tree/b", EntryType::Regular, b"new"),
            ("tree/d", EntryType::Regular, b"now a file"),
            ("tree/l", EntryType::Symlink, target.as_bytes()),
            ("meta/deleted", EntryType::Regular, b"d/a\0"),
        ];
        let expected: Found =
            expected.map(|(path, kind, bytes)| (path.to_owned(), kind, bytes.to_vec())).into();
        assert_eq!(found, expected);
        assert_eq!((report.entries, report.bytes, report.deleted), (3, 13, 1));
    }

    #[test]
    fn limits_and_depth_are_refused_with_a_sentence() {
        let bytes = CollectRequest { max_bytes: 5, ..CollectRequest::default() };
        let sparse = |place: &Path| {
            std::fs::File::create(place.join("s")).unwrap().set_len(1 << 40).unwrap();
        };
        assert!(after(sparse, &bytes).unwrap_err().0.contains("(workspace.max_bytes), at s of"));
        let entries = CollectRequest { max_entries: 1, ..CollectRequest::default() };
        let two = |place: &Path| {
            std::fs::remove_dir_all(place.join("d")).unwrap();
        };
        assert!(after(two, &entries).unwrap_err().0.contains("more than 1 paths"));
        let deep = |place: &Path| {
            std::fs::create_dir_all(place.join("n/".repeat(DEEPEST + 1))).unwrap();
        };
        let refused = after(deep, &CollectRequest::default()).unwrap_err();
        assert!(refused.0.contains("deeper than 512"), "{refused}");
    }
}
