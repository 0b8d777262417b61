//! What was put, as `collect` compares it.

use std::collections::BTreeMap;
use std::ops::{Bound, Range};

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
    /// Seconds of the time of the last modification.
    pub(super) mtime: i64,
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

/// Everything that was put, in the order of its paths' bytes. Paths lie one after the other, since
/// this is what the keeper holds while a container is idle.
#[derive(Clone, Debug, Default)]
pub(super) struct Manifest {
    bytes: Vec<u8>,
    /// Where each path ends in `bytes`.
    ends: Vec<usize>,
    entries: Vec<Entry>,
    /// What came along of the rules above the tree.
    pub(super) above: Above,
}

impl Manifest {
    /// Takes nodes in the order of their paths.
    pub(super) fn from_sorted(nodes: impl IntoIterator<Item = (Box<[u8]>, Entry)>) -> Self {
        let mut manifest = Self::default();
        for (path, entry) in nodes {
            manifest.push(&path, entry);
        }
        manifest.shrink();
        manifest
    }

    fn push(&mut self, path: &[u8], entry: Entry) {
        self.bytes.extend_from_slice(path);
        self.ends.push(self.bytes.len());
        self.entries.push(entry);
    }

    fn shrink(&mut self) {
        self.bytes.shrink_to_fit();
        self.ends.shrink_to_fit();
        self.entries.shrink_to_fit();
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The place of a path in the order.
    pub(super) fn find(&self, path: &[u8]) -> Option<usize> {
        let index = self.first_from(path);
        (index < self.len() && self.path(index) == path).then_some(index)
    }

    /// As [`find`](Self::find), quick if the path is the one after `*last`, as it mostly is in a walk
    /// in order. Notes what it found there.
    pub(super) fn find_after(&self, last: &mut usize, path: &[u8]) -> Option<usize> {
        let next = *last + 1;
        let found =
            if next < self.len() && self.path(next) == path { Some(next) } else { self.find(path) };
        *last = found.unwrap_or(*last);
        found
    }

    /// The place of the first path that is not before `path`.
    fn first_from(&self, path: &[u8]) -> usize {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low.midpoint(high);
            if self.path(middle) < path { low = middle + 1 } else { high = middle }
        }
        low
    }

    /// The places of all that lies in the directory `path`.
    pub(super) fn within(&self, path: &[u8]) -> Range<usize> {
        let after = |byte| self.first_from(&[path, &[byte]].concat());
        // Paths in it have `/` next, and that is the byte before `0`.
        after(b'/')..after(b'/' + 1)
    }

    pub(super) fn get(&self, index: usize) -> Option<&Entry> {
        self.entries.get(index)
    }

    pub(super) fn get_mut(&mut self, index: usize) -> Option<&mut Entry> {
        self.entries.get_mut(index)
    }

    /// Without those nodes that do not stay.
    pub(super) fn retain(self, stays: &[bool]) -> Self {
        if stays.iter().all(|stays| *stays) {
            return self;
        }
        let mut left = Self { above: self.above, ..Self::default() };
        let mut begin = 0;
        for ((end, entry), stays) in self.ends.into_iter().zip(self.entries).zip(stays) {
            if *stays {
                left.push(&self.bytes[begin..end], entry);
            }
            begin = end;
        }
        left.shrink();
        left
    }

    /// Bytes of all its files.
    pub(super) fn bytes(&self) -> u64 {
        let files = self.entries.iter().filter(|entry| entry.kind == Kind::File);
        files.map(|entry| entry.size).sum()
    }

    pub(super) fn path(&self, index: usize) -> &[u8] {
        let begin = index.checked_sub(1).and_then(|before| self.ends.get(before)).copied();
        let end = self.ends.get(index).copied().unwrap_or_default();
        self.bytes.get(begin.unwrap_or_default()..end).unwrap_or_default()
    }

    /// The newest ctime of all.
    #[cfg(test)]
    pub(super) fn newest(&self) -> Time {
        self.entries.iter().map(|entry| entry.ctime).max().unwrap_or((0, 0))
    }

    /// The newest ctime of what has no hash: once the coarse clock has passed it, every later
    /// change has another ctime. What has a hash needs no such clock, since it is compared by its
    /// contents where the ctime proves nothing.
    pub(super) fn newest_unhashed(&self) -> Time {
        let unhashed = self.entries.iter().filter(|entry| entry.hash.is_none());
        unhashed.map(|entry| entry.ctime).max().unwrap_or((0, 0))
    }
}

/// A manifest and what a put makes of it.
#[derive(Debug, Default)]
pub(super) struct Changes {
    base: Manifest,
    /// Which nodes of `base` are not there any more, or another one is.
    gone: Vec<bool>,
    new: BTreeMap<Box<[u8]>, Entry>,
}

