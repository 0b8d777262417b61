//! How much may be sent, and where it is when it is too much.

use std::collections::HashMap;
use std::fmt;

/// Directories deeper than this are counted in the one above.
const DEPTH: usize = 5;

/// Directories that are named.
const NAMED: usize = 5;

/// Directories that are looked at, the largest.
const CONSIDERED: usize = 2000;

/// A directory is told instead of the one above if it has this share of it, in percent.
const SHARE: u128 = 80;

/// A hole in a file is told from this size on.
const HOLE: u64 = 1 << 20;

/// Files and bytes of a tree, by directory.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// Files, directories and links.
    pub entries: u64,
    /// Bytes of files.
    pub bytes: u64,
    /// The file with the largest hole, and its size.
    sparse: Option<(Vec<u8>, u64, u64)>,
    directories: HashMap<Vec<u8>, (u64, u64)>,
    /// The directory of what was counted last, and what of it is not in `directories` yet: entries
    /// of one come one after the other.
    last: (Vec<u8>, u64, u64),
}

/// A directory and what is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Largest(Vec<(String, u64, u64)>);

/// A sparse file, and the size with which it counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sparse(Option<(String, u64)>);

impl fmt::Display for Sparse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((path, size)) = &self.0 else { return Ok(()) };
        let size = bytesize::ByteSize(*size);
        write!(f, "; {path} is sparse and counts with its full size of {size}")
    }
}

impl Totals {
    /// Counts one entry of `bytes` at `path`.
    pub fn add(&mut self, path: &[u8], bytes: u64) {
        self.entries += 1;
        // The size of a sparse file may be anything.
        self.bytes = self.bytes.saturating_add(bytes);
        let parent = path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        let parent = path.get(..parent).unwrap_or_default();
        if self.last.0 != parent {
            self.settle();
            self.last.0.extend_from_slice(parent);
        }
        self.last.1 += 1;
        self.last.2 = self.last.2.saturating_add(bytes);
    }

    /// Counts what was counted last in the directories above it.
    fn settle(&mut self) {
        let (path, entries, bytes) = std::mem::take(&mut self.last);
        if entries == 0 || path.is_empty() {
            return;
        }
        let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        let ends = slashes.map(|(at, _)| at).chain([path.len()]);
        for end in ends.take(DEPTH) {
            let above = path.get(..end).unwrap_or_default();
            match self.directories.get_mut(above) {
                Some((all, total)) => {
                    *all += entries;
                    *total = total.saturating_add(bytes);
                }
                None => {
                    self.directories.insert(above.to_vec(), (entries, bytes));
                }
            }
        }
    }

    /// Notes what of a file that was counted takes no place on the disk.
    pub fn add_hole(&mut self, path: &[u8], size: u64, hole: u64) {
        if hole >= HOLE && self.sparse.as_ref().is_none_or(|(.., known)| *known < hole) {
            self.sparse = Some((path.to_vec(), size, hole));
        }
    }

    /// The file with the largest hole, if there is a hole worth telling.
    pub fn sparse(&self) -> Sparse {
        let told = |path: &[u8]| crate::path::quote(path).into_owned();
        Sparse(self.sparse.as_ref().map(|(path, size, _)| (told(path), *size)))
    }

    /// The largest directories by bytes, or by entries; each is named once, at the depth that says
    /// most.
    pub fn largest(&mut self, by_bytes: bool) -> Largest {
        self.settle();
        let weight = |(entries, bytes): (u64, u64)| if by_bytes { bytes } else { entries };
        let mut all: Vec<(&Vec<u8>, (u64, u64))> =
            self.directories.iter().map(|(path, total)| (path, *total)).collect();
        // Deeper ones first among equals, so that the deepest of a chain is the one named.
        all.sort_by(|a, b| {
            weight(b.1).cmp(&weight(a.1)).then(b.0.len().cmp(&a.0.len())).then(a.0.cmp(b.0))
        });
        all.truncate(CONSIDERED);
        let within = |inner: &[u8], outer: &[u8]| {
            inner.strip_prefix(outer).is_some_and(|rest| rest.first() == Some(&b'/'))
        };
        let mut named: Vec<(&Vec<u8>, (u64, u64))> = Vec::new();
        for (path, total) in &all {
            let told_by_deeper = all.iter().any(|(deeper, part)| {
                within(deeper, path)
                    && u128::from(weight(*part)) * 100 >= u128::from(weight(*total)) * SHARE
            });
            if told_by_deeper || named.iter().any(|(above, _)| within(path, above)) {
                continue;
            }
            named.push((path, *total));
            if named.len() == NAMED {
                break;
            }
        }
        let told = |(path, (entries, bytes)): (&Vec<u8>, (u64, u64))| {
            (format!("{}/", String::from_utf8_lossy(path)), entries, bytes)
        };
        Largest(named.into_iter().map(told).collect())
    }
}

impl fmt::Display for Largest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("no directory stands out");
        }
        f.write_str("largest: ")?;
        for (at, (path, entries, bytes)) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            write!(f, "{comma}{path} ({}, {entries} files)", bytesize::ByteSize(*bytes))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_directory_that_holds_the_bytes_and_not_the_ones_above_it() {
        let mut totals = Totals::default();
        totals.add(b"a/b/data/big", 1000);
        totals.add(b"a/b/data/big2", 1000);
        totals.add(b"a/small", 1);
        totals.add(b"c/other", 500);
        totals.add(b"top", 5);
        let told: Vec<String> =
            totals.largest(true).0.into_iter().map(|(path, _, _)| path).collect();
        assert_eq!(told, ["a/b/data/", "c/"]);
        assert_eq!(totals.entries, 5);
        assert_eq!(totals.bytes, 2506);
    }

    #[test]
    fn names_at_most_five() {
        let mut totals = Totals::default();
        for directory in 0..20_u64 {
            totals.add(format!("d{directory}/f").as_bytes(), directory);
        }
        assert_eq!(totals.largest(false).0.len(), 5);
    }
}
