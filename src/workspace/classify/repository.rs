//! Bare repositories: a directory that git takes for a repository though nothing in it is called
//! `.git`, and whose config and hooks it executes for whoever stands in it.

use std::collections::{HashMap, HashSet};

use crate::path::tree_order;
use crate::workspace::Snapshot;
use crate::workspace::change::{Change, ChangeKind};

/// By these git knows one: `HEAD`, and `objects` with `refs`, or `commondir`, which names another
/// directory that has them.
const SIGNS: [&[u8]; 4] = [b"HEAD", b"objects", b"refs", b"commondir"];
/// What else of one makes git do something.
const OTHERS: [&[u8]; 3] = [b"config", b"config.worktree", b"hooks"];

/// The changes that are part of a bare repository, as it is after the run: what makes it one, and
/// what git executes of it.
pub(super) fn parts<'a>(changes: &'a [Change], snapshot: &Snapshot) -> HashSet<&'a [u8]> {
    let mut touched: HashMap<&[u8], Vec<&'a [u8]>> = HashMap::new();
    for change in changes.iter().filter(|change| change.kind != ChangeKind::Deleted) {
        let is_part =
            |name: &[u8]| SIGNS.iter().chain(&OTHERS).any(|part| name.eq_ignore_ascii_case(part));
        let path = change.path.as_bytes();
        let (directory, name) = split(path);
        if is_part(name) {
            touched.entry(directory).or_default().push(path);
        }
        // A hook in a folder that was there.
        let (above, folder) = split(directory);
        if folder.eq_ignore_ascii_case(b"hooks") {
            touched.entry(above).or_default().push(path);
        }
    }
    touched.retain(|directory, parts| is_repository(directory, parts, changes, snapshot));
    touched.into_values().flatten().collect()
}

fn is_repository(
    directory: &[u8],
    touched: &[&[u8]],
    changes: &[Change],
    snapshot: &Snapshot,
) -> bool {
    let was_there = |name: &[u8]| {
        let path = match directory.is_empty() {
            true => name.to_vec(),
            false => [directory, b"/", name].concat(),
        };
        let is_change = changes.binary_search_by(|c| tree_order(c.path.as_bytes(), &path)).is_ok();
        !is_change && snapshot.nodes.contains_key(&path[..])
    };
    let has = |name: &[u8]| {
        touched.iter().any(|path| {
            let (above, touched) = split(path);
            above == directory && touched.eq_ignore_ascii_case(name)
        }) || was_there(name)
            || was_there(&name.to_ascii_lowercase())
    };
    has(SIGNS[0]) && (has(SIGNS[3]) || (has(SIGNS[1]) && has(SIGNS[2])))
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}
