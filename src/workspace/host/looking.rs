//! Looking at many paths.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FileType, Stat, statat};
use rustix::io::Errno;

use super::{Host, stamp};
use crate::path::RelPath;
use crate::workspace::change::BaseNode;
use crate::workspace::conflict::HostNow;

/// Looks at many paths in order, without opening a directory for each.
#[derive(Debug)]
pub struct Looking<'a> {
    host: &'a Host,
    /// The directory of the last path, with its slash.
    last: Option<(Vec<u8>, OwnedFd)>,
    /// The names in directories that were asked about.
    names: HashMap<Option<RelPath>, HashSet<Vec<u8>>>,
}

impl<'a> Looking<'a> {
    /// Begins.
    pub fn at(host: &'a Host) -> Self {
        Self { host, last: None, names: HashMap::new() }
    }

    /// As [`Host::is_spelled_so`], but each directory is read once.
    ///
    /// # Errors
    ///
    /// Where the directory cannot be read.
    pub fn is_spelled_so(&mut self, path: &RelPath) -> Result<bool, Errno> {
        let names = match self.names.entry(path.parent()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let mut names = HashSet::new();
                for entry in rustix::fs::Dir::read_from(self.host.parent(path)?)? {
                    names.insert(entry?.file_name().to_bytes().to_vec());
                }
                new.insert(names)
            }
        };
        Ok(names.contains(path.name()))
    }

    /// What is at a path now. A file whose stamp, size and mode are those of `base` is taken for
    /// it and not read.
    ///
    /// # Errors
    ///
    /// As [`Host::look`].
    pub fn look(&mut self, path: &RelPath, base: Option<&BaseNode>) -> io::Result<HostNow> {
        let stat = match self.stat(path) {
            Err(Errno::NOENT) => return Ok(HostNow::Absent),
            other => other?,
        };
        match base {
            Some(base) if is_version(base, &stat) => Ok(HostNow::Node(base.clone())),
            _ => self.host.look(path),
        }
    }

    fn stat(&mut self, path: &RelPath) -> Result<Stat, Errno> {
        let name = path.name().len();
        let parent = &path.as_bytes()[..path.as_bytes().len() - name];
        if self.last.as_ref().is_none_or(|(last, _)| *last != parent) {
            let directory = self.host.directory(path.parent().as_ref())?;
            self.last = Some((parent.to_vec(), directory));
        }
        match &self.last {
            Some((_, parent)) => statat(parent, path.name(), AtFlags::SYMLINK_NOFOLLOW),
            None => Err(Errno::NOENT),
        }
    }
}

fn is_version(base: &BaseNode, stat: &Stat) -> bool {
    base.stamp == Some(stamp(stat))
        && u64::try_from(stat.st_size) == Ok(base.size)
        && FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
        && stat.st_mode & 0o7777 == base.mode
}
