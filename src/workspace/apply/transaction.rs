//! One transaction: attempts to write everything that can be written, each all or nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::path::Path;

use rustix::io::Errno;

use super::before::Before;
use super::journal::{Intent, Journal, JournalError, Mark};
use super::look::{Looked, look};
use super::plan::{self, Op, STAYS, Wanted};
use super::record::Settled;
use super::refusal::{SAME_NAME, refusal};
use super::stage::{StageError, stage};
use super::step::{NO_MODE, Stop, Work};
use super::{Applied, ApplyError, Conflict, Direction, OnConflict, Order, Parts, Point};
use crate::path::RelPath;
use crate::workspace::change::{NewNode, executable};
use crate::workspace::host::Host;
use crate::workspace::{NodeKind, Workspace};

/// Up to so many new files are brought to the disk one by one; more of them by one flush of the
/// whole file system, which may have other work of its own to write.
const FEW: usize = 16;

/// How often an apply is tried anew without what was refused; then all of it is held.
const ROUNDS: usize = 8;

/// How an attempt ends before its commit.
enum End {
    /// These paths cannot be written.
    Refused(BTreeMap<RelPath, String>),
    Failed(ApplyError),
}

impl End {
    fn refused(path: &RelPath, reason: impl Into<String>) -> Self {
        Self::Refused(BTreeMap::from([(path.clone(), reason.into())]))
    }

    fn archive(path: &Path, reason: impl ToString) -> Self {
        let (path, reason) = (path.to_owned(), reason.to_string());
        Self::Failed(ApplyError::Archive { path, reason, left: Vec::new() })
    }
}

impl From<JournalError> for End {
    fn from(source: JournalError) -> Self {
        Self::Failed(ApplyError::Journal { source, left: Vec::new() })
    }
}

/// Why a path is not taken back.
const UNKEPT: &str = "before.tar of the run no longer has what was there before; take it from a \
                      backup or from git";

/// What became of each operation, and which of them a save in the last moment kept back.
type Written = (Vec<Settled>, Vec<(RelPath, String)>);

/// One transaction under way.
pub(super) struct Transaction<'a> {
    pub(super) host: &'a Host,
    pub(super) workspace: &'a Workspace,
    pub(super) order: &'a Order<'a>,
    pub(super) applied: Applied,
    /// Of what was committed, until it is recorded.
    pub(super) journal: Option<Journal>,
    pub(super) at: &'a mut dyn FnMut(Point),
}

impl Transaction<'_> {
    /// Writes what can be written; gives what became of each path.
    pub(super) fn run(&mut self) -> Result<Vec<Settled>, ApplyError> {
        let order = self.order;
        let wanted = Wanted::new(&order.wanted);
        let Looked { ops, had, mut refused } = look(self.host, &wanted);
        (self.at)(Point::Looked);
        for _ in 0..ROUNDS {
            let held = match order.on_conflict {
                OnConflict::HoldAll if !refused.is_empty() => break,
                _ => wanted.closure(&refused),
            };
            let mut todo = ops.clone();
            todo.retain(|op| !held.contains_key(&op.path));
            match self.attempt(&wanted, todo) {
                Ok((mut settled, late)) => {
                    let told = refused.into_iter().chain(late);
                    self.applied.conflicts =
                        told.map(|(path, reason)| Conflict { path, reason }).collect();
                    settled.extend(had.into_iter().filter(|had| !held.contains_key(&had.path)));
                    settled.extend(held.into_iter().map(|(path, why)| Settled::refused(path, why)));
                    return Ok(settled);
                }
                Err(End::Refused(more)) => refused.extend(more),
                Err(End::Failed(error)) => return Err(error),
            }
        }
        let because = match order.direction {
            Direction::Apply => "held because other paths are in conflict",
            Direction::Undo => "not undone because other paths are in conflict",
        };
        let settled = wanted.iter().map(|change| {
            let reason = refused.get(&change.path).map_or(because, String::as_str);
            Settled::refused(change.path.clone(), reason)
        });
        let settled = settled.collect();
        self.applied.conflicts =
            refused.into_iter().map(|(path, reason)| Conflict { path, reason }).collect();
        Ok(settled)
    }

    /// Writes all of `ops`, or nothing.
    fn attempt(&mut self, wanted: &Wanted<'_>, mut ops: Vec<Op>) -> Result<Written, End> {
        if ops.is_empty() {
            return Ok(Default::default());
        }
        let order = self.order;
        let Parts { run, folder, state } = order.parts;
        let nonce = uuid::Uuid::now_v7().simple().to_string();
        let too_long = wanted.name(&mut ops, &nonce[nonce.len() - 12..]);
        if !too_long.is_empty() {
            let error = Errno::NAMETOOLONG.into();
            let told = too_long.into_iter().map(|path| (path, refusal("written", &error)));
            return Err(End::Refused(told.collect()));
        }
        let archive = folder.join("before.tar");
        let before = match order.direction {
            Direction::Apply => {
                Some(Before::open(&archive).map_err(|error| End::archive(&archive, error))?)
            }
            Direction::Undo => None,
        };
        let intent = Intent::new(self.workspace, run, folder, order.direction, ops);
        let mut journal = Journal::begin(state, &intent)?;
        let ops = intent.ops;
        let mut work = Work::new(self.host.clone(), folder.join("kept"), before);
        let ended = self.write(&mut work, &mut journal, wanted, &ops);
        let ended = match ended {
            Ok(settled) => {
                let late = work.commit();
                if let Err(error) = flush(self.host, &ops, false) {
                    work.left.push(format!("the disk did not confirm the changes: {error}"));
                }
                self.journal = Some(journal);
                Ok((without(settled, &late), late))
            }
            Err(end) => {
                work.undo(|| (self.at)(Point::Undoing));
                work.sweep(&ops);
                work.tell_gone(&ops);
                if let Some(before) = work.before.take()
                    && !work.before_counts
                    && let Err(error) = before.take_back()
                {
                    work.left.push(format!("{} is cut off: {error}", archive.display()));
                }
                if let Err(error) = journal.end() {
                    work.left.push(error.to_string());
                }
                Err(end)
            }
        };
        self.applied.kept.extend(work.kept);
        self.applied.notes.extend(work.notes);
        self.applied.notes.extend(work.left);
        ended
    }

    /// Everything up to the point from which there is no way back.
    fn write(
        &mut self,
        work: &mut Work,
        journal: &mut Journal,
        wanted: &Wanted<'_>,
        ops: &[Op],
    ) -> Result<Vec<Settled>, End> {
        let unheld = stage_all(self.host, ops, self.order)?;
        work.is_staged = true;
        (self.at)(Point::Staged);
        flush(self.host, ops, true).map_err(|e| End::archive(&self.workspace.path, e))?;
        journal.mark(&Mark::Stepping)?;
        let stays = steps(work, wanted, ops, self.at)?;
        work.check().map_err(|(path, reason)| End::refused(&path, reason))?;
        (self.at)(Point::Checked);
        if let Some(before) = work.before.take() {
            let path = before.path().to_owned();
            before.finish().map_err(|error| End::archive(&path, error))?;
        }
        let settled = settle(work, ops, &stays, &unheld);
        journal.mark(&Mark::Committed(settled.clone()))?;
        Ok(settled)
    }
}

