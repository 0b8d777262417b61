//! What the made `.git` holds.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, openat, statat};

use super::super::beneath;
use super::config::GitConfig;
use super::place::Place;
use super::refs::{Refs, is_head, is_hex};
use super::{GitBase, Index};

/// How deep alternates of alternates go; git's own limit.
const ALTERNATES_DEPTH: u32 = 5;

/// Files of a pack that travel. The last one says that objects which the pack's own name may be
/// missing on purpose; other files can be made from the pack.
const PACK_FILES: [&[u8]; 3] = [b".pack", b".idx", b".promisor"];

/// A path below `.git`, and contents.
pub(in crate::workspace) type SmallFile = (Vec<u8>, Vec<u8>);

/// Everything that is needed to write a `.git`.
#[derive(Debug)]
pub(in crate::workspace) struct Made {
    /// Object directories: the repository's own, then its alternates.
    objects: Vec<OwnedFd>,
    /// Digits of an object's name.
    digits: usize,
    small: Vec<SmallFile>,
    pub(in crate::workspace) index: Option<Index>,
    pub(in crate::workspace) base: GitBase,
}

/// A file of an object directory; its contents never change once it has its name.
#[derive(Clone, Debug)]
pub(in crate::workspace) struct ObjectFile {
    /// Which directory it is in.
    from: usize,
    /// Path below `objects`.
    pub(in crate::workspace) path: Vec<u8>,
    pub(in crate::workspace) size: u64,
    pub(in crate::workspace) mtime: i64,
    pub(in crate::workspace) dev: u64,
    pub(in crate::workspace) ino: u64,
}

impl Made {
    /// Reads what is small; `head` is HEAD if it is no file here. An error is why this `.git` stays
    /// home, in words that follow "because".
    pub(super) fn prepare(
        place: &Place,
        config: &GitConfig,
        head: Option<Vec<u8>>,
        refs: &[u8],
        index: Option<Index>,
        excludes: [&[u8]; 2],
    ) -> Result<Self, String> {
        let unreadable = |what: &str| format!("its {what} cannot be read");
        let small_file =
            |directory, name: &str| super::read(directory, name).map_err(|_| unreadable(name));
        let head = match head {
            Some(head) => head,
            None => small_file(place.own(), "HEAD")?.ok_or_else(|| unreadable("HEAD"))?,
        };
        let digits = config.hash_len() * 2;
        if !is_head(&head, digits) {
            return Err("its HEAD is not an ordinary one".into());
        }
        let own = openat(place.common(), c"objects", beneath::DIRECTORY, Mode::empty())
            .map_err(|_| unreadable("objects"))?;
        let mut objects = vec![own];
        add_alternates(&mut objects, 0, ALTERNATES_DEPTH)?;
        let refs = Refs::parse(refs, digits)?;
        let base = refs.base(&head, digits / 2);
        let mut small =
            vec![(b"HEAD".to_vec(), head), (b"config".to_vec(), config.made().into_bytes())];
        small.extend(refs.written());
        if let Some(shallow) = small_file(place.common(), "shallow")? {
            small.push((b"shallow".to_vec(), shallow));
        }
        let patterns = excludes.join(&b"\n"[..]);
        if patterns.iter().any(|byte| *byte != b'\n') {
            small.push((b"info/exclude".to_vec(), patterns));
        }
        let made = Self { objects, digits, small, index, base };
        // Told before anything is sent: a directory that cannot be read.
        made.object_files()?;
        Ok(made)
    }

    /// Directories of the made `.git`, below it, parents first.
    pub(in crate::workspace) fn directories(&self) -> Vec<Vec<u8>> {
        let always = [
            "",
            "info",
            "objects",
            "objects/info",
            "objects/pack",
            "refs",
            "refs/heads",
            "refs/tags",
        ];
        let mut all: Vec<Vec<u8>> = always.iter().map(|path| path.as_bytes().to_vec()).collect();
        for (path, _) in &self.small {
            let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
            for (at, _) in slashes {
                if !all.iter().any(|known| **known == path[..at]) {
                    all.push(path[..at].to_vec());
                }
            }
        }
        all
    }

