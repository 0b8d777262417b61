//! Takes in what a container gives back, and trusts nothing of it.
//!
//! The stream is the keeper's tar (`tree/<path>` for what was added or changed, `ignored/<path>` for
//! small new files that git ignores, `meta/deleted` at the end for what is gone). It is checked entry by entry and written anew as `changes.tar`, so
//! that no byte of the original's structure survives: every later reader sees only our own
//! archive. Nothing of the workspace is touched here.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::archive::read::{Entry, TarError, TarReader};
use super::archive::write::TarWriter;
use super::change::{ContentHash, LinkTarget, NewNode, executable};
use super::{NodeKind, Snapshot};
use crate::keeper::wire::IgnoredLimits;
use crate::path::{Above, RelPath, RelPathError, shown};

/// The deepest path in components; the keeper itself refuses deeper trees.
const DEEPEST: usize = 512;
/// Bytes of paths and link targets for each path that may come; most paths have half of it.
const PATH_BYTES: u64 = 160;

/// How much is taken in at most. All of it is memory or disk of the host that a hostile or broken
/// container could otherwise use up. A path that arrived costs about 250 bytes of memory and its
/// own length, and 350 as a [`Change`](super::change::Change).
#[derive(Clone, Copy, Debug)]
pub struct ReceiveLimits {
    /// Entries, directories that they imply, and deleted paths together: `workspace.max_files`.
    pub entries: u64,
    /// Bytes of all files together; they go to the run folder: `workspace.max_bytes`.
    pub bytes: u64,
    /// Bytes of all paths and link targets together; they are held in memory.
    pub path_bytes: u64,
    /// Bytes of one link target; Linux allows 4,095.
    pub target_bytes: usize,
    /// What is asked of the keeper of new files that git ignores, and no more is taken.
    pub ignored: IgnoredLimits,
}

impl ReceiveLimits {
    /// Limits for so many paths (`workspace.max_files`) and bytes (`workspace.max_bytes`): what comes
    /// back may be as large as what may be sent.
    pub fn new(entries: u64, bytes: u64) -> Self {
        let path_bytes = entries.saturating_mul(PATH_BYTES).max(1024 * 1024);
        Self {
            entries,
            bytes,
            path_bytes,
            target_bytes: RelPath::MAX_BYTES,
            ignored: IgnoredLimits::default(),
        }
    }
}

/// One path that arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arrived {
    /// A file, directory or link; `mode` has the bits as they were in the container.
    Node {
        /// What it is now.
        new: NewNode,
        /// Permission, setuid, setgid and sticky bits in the container.
        mode: u32,
    },
    /// What has no place in a change set: a FIFO, device, socket or hard link.
    Special,
}

/// What a container gave back, checked for form but not yet for meaning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// What was added or changed. No entry lies below one that is no directory, and there are no
    /// more directories above them than the limit of paths.
    pub entries: BTreeMap<RelPath, Arrived>,
    /// Which of them are new files that git ignores.
    pub ignored: BTreeSet<RelPath>,
    /// What was sent and is gone.
    pub deleted: BTreeSet<RelPath>,
    /// Bytes of all files.
    pub bytes: u64,
}

