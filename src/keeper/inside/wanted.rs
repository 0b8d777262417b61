//! Which new paths git ignores, and so stay in the container.
//!
//! The `.gitignore` files are those of the tree as it is now, read without following links; a file
//! that cannot be read as one has no rules.

use std::io::Read;

use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::{self, FileType, Mode, OFlags};

use super::places;
use crate::ignored;

/// The rules in force in one directory: its own, then those of the directories above it.
#[derive(Clone, Debug, Default)]
pub(super) struct Rules(ignored::Rules);

impl Rules {
    /// The rules at the top of the workspace, `.git/info/exclude` below all others.
    pub(super) fn top(root: BorrowedFd<'_>) -> Self {
        let exclude = || {
            let git = fs::openat(root, c".git", places::DIRECTORY, Mode::empty()).ok()?;
            let info = fs::openat(&git, c"info", places::DIRECTORY, Mode::empty()).ok()?;
            read(info.as_fd(), c"exclude")
        };
        Self(ignored::Rules::new(exclude().as_slice())).enter(root, b"")
    }

    /// The rules in a directory whose path in the workspace is `path`.
    pub(super) fn enter(&self, directory: BorrowedFd<'_>, path: &[u8]) -> Self {
        Self(self.0.enter(path, read(directory, c".gitignore").as_deref()))
    }

    /// Whether git ignores `path`, given that it does not ignore the directory that holds it.
    pub(super) fn ignored_new(&self, path: &[u8], directory: bool) -> bool {
        self.0.is_ignored(path, directory)
    }
}

fn read(directory: BorrowedFd<'_>, name: &std::ffi::CStr) -> Option<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = fs::openat(directory, name, flags, Mode::empty()).ok()?;
    let stat = fs::fstat(&file).ok()?;
    if !FileType::from_raw_mode(stat.st_mode).is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    std::fs::File::from(file)
        .take(ignored::Rules::MAX_FILE_BYTES as u64)
        .read_to_end(&mut bytes)
        .ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_rule_decides() {
        let place = tempfile::tempdir().unwrap();
        std::fs::create_dir(place.path().join("a")).unwrap();
        std::fs::write(place.path().join(".gitignore"), "target/\n*.log\n/only-top\n").unwrap();
        std::fs::write(place.path().join("a/.gitignore"), "!keep.log\n").unwrap();
        let root = std::fs::File::open(place.path()).unwrap();
        let a = std::fs::File::open(place.path().join("a")).unwrap();
        let top = Rules::top(root.as_fd());
        let inner = top.enter(a.as_fd(), b"a");
        assert!(top.ignored_new(b"target", true));
        assert!(!top.ignored_new(b"target", false));
        assert!(top.ignored_new(b"only-top", false));
        assert!(!inner.ignored_new(b"a/only-top", false));
        assert!(inner.ignored_new(b"a/x.log", false));
        assert!(!inner.ignored_new(b"a/keep.log", false));
        assert!(inner.ignored_new(b"a/target", true));
    }
}
