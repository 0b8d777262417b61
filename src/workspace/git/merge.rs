//! Git as what knows earlier versions of a file, and as what merges three of them.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use super::command::{GitCommandError, git};
use crate::path::RelPath;
use crate::workspace::change::ContentHash;

/// How many commits that touched a file are looked at, the latest first.
const COMMITS: &str = "--max-count=20";

/// Three versions of a file.
#[derive(Debug)]
pub(in crate::workspace) struct Sides<'a> {
    /// What both began with.
    pub(in crate::workspace) base: &'a [u8],
    /// What the host has.
    pub(in crate::workspace) ours: &'a [u8],
    /// What came back from the container.
    pub(in crate::workspace) theirs: &'a [u8],
}

/// The bytes that were sent, if the repository has a blob of `path` with exactly these: in the
/// index, in HEAD, or in one of the last commits that touched it. `None` also where git refuses.
pub(in crate::workspace) fn base_of(
    root: BorrowedFd<'_>,
    path: &RelPath,
    hash: ContentHash,
    size: u64,
) -> Option<Vec<u8>> {
    let name = std::str::from_utf8(path.as_bytes()).ok()?;
    let literal = |arguments: &[&str]| {
        git(root, &[&["--literal-pathspecs"], arguments, &["--", name]].concat())
    };
    let mut seen = Vec::new();
    let mut is_it = |oid: &str| -> Option<Vec<u8>> {
        if seen.iter().any(|known| known == oid) {
            return None;
        }
        seen.push(oid.to_owned());
        let length = git(root, &["cat-file", "-s", oid]).ok()?;
        if std::str::from_utf8(&length).ok()?.trim_ascii() != size.to_string() {
            return None;
        }
        let bytes = git(root, &["cat-file", "blob", oid]).ok()?;
        (ContentHash(*blake3::hash(&bytes).as_bytes()) == hash).then_some(bytes)
    };
    let index = literal(&["ls-files", "-s", "-z"]).ok()?;
    // `<mode> <oid> <stage>\t<path>`; more than one where a merge is in progress.
    if let Some(found) = named(&index, name, 1).find_map(&mut is_it) {
        return Some(found);
    }
    let mut at_commit = |commit: &str| {
        let listing = literal(&["ls-tree", "-z", commit]).ok()?;
        // `<mode> blob <oid>\t<path>`
        named(&listing, name, 2).find_map(&mut is_it)
    };
    if let Some(found) = at_commit("HEAD") {
        return Some(found);
    }
    let commits = literal(&["rev-list", COMMITS, "HEAD"]).ok()?;
    String::from_utf8_lossy(&commits).lines().find_map(at_commit)
}

/// The word with the number `word` of every entry that is for `name`.
fn named<'a>(listing: &'a [u8], name: &'a str, word: usize) -> impl Iterator<Item = &'a str> {
    listing.split(|byte| *byte == 0).filter_map(move |entry| {
        let (head, path) = std::str::from_utf8(entry).ok()?.split_once('\t')?;
        let oid = head.split(' ').nth(word)?;
        let is_oid = !oid.is_empty() && oid.bytes().all(|byte| byte.is_ascii_hexdigit());
        (path == name && is_oid).then_some(oid)
    })
}

/// Merges two versions into one; gives its bytes and how many conflicts are marked in it. Git reads
/// and writes files in `folder` for that, which are gone afterwards, and runs no filter.
///
/// # Errors
///
/// The folder cannot be written. `None` where git does not merge it, for instance because it is no
/// text.
pub(in crate::workspace) fn merge_file(
    folder: &Path,
    sides: &Sides<'_>,
    theirs: &str,
) -> io::Result<Option<(Vec<u8>, u32)>> {
    let place = folder.join("merge");
    match fs::remove_dir_all(&place) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    DirBuilder::new().mode(0o700).create(&place)?;
    let merged = merge_in(&place, sides, theirs);
    fs::remove_dir_all(&place)?;
    merged
}

fn merge_in(place: &Path, sides: &Sides<'_>, theirs: &str) -> io::Result<Option<(Vec<u8>, u32)>> {
    for (name, bytes) in [("ours", sides.ours), ("base", sides.base), ("theirs", sides.theirs)] {
        fs::write(place.join(name), bytes)?;
    }
    let directory = File::open(place)?;
    // Without -p the merge is in the first file, and the exit code alone says how it went.
    let labels = ["-L", "workspace", "-L", "base", "-L", theirs];
    let files = ["ours", "base", "theirs"];
    let arguments = [&["merge-file", "-q"], &labels[..], &files].concat();
    let conflicts = match git(directory.as_fd(), &arguments) {
        Ok(_) => 0,
        // So many conflicts, 127 for more; above that it is an error.
        Err(GitCommandError::Failed { code: Some(code @ 1..=127), .. }) => code.unsigned_abs(),
        Err(_) => return Ok(None),
    };
    Ok(Some((fs::read(place.join("ours"))?, conflicts)))
}
