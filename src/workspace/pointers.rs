//! Large files (git LFS) that came back as pointers.
//!
//! The contents that old commits mean do not travel, so a large file that is checked out again in
//! the container is a pointer there. To write that over the user's contents would lose them.
//!
//! ```text
//!  a file that was sent, now a pointer ──> to what the user's file has? ──yes──> no change
//!                  │                                     │no
//!                  │ it was a pointer when it was sent   ▼
//!                  └──> a change like any other        held for a person
//! ```

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::change::{Change, ChangeKind, ChangeSet, Hold};
use super::git::lfs::{POINTER_BYTES, Pointer, open_file};
use super::{NodeKind, Workspace};

/// Why a pointer is not written over a file.
const REASON: &str = "a pointer of git LFS whose content is not here";

/// Whether a change may be one to a pointer, as far as can be said without looking at its bytes.
pub fn may_be(change: &Change) -> bool {
    let (Some(base), Some(new)) = (&change.base, &change.new) else { return false };
    change.kind == ChangeKind::Modified
        && base.kind == NodeKind::File
        && new.kind == NodeKind::File
        && new.size <= POINTER_BYTES as u64
}

/// Takes out of a change set what is no change but a pointer to what the user has, and holds other
/// pointers that would replace contents. `archive` is `changes.tar`. Blocks: reads the user's file
/// whole where a pointer may mean it.
///
/// # Errors
///
/// `archive` cannot be read. A file of the workspace that cannot be read is none that is meant.
pub fn settle(set: ChangeSet, workspace: &Workspace, archive: &Path) -> io::Result<ChangeSet> {
    let archive = File::open(archive)?;
    let mut changes = Vec::with_capacity(set.changes.len());
    for mut change in set.changes {
        let is_change = match pointer_in(&change, &archive)? {
            Some(pointer) => is_change(&mut change, &pointer, workspace),
            None => true,
        };
        changes.extend(is_change.then_some(change));
    }
    Ok(ChangeSet { changes })
}

fn pointer_in(change: &Change, archive: &File) -> io::Result<Option<Pointer>> {
    let Some(new) = change.new.as_ref().filter(|_| may_be(change)) else { return Ok(None) };
    let mut bytes = vec![0; usize::try_from(new.size).unwrap_or(0)];
    archive.read_exact_at(&mut bytes, new.offset)?;
    Ok(Pointer::parse(&bytes))
}

/// Whether something is left of a change to a pointer.
fn is_change(change: &mut Change, pointer: &Pointer, workspace: &Workspace) -> bool {
    let (Some(base), Some(new)) = (&change.base, &mut change.new) else { return true };
    let open = || open_file(workspace, &change.path, base.size).ok().flatten();
    if base.size <= POINTER_BYTES as u64 && open().is_some_and(is_pointer) {
        return true;
    }
    let means = pointer.size == base.size
        && open().is_some_and(|mut file| pointer.means(&mut file).unwrap_or(false));
    if means && new.executable == base.executable() {
        return false;
    }
    if means && base.hash.is_some() {
        // What is left is the mode.
        (new.hash, new.size) = (base.hash, base.size);
        (change.kind, change.bytes) = (ChangeKind::Mode, base.size);
    } else if change.hold.is_none() {
        change.hold = Some(Hold::Person);
        change.reason = Some(REASON.into());
    }
    true
}

