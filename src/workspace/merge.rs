//! Three-way merge of text that both sides changed, as `on_conflict = "markers"` asks for.
//!
//! ```text
//!  in conflict ── a file on all three sides, text, not large ── git has what was sent ─> merged
//!      │                        │ no                               │ no
//!      │ no                     └──────────────> refused <─────────┘
//!      └──> not our business
//! ```
//!
//! A merge writes nothing to the workspace: it makes a change whose base is what the host has now
//! and whose new bytes are the merge, appended to `changes.tar`. The apply does the rest, so a save
//! that comes in between is a conflict as ever.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::archive::write::TarWriter;
use super::change::{BaseNode, Change, ChangeSet, ChangeState, ContentHash, NewNode};
use super::conflict::{Decision, HostNow, decide};
use super::git::merge::{Sides, base_of, merge_file};
use super::host::Host;
use super::{NodeKind, Workspace};
use crate::path::RelPath;

/// Bytes of a file that is merged, at most; three of them are in memory.
const MAX_MERGED: u64 = 4 << 20;
/// How far git looks for a NUL byte, which makes a file binary.
const BINARY_PROBE: usize = 8000;

/// A path that was merged.
#[derive(Clone, Debug)]
pub struct Merged {
    /// Which.
    pub path: RelPath,
    /// In how many places both sides changed the same lines; each has markers.
    pub conflicts: u32,
    /// Base and new of the change as it was before.
    was: (Option<BaseNode>, Option<NewNode>),
}

/// What a merge made of the conflicts of a change set.
#[derive(Clone, Debug, Default)]
pub struct Merges {
    /// What was merged; the changes say so now.
    pub merged: Vec<Merged>,
    /// What was not, by path, with why.
    pub refused: BTreeMap<String, &'static str>,
}

impl Merges {
    /// Makes the changes that were not applied what they were before. Gives whether there are any.
    pub fn put_back(&self, changes: &mut ChangeSet) -> bool {
        let mut any = false;
        for merged in &self.merged {
            if let Some(change) = changes.at_mut(&merged.path)
                && change.state == ChangeState::Held
            {
                (change.base, change.new) = merged.was.clone();
                change.bytes = change.new.as_ref().map_or(0, |new| new.size);
                any = true;
            }
        }
        any
    }
}

/// Merges what is waiting within `only` (empty: all) and in conflict with what the host has now.
/// `folder` is that of the run, with `changes.tar`; `run` its id, for the markers. Blocks; the
/// caller has the workspace's [turn to write](super::lock::write).
///
/// # Errors
///
/// The run's folder cannot be read or written. What cannot be merged is no error.
pub fn merge(
    workspace: &Workspace,
    changes: &mut ChangeSet,
    only: &[RelPath],
    folder: &Path,
    run: &str,
) -> io::Result<Merges> {
    let mut merges = Merges::default();
    let mut merger = Merger { workspace, host: Host::of(workspace), folder, run, out: None };
    for change in changes.changes.iter_mut().filter(|change| {
        change.is_waiting()
            && (only.is_empty() || only.iter().any(|path| change.path.is_within(path)))
    }) {
        // What cannot be looked at is for the apply to tell.
        let Ok(now) = merger.host.look(&change.path) else { continue };
        let decision = decide(change.base.as_ref(), change.new.as_ref(), &now);
        if !matches!(decision, Decision::Conflict(_)) {
            continue;
        }
        match merger.one(change, &now)? {
            Ok(merged) => merges.merged.push(merged),
            Err(why) => {
                merges.refused.insert(change.path.to_string(), why);
            }
        }
    }
    merger.finish()?;
    Ok(merges)
}

struct Merger<'a> {
    workspace: &'a Workspace,
    host: Host,
    folder: &'a Path,
    run: &'a str,
    /// The archive, once something was merged.
    out: Option<TarWriter>,
}

