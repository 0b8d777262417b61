//! The directories that a workspace's repository is in.
//!
//! `.git` is a directory, or a file that names one. Such a file can be planted, in an archive say,
//! and would make another repository of the user travel. So it is believed only if what it names
//! leads back here:
//!
//! ```text
//!  worktree    .git ─> COMMON/worktrees/X    gitdir in it ─> this .git    commondir ─> COMMON
//!  submodule   .git ─> SUPER/.git/modules/X  core.worktree ─> this directory
//! ```

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, fstat, openat, statat};

use super::super::beneath;
use super::config::GitConfig;

/// The largest `.git` file, and the largest file in a worktree's directory that names a path.
const PATH_FILE_BYTES: u64 = 64 << 10;

/// How directories are opened that the user's repository names; links are followed, as git does.
const NAMED: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// The open directories of a repository.
#[derive(Debug)]
pub(super) struct Place {
    /// Where HEAD and the index are.
    own: OwnedFd,
    /// Where a linked worktree shares the rest with other worktrees.
    common: Option<OwnedFd>,
    /// Whether `.git` is a file.
    is_file: bool,
}

impl Place {
    /// Follows the `.git` in `root`. An error is why it stays home, in words that follow "because".
    pub(super) fn find(root: BorrowedFd<'_>) -> Result<Self, String> {
        let gone = |error| format!("it cannot be opened ({error})");
        let here = statat(root, c".git", AtFlags::SYMLINK_NOFOLLOW).map_err(gone)?;
        let kind = FileType::from_raw_mode(here.st_mode);
        if kind.is_dir() {
            let own = openat(root, c".git", beneath::DIRECTORY, Mode::empty()).map_err(gone)?;
            return match named(own.as_fd(), "commondir")? {
                Some(_) => Err("it shares another repository's .git".into()),
                None => Ok(Self { own, common: None, is_file: false }),
            };
        }
        if !kind.is_file() {
            return Err("it is a link".into());
        }
        let told = named(root, ".git")?.unwrap_or_default();
        let path = told.strip_prefix(b"gitdir: ").ok_or("it is a file that names no directory")?;
        let own = openat(root, OsStr::from_bytes(path), NAMED, Mode::empty())
            .map_err(|error| format!("the directory it names cannot be opened ({error})"))?;
        let common = match named(own.as_fd(), "commondir")? {
            Some(common) => Some(shared(own.as_fd(), &common, &here)?),
            None => None,
        };
        Ok(Self { own, common, is_file: true })
    }

    /// Where HEAD and the index are.
    pub(super) fn own(&self) -> BorrowedFd<'_> {
        self.own.as_fd()
    }

    /// Where objects, excludes and shallow marks are.
    pub(super) fn common(&self) -> BorrowedFd<'_> {
        self.common.as_ref().unwrap_or(&self.own).as_fd()
    }

    /// Whether this is a linked worktree.
    pub(super) fn is_worktree(&self) -> bool {
        self.common.is_some()
    }

    /// Whether `.git` leads elsewhere: that place is no part of the tree, even if it lies in it.
    pub(super) fn elsewhere(&self) -> Option<(u64, u64)> {
        let stat = fstat(self.common()).ok().filter(|_| self.is_file)?;
        Some((stat.st_dev, stat.st_ino))
    }

    /// Checks that the repository's files are in `root` and nowhere else; why not, otherwise.
    pub(super) fn is_of(&self, root: BorrowedFd<'_>, config: &GitConfig) -> Result<(), String> {
        // Git itself does not ask the shared config for the place of a linked worktree.
        if self.is_worktree() {
            return Ok(());
        }
        let Some(path) = config.worktree() else {
            return if self.is_file { Err(not_back()) } else { Ok(()) };
        };
        let found = openat(&self.own, path, NAMED | OFlags::PATH, Mode::empty());
        let is_here = found.and_then(|found| Ok(same(&fstat(&found)?, &fstat(root)?)));
        match is_here {
            Ok(true) => Ok(()),
            _ if self.is_file => Err(not_back()),
            _ => Err("its files are elsewhere (core.worktree)".into()),
        }
    }
}

/// The directory that a linked worktree shares: `common` is what `commondir` in `own` says, and
/// `here` is the workspace's `.git` file.
fn shared(own: BorrowedFd<'_>, common: &[u8], here: &Stat) -> Result<OwnedFd, String> {
    let back = named(own, "gitdir")?.ok_or_else(not_back)?;
    let back = statat(own, OsStr::from_bytes(&back), AtFlags::SYMLINK_NOFOLLOW);
    if !back.is_ok_and(|back| same(&back, here)) {
        return Err(not_back());
    }
    let failed = |error| format!("the repository it is a worktree of cannot be opened ({error})");
    let common = openat(own, OsStr::from_bytes(common), NAMED, Mode::empty()).map_err(failed)?;
    // Both files above may be planted together with `.git`; a place in the repository is not.
    let above = openat(own, c"..", NAMED, Mode::empty()).and_then(|above| fstat(&above));
    let worktrees = statat(&common, c"worktrees", AtFlags::SYMLINK_NOFOLLOW);
    match (above, worktrees) {
        (Ok(above), Ok(worktrees)) if same(&above, &worktrees) => Ok(common),
        _ => Err(not_back()),
    }
}

fn not_back() -> String {
    "the repository that the .git file names does not name this directory as its own (`git \
     worktree repair` mends a worktree that was moved)"
        .into()
}

fn same(a: &Stat, b: &Stat) -> bool {
    (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino)
}

/// The line in the file `name` of `directory`, if there is one.
fn named(directory: BorrowedFd<'_>, name: &str) -> Result<Option<Vec<u8>>, String> {
    let read = beneath::read_small(directory, name, PATH_FILE_BYTES)
        .map_err(|error| format!("{name} cannot be read ({error})"))?;
    Ok(read.map(|mut line| {
        while line.pop_if(|byte| matches!(byte, b'\n' | b'\r')).is_some() {}
        line
    }))
}
