//! What happens to things that were moved aside: putting them back, letting them go, and keeping
//! what the user saved in the meantime.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::thread;
use std::time::Duration;

use rustix::fs::{Stat, fstat};
use rustix::io::Errno;

use super::attributes;
use super::before::KeepError;
use super::lease::{Lease, LeaseError};
use super::plan::Op;
use super::step::{Kept, Stop, Work};
use crate::path::RelPath;
use crate::workspace::NodeKind;
use crate::workspace::change::{BaseNode, ContentHash, PreImage};
use crate::workspace::conflict::{HostNow, same};
use crate::workspace::host::hash;

/// How often a writer is waited for when something is put back, 1 ms each.
const PATIENCE: u32 = 100;
/// How often two names are exchanged at most while a user saves in between.
const ROUNDS: u32 = 16;

/// Reads a file to its end, for its size and hash.
type ReadFile<'a> = dyn FnMut(&File) -> Result<(u64, ContentHash), Differs> + 'a;

/// A node as it is, and with the executable bit the other way round.
fn with_each_bit(node: &BaseNode) -> [BaseNode; 2] {
    let mode = if node.executable() { node.mode & !0o111 } else { node.mode | 0o111 };
    [node.clone(), BaseNode { mode, ..node.clone() }]
}

/// Why something is not what it was.
#[derive(Debug)]
pub(super) enum Differs {
    Changed,
    Written(LeaseError),
    Failed(Errno),
    /// It may be as it was, but `before.tar` did not take it.
    Before(io::Error),
}

impl From<Differs> for Stop {
    fn from(differs: Differs) -> Self {
        match differs {
            Differs::Changed => Self::conflict("changed on the host since it was sent"),
            Differs::Written(error) => Self::Conflict(error.to_string()),
            Differs::Failed(error) => Self::Failed(error.into()),
            Differs::Before(error) => Self::Before(error),
        }
    }
}

impl Work {
    /// `temp` has what was at `target`, and `target` what we put there, or what the user saved
    /// over it since. The newest of the user's ends up in its place.
    pub(super) fn put_back(
        &mut self,
        temp: &RelPath,
        target: &RelPath,
        ours: &BaseNode,
        base: &BaseNode,
    ) {
        let mut put: Option<(u64, u64)> = None;
        for _ in 0..ROUNDS {
            let putting = self.inode(temp);
            match self.host.exchange(temp, target) {
                Ok(()) => {}
                Err(Errno::NOENT) => match self.host.rename_new(temp, target) {
                    Ok(()) => return,
                    Err(Errno::EXIST) => continue,
                    Err(error) => return self.leave(temp, "cannot be put back", error),
                },
                Err(error) => return self.leave(temp, "cannot be put back", error),
            }
            match put {
                None if self.is_ours(temp, ours) => return self.discard(temp, target, &[ours]),
                // Nobody renamed anything in between, so what is in place now is the newest.
                Some(put) if self.inode(temp) == Some(put) => {
                    return self.outdated(temp, target, base, Some(ours));
                }
                _ => put = putting,
            }
        }
        self.outdated(temp, target, base, Some(ours));
    }

    /// Removes what the user has saved over since. The base is kept: in `before.tar` if it got
    /// there, else beside it.
    fn outdated(
        &mut self,
        temp: &RelPath,
        target: &RelPath,
        base: &BaseNode,
        ours: Option<&BaseNode>,
    ) {
        let mut known = Vec::from_iter(ours);
        if self.images.iter().any(|(path, _)| path == target) {
            // Kept in an archive that is ended and on the disk, or not let go of.
            let kept = match &mut self.before {
                Some(before) => before.secure().is_ok(),
                None => true,
            };
            if kept {
                self.before_counts |= self.before.is_some();
                known.insert(0, base);
            }
        }
        self.discard(temp, target, &known);
    }

