//! The references of an ordinary repository, read without starting git: its process would be most of
//! the time that sending a small workspace takes. Whatever is out of the ordinary is left to git.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{Dir, FileType};

use super::super::beneath;

/// More loose references than this are left to git.
const MAX_LOOSE: usize = 10_000;

/// The deepest name below `refs/` that is followed.
const DEEPEST: usize = 32;

/// How many references may point to each other; git's own limit.
const SYMREF_DEPTH: usize = 5;

/// Bytes of one loose reference, and of `packed-refs`.
const LOOSE_BYTES: u64 = 4096;
const PACKED_BYTES: u64 = 256 << 20;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Target {
    /// Name of an object.
    Object(Vec<u8>),
    /// Name of another reference.
    Reference(Vec<u8>),
}

/// What `for-each-ref` says in the form of [`REF_FORMAT`](super::made::REF_FORMAT), from the open
/// `.git`; `None` if git itself has to be asked.
pub(super) fn listing(git: BorrowedFd<'_>) -> Option<Vec<u8>> {
    let mut refs = BTreeMap::new();
    packed(git, &mut refs)?;
    let mut left = MAX_LOOSE;
    loose(git, b"refs", &mut refs, &mut left, DEEPEST)?;
    let mut listing = Vec::new();
    for (name, target) in &refs {
        let (object, reference): (_, &[u8]) = match target {
            Target::Object(object) => (object, b""),
            Target::Reference(other) => match resolve(&refs, other) {
                Some(object) => (object, other),
                // It points to nothing; git passes over it too.
                None => continue,
            },
        };
        for part in [object, &b" "[..], reference, b" ", name, b"\n"] {
            listing.extend_from_slice(part);
        }
    }
    Some(listing)
}

fn resolve<'a>(refs: &'a BTreeMap<Vec<u8>, Target>, mut name: &'a [u8]) -> Option<&'a Vec<u8>> {
    for _ in 0..SYMREF_DEPTH {
        match refs.get(name)? {
            Target::Object(object) => return Some(object),
            Target::Reference(other) => name = other,
        }
    }
    None
}

fn packed(git: BorrowedFd<'_>, refs: &mut BTreeMap<Vec<u8>, Target>) -> Option<()> {
    let Some(bytes) = beneath::read_small(git, "packed-refs", PACKED_BYTES).ok()? else {
        return Some(());
    };
    for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        match line[0] {
            // A header, and the object that a tag stands for.
            b'#' | b'^' => continue,
            _ => {}
        }
        let at = line.iter().position(|byte| *byte == b' ')?;
        let (object, name) = (&line[..at], &line[at + 1..]);
        refs.insert(name.to_vec(), Target::Object(object_name(object)?));
    }
    Some(())
}

fn loose(
    git: BorrowedFd<'_>,
    path: &[u8],
    refs: &mut BTreeMap<Vec<u8>, Target>,
    left: &mut usize,
    depth: usize,
) -> Option<()> {
    let directory = beneath::directory(git, path).ok()?;
    for entry in Dir::read_from(&directory).ok()? {
        let entry = entry.ok()?;
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        *left = left.checked_sub(1)?;
        let below = [path, b"/", name].concat();
        match entry.file_type() {
            FileType::Directory => {
                loose(git, &below, refs, left, depth.checked_sub(1)?)?;
            }
            // A reference that is being written.
            FileType::RegularFile if name.ends_with(b".lock") => {}
            FileType::RegularFile => {
                let target = read(directory.as_fd(), entry.file_name())?;
                refs.insert(below, target);
            }
            _ => return None,
        }
    }
    Some(())
}

fn read(directory: BorrowedFd<'_>, name: &std::ffi::CStr) -> Option<Target> {
    let bytes = beneath::read_small(directory, name, LOOSE_BYTES).ok()??;
    let line = bytes.trim_ascii_end();
    match line.strip_prefix(b"ref: ") {
        Some(other) => Some(Target::Reference(other.trim_ascii().to_vec())),
        None => Some(Target::Object(object_name(line)?)),
    }
}

fn object_name(digits: &[u8]) -> Option<Vec<u8>> {
    let known = matches!(digits.len(), 40 | 64)
        && digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
        && digits.iter().any(|digit| *digit != b'0');
    known.then(|| digits.to_vec())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::process::Command;

    use super::super::super::git_command::git;
    use super::super::made::REF_FORMAT;
    use super::*;

    fn run(directory: &std::path::Path, command: &str) {
        let done = Command::new("sh").args(["-ec", command]).current_dir(directory).output();
        let done = done.unwrap();
        assert!(done.status.success(), "{command}: {}", String::from_utf8_lossy(&done.stderr));
    }

    fn both(directory: &std::path::Path) -> (Option<Vec<u8>>, Vec<u8>) {
        let root = File::open(directory).unwrap();
        let dot_git = File::open(directory.join(".git")).unwrap();
        let asked = git(root.as_fd(), &["for-each-ref", REF_FORMAT]).unwrap();
        (listing(dot_git.as_fd()), asked)
    }

    #[test]
    fn says_what_git_says() {
        let tree = tempfile::tempdir().unwrap();
        let identity = "git -c user.name=a -c user.email=a@localhost";
        run(tree.path(), "git init -q -b main .");
        let (ours, asked) = both(tree.path());
        assert_eq!(ours.unwrap(), asked, "no commit yet");
        run(
            tree.path(),
            &format!(
                "{identity} commit -q --allow-empty -m one; git branch old; git branch feature/x/y; \
                 {identity} tag -a -m t v1; git tag light; git pack-refs --all; \
                 {identity} commit -q --allow-empty -m two; git branch loose/one; \
                 git update-ref refs/remotes/origin/main HEAD; \
                 git symbolic-ref refs/remotes/origin/HEAD refs/remotes/origin/main; \
                 git symbolic-ref refs/heads/dangling refs/heads/nowhere; \
                 git update-ref -d refs/heads/old; git update-ref refs/notes/x HEAD; \
                 touch .git/refs/heads/main.lock"
            ),
        );
        let (ours, asked) = both(tree.path());
        assert_eq!(String::from_utf8(ours.unwrap()).unwrap(), String::from_utf8(asked).unwrap());
    }

    #[test]
    fn what_is_odd_is_left_to_git() {
        for plant in [
            "ln -s main .git/refs/heads/link",
            "echo nonsense > .git/refs/heads/odd",
            "echo 'not a line' > .git/packed-refs",
            "mkfifo .git/refs/heads/pipe",
        ] {
            let tree = tempfile::tempdir().unwrap();
            run(tree.path(), "git init -q -b main .");
            run(tree.path(), plant);
            let dot_git = File::open(tree.path().join(".git")).unwrap();
            assert_eq!(listing(dot_git.as_fd()), None, "{plant}");
        }
    }
}
