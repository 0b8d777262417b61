//! Reading git's index: which paths are tracked, and whether the file may travel as it is.
//!
//! Read here and not by git, because it is on the way of every call and git takes longer to start
//! than this takes to read.

mod objects;
mod pieces;

use std::io::Read;

pub(in crate::workspace) use objects::named_objects;
use pieces::Pieces;

/// The tracked paths of an index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::workspace) struct Tracked {
    /// All paths, one after the other, in git's order, which is that of their bytes.
    bytes: Vec<u8>,
    /// Where each path ends in `bytes`.
    ends: Vec<usize>,
}

/// Why an index is not taken as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::workspace) enum Odd {
    /// No index, or damaged, or of a version not known here.
    Unreadable,
    /// Its entries are in another file (split index).
    Split,
    /// Directories stand in it for their files (sparse index).
    Sparse,
    /// It has another extension that must be understood.
    Extension,
}

/// Bytes of the fixed part before the hash.
const STAT_BYTES: usize = 40;

/// Where the mode is in it.
const MODE_AT: usize = 24;

/// A flag of an entry: it has two more bytes of flags.
const EXTENDED: u16 = 0x4000;

impl Tracked {
    /// Reads an index whose object names have `hash_len` bytes, a piece at a time: all of it would
    /// be as much memory as a third of the manifest. Gives also the BLAKE3 of its bytes.
    pub(in crate::workspace) fn read(
        index: impl Read,
        hash_len: usize,
    ) -> Result<(Self, [u8; 32]), Odd> {
        let mut index = Pieces::new(index);
        let (version, count) = index.parse(begin).ok_or(Odd::Unreadable)?;
        let mut tracked = Self::default();
        let mut name = Vec::new();
        for _ in 0..count {
            index
                .parse(|rest| take_entry(rest, version, hash_len, &mut name).map(|_| ()))
                .ok_or(Odd::Unreadable)?;
            // A conflict has up to three entries of one name.
            if tracked.last() != Some(&name) {
                tracked.push(&name);
            }
        }
        while index.has_more_than(hash_len) {
            let (signature, length) = index.parse(extension).ok_or(Odd::Unreadable)?;
            index.skip(length as usize).ok_or(Odd::Unreadable)?;
            match &signature {
                b"link" => return Err(Odd::Split),
                b"sdir" => return Err(Odd::Sparse),
                [b'A'..=b'Z', ..] => {}
                _ => return Err(Odd::Extension),
            }
        }
        tracked.bytes.shrink_to_fit();
        tracked.ends.shrink_to_fit();
        Ok((tracked, index.hash().ok_or(Odd::Unreadable)?))
    }

    /// From the output of `git ls-files -z`.
    pub(in crate::workspace) fn from_listing(listing: &[u8]) -> Self {
        let mut paths: Vec<&[u8]> =
            listing.split(|byte| *byte == 0).filter(|path| !path.is_empty()).collect();
        paths.sort_unstable();
        paths.dedup();
        let mut tracked = Self::default();
        for path in paths {
            tracked.push(path);
        }
        tracked
    }

    fn push(&mut self, path: &[u8]) {
        self.bytes.extend_from_slice(path);
        self.ends.push(self.bytes.len());
    }

    fn get(&self, at: usize) -> &[u8] {
        let start = if at == 0 { 0 } else { self.ends[at - 1] };
        &self.bytes[start..self.ends[at]]
    }

    fn last(&self) -> Option<&[u8]> {
        self.ends.len().checked_sub(1).map(|at| self.get(at))
    }

    /// Where `path` is or would be.
    fn find(&self, path: &[u8]) -> usize {
        let (mut low, mut high) = (0, self.ends.len());
        while low < high {
            let middle = low + (high - low) / 2;
            if self.get(middle) < path {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    /// Whether `path` is tracked.
    pub(in crate::workspace) fn contains(&self, path: &[u8]) -> bool {
        let at = self.find(path);
        at < self.ends.len() && self.get(at) == path
    }

    /// Whether something in the directory `path` (empty for the top) is tracked.
    pub(in crate::workspace) fn has_within(&self, path: &[u8]) -> bool {
        if path.is_empty() {
            return !self.ends.is_empty();
        }
        let inside = [path, b"/"].concat();
        let at = self.find(&inside);
        at < self.ends.len() && self.get(at).starts_with(&inside)
    }
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(count)?;
    *rest = left;
    Some(taken)
}

fn take_u32(rest: &mut &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(take(rest, 4)?.try_into().ok()?))
}

/// The version, and how many entries there are.
fn begin(rest: &mut &[u8]) -> Option<(u32, u32)> {
    (take(rest, 4)? == b"DIRC").then_some(())?;
    let version = take_u32(rest).filter(|version| (2..=4).contains(version))?;
    Some((version, take_u32(rest)?))
}

/// The name of an extension, and its length.
fn extension(rest: &mut &[u8]) -> Option<([u8; 4], u32)> {
    Some((take(rest, 4)?.try_into().ok()?, take_u32(rest)?))
}

/// What an entry says of its contents.
struct Entry<'a> {
    /// Kind and permissions, as git writes them.
    mode: u32,
    /// The name of its object.
    object: &'a [u8],
    /// The second flags, if there are any.
    extended: u16,
}

/// Reads one entry; `name` holds the name of the one before and then its own. Of an entry that is not
/// there whole nothing is taken, and `name` stays as it is.
fn take_entry<'a>(
    rest: &mut &'a [u8],
    version: u32,
    hash_len: usize,
    name: &mut Vec<u8>,
) -> Option<Entry<'a>> {
    let entry = *rest;
    let stat = take(rest, STAT_BYTES)?;
    let mode = u32::from_be_bytes(stat.get(MODE_AT..MODE_AT + 4)?.try_into().ok()?);
    let object = take(rest, hash_len)?;
    let mut take_u16 = || Some(u16::from_be_bytes(take(rest, 2)?.try_into().ok()?));
    let flags = take_u16()?;
    let extended = if version >= 3 && flags & EXTENDED != 0 { take_u16()? } else { 0 };
    let keep = if version == 4 { name.len().checked_sub(take_varint(rest)?)? } else { 0 };
    let length = rest.iter().position(|byte| *byte == 0)?;
    let more = take(rest, length)?;
    take(rest, 1)?;
    if version < 4 {
        // Padded with one to eight NULs to a multiple of eight.
        let used = entry.len() - rest.len();
        take(rest, used.next_multiple_of(8) - used)?;
    }
    name.truncate(keep);
    name.extend_from_slice(more);
    Some(Entry { mode, object, extended })
}