    /// Small files below `.git` and their contents.
    pub(in crate::workspace) fn small_files(&self) -> &[SmallFile] {
        &self.small
    }

    /// The files of all object directories as they are now, sorted; packs before their indexes.
    pub(in crate::workspace) fn object_files(&self) -> Result<Vec<ObjectFile>, String> {
        let mut found = Vec::new();
        let mut seen = HashSet::new();
        for (from, directory) in self.objects.iter().enumerate() {
            let mut here = Vec::new();
            list(directory.as_fd(), from, self.digits, &mut here)?;
            // The same object in an alternate is the same bytes.
            found.extend(here.into_iter().filter(|file| seen.insert(file.path.clone())));
        }
        found.sort_by(|a, b| {
            let key = |file: &ObjectFile| file.path.ends_with(b".idx");
            key(a).cmp(&key(b)).then_with(|| a.path.cmp(&b.path))
        });
        Ok(found)
    }

    /// Opens a listed file; `NotFound` when git has packed it away meanwhile.
    pub(in crate::workspace) fn open(&self, file: &ObjectFile) -> io::Result<File> {
        let (parent, name) = beneath::split(&file.path);
        let directory = beneath::directory(self.objects[file.from].as_fd(), parent)?;
        Ok(File::from(openat(directory, name, beneath::FILE, Mode::empty())?))
    }
}

/// Opens the object directories that `objects[at]` borrows from.
fn add_alternates(objects: &mut Vec<OwnedFd>, at: usize, depth: u32) -> Result<(), String> {
    let listing = super::read(objects[at].as_fd(), "info/alternates")
        .map_err(|_| String::from("its alternates cannot be read"))?
        .unwrap_or_default();
    for line in listing.split(|byte| *byte == b'\n') {
        if line.is_empty() || line[0] == b'#' {
            continue;
        }
        if line[0] == b'"' || depth == 0 {
            return Err("its alternates are not ordinary ones".into());
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = openat(&objects[at], OsStr::from_bytes(line), flags, Mode::empty())
            .map_err(|error| format!("an alternate of it cannot be opened ({error})"))?;
        objects.push(opened);
        let last = objects.len() - 1;
        add_alternates(objects, last, depth - 1)?;
    }
    Ok(())
}

/// Adds the objects and packs of one object directory.
fn list(
    directory: BorrowedFd<'_>,
    from: usize,
    digits: usize,
    found: &mut Vec<ObjectFile>,
) -> Result<(), String> {
    let failed = |error: rustix::io::Errno| format!("its objects cannot be read ({error})");
    for name in names(directory).map_err(failed)? {
        let is_pack = name == b"pack";
        if !is_pack && !is_hex(&name, 2) {
            continue;
        }
        let name_of = OsString::from_vec(name.clone());
        let inner = match openat(directory, &*name_of, beneath::DIRECTORY, Mode::empty()) {
            Ok(inner) => inner,
            // Git removes a directory of loose objects when it is empty.
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => continue,
            Err(error) => return Err(failed(error)),
        };
        for file in names(inner.as_fd()).map_err(failed)? {
            let wanted = if is_pack {
                file.starts_with(b"pack-") && PACK_FILES.iter().any(|ending| file.ends_with(ending))
            } else {
                is_hex(&file, digits - 2)
            };
            if !wanted {
                continue;
            }
            let Ok(stat) = statat(&inner, OsStr::from_bytes(&file), AtFlags::SYMLINK_NOFOLLOW)
            else {
                continue;
            };
            if FileType::from_raw_mode(stat.st_mode).is_file() {
                let path = [&name[..], b"/", &file[..]].concat();
                let (size, mtime) = (stat.st_size.unsigned_abs(), stat.st_mtime);
                let (dev, ino) = (stat.st_dev, stat.st_ino);
                found.push(ObjectFile { from, path, size, mtime, dev, ino });
            }
        }
    }
    Ok(())
}

/// The names in a directory.
fn names(directory: BorrowedFd<'_>) -> rustix::io::Result<Vec<Vec<u8>>> {
    let mut found = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            found.push(name.to_vec());
        }
    }
    Ok(found)
}