/// Why a change set was refused. None of it was used.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// The stream failed or ended early.
    #[error("the change set did not arrive whole: {0}")]
    Stream(String),
    /// The archive is not as a keeper writes it.
    #[error("the change set is malformed: {0}")]
    Malformed(String),
    /// A path that is no plain relative path.
    #[error("the change set names {shown}, which cannot be a path in the workspace: {why}")]
    Path {
        /// The path, quoted.
        shown: String,
        /// What is wrong with it.
        why: RelPathError,
    },
    /// Over a limit.
    #[error("the change set has more than {limit} {what}")]
    TooLarge {
        /// Of what.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// The run folder could not be written.
    #[error("cannot write {path}: {source}")]
    Archive {
        /// Which file.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// What was written to the run folder could not be read again.
    #[error("cannot read {path}: {source}")]
    Unread {
        /// Which file.
        path: String,
        /// Why not.
        source: io::Error,
    },
}

impl From<TarError> for ReceiveError {
    fn from(error: TarError) -> Self {
        match error {
            TarError::Io(error) => Self::Stream(error.to_string()),
            TarError::CutOff => Self::Stream(error.to_string()),
            TarError::Malformed(what) => Self::Malformed(what.into()),
        }
    }
}

/// Reads the whole stream, checks it, and writes the bytes of its files to `archive`, which must
/// not exist. Blocks. Takes time and memory in proportion to what comes, whatever it is, and stops
/// reading at the first thing that is wrong.
///
/// # Errors
///
/// Anything that is not as it must be; there is no `archive` then.
pub fn receive(
    tar: impl Read,
    snapshot: &Snapshot,
    limits: &ReceiveLimits,
    archive: &Path,
) -> Result<Received, ReceiveError> {
    let failed = |source| ReceiveError::Archive { path: archive.display().to_string(), source };
    let file = OpenOptions::new()
        .write(true)
        .read(true)
        .create_new(true)
        .mode(0o600)
        .open(archive)
        .map_err(failed)?;
    let received = Intake::new(snapshot, limits).read(tar, TarWriter::new(file));
    received.map_err(|error| {
        // Of no use, and it may be large. That it cannot be removed says nothing new.
        let _ = std::fs::remove_file(archive);
        match error {
            Taken::Refused(error) => error,
            Taken::Unwritten(source) => failed(source),
        }
    })
}

/// The path of an entry, and whether git ignores it.
fn place_of(name: &[u8]) -> Option<(bool, &[u8])> {
    let tree = name.strip_prefix(b"tree/").map(|path| (false, path));
    tree.or_else(|| name.strip_prefix(b"ignored/").map(|path| (true, path)))
}

enum Taken {
    Refused(ReceiveError),
    Unwritten(io::Error),
}

impl<E: Into<ReceiveError>> From<E> for Taken {
    fn from(error: E) -> Self {
        Self::Refused(error.into())
    }
}

struct Intake<'a> {
    snapshot: &'a Snapshot,
    limits: &'a ReceiveLimits,
    received: Received,
    path_bytes: u64,
    ignored_bytes: u64,
    /// Whether the root was named.
    root: bool,
    buffer: Vec<u8>,
}

impl<'a> Intake<'a> {
    fn new(snapshot: &'a Snapshot, limits: &'a ReceiveLimits) -> Self {
        let received = Received::default();
        Self {
            snapshot,
            limits,
            received,
            path_bytes: 0,
            ignored_bytes: 0,
            root: false,
            buffer: vec![0; 64 * 1024],
        }
    }

    fn read(mut self, tar: impl Read, mut out: TarWriter) -> Result<Received, Taken> {
        let mut reader = TarReader::new(tar);
        let mut whole = false;
        while let Some(entry) = reader.next()? {
            if whole {
                let what = "an entry after the list of deleted paths";
                return Err(ReceiveError::Malformed(what.into()).into());
            }
            if entry.name == b"meta/deleted" {
                self.deleted(&entry, &mut reader)?;
                whole = true;
            } else if matches!(&entry.name[..], b"tree" | b"tree/") {
                self.root(&entry)?;
            } else if let Some((ignored, path)) = place_of(&entry.name) {
                if ignored {
                    self.ignored(path, &entry)?;
                }
                self.entry(path.to_vec(), &entry, &mut reader, &mut out)?;
            } else {
                let what = format!("an entry in no known place, {}", shown(&entry.name));
                return Err(ReceiveError::Malformed(what).into());
            }
        }
        if !whole {
            let what = "the list of deleted paths is missing";
            return Err(ReceiveError::Stream(what.into()).into());
        }
        self.check_tree()?;
        let file = out.finish().map_err(Taken::Unwritten)?;
        file.sync_data().map_err(Taken::Unwritten)?;
        Ok(self.received)
    }

    /// Checks the entry of a new file that git ignores; it is then taken in like any other.
    fn ignored(&mut self, name: &[u8], entry: &Entry) -> Result<(), ReceiveError> {
        let path = self.path(name.to_vec())?;
        if !matches!(entry.flag, b'0' | 0) || self.snapshot.nodes.contains_key(&path) {
            return Err(malformed("an ignored path that is no new file", &path));
        }
        let limits = &self.limits.ignored;
        self.ignored_bytes = self.ignored_bytes.saturating_add(entry.size);
        let too_much = entry.size > limits.each
            || self.ignored_bytes > limits.bytes
            || self.received.ignored.len() as u64 >= limits.files;
        if too_much {
            return Err(malformed("more ignored files than were asked for", &path));
        }
        self.received.ignored.insert(path);
        Ok(())
    }

