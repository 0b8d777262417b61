//! What goes over the stream; used by both sides.
//!
//! The stream carries yamux ([`mux`](super::mux)). The host opens one yamux stream for each
//! operation, the keeper opens one for each connection that a program in the container made. What
//! a stream carries is frames ([`frame`](super::frame)): one byte of kind, four bytes of length
//! (big endian), and the payload.
//!
//! ```text
//!  operation      host -> keeper                       keeper -> host
//!  hello          Request, then Beat for ever          Reply(Hello), then Beat for ever
//!  arm end reset  Request                              Reply
//!  ping           Request                              Reply(null)
//!  put            Request, Data*, End                  Reply(PutReport)
//!  spawn          Request, Data* (stdin), End, Signal* Started, (Data | Stderr)*, Reply(ExitReport)
//!  collect        Request                              Data*, End, Reply(CollectReport)
//!  (connection)   bytes                                Incoming, then bytes
//! ```
//!
//! At any point the keeper may answer `Refused` with a sentence instead; that ends the operation.
//! A stream that ends before its `Reply` did not complete, whatever came before.

mod posture;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use posture::{Attempt, Limit, Posture, Unread, WritableMount};

use crate::path::RelPath;

/// Version of this protocol. The image carries it as a label and the keeper tells it in
/// [`Hello`]; any other is refused with the command that rebuilds the image.
pub const PROTOCOL: u32 = 5;

/// uid and gid of Codex and all it starts.
pub const USER: u32 = 1000;

/// Where the workspace is in a container.
pub const WORKSPACE: &str = "/app";

/// The kind of a tar entry that takes a file of the same put back: the host had begun to send it
/// and could not finish.
pub const WITHDRAWN: u8 = b'W';

/// The kind of a tar entry that takes away what a path held before this put, with all that is in it.
pub const REMOVED: u8 = b'R';

/// The port on the container's loopback interface at which Codex finds the gateway.
pub const GATEWAY_PORT: u16 = 8787;

/// The port on the container's loopback interface at which programs find the proxy to the hosts of
/// `network.allow_hosts`.
pub const PROXY_PORT: u16 = 8788;

/// Where the home directory of [`USER`] is in a container.
pub const HOME: &str = "/home/codex";

/// Where an image keeps the template of `CODEX_HOME`.
pub const HOME_TEMPLATE: &str = "/opt/codex/home-template";

/// Name of the global header of a tree that is put, whose contents are an
/// [`Above`](crate::ignored::Above) as JSON: the rules that hold in the tree besides its own.
pub const RULES_ABOVE: &str = "rules-above";

/// The first frame of a stream that the host opens.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Versions and the heartbeat; once, on the first stream, which stays open for heartbeats.
    Hello {
        /// [`PROTOCOL`] of the host.
        protocol: u32,
        /// Between two heartbeats, in milliseconds, in both directions.
        heartbeat_ms: u64,
    },
    /// Prepare the writable places, start the listeners, read the posture.
    Arm(ArmRequest),
    /// Write a tree into the empty workspace, or what differs into the tree that it holds.
    Put(PutRequest),
    /// Run a program as [`USER`].
    Spawn(SpawnRequest),
    /// End every process but init and keeper.
    End,
    /// Send what differs from what was put.
    Collect(CollectRequest),
    /// End, empty every writable place but for what is to stay of the workspace, restore.
    Reset(ResetRequest),
    /// Answer at once.
    Ping,
}

/// How a container is armed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArmRequest {
    /// Ports on the container's loopback interface whose connections go to the host.
    pub forward: Vec<u16>,
    /// Listen on ports that the kernel chooses instead, for a loopback interface that others use
    /// too; connections are still announced with the port of `forward`.
    #[serde(default)]
    pub any_port: bool,
    /// Directory in the image that is copied to `.codex` in [`HOME`]; nothing is copied if it does
    /// not exist.
    pub codex_home_template: String,
    /// Directories in which the links of [`PutRequest::links`] may be.
    #[serde(default)]
    pub link_places: Vec<String>,
}

