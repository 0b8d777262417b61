//! Which new paths git ignores, and so stay in the container.
//!
//! The `.gitignore` files are those of the tree as it is now, read without following links; a file
//! that cannot be read as one has no rules.

use std::ffi::{CStr, CString};
use std::io::Read;
use std::sync::Arc;

use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::{self, FileType, Mode, OFlags};

use super::places;
use crate::ignored::{self, Above};

/// The rules in force in one directory: its own, then those of the directories above it.
#[derive(Clone, Debug, Default)]
pub(super) struct Rules {
    rules: ignored::Rules,
    /// Only its place is asked for here; its rules are in `rules`.
    above: Arc<Above>,
}

impl Rules {
    /// The rules at the top of the workspace: what came along from above it, or
    /// `.git/info/exclude`, below all others.
    pub(super) fn top(root: BorrowedFd<'_>, above: &Above) -> Self {
        let exclude = || {
            let git = fs::openat(root, c".git", places::DIRECTORY, Mode::empty()).ok()?;
            let info = fs::openat(&git, c"info", places::DIRECTORY, Mode::empty()).ok()?;
            read(info.as_fd(), c"exclude")
        };
        let top = above.rules().enter(b"", exclude().as_deref());
        Self { rules: top, above: Arc::new(above.clone()) }.enter(root, b"")
    }

    /// The rules in a directory whose path in the workspace is `path`.
    pub(super) fn enter(&self, directory: BorrowedFd<'_>, path: &[u8]) -> Self {
        let own = read(directory, c".gitignore");
        let rules = self.rules.enter(&self.above.inside(path), own.as_deref());
        Self { rules, above: Arc::clone(&self.above) }
    }

    /// Whether git ignores `path`, given that it does not ignore the directory that holds it.
    pub(super) fn ignored_new(&self, path: &[u8], directory: bool) -> bool {
        self.rules.is_ignored(&self.above.inside(path), directory)
    }

    /// Whether the directory `name` in `parent`, whose path is `path`, says itself that it is not to
    /// be kept: by a `CACHEDIR.TAG`, or by a `.gitignore` that ignores all of it (virtual
    /// environments and caches of tests do that). One that cannot be read says nothing.
    pub(super) fn says_so_itself(&self, parent: BorrowedFd<'_>, name: &CStr, path: &[u8]) -> bool {
        let Ok(directory) = fs::openat(parent, name, places::DIRECTORY, Mode::empty()) else {
            return false;
        };
        is_cache(directory.as_fd()) || self.ignores_itself(directory.as_fd(), path)
    }

    fn ignores_itself(&self, directory: BorrowedFd<'_>, path: &[u8]) -> bool {
        let Some(patterns) = read(directory, c".gitignore") else { return false };
        let path = self.above.inside(path);
        let inner = self.rules.enter(&path, Some(&patterns));
        let Ok(names) = places::names(directory) else { return false };
        names.iter().all(|name| {
            let path = [&path[..], b"/", name.as_bytes()].concat();
            // A repository of its own is another matter.
            name.as_c_str() != c".git"
                && inner.is_ignored(&path, false)
                && inner.is_ignored(&path, true)
        })
    }
}

/// Whether a directory has a valid `CACHEDIR.TAG`.
fn is_cache(directory: BorrowedFd<'_>) -> bool {
    let Ok(name) = CString::new(ignored::CACHE_TAG) else { return false };
    let length = ignored::CACHE_SIGNATURE.len() as u64;
    read_first(directory, &name, length).is_some_and(|begin| begin == ignored::CACHE_SIGNATURE)
}

fn read(directory: BorrowedFd<'_>, name: &CStr) -> Option<Vec<u8>> {
    read_first(directory, name, ignored::Rules::MAX_FILE_BYTES as u64)
}

/// The first bytes of a regular file.
fn read_first(directory: BorrowedFd<'_>, name: &CStr, limit: u64) -> Option<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = fs::openat(directory, name, flags, Mode::empty()).ok()?;
    let stat = fs::fstat(&file).ok()?;
    if !FileType::from_raw_mode(stat.st_mode).is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    std::fs::File::from(file).take(limit).read_to_end(&mut bytes).ok()?;
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
        let top = Rules::top(root.as_fd(), &Above::default());
        let inner = top.enter(a.as_fd(), b"a");
        assert!(top.ignored_new(b"target", true));
        assert!(!top.ignored_new(b"target", false));
        assert!(top.ignored_new(b"only-top", false));
        assert!(!inner.ignored_new(b"a/only-top", false));
        assert!(inner.ignored_new(b"a/x.log", false));
        assert!(!inner.ignored_new(b"a/keep.log", false));
        assert!(inner.ignored_new(b"a/target", true));
    }

    #[test]
    fn caches_and_directories_that_ignore_themselves_say_so() {
        let place = tempfile::tempdir().unwrap();
        let with = |name: &str, file: &str, text: &str| {
            std::fs::create_dir_all(place.path().join(name)).unwrap();
            std::fs::write(place.path().join(name).join(file), text).unwrap();
        };
        let tag = "Signature: 8a477f597d28d172789f06886806bc55\n# a cache\n";
        with("cache", "CACHEDIR.TAG", tag);
        with("no-cache", "CACHEDIR.TAG", &tag[..20]);
        std::os::unix::fs::symlink("../cache", place.path().join("link")).unwrap();
        with("linked", "x", "");
        std::os::unix::fs::symlink(
            "../cache/CACHEDIR.TAG",
            place.path().join("linked/CACHEDIR.TAG"),
        )
        .unwrap();
        with("venv", ".gitignore", "*\n");
        with("venv", "bin", "");
        with("partly", ".gitignore", "*\n!keep\n");
        with("partly", "keep", "");
        with("repository", ".gitignore", "*\n");
        with("repository", ".git", "");
        let root = std::fs::File::open(place.path()).unwrap();
        let rules = Rules::top(root.as_fd(), &Above::default());
        let told: Vec<&str> =
            ["cache", "no-cache", "link", "linked", "venv", "partly", "repository", "none"]
                .into_iter()
                .filter(|name| {
                    let path = CString::new(*name).unwrap();
                    rules.says_so_itself(root.as_fd(), &path, name.as_bytes())
                })
                .collect();
        assert_eq!(told, ["cache", "venv"]);
    }
}
