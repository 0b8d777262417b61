//! Which files of a workspace travel.
//!
//! Everything git does not ignore, whatever is tracked even if a pattern ignores it, and single
//! ignored files (`.env`); ignored directories and caches (`CACHEDIR.TAG`) stay home. The walk goes through directory handles,
//! follows no link, and asks git nothing: the rules and the index are read here.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::rc::Rc;

use rustix::fs::{AtFlags, Dir, FileType, Stat, readlinkat, statat};

use super::git::Repository;
use super::git::index::Tracked;
use super::limits::Totals;
use super::send::known::{Item, Known};
use super::send::{SendError, SendRules};
use super::{DEEPEST, Node, NodeKind, Snapshot, StayReason, StayedHome, Workspace, beneath};
use crate::config::workspace::Ignored;
use crate::ignored::{CACHE_SIGNATURE, CACHE_TAG, Rules};
use crate::path::RelPath;

/// The file of patterns for what stays home, besides git's own.
const CODEXIGNORE: &[u8] = b".codexignore";

/// A tree over its limit is counted up to this many times the limit, to say where it is large.
const COUNT_ON: u64 = 4;

/// How often a tree is walked in which a directory goes while it is walked: it may have been
/// renamed to a place where the walk had been already.
const WALKS: u32 = 3;

/// What travels, and what does not.
#[derive(Debug, Default)]
pub(super) struct Selection<'h> {
    /// In the order of the paths' bytes.
    pub(super) items: Vec<Item<'h>>,
    pub(super) stayed_home: Vec<StayedHome>,
    pub(super) stayed_home_total: u64,
    pub(super) totals: Totals,
}

impl Selection<'_> {
    /// Names `path` among what stays home. Where the list is full, what nobody expects to stay
    /// takes the place of what git or a setting keeps home.
    pub(super) fn stay(&mut self, path: &[u8], is_directory: bool, reason: StayReason) {
        self.stayed_home_total += 1;
        if self.stayed_home.len() == Snapshot::MAX_STAYED_HOME {
            let unexpected = |reason| StayReason::UNEXPECTED.contains(&reason);
            let expected = self.stayed_home.iter().rposition(|had| !unexpected(had.reason));
            match expected.filter(|_| unexpected(reason)) {
                Some(at) => drop(self.stayed_home.remove(at)),
                None => return,
            }
        }
        let mut told = match RelPath::new(path) {
            Ok(path) => path.to_string(),
            Err(_) => String::from_utf8_lossy(&path[..path.len().min(200)]).into_owned() + "…",
        };
        if is_directory {
            told.push('/');
        }
        self.stayed_home.push(StayedHome { path: told, reason });
    }
}

/// A repository, as the walk in it needs it.
#[derive(Debug)]
struct Scope<'a> {
    /// Its top, below the workspace; empty if that is the workspace's own or above.
    base: Vec<u8>,
    /// Where the workspace is in it.
    prefix: &'a [u8],
    tracked: Cow<'a, Tracked>,
    /// Nothing is ignored where there is no repository.
    exists: bool,
}

impl Scope<'_> {
    /// `path` as the repository names it.
    fn path<'p>(&self, path: &'p [u8]) -> Cow<'p, [u8]> {
        if !self.base.is_empty() {
            return Cow::Borrowed(path.get(self.base.len() + 1..).unwrap_or_default());
        }
        match (self.prefix, path) {
            (b"", path) => Cow::Borrowed(path),
            (prefix, b"") => Cow::Owned(prefix.to_vec()),
            (prefix, path) => Cow::Owned([prefix, b"/", path].concat()),
        }
    }
}

/// A directory still to be read.
struct Frame<'a> {
    path: Vec<u8>,
    /// `None` for the top.
    node: Option<Node>,
    /// Where it is, or would be, in what is known.
    at: usize,
    scope: Rc<Scope<'a>>,
    ignored: Rules,
    excluded: Rules,
    /// The ignored directory this is in, of which only tracked files travel.
    tracked_only: Option<Rc<[u8]>>,
}

/// Walks the workspace; again if directories go meanwhile.
pub(super) fn select<'h>(
    workspace: &Workspace,
    rules: &SendRules,
    repository: &Repository,
    known: Known<'h>,
) -> Result<Selection<'h>, SendError> {
    let mut walks = 1;
    loop {
        let (selection, went) = walk(workspace, rules, repository, known)?;
        if !went || walks == WALKS {
            return Ok(selection);
        }
        walks += 1;
    }
}

