//! What becomes of an apply whose process was killed.
//!
//! ```text
//!  journal says        nothing more              stepping                   committed
//!                      remove what was staged    look at each target and    take the steps that
//!                                                its temporary names, put   did not get to the
//!                                                back what was displaced    disk, then let go
//! ```
//!
//! Nothing is known here but the plan and what lies under its names, so everything is told by its
//! bytes: what is the base goes back, what is ours goes away, and anything else was written by the
//! user: it stays in its place, or goes to the folder `kept` of the run. Done again after being
//! killed itself, it goes on from what it finds.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::fstat;
use rustix::io::Errno;

use super::journal::{self, Found, Intent, JournalError, Mark};
use super::kill::point;
use super::plan::{Op, removals, writes};
use super::record::{Settled, record};
use super::step::{Displaced, Done, Work, as_base, new_mode};
use super::transaction::{flush, step, without};
use super::{Direction, with_causes};
use crate::path::RelPath;
use crate::workspace::change::{BaseNode, ChangeSet};
use crate::workspace::conflict::{HostNow, same};
use crate::workspace::host::{Host, hash};
use crate::workspace::lock;
use crate::workspace::{NodeKind, Workspace, WorkspaceKey};

/// The file of a run's folder that has the sentences of [`notes`], one a line.
const NOTES: &str = "recovered.txt";

/// Whether there is an apply of this workspace that was interrupted.
///
/// # Errors
///
/// A journal is damaged or cannot be read.
pub fn is_pending(state: &Path, workspace: &Workspace) -> Result<bool, JournalError> {
    Ok(!pending(state, workspace)?.is_empty())
}

/// Undoes or finishes what was interrupted in a workspace, and gives a sentence about each apply.
/// The caller has the workspace's exclusive lock.
///
/// # Errors
///
/// A journal is damaged or cannot be read; nothing was touched then. Or what was finished cannot be
/// recorded in the run's folder; it is tried again with the next turn.
pub fn recover(state: &Path, workspace: &Workspace) -> Result<Vec<String>, JournalError> {
    let pending = pending(state, workspace)?;
    journal::sweep(state, workspace.key);
    let host = Host::of(workspace);
    let mut told = Vec::new();
    for found in pending {
        if found.intent.is_for(workspace) {
            told.push(recover_one(&host, found)?);
            continue;
        }
        // That directory is gone, and its inode was given to this one.
        tracing::warn!(
            journal = %found.path.display(), workspace = %found.intent.workspace.display(),
            "an apply was interrupted in a workspace that is gone; its journal is set aside"
        );
        set_aside(&found.path)?;
    }
    Ok(told)
}

/// The journals in the workspace's own name, and any that turns out to be for it.
fn pending(state: &Path, workspace: &Workspace) -> Result<Vec<Found>, JournalError> {
    let mut pending = Vec::new();
    for (path, own) in journal::list_for(state, workspace.key)? {
        match journal::read(&path) {
            Ok(Some(found)) if own || found.intent.is_for(workspace) => pending.push(found),
            Err(error) if own => return Err(error),
            _ => {}
        }
    }
    Ok(pending)
}

/// Recovers every workspace whose apply was interrupted and that nobody is working in. Blocks.
pub fn recover_all(state: &Path) {
    let found = match journal::sweep_all(state).and_then(|()| journal::list(state)) {
        Ok(found) => found,
        Err(error) => {
            tracing::warn!(%error, "interrupted applies are not looked for");
            return;
        }
    };
    for path in found {
        let intent = match journal::read(&path) {
            Ok(Some(found)) => found.intent,
            Ok(None) => continue,
            Err(error) => {
                tracing::error!(%error, "an interrupted apply cannot be recovered");
                continue;
            }
        };
        let name = intent.workspace.display();
        match open(&intent) {
            Some(workspace) => match lock::write(state, &workspace, Duration::ZERO) {
                Ok(_) | Err(lock::LockError::Timeout(_)) => {}
                Err(error) => tracing::error!(workspace = %name, %error, "not recovered"),
            },
            None => tracing::warn!(
                workspace = %name, journal = %path.display(), kept = %intent.folder.display(),
                "an apply was interrupted in a workspace that is gone"
            ),
        }
    }
}

/// The runs of which an apply or an undo was interrupted and is not recovered yet. Blocks.
///
/// # Errors
///
/// The journals cannot be looked for, or one is damaged.
pub fn pending_runs(state: &Path) -> Result<Vec<String>, JournalError> {
    let mut runs = Vec::new();
    for path in journal::list(state)? {
        runs.extend(journal::read(&path)?.map(|found| found.intent.run));
    }
    Ok(runs)
}

