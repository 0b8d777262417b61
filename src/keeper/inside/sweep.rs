//! What a run leaves of the workspace, after which only what may stay is there.
//!
//! ```text
//!  tree at rest ─┬─ certainly as it was put ──────────────────> stays where it is
//!                ├─ ignored by git, and not put ──────────────> build state, set aside (kept)
//!                └─ changed, new, a second name, in doubt ────> gone; what was put is named
//! ```
//!
//! One walk. What goes is renamed into a directory of root's, which is emptied at the end by several
//! threads. A file stays if its inode and ctime prove that nothing touched it, or else if it has the
//! same contents, times, owner and mode, and nothing else on it. A directory has no proof of that
//! kind, since its ctime moves with what is in it: it stays if its owner and mode are as they were put
//! and it carries neither attributes, nor ACLs, nor flags. In a `.git` only what was put can stay.
//!
//! If no tree is to be kept, the walk only sets build state aside, and the caller empties the rest.

use std::ffi::{CStr, CString};
use std::io;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{self, AtFlags, Mode, Stat};

use super::attributes::Plain;
use super::collect::hash_of;
use super::kept::{self, Aside, Room};
use super::manifest::{self, Kind, Manifest, Time, Verdict, ctime};
use super::put::DEEPEST;
use super::wanted::Rules;
use super::{places, remove};
use crate::keeper::wire::KeptTree;
use crate::path::RelPath;

/// Levels of directories that were not put, in which build state is looked for.
const DEEP: usize = kept::DEEP;

/// Bytes of paths that are named as dropped at most: half of what an answer may have.
const MAX_NAMED: usize = 2 << 20;

/// What the walk is to do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish {
    /// Keep what is certainly as it was put.
    pub(super) tree: bool,
    /// Keep build state.
    pub(super) ignored: bool,
    /// As in [`manifest::compare`].
    pub(super) certified_before: Option<Time>,
    /// Who everything that was put belongs to: uid and gid.
    pub(super) owner: (u32, u32),
}

/// What stays.
#[derive(Debug, Default)]
pub(super) struct Swept {
    /// `None` if it was not wished for, or too little is left of it. Then everything but what was set
    /// aside must go.
    pub(super) tree: Option<Left>,
    pub(super) aside: Option<Aside>,
}

/// What is left of a tree, and nothing else is there but what was set aside.
#[derive(Debug)]
pub(super) struct Left {
    pub(super) manifest: Manifest,
    pub(super) dropped: Vec<RelPath>,
    /// Of the files.
    pub(super) bytes: u64,
}

/// Looks at everything in the workspace `root`, in which `manifest` was put, and nothing of which was
/// touched since if `aside` is there still. The tree must be at rest.
///
/// # Errors
///
/// What cannot be looked at or moved; then nothing may stay.
pub(super) fn sweep(
    root: BorrowedFd<'_>,
    mut manifest: Manifest,
    aside: Option<Aside>,
    wish: Wish,
) -> io::Result<Swept> {
    let rules = Rules::top(root, &manifest.above);
    let mut sweeper = Sweeper {
        root,
        device: fs::fstat(root)?.st_dev,
        plain: Plain::in_directory(root)?,
        wish,
        stays: vec![false; manifest.len()],
        manifest: &mut manifest,
        last: 0,
        aside,
        room: Room::on(root),
        gone: None,
        buffer: vec![0; 64 << 10],
    };
    sweeper.walk(rules)?;
    sweeper.empty_gone()?;
    let Sweeper { stays, aside, .. } = sweeper;
    let aside = aside.filter(|aside| !aside.is_empty());
    let tree = if wish.tree { left(manifest, &stays) } else { None };
    Ok(Swept { tree, aside })
}

fn left(manifest: Manifest, stays: &[bool]) -> Option<Left> {
    let gone = stays.iter().filter(|stays| !**stays).count();
    if gone > KeptTree::MAX_DROPPED {
        return None;
    }
    let mut dropped = Vec::with_capacity(gone);
    let mut named = 0;
    for index in (0..stays.len()).filter(|index| !stays[*index]) {
        let path = RelPath::new(manifest.path(index)).ok()?;
        named += serde_json::to_string(&path).ok()?.len() + 1;
        dropped.push(path);
    }
    if named > MAX_NAMED {
        return None;
    }
    let manifest = manifest.retain(stays);
    let bytes = manifest.bytes();
    Some(Left { manifest, dropped, bytes })
}

struct Sweeper<'a> {
    root: BorrowedFd<'a>,
    device: u64,
    plain: Plain,
    wish: Wish,
    manifest: &'a mut Manifest,
    /// Which nodes of the manifest stay.
    stays: Vec<bool>,
    /// As in [`Manifest::find_after`].
    last: usize,
    aside: Option<Aside>,
    room: Room,
    gone: Option<Gone>,
    buffer: Vec<u8>,
}