/// Walks once; also whether a directory went meanwhile.
fn walk<'h>(
    workspace: &Workspace,
    rules: &SendRules,
    repository: &Repository,
    known: Known<'h>,
) -> Result<(Selection<'h>, bool), SendError> {
    let always = Rules::new(&[rules.exclude.join("\n")]);
    let mut walk = Walk {
        workspace,
        rules,
        repository,
        known,
        always,
        selection: Selection::default(),
        named: None,
        went: false,
    };
    let scope = Scope {
        base: Vec::new(),
        prefix: &repository.prefix,
        tracked: Cow::Borrowed(&repository.tracked),
        exists: repository.exists,
    };
    let mut stack = vec![Frame {
        path: Vec::new(),
        node: None,
        at: 0,
        scope: Rc::new(scope),
        ignored: repository.rules.clone(),
        excluded: Rules::default(),
        tracked_only: None,
    }];
    while let Some(frame) = stack.pop() {
        walk.directory(frame, &mut stack)?;
        if walk.selection.totals.entries > rules.max_files.saturating_mul(COUNT_ON) {
            break;
        }
    }
    walk.selection.stayed_home.sort_by(|a, b| a.path.cmp(&b.path));
    walk.selection.items.sort_by(Item::order);
    Ok((walk.selection, walk.went))
}

struct Walk<'a, 'h> {
    workspace: &'a Workspace,
    rules: &'a SendRules,
    repository: &'a Repository,
    known: Known<'h>,
    /// `workspace.exclude`; no `.codexignore` takes these back.
    always: Rules,
    selection: Selection<'h>,
    /// The ignored directory that was named last.
    named: Option<Rc<[u8]>>,
    /// A directory that was listed was gone when it was to be read.
    went: bool,
}

