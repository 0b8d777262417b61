//! Sends the contents of one file: what it was at one moment, or nothing of it.
//!
//! ```text
//!  open ──> read ──> unchanged since it was opened? ─ yes ─> sent
//!   │         │         └ no ─> again, a few times ─> the last time only as far as the time before:
//!   │         │                                       the same bytes? ─ yes ─> sent (a log that grows)
//!   │         │                                                       └ no ──> changing
//!  gone    unreadable                                             what was begun is withdrawn
//! ```
//!
//! Whether a file changed is seen by its ctime, which moves in ticks of a few milliseconds. So a
//! file that changed in this very tick is read in the next one. A program that writes through a
//! shared mapping may move no ctime at all; that is not seen.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::fs::{FileType, Mode, Stat, fstat, openat};
use rustix::time::{ClockId, clock_gettime};

use super::known::Item;
use super::{CHUNK, SendError, Sending};
use crate::path::RelPath;
use crate::workspace::beneath::{self, Parents};
use crate::workspace::select::{is_gone, is_ours, node_of};
use crate::workspace::{Node, NodeKind, StayReason};

/// Files up to this size are read whole before their header is written.
const SMALL: u64 = 1 << 20;

/// How often a file that changes while it is read is read in all.
const TRIES: u32 = 6;

/// The same for a file over [`LARGE`], of which every reading travels.
const FEW_TRIES: u32 = 3;

/// See [`FEW_TRIES`].
const LARGE: u64 = 64 << 20;

/// The pause before a changing file is read again; grows with the tries.
const PAUSE: Duration = Duration::from_millis(3);

/// How long to wait for the next tick of the kernel's clock, one by one; a tick is at most 10 ms.
const TICK_WAIT: Duration = Duration::from_millis(1);

/// How often.
const TICK_WAITS: u32 = 12;

/// What became of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It was sent, and the node says what.
    Sent,
    /// The container has it already, as the node says.
    There,
    /// It is not there any more.
    Gone,
    /// It is there and stays there.
    Stays(StayReason),
}

/// How one reading of a file ended.
enum Reading {
    /// What was sent is what the file was.
    Whole(Node),
    /// The container has what the file is.
    There(Node),
    /// It changed meanwhile; with what was read, if that was as much as was told.
    Changed(Option<Node>),
    /// It is not there any more.
    Gone,
    /// It cannot be read.
    Unreadable,
}

