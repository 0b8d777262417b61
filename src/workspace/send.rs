//! Sends a workspace as one tar stream.
//!
//! ```text
//!  find repository ─> select files ─> within limits? ─> stream: directories, files, links ─> .git
//!   (git, 2 programs)   (a walk)        no: an error        hashed while they are read
//! ```
//!
//! Memory is that of the manifest: contents pass through one buffer. A tar header tells the size
//! before the contents, so a small file is read whole first; a large one that changes while it is
//! read is padded or cut to the told size and sent again, and the later entry of a name replaces
//! the earlier one, or withdraws it.
//!
//! What cannot be read stays home and is named; a file that is not in the snapshot is never taken
//! for deleted. `docs/workspace.md` has a row for each kind of odd file.

use std::io::Write;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, statat};

use super::beneath::Parents;
use super::git::{HistoryRules, ObjectFile, Repository, Sent};
use super::limits::Totals;
use super::select;
use super::{GitSent, NodeKind, Snapshot, StayReason, StayedHome, Workspace, before_this_tick};
use crate::clock::uptime;
use crate::config::workspace::{Ignored, WorkspaceConfig};

mod contents;
mod entry;
mod error;
mod git;
pub(in crate::workspace) mod known;

use contents::Fate;
use entry::Entries;
pub use error::SendError;
pub use known::Base;
use known::{Item, Known};

/// Bytes that are read from a file at once.
const CHUNK: usize = 256 << 10;

/// What travels, and how much of it; from `[workspace]`.
#[derive(Clone, Debug)]
pub struct SendRules {
    /// Patterns in the syntax of `.gitignore` for what stays home besides.
    pub exclude: Vec<String>,
    /// What happens to files that git ignores.
    pub ignored: Ignored,
    /// Bytes that may be sent at most, `.git` included.
    pub max_bytes: u64,
    /// Files, directories and links that may be sent at most, `.git` not counted.
    pub max_files: u64,
    /// How much of git's history goes; with the default all of it.
    pub history: HistoryRules,
}

impl SendRules {
    /// A history over the limit is cut, and what goes instead of it kept in this state directory.
    pub fn with_state(mut self, state: &Path) -> Self {
        self.history.state = Some(state.to_owned());
        self
    }
}

impl From<&WorkspaceConfig> for SendRules {
    fn from(config: &WorkspaceConfig) -> Self {
        Self {
            exclude: config.exclude.clone(),
            ignored: config.ignored,
            max_bytes: config.max_bytes,
            max_files: config.max_files,
            history: HistoryRules { limit: config.history_limit, state: None },
        }
    }
}

/// Walks the workspace and writes it to `out` as a tar stream, ended as tar ends. Blocking.
///
/// Entries are relative to the workspace, parents before what is in them, owned by uid and gid
/// 1000, with mode 0755 or 0644 by the owner's executable bit. An entry may come again; the later
/// one counts, and one of kind [`WITHDRAWN`](crate::keeper::wire::WITHDRAWN) takes the file back.
/// The made `.git` is part of the stream and not of the snapshot's nodes.
///
/// # Errors
///
/// Before anything is written: over the limits, the top, the working directory or a file of
/// patterns cannot be read, the working directory stays home. While writing: a tracked file does
/// not hold still, `out` fails. The stream is then without its end and must not be used.
pub fn send(
    workspace: &Workspace,
    rules: &SendRules,
    out: impl Write,
) -> Result<Snapshot, SendError> {
    Ok(send_on(workspace, rules, Base::default(), out)?.snapshot)
}

/// What was sent on a [`Base`].
#[derive(Clone, Debug)]
pub struct Delta {
    /// The whole workspace as the container has it now, what did not travel included.
    pub snapshot: Snapshot,
    /// Files of the workspace that travelled, `.git` not counted.
    pub files: u64,
    /// Bytes of these files.
    pub bytes: u64,
    /// Files of `.git` that travelled.
    pub git_files: u64,
    /// Bytes of these files.
    pub git_bytes: u64,
}