pub(super) fn without(mut settled: Vec<Settled>, late: &[(RelPath, String)]) -> Vec<Settled> {
    // Of two reasons the first counts.
    let late: BTreeMap<_, _> = late.iter().rev().map(|(path, reason)| (path, reason)).collect();
    for settled in &mut settled {
        if let Some(reason) = late.get(&settled.path) {
            *settled = Settled::refused(settled.path.clone(), (*reason).clone());
        }
    }
    settled
}

/// What became of each operation once all steps are taken.
fn settle(
    work: &mut Work,
    ops: &[Op],
    stays: &BTreeSet<RelPath>,
    unheld: &BTreeSet<RelPath>,
) -> Vec<Settled> {
    let has = |op: &Op| {
        let mut new = op.new.clone()?;
        // What is there now is what an undo has to find.
        new.executable ^= unheld.contains(&op.path);
        Some(new)
    };
    if ops
        .iter()
        .any(|op| unheld.contains(&op.path) && op.new.as_ref().is_some_and(|n| n.executable))
    {
        work.notes.insert(format!("{NO_MODE}, so programs that were written there lack it"));
    }
    let mut images: BTreeMap<RelPath, _> = std::mem::take(&mut work.images).into_iter().collect();
    let settled = ops.iter().map(|op| match stays.contains(&op.path) {
        true => Settled::refused(op.path.clone(), STAYS),
        false => Settled {
            path: op.path.clone(),
            done: true,
            reason: None,
            base: op.base.clone(),
            new: has(op),
            before: images.remove(&op.path),
        },
    });
    settled.collect()
}

/// Writes all new contents under their temporary names. Goes on where one is refused, so that all
/// that are refused are told at once. Gives the paths whose executable bit did not take.
fn stage_all(host: &Host, ops: &[Op], order: &Order<'_>) -> Result<BTreeSet<RelPath>, End> {
    let archive = &order.archive;
    let mut refused = BTreeMap::new();
    let mut unheld = BTreeSet::new();
    let needs = ops.iter().any(|op| op.staged.is_some());
    let bytes = match needs {
        true => Some(File::open(archive).map_err(|e| End::archive(archive, e))?),
        false => None,
    };
    for op in ops {
        let (Some(new), Some(temp), Some(bytes)) = (&op.new, &op.staged, &bytes) else { continue };
        match stage_one(host, op, new, temp, bytes) {
            Ok(true) => {}
            Ok(false) => {
                unheld.insert(op.path.clone());
            }
            // What was there before one path does not keep the others from being taken back.
            Err(StageError::Damaged) if order.direction == Direction::Undo => {
                refused.insert(op.path.clone(), UNKEPT.into());
            }
            Err(StageError::Damaged) => return Err(End::archive(archive, StageError::Damaged)),
            Err(error @ StageError::NoLinks) => {
                refused.insert(op.path.clone(), error.to_string());
            }
            Err(StageError::Io(error)) => {
                let reason = match Errno::from_io_error(&error).map(Stop::from) {
                    Some(Stop::Conflict(reason)) => reason,
                    _ => refusal("written", &error),
                };
                refused.insert(op.path.clone(), reason);
            }
        }
    }
    match refused.is_empty() {
        true => Ok(unheld),
        false => Err(End::Refused(refused)),
    }
}

