//! The single steps of an apply, each with its way back.
//!
//! ```text
//!  replace   staged ⇄ target, then lease and verify what came out     back: ⇄, verify ours
//!  remove    target → temp, then lease and verify                     back: temp → target
//!  add       staged → target, replacing nothing                       back: target → temp, verify
//!  make      mkdir                                                    back: rmdir, if empty
//!  mode      fchmod                                                   back: fchmod
//! ```
//!
//! Nothing that was displaced is unlinked before [`Work::commit`], and then only while a lease
//! says that nobody writes to it and after its bytes were seen to be the base, which `before.tar`
//! has. Whatever else turns up under a temporary name was written by the user meanwhile: it goes
//! back to its place, or to the folder `kept` of the run.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;

use rustix::fs::{Mode, fchmod, fstat};
use rustix::io::Errno;

use super::attributes::{self, with_executable};
use super::before::Before;
use super::kill::point;
use super::lease::{Lease, LeaseError};
use super::plan::Op;
use super::settle::Differs;
use crate::path::RelPath;
use crate::workspace::NodeKind;
use crate::workspace::change::{BaseNode, NewNode, PreImage};
use crate::workspace::host::Host;

/// What is wrong where a mode is set without an error and without an effect.
pub(super) const NO_MODE: &str = "the file system does not hold the executable bit";

/// A step that was taken.
#[derive(Debug)]
pub(super) enum Done {
    Replaced(Displaced, BaseNode),
    Removed(Displaced),
    Added { target: RelPath, temp: RelPath, new: BaseNode },
    Made { target: RelPath },
    Mode { target: RelPath, was: u32, is: u32 },
}

/// What was taken out of its place.
#[derive(Debug)]
pub(super) struct Displaced {
    pub(super) target: RelPath,
    pub(super) temp: RelPath,
    pub(super) base: BaseNode,
    pub(super) lease: Option<Lease>,
}

/// How a step ended if it was not taken.
#[derive(Debug)]
pub(super) enum Stop {
    /// The host changed; the sentence says how.
    Conflict(String),
    /// A directory still has files that are no part of the change.
    StaysHome,
    /// The host refused.
    Failed(io::Error),
    /// `before.tar` cannot be written.
    Before(io::Error),
}

impl From<Errno> for Stop {
    fn from(error: Errno) -> Self {
        match error {
            Errno::NOENT | Errno::NOTDIR => Self::conflict("deleted on the host meanwhile"),
            Errno::LOOP => Self::conflict("a directory above it became a link on the host"),
            Errno::EXIST => Self::conflict("created on the host meanwhile"),
            error => Self::Failed(error.into()),
        }
    }
}

impl Stop {
    pub(super) fn conflict(reason: impl Into<String>) -> Self {
        Self::Conflict(reason.into())
    }
}

/// Bytes of the user's that were found in our way and could not stay in the workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Where they had been.
    pub path: RelPath,
    /// Where they are: a file in the run folder.
    pub file: PathBuf,
}

/// What an apply has done so far.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) host: Host,
    pub(super) done: Vec<Done>,
    pub(super) kept: Vec<Kept>,
    /// Sentences about what could not be put right.
    pub(super) left: Vec<String>,
    /// Sentences about ways that were less than the best.
    pub(super) notes: BTreeSet<String>,
    pub(super) kept_folder: PathBuf,
    /// Where displaced bytes are kept; `None` where they are kept already.
    pub(super) before: Option<Before>,
    /// Pre-images of what was displaced, by path.
    pub(super) images: Vec<(RelPath, PreImage)>,
    /// `before.tar` has bytes of the user's that are nowhere else.
    pub(super) before_counts: bool,
    /// Temporary names under which something else than ours may be.
    pub(super) touched: BTreeSet<RelPath>,
    /// Everything was staged, so what is not under its temporary name was moved by somebody.
    pub(super) is_staged: bool,
    /// How many more leases may be held, each of which is an open file.
    leases: usize,
}

impl Work {
    pub(super) fn new(host: Host, kept_folder: PathBuf, before: Option<Before>) -> Self {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let leases = limit.map_or(4096, |n| usize::try_from(n / 4).unwrap_or(4096)).min(4096);
        Self {
            host,
            done: Vec::new(),
            kept: Vec::new(),
            left: Vec::new(),
            notes: BTreeSet::new(),
            kept_folder,
            before,
            images: Vec::new(),
            before_counts: false,
            touched: BTreeSet::new(),
            is_staged: false,
            leases,
        }
    }