    /// Brings back what was removed, unless the user made something new in its place.
    pub(super) fn restore(&mut self, temp: &RelPath, target: &RelPath, base: &BaseNode) {
        match self.host.rename_new(temp, target) {
            Ok(()) => {}
            Err(Errno::EXIST | Errno::NOTEMPTY) if base.kind == NodeKind::Directory => {
                if let Err(error) = self.host.remove_directory(temp) {
                    self.leave(temp, "cannot be put back", error);
                }
            }
            Err(Errno::EXIST) => self.outdated(temp, target, base, None),
            Err(error) => self.leave(temp, "cannot be put back", error),
        }
    }

    /// Removes what was added, unless the user saved over it; `temp` is a name for the moment.
    pub(super) fn take_back(&mut self, target: &RelPath, temp: &RelPath, ours: &BaseNode) {
        match self.host.set_aside(target, temp) {
            Ok(()) => {}
            Err(Errno::NOENT | Errno::NOTDIR) => return,
            Err(error) => return self.leave(target, "cannot be removed again", error),
        }
        if self.is_ours(temp, ours) {
            return self.discard(temp, target, &[ours]);
        }
        match self.host.rename_new(temp, target) {
            Ok(()) => {}
            Err(Errno::EXIST) => self.discard(temp, target, &[ours]),
            Err(error) => self.leave(temp, "cannot be put back", error),
        }
    }

    /// Whether it has the bytes that we put there. Without leases only they can tell. The mode does
    /// not count, since not every file system holds it.
    pub(super) fn is_ours(&self, temp: &RelPath, ours: &BaseNode) -> bool {
        match self.patiently(|| self.has_bytes(temp, ours)) {
            Ok(_) => true,
            Err(Differs::Written(LeaseError::Unavailable(_))) => {
                matches!(self.host.look(temp),
                    Ok(HostNow::Node(node)) if with_each_bit(ours).iter().any(|o| same(o, &node)))
            }
            Err(_) => false,
        }
    }

    /// As [`is_still`](Self::is_still), whatever the mode is.
    fn has_bytes(&self, path: &RelPath, expected: &BaseNode) -> Result<Option<Lease>, Differs> {
        let [as_it_is, otherwise] = with_each_bit(expected);
        match self.is_still(path, &as_it_is) {
            Err(Differs::Changed) if expected.kind == NodeKind::File => {
                self.is_still(path, &otherwise)
            }
            done => done,
        }
    }

    /// Removes a temporary name. If it has anything but `known` bytes, they are kept first.
    pub(super) fn discard(&mut self, temp: &RelPath, target: &RelPath, known: &[&BaseNode]) {
        for known in known {
            match self.patiently(|| self.has_bytes(temp, known)) {
                Ok(lease) => {
                    let gone = self.host.unlink(temp);
                    match (gone, lease) {
                        (Ok(()), Some(lease)) => self.see_off(target, lease, known),
                        (Ok(()), None) => {}
                        (Err(error), _) => self.leave(temp, "cannot be removed", error),
                    }
                    return;
                }
                Err(Differs::Changed) => {}
                Err(Differs::Failed(Errno::NOENT)) => return,
                Err(_) => break,
            }
        }
        let lease = self.patiently(|| {
            let file = self.host.open(temp).map_err(Differs::Failed)?;
            self.lease(file)
        });
        let kept = match lease {
            Ok(lease) => self.keep(target, lease.file()).and_then(|()| match lease.is_whole() {
                true => Ok(self.host.unlink(temp)?),
                false => Err(io::Error::from(Errno::BUSY)),
            }),
            Err(_) => Err(io::Error::from(Errno::BUSY)),
        };
        if kept.is_err() {
            self.left.push(format!("an earlier version of {target} was left as {temp}"));
        }
    }

    /// After the last name is gone: a writer who had found the file before it was displaced may
    /// still come. He is waited for, and what he wrote is kept.
    pub(super) fn see_off(&mut self, target: &RelPath, lease: Lease, base: &BaseNode) {
        if lease.is_whole() {
            return;
        }
        let mut file = lease.give_up();
        let again = self.patiently(|| {
            let file = file.try_clone().map_err(|_| Differs::Changed)?;
            self.lease(file)
        });
        if again.is_err() {
            self.left.push(format!("a program may still write to a {target} that is gone"));
        }
        let rewind = io::Seek::rewind(&mut file);
        let now = rewind.and_then(|()| hash(&mut file, &mut io::sink()));
        if !now.is_ok_and(|(_, hash)| Some(hash) == base.hash)
            && let Err(error) = self.keep(target, &file)
        {
            self.left.push(format!("a late save of {target} could not be kept: {error}"));
        }
    }

