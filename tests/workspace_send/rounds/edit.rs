//! Random edits of a tree, by a user or by a run.

use std::fs::{self, File, FileTimes, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;

#[derive(Clone, Debug)]
pub(crate) enum Edit {
    Write(Vec<u8>),
    /// Another content of the same length, and the time of before.
    Hide(u8),
    Append,
    Delete,
    Rename(String),
    Link(String),
    Directory,
    Executable(bool),
    Private,
    HardLink(String),
    Touch(u32),
}

/// A path of a small tree, and what is done there.
pub(crate) type At = (String, Edit);

fn path() -> impl Strategy<Value = String> {
    "[abc](/[abc.]x?){0,2}".prop_filter("no dots", |path| path.split('/').all(|name| name != "."))
}

pub(crate) fn edits() -> impl Strategy<Value = Vec<At>> {
    let large = prop_oneof![4 => 0..40_usize, 1 => Just(1_100_000)];
    let write = (large, any::<u8>()).prop_map(|(size, byte)| Edit::Write(vec![byte; size]));
    let edit = prop_oneof![
        6 => write,
        3 => any::<u8>().prop_map(Edit::Hide),
        1 => Just(Edit::Append),
        2 => Just(Edit::Delete),
        2 => path().prop_map(Edit::Rename),
        1 => path().prop_map(Edit::Link),
        2 => Just(Edit::Directory),
        2 => any::<bool>().prop_map(Edit::Executable),
        1 => Just(Edit::Private),
        1 => path().prop_map(Edit::HardLink),
        1 => (1..u32::MAX).prop_map(Edit::Touch),
    ];
    proptest::collection::vec((path(), edit), 0..8)
}

/// Does it in `root`, as far as it can be done there.
pub(crate) fn edit(root: &Path, (path, edit): &At) {
    let at = root.join(path);
    let is = fs::symlink_metadata(&at).ok();
    let is_file = is.as_ref().is_some_and(fs::Metadata::is_file);
    // Not through a link: what it leads to may be outside.
    let mut above = at.parent().unwrap();
    while above != root {
        if fs::symlink_metadata(above).is_ok_and(|above| !above.is_dir()) {
            return;
        }
        above = above.parent().unwrap();
    }
    let make_way = || {
        match &is {
            Some(there) if there.is_dir() => fs::remove_dir_all(&at).unwrap(),
            Some(_) => fs::remove_file(&at).unwrap(),
            None => {}
        }
        fs::create_dir_all(at.parent().unwrap()).unwrap();
    };
    match edit {
        Edit::Write(bytes) if is_file => fs::write(&at, bytes).unwrap(),
        Edit::Write(bytes) => {
            make_way();
            fs::write(&at, bytes).unwrap();
        }
        Edit::Hide(byte) if is_file => {
            let was = fs::metadata(&at).unwrap();
            fs::write(&at, vec![*byte; usize::try_from(was.len()).unwrap()]).unwrap();
            let times = FileTimes::new().set_modified(was.modified().unwrap());
            File::options().write(true).open(&at).unwrap().set_times(times).unwrap();
        }
        Edit::Append if is_file => {
            let text = [fs::read(&at).unwrap(), b"more".to_vec()].concat();
            fs::write(&at, text).unwrap();
        }
        Edit::Delete if is.is_some() => make_way(),
        Edit::Rename(to) => {
            let to = root.join(to);
            // Refused where it cannot be, as by a shell.
            let _ = fs::rename(&at, to);
        }
        Edit::Link(target) => {
            make_way();
            // From the top, so that it stays in the tree.
            let up = "../".repeat(path.matches('/').count());
            symlink(format!("{up}{target}"), &at).unwrap();
        }
        Edit::Directory if !is.as_ref().is_some_and(fs::Metadata::is_dir) => {
            make_way();
            fs::create_dir(&at).unwrap();
        }
        Edit::Executable(executable) if is_file => {
            let mode = if *executable { 0o755 } else { 0o644 };
            fs::set_permissions(&at, Permissions::from_mode(mode)).unwrap();
        }
        Edit::Private if is_file => {
            fs::set_permissions(&at, Permissions::from_mode(0o600)).unwrap();
        }
        Edit::HardLink(to) if is_file => {
            let _ = fs::hard_link(&at, root.join(to));
        }
        Edit::Touch(seconds) if is_file => {
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs((*seconds).into());
            let times = FileTimes::new().set_modified(time);
            File::options().write(true).open(&at).unwrap().set_times(times).unwrap();
        }
        _ => {}
    }
}
