//! Large files (git LFS): what a commit made in the container says of them, and their contents in
//! the host's repository.
//!
//! In a commit such a file is a pointer: three lines with the SHA-256 of its contents. The contents
//! lie beside git's objects, in `.git/lfs/objects`, where `git push` looks for them. They need not
//! come home twice: once the files are applied, the file of the workspace is what the pointer of
//! the last commit means, and is put into the store from there.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, fstat, openat, statat};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use super::super::hex::{from_hex, to_hex};
use super::super::{Workspace, beneath};
use super::command::git;
use super::config::GitConfig;
use super::place::Place;
use crate::path::RelPath;

/// The longest pointer; git LFS takes nothing longer for one.
pub const POINTER_BYTES: usize = 1024;

/// Bytes that are read at once.
const CHUNK: usize = 256 << 10;

/// How directories of the store are opened; the store itself may be reached through a link.
const STORE: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// What stands in a commit for a large file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pointer {
    /// SHA-256 of the contents.
    pub oid: [u8; 32],
    /// Their bytes.
    pub size: u64,
}

impl Pointer {
    /// Reads a blob; `None` if it is no pointer.
    pub fn parse(blob: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(blob).ok().filter(|text| text.len() <= POINTER_BYTES)?;
        let mut lines = text.lines();
        if lines.next()? != "version https://git-lfs.github.com/spec/v1" {
            return None;
        }
        let (mut oid, mut size) = (None, None);
        for line in lines {
            match line.split_once(' ')? {
                ("oid", value) => oid = from_hex(value.strip_prefix("sha256:")?)?.try_into().ok(),
                ("size", value) => size = value.parse().ok(),
                _ => {}
            }
        }
        Some(Self { oid: oid?, size: size? })
    }

    /// Whether the bytes from here to the end of `file` are what the pointer means. Blocking, in
    /// constant memory.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub fn means(&self, file: &mut impl Read) -> io::Result<bool> {
        self.copy(file, &mut io::sink())
    }

    /// Copies contents; `false` if they are not those of the pointer.
    fn copy(&self, from: &mut impl Read, to: &mut impl Write) -> io::Result<bool> {
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; CHUNK];
        let mut size = 0;
        loop {
            let count = match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            size += count as u64;
            if size > self.size {
                return Ok(false);
            }
            hasher.update(&buffer[..count]);
            to.write_all(&buffer[..count])?;
        }
        Ok(size == self.size && hasher.finalize()[..] == self.oid)
    }

    /// The name of the contents in a store.
    pub(super) fn name(&self) -> String {
        to_hex(&self.oid)
    }
}

/// Why contents could not be put into the store.
#[derive(Debug, thiserror::Error)]
pub enum LfsError {
    /// There is no repository of this workspace, in words that follow "because".
    #[error("large files were not put into the repository's LFS store, because {0}")]
    NoRepository(String),
    /// The store cannot be written.
    #[error("large files could not be put into the repository's LFS store ({0})")]
    Store(#[from] io::Error),
}

/// The contents of large files in a workspace's repository.
#[derive(Debug)]
pub struct LfsStore {
    /// `.git/lfs`, unless `lfs.storage` says otherwise.
    directory: OwnedFd,
}

impl LfsStore {
    /// Opens the store of the workspace's repository; made if there is none. Blocking; runs git
    /// once, to ask whether the store is elsewhere.
    ///
    /// # Errors
    ///
    /// When the workspace has no repository of its own, or the store cannot be made.
    pub fn open(workspace: &Workspace) -> Result<Self, LfsError> {
        let root = workspace.root.as_fd();
        let place = Place::find(root).map_err(LfsError::NoRepository)?;
        let config = git(root, &["config", "-z", "--list"])
            .map_err(|error| LfsError::NoRepository(error.to_string()))?;
        let config = GitConfig::parse(&config);
        place.is_of(root, &config).map_err(LfsError::NoRepository)?;
        let directory = match config.lfs_storage() {
            None => made(place.common(), "lfs")?,
            // The user's own choice, links and all.
            Some(path) => {
                openat(place.common(), path, STORE, Mode::empty()).map_err(io::Error::from)?
            }
        };
        Ok(Self { directory })
    }

    /// Whether the contents of a pointer are in the store.
    pub fn has(&self, pointer: &Pointer) -> bool {
        let name = pointer.name();
        let folder = format!("objects/{}/{}", &name[..2], &name[2..4]);
        beneath::directory(self.directory.as_fd(), folder.as_bytes())
            .is_ok_and(|folder| is_there(folder.as_fd(), &name, pointer.size))
    }