    fn keep(&mut self, target: &RelPath, mut from: &File) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.kept_folder)?;
        let number = fs::read_dir(&self.kept_folder)?.count();
        let file = self.kept_folder.join(number.to_string());
        let mut to = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&file)?;
        io::Seek::rewind(&mut from)?;
        io::copy(&mut from, &mut to)?;
        to.sync_data()?;
        self.kept.push(Kept { path: target.clone(), file });
        Ok(())
    }

    /// Whether a path still has exactly what is expected; for a file, with a lease on it.
    pub(super) fn is_still(
        &self,
        path: &RelPath,
        expected: &BaseNode,
    ) -> Result<Option<Lease>, Differs> {
        self.examine(path, expected, &mut |file| {
            let (size, hash) = hash(&mut &*file, &mut io::sink()).map_err(failed)?;
            Ok((size, hash))
        })
        .map(|(lease, _)| lease)
    }

    /// The same for what was just displaced from `target`; its bytes go to `before.tar` on the way.
    pub(super) fn verify(
        &mut self,
        temp: &RelPath,
        target: &RelPath,
        expected: &BaseNode,
    ) -> Result<(Option<Lease>, PreImage), Differs> {
        let mut before = self.before.take();
        let mut at = 0;
        let mut attributes = Vec::new();
        let is_read = Cell::new(false);
        let mut examine = || {
            self.examine(temp, expected, &mut |file| {
                is_read.set(true);
                let Some(before) = &mut before else {
                    return hash(&mut &*file, &mut io::sink()).map_err(failed);
                };
                attributes = attributes::read(file);
                let (size, hash, offset) =
                    before.keep(target, expected, file).map_err(|error| match error {
                        KeepError::Read(error) => failed(error),
                        KeepError::Write(error) => Differs::Before(error),
                    })?;
                at = offset;
                Ok((size, hash))
            })
        };
        let mut examined = examine();
        // A program that forks has a copy of a file it writes open for a moment longer. It is read
        // once at most, or it would be kept twice.
        for _ in 0..PATIENCE {
            match &examined {
                Err(Differs::Written(LeaseError::Writer)) if !is_read.get() => {
                    thread::sleep(Duration::from_millis(1));
                    examined = examine();
                }
                _ => break,
            }
        }
        let told = match (&examined, &mut before) {
            (Ok(_), Some(before)) if expected.kind != NodeKind::File => {
                before.entry(target, expected).map(drop)
            }
            _ => Ok(()),
        };
        self.before = before;
        let (lease, stat) = examined?;
        if let Err(KeepError::Read(error) | KeepError::Write(error)) = told {
            return Err(Differs::Before(error));
        }
        Ok((lease, PreImage { offset: at, attributes, ..attributes::pre_image(&stat) }))
    }

    fn examine(
        &self,
        path: &RelPath,
        expected: &BaseNode,
        read: &mut ReadFile<'_>,
    ) -> Result<(Option<Lease>, Stat), Differs> {
        if expected.kind != NodeKind::File {
            let stat = self.host.stat(path).map_err(Differs::Failed)?;
            return match self.host.look(path) {
                Ok(HostNow::Node(node)) if same(expected, &node) => Ok((None, stat)),
                _ => Err(Differs::Changed),
            };
        }
        let file = match self.host.open(path) {
            Ok(file) => file,
            Err(Errno::LOOP | Errno::INVAL | Errno::NXIO) => return Err(Differs::Changed),
            Err(error) => return Err(Differs::Failed(error)),
        };
        let stat = fstat(&file).map_err(Differs::Failed)?;
        let lease = self.lease(file)?;
        let (size, hash) = read(lease.file())?;
        let mode = stat.st_mode & 0o7777;
        let kind = NodeKind::File;
        let now = BaseNode { kind, mode, size, hash: Some(hash), target: None, stamp: None };
        match same(expected, &now) {
            false => Err(Differs::Changed),
            true if lease.is_whole() => Ok((Some(lease), stat)),
            true => Err(Differs::Written(LeaseError::Writer)),
        }
    }

    fn lease(&self, file: File) -> Result<Lease, Differs> {
        if !self.host.features().leases {
            return Err(Differs::Written(LeaseError::Unavailable(Errno::NOTSUP.into())));
        }
        Lease::take(file).map_err(Differs::Written)
    }

    /// Tries again while somebody writes. The kernel tells nobody when a writer is done.
    fn patiently<T>(&self, mut look: impl FnMut() -> Result<T, Differs>) -> Result<T, Differs> {
        for _ in 0..PATIENCE {
            match look() {
                Err(Differs::Written(LeaseError::Writer)) => {
                    thread::sleep(Duration::from_millis(1));
                }
                other => return other,
            }
        }
        look()
    }

    /// Says of the directories of temporary names that are gone what may be in them, wherever they
    /// are now.
    pub(super) fn tell_gone(&mut self, ops: &[Op]) {
        let temps = ops.iter().flat_map(|op| [&op.staged, &op.aside]).flatten();
        let mut seen = BTreeSet::new();
        for temp in temps {
            let Some(home) = temp.parent() else { continue };
            if !seen.insert(home.clone()) || self.host.directory(Some(&home)).is_ok() {
                continue;
            }
            self.tell_moved(&home, temp);
        }
    }

    /// Says what may be in a directory that is another one now.
    pub(super) fn tell_moved(&mut self, home: &RelPath, temp: &RelPath) {
        let name = String::from_utf8_lossy(temp.name());
        let begin = name.rsplit_once('-').map_or(&*name, |(begin, _)| begin);
        let sentence = format!(
            "{home} was moved, removed or made a link meanwhile: look in it, wherever it is now, \
             for files named {begin}-*.tmp, which may have what was there before"
        );
        if !self.left.contains(&sentence) {
            self.left.push(sentence);
        }
    }

    fn inode(&self, path: &RelPath) -> Option<(u64, u64)> {
        self.host.stat(path).ok().map(|stat| (stat.st_dev, stat.st_ino))
    }

    pub(super) fn leave(&mut self, path: &RelPath, what: &str, error: Errno) {
        self.left.push(format!("{path} {what}: {error}"));
    }
}