    /// Puts staged contents in the place of what was there.
    pub(super) fn replace(&mut self, op: &Op) -> Result<(), Stop> {
        let (Some(base), Some(new), Some(staged)) = (&op.base, &op.new, &op.staged) else {
            return Ok(());
        };
        match self.host.exchange(staged, &op.path) {
            Ok(()) => {}
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
                self.notes.insert(
                    "the file system cannot exchange files, so replaced files were absent for a \
                     moment"
                        .into(),
                );
                self.remove(op)?;
                return self.add(op);
            }
            Err(error) => return Err(error.into()),
        }
        self.touched.insert(staged.clone());
        let new = as_base(new);
        match self.verify(staged, &op.path, base) {
            Ok((lease, image)) => {
                let displaced = self.displaced(&op.path, staged, base, lease);
                self.images.push((op.path.clone(), image));
                self.done.push(Done::Replaced(displaced, new));
                Ok(())
            }
            Err(differs) => {
                self.put_back(staged, &op.path, &new, base);
                Err(differs.into())
            }
        }
    }

    /// Takes what was there away.
    pub(super) fn remove(&mut self, op: &Op) -> Result<(), Stop> {
        let (Some(base), Some(aside)) = (&op.base, &op.aside) else { return Ok(()) };
        if base.kind == NodeKind::Directory && !self.host.is_empty(&op.path)? {
            return Err(Stop::StaysHome);
        }
        self.host.set_aside(&op.path, aside)?;
        match self.verify(aside, &op.path, base) {
            Ok((lease, image)) => {
                let displaced = self.displaced(&op.path, aside, base, lease);
                self.images.push((op.path.clone(), image));
                self.done.push(Done::Removed(displaced));
                Ok(())
            }
            Err(differs) => {
                self.restore(aside, &op.path, base);
                Err(differs.into())
            }
        }
    }

    /// Puts staged contents where nothing is.
    pub(super) fn add(&mut self, op: &Op) -> Result<(), Stop> {
        let (Some(new), Some(staged)) = (&op.new, &op.staged) else { return Ok(()) };
        match self.host.rename_new(staged, &op.path) {
            Ok(()) => {}
            Err(Errno::NOENT | Errno::NOTDIR) => return Err(self.no_way_to(&op.path)),
            Err(error) => return Err(error.into()),
        }
        self.touched.insert(staged.clone());
        let (target, temp) = (op.path.clone(), staged.clone());
        self.done.push(Done::Added { target, temp, new: as_base(new) });
        Ok(())
    }

    /// Makes a directory, unless there is one.
    pub(super) fn make(&mut self, op: &Op) -> Result<(), Stop> {
        match self.host.make_directory(&op.path) {
            Ok(()) => self.done.push(Done::Made { target: op.path.clone() }),
            Err(Errno::EXIST) if self.host.directory(Some(&op.path)).is_ok() => return Ok(()),
            Err(Errno::NOENT | Errno::NOTDIR) => return Err(self.no_way_to(&op.path)),
            Err(error) => return Err(error.into()),
        }
        if let Some(was) = &op.restore {
            attributes::restore(self.host.directory(Some(&op.path))?, was)?;
        }
        Ok(())
    }

    /// Why there is nothing at a path that something was to be added at.
    fn no_way_to(&self, path: &RelPath) -> Stop {
        match self.host.directory(path.parent().as_ref()) {
            // Some file systems say so of a name that they do not take.
            Ok(_) => Errno::INVAL.into(),
            Err(_) => Stop::conflict("its directory is gone on the host"),
        }
    }

    /// Whether what is at a path is something that was added before under another name: in another
    /// spelling, where that is the same name.
    pub(super) fn has_added_as(&self, path: &RelPath) -> bool {
        self.done.iter().any(|done| match done {
            Done::Added { target, .. } | Done::Made { target } => self.host.are_one(target, path),
            _ => false,
        })
    }

    /// Sets or clears the executable bit.
    pub(super) fn mode(&mut self, op: &Op) -> Result<(), Stop> {
        let Some(new) = &op.new else { return Ok(()) };
        let file = self.host.open(&op.path).map_err(|error| match error {
            Errno::LOOP | Errno::INVAL => Stop::conflict("replaced on the host meanwhile"),
            error => error.into(),
        })?;
        let stat = fstat(&file)?;
        let was = stat.st_mode & 0o7777;
        if op.was.is_some_and(|expected| expected != was) {
            return Err(Stop::conflict("its mode was changed on the host meanwhile"));
        }
        let is = new_mode(op, was, new.executable);
        point();
        fchmod(&file, Mode::from_raw_mode(is))?;
        point();
        if (fstat(&file)?.st_mode & 0o111 != 0) != (is & 0o111 != 0) {
            return Err(Stop::Failed(io::Error::other(NO_MODE)));
        }
        self.images.push((op.path.clone(), attributes::pre_image(&stat)));
        self.done.push(Done::Mode { target: op.path.clone(), was, is });
        Ok(())
    }

    fn displaced(
        &mut self,
        target: &RelPath,
        temp: &RelPath,
        base: &BaseNode,
        lease: Option<Lease>,
    ) -> Displaced {
        let (target, temp, base) = (target.clone(), temp.clone(), base.clone());
        Displaced { target, temp, base, lease: self.hold(lease) }
    }

    /// Undoes every step, last first. What the user saved meanwhile stays.
    pub(super) fn undo(&mut self, mut before_each: impl FnMut()) {
        while let Some(done) = self.done.pop() {
            before_each();
            match done {
                Done::Replaced(Displaced { target, temp, base, lease }, new) => {
                    self.put_back(&temp, &target, &new, &base);
                    drop(lease);
                }
                Done::Removed(Displaced { target, temp, base, lease }) => {
                    self.restore(&temp, &target, &base);
                    drop(lease);
                }
                Done::Added { target, temp, new } => self.take_back(&target, &temp, &new),
                Done::Made { target } => match self.host.remove_directory(&target) {
                    Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY | Errno::EXIST) => {}
                    Err(error) => self.leave(&target, "cannot be removed again", error),
                },
                Done::Mode { target, was, is } => self.mode_back(&target, was, is),
            }
        }
    }

    /// Gives a file its mode back, if nobody else changed it since.
    pub(super) fn mode_back(&mut self, target: &RelPath, was: u32, is: u32) {
        if let Ok(file) = self.host.open(target)
            && fstat(&file).is_ok_and(|stat| stat.st_mode & 0o7777 == is)
            && let Err(error) = fchmod(&file, Mode::from_raw_mode(was))
        {
            self.leave(target, "cannot get its mode back", error);
        }
        point();
    }

    /// Looks once more whether everything displaced is the base and at rest; the first that is
    /// not is named.
    pub(super) fn check(&self) -> Result<(), (RelPath, String)> {
        for done in &self.done {
            let (Done::Replaced(displaced, _) | Done::Removed(displaced)) = done else { continue };
            let Displaced { target, temp, base, lease } = displaced;
            let whole = match (lease, base.kind) {
                (Some(lease), _) => lease.is_whole(),
                (None, NodeKind::Directory) => self.host.is_empty(temp).unwrap_or(false),
                (None, _) => self.is_still(temp, base).is_ok(),
            };
            if !whole {
                let reason = "changed on the host while the change set was applied";
                return Err((target.clone(), reason.into()));
            }
        }
        Ok(())
    }

    /// Lets go of everything displaced. What moved in the very last moment is put back by
    /// itself and named.
    pub(super) fn commit(&mut self) -> Vec<(RelPath, String)> {
        let mut late = Vec::new();
        for done in std::mem::take(&mut self.done) {
            let (displaced, new) = match done {
                Done::Replaced(displaced, new) => (displaced, Some(new)),
                Done::Removed(displaced) => (displaced, None),
                Done::Added { .. } | Done::Made { .. } | Done::Mode { .. } => continue,
            };
            let Displaced { target, temp, base, lease } = displaced;
            let lease = match lease {
                Some(lease) if lease.is_whole() => Ok(Some(lease)),
                Some(_) => Err(Differs::Written(LeaseError::Writer)),
                None => self.is_still(&temp, &base),
            };
            let gone = match lease {
                Ok(lease) if base.kind != NodeKind::Directory => {
                    let gone = self.host.unlink(&temp);
                    if let Some(lease) = lease {
                        self.see_off(&target, lease, &base);
                    }
                    gone
                }
                Ok(_) => self.host.remove_directory(&temp),
                Err(_) => Err(Errno::BUSY),
            };
            if gone.is_err() {
                match new {
                    Some(new) => self.put_back(&temp, &target, &new, &base),
                    None => self.restore(&temp, &target, &base),
                }
                late.push((target, "changed on the host in the last moment".into()));
            }
        }
        late
    }

    /// Removes what was staged and is still under its temporary name.
    pub(super) fn sweep(&mut self, ops: &[Op]) {
        for op in ops {
            let (Some(temp), Some(new)) = (&op.staged, &op.new) else { continue };
            if self.touched.contains(temp) && !self.is_ours(temp, &as_base(new)) {
                // What could not be put back or kept, and was told of.
                continue;
            }
            let gone = self.host.unlink(temp);
            if gone == Err(Errno::NOENT)
                && self.is_staged
                && !self.touched.contains(temp)
                && let Some(home) = temp.parent()
            {
                self.tell_moved(&home, temp);
            }
            if let Err(error) = gone
                // Where nothing may be written, that is said even of what is not there.
                && !matches!(self.host.stat(temp), Err(Errno::NOENT))
            {
                self.leave(temp, "cannot be removed", error);
            }
        }
    }

    /// Keeps a lease until the commit, as long as there are not too many; the others are taken
    /// again then.
    fn hold(&mut self, lease: Option<Lease>) -> Option<Lease> {
        let lease = lease?;
        self.leases = self.leases.checked_sub(1)?;
        Some(lease)
    }
}

/// What a new node looks like once it is on the host, as far as it is compared.
pub(crate) fn as_base(new: &NewNode) -> BaseNode {
    BaseNode {
        kind: new.kind,
        mode: if new.executable { 0o755 } else { 0o644 },
        size: new.size,
        hash: new.hash,
        target: new.target.clone(),
        stamp: None,
    }
}

/// The mode that a file gets whose bytes stay.
pub(super) fn new_mode(op: &Op, was: u32, executable: bool) -> u32 {
    match &op.restore {
        Some(image) => image.mode & 0o7777,
        None => with_executable(was, executable),
    }
}