fn take_varint(rest: &mut &[u8]) -> Option<usize> {
    let mut byte = take(rest, 1)?[0];
    let mut value = usize::from(byte & 127);
    while byte & 128 != 0 {
        byte = take(rest, 1)?[0];
        value = value.checked_add(1)?.checked_mul(128)?.checked_add(usize::from(byte & 127))?;
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use super::*;

    fn parse(index: &[u8], hash_len: usize) -> Result<Tracked, Odd> {
        let (tracked, hash) = Tracked::read(index, hash_len)?;
        assert_eq!(hash, *blake3::hash(index).as_bytes());
        // However it comes.
        for size in [1, 7, 61] {
            let read = Tracked::read(Slowly { index, size }, hash_len);
            assert_eq!(read, Ok((tracked.clone(), hash)), "{size} bytes at once");
        }
        Ok(tracked)
    }

    struct Slowly<'a> {
        index: &'a [u8],
        size: usize,
    }

    impl Read for Slowly<'_> {
        fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
            let size = self.size.min(into.len());
            self.index.read(&mut into[..size])
        }
    }

    fn git(tree: &Path, arguments: &[&str]) -> Vec<u8> {
        let output = Command::new("git")
            .current_dir(tree)
            .args(["-c", "user.name=t", "-c", "user.email=t@t"])
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        output.stdout
    }

    fn repository() -> tempfile::TempDir {
        let tree = tempfile::tempdir().unwrap();
        git(tree.path(), &["init", "-q"]);
        for path in ["a", "dir/b", "dir/c/long-name-of-a-file", "dir-x/y", "z\n"] {
            std::fs::create_dir_all(tree.path().join(path).parent().unwrap()).unwrap();
            std::fs::write(tree.path().join(path), path).unwrap();
        }
        git(tree.path(), &["add", "."]);
        tree
    }

    #[test]
    fn every_version_has_the_paths_that_git_lists() {
        let tree = repository();
        let listed = Tracked::from_listing(&git(tree.path(), &["ls-files", "-z"]));
        for version in ["2", "4"] {
            git(tree.path(), &["update-index", "--index-version", version]);
            let index = std::fs::read(tree.path().join(".git/index")).unwrap();
            assert_eq!(parse(&index, 20), Ok(listed.clone()), "version {version}");
        }
        git(tree.path(), &["update-index", "--index-version", "2"]);
        git(tree.path(), &["update-index", "--skip-worktree", "a"]);
        let index = std::fs::read(tree.path().join(".git/index")).unwrap();
        assert_eq!(index[7], 3);
        assert_eq!(parse(&index, 20), Ok(listed.clone()));
        assert!(listed.contains(b"dir/b") && !listed.contains(b"dir"));
        assert!(listed.has_within(b"dir") && listed.has_within(b"") && !listed.has_within(b"di"));
    }

    #[test]
    fn a_split_index_is_told_apart() {
        let tree = repository();
        git(tree.path(), &["update-index", "--split-index"]);
        let index = std::fs::read(tree.path().join(".git/index")).unwrap();
        assert_eq!(parse(&index, 20), Err(Odd::Split));
    }

    #[test]
    fn a_damaged_index_is_refused_and_never_panics() {
        let tree = repository();
        let index = std::fs::read(tree.path().join(".git/index")).unwrap();
        for cut in 0..index.len() - 20 {
            let _ = parse(&index[..cut], 20);
        }
        assert_eq!(parse(b"", 20), Err(Odd::Unreadable));
        assert_eq!(parse(b"DIRC\0\0\0\x09\0\0\0\0", 20), Err(Odd::Unreadable));
    }
}