fn failed(error: io::Error) -> Differs {
    Differs::Failed(Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsRawFd;

    use super::*;
    use crate::workspace::fixture::{Place, file, path, tree};
    use crate::workspace::host::Host;

    /// A writer who found the file before it was displaced, and opens it after its last name went.
    #[test]
    fn a_save_after_the_last_name_is_gone_is_kept() {
        let place = Place::new(&tree([("a", file("base"))]));
        let kept = place.dir.path().join("kept");
        let mut work = Work::new(Host::of(&place.workspace), kept, None);
        let base = BaseNode {
            kind: NodeKind::File,
            mode: 0o644,
            size: 4,
            hash: Some(ContentHash(*blake3::hash(b"base").as_bytes())),
            target: None,
            stamp: None,
        };
        let lease = Lease::take(File::open(place.at("a")).unwrap()).unwrap();
        let way = format!("/proc/self/fd/{}", lease.file().as_raw_fd());
        fs::remove_file(place.at("a")).unwrap();
        thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let mut late = fs::OpenOptions::new().write(true).open(way).unwrap();
                late.write_all(b"late").unwrap();
            });
            while lease.is_whole() {
                thread::yield_now();
            }
            work.see_off(&path("a"), lease, &base);
            writer.join().unwrap();
        });
        assert_eq!(work.left, Vec::<String>::new());
        assert_eq!(work.kept.len(), 1);
        assert_eq!(fs::read(&work.kept[0].file).unwrap(), b"late");
    }
}
