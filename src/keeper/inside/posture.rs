//! What is in force in the container.

use super::attempts::Tried;
use super::mounts::{self, Mount};
use super::{Refusal, cgroup, ipc, process};
use crate::keeper::wire::{Posture, Unread, WritableMount};

/// A file that only gVisor has.
const OWN_KERNEL: &str = "/proc/sentry-meminfo";

/// Reads the posture of this process, which the exec gave the same limits as the container's.
pub(super) fn read(tried: Tried) -> Result<Posture, Refusal> {
    let mounts = mounts::read()?;
    let status = |name| process::field(std::process::id(), name).unwrap_or_default();
    Ok(Posture {
        capabilities: u64::from_str_radix(&status("CapBnd:"), 16).unwrap_or(u64::MAX),
        no_new_privileges: status("NoNewPrivs:") == "1",
        seccomp: status("Seccomp:").parse().unwrap_or(0),
        own_kernel: std::path::Path::new(OWN_KERNEL).exists(),
        allowed: tried.allowed,
        devices: tried.devices,
        unread: unread(&mounts),
        read_only_root: mounts.iter().rfind(|m| m.path == b"/").is_some_and(|m| !m.writable()),
        interfaces: interfaces(),
        memory: cgroup::memory_max(),
        pids: cgroup::pids_max(),
        cpus: cgroup::cpus_max(),
        writable: mounts
            .iter()
            .filter(|mount| mount.writable() && !mount.is_system() && is_directory(&mount.path))
            .map(writable)
            .collect(),
    })
}

/// What a reset is proved by and cannot be seen here.
fn unread(mounts: &[Mount]) -> Vec<Unread> {
    let seen = [
        (Unread::Processes, cgroup::pids_current().is_some() || sees_all(mounts)),
        (Unread::SystemV, ipc::is_listed()),
        (Unread::MessageQueues, mounts.iter().any(|it| it.kind == "mqueue") || !ipc::has_queues()),
    ];
    seen.into_iter().filter(|(_, seen)| !seen).map(|(what, _)| what).collect()
}

/// Whether `/proc` shows every process: it may be mounted so that others' are hidden, from root
/// without the capability to trace them, too.
fn sees_all(mounts: &[Mount]) -> bool {
    let proc = mounts.iter().rfind(|mount| mount.path == b"/proc");
    let hides =
        |mount: &Mount| mount.options.split(',').any(|option| option.starts_with("hidepid="));
    proc.is_some_and(|mount| !hides(mount)) && process::field(1, "Pid:").as_deref() == Some("1")
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
    let (bytes, inodes) = rustix::fs::statvfs(mount.path.as_slice())
        .map_or((0, 0), |place| (place.f_blocks.saturating_mul(place.f_frsize), place.f_files));
    WritableMount {
        path: String::from_utf8_lossy(&mount.path).into_owned(),
        kind: mount.kind.clone(),
        bytes,
        inodes,
        options: mount.options.clone(),
    }
}
