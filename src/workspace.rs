//! The user's tree: which one, which of its files go into a container, what it was when they went,
//! and how what comes back gets into it, and out of it again.
//!
//! ```text
//!  Roots::resolve ─> Workspace ─> select (walk, git's rules) ─> send (tar, hashes) ─> Snapshot
//!   repo, working_dir   a handle      which files travel          one stream             │ what went
//!                                                                                        ▼
//!      applied <── apply <── ChangeSet <── classify <── Received <── receive <── what a container has
//!        │ ▲    journal, │      │ ▲ ▲     what it means,            checked whole
//!        │ │    steps    │      │ │ └── merge: text that both sides changed, on demand
//!        │ └─────────────│──────┘ │
//!        └──── undo ─────┴─> held ┘
//! ```
//!
//! [`lock`] gives turns: shared to select and send, alone to apply, undo and move a branch; who takes
//! one first ends an apply that was interrupted ([`apply::recover`]). [`host`] is the only way to
//! the files of the tree for what writes, [`conflict`] the pure decision for one path, [`git`] makes
//! the `.git` that travels and brings commits home ([`git::commits`]).
//!
//! A workspace is opened once, as a directory handle, and everything here goes through that handle
//! component by component without following a link, so that no rename or link made meanwhile leads
//! anywhere else.

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use self::change::{BaseNode, Stamp};
use self::nodes::Nodes;
use crate::path::RelPath;

#[cfg(feature = "host")]
pub mod apply;
mod archive;
#[cfg(feature = "host")]
mod beneath;
pub mod change;
pub mod classify;
#[cfg(feature = "host")]
pub mod conflict;
#[cfg(feature = "host")]
pub mod diff;
#[cfg(test)]
mod fixture;
#[cfg(feature = "host")]
pub mod git;
#[cfg(feature = "host")]
pub mod held;
#[cfg(feature = "host")]
mod hex;
#[cfg(feature = "host")]
pub mod host;
#[cfg(feature = "host")]
pub mod limits;
#[cfg(feature = "host")]
pub mod lock;
#[cfg(feature = "host")]
pub mod merge;
pub mod nodes;
#[cfg(feature = "host")]
pub mod pointers;
pub mod receive;
#[cfg(feature = "host")]
pub mod root;
#[cfg(feature = "host")]
pub mod select;
#[cfg(feature = "host")]
pub mod send;
#[cfg(feature = "host")]
pub mod undo;

/// A workspace that was found, checked and opened.
#[derive(Clone, Debug)]
pub struct Workspace {
    /// Its real path, for a person to read; what is done with files goes through `root`.
    pub path: PathBuf,
    /// The directory itself.
    pub root: Arc<OwnedFd>,
    /// Where Codex begins, inside the workspace; `None` for its top.
    pub working_dir: Option<RelPath>,
    /// Which directory it is, whatever it is called.
    pub key: WorkspaceKey,
    /// Directories in it that never travel (the runs directory).
    pub exclude: Vec<RelPath>,
}

/// Names a workspace by what it is: the same directory reached by two paths has one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WorkspaceKey {
    /// Device of the directory.
    pub dev: u64,
    /// Inode of the directory.
    pub ino: u64,
}

/// What a node of a tree is; other kinds (sockets, FIFOs, devices) never travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
}

/// One node as it was on the host when it was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// What it is.
    pub kind: NodeKind,
    /// Permission bits, set-id and sticky bits included, as on the host.
    pub mode: u32,
    /// Bytes of a file; 0 for others.
    pub size: u64,
    /// Time of the last change of its contents: seconds and nanoseconds.
    pub mtime: (i64, u32),
    /// Time of the last change of the inode: seconds and nanoseconds.
    pub ctime: (i64, u32),
    /// Device.
    pub dev: u64,
    /// Inode.
    pub ino: u64,
    /// BLAKE3 of the bytes that were sent; files only.
    pub hash: Option<[u8; 32]>,
    /// Where a link points; links only.
    pub target: Option<Vec<u8>>,
}

/// What a workspace was when it was sent.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Everything that went, except the made `.git`.
    pub nodes: Nodes,
    /// What did not go, at most [`Snapshot::MAX_STAYED_HOME`] of it.
    pub stayed_home: Vec<StayedHome>,
    /// How many did not go in all.
    pub stayed_home_total: u64,
    /// What became of `.git`.
    pub git: GitSent,
    /// Where a made `.git` began; `None` when none was made.
    #[cfg(feature = "host")]
    pub git_base: Option<git::GitBase>,
    /// What of a made `.git` went, so that the next one can be told from it.
    #[cfg(feature = "host")]
    pub git_files: git::GitFiles,
    /// Regular files in `nodes`.
    pub files: u64,
    /// Bytes of these files.
    pub bytes: u64,
    /// The time before anything was read, by the clock that files get their times from: seconds
    /// and nanoseconds.
    pub taken: (i64, u32),
    /// The time then since the system was started, by a clock that nobody sets; it tells whether
    /// the other one was set back since.
    pub uptime: Duration,
    /// The device whose files get their times from that clock: the workspace's, if it is such a one.
    pub local: Option<u64>,
}

impl Snapshot {
    /// The longest list of what stayed home.
    pub const MAX_STAYED_HOME: usize = 500;

