//! What of a made `.git` went into a container.

use std::collections::BTreeMap;
use std::sync::Arc;

/// The files and directories of a made `.git` by their paths in the workspace, with what tells
/// whether the next one has the same. A clone costs nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GitFiles(Arc<BTreeMap<Box<[u8]>, GitFile>>);

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::workspace) enum GitFile {
    Directory,
    /// What was made, and the index.
    Written {
        /// BLAKE3 of its bytes.
        hash: [u8; 32],
        /// Seconds; git compares that of the index with those of files.
        mtime: i64,
    },
    /// A pack, its index or a loose object. What has such a name has the same contents for ever, so
    /// its time does not count, which git moves to keep an object from being pruned.
    Object {
        size: u64,
        dev: u64,
        ino: u64,
    },
}

impl GitFile {
    pub(in crate::workspace) fn is_directory(&self) -> bool {
        matches!(self, Self::Directory)
    }
}

impl GitFiles {
    /// Takes `files`, or the one that is `known` if that is the same.
    pub(in crate::workspace) fn new(
        files: BTreeMap<Box<[u8]>, GitFile>,
        known: Option<&Self>,
    ) -> Self {
        match known {
            Some(known) if *known.0 == files => known.clone(),
            _ => Self(Arc::new(files)),
        }
    }

    pub(in crate::workspace) fn get(&self, path: &[u8]) -> Option<&GitFile> {
        self.0.get(path)
    }

    pub(in crate::workspace) fn iter(&self) -> impl Iterator<Item = (&[u8], &GitFile)> {
        self.0.iter().map(|(path, file)| (&**path, file))
    }

    /// How many there are, directories included.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no `.git` went.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
