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
//! the earlier one.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::fs::{AtFlags, FileType, Mode, fstat, openat, statat};

use super::beneath::{self, Parents};
use super::git::{Made, ObjectFile, Repository, Sent};
use super::limits::{Largest, Totals};
use super::select::{self, is_gone, node_of};
use super::{
    GitSent, Node, NodeKind, Snapshot, StayReason, StayedHome, Workspace, before_this_tick,
};
use crate::config::workspace::{Ignored, WorkspaceConfig};
use crate::failure::{ErrorKind, Failure};
use crate::path::RelPath;

mod entry;

use entry::Entries;

/// Files up to this size are read whole before their header is written.
const SMALL: u64 = 1 << 20;

/// Bytes that are read from a file at once.
const CHUNK: usize = 256 << 10;

/// How often a file that changes while it is read is read in all.
const TRIES: u32 = 6;

/// The pause before a changing file is read again; grows with the tries.
const PAUSE: Duration = Duration::from_millis(3);

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

/// Why a workspace was not sent.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// Over `workspace.max_files`.
    #[error(
        "the workspace has more than {limit} files, directories and links ({largest}); exclude \
         some with workspace.exclude or .codexignore, or raise workspace.max_files"
    )]
    TooManyFiles {
        /// The limit.
        limit: u64,
        /// Where they are.
        largest: Largest,
    },
    /// Over `workspace.max_bytes`.
    #[error(
        "the workspace has {}, more than the limit of {} ({largest}); exclude some with \
         workspace.exclude or .codexignore, or raise workspace.max_bytes",
        bytesize::ByteSize(*bytes),
        bytesize::ByteSize(*limit)
    )]
    TooManyBytes {
        /// What it has.
        bytes: u64,
        /// The limit.
        limit: u64,
        /// Where they are.
        largest: Largest,
    },
    /// Something that should travel cannot be read.
    #[error(
        "{path} in the workspace cannot be read ({source}); make it readable for this user, or \
         exclude it with workspace.exclude or .codexignore"
    )]
    Unreadable {
        /// Its path; the quoting of [`RelPath`].
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A file never held still.
    #[error(
        "{path} in the workspace changes faster than it can be read; end what writes it, or \
         exclude it with workspace.exclude or .codexignore"
    )]
    Changing {
        /// Its path.
        path: RelPath,
    },
    /// Git's objects went away faster than they could be read.
    #[error("git is repacking the workspace's objects; call again when it is done ({0})")]
    Repacking(String),
    /// `working_dir` is among what stays home.
    #[error(
        "working_dir {0} stays home, because git ignores it or a setting excludes it; give another one"
    )]
    WorkingDirStaysHome(RelPath),
    /// The stream did not take it.
    #[error("the workspace could not be written to the container ({0})")]
    Write(#[source] io::Error),
}

impl SendError {
    /// The stable kind that callers see.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::TooManyFiles { .. } | Self::TooManyBytes { .. } => ErrorKind::WorkspaceTooLarge,
            Self::WorkingDirStaysHome(_) => ErrorKind::InvalidArgument,
            Self::Unreadable { .. }
            | Self::Changing { .. }
            | Self::Repacking(_)
            | Self::Write(_) => ErrorKind::TransferFailed,
        }
    }

    pub(super) fn unreadable(path: &[u8], source: io::Error) -> Self {
        let path = match RelPath::new(path) {
            Ok(path) => path.to_string(),
            Err(_) => "a directory".into(),
        };
        Self::Unreadable { path, source }
    }
}

impl From<SendError> for Failure {
    fn from(error: SendError) -> Self {
        Self::new(error.kind(), error.to_string())
    }
}

/// Walks the workspace and writes it to `out` as a tar stream, ended as tar ends. Blocking.
///
/// Entries are relative to the workspace, parents before what is in them, owned by uid and gid
/// 1000, with mode 0755 or 0644 by the owner's executable bit. An entry may come again; the later
/// one counts. The made `.git` is part of the stream and not of the snapshot's nodes.
///
/// # Errors
///
/// Before anything is written: over the limits, a directory cannot be read, the working directory
/// stays home. While writing: a file cannot be read or does not hold still, `out` fails. The
/// stream is then without its end and must not be used.
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
    let mut gone = Vec::new();
    for (path, node) in &mut selection.nodes {
        if !sending.node(&mut parents, path, node)? {
            gone.push(path.clone());
        }
    }
    for path in gone {
        selection.nodes.remove(&path);
    }
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
        return Err(SendError::TooManyBytes { bytes, limit: rules.max_bytes, largest });
    }
    Ok(())
}

/// How one reading of a file ended.
enum Reading {
    /// What was sent is what the file was.
    Whole(Node),
    /// It changed meanwhile.
    Changed {
        /// An entry of it was sent all the same, and has to be replaced.
        sent: bool,
    },
    /// It is not there any more.
    Gone,
}

