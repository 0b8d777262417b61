//! What happens to things that were moved aside: putting them back, letting them go, and keeping
//! what the user saved in the meantime.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::thread;
use std::time::Duration;

use rustix::fs::fstat;
use rustix::io::Errno;

use super::lease::{Lease, LeaseError};
use super::stage::with_fresh_name;
use super::step::{Kept, Stop, Work};
use crate::path::RelPath;
use crate::workspace::NodeKind;
use crate::workspace::change::BaseNode;
use crate::workspace::conflict::{HostNow, same};
use crate::workspace::host::hash;

/// How often a writer is waited for when something is put back, 1 ms each.
const PATIENCE: u32 = 100;
/// How often two names are exchanged at most while a user saves in between.
const ROUNDS: u32 = 16;

/// Why something is not what it was.
#[derive(Debug)]
pub(super) enum Differs {
    Changed,
    Written(LeaseError),
    Failed(Errno),
}

impl From<Differs> for Stop {
    fn from(differs: Differs) -> Self {
        match differs {
            Differs::Changed => Self::conflict("changed on the host since it was sent"),
            Differs::Written(error) => Self::Conflict(error.to_string()),
            Differs::Failed(error) => Self::Failed(error.into()),
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
                    return self.discard(temp, target, &[base, ours]);
                }
                _ => put = putting,
            }
        }
        self.discard(temp, target, &[base, ours]);
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
            Err(Errno::EXIST) => self.discard(temp, target, &[base]),
            Err(error) => self.leave(temp, "cannot be put back", error),
        }
    }

    /// Removes what was added, unless the user saved over it.
    pub(super) fn take_back(&mut self, target: &RelPath, home: Option<&RelPath>, ours: &BaseNode) {
        let Self { host, names, .. } = self;
        let temp = match with_fresh_name(names, home, |temp| host.rename_new(target, temp)) {
            Ok((temp, ())) => temp,
            Err(Errno::NOENT | Errno::NOTDIR) => return,
            Err(error) => return self.leave(target, "cannot be removed again", error),
        };
        if self.is_ours(&temp, ours) {
            return self.discard(&temp, target, &[ours]);
        }
        match self.host.rename_new(&temp, target) {
            Ok(()) => {}
            Err(Errno::EXIST) => self.discard(&temp, target, &[ours]),
            Err(error) => self.leave(&temp, "cannot be put back", error),
        }
    }

    /// Whether it is what we put there, untouched. Without leases only its bytes can tell.
    fn is_ours(&self, temp: &RelPath, ours: &BaseNode) -> bool {
        match self.patiently(|| self.is_still(temp, ours)) {
            Ok(_) => true,
            Err(Differs::Written(LeaseError::Unavailable(_))) => {
                matches!(self.host.look(temp, &mut io::sink()),
                    Ok(HostNow::Node(node)) if same(ours, &node))
            }
            Err(_) => false,
        }
    }

    /// Removes a temporary name. If it has anything but `known` bytes, they are kept first.
    pub(super) fn discard(&mut self, temp: &RelPath, target: &RelPath, known: &[&BaseNode]) {
        for known in known {
            match self.patiently(|| self.is_still(temp, known)) {
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
            Lease::take(file).map_err(Differs::Written)
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
            Lease::take(file).map_err(Differs::Written)
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
        if expected.kind != NodeKind::File {
            return match self.host.look(path, &mut io::sink()) {
                Ok(HostNow::Node(node)) if same(expected, &node) => Ok(None),
                _ => Err(Differs::Changed),
            };
        }
        let file = match self.host.open(path) {
            Ok(file) => file,
            Err(Errno::LOOP | Errno::INVAL | Errno::NXIO) => return Err(Differs::Changed),
            Err(error) => return Err(Differs::Failed(error)),
        };
        let stat = fstat(&file).map_err(Differs::Failed)?;
        let lease = Lease::take(file).map_err(Differs::Written)?;
        let (size, hash) = hash(&mut lease.file(), &mut io::sink())
            .map_err(|e| Differs::Failed(Errno::from_io_error(&e).unwrap_or(Errno::IO)))?;
        let mode = stat.st_mode & 0o7777;
        let kind = NodeKind::File;
        let now = BaseNode { kind, mode, size, hash: Some(hash), target: None, stamp: None };
        match same(expected, &now) {
            false => Err(Differs::Changed),
            true if lease.is_whole() => Ok(Some(lease)),
            true => Err(Differs::Written(LeaseError::Writer)),
        }
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

    fn inode(&self, path: &RelPath) -> Option<(u64, u64)> {
        self.host.stat(path).ok().map(|stat| (stat.st_dev, stat.st_ino))
    }

    pub(super) fn leave(&mut self, path: &RelPath, what: &str, error: Errno) {
        self.left.push(format!("{path} {what}: {error}"));
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsRawFd;

    use super::*;
    use crate::workspace::apply::stage::Names;
    use crate::workspace::change::ContentHash;
    use crate::workspace::fixture::{Place, file, path, tree};
    use crate::workspace::host::Host;

    /// A writer who found the file before it was displaced, and opens it after its last name went.
    #[test]
    fn a_save_after_the_last_name_is_gone_is_kept() {
        let place = Place::new(&tree([("a", file("base"))]));
        let kept = place.dir.path().join("kept");
        let mut work = Work::new(Host::of(&place.workspace), Names::of("run"), kept);
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