    /// Puts the contents of a pointer into the store, if `from` has them; `false` if it has others,
    /// and the store is then as it was. What is there already is never replaced. Blocking, in
    /// constant memory; the bytes are on the disk when this returns.
    ///
    /// # Errors
    ///
    /// When `from` cannot be read or the store cannot be written.
    pub fn add(&self, pointer: &Pointer, from: &mut impl Read) -> io::Result<bool> {
        if self.has(pointer) {
            return Ok(true);
        }
        let name = pointer.name();
        let above = made(made(self.directory.as_fd(), "objects")?.as_fd(), &name[..2])?;
        let target = made(above.as_fd(), &name[2..4])?;
        let temporary = made(self.directory.as_fd(), "tmp")?;
        let draft = format!("codex-{}", uuid::Uuid::new_v4().simple());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mut file = File::from(openat(&temporary, &*draft, flags, Mode::from(0o666))?);
        let result = pointer.copy(from, &mut file).and_then(|is_it| {
            if is_it {
                file.sync_all()?;
                place(temporary.as_fd(), &draft, target.as_fd(), &name)?;
            }
            Ok(is_it)
        });
        // It is gone if it was renamed.
        let _ = rustix::fs::unlinkat(&temporary, &*draft, AtFlags::empty());
        result
    }

