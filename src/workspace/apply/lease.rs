//! Read leases: the kernel's word that nobody has a file open for writing.
//!
//! A lease is refused while a writer has the file open, and broken when one opens it. The writer
//! then waits until the lease is given up (the kernel gives up for us after
//! `/proc/sys/fs/lease-break-time`, 45 s by default), so a broken lease is seen before the first
//! byte is written.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// From `asm-generic/fcntl.h`; libc has it for few targets only.
const F_SETSIG: libc::c_int = 10;

/// Why there is no lease.
#[derive(Debug, thiserror::Error)]
pub(super) enum LeaseError {
    /// Somebody has the file open for writing.
    #[error("a program has it open for writing")]
    Writer,
    /// The file system or the kernel gives none, or the file belongs to somebody else.
    #[error("no lease can be had on it ({0})")]
    Unavailable(io::Error),
}

/// A read lease on a file, given up when dropped.
#[derive(Debug)]
pub(super) struct Lease {
    file: File,
}

impl Lease {
    /// Takes a lease on a regular file that is open for reading only. Does not wait.
    ///
    /// # Errors
    ///
    /// See [`LeaseError`].
    pub(super) fn take(file: File) -> Result<Self, LeaseError> {
        // The signal of a broken lease is by default one that ends the process; this one is
        // ignored unless somebody asks for it.
        fcntl(&file, F_SETSIG, libc::SIGURG).map_err(LeaseError::Unavailable)?;
        match fcntl(&file, libc::F_SETLEASE, libc::F_RDLCK) {
            Ok(_) => Ok(Self { file }),
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => Err(LeaseError::Writer),
            Err(error) => Err(LeaseError::Unavailable(error)),
        }
    }

    /// Whether nobody tried to open the file for writing since the lease was taken.
    pub(super) fn is_whole(&self) -> bool {
        fcntl(&self.file, libc::F_GETLEASE, 0).is_ok_and(|kind| kind == libc::F_RDLCK)
    }

    /// Gives the lease up and the file back; a writer who waits for it goes on.
    pub(super) fn give_up(self) -> File {
        // It cannot fail for a lease that is ours, and one that the kernel took is gone anyway.
        let _ = fcntl(&self.file, libc::F_SETLEASE, libc::F_UNLCK);
        self.file
    }

    /// The file.
    pub(super) fn file(&self) -> &File {
        &self.file
    }
}

#[expect(unsafe_code, reason = "leases have no safe wrapper")]
fn fcntl(file: &File, command: libc::c_int, argument: libc::c_int) -> io::Result<libc::c_int> {
    // SAFETY: the descriptor is open as long as `file` is, and none of the commands used here
    // takes a pointer.
    match unsafe { libc::fcntl(file.as_raw_fd(), command, argument) } {
        -1 => Err(io::Error::last_os_error()),
        value => Ok(value),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_writer_refuses_the_lease() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let writer = fs::OpenOptions::new().write(true).open(file.path()).unwrap();
        drop(file.as_file().try_clone().unwrap());
        assert!(matches!(Lease::take(File::open(file.path()).unwrap()), Err(LeaseError::Writer)));
        drop(writer);
    }

    /// Other tests start processes, which have our open files until they are another program.
    fn take(path: &std::path::Path) -> Lease {
        loop {
            match Lease::take(File::open(path).unwrap()) {
                Err(LeaseError::Writer) => std::thread::yield_now(),
                taken => return taken.unwrap(),
            }
        }
    }

    #[test]
    fn a_lease_that_was_given_up_can_be_taken_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs::write(&path, "a").unwrap();
        take(&path).give_up();
        fs::write(&path, "b").unwrap();
        assert!(take(&path).is_whole());
    }

    #[test]
    fn a_writer_who_comes_later_breaks_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs::write(&path, "a").unwrap();
        let lease = take(&path);
        assert!(lease.is_whole());
        let writer = rustix::fs::open(
            &path,
            rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::NONBLOCK,
            rustix::fs::Mode::empty(),
        );
        assert_eq!(writer.unwrap_err(), rustix::io::Errno::AGAIN);
        assert!(!lease.is_whole());
    }
}
