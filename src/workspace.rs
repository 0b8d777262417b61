//! The user's tree: what goes in, what comes back, and how that is written.

pub mod apply;
pub mod archive;
pub mod change;
pub mod classify;
pub mod conflict;
pub mod diff;
#[cfg(test)]
mod editor_tests;
#[cfg(test)]
mod fixture;
pub mod host;
pub mod lease;
pub mod lock;
pub mod receive;
mod settle;
pub mod stage;
mod step;
mod tar_read;
mod tar_write;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use crate::path::RelPath;

/// Which directory a workspace is, whatever it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WorkspaceKey {
    /// Device.
    pub dev: u64,
    /// Inode.
    pub ino: u64,
}

/// A workspace, opened.
#[derive(Clone, Debug)]
pub struct Workspace {
    /// Its real path.
    pub path: PathBuf,
    /// The handle everything is relative to.
    pub root: Arc<OwnedFd>,
    /// Where Codex works in it.
    pub working_dir: Option<RelPath>,
    /// Device and inode.
    pub key: WorkspaceKey,
    /// What is left out, such as a runs directory inside it.
    pub exclude: Vec<RelPath>,
}

/// What a path is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
}

/// One path of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// What it is.
    pub kind: NodeKind,
    /// Permission bits as on the host.
    pub mode: u32,
    /// Size in bytes.
    pub size: u64,
    /// Modification time: seconds and nanoseconds.
    pub mtime: (i64, u32),
    /// Change time: seconds and nanoseconds.
    pub ctime: (i64, u32),
    /// Device.
    pub dev: u64,
    /// Inode.
    pub ino: u64,
    /// blake3 of a file's bytes.
    pub hash: Option<[u8; 32]>,
    /// Where a link points.
    pub target: Option<Vec<u8>>,
}

/// What the workspace was when it was sent.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Every path that was sent.
    pub nodes: BTreeMap<RelPath, Node>,
}
