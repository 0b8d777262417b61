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

use super::lease::{Lease, LeaseError};
use super::settle::Differs;
use super::stage::{Names, with_executable, with_fresh_name};
use crate::path::RelPath;
use crate::workspace::NodeKind;
use crate::workspace::change::{BaseNode, NewNode};
use crate::workspace::host::Host;

/// A step that was taken.
#[derive(Debug)]
pub(super) enum Done {
    Replaced { target: RelPath, temp: RelPath, base: BaseNode, new: BaseNode, lease: Option<Lease> },
    Removed { target: RelPath, temp: RelPath, base: BaseNode, lease: Option<Lease> },
    Added { target: RelPath, home: Option<RelPath>, new: BaseNode },
    Made { target: RelPath },
    Mode { target: RelPath, was: u32, is: u32 },
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
    pub(super) names: Names,
    pub(super) done: Vec<Done>,
    pub(super) kept: Vec<Kept>,
    /// Sentences about what could not be put right.
    pub(super) left: Vec<String>,
    /// Sentences about ways that were less than the best.
    pub(super) notes: BTreeSet<String>,
    pub(super) kept_folder: PathBuf,
    /// How many more leases may be held, each of which is an open file.
    leases: usize,
}

impl Work {
    pub(super) fn new(host: Host, names: Names, kept_folder: PathBuf) -> Self {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let leases = limit.map_or(4096, |n| usize::try_from(n / 4).unwrap_or(4096)).min(4096);
        Self {
            host,
            names,
            done: Vec::new(),
            kept: Vec::new(),
            left: Vec::new(),
            notes: BTreeSet::new(),
            kept_folder,
            leases,
        }
    }

