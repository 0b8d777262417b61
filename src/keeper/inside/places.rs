//! The writable places: what they are, whose they are, and how they are emptied.
//!
//! With a read-only root they are the writable mounts, all of them, so that none can be forgotten.
//! Without one, those that this module knows by name are added; nothing is promised for the rest.

use std::ffi::{CStr, CString};
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};

use parking_lot::Mutex;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{
    self, AtFlags, Dir, FileType, Mode, OFlags, RenameFlags, Stat, Timespec, Timestamps,
};
use rustix::process::{Gid, Uid};

use super::mounts::{self, Mount};
use super::{Doing, Refusal};
use crate::keeper::wire::{HOME, USER, WORKSPACE};

/// Flags with which a directory is opened: never through a link.
pub(super) const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Owner and mode of the places that are known by name.
const KNOWN: [(&str, u32, u32); 8] = [
    (WORKSPACE, USER, 0o755),
    (HOME, USER, 0o700),
    ("/cache", USER, 0o755),
    ("/tmp", 0, 0o1777),
    ("/var/tmp", 0, 0o1777),
    ("/run", 0, 0o755),
    ("/dev/shm", 0, 0o1777),
    ("/dev/mqueue", 0, 0o1777),
];

/// How deep a tree is walked before it is flattened; each level holds a file descriptor.
const DEEP: usize = 64;

/// Threads that unlink files on a disk. To unlink a file that was just rewritten waits for the disk
/// (measured: 5,000 of them 13.6 s one after the other, 0.5 s with eight threads).
const UNLINKERS: usize = 8;

/// Names in one piece of work of theirs.
const PIECE: usize = 16;

/// File systems without a disk, by `statfs`: tmpfs and mqueue.
const IN_MEMORY: [i64; 2] = [0x0102_1994, 0x1980_0202];

/// The writable places, each once, none within another's walk (walks do not cross mounts).
pub(super) fn list() -> Result<Vec<Vec<u8>>, Refusal> {
    let mounts = mounts::read()?;
    let mut places: Vec<Vec<u8>> = mounts
        .iter()
        .filter(|mount| mount.writable() && !mount.is_system() && mount.path != b"/")
        .map(|mount| mount.path.clone())
        .filter(|path| open(path).is_ok())
        .collect();
    let writable_root = mounts.iter().rfind(|m| m.path == b"/").is_some_and(Mount::writable);
    if writable_root {
        let named = KNOWN.iter().map(|(path, ..)| path.as_bytes().to_vec());
        places.extend(named.filter(|path| open(path).is_ok()));
    }
    places.sort();
    places.dedup();
    Ok(places)
}

/// Opens a place, which must be a directory itself.
pub(super) fn open(path: &[u8]) -> io::Result<OwnedFd> {
    Ok(fs::open(path, DIRECTORY, Mode::empty())?)
}

/// Gives every place its owner, its mode and the time now; one that is not known by name belongs to
/// root. A place that a job left empty keeps the times that the job gave it, and they are wide
/// enough to tell the next one something.
pub(super) fn own(places: &[Vec<u8>]) -> Result<(), Refusal> {
    for path in places {
        let shown = String::from_utf8_lossy(path);
        let known = KNOWN.iter().find(|(known, ..)| known.as_bytes() == path.as_slice());
        let (owner, mode) = known.map_or((0, 0o755), |(_, owner, mode)| (*owner, *mode));
        let place = open(path).doing(format_args!("open {shown}"))?;
        fs::fchown(&place, Some(Uid::from_raw(owner)), Some(Gid::from_raw(owner)))
            .doing(format_args!("give {shown} its owner"))?;
        fs::fchmod(&place, Mode::from_raw_mode(mode))
            .doing(format_args!("give {shown} its mode"))?;
        let now = Timespec { tv_sec: 0, tv_nsec: fs::UTIME_NOW };
        fs::futimens(&place, &Timestamps { last_access: now, last_modification: now })
            .doing(format_args!("give {shown} its times"))?;
    }
    Ok(())
}