fn is_pointer(file: File) -> bool {
    let mut bytes = Vec::new();
    let read = file.take(POINTER_BYTES as u64 + 1).read_to_end(&mut bytes);
    read.is_ok() && Pointer::parse(&bytes).is_some()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use sha2::{Digest, Sha256};

    use super::*;
    use crate::path::RelPath;
    use crate::workspace::change::{BaseNode, ChangeState, ContentHash, NewNode};
    use crate::workspace::root::open_unchecked;

    const CONTENTS: &[u8] = b"large\n";

    fn pointer(contents: &[u8]) -> Vec<u8> {
        let oid: String = Sha256::digest(contents).iter().map(|b| format!("{b:02x}")).collect();
        let size = contents.len();
        let text =
            format!("version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {size}\n");
        text.into_bytes()
    }

    /// What becomes of a file with `sent` that the user has as `here` and that comes back as `new`.
    fn settled(
        sent: &[u8],
        here: Option<&[u8]>,
        new: &[u8],
        edit: impl FnOnce(&mut Change),
    ) -> Option<Change> {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        std::fs::create_dir(&tree).unwrap();
        if let Some(here) = here {
            std::fs::write(tree.join("a.bin"), here).unwrap();
            let mode = std::fs::Permissions::from_mode(0o644);
            std::fs::set_permissions(tree.join("a.bin"), mode).unwrap();
        }
        let archive = dir.path().join("changes.tar");
        std::fs::write(&archive, [b"before", new].concat()).unwrap();
        let hash = |bytes: &[u8]| Some(ContentHash(*blake3::hash(bytes).as_bytes()));
        let base = BaseNode {
            kind: NodeKind::File,
            mode: 0o644,
            size: sent.len() as u64,
            hash: hash(sent),
            target: None,
            stamp: None,
        };
        let node = NewNode {
            kind: NodeKind::File,
            executable: false,
            size: new.len() as u64,
            hash: hash(new),
            offset: 6,
            target: None,
        };
        let mut change = Change {
            path: RelPath::new("a.bin").unwrap(),
            kind: ChangeKind::Modified,
            bytes: node.size,
            state: ChangeState::Held,
            reason: None,
            hold: None,
            base: Some(base),
            new: Some(node),
            before: None,
        };
        edit(&mut change);
        let set = ChangeSet { changes: vec![change] };
        settle(set, &open_unchecked(&tree).unwrap(), &archive).unwrap().changes.pop()
    }

    #[test]
    fn a_pointer_to_what_the_user_has_is_no_change() {
        assert_eq!(settled(CONTENTS, Some(CONTENTS), &pointer(CONTENTS), |_| {}), None);
        let only_mode = settled(CONTENTS, Some(CONTENTS), &pointer(CONTENTS), |change| {
            change.new.as_mut().unwrap().executable = true;
        });
        let change = only_mode.unwrap();
        assert_eq!((change.kind, change.bytes, change.hold), (ChangeKind::Mode, 6, None));
        assert!(change.new.unwrap().same_bytes(&change.base.unwrap()));
    }

    #[test]
    fn a_pointer_to_something_else_is_not_written_over_contents() {
        let other = pointer(b"other\n");
        let same_length = pointer(b"Large\n");
        let cases = [
            (Some(CONTENTS), &other),
            (Some(CONTENTS), &same_length),
            // What the pointer means is not there any more.
            (None, &pointer(CONTENTS)),
            (Some(&b"edited"[..]), &pointer(CONTENTS)),
        ];
        for (here, new) in cases {
            let change = settled(CONTENTS, here, new, |_| {}).unwrap();
            assert_eq!(change.hold, Some(Hold::Person), "{here:?}");
            assert_eq!(change.reason.as_deref(), Some(REASON));
        }
        let held = settled(CONTENTS, Some(CONTENTS), &other, |change| {
            change.hold = Some(Hold::Never);
            change.reason = Some("never".into());
        });
        let held = held.unwrap();
        assert_eq!((held.hold, held.reason.as_deref()), (Some(Hold::Never), Some("never")));
    }

    #[test]
    fn a_file_that_was_a_pointer_and_one_that_is_none_are_changes_like_any_other() {
        let old = pointer(CONTENTS);
        let change = settled(&old, Some(&old), &pointer(b"other\n"), |_| {}).unwrap();
        assert_eq!(change.hold, None);
        let change = settled(CONTENTS, Some(CONTENTS), b"small\n", |_| {}).unwrap();
        assert_eq!((change.hold, change.kind), (None, ChangeKind::Modified));
    }
}