/// Writes one path's new contents; gives whether the file has the executable bit that it should.
fn stage_one(
    host: &Host,
    op: &Op,
    new: &NewNode,
    temp: &RelPath,
    bytes: &File,
) -> Result<bool, StageError> {
    if new.kind == NodeKind::Link {
        let target = new.target.as_ref().map_or(&b""[..], |target| &target.0);
        let made = host.link(temp, target).map(|()| true);
        return made.map_err(|error| match error {
            Errno::NOSYS | Errno::NOTSUP | Errno::PERM => StageError::NoLinks,
            error => error.into(),
        });
    }
    let old = match &op.base {
        Some(base) if base.kind == NodeKind::File && op.restore.is_none() => {
            Some(host.open(&op.path)?)
        }
        _ => None,
    };
    let file = stage(host, op, new, temp, bytes, old.as_ref())?;
    Ok(executable(rustix::fs::fstat(&file)?.st_mode) == new.executable)
}

/// Brings what was done to the disk: the staged files if there are few, and the directories in
/// which something was named; or by one flush of the whole file system.
pub(super) fn flush(host: &Host, ops: &[Op], staged: bool) -> io::Result<()> {
    if ops.len() > FEW {
        return match host.sync() {
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => Ok(()),
            done => Ok(done?),
        };
    }
    for op in ops {
        let file = match &op.staged {
            Some(temp) if staged => temp,
            _ if !staged && op.is_mode() => &op.path,
            _ => continue,
        };
        if op.new.as_ref().is_some_and(|new| new.kind == NodeKind::File)
            && let Ok(file) = host.open(file)
        {
            file.sync_all()?;
        }
    }
    for directory in plan::directories(ops) {
        if let Ok(directory) = host.directory(directory.as_ref()) {
            match rustix::fs::fsync(directory) {
                Ok(()) | Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

/// Takes every step; gives the directories that stay, since they have what is no part of it. Goes on
/// where one is refused, with all that does not need it, so that all that are refused are told at
/// once; the steps are undone then.
fn steps(
    work: &mut Work,
    wanted: &Wanted<'_>,
    ops: &[Op],
    at: &mut dyn FnMut(Point),
) -> Result<BTreeSet<RelPath>, End> {
    let mut stays = BTreeSet::new();
    let mut refused = BTreeMap::new();
    let mut idle = BTreeMap::new();
    let removals = plan::removals(ops).map(|op| (op, "removed"));
    for (op, verb) in removals.chain(plan::writes(ops).map(|op| (op, "written"))) {
        if idle.contains_key(&op.path) {
            continue;
        }
        let done = match verb {
            "removed" => work.remove(op),
            _ => step(work, op),
        };
        match done {
            Ok(()) => {}
            Err(Stop::StaysHome) if plan::may_stay(op) => {
                stays.insert(op.path.clone());
            }
            Err(stop) => match stopped(work, stop, verb, op) {
                End::Refused(more) => {
                    idle.extend(wanted.closure(&more));
                    refused.extend(more);
                }
                end => return Err(end),
            },
        }
        at(Point::Stepped);
    }
    match refused.is_empty() {
        true => Ok(stays),
        false => Err(End::Refused(refused)),
    }
}

/// Writes one path, for which there is room.
pub(super) fn step(work: &mut Work, op: &Op) -> Result<(), Stop> {
    match &op.new {
        Some(new) if new.kind == NodeKind::Directory => work.make(op),
        Some(_) if op.staged.is_none() => work.mode(op),
        Some(_) if op.base.is_some() && !op.makes_room() => work.replace(op),
        Some(_) => work.add(op),
        None => Ok(()),
    }
}

fn stopped(work: &Work, stop: Stop, verb: &str, op: &Op) -> End {
    let path = &op.path;
    match stop {
        // Where upper and lower case are the same, another name of this very change set was first.
        Stop::Conflict(_)
            if op.base.is_none()
                && (matches!(work.host.is_spelled_so(path), Ok(false))
                    || work.has_added_as(path))
                && work.host.stat(path).is_ok() =>
        {
            End::refused(path, SAME_NAME)
        }
        Stop::Conflict(reason) => End::refused(path, reason),
        Stop::StaysHome => {
            End::refused(path, "the directory there still has files that stayed home")
        }
        Stop::Failed(source) => End::refused(path, refusal(verb, &source)),
        Stop::Before(source) => match &work.before {
            Some(before) => End::archive(before.path(), source),
            None => End::refused(path, refusal(verb, &source)),
        },
    }
}
