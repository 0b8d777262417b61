//! The state that a reset must restore.

use std::ffi::CStr;
use std::io;

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{self, AtFlags, Mode};

use super::{Doing, Refusal, attributes, ipc, mounts, places};
use crate::keeper::wire::{Fingerprint, WORKSPACE};

/// Levels of directories that are read; deeper ones are told by what is above them.
const DEEP: usize = 64;

/// What does not count of the workspace; whoever says so has proved what it is.
#[derive(Clone, Copy, Debug)]
pub(super) enum But<'a> {
    /// All counts.
    Nothing,
    /// One name at its top.
    Name(&'a CStr),
    /// Everything in it.
    Contents,
}

/// Takes the fingerprint. After a reset the places hold the template and what is kept, so this is
/// short work.
pub(super) fn take(processes: u32, but: But<'_>) -> Result<Fingerprint, Refusal> {
    let mut hash = blake3::Hasher::new();
    for place in places::list()? {
        let shown = String::from_utf8_lossy(&place).into_owned();
        let but = if place == WORKSPACE.as_bytes() { but } else { But::Nothing };
        tree(&place, but, &mut hash).doing(format_args!("read {shown}"))?;
    }
    // /dev is a place of root's alone: what is in it must not change either.
    tree(b"/dev", But::Nothing, &mut hash).doing("read /dev")?;
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
fn tree(place: &[u8], but: But<'_>, hash: &mut blake3::Hasher) -> io::Result<()> {
    let root = places::open(place)?;
    let stat = fs::fstat(&root)?;
    let device = stat.st_dev;
    line(hash, place, &stat);
    marks(hash, &root)?;
    let mut stack = vec![(place.to_vec(), root)];
    while let Some((path, directory)) = stack.pop() {
        let mut names = places::names(directory.as_fd())?;
        names.sort();
        if path == place {
            names.retain(|name| match but {
                But::Nothing => true,
                But::Name(aside) => name.as_c_str() != aside,
                But::Contents => false,
            });
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

/// What is on a directory that no reset makes anew, besides its mode.
fn marks(hash: &mut blake3::Hasher, directory: &OwnedFd) -> io::Result<()> {
    hash.update(format!("{:x}\n", attributes::flags(directory)).as_bytes());
    for name in attributes::names(directory)? {
        hash.update(name.to_bytes_with_nul());
        hash.update(blake3::hash(&attributes::value(directory, &name)?).as_bytes());
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
        tree(path.as_os_str().as_bytes(), But::Nothing, &mut hash).unwrap();
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