/// As [`send`], but of what the container holds only what differs: entries of kind
/// [`REMOVED`](crate::keeper::wire::REMOVED) for what is gone or of another kind now, then what is
/// new or changed, a directory only where there was none. The limits are those of the whole.
///
/// What `base` says must be of this workspace, and what is held must be what the container holds;
/// whether it is, the keeper checks by the number of the tree.
///
/// # Errors
///
/// As [`send`].
pub fn send_on(
    workspace: &Workspace,
    rules: &SendRules,
    base: Base<'_>,
    out: impl Write,
) -> Result<Delta, SendError> {
    let (taken, uptime) = (before_this_tick(), uptime());
    let local = known::local(&*workspace.root);
    let known = Known::new(base, taken, uptime, local);
    let repository = Repository::find(workspace, &rules.history);
    let mut selection = select::select(workspace, rules, &repository, known)?;
    let (mut made, mut git) = match repository.sent {
        Sent::Make(made) => {
            let (index, history) = (made.index.is_some(), made.cut_history());
            let told = GitSent::Made { files: 0, bytes: 0, index, history };
            (Some(made), told)
        }
        Sent::None => (None, GitSent::None),
        Sent::StayedHome(why) => (None, GitSent::StayedHome(why)),
    };
    if let (GitSent::StayedHome(_), Some(path)) = (&git, name_of_git(workspace)) {
        selection.stayed_home_total += 1;
        let told = StayedHome { path: path.into(), reason: StayReason::Git };
        selection.stayed_home.truncate(Snapshot::MAX_STAYED_HOME - 1);
        selection.stayed_home.insert(0, told);
    }
    let objects = match &mut made {
        Some(made) => made.listed().map_err(SendError::Repacking)?,
        None => Vec::new(),
    };
    check_limits(rules, &mut selection.totals, &objects)?;
    if let Some(directory) = &workspace.working_dir {
        let found = selection.items.binary_search_by(|item| item.named.path.cmp(directory));
        let sent = found.ok().and_then(|at| selection.items.get(at));
        if sent.is_none_or(|item| item.named.node.kind != NodeKind::Directory) {
            return Err(SendError::WorkingDirStaysHome(directory.clone()));
        }
    }

    let mut sending = Sending::new(Entries::new(out), known);
    let mut parents = Parents::new(workspace.root.as_fd());
    if let Some(above) = &repository.above {
        sending.entries.rules_above(above).map_err(SendError::Write)?;
    }
    for path in known.gone(&selection.items) {
        sending.entries.removed(path).map_err(SendError::Write)?;
    }
    let (mut files, mut bytes) = (0, 0);
    let mut left_out = Vec::new();
    for (at, item) in selection.items.iter_mut().enumerate() {
        if known.stays(item) {
            continue;
        }
        match sending.item(&mut parents, item)? {
            Fate::There => {}
            Fate::Sent if item.named.node.kind == NodeKind::File => {
                files += 1;
                bytes += item.named.node.size;
            }
            Fate::Sent => {}
            Fate::Gone => left_out.push((at, None)),
            // Git inside would take it for deleted.
            Fate::Stays(StayReason::Changing)
                if made.is_some() && repository.tracked.contains(item.named.path.as_bytes()) =>
            {
                return Err(SendError::Changing { path: item.named.path.clone() });
            }
            Fate::Stays(reason) => left_out.push((at, Some(reason))),
        }
    }
    // From the last on, so that the places of the others stay what they are.
    for (at, reason) in left_out.into_iter().rev() {
        let item = selection.items.remove(at);
        if let Some(reason) = reason {
            selection.stay(item.named.path.as_bytes(), false, reason);
        }
    }
    selection.stayed_home.sort_by(|a, b| a.path.cmp(&b.path));
    let git_sent = sending.git(made.as_deref(), objects)?;
    if let GitSent::Made { files, bytes, .. } = &mut git {
        (*files, *bytes) = git_sent.whole;
    }
    sending.entries.finish().map_err(SendError::Write)?;

    let nodes = known.nodes(selection.items);
    let sent = nodes.values().filter(|node| node.kind == NodeKind::File);
    let whole = sent.fold((0, 0), |(files, bytes), node| (files + 1, bytes + node.size));
    let snapshot = Snapshot {
        nodes,
        stayed_home: selection.stayed_home,
        stayed_home_total: selection.stayed_home_total,
        git,
        git_base: made.map(|made| made.base),
        git_files: git_sent.files,
        files: whole.0,
        bytes: whole.1,
        taken,
        uptime,
        local,
    };
    let (git_files, git_bytes) = git_sent.travelled;
    Ok(Delta { snapshot, files, bytes, git_files, git_bytes })
}

/// How the workspace's own `.git` is named among what stayed home, if there is one.
fn name_of_git(workspace: &Workspace) -> Option<&'static str> {
    let stat = statat(&*workspace.root, c".git", AtFlags::SYMLINK_NOFOLLOW).ok()?;
    Some(if FileType::from_raw_mode(stat.st_mode).is_dir() { ".git/" } else { ".git" })
}

fn check_limits(
    rules: &SendRules,
    totals: &mut Totals,
    objects: &[ObjectFile],
) -> Result<(), SendError> {
    if totals.entries > rules.max_files {
        let largest = totals.largest(false);
        return Err(SendError::TooManyFiles { limit: rules.max_files, largest });
    }
    for object in objects {
        totals.add(&[b".git/objects/", &*object.path].concat(), object.size);
    }
    if totals.bytes > rules.max_bytes {
        let (bytes, largest) = (totals.bytes, totals.largest(true));
        let sparse = totals.sparse();
        return Err(SendError::TooManyBytes { bytes, limit: rules.max_bytes, largest, sparse });
    }
    Ok(())
}

struct Sending<'h, W: Write> {
    entries: Entries<W>,
    known: Known<'h>,
    buffer: Vec<u8>,
}

impl<'h, W: Write> Sending<'h, W> {
    fn new(entries: Entries<W>, known: Known<'h>) -> Self {
        Self { entries, known, buffer: vec![0; CHUNK] }
    }

    /// Sends one node.
    fn item(&mut self, parents: &mut Parents<'_>, item: &mut Item<'_>) -> Result<Fate, SendError> {
        let (path, node) = (item.named.path.as_bytes(), &item.named.node);
        let sent = match node.kind {
            NodeKind::Directory => self.entries.directory(path, node.mtime.0),
            NodeKind::Link => {
                let target = node.target.as_deref().unwrap_or_default();
                self.entries.link(path, target, node.mtime.0)
            }
            NodeKind::File => return self.contents(parents, item),
        };
        sent.map(|()| Fate::Sent).map_err(SendError::Write)
    }
}
