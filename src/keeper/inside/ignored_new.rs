//! New paths that git ignores: counted under the topmost ignored one, and which of them come along.

use std::collections::BTreeMap;

use crate::keeper::wire::{IgnoredLimits, IgnoredTotal};
use crate::path::RelPath;

/// Topmost ignored paths that are counted one by one; the rest is counted together.
const MOST: usize = 1000;

/// A path as it is told; a directory's ends in `/`.
pub(super) fn shown(path: &[u8], is_directory: bool) -> String {
    match RelPath::new(path) {
        Ok(path) if is_directory => format!("{path}/"),
        Ok(path) => path.to_string(),
        Err(_) => "…".to_owned(),
    }
}

/// The count.
#[derive(Debug, Default)]
pub(super) struct IgnoredNew {
    totals: BTreeMap<String, IgnoredTotal>,
    files: u64,
    bytes: u64,
}

impl IgnoredNew {
    /// Counts one topmost path. `stays` as in [`IgnoredTotal`].
    pub(super) fn count(&mut self, path: &RelPath, is_directory: bool, bytes: u64, stays: bool) {
        let told = shown(path.as_bytes(), is_directory);
        let room = self.totals.len() < MOST;
        let key = if room { told } else { "…".to_owned() };
        let total =
            self.totals.entry(key.clone()).or_insert(IgnoredTotal { path: key, bytes: 0, stays });
        total.bytes = total.bytes.saturating_add(bytes);
        total.stays &= stays;
    }

    /// Whether a single file of `size` bytes comes along; counts it if so.
    pub(super) fn takes(&mut self, size: u64, limits: &IgnoredLimits) -> bool {
        let fits = size <= limits.each
            && self.files < limits.files
            && self.bytes.saturating_add(size) <= limits.bytes;
        if fits {
            self.files += 1;
            self.bytes += size;
        }
        fits
    }

    /// What was counted, by path.
    pub(super) fn totals(self) -> Vec<IgnoredTotal> {
        self.totals.into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_files_come_along_until_one_of_the_limits() {
        let limits = IgnoredLimits { each: 10, bytes: 25, files: 4 };
        let mut ignored = IgnoredNew::default();
        let taken: Vec<bool> =
            [11, 10, 10, 6, 5, 0, 0].iter().map(|size| ignored.takes(*size, &limits)).collect();
        assert_eq!(taken, [false, true, true, false, true, true, false]);
    }

    #[test]
    fn what_is_beyond_the_list_is_counted_together() {
        let mut ignored = IgnoredNew::default();
        for number in 0..MOST + 3 {
            let path = RelPath::new(format!("d{number}")).unwrap();
            ignored.count(&path, true, 2, number != MOST + 1);
        }
        let totals = ignored.totals();
        assert_eq!(totals.len(), MOST + 1);
        let rest = totals.last().unwrap();
        assert_eq!((rest.path.as_str(), rest.bytes, rest.stays), ("…", 6, false));
        assert_eq!(totals[0].path, "d0/");
    }
}
