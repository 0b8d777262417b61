//! The proof that this process is the keeper in a container of ours.
//!
//! The keeper kills every process it can see and deletes trees. So those functions take an
//! [`InContainer`], which exists only if
//!
//! 1. this process is root and not pid 1,
//! 2. its pid namespace is not the machine's own,
//! 3. pid 1 runs this very binary, by device and inode, as `init`.
//!
//! On a machine outside a container the second and the third fail, each alone sufficient.

use std::path::Path;

use super::{Doing, Refusal, process};

/// inode number of the machine's own pid namespace; the kernel fixes it (`PROC_PID_INIT_INO`).
const MACHINE_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

/// The proof.
#[derive(Debug)]
pub struct InContainer(());

impl InContainer {
    /// Looks for the proof.
    ///
    /// # Errors
    ///
    /// A sentence that says which part of it is missing.
    pub fn prove() -> Result<Self, Refusal> {
        if !rustix::process::geteuid().is_root() || rustix::process::getpid().is_init() {
            return Err(Refusal::new("codex-keeper serve runs as root beside `codex-keeper init`"));
        }
        let namespace =
            rustix::fs::stat("/proc/self/ns/pid").doing("read the keeper's pid namespace")?;
        if namespace.st_ino == MACHINE_PID_NAMESPACE {
            return Err(Refusal::new("codex-keeper serve runs in a container only"));
        }
        let not_ours = || Refusal::new("pid 1 of this container is not `codex-keeper init`");
        if !same_binary(Path::new("/proc/1/exe"), Path::new("/proc/self/exe"))
            || process::subcommand(1).as_deref() != Some(b"init")
        {
            return Err(not_ours());
        }
        Ok(Self(()))
    }
}

/// Whether two `exe` links lead to the same file.
pub(super) fn same_binary(one: &Path, other: &Path) -> bool {
    match (rustix::fs::stat(one), rustix::fs::stat(other)) {
        (Ok(one), Ok(other)) => (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_no_proof_where_tests_run() {
        InContainer::prove().unwrap_err();
    }
}
