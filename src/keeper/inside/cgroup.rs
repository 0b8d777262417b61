//! What the container's cgroup says, version 1 or 2; `None` where it cannot be read.

use std::fs;
use std::path::PathBuf;

/// Finds a file by its names in version 2 and, with its controller, in version 1.
fn read(unified: &str, controller: &str, legacy: &str) -> Option<String> {
    let mut candidates = vec![
        PathBuf::from("/sys/fs/cgroup").join(unified),
        PathBuf::from("/sys/fs/cgroup").join(controller).join(legacy),
    ];
    // Without a cgroup namespace the container's own group is further down.
    for line in fs::read_to_string("/proc/self/cgroup").unwrap_or_default().lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(names), Some(path)) = (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let path = path.trim_start_matches('/');
        if names.is_empty() {
            candidates.push(PathBuf::from("/sys/fs/cgroup").join(path).join(unified));
        } else if names.split(',').any(|name| name == controller) {
            candidates
                .push(PathBuf::from("/sys/fs/cgroup").join(controller).join(path).join(legacy));
        }
    }
    candidates.into_iter().find_map(|path| fs::read_to_string(path).ok())
}

/// Processes and threads now.
pub(super) fn pids_current() -> Option<u32> {
    read("pids.current", "pids", "pids.current")?.trim().parse().ok()
}

/// Processes and threads at most.
pub(super) fn pids_max() -> Option<u64> {
    read("pids.max", "pids", "pids.max")?.trim().parse().ok()
}

/// Bytes of memory at most.
pub(super) fn memory_max() -> Option<u64> {
    read("memory.max", "memory", "memory.limit_in_bytes")?.trim().parse().ok()
}

/// How often the memory limit made the kernel kill a process.
pub(super) fn oom_kills() -> Option<u64> {
    counter(&read("memory.events", "memory", "memory.oom_control")?, "oom_kill")
}

/// The value in a file of `name value` lines.
fn counter(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(' ')?;
        if key == name { value.trim().parse().ok() } else { None }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_counter_of_either_version() {
        let legacy = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n";
        let unified = "low 0\nhigh 0\nmax 7\noom 2\noom_kill 1\noom_group_kill 0\n";
        assert_eq!(counter(legacy, "oom_kill"), Some(3));
        assert_eq!(counter(unified, "oom_kill"), Some(1));
        assert_eq!(counter("", "oom_kill"), None);
    }
}