/// Sentences about what was recovered of a run, for its result.
pub fn notes(folder: &Path) -> Vec<String> {
    let text = fs::read_to_string(folder.join(NOTES)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn open(intent: &Intent) -> Option<Workspace> {
    let root = File::open(&intent.workspace).ok()?;
    let stat = fstat(&root).ok()?;
    let workspace = Workspace {
        path: intent.workspace.clone(),
        root: Arc::new(root.into()),
        working_dir: None,
        key: WorkspaceKey { dev: stat.st_dev, ino: stat.st_ino },
        exclude: Vec::new(),
    };
    intent.is_for(&workspace).then_some(workspace)
}

fn set_aside(path: &Path) -> Result<(), JournalError> {
    let mut to = path.to_owned();
    for n in 0u32.. {
        to.set_extension(format!("gone-{n}"));
        if !to.exists() {
            break;
        }
    }
    fs::rename(path, &to).map_err(|source| JournalError::Io {
        verb: "set aside",
        path: path.to_owned(),
        source,
    })
}

fn recover_one(host: &Host, found: Found) -> Result<String, JournalError> {
    let Found { path, intent, mark } = found;
    let mut work = Work::new(host.clone(), intent.folder.join("kept"), None);
    let undone = !matches!(mark, Some(Mark::Committed(_)));
    let settled = match mark {
        Some(Mark::Committed(settled)) => finish(&mut work, &intent, settled),
        Some(Mark::Stepping) => put_all_back(&mut work, &intent),
        None => {
            unstage(&mut work, &intent.ops);
            held(&intent)
        }
    };
    work.tell_gone(&intent.ops);
    if let Err(error) = flush(host, &intent.ops, false) {
        tracing::warn!(%error, "the disk did not confirm what was recovered");
    }
    let sentence = sentence(&intent, undone, &work);
    tracing::warn!(run = %intent.run, workspace = %intent.workspace.display(), "{sentence}");
    if intent.folder.is_dir() {
        match save(&intent, settled) {
            Ok(()) => {}
            // Without it nobody could undo what was applied, so the journal, which knows, stays.
            Err(SaveError::Write(source)) if !undone => {
                let folder = intent.folder.clone();
                return Err(JournalError::Unrecorded { folder, source });
            }
            Err(SaveError::Write(error) | SaveError::Read(error)) => {
                tracing::error!(folder = %intent.folder.display(), %error, "not recorded");
            }
        }
        // Not needed for the user's files.
        if let Err(error) = note(&intent.folder, &sentence) {
            tracing::error!(folder = %intent.folder.display(), %error, "not recorded");
        }
    }
    point();
    fs::remove_file(&path).map_err(|source| JournalError::Io { verb: "removed", path, source })?;
    point();
    Ok(sentence)
}

fn sentence(intent: &Intent, undone: bool, work: &Work) -> String {
    let what = match (intent.direction, undone) {
        (Direction::Apply, true) => "its changes were taken out again and are held",
        (Direction::Apply, false) => "applying its changes was finished",
        (Direction::Undo, true) => "its changes were put in again and stay applied",
        (Direction::Undo, false) => "undoing its changes was finished",
    };
    let mut sentence =
        format!("the server was ended while files of run {} were written; {what}", intent.run);
    for kept in &work.kept {
        let (path, file) = (&kept.path, kept.file.display());
        sentence.push_str(&format!("; an earlier version of {path} is in {file}"));
    }
    for left in &work.left {
        sentence.push_str("; ");
        sentence.push_str(left);
    }
    sentence
}

fn held(intent: &Intent) -> Vec<Settled> {
    let because = match intent.direction {
        Direction::Apply => "held because the server was ended while it was applied",
        Direction::Undo => "not undone because the server was ended meanwhile",
    };
    intent.ops.iter().map(|op| Settled::refused(op.path.clone(), because)).collect()
}

/// Why a run's folder was not told.
enum SaveError {
    /// It does not know its changes any more, so there is nothing to tell.
    Read(io::Error),
    Write(io::Error),
}

fn save(intent: &Intent, settled: Vec<Settled>) -> Result<(), SaveError> {
    let path = intent.folder.join("changes.json");
    let bytes = fs::read(&path).map_err(SaveError::Read)?;
    let mut set: ChangeSet =
        serde_json::from_slice(&bytes).map_err(|error| SaveError::Read(error.into()))?;
    record(&mut set, intent.direction, settled);
    point();
    crate::record::write_json_to_disk(&path, &set)
        .map_err(|error| SaveError::Write(io::Error::other(with_causes(&error))))
}

/// Adds a sentence, once.
fn note(folder: &Path, sentence: &str) -> io::Result<()> {
    let path: PathBuf = folder.join(NOTES);
    if notes(folder).iter().any(|known| known == sentence) {
        return Ok(());
    }
    let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    file.write_all(format!("{sentence}\n").as_bytes())
}

/// What is under a name.
enum There {
    Nothing,
    Ours,
    Other,
}

fn look(work: &Work, path: &RelPath, ours: &BaseNode) -> There {
    match work.host.stat(path) {
        Err(Errno::NOENT | Errno::NOTDIR) => There::Nothing,
        _ if work.is_ours(path, ours) => There::Ours,
        _ => There::Other,
    }
}

fn is_base(work: &Work, path: &RelPath, base: &BaseNode) -> bool {
    matches!(work.host.look(path), Ok(HostNow::Node(node)) if same(base, &node))
}

fn exists(work: &Work, path: &RelPath) -> bool {
    work.host.stat(path).is_ok()
}

/// A rename that was made of a link and an unlink may have been interrupted between them.
fn is_twice(work: &Work, one: &RelPath, other: &RelPath) -> bool {
    let inode = |path| work.host.stat(path).ok().map(|stat| (stat.st_dev, stat.st_ino));
    inode(one).is_some_and(|one| Some(one) == inode(other))
}

fn unlink(work: &mut Work, path: &RelPath) {
    match work.host.unlink(path) {
        Ok(()) | Err(Errno::NOENT | Errno::NOTDIR) => {}
        Err(error) => work.leave(path, "cannot be removed", error),
    }
}

/// Nothing was renamed yet, so whatever is under a temporary name was staged there.
fn unstage(work: &mut Work, ops: &[Op]) {
    for temp in ops.iter().filter_map(|op| op.staged.as_ref()) {
        unlink(work, temp);
    }
}

fn put_all_back(work: &mut Work, intent: &Intent) -> Vec<Settled> {
    for op in writes(&intent.ops).rev() {
        unwrite(work, op);
    }
    for op in removals(&intent.ops).rev().chain(intent.ops.iter().filter(|op| !op.makes_room())) {
        let (Some(base), Some(aside)) = (&op.base, &op.aside) else { continue };
        if is_twice(work, aside, &op.path) {
            unlink(work, aside);
        } else if exists(work, aside) {
            work.restore(aside, &op.path, base);
        }
    }
    // What `before.tar` has got by now stays: it may be the only copy of what was saved over.
    held(intent)
}

fn unwrite(work: &mut Work, op: &Op) {
    let Some(new) = &op.new else { return };
    let ours = as_base(new);
    let Some(temp) = &op.staged else {
        if new.kind != NodeKind::Directory {
            if let Some(was) = op.was {
                work.mode_back(&op.path, was, new_mode(op, was, new.executable));
            }
        } else if op.base.as_ref().is_none_or(|base| base.kind != NodeKind::Directory) {
            match work.host.remove_directory(&op.path) {
                Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {}
                Err(error) => work.leave(&op.path, "cannot be removed again", error),
            }
        }
        return;
    };
    if is_twice(work, temp, &op.path) {
        unlink(work, temp);
    }
    // Moved by no-replace rename, not exchanged.
    let moved = op.base.is_none()
        || op.makes_room()
        || op.aside.as_ref().is_some_and(|aside| exists(work, aside));
    match (look(work, temp, &ours), &op.base) {
        (There::Ours, _) => unlink(work, temp),
        (There::Nothing, _) if moved => work.take_back(&op.path, temp, &ours),
        (There::Nothing, _) => {}
        (There::Other, Some(base)) if !moved => {
            if is_base(work, &op.path, base) && !is_base(work, temp, base) {
                // Putting it back was interrupted, and what is aside is newer than what is back.
                if let Err(error) = work.host.exchange(temp, &op.path) {
                    return work.leave(temp, "cannot be put back", error);
                }
                return work.discard(temp, &op.path, &[base]);
            }
            work.put_back(temp, &op.path, &ours, base);
        }
        // Taking it back was interrupted after the user had saved over it.
        (There::Other, _) => match work.host.rename_new(temp, &op.path) {
            Ok(()) => {}
            Err(Errno::EXIST) => work.discard(temp, &op.path, &[&ours]),
            Err(error) => work.leave(temp, "cannot be put back", error),
        },
    }
}

/// Takes what steps there are left, and lets go of what was displaced. What the user changed since
/// the commit stays, and is no longer what was settled.
fn finish(work: &mut Work, intent: &Intent, settled: Vec<Settled>) -> Vec<Settled> {
    let unkept = unkept(intent, &settled);
    let done: BTreeSet<RelPath> =
        settled.iter().filter(|s| s.done).map(|s| s.path.clone()).collect();
    let ops: Vec<Op> = intent.ops.iter().filter(|op| done.contains(&op.path)).cloned().collect();
    let mut late = Vec::new();
    for op in removals(&ops) {
        refinish_removal(work, op, &mut late);
    }
    for op in writes(&ops) {
        if late.iter().all(|(path, _)| *path != op.path) {
            refinish_write(work, op, &mut late);
        }
    }
    let (alone, kept) = std::mem::take(&mut work.done).into_iter().partition(|done| match done {
        Done::Replaced(displaced, _) | Done::Removed(displaced) => {
            unkept.contains(&displaced.target)
        }
        _ => false,
    });
    work.done = kept;
    late.extend(work.commit());
    for done in Vec::<Done>::into_iter(alone) {
        if let Done::Replaced(Displaced { target, temp, .. }, _)
        | Done::Removed(Displaced { target, temp, .. }) = done
        {
            // The only copy there is, so it is kept as what nobody knows is.
            work.discard(&temp, &target, &[]);
        }
    }
    for op in &ops {
        if let (Some(temp), Some(new)) = (&op.staged, &op.new)
            && matches!(look(work, temp, &as_base(new)), There::Ours)
        {
            unlink(work, temp);
        }
    }
    without(settled, &late)
}

/// What was displaced and is not, or no longer, where it was kept: somebody removed or changed the
/// run's folder.
fn unkept(intent: &Intent, settled: &[Settled]) -> BTreeSet<RelPath> {
    let name = match intent.direction {
        Direction::Apply => "before.tar",
        Direction::Undo => "changes.tar",
    };
    let archive = File::open(intent.folder.join(name)).ok();
    let has_set = intent.folder.join("changes.json").is_file();
    let is_kept = |settled: &Settled| match (&archive, intent.direction, &settled.base) {
        (_, _, None) => true,
        (_, _, Some(base)) if base.kind == NodeKind::Directory => true,
        // Where it points is in the change set.
        (_, _, Some(base)) if base.kind == NodeKind::Link => has_set,
        (None, ..) => false,
        (Some(_), Direction::Undo, _) => true,
        (Some(archive), Direction::Apply, Some(base)) => {
            settled.new.as_ref().is_some_and(|new| new.same_bytes(base))
                || settled.before.as_ref().is_some_and(|before| has(archive, before.offset, base))
        }
    };
    settled.iter().filter(|s| s.done && !is_kept(s)).map(|s| s.path.clone()).collect()
}

/// Whether an archive has the bytes of a file.
fn has(mut archive: &File, offset: u64, base: &BaseNode) -> bool {
    let bytes = archive.seek(SeekFrom::Start(offset)).map(|_| archive.take(base.size));
    let found = bytes.and_then(|mut bytes| hash(&mut bytes, &mut io::sink()));
    found.is_ok_and(|(size, hash)| size == base.size && Some(hash) == base.hash)
}

const SINCE: &str = "changed on the host while the server was down";

fn refinish_removal(work: &mut Work, op: &Op, late: &mut Vec<(RelPath, String)>) {
    let (Some(base), Some(aside)) = (&op.base, &op.aside) else { return };
    if is_twice(work, aside, &op.path) {
        unlink(work, aside);
    }
    if exists(work, aside) {
        let (target, temp) = (op.path.clone(), aside.clone());
        let displaced = Displaced { target, temp, base: base.clone(), lease: None };
        work.done.push(Done::Removed(displaced));
    } else if is_base(work, &op.path, base) && work.remove(op).is_err() {
        late.push((op.path.clone(), SINCE.into()));
    }
}

fn refinish_write(work: &mut Work, op: &Op, late: &mut Vec<(RelPath, String)>) {
    let Some(new) = &op.new else { return };
    let ours = as_base(new);
    if let Some(temp) = &op.staged {
        if is_twice(work, temp, &op.path) {
            unlink(work, temp);
        }
        match (look(work, temp, &ours), &op.base) {
            (There::Nothing, _) => {
                fallback_displaced(work, op);
                return;
            }
            (There::Other, Some(base)) => {
                let (target, temp) = (op.path.clone(), temp.clone());
                let displaced = Displaced { target, temp, base: base.clone(), lease: None };
                work.done.push(Done::Replaced(displaced, ours));
                return;
            }
            _ => {}
        }
    }
    if !is_base(work, &op.path, &ours) && step(work, op).is_err() {
        late.push((op.path.clone(), SINCE.into()));
    }
}

/// Where there is no exchange, what was replaced lies aside.
fn fallback_displaced(work: &mut Work, op: &Op) {
    if let (false, Some(base), Some(aside)) = (op.makes_room(), &op.base, &op.aside)
        && exists(work, aside)
    {
        let (target, temp) = (op.path.clone(), aside.clone());
        let displaced = Displaced { target, temp, base: base.clone(), lease: None };
        work.done.push(Done::Removed(displaced));
    }
}
