//! Which new paths git ignores, and so stay in the container.
//!
//! The `.gitignore` files are those of the tree as it is now, read without following links; a file
//! that cannot be read as one has no rules.

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;

use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::{self, FileType, Mode, OFlags};

use super::places;

/// The longest file of rules that is read, in bytes.
const LONGEST: u64 = 1 << 20;

/// The rules in force in one directory: its own, then those of the directories above it.
#[derive(Clone, Debug, Default)]
pub(super) struct Rules {
    own: Option<Rc<Own>>,
}

#[derive(Debug)]
struct Own {
    /// Length of the path of the directory that the rules are in, with its `/`.
    prefix: usize,
    rules: Gitignore,
    above: Option<Rc<Own>>,
}

impl Rules {
    /// The rules at the top of the workspace, `.git/info/exclude` below all others.
    pub(super) fn top(root: BorrowedFd<'_>) -> Self {
        let exclude = || {
            let git = fs::openat(root, c".git", places::DIRECTORY, Mode::empty()).ok()?;
            let info = fs::openat(&git, c"info", places::DIRECTORY, Mode::empty()).ok()?;
            read(info.as_fd(), c"exclude")
        };
        Self::default().with(exclude(), 0).enter(root, b"")
    }

    /// The rules in a directory whose path in the workspace is `path`.
    pub(super) fn enter(&self, directory: BorrowedFd<'_>, path: &[u8]) -> Self {
        let prefix = if path.is_empty() { 0 } else { path.len() + 1 };
        self.clone().with(read(directory, c".gitignore"), prefix)
    }

    fn with(self, text: Option<String>, prefix: usize) -> Self {
        let Some(text) = text else { return self };
        let mut builder = GitignoreBuilder::new("");
        for line in text.lines() {
            // A pattern that cannot be read matches nothing, as in git.
            let _ = builder.add_line(None, line);
        }
        match builder.build() {
            Ok(rules) if !rules.is_empty() => {
                Self { own: Some(Rc::new(Own { prefix, rules, above: self.own })) }
            }
            _ => self,
        }
    }

    /// Whether git ignores `path`, given that it does not ignore the directory that holds it.
    pub(super) fn ignored_new(&self, path: &[u8], directory: bool) -> bool {
        let mut rules = self.own.as_deref();
        while let Some(own) = rules {
            let below = Path::new(OsStr::from_bytes(path.get(own.prefix..).unwrap_or(path)));
            match own.rules.matched(below, directory) {
                Match::Ignore(_) => return true,
                Match::Whitelist(_) => return false,
                Match::None => rules = own.above.as_deref(),
            }
        }
        false
    }
}

fn read(directory: BorrowedFd<'_>, name: &std::ffi::CStr) -> Option<String> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = fs::openat(directory, name, flags, Mode::empty()).ok()?;
    let stat = fs::fstat(&file).ok()?;
    if !FileType::from_raw_mode(stat.st_mode).is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    std::fs::File::from(file).take(LONGEST).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
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