/// What goes: root's directory at the top of the workspace, and how many nodes are in it.
struct Gone {
    name: CString,
    directory: OwnedFd,
    nodes: u64,
}

/// A directory on the way down.
struct Level {
    directory: OwnedFd,
    /// Its name in the one above.
    name: CString,
    names: Vec<CString>,
    path: Vec<u8>,
    rules: Rules,
    /// git ignores it, though something in it was put.
    ignored: bool,
    /// It goes when it was looked at, with what is in it then.
    doomed: bool,
    /// It is a repository's own, or in one: no build state is in it.
    git: bool,
}

impl Sweeper<'_> {
    fn walk(&mut self, rules: Rules) -> io::Result<()> {
        let directory = fs::openat(self.root, c".", places::DIRECTORY, Mode::empty())?;
        let mut stack = vec![Level {
            names: places::sorted_names(directory.as_fd())?,
            directory,
            name: CString::default(),
            path: Vec::new(),
            rules,
            ignored: false,
            doomed: !self.wish.tree,
            git: false,
        }];
        while let Some(level) = stack.last_mut() {
            if let Some(name) = level.names.pop() {
                if let Some(inner) = self.node(&stack, name)? {
                    stack.push(inner);
                }
            } else if let Some(done) = stack.pop()
                && let Some(parent) = stack.last()
                && done.doomed
                && !parent.doomed
            {
                self.discard(parent.directory.as_fd(), &done.name)?;
            }
        }
        Ok(())
    }

    /// Decides about one node, and gives the level below if what is in it is still to be looked at.
    fn node(&mut self, stack: &[Level], name: CString) -> io::Result<Option<Level>> {
        let Some(level) = stack.last() else { return Ok(None) };
        let parent = level.directory.as_fd();
        if stack.len() == 1 && self.is_own(&name) {
            return Ok(None);
        }
        let mut path = Vec::with_capacity(level.path.len() + 1 + name.as_bytes().len());
        path.extend_from_slice(&level.path);
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name.as_bytes());
        let stat = fs::statat(parent, &name, AtFlags::SYMLINK_NOFOLLOW)?;
        let is_directory = places::is_directory(&stat);
        let git = level.git || name.as_c_str() == c".git";
        let known = self.manifest.find_after(&mut self.last, &path);
        let mut opened = None;
        if let Some(index) = known
            && !level.doomed
        {
            let stays = if is_directory {
                opened = self.directory(parent, &name, index, &stat)?;
                opened.is_some()
            } else {
                self.is_certain(parent, &name, index, &stat)?
            };
            self.stays[index] = stays;
            if stays && !is_directory {
                return Ok(None);
            }
        }
        let doomed = opened.is_none();
        let by_rule = is_directory && !git && level.rules.ignored_new(&path, true);
        let build = known.is_none() && self.wish.ignored && !git && {
            let says_so = || is_directory && level.rules.says_so_itself(parent, &name, &path);
            level.ignored || by_rule || says_so()
        };
        if build && self.set_aside(parent, &name, &path, &stat)? {
            return Ok(None);
        }
        let look = self.wish.ignored && !git && !build && stack.len() < DEEP;
        if !is_directory || stat.st_dev != self.device || (doomed && !look) {
            if !level.doomed {
                self.discard(parent, &name)?;
            }
            return Ok(None);
        }
        if stack.len() > DEEPEST {
            return Err(io::Error::other("the tree is deeper than one that is put"));
        }
        let directory = match opened {
            Some(directory) => directory,
            None => fs::openat(parent, &name, places::DIRECTORY, Mode::empty())?,
        };
        Ok(Some(Level {
            names: places::sorted_names(directory.as_fd())?,
            rules: if git {
                level.rules.clone()
            } else {
                level.rules.enter(directory.as_fd(), &path)
            },
            ignored: level.ignored || by_rule,
            directory,
            name,
            path,
            doomed,
            git,
        }))
    }

    /// Whether a name at the top is one of the keeper's.
    fn is_own(&self, name: &CStr) -> bool {
        self.aside.as_ref().is_some_and(|aside| aside.name() == name)
            || self.gone.as_ref().is_some_and(|gone| gone.name.as_c_str() == name)
    }

    /// Opens a directory that was put, if it is still as it was put.
    fn directory(
        &self,
        parent: BorrowedFd<'_>,
        name: &CStr,
        index: usize,
        stat: &Stat,
    ) -> io::Result<Option<OwnedFd>> {
        let put = self.manifest.get(index);
        if stat.st_dev != self.device
            || (stat.st_uid, stat.st_gid) != self.wish.owner
            || put.is_none_or(|put| manifest::compare(put, stat, None) != Verdict::Same)
        {
            return Ok(None);
        }
        let opened = fs::openat(parent, name, places::DIRECTORY, Mode::empty())?;
        Ok(if self.plain.is(opened.as_fd())? { Some(opened) } else { None })
    }

    /// Whether a file or a link is certainly what was put. If its contents prove that, what is found
    /// is noted instead of what was put.
    fn is_certain(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &CStr,
        index: usize,
        stat: &Stat,
    ) -> io::Result<bool> {
        let Some(put) = self.manifest.get_mut(index) else { return Ok(false) };
        if stat.st_dev != self.device
            || (stat.st_uid, stat.st_gid) != self.wish.owner
            || stat.st_nlink != 1
        {
            return Ok(false);
        }
        match manifest::compare(put, stat, self.wish.certified_before) {
            Verdict::Same => return Ok(true),
            Verdict::Changed => return Ok(false),
            Verdict::Compare => {}
        }
        if stat.st_mtime != put.mtime {
            return Ok(false);
        }
        if put.kind == Kind::File {
            let file = super::collect::open_file(parent, name)?;
            if stat.st_mtime_nsec != 0 || !self.plain.is(file.as_fd())? {
                return Ok(false);
            }
        }
        if put.hash.as_deref() != Some(&hash_of(parent, name, stat, &mut self.buffer)?) {
            return Ok(false);
        }
        put.inode = stat.st_ino;
        put.ctime = ctime(stat);
        Ok(true)
    }

    /// Sets build state aside if there is room for it.
    fn set_aside(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &CStr,
        path: &[u8],
        stat: &Stat,
    ) -> io::Result<bool> {
        if !kept::can_stay(stat) || stat.st_dev != self.device {
            return Ok(false);
        }
        let size = kept::size_of(parent, name, stat, self.wish.owner, true);
        if !self.room.take(&size) {
            return Ok(false);
        }
        let aside = match self.aside.take() {
            Some(aside) => aside,
            None => Aside::make(self.root)?,
        };
        self.aside.insert(aside).take(
            parent,
            name,
            path,
            places::is_directory(stat),
            size.bytes,
        )?;
        Ok(true)
    }

    /// Moves a node to what goes.
    fn discard(&mut self, parent: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
        let gone = match self.gone.take() {
            Some(gone) => gone,
            None => {
                let (name, directory) = kept::secret(self.root, "gone")?;
                Gone { name, directory, nodes: 0 }
            }
        };
        let gone = self.gone.insert(gone);
        fs::renameat(parent, name, &gone.directory, gone.nodes.to_string())?;
        gone.nodes += 1;
        Ok(())
    }

    fn empty_gone(&mut self) -> io::Result<()> {
        let Some(gone) = self.gone.take() else { return Ok(()) };
        places::empty_directory(gone.directory.as_fd(), None)?;
        remove::all(self.root, &gone.name)
    }
}

