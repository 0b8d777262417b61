//! The keeper's own children, and those that others give it.
//!
//! A program can make a process whose parent is its own parent (`CLONE_PARENT`), which is the
//! keeper. Nobody waits for such a process, so once it is dead it keeps its place under the process
//! limit: a thousand of them, and the next job in the container cannot fork. They are told apart by
//! a list of the children that the keeper made itself, which only [`tokio::process`] may reap.

use std::collections::BTreeSet;

use parking_lot::Mutex;
use rustix::process::{Pid, WaitOptions, waitpid};

static OWN: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

/// Says that a child is the keeper's own until it is dropped.
#[derive(Debug)]
pub(super) struct Own(u32);

impl Own {
    /// Of a child that was just made and not waited for.
    pub(super) fn new(pid: u32) -> Self {
        OWN.lock().insert(pid);
        Self(pid)
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        OWN.lock().remove(&self.0);
    }
}

/// Reaps the dead that others gave to this process.
pub(super) fn reap_strays() {
    let Ok(entries) = std::fs::read_dir("/proc") else { return };
    let me = std::process::id();
    for entry in entries.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(stat) = std::fs::read(format!("/proc/{pid}/stat")) else { continue };
        // Held over the wait, so that the pid cannot become one of ours meanwhile.
        let own = OWN.lock();
        if is_dead_child(&stat, me)
            && !own.contains(&pid)
            && let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw)
        {
            // Gone meanwhile, or not quite dead: the next round looks again.
            let _ = waitpid(Some(pid), WaitOptions::NOHANG);
        }
    }
}

/// Whether a line of `stat` is of a dead child of `parent`: `pid (name) state ppid ...`, where the
/// name may hold anything.
fn is_dead_child(stat: &[u8], parent: u32) -> bool {
    let Some(close) = stat.iter().rposition(|byte| *byte == b')') else { return false };
    let mut fields = stat[close + 1..].split(|byte| *byte == b' ').skip(1);
    let state = fields.next();
    let ppid = fields.next().and_then(|ppid| std::str::from_utf8(ppid).ok()?.parse().ok());
    state == Some(b"Z") && ppid == Some(parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_child_is_told_by_its_state_and_parent() {
        assert!(is_dead_child(b"7 (a) Z 1 (b) Z 5 1 1", 5));
        assert!(!is_dead_child(b"7 (a) S 5 1 1", 5));
        assert!(!is_dead_child(b"7 (a) Z 4 1 1", 5));
        assert!(!is_dead_child(b"7 a Z", 5));
    }
}
