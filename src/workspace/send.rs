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

use std::io::{self, Read, Write};
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, FileType, statat};

use super::beneath::{self, Parents};
use super::git::{Made, ObjectFile, Repository, Sent};
use super::limits::Totals;
use super::select::{self, is_gone};
use super::{
    GitSent, Node, NodeKind, Snapshot, StayReason, StayedHome, Workspace, before_this_tick,
};
use crate::config::workspace::{Ignored, WorkspaceConfig};
use crate::path::RelPath;

mod contents;
mod entry;
mod error;

use contents::Fate;
use entry::Entries;
pub use error::SendError;

/// Bytes that are read from a file at once.
const CHUNK: usize = 256 << 10;

/// How often the objects are listed again because git packed some of them away.
const OBJECT_ROUNDS: u32 = 4;

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
}

impl From<&WorkspaceConfig> for SendRules {
    fn from(config: &WorkspaceConfig) -> Self {
        Self {
            exclude: config.exclude.clone(),
            ignored: config.ignored,
            max_bytes: config.max_bytes,
            max_files: config.max_files,
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
    let taken = before_this_tick();
    let repository = Repository::find(workspace);
    let mut selection = select::select(workspace, rules, &repository)?;
    let (made, mut git) = match repository.sent {
        Sent::Make(made) => {
            let told = GitSent::Made { files: 0, bytes: 0, index: made.index.is_some() };
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
    let objects = match &made {
        Some(made) => made.object_files().map_err(SendError::Repacking)?,
        None => Vec::new(),
    };
    check_limits(rules, &mut selection.totals, &objects)?;
    if let Some(directory) = &workspace.working_dir {
        let sent = selection.nodes.get(directory);
        if sent.is_none_or(|node| node.kind != NodeKind::Directory) {
            return Err(SendError::WorkingDirStaysHome(directory.clone()));
        }
    }

    let mut sending = Sending::new(Entries::new(out));
    let mut parents = Parents::new(workspace.root.as_fd());
    let mut left_out = Vec::new();
    for (path, node) in &mut selection.nodes {
        match sending.node(&mut parents, path, node)? {
            Fate::Sent => {}
            Fate::Gone => left_out.push((path.clone(), None)),
            // Git inside would take it for deleted.
            Fate::Stays(StayReason::Changing)
                if made.is_some() && repository.tracked.contains(path.as_bytes()) =>
            {
                return Err(SendError::Changing { path: path.clone() });
            }
            Fate::Stays(reason) => left_out.push((path.clone(), Some(reason))),
        }
    }
    for (path, reason) in left_out {
        selection.nodes.remove(&path);
        if let Some(reason) = reason {
            selection.stay(path.as_bytes(), false, reason);
        }
    }
    selection.stayed_home.sort_by(|a, b| a.path.cmp(&b.path));
    let mut git_base = None;
    if let Some(made) = made {
        let (files, bytes) = sending.git(&made, objects)?;
        git = GitSent::Made { files, bytes, index: made.index.is_some() };
        git_base = Some(made.base);
    }
    sending.entries.finish().map_err(SendError::Write)?;

    let sent = selection.nodes.values().filter(|node| node.kind == NodeKind::File);
    let (files, bytes) = sent.fold((0, 0), |(files, bytes), node| (files + 1, bytes + node.size));
    Ok(Snapshot {
        nodes: selection.nodes,
        stayed_home: selection.stayed_home,
        stayed_home_total: selection.stayed_home_total,
        git,
        git_base,
        files,
        bytes,
        taken,
    })
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

struct Sending<W: Write> {
    entries: Entries<W>,
    buffer: Vec<u8>,
}

impl<W: Write> Sending<W> {
    fn new(entries: Entries<W>) -> Self {
        Self { entries, buffer: vec![0; CHUNK] }
    }

    /// Sends one node.
    fn node(
        &mut self,
        parents: &mut Parents<'_>,
        path: &RelPath,
        node: &mut Node,
    ) -> Result<Fate, SendError> {
        let bytes = path.as_bytes();
        let sent = match node.kind {
            NodeKind::Directory => self.entries.directory(bytes, node.mtime.0),
            NodeKind::Link => {
                let target = node.target.as_deref().unwrap_or_default();
                self.entries.link(bytes, target, node.mtime.0)
            }
            NodeKind::File => return self.contents(parents, path, node),
        };
        sent.map(|()| Fate::Sent).map_err(SendError::Write)
    }

    /// Sends the made `.git`: how many files, and their bytes.
    fn git(&mut self, made: &Made, objects: Vec<ObjectFile>) -> Result<(u64, u64), SendError> {
        let below = |path: &[u8]| {
            if path.is_empty() { b".git".to_vec() } else { [b".git/", path].concat() }
        };
        let (mut files, mut bytes) = (0, 0);
        let time = made.index.as_ref().map_or(0, |index| index.mtime);
        for directory in made.directories() {
            self.entries.directory(&below(&directory), time).map_err(SendError::Write)?;
        }
        for (path, contents) in made.small_files() {
            self.entries.file(&below(path), contents, false, time).map_err(SendError::Write)?;
            files += 1;
            bytes += contents.len() as u64;
        }
        if let Some(index) = &made.index {
            self.unchanging(b".git/index", index.reader(), index.size, index.mtime)?;
            files += 1;
            bytes += index.size;
        }
        let mut folders = std::collections::HashSet::new();
        let mut sent = std::collections::HashSet::new();
        let mut waiting = objects;
        for _ in 0..OBJECT_ROUNDS {
            let mut gone = false;
            for object in waiting {
                let (folder, _) = beneath::split(&object.path);
                if folder != b"pack" && !folders.contains(folder) {
                    let path = below(&[b"objects/", folder].concat());
                    self.entries.directory(&path, time).map_err(SendError::Write)?;
                    folders.insert(folder.to_vec());
                }
                if self.object(made, &object)? {
                    files += 1;
                    bytes += object.size;
                    sent.insert(object.path);
                } else {
                    gone = true;
                }
            }
            if !gone {
                return Ok((files, bytes));
            }
            // Git packed some of them: they are in a pack that was not there before.
            waiting = made.object_files().map_err(SendError::Repacking)?;
            waiting.retain(|object| !sent.contains(&object.path));
        }
        Err(SendError::Repacking("objects went away again and again".into()))
    }

    /// Sends one file of the objects; `false` if it is gone.
    fn object(&mut self, made: &Made, object: &ObjectFile) -> Result<bool, SendError> {
        let path = [b".git/objects/", &*object.path].concat();
        let file = match made.open(object) {
            Ok(file) => file,
            Err(error) if is_gone(&error) => return Ok(false),
            Err(error) => return Err(SendError::unreadable(&path, error)),
        };
        self.unchanging(&path, file, object.size, object.mtime)?;
        Ok(true)
    }

    /// Sends a file of `.git` that git replaces and never writes again.
    fn unchanging(
        &mut self,
        path: &[u8],
        mut file: impl Read,
        size: u64,
        mtime: i64,
    ) -> Result<(), SendError> {
        self.entries.begin_file(path, size, false, mtime).map_err(SendError::Write)?;
        self.buffer.resize(CHUNK, 0);
        let mut left = size;
        while left > 0 {
            let want = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            match file.read(&mut self.buffer[..want]) {
                Ok(0) => return Err(SendError::Repacking("a file was cut short".into())),
                Ok(count) => {
                    self.entries.data(&self.buffer[..count]).map_err(SendError::Write)?;
                    left -= count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(SendError::unreadable(path, error)),
            }
        }
        self.entries.end_file(size, 0).map_err(SendError::Write)
    }
}
