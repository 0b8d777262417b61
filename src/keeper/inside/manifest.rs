//! What was put, as `collect` compares it.

use rustix::fs::{FileType, Stat};

use crate::ignored::Above;

/// A time of the kernel's: seconds and nanoseconds.
pub(super) type Time = (i64, u32);

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Directory,
    Link,
}

/// One node that was put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) kind: Kind,
    pub(super) mode: u16,
    pub(super) inode: u64,
    pub(super) size: u64,
    pub(super) ctime: Time,
    /// Of a file's contents or a link's target, where inode and ctime cannot be relied on.
    pub(super) hash: Option<Box<[u8; 32]>>,
}

/// How a node relates to what was put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Certainly the same.
    Same,
    /// Not certainly the same, and there is nothing to compare it with: it travels.
    Changed,
    /// The contents decide, by [`Entry::hash`].
    Compare,
}

/// Everything that was put, in the order of its paths.
#[derive(Debug, Default)]
pub(super) struct Manifest {
    paths: Vec<Box<[u8]>>,
    entries: Vec<Entry>,
    /// What came along of the rules above the tree.
    pub(super) above: Above,
}

impl Manifest {
    pub(super) fn new(mut nodes: Vec<(Box<[u8]>, Entry)>) -> Self {
        nodes.sort_unstable_by(|one, other| one.0.cmp(&other.0));
        let (paths, entries) = nodes.into_iter().unzip();
        Self { paths, entries, above: Above::default() }
    }

    pub(super) fn len(&self) -> usize {
        self.paths.len()
    }

    /// The place of a path in the order.
    pub(super) fn find(&self, path: &[u8]) -> Option<usize> {
        self.paths.binary_search_by(|have| have.as_ref().cmp(path)).ok()
    }

    pub(super) fn get(&self, index: usize) -> Option<&Entry> {
        self.entries.get(index)
    }

    pub(super) fn path(&self, index: usize) -> &[u8] {
        self.paths.get(index).map_or(&[], |path| path)
    }

    /// The newest ctime of what has no hash: once the coarse clock has passed it, every later
    /// change has another ctime. What has a hash needs no such clock, since it is compared by its
    /// contents where the ctime proves nothing.
    pub(super) fn newest_unhashed(&self) -> Time {
        let unhashed = self.entries.iter().filter(|entry| entry.hash.is_none());
        unhashed.map(|entry| entry.ctime).max().unwrap_or((0, 0))
    }
}

/// Compares a node with what was put. `certified_before` is the coarse clock when the first
/// program was about to start, if the file system is one whose ctime and inode can be relied on: a
/// node whose ctime is older than that and did not move was not touched.
///
/// Of a directory only its kind and mode count; what is in it is compared by itself.
pub(super) fn compare(entry: &Entry, stat: &Stat, certified_before: Option<Time>) -> Verdict {
    let Some(kind) = kind(stat) else { return Verdict::Changed };
    let same_mode = stat.st_mode & 0o7777 == u32::from(entry.mode);
    if kind != entry.kind || (kind != Kind::Link && !same_mode) {
        return Verdict::Changed;
    }
    if kind == Kind::Directory {
        return Verdict::Same;
    }
    let same_size = u64::try_from(stat.st_size).is_ok_and(|size| size == entry.size);
    if !same_size {
        return Verdict::Changed;
    }
    let untouched = stat.st_ino == entry.inode && ctime(stat) == entry.ctime;
    if untouched && certified_before.is_some_and(|clock| entry.ctime < clock) {
        return Verdict::Same;
    }
    if entry.hash.is_some() { Verdict::Compare } else { Verdict::Changed }
}

/// The kind of a node; `None` for one that cannot have been put.
pub(super) fn kind(stat: &Stat) -> Option<Kind> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Some(Kind::File),
        FileType::Directory => Some(Kind::Directory),
        FileType::Symlink => Some(Kind::Link),
        _ => None,
    }
}

/// The time of a node's last change.
pub(super) fn ctime(stat: &Stat) -> Time {
    (stat.st_ctime, stat.st_ctime_nsec as u32)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stat(kind: u32, mode: u32, inode: u64, size: u64, ctime: Time) -> Stat {
        let mut stat = rustix::fs::stat("/").unwrap();
        stat.st_mode = kind | mode;
        stat.st_ino = inode;
        stat.st_size = size as i64;
        stat.st_ctime = ctime.0;
        stat.st_ctime_nsec = u64::from(ctime.1) as _;
        stat
    }

    fn entry() -> Entry {
        Entry { kind: Kind::File, mode: 0o644, inode: 7, size: 3, ctime: (10, 0), hash: None }
    }

    proptest! {
        #[test]
        fn same_needs_everything_equal_and_an_older_ctime(
            mode in prop_oneof![Just(0o644u32), Just(0o755)],
            inode in 6u64..9, size in 2u64..5, seconds in 9i64..12, clock in proptest::option::of(9i64..13),
        ) {
            let found = stat(libc::S_IFREG, mode, inode, size, (seconds, 0));
            let verdict = compare(&entry(), &found, clock.map(|clock| (clock, 0)));
            let equal = (mode, inode, size, seconds) == (0o644, 7, 3, 10);
            let same = equal && clock.is_some_and(|clock| clock > 10);
            prop_assert_eq!(verdict == Verdict::Same, same);
        }
    }

    #[test]
    fn without_certification_the_hash_decides_where_there_is_one() {
        let found = stat(libc::S_IFREG, 0o644, 7, 3, (10, 0));
        let hashed = Entry { hash: Some(Box::new([0; 32])), ..entry() };
        assert_eq!(compare(&hashed, &found, None), Verdict::Compare);
        assert_eq!(compare(&entry(), &found, None), Verdict::Changed);
        let replaced = stat(libc::S_IFREG, 0o644, 8, 4, (10, 0));
        assert_eq!(compare(&hashed, &replaced, None), Verdict::Changed);
    }

    #[test]
    fn a_directory_is_its_mode() {
        let directory = Entry { kind: Kind::Directory, mode: 0o755, ..entry() };
        let touched = stat(libc::S_IFDIR, 0o755, 9, 99, (20, 0));
        assert_eq!(compare(&directory, &touched, None), Verdict::Same);
        let opened = stat(libc::S_IFDIR, 0o777, 7, 3, (10, 0));
        assert_eq!(compare(&directory, &opened, None), Verdict::Changed);
        let link = stat(libc::S_IFLNK, 0o777, 7, 3, (10, 0));
        assert_eq!(compare(&directory, &link, None), Verdict::Changed);
    }

    #[test]
    fn paths_are_found_and_the_newest_without_a_hash_is_known() {
        let newer = Entry { ctime: (11, 1), ..entry() };
        let hashed = Entry { ctime: (12, 0), hash: Some(Box::new([0; 32])), ..entry() };
        let manifest = Manifest::new(vec![
            (b"b".to_vec().into(), entry()),
            (b"a/b".to_vec().into(), newer),
            (b"d".to_vec().into(), hashed),
        ]);
        assert_eq!(manifest.find(b"b"), Some(1));
        assert_eq!(manifest.find(b"c"), None);
        assert_eq!(manifest.newest_unhashed(), (11, 1));
        assert_eq!(manifest.path(0), b"a/b");
    }
}
