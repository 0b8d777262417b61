//! The state that a reset must restore.

use std::ffi::CStr;
use std::io;

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{self, AtFlags, Mode};

use super::{Doing, Refusal, ipc, mounts, places};
use crate::keeper::wire::{Fingerprint, WORKSPACE};

/// Levels of directories that are read; deeper ones are told by what is above them.
const DEEP: usize = 64;

/// The flags that an owner can set (`FS_FL_USER_MODIFIABLE`, and what some file systems add:
/// uncompressed, encrypted, journalled data, no copy on write, direct access, project, case). The
/// others are the file system's, such as the index that a large directory gets and keeps.
const OWNERS_FLAGS: u32 = 0x6283_ccff;

/// The kernel's own limit of the names of a node's attributes, and of one value.
const MOST_ATTRIBUTES: usize = 64 << 10;

/// Takes the fingerprint. After a reset the places hold the template and nothing else, so this is
/// short work. `aside` is the one name at the top of the workspace that does not count; whoever
/// gives it has proved what it is.
pub(super) fn take(processes: u32, aside: Option<&CStr>) -> Result<Fingerprint, Refusal> {
    let mut hash = blake3::Hasher::new();
    for place in places::list()? {
        let shown = String::from_utf8_lossy(&place).into_owned();
        let aside = aside.filter(|_| place == WORKSPACE.as_bytes());
        tree(&place, aside, &mut hash).doing(format_args!("read {shown}"))?;
    }
    // /dev is a place of root's alone: what is in it must not change either.
    tree(b"/dev", None, &mut hash).doing("read /dev")?;
    let mut table = blake3::Hasher::new();
    for mount in mounts::read()? {
        for field in [
            &mount.path[..],
            mount.kind.as_bytes(),
            mount.options.as_bytes(),
            mount.source.as_bytes(),
        ] {
            table.update(field);
            table.update(&[0]);
        }
    }
    Ok(Fingerprint {
        processes,
        places: hash.finalize().to_hex().to_string(),
        mounts: table.finalize().to_hex().to_string(),
        ipc: u32::try_from(ipc::list().len()).unwrap_or(u32::MAX),
    })
}

/// One line for each path: path, kind and mode, owner, group, size. A directory's size is left out,
/// since some file systems never shrink it.
fn tree(place: &[u8], aside: Option<&CStr>, hash: &mut blake3::Hasher) -> io::Result<()> {
    let root = places::open(place)?;
    let stat = fs::fstat(&root)?;
    let device = stat.st_dev;
    line(hash, place, &stat);
    attributes(hash, &root)?;
    let mut stack = vec![(place.to_vec(), root)];
    while let Some((path, directory)) = stack.pop() {
        let mut names = places::names(directory.as_fd())?;
        names.sort();
        if path == place {
            names.retain(|name| Some(name.as_c_str()) != aside);
        }
        for name in names {
            let stat = fs::statat(&directory, &name, AtFlags::SYMLINK_NOFOLLOW)?;
            let mut inner = path.clone();
            inner.push(b'/');
            inner.extend_from_slice(name.as_bytes());
            line(hash, &inner, &stat);
            let depth = inner.iter().filter(|byte| **byte == b'/').count();
            if places::is_directory(&stat) && stat.st_dev == device && depth < DEEP {
                let opened = fs::openat(&directory, &name, places::DIRECTORY, Mode::empty())?;
                stack.push((inner, opened));
            }
        }
    }
    Ok(())
}

/// What is on a directory that no reset makes anew, besides its mode: extended attributes (default
/// ACLs among them, which new files inherit) and the flags that its owner can set with `chattr`.
fn attributes(hash: &mut blake3::Hasher, directory: &OwnedFd) -> io::Result<()> {
    // What the file system does not have, nobody can set.
    let flags = fs::ioctl_getflags(directory).map_or(0, |flags| flags.bits() & OWNERS_FLAGS);
    hash.update(format!("{flags:x}\n").as_bytes());
    let mut names = vec![0; MOST_ATTRIBUTES];
    let names = match fs::flistxattr(directory, &mut names[..]) {
        Ok(length) => &names[..length],
        Err(rustix::io::Errno::NOTSUP) => &[],
        Err(error) => return Err(error.into()),
    };
    let mut names: Vec<&[u8]> = names.split_inclusive(|byte| *byte == 0).collect();
    names.sort_unstable();
    for name in names {
        let name = CStr::from_bytes_with_nul(name).map_err(io::Error::other)?;
        let mut value = vec![0; MOST_ATTRIBUTES];
        let length = fs::fgetxattr(directory, name, &mut value[..])?;
        hash.update(name.to_bytes_with_nul());
        hash.update(blake3::hash(&value[..length]).as_bytes());
    }
    Ok(())
}

fn line(hash: &mut blake3::Hasher, path: &[u8], stat: &fs::Stat) {
    let size = if places::is_directory(stat) { 0 } else { stat.st_size };
    hash.update(path);
    let rest = format!("\0{:o} {} {} {size}\n", stat.st_mode, stat.st_uid, stat.st_gid);
    hash.update(rest.as_bytes());
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn of(path: &std::path::Path) -> String {
        let mut hash = blake3::Hasher::new();
        tree(path.as_os_str().as_bytes(), None, &mut hash).unwrap();
        hash.finalize().to_hex().to_string()
    }

    #[test]
    fn a_file_a_mode_and_a_size_show() {
        let place = tempfile::tempdir().unwrap();
        let empty = of(place.path());
        let file = place.path().join("a");
        std::fs::write(&file, "1").unwrap();
        let small = of(place.path());
        std::fs::write(&file, "12").unwrap();
        let larger = of(place.path());
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o4755)).unwrap();
        let setuid = of(place.path());
        std::fs::remove_file(&file).unwrap();
        assert_eq!(of(place.path()), empty);
        let all = [empty, small, larger, setuid];
        assert!((1..4).all(|i| !all[..i].contains(&all[i])));
    }
}