    /// Puts staged contents in the place of `base`.
    pub(super) fn replace(
        &mut self,
        target: &RelPath,
        staged: &RelPath,
        home: Option<&RelPath>,
        base: &BaseNode,
        new: &NewNode,
    ) -> Result<(), Stop> {
        match self.host.exchange(staged, target) {
            Ok(()) => {}
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
                self.notes.insert(
                    "the file system cannot exchange files, so replaced files were absent for a \
                     moment"
                        .into(),
                );
                self.remove(target, home, base)?;
                return self.add(target, staged, home, new);
            }
            Err(error) => return Err(error.into()),
        }
        let new = as_base(new);
        match self.is_still(staged, base) {
            Ok(lease) => {
                let lease = self.hold(lease);
                let (target, temp) = (target.clone(), staged.clone());
                self.done.push(Done::Replaced { target, temp, base: base.clone(), new, lease });
                Ok(())
            }
            Err(differs) => {
                self.put_back(staged, target, &new, base);
                Err(differs.into())
            }
        }
    }

    /// Takes `base` away, to a temporary name in `home`.
    pub(super) fn remove(
        &mut self,
        target: &RelPath,
        home: Option<&RelPath>,
        base: &BaseNode,
    ) -> Result<(), Stop> {
        if base.kind == NodeKind::Directory && !self.host.is_empty(target)? {
            return Err(Stop::StaysHome);
        }
        let Self { host, names, .. } = self;
        let (temp, ()) =
            with_fresh_name(names, home, |temp| match host.rename_new(target, temp) {
                // Taken by a directory of that name is as good as taken.
                Err(Errno::NOTEMPTY) => Err(Errno::EXIST),
                done => done,
            })?;
        match self.is_still(&temp, base) {
            Ok(lease) => {
                let lease = self.hold(lease);
                self.done.push(Done::Removed {
                    target: target.clone(),
                    temp,
                    base: base.clone(),
                    lease,
                });
                Ok(())
            }
            Err(differs) => {
                self.restore(&temp, target, base);
                Err(differs.into())
            }
        }
    }

    /// Puts staged contents where nothing is.
    pub(super) fn add(
        &mut self,
        target: &RelPath,
        staged: &RelPath,
        home: Option<&RelPath>,
        new: &NewNode,
    ) -> Result<(), Stop> {
        match self.host.rename_new(staged, target) {
            Ok(()) => {}
            Err(Errno::NOENT | Errno::NOTDIR) => {
                return Err(Stop::conflict("its directory is gone on the host"));
            }
            Err(error) => return Err(error.into()),
        }
        self.done.push(Done::Added {
            target: target.clone(),
            home: home.cloned(),
            new: as_base(new),
        });
        Ok(())
    }

    /// Makes a directory, unless there is one.
    pub(super) fn make(&mut self, target: &RelPath) -> Result<(), Stop> {
        match self.host.make_directory(target) {
            Ok(()) => self.done.push(Done::Made { target: target.clone() }),
            Err(Errno::EXIST) if self.host.directory(Some(target)).is_ok() => {}
            Err(Errno::NOENT | Errno::NOTDIR) => {
                return Err(Stop::conflict("its directory is gone on the host"));
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Sets or clears the executable bit.
    pub(super) fn mode(&mut self, target: &RelPath, executable: bool) -> Result<(), Stop> {
        let file = self.host.open(target).map_err(|error| match error {
            Errno::LOOP | Errno::INVAL => Stop::conflict("replaced on the host meanwhile"),
            error => error.into(),
        })?;
        let was = fstat(&file)?.st_mode & 0o7777;
        let is = with_executable(was, executable);
        fchmod(&file, Mode::from_raw_mode(is))?;
        self.done.push(Done::Mode { target: target.clone(), was, is });
        Ok(())
    }

    /// Undoes every step, last first. What the user saved meanwhile stays.
    pub(super) fn undo(&mut self, mut before_each: impl FnMut()) {
        while let Some(done) = self.done.pop() {
            before_each();
            match done {
                Done::Replaced { target, temp, base, new, lease } => {
                    self.put_back(&temp, &target, &new, &base);
                    drop(lease);
                }
                Done::Removed { target, temp, base, lease } => {
                    self.restore(&temp, &target, &base);
                    drop(lease);
                }
                Done::Added { target, home, new } => self.take_back(&target, home.as_ref(), &new),
                Done::Made { target } => match self.host.remove_directory(&target) {
                    Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY | Errno::EXIST) => {}
                    Err(error) => self.leave(&target, "cannot be removed again", error),
                },
                Done::Mode { target, was, is } => {
                    if let Ok(file) = self.host.open(&target)
                        && fstat(&file).is_ok_and(|stat| stat.st_mode & 0o7777 == is)
                        && let Err(error) = fchmod(&file, Mode::from_raw_mode(was))
                    {
                        self.leave(&target, "cannot get its mode back", error);
                    }
                }
            }
        }
    }

    /// Looks once more whether everything displaced is the base and at rest; the first that is
    /// not is named.
    pub(super) fn check(&self) -> Result<(), (RelPath, String)> {
        for done in &self.done {
            let (Done::Replaced { target, temp, base, lease, .. }
            | Done::Removed { target, temp, base, lease }) = done
            else {
                continue;
            };
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
            let (target, temp, base, lease, new) = match done {
                Done::Replaced { target, temp, base, new, lease } => {
                    (target, temp, base, lease, Some(new))
                }
                Done::Removed { target, temp, base, lease } => (target, temp, base, lease, None),
                Done::Added { .. } | Done::Made { .. } | Done::Mode { .. } => continue,
            };
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

    /// Removes what was staged and never used.
    pub(super) fn sweep<'a>(&mut self, staged: impl Iterator<Item = &'a RelPath>) {
        for temp in staged {
            if let Err(error) = self.host.unlink(temp)
                && error != Errno::NOENT
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
fn as_base(new: &NewNode) -> BaseNode {
    BaseNode {
        kind: new.kind,
        mode: if new.executable { 0o755 } else { 0o644 },
        size: new.size,
        hash: new.hash,
        target: new.target.clone(),
        stamp: None,
    }
}