impl Default for ArmRequest {
    fn default() -> Self {
        Self {
            forward: vec![GATEWAY_PORT],
            any_port: false,
            codex_home_template: HOME_TEMPLATE.to_owned(),
            link_places: Vec::new(),
        }
    }
}

/// What arming found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Armed {
    /// What is in force.
    pub posture: Posture,
    /// What a reset must restore.
    pub fingerprint: Fingerprint,
    /// Where the listeners are, one for each port of [`ArmRequest::forward`].
    #[serde(default)]
    pub ports: Vec<u16>,
}

/// Limits of what is collected; over one of them the keeper refuses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectRequest {
    /// Bytes of changed files at most; the apparent size counts, so that a sparse file does too.
    pub max_bytes: u64,
    /// Changed and deleted nodes at most.
    pub max_entries: u64,
    /// Which new ignored files come along.
    pub ignored: IgnoredLimits,
}

impl Default for CollectRequest {
    fn default() -> Self {
        Self { max_bytes: 2 << 30, max_entries: 300_000, ignored: IgnoredLimits::default() }
    }
}

/// Which new files come along although git ignores them: single ones outside of ignored
/// directories, as long as they are small and few. A file of settings such as `.env` has some
/// hundred bytes; what is larger or more is a log or the output of a build, which nobody asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IgnoredLimits {
    /// Bytes of one file at most.
    pub each: u64,
    /// Bytes of all of them at most.
    pub bytes: u64,
    /// Files at most.
    pub files: u64,
}

impl Default for IgnoredLimits {
    fn default() -> Self {
        Self { each: 64 << 10, bytes: 1 << 20, files: 100 }
    }
}

/// Which tree is put.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutRequest {
    /// The tree that the host takes the workspace to hold, by the number of the [`PutReport`] or
    /// [`KeptTree`] that was told last; only what differs from it is put. `None`: the workspace holds
    /// none. Anything else is refused.
    #[serde(default)]
    pub base: Option<u64>,
    /// Absolute paths that are made links to [`WORKSPACE`] until the next reset, as far as they lie
    /// in one of [`ArmRequest::link_places`] and nothing else is there.
    #[serde(default)]
    pub links: Vec<String>,
    /// It is put ahead of a job: until the next put the container is nobody's still, and is given up
    /// after the silence that ends an empty one. A keeper that does not know of it takes it for a job.
    #[serde(default)]
    pub ahead: bool,
}

/// How a container is reset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResetRequest {
    /// Keep what a run built in ignored directories for the next tree that is put. It is for the
    /// same workspace only: the host must never put another one into this container.
    pub keep_ignored: bool,
    /// Keep what was put and is still certainly what it was, likewise.
    #[serde(default)]
    pub keep_tree: bool,
}

/// What is left of a tree after a reset.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptTree {
    /// Names it in [`PutRequest::base`]. Each change of the tree has a number of its own.
    pub tree: u64,
    /// What was put and is not in it any more, at most [`KeptTree::MAX_DROPPED`] paths; what lay in a
    /// directory that is named is named too. `.git` and what is in it are among them.
    pub dropped: Vec<RelPath>,
    /// Bytes of the files that are left.
    pub bytes: u64,
}

impl KeptTree {
    /// A tree that lost more is not kept.
    pub const MAX_DROPPED: usize = 10_000;
}

/// What a reset did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResetReport {
    /// Of everything but what was kept; it must be that of arming.
    pub fingerprint: Fingerprint,
    /// What was kept, the topmost paths with their sizes.
    pub kept: Vec<IgnoredTotal>,
    /// The tree that was kept; `None` if the workspace holds none.
    #[serde(default)]
    pub tree: Option<KeptTree>,
    /// Where the listeners are now, as in [`Armed`].
    #[serde(default)]
    pub ports: Vec<u16>,
}

