//! The journal of an apply: what it is about to do, written before it does anything.
//!
//! ```text
//!  <state>/applies/<dev>-<ino>.json      one JSON value a line, each brought to the disk
//!    1  the plan: workspace, run, every operation with its temporary names
//!    2  "stepping"     before the first rename: until then only temporary files were made
//!    3  {"committed"}  before the first displaced byte is unlinked: from here on it is finished
//! ```
//!
//! The plan comes by rename, so it is whole or not there. A mark without its newline was not
//! finished, so what it announces has not begun.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Direction;
use super::kill::point;
use super::plan::Op;
use super::record::Settled;
use crate::workspace::{Workspace, WorkspaceKey, lock};

const VERSION: u32 = 1;

/// Why a journal cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file system refuses.
    #[error("the journal {} cannot be {verb} ({source}); see to the state directory", path.display())]
    Io {
        /// What was tried.
        verb: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// An apply was finished, and the folder of its run cannot be told.
    #[error(
        "what an apply that was interrupted has done cannot be recorded in {} ({source}); make room \
         there or make it writable, so that the run can be undone, and call again",
        folder.display()
    )]
    Unrecorded {
        /// The run's folder.
        folder: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is not what was written.
    #[error(
        "the journal {} is damaged ({reason}), so an apply that was interrupted cannot be finished \
         or undone; look for files named .codex-*.tmp in the workspace, then remove the journal",
        path.display()
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// The first line.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Intent {
    version: u32,
    /// The workspace's path, for a person and for the next start.
    pub(super) workspace: PathBuf,
    /// Which directory it is.
    pub(super) key: WorkspaceKey,
    /// When that directory was born, where the file system knows it: another one may get its inode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) born: Option<(i64, u32)>,
    pub(super) run: String,
    pub(super) folder: PathBuf,
    pub(super) direction: Direction,
    pub(super) ops: Vec<Op>,
}

impl Intent {
    pub(super) fn new(
        workspace: &Workspace,
        run: &str,
        folder: &Path,
        direction: Direction,
        ops: Vec<Op>,
    ) -> Self {
        Self {
            version: VERSION,
            workspace: workspace.path.clone(),
            key: workspace.key,
            born: born(workspace),
            run: run.to_owned(),
            folder: folder.to_owned(),
            direction,
            ops,
        }
    }

    /// Whether a directory is the one this was written for.
    pub(super) fn is_for(&self, workspace: &Workspace) -> bool {
        match (self.born, born(workspace)) {
            // The device number of a disk may be another after a start of the machine.
            (Some(then), Some(now)) => self.key.ino == workspace.key.ino && then == now,
            _ => self.key == workspace.key,
        }
    }
}

fn born(workspace: &Workspace) -> Option<(i64, u32)> {
    use rustix::fs::{AtFlags, StatxFlags, statx};
    let stat = statx(&*workspace.root, c"", AtFlags::EMPTY_PATH, StatxFlags::BTIME).ok()?;
    let known = stat.stx_mask & StatxFlags::BTIME.bits() != 0;
    known.then_some((stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec))
}

/// How far an apply came.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Mark {
    /// Everything is staged; from here on things are renamed.
    Stepping,
    /// Everything is in its place and the pre-image is on the disk: what was displaced goes.
    Committed(Vec<Settled>),
}

/// A journal that is being written.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
}

