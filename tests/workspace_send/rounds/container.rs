//! What a keeper does with a tree, over a directory: strict about what a put may say.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, File, FileTimes, Permissions};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use mcp_codex_orchestrator::keeper::wire::{KeptTree, REMOVED, WITHDRAWN};
use mcp_codex_orchestrator::path::RelPath;
use tar::EntryType;
use tempfile::TempDir;

use crate::{Seen, listing};

pub(crate) struct Container {
    directory: TempDir,
    /// What it holds, as it was put.
    held: BTreeMap<Vec<u8>, Seen>,
    tree: u64,
}

impl Container {
    pub(crate) fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), held: BTreeMap::new(), tree: 0 }
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn tree(&self) -> u64 {
        self.tree
    }

    fn at(&self, path: &[u8]) -> PathBuf {
        self.path().join(OsStr::from_bytes(path))
    }

    /// Puts a tree, or what differs; how many entries there were.
    pub(crate) fn put(&mut self, tar: &[u8]) -> usize {
        let mut came = BTreeSet::new();
        let mut count = 0;
        for entry in tar::Archive::new(tar).entries().unwrap() {
            let mut entry = entry.unwrap();
            let kind = entry.header().entry_type();
            if kind == EntryType::XGlobalHeader {
                continue;
            }
            count += 1;
            let mut path = entry.path_bytes().into_owned();
            while path.last() == Some(&b'/') {
                path.pop();
            }
            let at = self.at(&path);
            let shown = path.escape_ascii().to_string();
            let parent = fs::symlink_metadata(at.parent().unwrap()).unwrap();
            assert!(parent.is_dir(), "{shown} comes before its directory");
            let there = fs::symlink_metadata(&at).ok();
            if kind == EntryType::new(REMOVED) {
                assert!(!came.contains(&path), "{shown} came and is removed");
                assert!(there.is_some(), "{shown} is removed and is not there");
                remove(&at);
                continue;
            }
            if kind == EntryType::new(WITHDRAWN) {
                assert!(came.contains(&path), "{shown} is withdrawn and did not come");
                fs::remove_file(&at).unwrap();
                continue;
            }
            came.insert(path);
            match kind {
                EntryType::Directory => match there {
                    Some(there) => assert!(there.is_dir(), "{shown} is no directory"),
                    None => fs::create_dir(&at).unwrap(),
                },
                EntryType::Symlink => {
                    if let Some(there) = there {
                        assert!(there.is_symlink(), "{shown} is no link");
                        fs::remove_file(&at).unwrap();
                    }
                    symlink(OsStr::from_bytes(&entry.link_name_bytes().unwrap()), &at).unwrap();
                }
                _ => {
                    if let Some(there) = there {
                        assert!(there.is_file(), "{shown} is no file");
                        fs::remove_file(&at).unwrap();
                    }
                    let mut bytes = Vec::new();
                    entry.read_to_end(&mut bytes).unwrap();
                    fs::write(&at, bytes).unwrap();
                    let mode = entry.header().mode().unwrap();
                    fs::set_permissions(&at, Permissions::from_mode(mode)).unwrap();
                    let seconds = Duration::from_secs(entry.header().mtime().unwrap());
                    let times = FileTimes::new().set_modified(SystemTime::UNIX_EPOCH + seconds);
                    File::options().write(true).open(&at).unwrap().set_times(times).unwrap();
                }
            }
        }
        self.tree += 1;
        self.held = listing(self.path());
        count
    }

    /// What a run changed, as the stream of a collect.
    pub(crate) fn collect(&self) -> Vec<u8> {
        let now = listing(self.path());
        let ours = |path: &[u8]| path != b".git" && !path.starts_with(b".git/");
        let mut tar = tar::Builder::new(Vec::new());
        for (path, seen) in &now {
            if !ours(path) || self.held.get(path).is_some_and(|had| had.is_same(seen)) {
                continue;
            }
            let name = Path::new("tree").join(OsStr::from_bytes(path));
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o644);
            header.set_size(0);
            match seen {
                Seen::Directory => {
                    header.set_entry_type(EntryType::Directory);
                    header.set_mode(0o755);
                    tar.append_data(&mut header, name, &b""[..]).unwrap();
                }
                Seen::Link(target) => {
                    header.set_entry_type(EntryType::Symlink);
                    tar.append_link(&mut header, name, target).unwrap();
                }
                Seen::File { executable, bytes, .. } => {
                    header.set_mode(if *executable { 0o755 } else { 0o644 });
                    header.set_size(bytes.len() as u64);
                    tar.append_data(&mut header, name, &bytes[..]).unwrap();
                }
            }
        }
        let gone = self.held.keys().filter(|path| ours(path) && !now.contains_key(*path));
        let gone = gone.map(Vec::as_slice).collect::<Vec<_>>().join(&b"\0"[..]);
        let mut header = tar::Header::new_gnu();
        header.set_size(gone.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, "meta/deleted", &gone[..]).unwrap();
        tar.into_inner().unwrap()
    }

    /// Removes what is not as it was put, and, each for itself, what `doubted` says.
    pub(crate) fn reset(&mut self, doubted: impl Fn(usize) -> bool) -> KeptTree {
        let now = listing(self.path());
        let mut dropped: BTreeSet<Vec<u8>> = BTreeSet::new();
        for (at, (path, had)) in self.held.iter().enumerate() {
            let above = path.iter().rposition(|byte| *byte == b'/').map(|end| &path[..end]);
            if above.is_some_and(|above| dropped.contains(above))
                || now.get(path) != Some(had)
                || doubted(at)
            {
                dropped.insert(path.clone());
            }
        }
        self.held.retain(|path, _| !dropped.contains(path));
        // The deepest first.
        for path in now.keys().rev().filter(|path| !self.held.contains_key(*path)) {
            remove(&self.at(path));
        }
        self.tree += 1;
        let dropped = dropped.into_iter().map(|path| RelPath::new(path).unwrap()).collect();
        KeptTree { tree: self.tree, dropped, bytes: 0 }
    }
}

fn remove(at: &Path) {
    match fs::symlink_metadata(at) {
        Ok(there) if there.is_dir() => fs::remove_dir_all(at).unwrap(),
        Ok(_) => fs::remove_file(at).unwrap(),
        Err(_) => {}
    }
}
