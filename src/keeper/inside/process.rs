//! What `/proc` says of processes.

use std::fs;

use super::{Doing, Refusal};

/// Every process but pid 1 and this one, without those that are dead and only wait to be reaped.
pub(super) fn others() -> Result<Vec<u32>, Refusal> {
    let me = std::process::id();
    let mut pids = Vec::new();
    for entry in fs::read_dir("/proc").doing("list processes")? {
        let entry = entry.doing("list processes")?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        if pid != 1 && pid != me && !is_dead(pid) {
            pids.push(pid);
        }
    }
    Ok(pids)
}

/// Dead is: gone, or a zombie whose threads are all gone, too.
fn is_dead(pid: u32) -> bool {
    let Ok(stat) = fs::read(format!("/proc/{pid}/stat")) else { return true };
    if !matches!(state(&stat), Some(b'Z' | b'X')) {
        return false;
    }
    fs::read_dir(format!("/proc/{pid}/task")).map_or(true, |threads| threads.count() <= 1)
}

/// The state in a `stat` line: what follows the last `)`, since the name may hold anything.
fn state(stat: &[u8]) -> Option<u8> {
    let close = stat.iter().rposition(|byte| *byte == b')')?;
    stat.get(close + 2).copied()
}

/// How many zombies there are, which the cgroup's count of processes includes.
pub(super) fn zombies() -> u32 {
    let Ok(entries) = fs::read_dir("/proc") else { return 0 };
    let pids = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()));
    let dead = pids.filter(|pid| {
        fs::read(format!("/proc/{pid}/stat"))
            .is_ok_and(|stat| matches!(state(&stat), Some(b'Z' | b'X')))
    });
    u32::try_from(dead.count()).unwrap_or(u32::MAX)
}

/// How many threads a process has.
pub(super) fn threads(pid: u32) -> u32 {
    field(pid, "Threads:").and_then(|value| value.parse().ok()).unwrap_or(1)
}

/// Whether all uids of a process are root's.
pub(super) fn is_root(pid: u32) -> bool {
    field(pid, "Uid:").is_some_and(|uids| {
        let mut uids = uids.split_whitespace().peekable();
        uids.peek().is_some() && uids.all(|uid| uid == "0")
    })
}

/// A line of `status`, without its name.
pub(super) fn field(pid: u32, name: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with(name))?;
    Some(line[name.len()..].trim().to_owned())
}

/// The first argument of a process.
pub(super) fn subcommand(pid: u32) -> Option<Vec<u8>> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    line.split(|byte| *byte == 0).nth(1).map(<[u8]>::to_vec)
}

/// Other keepers: processes of root's that carry the name and run `serve`. The binary itself can
/// be compared only while a process is dumpable, which a keeper is no more once one of its threads
/// has changed its credentials; so [`is_keeper`] serves init, which looks before that.
pub(super) fn keepers() -> Vec<u32> {
    let Ok(pids) = others() else { return Vec::new() };
    let named = |pid: &u32| {
        field(*pid, "Name:").as_deref() == Some("codex-keeper")
            && is_root(*pid)
            && subcommand(*pid).as_deref() == Some(b"serve")
    };
    pids.into_iter().filter(named).collect()
}

/// Whether a process is a keeper: this binary, run by root as `serve`.
pub(super) fn is_keeper(pid: u32) -> bool {
    let exe = format!("/proc/{pid}/exe");
    super::guard::same_binary(exe.as_ref(), "/proc/self/exe".as_ref())
        && is_root(pid)
        && subcommand(pid).as_deref() == Some(b"serve")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_does_not_hide_the_state() {
        assert_eq!(state(b"12 (a) R (b) Z 1 12"), Some(b'Z'));
        assert_eq!(state(b"12 (sh) S 1 12"), Some(b'S'));
        assert_eq!(state(b"nonsense"), None);
    }
}