/// Whether the workspace `root` holds exactly what `manifest` says, each node as it says, and the name
/// `aside` at its top. It is asked after a sweep, and takes nothing of that for granted.
pub(super) fn holds(
    root: BorrowedFd<'_>,
    manifest: &Manifest,
    aside: Option<&CStr>,
    owner: (u32, u32),
) -> io::Result<bool> {
    let device = fs::fstat(root)?.st_dev;
    let plain = Plain::in_directory(root)?;
    let mut left = manifest.len();
    let mut last = 0;
    let top = fs::openat(root, c".", places::DIRECTORY, Mode::empty())?;
    let names = places::sorted_names(top.as_fd())?;
    let mut stack = vec![(top, names, Vec::new())];
    while let Some((directory, names, above)) = stack.last_mut() {
        let Some(name) = names.pop() else {
            stack.pop();
            continue;
        };
        if above.is_empty() && Some(name.as_c_str()) == aside {
            continue;
        }
        let separator: &[u8] = if above.is_empty() { b"" } else { b"/" };
        let path = [&above[..], separator, name.as_bytes()].concat();
        let found = manifest.find_after(&mut last, &path).and_then(|index| manifest.get(index));
        let Some(entry) = found else { return Ok(false) };
        let stat = fs::statat(&*directory, &name, AtFlags::SYMLINK_NOFOLLOW)?;
        let same = manifest::kind(&stat) == Some(entry.kind)
            && stat.st_dev == device
            && (stat.st_uid, stat.st_gid) == owner;
        let mode = stat.st_mode & 0o7777 == u32::from(entry.mode);
        let node = (stat.st_ino, ctime(&stat), u64::try_from(stat.st_size).ok(), stat.st_nlink);
        left = left.saturating_sub(1);
        match entry.kind {
            Kind::Directory if same && mode => {
                let inner = fs::openat(&*directory, &name, places::DIRECTORY, Mode::empty())?;
                if !plain.is(inner.as_fd())? {
                    return Ok(false);
                }
                let names = places::sorted_names(inner.as_fd())?;
                stack.push((inner, names, path));
            }
            Kind::File | Kind::Link
                if same && mode && node == (entry.inode, entry.ctime, Some(entry.size), 1) => {}
            _ => return Ok(false),
        }
    }
    Ok(left == 0)
}

#[cfg(test)]
mod tests;