    /// The root itself says nothing; but it must not say it for ever.
    fn root(&mut self, entry: &Entry) -> Result<(), ReceiveError> {
        if entry.flag != b'5' || entry.size != 0 || std::mem::replace(&mut self.root, true) {
            return Err(ReceiveError::Malformed("a root that is none".into()));
        }
        Ok(())
    }

    fn entry<R: Read>(
        &mut self,
        mut name: Vec<u8>,
        entry: &Entry,
        reader: &mut TarReader<R>,
        out: &mut TarWriter,
    ) -> Result<(), Taken> {
        if entry.flag == b'5' && name.last() == Some(&b'/') {
            name.pop();
        }
        let path = self.path(name)?;
        self.count(path.as_bytes().len() + entry.target.len())?;
        if entry.mode & !0o7777 != 0 {
            return Err(malformed("a mode that is none", &path).into());
        }
        if entry.flag != b'0' && entry.flag != 0 && entry.size != 0 {
            return Err(malformed("bytes where none belong", &path).into());
        }
        let arrived = match entry.flag {
            b'0' | 0 => self.file(&path, entry, reader, out)?,
            b'5' => {
                out.entry(&tree(&path, b"/"), NodeKind::Directory, entry.mode, 0, b"")
                    .map_err(Taken::Unwritten)?;
                node(NodeKind::Directory, entry.mode, None)
            }
            b'2' => {
                let target = &entry.target;
                if target.is_empty() || target.len() > self.limits.target_bytes {
                    return Err(malformed("a link to nowhere", &path).into());
                }
                out.entry(&tree(&path, b""), NodeKind::Link, 0o777, 0, target)
                    .map_err(Taken::Unwritten)?;
                node(NodeKind::Link, entry.mode, Some(LinkTarget(target.clone())))
            }
            // Hard links, devices, and what stands for FIFOs and sockets.
            b'1' | b'3' | b'4' | b'6' => Arrived::Special,
            _ => return Err(malformed("an entry of no known kind", &path).into()),
        };
        if self.received.entries.insert(path.clone(), arrived).is_some() {
            return Err(malformed("twice the same path", &path).into());
        }
        Ok(())
    }

    fn file<R: Read>(
        &mut self,
        path: &RelPath,
        entry: &Entry,
        reader: &mut TarReader<R>,
        out: &mut TarWriter,
    ) -> Result<Arrived, Taken> {
        let bytes = self.received.bytes.saturating_add(entry.size);
        if bytes > self.limits.bytes {
            let (what, limit) = ("bytes (workspace.max_bytes)", self.limits.bytes);
            return Err(ReceiveError::TooLarge { what, limit }.into());
        }
        self.received.bytes = bytes;
        let offset = out
            .entry(&tree(path, b""), NodeKind::File, entry.mode & 0o777, entry.size, b"")
            .map_err(Taken::Unwritten)?;
        let mut hasher = blake3::Hasher::new();
        let buffer = &mut self.buffer;
        let mut left = entry.size;
        while left > 0 {
            let n = match reader.read(buffer) {
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(ReceiveError::Stream(error.to_string()).into()),
            };
            hasher.update(&buffer[..n]);
            out.write_all(&buffer[..n]).map_err(Taken::Unwritten)?;
            left -= n as u64;
        }
        out.pad().map_err(Taken::Unwritten)?;
        let new = NewNode {
            kind: NodeKind::File,
            executable: executable(entry.mode),
            size: entry.size,
            hash: Some(ContentHash(*hasher.finalize().as_bytes())),
            offset,
            target: None,
        };
        Ok(Arrived::Node { new, mode: entry.mode })
    }

