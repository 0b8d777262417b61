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
use crate::keeper::wire::USER;

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
        require_container("serve")?;
        if !same_binary(Path::new("/proc/1/exe"), Path::new("/proc/self/exe"))
            || process::subcommand(1).as_deref() != Some(b"init")
        {
            return Err(not_ours());
        }
        Ok(Self(()))
    }
}

/// The proof that this process is uid 1000 in a container of ours, for what is tried there.
#[derive(Debug)]
pub struct UserInContainer(());

impl UserInContainer {
    /// Looks for the proof. uid 1000 does not see which binary pid 1 is, so its name must do; what
    /// the proof is for harms no machine.
    ///
    /// # Errors
    ///
    /// A sentence that says which part of it is missing.
    pub fn prove() -> Result<Self, Refusal> {
        if rustix::process::geteuid().as_raw() != USER || rustix::process::getuid().as_raw() != USER
        {
            return Err(Refusal::new("codex-keeper try is started by the keeper as uid 1000"));
        }
        require_container("try")?;
        if process::field(1, "Name:").as_deref() != Some("codex-keeper")
            || process::subcommand(1).as_deref() != Some(b"init")
        {
            return Err(not_ours());
        }
        Ok(Self(()))
    }
}

/// Refuses the machine's own pid namespace.
fn require_container(subcommand: &str) -> Result<(), Refusal> {
    let namespace = rustix::fs::stat("/proc/self/ns/pid").doing("read the pid namespace")?;
    if namespace.st_ino == MACHINE_PID_NAMESPACE {
        return Err(Refusal(format!("codex-keeper {subcommand} runs in a container only")));
    }
    Ok(())
}

fn not_ours() -> Refusal {
    Refusal::new("pid 1 of this container is not `codex-keeper init`")
}

/// Whether two `exe` links lead to the same file.
fn same_binary(one: &Path, other: &Path) -> bool {
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
        UserInContainer::prove().unwrap_err();
    }
}