impl Journal {
    /// Writes the plan.
    pub(super) fn begin(state: &Path, intent: &Intent) -> Result<Self, JournalError> {
        let folder = folder(state);
        let path = path_of(state, intent.key);
        let failed = |source| JournalError::Io { verb: "written", path: path.clone(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(failed)?;
        let new = path.with_extension("new");
        let write = || {
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&new)?;
            let mut line = serde_json::to_vec(intent)?;
            line.push(b'\n');
            file.write_all(&line)?;
            file.sync_data()?;
            point();
            fs::rename(&new, &path)?;
            File::open(&folder)?.sync_all()?;
            Ok(file)
        };
        let file = write().map_err(failed)?;
        point();
        Ok(Self { path, file })
    }

    /// Adds a mark and brings it to the disk.
    pub(super) fn mark(&mut self, mark: &Mark) -> Result<(), JournalError> {
        point();
        let mut write = || {
            let len = self.file.metadata()?.len();
            let mut line = serde_json::to_vec(mark)?;
            line.push(b'\n');
            let written = self.file.write_all(&line).and_then(|()| self.file.sync_data());
            if written.is_err() {
                // What is not sure to be there must not be found later.
                let _ = self.file.set_len(len);
            }
            written
        };
        let written = write();
        point();
        written.map_err(|source| JournalError::Io {
            verb: "written",
            path: self.path.clone(),
            source,
        })
    }

    /// Removes it: the apply is over, and all that is to be known of it is in the run's folder.
    pub(super) fn end(self) -> Result<(), JournalError> {
        point();
        let gone = fs::remove_file(&self.path);
        point();
        gone.map_err(|source| JournalError::Io { verb: "removed", path: self.path, source })
    }
}

/// A journal that was found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) path: PathBuf,
    pub(super) intent: Intent,
    pub(super) mark: Option<Mark>,
}

/// Where journals are.
fn folder(state: &Path) -> PathBuf {
    state.join("applies")
}

fn path_of(state: &Path, key: WorkspaceKey) -> PathBuf {
    folder(state).join(format!("{}-{}.json", key.dev, key.ino))
}

/// Removes one that was not finished, so nothing of what it plans was begun. The caller has the
/// workspace's exclusive lock.
pub(super) fn sweep(state: &Path, key: WorkspaceKey) {
    // If it cannot be removed, the next one is written over it.
    let _ = fs::remove_file(path_of(state, key).with_extension("new"));
}

/// The same for every workspace that nobody is working in. Blocks for a moment.
pub(super) fn sweep_all(state: &Path) -> Result<(), JournalError> {
    for path in with_extension(state, "new")? {
        let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
        let Some((dev, ino)) = name.split_once('-') else { continue };
        let (Ok(dev), Ok(ino)) = (dev.parse(), ino.parse()) else { continue };
        let key = WorkspaceKey { dev, ino };
        // Who has the lock may be writing it.
        if let Ok(_turn) = lock::exclusive(state, key, Duration::ZERO) {
            sweep(state, key);
        }
    }
    Ok(())
}

/// All journals that there are.
pub(super) fn list(state: &Path) -> Result<Vec<PathBuf>, JournalError> {
    with_extension(state, "json")
}

fn with_extension(state: &Path, wanted: &str) -> Result<Vec<PathBuf>, JournalError> {
    let folder = folder(state);
    let failed = |source| JournalError::Io { verb: "looked for", path: folder.clone(), source };
    let entries = match fs::read_dir(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == wanted) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Those that may be for a workspace: its own (`true`), and any with its inode, since the number of
/// a device may change from one start of the machine to the next.
pub(super) fn list_for(
    state: &Path,
    key: WorkspaceKey,
) -> Result<Vec<(PathBuf, bool)>, JournalError> {
    let (own, end) = (path_of(state, key), format!("-{}.json", key.ino));
    let mut found = list(state)?;
    found.retain(|path| path.file_name().is_some_and(|n| n.to_string_lossy().ends_with(&end)));
    Ok(found.into_iter().map(|path| (path.clone(), path == own)).collect())
}

/// Reads one; `None` if it is gone.
pub(super) fn read(path: &Path) -> Result<Option<Found>, JournalError> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        bytes => bytes.map_err(|source| JournalError::Io {
            verb: "read",
            path: path.to_owned(),
            source,
        })?,
    };
    let damaged = |reason: String| JournalError::Damaged { path: path.to_owned(), reason };
    let mut lines = bytes.split_inclusive(|b| *b == b'\n').filter(|line| line.ends_with(b"\n"));
    let first = lines.next().ok_or_else(|| damaged("its first line is not whole".into()))?;
    let intent: Intent = serde_json::from_slice(first).map_err(|e| damaged(e.to_string()))?;
    if intent.version != VERSION {
        return Err(damaged(format!("its version is {}, not {VERSION}", intent.version)));
    }
    let mut mark = None;
    for line in lines {
        mark = Some(serde_json::from_slice(line).map_err(|e| damaged(e.to_string()))?);
    }
    Ok(Some(Found { path: path.to_owned(), intent, mark }))
}