    /// The last entry: NUL-separated paths that were sent and are gone.
    fn deleted<R: Read>(
        &mut self,
        entry: &Entry,
        reader: &mut TarReader<R>,
    ) -> Result<(), ReceiveError> {
        if !matches!(entry.flag, b'0' | 0) {
            return Err(ReceiveError::Malformed("the list of deleted paths is no file".into()));
        }
        // It is read whole, so it may not be longer than a list of everything that was sent.
        let sent: usize = self.snapshot.nodes.keys().map(|path| path.as_bytes().len() + 1).sum();
        if entry.size > sent as u64 {
            let what = "the list of deleted paths is longer than one of all that was sent";
            return Err(ReceiveError::Malformed(what.into()));
        }
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).map_err(|e| ReceiveError::Stream(e.to_string()))?;
        let list = bytes.strip_suffix(b"\0").unwrap_or(&bytes);
        if list.is_empty() {
            return Ok(());
        }
        for name in list.split(|b| *b == 0) {
            let path = self.path(name.to_vec())?;
            self.count(name.len())?;
            if !self.snapshot.nodes.contains_key(&path) {
                return Err(malformed("it says that a path is gone that was never sent", &path));
            }
            if self.received.entries.contains_key(&path) {
                return Err(malformed("it has a path that it says is gone", &path));
            }
            if !self.received.deleted.insert(path.clone()) {
                return Err(malformed("twice the same path", &path));
            }
        }
        Ok(())
    }

    /// Every parent of an entry must be a directory after the run, and those that nobody named
    /// count, too: they will be made.
    fn check_tree(&self) -> Result<(), ReceiveError> {
        let mut order: Vec<(&RelPath, &Arrived)> = self.received.entries.iter().collect();
        order.sort_unstable_by(|(one, _), (other, _)| one.tree_order(other));
        let named = (order.len() + self.received.deleted.len()) as u64;
        let mut implied = 0;
        let mut above = Above::new();
        for (path, arrived) in order {
            // What was named is met before what is in it, so none of these was.
            let holder = above.go(path, |directory, holder| {
                let was = self.snapshot.nodes.get(directory).map(|node| node.kind);
                implied += u64::from(was.is_none());
                holder != Some(&false)
                    && !self.received.deleted.contains(directory)
                    && was.is_none_or(|kind| kind == NodeKind::Directory)
            });
            if holder == Some(&false) {
                return Err(malformed("a path below one that is no directory", path));
            }
            if named + implied > self.limits.entries {
                return Err(self.too_many());
            }
            above.say(match arrived {
                Arrived::Node { new, .. } => new.kind == NodeKind::Directory,
                Arrived::Special => false,
            });
        }
        Ok(())
    }

    fn path(&self, name: Vec<u8>) -> Result<RelPath, ReceiveError> {
        let text = shown(&name);
        let path = RelPath::new(name).map_err(|why| ReceiveError::Path { shown: text, why })?;
        match path.components().count() > DEEPEST {
            true => Err(malformed("a path of more than 512 directories", &path)),
            false => Ok(path),
        }
    }

    fn count(&mut self, bytes: usize) -> Result<(), ReceiveError> {
        self.path_bytes = self.path_bytes.saturating_add(bytes as u64);
        if self.path_bytes > self.limits.path_bytes {
            let what = "bytes of paths (160 times workspace.max_files)";
            return Err(ReceiveError::TooLarge { what, limit: self.limits.path_bytes });
        }
        let entries = self.received.entries.len() + self.received.deleted.len();
        match entries as u64 >= self.limits.entries {
            true => Err(self.too_many()),
            false => Ok(()),
        }
    }

    fn too_many(&self) -> ReceiveError {
        let what = "files, directories and links (workspace.max_files)";
        ReceiveError::TooLarge { what, limit: self.limits.entries }
    }
}

fn node(kind: NodeKind, mode: u32, target: Option<LinkTarget>) -> Arrived {
    let new = NewNode { kind, executable: false, size: 0, hash: None, offset: 0, target };
    Arrived::Node { new, mode }
}

fn tree(path: &RelPath, end: &[u8]) -> Vec<u8> {
    [b"tree/", path.as_bytes(), end].concat()
}

fn malformed(what: &str, path: &RelPath) -> ReceiveError {
    ReceiveError::Malformed(format!("{what}, {}", shown(path.as_bytes())))
}

#[cfg(test)]
#[path = "receive_tests.rs"]
mod tests;
