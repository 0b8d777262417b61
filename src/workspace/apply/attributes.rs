//! Owner, mode, time and extended attributes of files, access lists among them.

use std::fs::File;
use std::os::fd::AsFd;

use rustix::fs::{
    Gid, Mode, Stat, Timespec, Timestamps, Uid, XattrFlags, fchmod, fchown, fgetxattr, flistxattr,
    fsetxattr, fstat, futimens,
};
use rustix::io::Errno;

use crate::workspace::change::{PreImage, executable};
use crate::workspace::hex::{from_hex, to_hex};

/// Attributes of a file that its new contents must not inherit: what they grant was granted to
/// the old contents, or is computed from them.
const NOT_INHERITED: [&[u8]; 3] = [b"security.capability", b"security.ima", b"security.evm"];

const LONGEST: usize = 64 * 1024;

/// What a stat found, for undo.
pub(super) fn pre_image(stat: &Stat) -> PreImage {
    PreImage {
        offset: 0,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0)),
        attributes: Vec::new(),
    }
}

/// All attributes of a file that can be read, in hexadecimal.
pub(super) fn read(file: &File) -> Vec<(String, String)> {
    let mut found = Vec::new();
    each(file, |name, value| found.push((to_hex(name), to_hex(value))));
    found
}

/// Gives a new file owner, attributes and mode of the one that it replaces, as far as they can be
/// had; the mode must succeed.
pub(super) fn inherit(file: &File, old: &File, executable_now: bool) -> Result<(), Errno> {
    let theirs = fstat(old)?;
    own(file, theirs.st_uid, theirs.st_gid)?;
    each(old, |name, value| {
        if !NOT_INHERITED.contains(&name) {
            // Best effort: some belong to the kernel or to root.
            let _ = fsetxattr(file, name, value, XattrFlags::empty());
        }
    });
    let mode = with_executable(theirs.st_mode & 0o777, executable_now);
    fchmod(file, Mode::from_raw_mode(mode))
}

/// Gives a file or directory back what it had before it was displaced, as far as it can be had;
/// the mode must succeed.
pub(super) fn restore(file: impl AsFd, was: &PreImage) -> Result<(), Errno> {
    let file = file.as_fd();
    own(file, was.uid, was.gid)?;
    for (name, value) in &was.attributes {
        if let (Some(name), Some(value)) = (from_hex(name), from_hex(value)) {
            let _ = fsetxattr(file, &name[..], &value, XattrFlags::empty());
        }
    }
    fchmod(file, Mode::from_raw_mode(was.mode & 0o7777))?;
    let time = Timespec { tv_sec: was.mtime.0, tv_nsec: i64::from(was.mtime.1) };
    let _ = futimens(file, &Timestamps { last_access: time, last_modification: time });
    Ok(())
}

fn own(file: impl AsFd, uid: u32, gid: u32) -> Result<(), Errno> {
    let ours = fstat(&file)?;
    if (ours.st_uid, ours.st_gid) != (uid, gid) {
        let (owner, group) = (Uid::from_raw(uid), Gid::from_raw(gid));
        if fchown(&file, Some(owner), Some(group)).is_err() {
            // Only root gives files away; a group of one's own may be set.
            let _ = fchown(&file, None, Some(group));
        }
    }
    Ok(())
}

fn each(file: &File, mut found: impl FnMut(&[u8], &[u8])) {
    let mut names = vec![0; LONGEST];
    let len = match flistxattr(file, &mut names[..]) {
        Ok(0) | Err(_) => return,
        Ok(len) => len,
    };
    let mut value = vec![0; LONGEST];
    for name in names[..len].split(|b| *b == 0).filter(|name| !name.is_empty()) {
        if let Ok(len) = fgetxattr(file, name, &mut value[..]) {
            found(name, &value[..len]);
        }
    }
}

/// A mode with its executable bit as it shall be; one that is right already stays as it is.
pub(super) fn with_executable(mode: u32, executable_now: bool) -> u32 {
    match executable_now {
        now if now == executable(mode) => mode,
        true => mode | ((mode & 0o444) >> 2),
        false => mode & !0o111,
    }
}
