//! Build state that stays for the next tree of the same workspace.
//!
//! ```text
//!  tree at rest ── sweep ──> root's alone, beside what is left ── put ── bring_back ──> in its place,
//!                            of the tree, or nothing                                  or removed
//! ```
//!
//! What is kept is renamed, not copied: the topmost directories that git ignores and that were not
//! put, into one directory of root's. So the place is emptied and proved as if it were not there, a
//! tree is put as if it were not there, and nothing of what was kept is in the way of it. What a run planted
//! in there, links, hard links, modes, stays what it was within the run: the same user's, in the
//! same workspace. Special files are removed, and what is not the user's own is not kept.

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{self, AtFlags, Dir, FileType, Mode, RenameFlags, Stat};
use rustix::io::Errno;

use super::ignored_new::shown;
use super::manifest::Manifest;
use super::places;
use super::wanted::Rules;
use crate::keeper::wire::{IgnoredTotal, WORKSPACE};
use crate::path::RelPath;

/// Bytes on the disk that are kept at most: some debug builds of large projects, and still a small
/// part of the disks that containers are on.
const MAX_BYTES: u64 = 8 << 30;

/// Files, directories and links that are kept at most; a reset looks at each.
const MAX_NODES: u64 = 500_000;

/// Topmost paths that are kept at most.
const MOST: usize = 1000;

/// Nothing is kept on a disk that has less room: the next run needs it.
const FREE: u64 = 1 << 30;

/// Directories within each other; what is deeper is not kept. A level holds a descriptor.
pub(super) const DEEP: usize = 128;

/// How much more is kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    bytes: u64,
    nodes: u64,
    paths: usize,
}

/// How large something is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Size {
    /// Bytes of its files, as they tell it.
    pub(super) bytes: u64,
    /// Bytes on the disk.
    disk: u64,
    nodes: u64,
    /// It is deeper than is kept, on another device, or not the owner's.
    odd: bool,
}

impl Room {
    /// How much is kept on the disk that `root` is on.
    pub(super) fn on(root: BorrowedFd<'_>) -> Self {
        let free = fs::fstatvfs(root).map_or(0, |disk| disk.f_bavail.saturating_mul(disk.f_frsize));
        Self { bytes: if free < FREE { 0 } else { MAX_BYTES }, nodes: MAX_NODES, paths: MOST }
    }

    /// Whether something of `size` is kept besides what was kept so far.
    pub(super) fn take(&mut self, size: &Size) -> bool {
        if size.odd || size.disk > self.bytes || size.nodes > self.nodes || self.paths == 0 {
            return false;
        }
        self.bytes -= size.disk;
        self.nodes -= size.nodes;
        self.paths -= 1;
        true
    }
}

/// How large `name` in `parent` is, with all that is in it, which must be the `owner`'s (uid and gid);
/// as far as it can be read. `sweep` also removes the special files in it.
pub(super) fn size_of(
    parent: BorrowedFd<'_>,
    name: &CStr,
    stat: &Stat,
    owner: (u32, u32),
    sweep: bool,
) -> Size {
    let mut size = Size::default();
    let device = stat.st_dev;
    count(&mut size, stat, device, owner);
    if !places::is_directory(stat) {
        return size;
    }
    let mut stack: Vec<(OwnedFd, Dir)> = Vec::new();
    match open(parent, name) {
        Some(top) => stack.push(top),
        None => size.odd = true,
    }
    while let Some((directory, entries)) = stack.last_mut() {
        let entry = match entries.next() {
            Some(Ok(entry)) => entry,
            Some(Err(_)) => {
                size.odd = true;
                stack.pop();
                continue;
            }
            None => {
                stack.pop();
                continue;
            }
        };
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let Ok(stat) = fs::statat(&*directory, name, AtFlags::SYMLINK_NOFOLLOW) else {
            size.odd = true;
            continue;
        };
        if sweep && !can_stay(&stat) {
            size.odd |= fs::unlinkat(&*directory, name, AtFlags::empty()).is_err();
            continue;
        }
        count(&mut size, &stat, device, owner);
        if places::is_directory(&stat) {
            match open(directory.as_fd(), name) {
                Some(inner) if stack.len() < DEEP => stack.push(inner),
                _ => size.odd = true,
            }
        }
    }
    size
}

fn count(size: &mut Size, stat: &Stat, device: u64, owner: (u32, u32)) {
    size.nodes += 1;
    size.disk = size.disk.saturating_add(u64::try_from(stat.st_blocks).unwrap_or(0) * 512);
    if !places::is_directory(stat) {
        size.bytes = size.bytes.saturating_add(u64::try_from(stat.st_size).unwrap_or(0));
    }
    size.odd |= stat.st_dev != device || (stat.st_uid, stat.st_gid) != owner;
}

fn open(parent: BorrowedFd<'_>, name: &CStr) -> Option<(OwnedFd, Dir)> {
    let directory = fs::openat(parent, name, places::DIRECTORY, Mode::empty()).ok()?;
    let entries = Dir::read_from(&directory).ok()?;
    Some((directory, entries))
}

