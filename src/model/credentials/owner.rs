//! Who is to own what is made in a directory of Codex's.
//!
//! Root may work in the home of another user (`sudo`, which keeps `HOME` on some systems). What root
//! makes there that user's Codex could not open, so it goes to the owner of the directory.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// User and group of `directory`, if this is root and it is another user's.
pub(super) fn other(directory: &Path) -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let metadata = directory.metadata().ok()?;
    (metadata.uid() != 0).then(|| (metadata.uid(), metadata.gid()))
}

/// Gives `file`, which was just made in `directory`, to whom it is to belong.
pub(super) fn give(file: &File, directory: &Path) -> std::io::Result<()> {
    match other(directory) {
        Some((user, group)) => std::os::unix::fs::fchown(file, Some(user), Some(group)),
        None => Ok(()),
    }
}