/// Removes everything in a place, whatever its modes and however deep. Other mounts within it, and
/// the directories that lead to them, stay, and so does the name `except` at its top.
pub(super) fn empty(path: &[u8], except: Option<&CStr>) -> Result<(), Refusal> {
    let shown = String::from_utf8_lossy(path);
    let place = open(path).doing(format_args!("empty {shown}"))?;
    empty_directory(place.as_fd(), except).doing(format_args!("empty {shown}"))
}

/// As [`empty`], of a directory that is open.
pub(super) fn empty_directory(place: BorrowedFd<'_>, except: Option<&CStr>) -> io::Result<()> {
    let device = fs::fstat(place)?.st_dev;
    if names(place)?.is_empty() {
        return Ok(());
    }
    if !IN_MEMORY.contains(&fs::fstatfs(place)?.f_type) {
        unlink_files(place, device, except)?;
    }
    let mut flattened = 0_u64;
    // Moving a deep directory up leaves new entries at the top, so look again until none is left.
    loop {
        let before = flattened;
        clear(place, device, except, &mut flattened)?;
        if flattened == before {
            return Ok(());
        }
    }
}

/// Names in a directory.
type Piece = (Arc<OwnedFd>, Vec<CString>);

/// Unlinks what is no directory, as far down as descriptors are spent on it. Only makes
/// [`clear`] quick, which removes whatever is left.
fn unlink_files(place: BorrowedFd<'_>, device: u64, except: Option<&CStr>) -> io::Result<()> {
    let top = Arc::new(fs::openat(place, c".", DIRECTORY, Mode::empty())?);
    let (give, take) = sync_channel::<Piece>(UNLINKERS);
    let take = Mutex::new(take);
    std::thread::scope(|scope| {
        let unlink = || {
            loop {
                let piece = take.lock().recv();
                let Ok((directory, names)) = piece else { return };
                for name in names {
                    // What this cannot do, `clear` reports.
                    let _ = fs::unlinkat(&directory, &name, AtFlags::empty());
                }
            }
        };
        let threads = (0..UNLINKERS)
            .filter(|_| {
                let thread = std::thread::Builder::new().stack_size(128 << 10);
                thread.spawn_scoped(scope, unlink).is_ok()
            })
            .count();
        if threads == 0 {
            return Ok(());
        }
        // Consumes `give` however it returns, so that the threads end and the scope with them.
        hand_out(top, device, except, give)
    })
}