/// Whether it is of a kind that may stay.
pub(super) fn can_stay(stat: &Stat) -> bool {
    let kind = FileType::from_raw_mode(stat.st_mode);
    kind.is_file() || kind.is_dir() || kind.is_symlink()
}

/// What was set aside. It is only what the name says while it is proved.
#[derive(Debug)]
pub(super) struct Aside {
    /// Of root's directory at the top of the workspace; what was kept has its number as its name.
    name: CString,
    directory: OwnedFd,
    kept: Vec<Kept>,
}

#[derive(Debug)]
struct Kept {
    path: Vec<u8>,
    is_directory: bool,
    bytes: u64,
}

/// Makes a directory of root's at the top of the workspace, under a name that nobody can have guessed:
/// neither a run nor the next tree has it.
pub(super) fn secret(root: BorrowedFd<'_>, what: &str) -> io::Result<(CString, OwnedFd)> {
    let number = RandomState::new().build_hasher().finish();
    let name = CString::new(format!(".codex-keeper-{what}-{number:016x}"))?;
    fs::mkdirat(root, &name, Mode::RWXU)?;
    let directory = fs::openat(root, &name, places::DIRECTORY, Mode::empty())?;
    Ok((name, directory))
}

impl Aside {
    /// Makes one with nothing in it.
    pub(super) fn make(root: BorrowedFd<'_>) -> io::Result<Self> {
        let (name, directory) = secret(root, "aside")?;
        Ok(Self { name, directory, kept: Vec::new() })
    }

    /// Moves a node of the workspace into it; its path is `path`, its files have so many bytes.
    pub(super) fn take(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &CStr,
        path: &[u8],
        is_directory: bool,
        bytes: u64,
    ) -> io::Result<()> {
        let to = number(self.kept.len()).ok_or(Errno::INVAL)?;
        fs::renameat(parent, name, &self.directory, &to)?;
        self.kept.push(Kept { path: path.to_vec(), is_directory, bytes });
        Ok(())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// Its name at the top of the workspace.
    pub(super) fn name(&self) -> &CStr {
        &self.name
    }

    /// Topmost paths and sizes of what was kept.
    pub(super) fn report(&self) -> Vec<IgnoredTotal> {
        let told = |kept: &Kept| IgnoredTotal {
            path: shown(&kept.path, kept.is_directory),
            bytes: kept.bytes,
            stays: true,
        };
        self.kept.iter().map(told).collect()
    }

    /// Whether it still lies where it was made, is root's alone, and holds what was kept and nothing
    /// else.
    pub(super) fn is_proved(&self, root: BorrowedFd<'_>) -> bool {
        let there = fs::statat(root, &self.name, AtFlags::SYMLINK_NOFOLLOW);
        let (Ok(there), Ok(held)) = (there, fs::fstat(&self.directory)) else { return false };
        let owned = (held.st_uid, held.st_mode & 0o7777) == (0, 0o700);
        let same = (there.st_dev, there.st_ino) == (held.st_dev, held.st_ino);
        let Ok(mut names) = places::names(self.directory.as_fd()) else { return false };
        let mut numbers: Vec<CString> = (0..self.kept.len()).filter_map(number).collect();
        names.sort_unstable();
        numbers.sort_unstable();
        owned && same && names == numbers
    }

    /// Removes it and all that is in it.
    pub(super) fn remove(self, root: BorrowedFd<'_>) -> io::Result<()> {
        let mut path = WORKSPACE.as_bytes().to_vec();
        path.push(b'/');
        path.extend_from_slice(self.name.to_bytes());
        places::empty(&path, None).map_err(io::Error::other)?;
        Ok(fs::unlinkat(root, &self.name, AtFlags::REMOVEDIR)?)
    }

    /// Moves everything to its path in the tree that was just put into `root`, if that path is still
    /// an ignored one by the rules of this tree and nothing that was put is there; a directory that
    /// was put and is ignored takes in what it has not. What has no place any more, or was in one of
    /// `removed`, is removed. Nothing may run meanwhile.
    pub(super) fn bring_back(
        self,
        root: BorrowedFd<'_>,
        manifest: &Manifest,
        removed: &[RelPath],
    ) -> io::Result<()> {
        let removed: HashSet<&[u8]> = removed.iter().map(RelPath::as_bytes).collect();
        let is_removed = |path: &[u8]| {
            let slashes = (0..path.len()).filter(|at| path[*at] == b'/');
            slashes.chain([path.len()]).any(|end| removed.contains(&path[..end]))
        };
        let mut way = Way { root, open: Vec::new(), top: Rules::top(root, &manifest.above) };
        for (index, kept) in self.kept.iter().enumerate() {
            if is_removed(&kept.path) {
                continue;
            }
            if let Some(name) = number(index) {
                // What cannot be brought back goes with the rest.
                let _ = way.bring_back(self.directory.as_fd(), &name, kept);
            }
        }
        self.remove(root)
    }
}

/// The directories that lead to the path last brought back, with the rules in each.
struct Way<'a> {
    root: BorrowedFd<'a>,
    open: Vec<(Vec<u8>, OwnedFd, Rules, bool)>,
    top: Rules,
}

