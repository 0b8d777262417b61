//! What is in force in the container.

use super::mounts::{self, Mount};
use super::{Refusal, cgroup, process};
use crate::keeper::wire::{Posture, WritableMount};

/// Reads the posture of this process, which the exec gave the same limits as the container's.
pub(super) fn read() -> Result<Posture, Refusal> {
    let mounts = mounts::read()?;
    let status = |name| process::field(std::process::id(), name).unwrap_or_default();
    Ok(Posture {
        capabilities: u64::from_str_radix(&status("CapBnd:"), 16).unwrap_or(u64::MAX),
        no_new_privileges: status("NoNewPrivs:") == "1",
        seccomp: status("Seccomp:").parse().unwrap_or(0),
        read_only_root: mounts.iter().rfind(|m| m.path == b"/").is_some_and(|m| !m.writable()),
        interfaces: interfaces(),
        memory: cgroup::memory_max().unwrap_or(0),
        pids: cgroup::pids_max().unwrap_or(0),
        writable: mounts
            .iter()
            .filter(|mount| mount.writable() && !mount.is_system() && is_directory(&mount.path))
            .map(writable)
            .collect(),
    })
}

/// The engine binds single files, such as `/etc/hosts`; they are root's.
fn is_directory(path: &[u8]) -> bool {
    rustix::fs::lstat(path)
        .is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir())
}

fn interfaces() -> Vec<String> {
    let table = std::fs::read_to_string("/proc/self/net/dev").unwrap_or_default();
    let mut names: Vec<String> = table
        .lines()
        .filter_map(|line| line.split_once(':').map(|(name, _)| name.trim().to_owned()))
        .collect();
    names.sort();
    names
}

fn writable(mount: &Mount) -> WritableMount {
    let bytes = rustix::fs::statvfs(mount.path.as_slice())
        .map_or(0, |place| place.f_blocks.saturating_mul(place.f_frsize));
    WritableMount {
        path: String::from_utf8_lossy(&mount.path).into_owned(),
        kind: mount.kind.clone(),
        bytes,
        options: mount.options.clone(),
    }
}