/// Walks down and gives the files away in pieces.
fn hand_out(
    top: Arc<OwnedFd>,
    device: u64,
    except: Option<&CStr>,
    give: SyncSender<Piece>,
) -> io::Result<()> {
    let mut stack = vec![(top, 0_usize)];
    while let Some((directory, depth)) = stack.pop() {
        let mut piece = Vec::new();
        for entry in Dir::read_from(&directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." || (depth == 0 && Some(name) == except) {
                continue;
            }
            if entry.file_type() == FileType::Directory {
                // Handles of waiting directories are bounded by the depth and this width.
                if depth < DEEP && stack.len() < 8 * DEEP {
                    let opened = fs::openat(&directory, name, DIRECTORY, Mode::empty())?;
                    if fs::fstat(&opened)?.st_dev == device {
                        stack.push((Arc::new(opened), depth + 1));
                    }
                }
                continue;
            }
            piece.push(name.to_owned());
            if piece.len() == PIECE {
                let full = std::mem::take(&mut piece);
                if give.send((Arc::clone(&directory), full)).is_err() {
                    return Ok(());
                }
            }
        }
        if !piece.is_empty() && give.send((directory, piece)).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// One directory on the way down: its handle, and the names in it that are still to be removed.
struct Level {
    directory: OwnedFd,
    names: Vec<CString>,
    name: CString,
}

fn clear(
    place: BorrowedFd<'_>,
    device: u64,
    except: Option<&CStr>,
    flattened: &mut u64,
) -> io::Result<()> {
    let mut stack = vec![Level {
        directory: fs::openat(place, c".", DIRECTORY, Mode::empty())?,
        names: names(place)?.into_iter().filter(|name| Some(name.as_c_str()) != except).collect(),
        name: CString::default(),
    }];
    while let Some(level) = stack.last_mut() {
        let Some(name) = level.names.pop() else {
            let Some(done) = stack.pop() else { break };
            if let Some(parent) = stack.last() {
                // Another mount in it keeps it; the fingerprint sees what else could.
                match fs::unlinkat(&parent.directory, &done.name, AtFlags::REMOVEDIR) {
                    Ok(()) | Err(rustix::io::Errno::NOTEMPTY | rustix::io::Errno::BUSY) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            continue;
        };
        let stat = match fs::statat(&level.directory, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(rustix::io::Errno::NOENT) => continue,
            Err(error) => return Err(error.into()),
        };
        if !is_directory(&stat) {
            match fs::unlinkat(&level.directory, &name, AtFlags::empty()) {
                Ok(()) | Err(rustix::io::Errno::NOENT | rustix::io::Errno::BUSY) => continue,
                Err(error) => return Err(error.into()),
            }
        }
        if stat.st_dev != device {
            continue;
        }
        if stack.len() >= DEEP {
            let Some(level) = stack.last() else { break };
            flatten(level.directory.as_fd(), &name, place, flattened)?;
            continue;
        }
        let Some(level) = stack.last() else { break };
        let directory = fs::openat(&level.directory, &name, DIRECTORY, Mode::empty())?;
        let names = names(directory.as_fd())?;
        stack.push(Level { directory, names, name });
    }
    Ok(())
}

/// Moves a directory up to the top of its place, under a name that nobody has there: a job may have
/// taken those that were to be expected.
fn flatten(
    from: BorrowedFd<'_>,
    name: &CStr,
    place: BorrowedFd<'_>,
    flattened: &mut u64,
) -> rustix::io::Result<()> {
    loop {
        *flattened += 1;
        let flat = format!(".codex-keeper-{flattened}");
        match fs::renameat_with(from, name, place, flat.as_str(), RenameFlags::NOREPLACE) {
            Err(rustix::io::Errno::EXIST) => {}
            done => return done,
        }
    }
}

/// The names in a directory, without `.` and `..`.
pub(super) fn names(directory: BorrowedFd<'_>) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// The names in a directory, last first: they are taken from the end.
pub(super) fn sorted_names(directory: BorrowedFd<'_>) -> io::Result<Vec<CString>> {
    let mut names = names(directory)?;
    names.sort_unstable_by(|one, other| other.cmp(one));
    Ok(names)
}

pub(super) fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode).is_dir()
}

/// What must be free in a place lest it counts as full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Floor {
    place: Vec<u8>,
    bytes: u64,
    inodes: u64,
}

/// The least that is free in a place of memory: it is full when nothing can be written any more.
const LEAST: (u64, u64) = (64 << 10, 1);

/// What a job leaves free of a disk at most: bytes, and files. The disk is not the job's alone, and
/// a build writes hundreds of megabytes in the second between two looks.
const RESERVE: (u64, u64) = (512 << 20, 10_000);

/// The share of a smaller disk that stays free.
const SHARE: u64 = 64;

/// The floors of places for a job that begins now. A disk that has hardly more free than what is to
/// stay free, whoever has filled it, is only full when nothing can be written any more.
pub(super) fn floors(places: &[Vec<u8>]) -> Vec<Floor> {
    places
        .iter()
        .map(|place| {
            let in_memory =
                fs::statfs(place.as_slice()).is_ok_and(|system| IN_MEMORY.contains(&system.f_type));
            let (bytes, inodes) = match fs::statvfs(place.as_slice()) {
                Ok(disk) if !in_memory => floor(
                    (disk.f_blocks.saturating_mul(disk.f_frsize), disk.f_files),
                    (disk.f_bavail.saturating_mul(disk.f_frsize), disk.f_favail),
                ),
                _ => LEAST,
            };
            Floor { place: place.clone(), bytes, inodes }
        })
        .collect()
}

/// Bytes and files that must stay free of a disk of the size `all`, of which `free` is free now.
fn floor(all: (u64, u64), free: (u64, u64)) -> (u64, u64) {
    let one = |all: u64, free: u64, most: u64, least: u64| {
        let reserve = most.min(all / SHARE);
        if free / 2 > reserve { reserve.max(least) } else { least }
    };
    (one(all.0, free.0, RESERVE.0, LEAST.0), one(all.1, free.1, RESERVE.1, LEAST.1))
}

/// A place that has less free than its floor.
pub(super) fn full(floors: &[Floor]) -> Option<String> {
    let full = floors.iter().find(|floor| {
        fs::statvfs(floor.place.as_slice()).is_ok_and(|place| {
            let bytes = place.f_bavail.saturating_mul(place.f_frsize);
            // A file system that counts no blocks or inodes is never full of them.
            (place.f_blocks > 0 && bytes < floor.bytes)
                || (place.f_files > 0 && place.f_favail < floor.inodes)
        })
    })?;
    Some(String::from_utf8_lossy(&full.place).into_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn a_disk_keeps_a_reserve_unless_it_had_none() {
        const GIB: u64 = 1 << 30;
        assert_eq!(floor((250 * GIB, 1 << 24), (40 * GIB, 1 << 23)), RESERVE);
        assert_eq!(floor((16 << 20, 4096), (15 << 20, 4000)), (256 << 10, 64));
        assert_eq!(floor((250 * GIB, 1 << 24), (GIB, 15_000)), LEAST);
        assert_eq!(floor((0, 0), (0, 0)), LEAST);
    }

    #[test]
    fn flattening_takes_no_name_that_is_there() {
        let place = tempfile::tempdir().unwrap();
        for name in [".codex-keeper-1", ".codex-keeper-3", "deep/one", "deep/two"] {
            std::fs::create_dir_all(place.path().join(name)).unwrap();
        }
        std::fs::write(place.path().join(".codex-keeper-2"), "").unwrap();
        let top = open(place.path().as_os_str().as_bytes()).unwrap();
        let deep = open(place.path().join("deep").as_os_str().as_bytes()).unwrap();
        let mut flattened = 0;
        for (name, number) in [(c"one", 4), (c"two", 5)] {
            flatten(deep.as_fd(), name, top.as_fd(), &mut flattened).unwrap();
            assert_eq!(flattened, number);
            assert!(place.path().join(format!(".codex-keeper-{number}")).is_dir());
        }
    }

    #[test]
    fn emptying_removes_deep_trees_closed_directories_and_odd_names() {
        let place = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("stays"), "x").unwrap();
        std::os::unix::fs::symlink(outside.path(), place.path().join("link")).unwrap();
        let odd = std::ffi::OsStr::from_bytes(b"odd\xff\n");
        std::fs::write(place.path().join(odd), "x").unwrap();
        let mut deep = open(place.path().as_os_str().as_bytes()).unwrap();
        for _ in 0..1500 {
            fs::mkdirat(&deep, c"directory", Mode::RWXU).unwrap();
            deep = fs::openat(&deep, c"directory", DIRECTORY, Mode::empty()).unwrap();
        }
        fs::openat(&deep, c"file", OFlags::CREATE | OFlags::WRONLY, Mode::RWXU).unwrap();
        std::fs::create_dir(place.path().join("kept")).unwrap();
        std::fs::write(place.path().join("kept/stays"), "x").unwrap();
        let bytes = place.path().as_os_str().as_bytes();
        empty(bytes, Some(c"kept")).unwrap();
        assert!(place.path().join("kept/stays").exists());
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 1);
        empty(bytes, None).unwrap();
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
        assert!(outside.path().join("stays").exists());
    }
}
