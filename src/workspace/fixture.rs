//! Trees for tests: on the disk, as a snapshot, and as the stream that leads from one to another.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::change::ChangeSet;
use super::classify::{Policy, classify};
use super::receive::{ReceiveLimits, receive};
use super::{Node, NodeKind, Snapshot, Workspace, WorkspaceKey};
use crate::path::RelPath;

/// One path of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Item {
    File(Vec<u8>, bool),
    Dir,
    Link(Vec<u8>),
}

pub(super) type Tree = BTreeMap<RelPath, Item>;

pub(super) fn path(text: impl AsRef<[u8]>) -> RelPath {
    RelPath::new(text.as_ref()).unwrap()
}

pub(super) fn file(content: &str) -> Item {
    Item::File(content.into(), false)
}

pub(super) fn tree<const N: usize>(items: [(&str, Item); N]) -> Tree {
    items.into_iter().map(|(name, item)| (path(name), item)).collect()
}

/// A workspace and a run folder in a temporary directory.
pub(super) struct Place {
    pub(super) dir: tempfile::TempDir,
    pub(super) workspace: Workspace,
    runs: std::cell::Cell<u32>,
}

impl Place {
    pub(super) fn new(tree: &Tree) -> Self {
        Self::within(tempfile::tempdir().unwrap(), tree)
    }

    /// In memory where that can be had, for tests that flush thousands of times.
    pub(super) fn in_memory(tree: &Tree) -> Self {
        let memory = Path::new("/dev/shm");
        let dir = match memory.is_dir() {
            true => tempfile::tempdir_in(memory),
            false => tempfile::tempdir(),
        };
        Self::within(dir.unwrap(), tree)
    }

    fn within(dir: tempfile::TempDir, tree: &Tree) -> Self {
        let root = dir.path().join("ws");
        fs::create_dir(&root).unwrap();
        let meta = fs::metadata(&root).unwrap();
        let workspace = Workspace {
            root: Arc::new(fs::File::open(&root).unwrap().into()),
            path: root,
            working_dir: None,
            key: WorkspaceKey { dev: meta.dev(), ino: meta.ino() },
            exclude: Vec::new(),
        };
        let place = Self { dir, workspace, runs: std::cell::Cell::new(0) };
        place.fill(tree);
        place
    }

    pub(super) fn at(&self, name: &str) -> PathBuf {
        self.workspace.path.join(name)
    }

    pub(super) fn fill(&self, tree: &Tree) {
        for (path, item) in tree {
            let to = self.workspace.path.join(path.as_path());
            match item {
                Item::Dir => fs::create_dir_all(&to).unwrap(),
                Item::File(content, executable) => {
                    if let Some(parent) = to.parent() {
                        fs::create_dir_all(parent).unwrap();
                    }
                    fs::write(&to, content).unwrap();
                    let mode = if *executable { 0o755 } else { 0o644 };
                    fs::set_permissions(&to, fs::Permissions::from_mode(mode)).unwrap();
                }
                Item::Link(target) => {
                    symlink(Path::new(std::ffi::OsStr::from_bytes(target)), &to).unwrap();
                }
            }
        }
    }

    /// The tree as it is on the disk.
    pub(super) fn read(&self) -> Tree {
        let mut tree = Tree::new();
        walk(&self.workspace.path, &self.workspace.path, &mut tree);
        tree
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        snapshot(&self.read())
    }

    /// The change set that leads from the tree as it was sent to `to`, with its archive.
    pub(super) fn changes(&self, sent: &Snapshot, from: &Tree, to: &Tree) -> (ChangeSet, PathBuf) {
        let run = self.runs.get();
        self.runs.set(run + 1);
        let folder = self.dir.path().join(format!("run-{run}"));
        fs::create_dir(&folder).unwrap();
        let archive = folder.join("changes.tar");
        let limits = ReceiveLimits::default();
        let received = receive(&stream(from, to)[..], sent, &limits, &archive).unwrap();
        (classify(&received, sent, &Policy::new(&[]).unwrap()), archive)
    }
}

fn walk(root: &Path, dir: &Path, tree: &mut Tree) {
    for entry in fs::read_dir(dir).unwrap() {
        let at = entry.unwrap().path();
        let meta = fs::symlink_metadata(&at).unwrap();
        let item = if meta.is_dir() {
            walk(root, &at, tree);
            Item::Dir
        } else if meta.is_symlink() {
            Item::Link(fs::read_link(&at).unwrap().as_os_str().as_bytes().to_vec())
        } else {
            Item::File(fs::read(&at).unwrap(), meta.mode() & 0o100 != 0)
        };
        tree.insert(path(at.strip_prefix(root).unwrap().as_os_str().as_bytes()), item);
    }
}

pub(super) fn snapshot(tree: &Tree) -> Snapshot {
    let node = |item: &Item| {
        let (kind, mode) = match item {
            Item::File(_, true) => (NodeKind::File, 0o755),
            Item::File(_, false) => (NodeKind::File, 0o644),
            Item::Dir => (NodeKind::Directory, 0o755),
            Item::Link(_) => (NodeKind::Link, 0o777),
        };
        let content = match item {
            Item::File(content, _) => Some(content),
            _ => None,
        };
        Node {
            kind,
            mode,
            size: content.map_or(0, |content| content.len() as u64),
            mtime: (0, 0),
            ctime: (0, 0),
            dev: 0,
            ino: 0,
            hash: content.map(|content| *blake3::hash(content).as_bytes()),
            target: match item {
                Item::Link(target) => Some(target.clone()),
                _ => None,
            },
        }
    };
    Snapshot {
        nodes: tree.iter().map(|(path, item)| (path.clone(), node(item))).collect(),
        ..Snapshot::default()
    }
}

/// What a keeper would send.
pub(super) fn stream(from: &Tree, to: &Tree) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut put = |name: &[u8], kind, mode, content: &[u8], target: &[u8]| {
        let mut header = tar::Header::new_gnu();
        let gnu = header.as_gnu_mut().unwrap();
        gnu.name[..name.len()].copy_from_slice(name);
        gnu.linkname[..target.len()].copy_from_slice(target);
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(content.len() as u64);
        header.set_cksum();
        tar.append(&header, content).unwrap();
    };
    for (path, item) in to.iter().filter(|(path, item)| from.get(*path) != Some(*item)) {
        let name = [b"tree/", path.as_bytes()].concat();
        match item {
            Item::File(content, executable) => {
                let mode = if *executable { 0o755 } else { 0o644 };
                put(&name, tar::EntryType::Regular, mode, content, b"");
            }
            Item::Dir => put(&name, tar::EntryType::Directory, 0o755, b"", b""),
            Item::Link(target) => put(&name, tar::EntryType::Symlink, 0o777, b"", target),
        }
    }
    let gone: Vec<&[u8]> =
        from.keys().filter(|path| !to.contains_key(*path)).map(RelPath::as_bytes).collect();
    put(b"meta/deleted", tar::EntryType::Regular, 0o644, &gone.join(&b"\0"[..]), b"");
    tar.into_inner().unwrap()
}