/// Of which put a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Of<'a> {
    This(&'a Entry),
    Earlier(&'a Entry),
}

impl Changes {
    pub(super) fn of(base: Manifest) -> Self {
        Self { gone: vec![false; base.len()], base, new: BTreeMap::new() }
    }

    /// What is at `path` now.
    pub(super) fn get(&self, path: &[u8]) -> Option<Of<'_>> {
        if let Some(entry) = self.new.get(path) {
            return Some(Of::This(entry));
        }
        let index = self.base.find(path).filter(|index| !self.gone[*index])?;
        self.base.get(index).map(Of::Earlier)
    }

    /// Notes what was put at `path`.
    pub(super) fn put(&mut self, path: &[u8], entry: Entry) {
        self.forget(path);
        self.new.insert(path.into(), entry);
    }

    /// Notes that what was put at `path` by an earlier put is not there any more.
    pub(super) fn forget(&mut self, path: &[u8]) {
        if let Some(index) = self.base.find(path) {
            self.gone[index] = true;
        }
    }

    /// Notes that `path` is gone with all that was in it; `false` if some of that is of this put.
    pub(super) fn remove(&mut self, path: &[u8]) -> bool {
        let within = [path, b"/"].concat();
        let next =
            self.new.range::<[u8], _>((Bound::Included(&within[..]), Bound::Unbounded)).next();
        if self.new.contains_key(path) || next.is_some_and(|(next, _)| next.starts_with(&within)) {
            return false;
        }
        self.forget(path);
        for index in self.base.within(path) {
            self.gone[index] = true;
        }
        true
    }

    /// Takes a node of this put back.
    pub(super) fn take_back(&mut self, path: &[u8]) -> Option<Entry> {
        self.new.remove(path)
    }

    /// The manifest of what is there now.
    pub(super) fn into_manifest(self, above: Above) -> Manifest {
        let Self { base, gone, new } = self;
        if base.len() == 0 {
            return Manifest { above, ..Manifest::from_sorted(new) };
        }
        if new.is_empty() && !gone.contains(&true) {
            return Manifest { above, ..base };
        }
        let mut manifest = Manifest { above, ..Manifest::default() };
        let mut new = new.into_iter().peekable();
        let mut begin = 0;
        for ((end, entry), gone) in base.ends.into_iter().zip(base.entries).zip(gone) {
            let path = &base.bytes[begin..end];
            begin = end;
            if gone {
                continue;
            }
            while let Some((earlier, entry)) = new.next_if(|(new, _)| **new < *path) {
                manifest.push(&earlier, entry);
            }
            manifest.push(path, entry);
        }
        for (path, entry) in new {
            manifest.push(&path, entry);
        }
        manifest.shrink();
        manifest
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
        Entry {
            kind: Kind::File,
            mode: 0o644,
            inode: 7,
            size: 3,
            ctime: (10, 0),
            mtime: 0,
            hash: None,
        }
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
        let manifest = Manifest::from_sorted([
            (b"a/b".to_vec().into(), newer),
            (b"b".to_vec().into(), entry()),
            (b"d".to_vec().into(), hashed),
        ]);
        assert_eq!(manifest.find(b"b"), Some(1));
        assert_eq!(manifest.find(b"c"), None);
        assert_eq!(manifest.find(b"e"), None);
        assert_eq!(manifest.newest_unhashed(), (11, 1));
        assert_eq!(manifest.path(0), b"a/b");
        let mut last = 0;
        assert_eq!(manifest.find_after(&mut last, b"b"), Some(1));
        assert_eq!(manifest.find_after(&mut last, b"a/b"), Some(0));
        assert_eq!(manifest.find_after(&mut last, b"c"), None);
        assert_eq!(last, 0);
    }

    /// Short paths of few letters, with one before and one after `/`.
    fn path() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(prop_oneof![Just("a"), Just("b"), Just("a-"), Just("a0")], 1..4)
            .prop_map(|parts| parts.join("/").into_bytes())
    }

    proptest! {
        /// As a map in which each step is done at once.
        #[test]
        fn changes_make_what_their_steps_make(
            base in proptest::collection::btree_set(path(), 0..30),
            steps in proptest::collection::vec((0..3, path()), 0..20),
        ) {
            let of = |inode| Entry { inode, ..entry() };
            let nodes = base.iter().map(|path| (path.clone().into_boxed_slice(), of(1)));
            let mut model: BTreeMap<Vec<u8>, u64> = base.iter().map(|path| (path.clone(), 1)).collect();
            let mut changes = Changes::of(Manifest::from_sorted(nodes));
            for (inode, (step, path)) in (2..).zip(steps) {
                match step {
                    0 => {
                        changes.put(&path, of(inode));
                        model.insert(path, inode);
                    }
                    1 => {
                        let within = [&path[..], b"/"].concat();
                        let is_in = |have: &[u8]| have == path || have.starts_with(&within);
                        let new = model.iter().any(|(have, inode)| is_in(have) && *inode > 1);
                        prop_assert_eq!(changes.remove(&path), !new);
                        model.retain(|have, _| new || !is_in(have));
                    }
                    _ => {
                        let taken = changes.take_back(&path).map(|entry| entry.inode);
                        let had = model.get(&path).copied().filter(|inode| *inode > 1);
                        prop_assert_eq!(taken, had);
                        model.retain(|have, inode| *have != path || *inode == 1);
                    }
                }
            }
            for (path, inode) in &model {
                let found = changes.get(path);
                let matches = matches!(found, Some(Of::This(entry) | Of::Earlier(entry)) if entry.inode == *inode);
                prop_assert!(matches, "{found:?}");
            }
            let manifest = changes.into_manifest(Above::default());
            let made: BTreeMap<Vec<u8>, u64> = (0..manifest.len())
                .map(|index| (manifest.path(index).to_vec(), manifest.get(index).unwrap().inode))
                .collect();
            prop_assert_eq!(manifest.len(), model.len());
            prop_assert!((1..manifest.len()).all(|index| manifest.path(index - 1) < manifest.path(index)));
            prop_assert_eq!(made, model);
        }
    }
}