impl<'a> Walk<'a, '_> {
    /// Reads one directory and puts those in it on the stack.
    fn directory(
        &mut self,
        mut frame: Frame<'a>,
        stack: &mut Vec<Frame<'a>>,
    ) -> Result<(), SendError> {
        let opened = beneath::directory(self.workspace.root.as_fd(), &frame.path)
            .and_then(|directory| Ok((names(&directory)?, directory)));
        let (names, directory) = match opened {
            Ok(opened) => opened,
            // It went, or became something else, after its parent was read.
            Err(error) if is_gone(&error) => {
                self.went = true;
                return Ok(());
            }
            Err(error) => return self.unreadable(&frame.path, true, error),
        };
        let has = |name: &[u8]| names.binary_search_by(|known| known.as_slice().cmp(name)).is_ok();
        let is_top = frame.path.is_empty();
        if !is_top && frame.tracked_only.is_none() && has(b".git") {
            let (ignored, tracked) = Repository::nested(directory.as_fd(), &self.repository.global);
            frame.ignored = ignored;
            frame.scope = Rc::new(Scope {
                base: frame.path.clone(),
                prefix: b"",
                tracked: Cow::Owned(tracked),
                exists: true,
            });
        }
        let read_first = |name: &[u8], limit: usize| {
            if !has(name) {
                return Ok(None);
            }
            let limit = limit as u64;
            beneath::read_small(directory.as_fd(), OsStr::from_bytes(name), limit)
                .map_err(|error| SendError::rules_unreadable(&join(&frame.path, name), error))
        };
        let read = |name: &[u8]| read_first(name, Rules::MAX_FILE_BYTES);
        if self.may_be_cache(&frame)
            && read_first(CACHE_TAG.as_bytes(), CACHE_SIGNATURE.len())?
                .is_some_and(|begin| begin == CACHE_SIGNATURE)
        {
            self.stay(&frame.path, true, StayReason::CacheDirectory);
            return Ok(());
        }
        if let Some(patterns) = read(CODEXIGNORE)? {
            frame.excluded = frame.excluded.enter(&frame.path, Some(&patterns));
        }
        let own_patterns = if frame.scope.exists { read(b".gitignore")? } else { None };
        if let Some(patterns) = &own_patterns {
            frame.ignored = frame.ignored.enter(&frame.scope.path(&frame.path), Some(patterns));
        }
        if own_patterns.is_some() && self.ignores_itself(&frame, &names) {
            self.stay(&frame.path, true, StayReason::IgnoredDirectory);
            return Ok(());
        }
        if let Some(node) = frame.node.take() {
            self.go(&frame.path, node, frame.at);
        }
        let first_below = stack.len();
        let mut path = frame.path.clone();
        let mut at = frame.at;
        for name in &names {
            path.truncate(frame.path.len());
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name);
            at = self.known.seek(at, &path);
            self.entry(&frame, &directory, &path, at, stack)?;
        }
        // The stack gives back the last first, and what stayed home is named in order.
        stack[first_below..].reverse();
        Ok(())
    }

    /// Whether a `CACHEDIR.TAG` would keep the directory home: not the top, not if git tracks
    /// something in it, and not if all that is ignored is to travel.
    fn may_be_cache(&self, frame: &Frame<'_>) -> bool {
        !frame.path.is_empty()
            && frame.tracked_only.is_none()
            && self.rules.ignored != Ignored::All
            && !frame.scope.tracked.has_within(&frame.scope.path(&frame.path))
    }

    /// Whether a directory's own `.gitignore` ignores all of it, itself included: how virtual
    /// environments and caches say that they are not to be kept.
    fn ignores_itself(&self, frame: &Frame<'_>, names: &[Vec<u8>]) -> bool {
        let inside = frame.scope.path(&frame.path);
        !frame.path.is_empty()
            && frame.path != frame.scope.base
            && frame.tracked_only.is_none()
            && self.rules.ignored != Ignored::All
            && !frame.scope.tracked.has_within(&inside)
            && names.iter().all(|name| {
                let path = join(&inside, name);
                frame.ignored.is_ignored(&path, false) && frame.ignored.is_ignored(&path, true)
            })
    }

    /// Decides about one name in a directory.
    fn entry(
        &mut self,
        frame: &Frame<'a>,
        directory: &OwnedFd,
        path: &[u8],
        at: usize,
        stack: &mut Vec<Frame<'a>>,
    ) -> Result<(), SendError> {
        let (_, name_of) = beneath::split(path);
        let name = name_of.as_bytes();
        let stat = match statat(directory, name_of, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(error) => {
                let error = io::Error::from(error);
                return if is_gone(&error) { Ok(()) } else { self.unreadable(path, false, error) };
            }
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        let is_directory = kind.is_dir();
        if name == b".git" {
            if !frame.path.is_empty() {
                self.stay(path, is_directory, StayReason::NestedGit);
            }
            return Ok(());
        }
        if is_directory && self.repository.elsewhere == Some((stat.st_dev, stat.st_ino)) {
            self.stay(path, true, StayReason::Git);
            return Ok(());
        }
        if self.workspace.exclude.iter().any(|excluded| excluded.as_bytes() == path) {
            self.stay(path, is_directory, StayReason::RunsDirectory);
            return Ok(());
        }
        if self.always.is_ignored(path, is_directory)
            || frame.excluded.is_ignored(path, is_directory)
        {
            self.stay(path, is_directory, StayReason::Excluded);
            return Ok(());
        }
        let inside = frame.scope.path(path);
        let ignored =
            frame.tracked_only.is_some() || frame.ignored.is_ignored(&inside, is_directory);
        let ignored = ignored && self.rules.ignored != Ignored::All;
        if is_directory {
            let mut tracked_only = frame.tracked_only.clone();
            if ignored {
                if !frame.scope.tracked.has_within(&inside) {
                    self.stay_ignored(&tracked_only, path, StayReason::IgnoredDirectory);
                    return Ok(());
                }
                tracked_only.get_or_insert_with(|| path.into());
            }
            // The walk itself must not go where the path cannot be told.
            if path.len() > RelPath::MAX_BYTES {
                self.stay(path, true, StayReason::NameTooLong);
                return Ok(());
            }
            if path.iter().filter(|byte| **byte == b'/').count() >= DEEPEST {
                self.stay(path, true, StayReason::TooDeep);
                return Ok(());
            }
            let node = node_of(NodeKind::Directory, &stat, None);
            stack.push(Frame {
                path: path.to_vec(),
                node: Some(node),
                at,
                scope: Rc::clone(&frame.scope),
                ignored: frame.ignored.clone(),
                excluded: frame.excluded.clone(),
                tracked_only,
            });
            return Ok(());
        }
        if !kind.is_file() && !kind.is_symlink() {
            self.stay(path, false, StayReason::Special);
            return Ok(());
        }
        let stays = frame.tracked_only.is_some() || self.rules.ignored == Ignored::None;
        if ignored && stays && !frame.scope.tracked.contains(&inside) {
            self.stay_ignored(&frame.tracked_only, path, StayReason::IgnoredFile);
            return Ok(());
        }
        if kind.is_file() {
            let size = stat.st_size.unsigned_abs();
            let on_disk = stat.st_blocks.unsigned_abs().saturating_mul(512);
            self.selection.totals.add_hole(path, size, size.saturating_sub(on_disk));
            self.go(path, node_of(NodeKind::File, &stat, None), at);
            return Ok(());
        }
        match readlinkat(directory, name_of, Vec::new()) {
            Ok(target) => {
                let node = node_of(NodeKind::Link, &stat, Some(target.into_bytes()));
                self.go(path, node, at);
            }
            Err(error) => {
                let error = io::Error::from(error);
                // It is no link any more: EINVAL.
                if !is_gone(&error) && error.kind() != io::ErrorKind::InvalidInput {
                    return self.unreadable(path, false, error);
                }
            }
        }
        Ok(())
    }

    /// Takes `path`, unless there is too much already.
    fn go(&mut self, path: &[u8], node: Node, at: usize) {
        let (is_directory, size) = (node.kind == NodeKind::Directory, node.size);
        let Some(item) = self.known.item(path, node, at) else {
            self.stay(path, is_directory, StayReason::NameTooLong);
            return;
        };
        self.selection.totals.add(path, size);
        if self.selection.totals.entries <= self.rules.max_files {
            self.selection.items.push(item);
        }
    }

    /// Names what stays home in a directory of which only tracked files travel by that directory.
    fn stay_ignored(&mut self, within: &Option<Rc<[u8]>>, path: &[u8], reason: StayReason) {
        let Some(directory) = within else {
            self.stay(path, reason == StayReason::IgnoredDirectory, reason);
            return;
        };
        if self.named.as_ref() != Some(directory) {
            self.named = Some(Rc::clone(directory));
            self.stay(directory, true, StayReason::IgnoredDirectory);
        }
    }

    fn stay(&mut self, path: &[u8], is_directory: bool, reason: StayReason) {
        self.selection.stay(path, is_directory, reason);
    }

    /// Leaves what cannot be read at home, unless nothing works without it.
    fn unreadable(
        &mut self,
        path: &[u8],
        is_directory: bool,
        error: io::Error,
    ) -> Result<(), SendError> {
        let is_needed = |dir: &RelPath| RelPath::new(path).is_ok_and(|path| dir.is_within(&path));
        if path.is_empty()
            || is_ours(&error)
            || self.workspace.working_dir.as_ref().is_some_and(is_needed)
        {
            return Err(SendError::unreadable(path, error));
        }
        self.stay(path, is_directory, StayReason::Unreadable);
        Ok(())
    }
}