    /// Puts the contents of pointers into the store from the files of the workspace, which are
    /// those of the commit once it was applied. Gives the paths of those that the store then lacks,
    /// because the file is another one by now or is not there. Blocking.
    ///
    /// # Errors
    ///
    /// When the store cannot be written, or a file cannot be read.
    pub fn add_files<'a>(
        &self,
        workspace: &Workspace,
        pointers: impl IntoIterator<Item = (&'a RelPath, Pointer)>,
    ) -> io::Result<Vec<RelPath>> {
        let mut lacking = Vec::new();
        for (path, pointer) in pointers {
            let has = self.has(&pointer)
                || match open_file(workspace, path, pointer.size)? {
                    Some(mut file) => self.add(&pointer, &mut file)?,
                    None => false,
                };
            if !has {
                lacking.push(path.clone());
            }
        }
        Ok(lacking)
    }
}

/// Opens the regular file at `path` if it has `size` bytes.
pub(in crate::workspace) fn open_file(
    workspace: &Workspace,
    path: &RelPath,
    size: u64,
) -> io::Result<Option<File>> {
    let (parent, name) = beneath::split(path.as_bytes());
    let opened = beneath::directory(workspace.root.as_fd(), parent)
        .and_then(|parent| Ok(openat(parent, name, beneath::FILE, Mode::empty())?));
    let file = match opened {
        Ok(file) => File::from(file),
        Err(error) if super::super::select::is_gone(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    let stat = fstat(&file)?;
    let wanted =
        FileType::from_raw_mode(stat.st_mode).is_file() && stat.st_size.unsigned_abs() == size;
    Ok(wanted.then_some(file))
}

/// The directory `name` in `above`, made if it is not there.
fn made(above: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    match rustix::fs::mkdirat(above, name, Mode::from(0o777)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(openat(above, name, beneath::DIRECTORY, Mode::empty())?)
}

fn is_there(directory: BorrowedFd<'_>, name: &str, size: u64) -> bool {
    statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|found| {
        FileType::from_raw_mode(found.st_mode).is_file() && found.st_size.unsigned_abs() == size
    })
}

/// Gives the finished `draft` its name; one that is there stays.
fn place(from: BorrowedFd<'_>, draft: &str, to: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    let renamed = match rustix::fs::renameat_with(from, draft, to, name, RenameFlags::NOREPLACE) {
        // The file system knows no such rename.
        Err(Errno::INVAL | Errno::NOSYS) => {
            rustix::fs::linkat(from, draft, to, name, AtFlags::empty())
        }
        other => other,
    };
    match renamed {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use super::super::super::root::open_unchecked;
    use super::*;

    const CONTENTS: &[u8] = b"large\n";
    const NAME: &str = "10f0f7d30a0c79943ee4a8c5d0eb4c9b29c0d3ac5a3ac1c7cdca3e1bd9dfd3d4";

    fn pointer_of(contents: &[u8]) -> Pointer {
        let oid = Sha256::digest(contents).into();
        Pointer { oid, size: contents.len() as u64 }
    }

    fn repository() -> tempfile::TempDir {
        let tree = tempfile::tempdir().unwrap();
        git(tree.path(), &["init", "-q"]);
        tree
    }

    fn git(tree: &Path, arguments: &[&str]) {
        let status = Command::new("git").current_dir(tree).args(arguments).status().unwrap();
        assert!(status.success(), "{arguments:?}");
    }

    fn object(store: &Path, pointer: &Pointer) -> std::path::PathBuf {
        let name = pointer.name();
        store.join("objects").join(&name[..2]).join(&name[2..4]).join(name)
    }

    #[test]
    fn a_pointer_is_read_and_nothing_else_is_taken_for_one() {
        let text = format!(
            "version https://git-lfs.github.com/spec/v1\next-0-x sha256:1\noid sha256:{NAME}\nsize 6\n"
        );
        let pointer = Pointer::parse(text.as_bytes()).unwrap();
        assert_eq!((pointer.name().as_str(), pointer.size), (NAME, 6));
        for wrong in [
            text.replace("v1", "v2"),
            text.replace("size 6", "size -6"),
            text.replace("sha256:10", "sha256:1g"),
            text.replace("sha256:10", "sha256:1"),
            text.replace("sha256:10", "sha256:100"),
            text.replace("sha256:10", "sha256:+0"),
            text.replace("sha256:10f0", "sha256:10F0"),
            text.replace("oid", "id"),
            text.clone() + &"x y\n".repeat(300),
            String::new(),
        ] {
            assert_eq!(Pointer::parse(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn files_that_are_what_their_pointer_means_are_put_into_the_store() {
        let tree = repository();
        let workspace = open_unchecked(tree.path()).unwrap();
        std::fs::create_dir(tree.path().join("sub")).unwrap();
        std::fs::write(tree.path().join("sub/same"), CONTENTS).unwrap();
        std::fs::write(tree.path().join("other"), b"edited").unwrap();
        std::fs::write(tree.path().join("longer"), b"longer than that").unwrap();
        std::os::unix::fs::symlink("sub/same", tree.path().join("link")).unwrap();
        let pointer = pointer_of(CONTENTS);
        let paths = ["other", "longer", "link", "missing", "sub/same"]
            .map(|path| RelPath::new(path.as_bytes()).unwrap());
        let store = LfsStore::open(&workspace).unwrap();
        let pointers = || paths.iter().map(|path| (path, pointer));
        let lacking = store.add_files(&workspace, pointers()).unwrap();
        assert_eq!(lacking, paths[..4]);
        let file = object(&tree.path().join(".git/lfs"), &pointer);
        assert_eq!(std::fs::read(&file).unwrap(), CONTENTS);
        assert_eq!(std::fs::read_dir(tree.path().join(".git/lfs/tmp")).unwrap().count(), 0);
        // What is there is what the name says, and is not written again.
        let before = std::fs::metadata(&file).unwrap().modified().unwrap();
        assert!(store.add_files(&workspace, pointers()).unwrap().is_empty());
        assert_eq!(std::fs::metadata(&file).unwrap().modified().unwrap(), before);
    }

    #[test]
    fn contents_that_are_not_the_pointers_leave_the_store_as_it_was() {
        let tree = repository();
        let store = LfsStore::open(&open_unchecked(tree.path()).unwrap()).unwrap();
        let pointer = pointer_of(CONTENTS);
        for wrong in [&b""[..], b"large", b"large!", b"much larger"] {
            assert!(!store.add(&pointer, &mut &*wrong).unwrap());
            assert!(!pointer.means(&mut &*wrong).unwrap());
        }
        assert!(!object(&tree.path().join(".git/lfs"), &pointer).exists());
        assert_eq!(std::fs::read_dir(tree.path().join(".git/lfs/tmp")).unwrap().count(), 0);
        assert!(store.add(&pointer, &mut &*CONTENTS).unwrap());
    }

    #[test]
    fn the_store_of_a_worktree_is_that_of_its_repository_and_may_be_elsewhere() {
        let tree = repository();
        let identity = ["-c", "user.name=t", "-c", "user.email=t@t"];
        let commit = ["commit", "-q", "--allow-empty", "-m", "x"];
        git(tree.path(), &[&identity[..], &commit].concat());
        let other = tempfile::tempdir().unwrap();
        let path = other.path().join("tree");
        git(tree.path(), &["worktree", "add", "-q", path.to_str().unwrap()]);
        let workspace = open_unchecked(&path).unwrap();
        let pointer = pointer_of(CONTENTS);
        LfsStore::open(&workspace).unwrap().add(&pointer, &mut &*CONTENTS).unwrap();
        assert!(object(&tree.path().join(".git/lfs"), &pointer).exists());
        let elsewhere = other.path().join("store");
        std::fs::create_dir(&elsewhere).unwrap();
        git(&path, &["config", "lfs.storage", elsewhere.to_str().unwrap()]);
        LfsStore::open(&workspace).unwrap().add(&pointer, &mut &*CONTENTS).unwrap();
        assert!(object(&elsewhere, &pointer).exists());
    }

    #[test]
    fn links_in_the_store_are_not_followed() {
        let tree = repository();
        let other = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(other.path(), tree.path().join(".git/lfs")).unwrap();
        let workspace = open_unchecked(tree.path()).unwrap();
        assert!(matches!(LfsStore::open(&workspace), Err(LfsError::Store(_))));
        std::fs::remove_file(tree.path().join(".git/lfs")).unwrap();
        std::fs::create_dir(tree.path().join(".git/lfs")).unwrap();
        std::os::unix::fs::symlink(other.path(), tree.path().join(".git/lfs/objects")).unwrap();
        let store = LfsStore::open(&workspace).unwrap();
        assert!(store.add(&pointer_of(CONTENTS), &mut &*CONTENTS).is_err());
        assert_eq!(std::fs::read_dir(other.path()).unwrap().count(), 0);
        let none = tempfile::tempdir().unwrap();
        let none = open_unchecked(none.path()).unwrap();
        assert!(matches!(LfsStore::open(&none), Err(LfsError::NoRepository(_))));
    }
}
