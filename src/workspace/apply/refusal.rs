//! Why the host refuses a path, said so that a person knows what to do.

use std::io;

use rustix::io::Errno;

/// A sentence for one path; what was tried stands first ("written", "removed", …).
pub(super) fn refusal(verb: &str, error: &io::Error) -> String {
    let why = match Errno::from_io_error(error) {
        Some(Errno::NOSPC) => "the disk is full; make room on it",
        Some(Errno::DQUOT) => "the disk quota is used up; make room",
        Some(Errno::ACCESS | Errno::PERM) => {
            "this user may not write there; change the owner or mode of its directory"
        }
        Some(Errno::ROFS) => "the file system is mounted read-only; mount it for writing",
        Some(Errno::NAMETOOLONG) => "its name is too long for this file system; have it renamed",
        Some(Errno::INVAL | Errno::ILSEQ) => {
            "the file system does not take such a name; have it renamed"
        }
        Some(Errno::BUSY) => "something is mounted there; unmount it or change it by hand",
        Some(Errno::XDEV) => {
            "it lies on another mounted file system, or in a lower layer, than the directory it is in; \
             change it by hand"
        }
        Some(Errno::ISDIR | Errno::NOTEMPTY) => "there is a directory; move it away",
        Some(Errno::FBIG) => "the file is too large for this file system",
        Some(Errno::MLINK | Errno::MFILE | Errno::NFILE) => {
            return format!("it cannot be {verb} ({error}); raise that limit");
        }
        _ => return format!("it cannot be {verb} ({error})"),
    };
    format!("it cannot be {verb}: {why}")
}

/// The reason for a path whose name the host takes for another one.
pub(super) const SAME_NAME: &str = "the host has a file whose name differs only in case or encoding, which is the same name there; \
     have one of them renamed";