/// Whether an error says that the thing went, or is of another kind by now.
pub(super) fn is_gone(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::NOENT, Errno::NOTDIR, Errno::LOOP, Errno::NXIO]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// Whether an error is about this process and not about the file: it would hit any file.
pub(super) fn is_ours(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::MFILE, Errno::NFILE, Errno::NOMEM]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// The names in a directory, sorted; an error also where it may not be searched.
fn names(directory: &OwnedFd) -> io::Result<Vec<Vec<u8>>> {
    statat(directory, c".", AtFlags::SYMLINK_NOFOLLOW)?;
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    names.sort_unstable();
    Ok(names)
}

fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() { name.to_vec() } else { [directory, b"/", name].concat() }
}

/// A node from its stat.
pub(super) fn node_of(kind: NodeKind, stat: &Stat, target: Option<Vec<u8>>) -> Node {
    let nanos = |nanos| u32::try_from(nanos).unwrap_or(0);
    Node {
        kind,
        mode: stat.st_mode & 0o7777,
        size: if kind == NodeKind::File { stat.st_size.unsigned_abs() } else { 0 },
        mtime: (stat.st_mtime, nanos(stat.st_mtime_nsec)),
        ctime: (stat.st_ctime, nanos(stat.st_ctime_nsec)),
        dev: stat.st_dev,
        ino: stat.st_ino,
        hash: None,
        target,
    }
}