struct Sending<W: Write> {
    entries: Entries<W>,
    buffer: Vec<u8>,
}

impl<W: Write> Sending<W> {
    fn new(entries: Entries<W>) -> Self {
        Self { entries, buffer: vec![0; CHUNK] }
    }

    /// Sends one node and completes what is known of it; `false` if it is gone.
    fn node(
        &mut self,
        parents: &mut Parents<'_>,
        path: &RelPath,
        node: &mut Node,
    ) -> Result<bool, SendError> {
        match node.kind {
            NodeKind::Directory => {
                self.entries.directory(path.as_bytes(), node.mtime.0).map_err(SendError::Write)?;
                Ok(true)
            }
            NodeKind::Link => {
                let target = node.target.as_deref().unwrap_or_default();
                self.entries
                    .link(path.as_bytes(), target, node.mtime.0)
                    .map_err(SendError::Write)?;
                Ok(true)
            }
            NodeKind::File => {
                let mut begun = false;
                for attempt in 0..TRIES {
                    if attempt > 0 {
                        std::thread::sleep(PAUSE * attempt);
                    }
                    match self.file(parents, path)? {
                        Reading::Whole(read) => {
                            *node = read;
                            return Ok(true);
                        }
                        // What was sent of it cannot be taken back.
                        Reading::Gone if begun => break,
                        Reading::Gone => return Ok(false),
                        Reading::Changed { sent } => begun |= sent,
                    }
                }
                Err(SendError::Changing { path: path.clone() })
            }
        }
    }

    /// Reads a file once, and sends it.
    fn file(&mut self, parents: &mut Parents<'_>, path: &RelPath) -> Result<Reading, SendError> {
        let fail = |error: io::Error| SendError::unreadable(path.as_bytes(), error);
        let (parent, name) = beneath::split(path.as_bytes());
        let opened = parents
            .open(parent)
            .and_then(|parent| Ok(openat(parent, name, beneath::FILE, Mode::empty())?));
        let mut file = match opened {
            Ok(fd) => File::from(fd),
            Err(error) if is_gone(&error) => return Ok(Reading::Gone),
            Err(error) => return Err(fail(error)),
        };
        let before = fstat(&file).map_err(|error| fail(error.into()))?;
        if !FileType::from_raw_mode(before.st_mode).is_file() {
            return Ok(Reading::Gone);
        }
        let mut node = node_of(NodeKind::File, &before, None);
        let mut hasher = blake3::Hasher::new();
        let executable = node.mode & 0o100 != 0;
        let small = node.size <= SMALL;
        let size = if small {
            let mut bytes = std::mem::take(&mut self.buffer);
            bytes.clear();
            // One byte more than expected shows that it grew.
            let read = (&file).take(node.size + 1).read_to_end(&mut bytes);
            let size = bytes.len() as u64;
            let same = read.is_ok() && size == node.size && unchanged(&file, &before);
            let sent = if same {
                hasher.update(&bytes);
                self.entries.file(path.as_bytes(), &bytes, executable, node.mtime.0)
            } else {
                Ok(())
            };
            self.buffer = bytes;
            read.map_err(fail)?;
            sent.map_err(SendError::Write)?;
            if !same {
                return Ok(Reading::Changed { sent: false });
            }
            size
        } else {
            self.buffer.resize(CHUNK, 0);
            self.entries
                .begin_file(path.as_bytes(), node.size, executable, node.mtime.0)
                .map_err(SendError::Write)?;
            let mut left = node.size;
            while left > 0 {
                let want = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
                let count = match file.read(&mut self.buffer[..want]) {
                    Ok(0) => break,
                    Ok(count) => count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => return Err(fail(error)),
                };
                hasher.update(&self.buffer[..count]);
                self.entries.data(&self.buffer[..count]).map_err(SendError::Write)?;
                left -= count as u64;
            }
            // Shorter than told: the entry is filled up, and comes again.
            self.entries.end_file(node.size, left).map_err(SendError::Write)?;
            if left > 0 || !unchanged(&file, &before) {
                return Ok(Reading::Changed { sent: true });
            }
            node.size
        };
        node.size = size;
        node.hash = Some(*hasher.finalize().as_bytes());
        Ok(Reading::Whole(node))
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

/// Whether the open file is as it was.
fn unchanged(file: &File, before: &rustix::fs::Stat) -> bool {
    fstat(file).is_ok_and(|now| {
        (now.st_size, now.st_mtime, now.st_mtime_nsec, now.st_ctime, now.st_ctime_nsec, now.st_mode)
            == (
                before.st_size,
                before.st_mtime,
                before.st_mtime_nsec,
                before.st_ctime,
                before.st_ctime_nsec,
                before.st_mode,
            )
    })
}