    /// What a path was, for the comparison when changes come back. A file that was changed shortly
    /// before it was read gets no stamp: another change in the same tick of the clock would leave
    /// its times as they are. Nor does one whose times come from elsewhere, or are what anybody sets.
    pub fn base(&self, path: &RelPath) -> Option<BaseNode> {
        let node = self.nodes.get(path)?;
        let settled = node.kind == NodeKind::File
            && self.local == Some(node.dev)
            && is_settled(node.ctime, self.taken);
        let Node { dev, ino, mtime, ctime, .. } = *node;
        let stamp = settled.then_some(Stamp { dev, ino, mtime, ctime });
        Some(BaseNode { stamp, ..BaseNode::from(node) })
    }

    /// A sentence for each reason why something stayed home that the user will miss, and for a
    /// history that did not go whole.
    pub fn notes(&self) -> Vec<String> {
        const NAMED: usize = 5;
        let sentence = |reason: &StayReason| {
            let paths: Vec<&str> = self
                .stayed_home
                .iter()
                .filter(|stayed| stayed.reason == *reason)
                .map(|stayed| &*stayed.path)
                .collect();
            let named = paths.get(..NAMED).unwrap_or(&paths).join(", ");
            let more = match paths.len().saturating_sub(NAMED) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            (!paths.is_empty())
                .then(|| format!("Codex did not see {named}{more}, which stayed home: {reason}"))
        };
        let notes = StayReason::UNEXPECTED.iter().filter_map(sentence);
        #[cfg(feature = "host")]
        let notes = notes.chain(match &self.git {
            GitSent::Made { history: Some(history), .. } => Some(history.note()),
            _ => None,
        });
        notes.collect()
    }
}

/// Times of a file system that keeps them in steps of 10 ms or more: the longest such step.
const COARSE: i64 = 2;
const COARSE_STEP: u32 = 10_000_000;

/// Whether a file that was changed at `ctime` has another time if it was changed again after
/// `before`.
fn is_settled(ctime: (i64, u32), before: (i64, u32)) -> bool {
    let coarse = ctime.1.is_multiple_of(COARSE_STEP);
    let (sec, nsec) = ctime;
    (if coarse { (sec.saturating_add(COARSE), nsec) } else { ctime }) < before
}

/// The present time less one tick, by the clock that files get their times from.
fn before_this_tick() -> (i64, u32) {
    use rustix::time::{ClockId, Timespec, clock_getres, clock_gettime};
    let clock = ClockId::RealtimeCoarse;
    let (Timespec { tv_sec, tv_nsec }, tick) = (clock_gettime(clock), clock_getres(clock));
    let nsec = tv_nsec - tick.tv_nsec;
    let (sec, nsec) = if nsec < 0 { (tv_sec - 1, nsec + 1_000_000_000) } else { (tv_sec, nsec) };
    (sec, u32::try_from(nsec).unwrap_or(0))
}

/// Something that did not go into the container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StayedHome {
    /// Its path, written as [`RelPath`] writes it; a directory's ends in `/`.
    pub path: String,
    /// Why.
    pub reason: StayReason,
}

/// Why something did not go into the container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StayReason {
    /// Git ignores the directory; it is large, as a rule, and built for the host.
    IgnoredDirectory,
    /// A valid `CACHEDIR.TAG` in the directory says that it is a cache.
    CacheDirectory,
    /// Git ignores the file, and `workspace.ignored` is `"none"`.
    IgnoredFile,
    /// A pattern of `workspace.exclude` or of a `.codexignore` names it.
    Excluded,
    /// The `.git` of a repository inside the workspace.
    NestedGit,
    /// The workspace's own `.git`; the snapshot's [`GitSent`] says why.
    Git,
    /// Run folders are kept there.
    RunsDirectory,
    /// A socket, FIFO or device.
    Special,
    /// Its path is longer than a system call takes.
    NameTooLong,
    /// It lies deeper than [`DEEPEST`].
    TooDeep,
    /// This user may not read it, or the disk cannot.
    Unreadable,
    /// It changed whenever it was read.
    Changing,
}

/// Directories within each other at most; what lies deeper stays home. A container takes twice as
/// many, so a run may add to the deepest.
pub const DEEPEST: usize = 256;

impl StayReason {
    /// Why something stayed home that neither git nor a setting keeps there.
    const UNEXPECTED: [Self; 4] =
        [Self::Unreadable, Self::Changing, Self::NameTooLong, Self::TooDeep];
}

impl fmt::Display for StayReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::IgnoredDirectory => "git ignores the directory",
            Self::CacheDirectory => "its CACHEDIR.TAG says that it is a cache",
            Self::IgnoredFile => "git ignores the file",
            Self::Excluded => "excluded by workspace.exclude or .codexignore",
            Self::NestedGit => "the .git of a nested repository",
            Self::Git => "the workspace's .git could not be sent",
            Self::RunsDirectory => "run folders are kept there",
            Self::Special => "a socket, FIFO or device",
            Self::NameTooLong => "its path is too long",
            Self::TooDeep => "it lies too deep in directories",
            Self::Unreadable => "it cannot be read",
            Self::Changing => "it changed whenever it was read",
        })
    }
}

/// What became of the workspace's `.git`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GitSent {
    /// There is none.
    #[default]
    None,
    /// One was made from it and sent.
    Made {
        /// Files of it.
        files: u64,
        /// Their bytes.
        bytes: u64,
        /// Whether the index went with it; without one, git in the container sees every file as
        /// deleted from the index until `git reset`.
        index: bool,
        /// What went of its history, if not all of it.
        #[cfg(feature = "host")]
        #[serde(default, skip_serializing_if = "Option::is_none")]
        history: Option<git::CutHistory>,
    },
    /// It was not sent; the files of the tree were. The reason is a sentence for the user.
    StayedHome(String),
}
