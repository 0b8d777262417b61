//! The user's tree, reached only through its directory handle.
//!
//! Every path is resolved beneath the handle with no link followed, so that nothing a container
//! chose, and no link that was planted meanwhile, leads out of it. What is renamed or removed is
//! always a name in a directory that was opened this way.

mod looking;

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, RenameFlags, ResolveFlags, Stat, fstat, linkat, mkdirat,
    openat, openat2, readlinkat, renameat, renameat_with, statat, symlinkat, unlinkat,
};
use rustix::io::Errno;

pub use self::looking::Looking;
use super::apply::kill::point;
use super::change::{BaseNode, ContentHash, LinkTarget, Stamp};
use super::conflict::HostNow;
use super::{NodeKind, Workspace};
use crate::path::RelPath;

/// The tree.
#[derive(Clone, Debug)]
pub struct Host {
    root: Arc<OwnedFd>,
    features: Features,
}

/// What of a file system is made use of; tests switch off what others lack.
#[derive(Clone, Copy, Debug)]
pub struct Features {
    /// Exchange of two names at once.
    pub exchange: bool,
    /// Renames that replace nothing.
    pub no_replace: bool,
    /// Hard links.
    pub links: bool,
    /// Read leases.
    pub leases: bool,
    /// Names that it refuses to make, and why.
    pub refuse: Option<fn(&RelPath) -> Option<Errno>>,
}

impl Default for Features {
    fn default() -> Self {
        Self { exchange: true, no_replace: true, links: true, leases: true, refuse: None }
    }
}

impl Host {
    /// The tree of a workspace.
    pub fn of(workspace: &Workspace) -> Self {
        Self::with(workspace, Features::default())
    }

    /// The tree of a workspace, on a file system that lacks something.
    pub fn with(workspace: &Workspace, features: Features) -> Self {
        Self { root: Arc::clone(&workspace.root), features }
    }

    /// What is made use of.
    pub fn features(&self) -> Features {
        self.features
    }

