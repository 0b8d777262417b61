//! Whether HEAD or a reference of the `.git` that was put is not as it was put.
//!
//! It is a hint that saves work: what the host then takes from the repository it checks itself, so
//! a tree that deceives this function only keeps its own commits to itself, or is looked at for
//! nothing.

use std::ffi::CStr;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{self, AtFlags, Mode};

use super::super::manifest::{self, Manifest, Time, Verdict};
use super::{hash_of, places};

/// Nodes below `refs` that are looked at; a tree with more of them has changed.
const MOST: usize = 100_000;

/// Directories within each other below `refs`.
const DEEPEST: usize = 64;

/// Looks at `.git/HEAD`, `.git/packed-refs` and everything in `.git/refs`. What cannot be read has
/// changed.
pub(super) fn changed(
    root: BorrowedFd<'_>,
    manifest: &Manifest,
    certified_before: Option<Time>,
) -> bool {
    if manifest.find(b".git/HEAD").is_none() {
        return false;
    }
    let Ok(top) = fs::openat(root, c".git", places::DIRECTORY, Mode::empty()) else { return true };
    let mut look = Look { manifest, certified_before, seen: 0 };
    let files = [c"HEAD", c"packed-refs"];
    if files.iter().any(|name| look.differs(top.as_fd(), name, b".git").is_none()) {
        return true;
    }
    let Ok(refs) = fs::openat(&top, c"refs", places::DIRECTORY, Mode::empty()) else { return true };
    if look.directory(refs, b".git/refs", DEEPEST).is_none() {
        return true;
    }
    // One that was put and is gone was not seen.
    let put = (0..manifest.len()).filter(|index| {
        manifest.path(*index).starts_with(b".git/refs/")
            && manifest.get(*index).is_some_and(|entry| entry.kind != manifest::Kind::Directory)
    });
    put.count() != look.seen
}

struct Look<'a> {
    manifest: &'a Manifest,
    certified_before: Option<Time>,
    /// Files and links below `refs` that are as they were put.
    seen: usize,
}

impl Look<'_> {
    /// `None` as soon as something is not as it was put.
    fn directory(&mut self, directory: OwnedFd, path: &[u8], deeper: usize) -> Option<()> {
        let names = places::names(directory.as_fd()).ok()?;
        for name in names {
            let stat = fs::statat(&directory, &name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
            // A directory without a reference in it is nothing.
            if places::is_directory(&stat) {
                let inner = fs::openat(&directory, &name, places::DIRECTORY, Mode::empty()).ok()?;
                let path = [path, b"/", name.as_bytes()].concat();
                self.directory(inner, &path, deeper.checked_sub(1)?)?;
                continue;
            }
            self.differs(directory.as_fd(), &name, path)?;
            self.seen += 1;
            if self.seen > MOST {
                return None;
            }
        }
        Some(())
    }

    /// `None` if the node is not as it was put.
    fn differs(&self, parent: BorrowedFd<'_>, name: &CStr, above: &[u8]) -> Option<()> {
        let path = [above, b"/", name.to_bytes()].concat();
        let stat = fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW);
        let entry = self.manifest.find(&path).and_then(|index| self.manifest.get(index));
        let (Ok(stat), Some(entry)) = (&stat, entry) else {
            return (stat.is_err() && entry.is_none()).then_some(());
        };
        match manifest::compare(entry, stat, self.certified_before) {
            Verdict::Same => Some(()),
            Verdict::Changed => None,
            Verdict::Compare => {
                let mut buffer = vec![0; 64 << 10];
                let hash = hash_of(parent, name, stat, &mut buffer).ok()?;
                (entry.hash.as_deref() == Some(&hash)).then_some(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::super::super::put;
    use super::*;

    /// Puts a small `.git`, lets `change` change it, and looks.
    fn after(change: impl FnOnce(&Path)) -> bool {
        let place = tempfile::tempdir().unwrap();
        let mut tar = tar::Builder::new(Vec::new());
        for path in [".git/HEAD", ".git/packed-refs", ".git/refs/remotes/o/HEAD", ".git/index"] {
            let mut header = tar::Header::new_gnu();
            header.set_size(3);
            header.set_mode(0o644);
            tar.append_data(&mut header, path, &b"old"[..]).unwrap();
        }
        let tar = tar.into_inner().unwrap();
        let root = File::open(place.path()).unwrap();
        let manifest = put::write(root.as_fd(), &mut &tar[..], true, Manifest::default(), None)
            .unwrap()
            .manifest;
        change(&place.path().join(".git"));
        changed(root.as_fd(), &manifest, None)
    }

    #[test]
    fn what_is_no_reference_is_no_change() {
        assert!(!after(|_| {}));
        assert!(!after(|git| {
            std::fs::write(git.join("index"), "new").unwrap();
            std::fs::write(git.join("HEAD"), "old").unwrap();
            std::fs::create_dir_all(git.join("refs/heads")).unwrap();
            std::fs::create_dir_all(git.join("objects/aa")).unwrap();
        }));
    }

    #[test]
    fn head_and_every_reference_count() {
        assert!(after(|git| std::fs::write(git.join("HEAD"), "new").unwrap()));
        assert!(after(|git| std::fs::remove_file(git.join("packed-refs")).unwrap()));
        assert!(after(|git| std::fs::remove_file(git.join("refs/remotes/o/HEAD")).unwrap()));
        assert!(after(|git| std::fs::write(git.join("refs/stash"), "new").unwrap()));
        assert!(after(|git| {
            std::fs::create_dir_all(git.join("refs/heads/a")).unwrap();
            std::fs::write(git.join("refs/heads/a/b"), "new").unwrap();
        }));
    }

    #[test]
    fn a_tree_that_is_none_any_more_has_changed() {
        assert!(after(|git| {
            std::fs::rename(git, git.with_file_name("moved")).unwrap();
            symlink("moved", git).unwrap();
        }));
        assert!(after(|git| {
            std::fs::create_dir_all(git.join("refs/".to_owned() + &"d/".repeat(100))).unwrap();
        }));
        assert!(after(|git| {
            std::fs::remove_dir_all(git.join("refs")).unwrap();
            symlink("/", git.join("refs")).unwrap();
        }));
    }
}