impl Merger<'_> {
    /// Merges one; the inner error says why that cannot be.
    fn one(
        &mut self,
        change: &mut Change,
        now: &HostNow,
    ) -> io::Result<Result<Merged, &'static str>> {
        let (Some(base), Some(new), HostNow::Node(now)) = (&change.base, &change.new, now) else {
            return Ok(Err("one side has no file there"));
        };
        if [base.kind, new.kind, now.kind].iter().any(|kind| *kind != NodeKind::File) {
            return Ok(Err("one side has something other than a file there"));
        }
        if [base.size, new.size, now.size].iter().any(|size| *size > MAX_MERGED) {
            return Ok(Err("it is larger than 4 MiB"));
        }
        let Some(hash) = base.hash else { return Ok(Err("nobody knows what was sent")) };
        let Some(ours) = self.read_host(&change.path, now) else {
            return Ok(Err("it is being changed right now"));
        };
        let theirs = self.read(new)?;
        let root = self.workspace.root.as_fd();
        let Some(base_bytes) = base_of(root, &change.path, hash, base.size) else {
            return Ok(Err("git has no version of it with the bytes that were sent"));
        };
        if [&ours, &theirs, &base_bytes].iter().any(|bytes| is_binary(bytes)) {
            return Ok(Err("it is no text"));
        }
        let sides = Sides { base: &base_bytes, ours: &ours, theirs: &theirs };
        let label = format!("codex run {}", self.run);
        let Some((bytes, conflicts)) = merge_file(self.folder, &sides, &label)? else {
            return Ok(Err("git could not merge it"));
        };
        // The one bit of the mode that travels has three sides too.
        let executable = match now.executable() == base.executable() {
            true => new.executable,
            false => now.executable(),
        };
        let offset = self.append(&change.path, executable, &bytes)?;
        let merged = NewNode {
            kind: NodeKind::File,
            executable,
            size: bytes.len() as u64,
            hash: Some(ContentHash(*blake3::hash(&bytes).as_bytes())),
            offset,
            target: None,
        };
        change.bytes = merged.size;
        let was = (change.base.replace(now.clone()), change.new.replace(merged));
        Ok(Ok(Merged { path: change.path.clone(), conflicts, was }))
    }

    /// What the host has, if that is still what was seen.
    fn read_host(&self, path: &RelPath, now: &BaseNode) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        self.host.open(path).ok()?.take(MAX_MERGED + 1).read_to_end(&mut bytes).ok()?;
        (Some(ContentHash(*blake3::hash(&bytes).as_bytes())) == now.hash).then_some(bytes)
    }

    fn read(&self, new: &NewNode) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(new.size).unwrap_or(0)];
        File::open(self.archive())?.read_exact_at(&mut bytes, new.offset)?;
        Ok(bytes)
    }

    fn append(&mut self, path: &RelPath, executable: bool, bytes: &[u8]) -> io::Result<u64> {
        let mut out = match self.out.take() {
            Some(out) => out,
            None => {
                let file = OpenOptions::new().read(true).write(true).open(self.archive())?;
                TarWriter::resume(file)?
            }
        };
        let mode = if executable { 0o755 } else { 0o644 };
        let size = bytes.len() as u64;
        let at = out.entry(path.as_bytes(), NodeKind::File, mode, size, b"")?;
        out.write_all(bytes)?;
        out.pad()?;
        self.out = Some(out);
        Ok(at)
    }

    fn archive(&self) -> std::path::PathBuf {
        self.folder.join("changes.tar")
    }

    fn finish(self) -> io::Result<()> {
        match self.out {
            Some(out) => out.finish()?.sync_data(),
            None => Ok(()),
        }
    }
}

fn is_binary(bytes: &[u8]) -> bool {
    bytes[..bytes.len().min(BINARY_PROBE)].contains(&0)
}

#[cfg(test)]
#[path = "merge_tests.rs"]
mod tests;