    /// Opens a directory; `None` is the root.
    ///
    /// # Errors
    ///
    /// `ELOOP` or `ENOTDIR` where something on the way is a link or a file.
    pub fn directory(&self, path: Option<&RelPath>) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let Some(path) = path else {
            return openat(&*self.root, ".", flags, Mode::empty());
        };
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        loop {
            match openat2(&*self.root, path.as_bytes(), flags, Mode::empty(), resolve) {
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(Errno::NOSYS | Errno::PERM) => return self.walk(path, flags),
                done => return done,
            }
        }
    }

    /// The same where the kernel, or a sandbox around us, has no `openat2`.
    fn walk(&self, path: &RelPath, flags: OFlags) -> Result<OwnedFd, Errno> {
        let mut at = openat(&*self.root, ".", flags, Mode::empty())?;
        for name in path.components() {
            at = match openat(&at, name, flags | OFlags::NOFOLLOW, Mode::empty()) {
                Err(Errno::NOTDIR) => {
                    let stat = statat(&at, name, AtFlags::SYMLINK_NOFOLLOW)?;
                    return Err(match FileType::from_raw_mode(stat.st_mode) {
                        FileType::Symlink => Errno::LOOP,
                        _ => Errno::NOTDIR,
                    });
                }
                opened => opened?,
            };
        }
        Ok(at)
    }

    /// The directory in which a name is made.
    fn parent_to_write(&self, path: &RelPath) -> Result<OwnedFd, Errno> {
        match self.features.refuse.and_then(|refuse| refuse(path)) {
            Some(error) => Err(error),
            None => self.parent(path),
        }
    }

    fn parent(&self, path: &RelPath) -> Result<OwnedFd, Errno> {
        self.directory(path.parent().as_ref())
    }

    /// What `lstat` says.
    ///
    /// # Errors
    ///
    /// `ENOENT` among others.
    pub fn stat(&self, path: &RelPath) -> Result<Stat, Errno> {
        statat(self.parent(path)?, path.name(), AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Opens a regular file for reading; never waits, whatever is there.
    ///
    /// # Errors
    ///
    /// `ELOOP` for a link; `EINVAL` for anything else that is no regular file.
    pub fn open(&self, path: &RelPath) -> Result<File, Errno> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = openat(self.parent(path)?, path.name(), flags, Mode::empty())?;
        match FileType::from_raw_mode(fstat(&file)?.st_mode) {
            FileType::RegularFile => Ok(File::from(file)),
            _ => Err(Errno::INVAL),
        }
    }

    /// What is at a path now, with the hash of a file's bytes.
    ///
    /// # Errors
    ///
    /// Anything but there being nothing; `ELOOP` or `ENOTDIR` where the way there is blocked.
    pub fn look(&self, path: &RelPath) -> io::Result<HostNow> {
        let stat = match self.stat(path) {
            Err(Errno::NOENT) => return Ok(HostNow::Absent),
            other => other?,
        };
        let node = |kind, size, hash, target| {
            let mode = stat.st_mode & 0o7777;
            HostNow::Node(BaseNode { kind, mode, size, hash, target, stamp: None })
        };
        Ok(match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => node(NodeKind::Directory, 0, None, None),
            FileType::Symlink => {
                let target = readlinkat(self.parent(path)?, path.name(), Vec::new())?;
                node(NodeKind::Link, 0, None, Some(LinkTarget(target.into_bytes())))
            }
            FileType::RegularFile => {
                let mut file = self.open(path)?;
                let (size, hash) = hash(&mut file, &mut io::sink())?;
                let mode = fstat(&file)?.st_mode & 0o7777;
                HostNow::Node(BaseNode {
                    kind: NodeKind::File,
                    mode,
                    size,
                    hash: Some(hash),
                    target: None,
                    stamp: None,
                })
            }
            _ => HostNow::Special,
        })
    }

    /// Whether a directory has a name in exactly this spelling. Where upper and lower case are the
    /// same, a path may be found under a name that is not its own.
    ///
    /// # Errors
    ///
    /// Where the directory cannot be read.
    pub fn is_spelled_so(&self, path: &RelPath) -> Result<bool, Errno> {
        for entry in rustix::fs::Dir::read_from(self.parent(path)?)? {
            if entry?.file_name().to_bytes() == path.name() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether two paths that differ only in the case of their names are one and the same here: both
    /// are found, and the directory has only one of them.
    pub fn are_one(&self, one: &RelPath, other: &RelPath) -> bool {
        let name = folded(one.name());
        if one == other || one.parent() != other.parent() || folded(other.name()) != name {
            return false;
        }
        let entries = |parent| {
            rustix::fs::Dir::read_from(parent).map(|entries| {
                let names = entries.flatten().map(|entry| folded(entry.file_name().to_bytes()));
                names.filter(|entry| *entry == name).count()
            })
        };
        self.stat(one).is_ok()
            && self.stat(other).is_ok()
            && self.parent(one).and_then(entries) == Ok(1)
    }

    /// Exchanges two names at once.
    ///
    /// # Errors
    ///
    /// `ENOENT` if one of them is gone; `EINVAL`, `ENOSYS` where the file system cannot.
    pub fn exchange(&self, one: &RelPath, other: &RelPath) -> Result<(), Errno> {
        if !self.features.exchange {
            return Err(Errno::INVAL);
        }
        let to = self.parent_to_write(other)?;
        let other_parent = if same_parent(one, other) { None } else { Some(self.parent(one)?) };
        let from = other_parent.as_ref().unwrap_or(&to);
        changing(|| renameat_with(from, one.name(), &to, other.name(), RenameFlags::EXCHANGE))
    }

    /// Renames what is at a name of the user's to one of ours, which nobody else uses, without
    /// replacing anything. It is always one step: between a link and a removal the user may rename
    /// something else to `from`, and that would be removed.
    ///
    /// # Errors
    ///
    /// `EEXIST` if something is there.
    pub fn set_aside(&self, from: &RelPath, to: &RelPath) -> Result<(), Errno> {
        self.rename(from, to, false)
    }

    /// Renames what is at a name of ours, which nobody else uses, without ever replacing anything.
    ///
    /// # Errors
    ///
    /// `EEXIST` if something is there.
    pub fn rename_new(&self, from: &RelPath, to: &RelPath) -> Result<(), Errno> {
        self.rename(from, to, self.features.links)
    }

    fn rename(&self, from: &RelPath, to: &RelPath, links: bool) -> Result<(), Errno> {
        let new = self.parent_to_write(to)?;
        let other_parent = if same_parent(from, to) { None } else { Some(self.parent(from)?) };
        let old = other_parent.as_ref().unwrap_or(&new);
        if self.features.no_replace {
            let rename =
                || renameat_with(old, from.name(), &new, to.name(), RenameFlags::NOREPLACE);
            match changing(rename) {
                Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
                done => return done,
            }
        }
        // A hard link is as good: it replaces nothing either.
        if links {
            match changing(|| linkat(old, from.name(), &new, to.name(), AtFlags::empty())) {
                Ok(()) => return changing(|| unlinkat(old, from.name(), AtFlags::empty())),
                Err(Errno::PERM | Errno::NOTSUP | Errno::NOSYS | Errno::INVAL) => {}
                Err(error) => return Err(error),
            }
        }
        // What is set aside, directories everywhere, and files where there are no hard links. A
        // directory replaces only an empty one; for files this is the one place where a gap stays.
        match statat(&new, to.name(), AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => changing(|| renameat(old, from.name(), &new, to.name())),
            Ok(_) => Err(Errno::EXIST),
            Err(error) => Err(error),
        }
    }

    /// Creates a file that is not there yet.
    ///
    /// # Errors
    ///
    /// `EEXIST` if something is there.
    pub fn create(&self, path: &RelPath, mode: u32) -> Result<File, Errno> {
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let parent = self.parent_to_write(path)?;
        changing(|| openat(&parent, path.name(), flags, Mode::from_raw_mode(mode))).map(File::from)
    }

    /// Creates a link that is not there yet.
    ///
    /// # Errors
    ///
    /// `EEXIST` if something is there.
    pub fn link(&self, path: &RelPath, target: &[u8]) -> Result<(), Errno> {
        let parent = self.parent_to_write(path)?;
        changing(|| symlinkat(target, &parent, path.name()))
    }

    /// Creates a directory.
    ///
    /// # Errors
    ///
    /// `EEXIST` if something is there.
    pub fn make_directory(&self, path: &RelPath) -> Result<(), Errno> {
        let parent = self.parent_to_write(path)?;
        changing(|| mkdirat(&parent, path.name(), Mode::from_raw_mode(0o777)))
    }

    /// Removes a file or link.
    ///
    /// # Errors
    ///
    /// `ENOENT` among others.
    pub fn unlink(&self, path: &RelPath) -> Result<(), Errno> {
        let parent = self.parent(path)?;
        changing(|| unlinkat(&parent, path.name(), AtFlags::empty()))
    }

    /// Removes a directory that is empty.
    ///
    /// # Errors
    ///
    /// `ENOTEMPTY` or `EEXIST` if it is not.
    pub fn remove_directory(&self, path: &RelPath) -> Result<(), Errno> {
        let parent = self.parent(path)?;
        changing(|| unlinkat(&parent, path.name(), AtFlags::REMOVEDIR))
    }

    /// Whether a directory has nothing in it.
    ///
    /// # Errors
    ///
    /// Where it cannot be read.
    pub fn is_empty(&self, path: &RelPath) -> Result<bool, Errno> {
        let directory = self.directory(Some(path))?;
        for entry in rustix::fs::Dir::read_from(&directory)? {
            if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Brings everything written so far to the disk.
    ///
    /// # Errors
    ///
    /// What the disk says.
    pub fn sync(&self) -> Result<(), Errno> {
        rustix::fs::syncfs(self.directory(None)?)
    }
}

/// A name without regard to upper and lower case.
pub(super) fn folded(name: &[u8]) -> String {
    String::from_utf8_lossy(name).to_lowercase()
}

fn same_parent(one: &RelPath, other: &RelPath) -> bool {
    let parent = |path: &RelPath| path.as_bytes().len() - path.name().len();
    one.as_bytes()[..parent(one)] == other.as_bytes()[..parent(other)]
}

/// Which version of a file a stat found.
pub(super) fn stamp(stat: &Stat) -> Stamp {
    let nsec = |nsec| u32::try_from(nsec).unwrap_or(0);
    Stamp {
        dev: stat.st_dev,
        ino: stat.st_ino,
        mtime: (stat.st_mtime, nsec(stat.st_mtime_nsec)),
        ctime: (stat.st_ctime, nsec(stat.st_ctime_nsec)),
    }
}

/// Does something that changes the disk.
fn changing<T>(what: impl FnOnce() -> T) -> T {
    point();
    let done = what();
    point();
    done
}

/// Size and hash of all that is left in a file; its bytes also go to `sink`.
pub(super) fn hash(file: &mut impl Read, sink: &mut dyn Write) -> io::Result<(u64, ContentHash)> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 64 * 1024];
    let mut size = 0;
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok((size, ContentHash(*hasher.finalize().as_bytes()))),
            Ok(n) => {
                hasher.update(&buffer[..n]);
                sink.write_all(&buffer[..n])?;
                size += n as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::workspace::fixture::{Place, file, path, tree};

    #[test]
    fn no_way_leads_over_a_link_with_openat2_or_without() {
        let place = Place::new(&tree([("d/e/f", file("x")), ("g", file("x"))]));
        symlink("d", place.at("inside")).unwrap();
        symlink("/", place.at("outside")).unwrap();
        let host = Host::of(&place.workspace);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        for (name, outcome) in [
            ("d/e", None),
            ("inside", Some(Errno::LOOP)),
            ("inside/e", Some(Errno::LOOP)),
            ("outside", Some(Errno::LOOP)),
            ("outside/etc", Some(Errno::LOOP)),
            ("g", Some(Errno::NOTDIR)),
            ("g/x", Some(Errno::NOTDIR)),
            ("none", Some(Errno::NOENT)),
        ] {
            assert_eq!(host.directory(Some(&path(name))).err(), outcome, "{name}");
            assert_eq!(host.walk(&path(name), flags).err(), outcome, "{name}");
        }
    }
}

#[cfg(test)]
#[path = "host_race_tests.rs"]
mod race_tests;
