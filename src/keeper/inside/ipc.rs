//! System V IPC objects, which outlive the processes that made them.

use super::{Refusal, sys, user};

/// The three kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Memory,
    Semaphores,
    Messages,
}

const TABLES: [(Kind, &str); 3] = [
    (Kind::Memory, "/proc/sysvipc/shm"),
    (Kind::Semaphores, "/proc/sysvipc/sem"),
    (Kind::Messages, "/proc/sysvipc/msg"),
];

/// All objects in the container's namespace. A kernel without System V IPC has none.
pub(super) fn list() -> Vec<(Kind, i32)> {
    let mut objects = Vec::new();
    for (kind, table) in TABLES {
        let table = std::fs::read_to_string(table).unwrap_or_default();
        objects.extend(ids(&table).map(|id| (kind, id)));
    }
    objects
}

/// Whether [`list`] shows all objects there can be: of each kind there is a table, or the kernel
/// has none of that kind.
pub(super) fn is_listed() -> bool {
    TABLES.iter().all(|(kind, table)| std::fs::read(table).is_ok() || !sys::has_ipc(*kind))
}

/// Whether the kernel has POSIX message queues.
pub(super) fn has_queues() -> bool {
    sys::has_queues()
}

/// The second column is the identifier; the first line has the names of the columns.
fn ids(table: &str) -> impl Iterator<Item = i32> + '_ {
    table.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1)?.parse().ok())
}

/// Removes them with uid 1000's credentials: root without IPC_OWNER may not. What is left shows in
/// the fingerprint.
pub(super) fn remove_all() -> Result<(), Refusal> {
    let objects = list();
    if objects.is_empty() {
        return Ok(());
    }
    user::as_user(|| {
        for (kind, id) in objects {
            // Gone meanwhile, or another's: the fingerprint decides.
            let _ = sys::remove_ipc(kind, id);
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_identifiers_from_a_table() {
        let table = "       key      semid perms      nsems   uid\n         0          5   600          1  1000\n  12 32769 666 1 0\n";
        assert_eq!(ids(table).collect::<Vec<_>>(), [5, 32769]);
    }
}