impl Way<'_> {
    fn bring_back(&mut self, from: BorrowedFd<'_>, name: &CStr, kept: &Kept) -> Option<()> {
        let mut components: Vec<&[u8]> = kept.path.split(|byte| *byte == b'/').collect();
        let last = CString::new(components.pop()?).ok()?;
        let same =
            self.open.iter().zip(&components).take_while(|(open, want)| open.0 == **want).count();
        self.open.truncate(same);
        let mut path = components[..same].join(&b'/');
        for component in &components[same..] {
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(component);
            let (parent, rules, ignored) = self.here();
            let ignored = ignored || rules.ignored_new(&path, true);
            let name = CString::new(*component).ok()?;
            let directory = fs::openat(parent, &name, places::DIRECTORY, Mode::empty()).ok()?;
            let rules = rules.enter(directory.as_fd(), &path);
            self.open.push((component.to_vec(), directory, rules, ignored));
        }
        let (parent, rules, ignored) = self.here();
        let ignored = ignored
            || (kept.is_directory
                && (rules.ignored_new(&kept.path, true)
                    || rules.says_so_itself(from, name, &kept.path)));
        if ignored { merge(from, name, parent, &last, DEEP).ok() } else { None }
    }

    fn here(&self) -> (BorrowedFd<'_>, &Rules, bool) {
        match self.open.last() {
            Some((_, directory, rules, ignored)) => (directory.as_fd(), rules, *ignored),
            None => (self.root, &self.top, false),
        }
    }
}

/// Moves `from/name` to `to/target`; into it, where both are directories. What is there already
/// stays as it is.
fn merge(
    from: BorrowedFd<'_>,
    name: &CStr,
    to: BorrowedFd<'_>,
    target: &CStr,
    depth: usize,
) -> rustix::io::Result<()> {
    match fs::renameat_with(from, name, to, target, RenameFlags::NOREPLACE) {
        Err(Errno::EXIST) if depth > 0 => {}
        done => return done,
    }
    let open = |parent, name| fs::openat(parent, name, places::DIRECTORY, Mode::empty());
    // Where either is no directory, what was put stays alone.
    let (Ok(inner), Ok(there)) = (open(from, name), open(to, target)) else { return Ok(()) };
    for name in places::names(inner.as_fd()).map_err(|_| Errno::IO)? {
        merge(inner.as_fd(), &name, there.as_fd(), &name, depth - 1)?;
    }
    Ok(())
}

fn number(index: usize) -> Option<CString> {
    CString::new(index.to_string()).ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use super::*;

    type Change<'a> = (&'a str, &'a dyn Fn(&Path));

    /// One path was kept, in a directory that is for its owner alone.
    fn aside(root: &Path) -> Aside {
        let place = root.join("aside");
        std::fs::create_dir(&place).unwrap();
        std::fs::set_permissions(&place, PermissionsExt::from_mode(0o700)).unwrap();
        std::fs::create_dir(place.join("0")).unwrap();
        Aside {
            name: c"aside".into(),
            directory: std::fs::File::open(place).unwrap().into(),
            kept: vec![Kept { path: b"target".to_vec(), is_directory: true, bytes: 0 }],
        }
    }

    #[test]
    fn what_was_kept_is_proved_only_as_it_was_left() {
        let proved = |change: &dyn Fn(&Path)| {
            let root = tempfile::tempdir().unwrap();
            let aside = aside(root.path());
            change(root.path());
            aside.is_proved(std::fs::File::open(root.path()).unwrap().as_fd())
        };
        let mode = |root: &Path, mode| {
            std::fs::set_permissions(root.join("aside"), PermissionsExt::from_mode(mode)).unwrap();
        };
        // Only what is root's can be proved at all.
        let is_root = rustix::process::geteuid().is_root();
        assert_eq!(proved(&|_| {}), is_root);
        let changes: [Change<'_>; 7] = [
            ("open to others", &|root| mode(root, 0o755)),
            ("with a bit more", &|root| mode(root, 0o1700)),
            ("gone", &|root| {
                std::fs::remove_dir_all(root.join("aside")).unwrap();
            }),
            ("another one", &|root| {
                std::fs::rename(root.join("aside"), root.join("away")).unwrap();
                std::fs::create_dir(root.join("aside")).unwrap();
            }),
            ("with more in it", &|root| std::fs::write(root.join("aside/1"), "").unwrap()),
            ("with less in it", &|root| std::fs::remove_dir(root.join("aside/0")).unwrap()),
            ("somebody else's", &|root| {
                if is_root {
                    std::os::unix::fs::chown(root.join("aside"), Some(1000), None).unwrap();
                }
            }),
        ];
        for (what, change) in changes {
            assert!(!proved(change), "{what}");
        }
    }
}