/// The first frame of a stream that the keeper opens.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct IncomingHeader {
    /// The port of [`ArmRequest::forward`] that a program in the container connected to.
    pub port: u16,
}

/// What the keeper says first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTOCOL`] of the keeper.
    pub protocol: u32,
    /// Version of the keeper's package.
    pub version: String,
}

/// A program to run as uid 1000. `Debug` has neither stdin nor what is in the files, nor values of
/// the environment.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct SpawnRequest {
    /// Program (looked up on `PATH`) and arguments.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// Working directory, absolute.
    pub cwd: String,
    /// Written before the program starts, readable by it alone: what may stand in no argument, which
    /// every user of the host can read. Refused if there is something of that path.
    pub files: Vec<PrivateFile>,
    /// Written to stdin, which is closed afterwards. It travels after the request, in frames of its
    /// own, so that its length has no limit here.
    #[serde(skip)]
    pub stdin: String,
    /// Comes back in the exit report and proves that the report is of this run.
    pub nonce: String,
}

impl fmt::Debug for SpawnRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.env.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("SpawnRequest")
            .field("argv", &self.argv)
            .field("env", &names)
            .field("cwd", &self.cwd)
            .field("files", &self.files)
            .field("nonce", &self.nonce)
            .finish_non_exhaustive()
    }
}

/// A file that a program is started with. `Debug` has its path only.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrivateFile {
    /// Relative to [`HOME`], and in a directory that is there.
    pub path: String,
    /// What is in it.
    pub contents: String,
}

impl fmt::Debug for PrivateFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrivateFile").field("path", &self.path).finish_non_exhaustive()
    }
}

/// How a program ended. A run is complete if and only if its own nonce came back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitReport {
    /// Of the [`SpawnRequest`].
    pub nonce: String,
    /// Exit code, unless a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Whether the container's memory limit made the kernel kill a process since the spawn.
    pub out_of_memory: bool,
    /// Whether the keeper ended the run because a writable place was full, and which.
    pub disk_full: Option<String>,
    /// Bytes of output that were dropped. The program waits when the host does not read, so only
    /// what processes it left behind wrote after its end can be dropped.
    pub dropped_bytes: u64,
}

/// What `put` wrote.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutReport {
    /// Files, directories and links written.
    pub entries: u64,
    /// Bytes of files written.
    pub bytes: u64,
    /// Names the tree that the workspace holds now, in [`PutRequest::base`].
    #[serde(default)]
    pub tree: u64,
}

/// What `end` did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndReport {
    /// Processes other than init and keeper that are left; a tree is at rest only at 0.
    pub left: u32,
    /// Rounds of killing it took.
    pub rounds: u32,
}

/// What `collect` sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectReport {
    /// Entries in the tar stream that describe added or changed nodes.
    pub entries: u64,
    /// Bytes of files in them.
    pub bytes: u64,
    /// Paths that were put and are gone.
    pub deleted: u64,
    /// New paths that git ignores, counted per top directory. They stay in the container, but for
    /// the files that came along as [`IgnoredLimits`] says; those are counted here and in `entries`
    /// and `bytes`, too.
    pub ignored: Vec<IgnoredTotal>,
    /// Whether HEAD or a reference of the `.git` that was put is not as it was put. `false` if none
    /// was put.
    #[serde(default)]
    pub git_changed: bool,
}

/// New ignored paths under one top directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IgnoredTotal {
    /// The topmost ignored path, in the quoting of [`crate::path::RelPath`]; directories end in `/`.
    pub path: String,
    /// Bytes of the files in it.
    pub bytes: u64,
    /// Whether a reset that keeps build state keeps it.
    #[serde(default)]
    pub stays: bool,
}

/// The state that a reset must restore.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// Processes in the container besides init and keeper.
    pub processes: u32,
    /// One line for each path in the writable places (path, kind, owner, mode, size), hashed.
    pub places: String,
    /// The mount table, hashed.
    pub mounts: String,
    /// System V and POSIX IPC objects.
    pub ipc: u32,
}