impl<W: Write> Sending<'_, W> {
    /// Sends a file and completes what is known of it.
    ///
    /// # Errors
    ///
    /// The stream does not take it, or this process can open nothing more.
    pub(super) fn contents(
        &mut self,
        parents: &mut Parents<'_>,
        item: &mut Item<'_>,
    ) -> Result<Fate, SendError> {
        let named = Arc::clone(&item.named);
        let path = &named.path;
        let tries = if named.node.size > LARGE { FEW_TRIES } else { TRIES };
        let mut begun = false;
        let mut before = None;
        let mut fate = Fate::Stays(StayReason::Changing);
        for attempt in 1..=tries {
            let so_far = before.take().filter(|_| attempt == tries);
            let had = item.file_there().filter(|_| !begun && so_far.is_none());
            match self.read(parents, path, so_far.as_ref(), had, &mut begun)? {
                Reading::Whole(read) => {
                    self.known.complete(item, read);
                    return Ok(Fate::Sent);
                }
                Reading::There(read) => {
                    self.known.complete(item, read);
                    return Ok(Fate::There);
                }
                Reading::Changed(read) => before = read,
                Reading::Gone => {
                    fate = Fate::Gone;
                    break;
                }
                Reading::Unreadable => {
                    fate = Fate::Stays(StayReason::Unreadable);
                    break;
                }
            }
            if attempt < tries {
                thread::sleep(PAUSE * attempt);
            }
        }
        if begun {
            self.entries.withdrawn(path.as_bytes()).map_err(SendError::Write)?;
        } else if item.file_there().is_some() {
            self.entries.removed(path.as_bytes()).map_err(SendError::Write)?;
        }
        Ok(fate)
    }

    /// Reads a file once, and sends it. With `so_far`, no more than that, and it is whole if the
    /// bytes are the same; with `had`, which the container has, nothing is sent if it is that.
    /// `begun` says whether an entry of it is in the stream.
    fn read(
        &mut self,
        parents: &mut Parents<'_>,
        path: &RelPath,
        so_far: Option<&Node>,
        had: Option<&Node>,
        begun: &mut bool,
    ) -> Result<Reading, SendError> {
        let (parent, name) = beneath::split(path.as_bytes());
        let opened = parents
            .open(parent)
            .and_then(|parent| Ok(openat(parent, name, beneath::FILE, Mode::empty())?));
        let file = match opened {
            Ok(fd) => File::from(fd),
            Err(error) => return refused(path, error),
        };
        let stat = match at_rest(&file) {
            Ok(stat) => stat,
            Err(error) => return refused(path, error),
        };
        if !FileType::from_raw_mode(stat.st_mode).is_file() {
            return Ok(Reading::Gone);
        }
        let now = node_of(NodeKind::File, &stat, None);
        if let Some(had) = had.filter(|had| may_be(had, &now)) {
            match self.hash(&file, now.size) {
                Ok(hash) if Some(hash) != had.hash => {}
                Ok(_) if !is_unchanged(&file, &stat) => return Ok(Reading::Changed(None)),
                Ok(hash) => return Ok(Reading::There(Node { hash: Some(hash), ..now })),
                Err(error) => return refused(path, error),
            }
        }
        let so_far = so_far.filter(|so_far| so_far.size <= now.size);
        let told = so_far.map_or(now.size, |so_far| so_far.size);
        let judge = |hasher: &blake3::Hasher| {
            let hash = Some(*hasher.finalize().as_bytes());
            let node = Node { size: told, hash, ..now.clone() };
            let whole = told == now.size && is_unchanged(&file, &stat);
            match so_far {
                _ if whole => Reading::Whole(node),
                // With the times of then: a file of which a part was sent must never be taken for
                // unchanged by its times.
                Some(so_far) if so_far.hash == hash => Reading::Whole(so_far.clone()),
                _ => Reading::Changed(Some(node)),
            }
        };
        if told <= SMALL {
            self.small(path, &file, &now, told, judge)
        } else {
            *begun = true;
            self.large(path, &file, &now, told, judge)
        }
    }

    /// The hash of the first `size` bytes of a file, which is at its beginning again afterwards.
    fn hash(&mut self, mut file: &File, size: u64) -> io::Result<[u8; 32]> {
        self.buffer.resize(CHUNK, 0);
        let mut hasher = blake3::Hasher::new();
        let mut left = size;
        while left > 0 {
            let want = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            match file.read(&mut self.buffer[..want]) {
                Ok(0) => break,
                Ok(count) => {
                    hasher.update(&self.buffer[..count]);
                    left -= count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        file.rewind()?;
        Ok(*hasher.finalize().as_bytes())
    }

    /// Reads first, and sends what is whole.
    fn small(
        &mut self,
        path: &RelPath,
        file: &File,
        now: &Node,
        told: u64,
        judge: impl Fn(&blake3::Hasher) -> Reading,
    ) -> Result<Reading, SendError> {
        let mut bytes = std::mem::take(&mut self.buffer);
        bytes.clear();
        let read = file.take(told).read_to_end(&mut bytes);
        let reading = match read {
            Err(error) => refused(path, error),
            Ok(_) if (bytes.len() as u64) < told => Ok(Reading::Changed(None)),
            Ok(_) => Ok(judge(blake3::Hasher::new().update(&bytes))),
        };
        let sent = match reading {
            Ok(Reading::Whole(_)) => {
                self.entries.file(path.as_bytes(), &bytes, now.mode & 0o100 != 0, now.mtime.0)
            }
            _ => Ok(()),
        };
        self.buffer = bytes;
        sent.map_err(SendError::Write)?;
        reading
    }

    /// Sends while it reads; what is missing of what was told is filled up.
    fn large(
        &mut self,
        path: &RelPath,
        mut file: &File,
        now: &Node,
        told: u64,
        judge: impl Fn(&blake3::Hasher) -> Reading,
    ) -> Result<Reading, SendError> {
        self.buffer.resize(CHUNK, 0);
        self.entries
            .begin_file(path.as_bytes(), told, now.mode & 0o100 != 0, now.mtime.0)
            .map_err(SendError::Write)?;
        let mut hasher = blake3::Hasher::new();
        let mut left = told;
        let mut reading = Ok(Reading::Changed(None));
        while left > 0 {
            let want = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            match file.read(&mut self.buffer[..want]) {
                Ok(0) => break,
                Ok(count) => {
                    hasher.update(&self.buffer[..count]);
                    self.entries.data(&self.buffer[..count]).map_err(SendError::Write)?;
                    left -= count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    reading = refused(path, error);
                    break;
                }
            }
        }
        self.entries.end_file(told, left).map_err(SendError::Write)?;
        if left == 0 { Ok(judge(&hasher)) } else { reading }
    }
}

/// Whether the file that a container has may be the one of the host: a time of its contents that is
/// not the host's must travel, too, since programs that build compare it.
fn may_be(had: &Node, now: &Node) -> bool {
    let key = |node: &Node| (node.size, node.mtime.0, node.mode & 0o100);
    key(had) == key(now)
}

/// What an error with a file means for the file.
fn refused(path: &RelPath, error: io::Error) -> Result<Reading, SendError> {
    if is_gone(&error) {
        Ok(Reading::Gone)
    } else if error.kind() == io::ErrorKind::WouldBlock {
        // Somebody holds a lease on it, and is asked for it by the kernel.
        Ok(Reading::Changed(None))
    } else if is_ours(&error) {
        Err(SendError::unreadable(path.as_bytes(), error))
    } else {
        Ok(Reading::Unreadable)
    }
}

/// The stat of a file whose next change will show in it: its ctime is in a tick that is over.
fn at_rest(file: &File) -> io::Result<Stat> {
    for _ in 0..TICK_WAITS {
        let stat = fstat(file)?;
        let now = clock_gettime(ClockId::RealtimeCoarse);
        let changed = (stat.st_ctime, i64::try_from(stat.st_ctime_nsec).unwrap_or(0));
        // A time that lies further ahead comes from a clock that was set back; no use to wait.
        if (now.tv_sec, now.tv_nsec) > changed || changed.0 > now.tv_sec + 1 {
            return Ok(stat);
        }
        thread::sleep(TICK_WAIT);
    }
    Ok(fstat(file)?)
}

/// Whether the open file is as it was.
fn is_unchanged(file: &File, before: &Stat) -> bool {
    let key = |stat: &Stat| {
        let Stat { st_size, st_mtime, st_mtime_nsec, st_ctime, st_ctime_nsec, st_mode, .. } = *stat;
        (st_size, st_mtime, st_mtime_nsec, st_ctime, st_ctime_nsec, st_mode)
    };
    fstat(file).is_ok_and(|now| key(&now) == key(before))
}
