//! What confines a container.

use serde::{Deserialize, Serialize};

/// What is in force in the container, read by the keeper; the host compares it with what was
/// asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Posture {
    /// Bounding set of capabilities, as a bit mask.
    pub capabilities: u64,
    /// Whether no-new-privileges is set.
    pub no_new_privileges: bool,
    /// Seccomp mode: 2 is a filter.
    pub seccomp: u32,
    /// Whether system calls go to a kernel of the sandbox's own (gVisor) instead of the host's.
    pub own_kernel: bool,
    /// What uid 1000 tried and was not denied.
    pub allowed: Vec<Attempt>,
    /// Device files besides the usual ones that uid 1000 may open.
    pub devices: Vec<String>,
    /// Whether `/` is mounted read-only.
    pub read_only_root: bool,
    /// Network interfaces.
    pub interfaces: Vec<String>,
    /// Bytes of memory.
    pub memory: Limit,
    /// Processes and threads.
    pub pids: Limit,
    /// CPUs, in billionths of one.
    pub cpus: Limit,
    /// Writable mounts: path, file system type, options.
    pub writable: Vec<WritableMount>,
    /// What a reset is proved by and could not be read.
    pub unread: Vec<Unread>,
}

/// A limit, as the cgroup says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// It could not be read.
    #[default]
    Unread,
    /// There is none.
    Unlimited,
    /// The most that may be used.
    At(u64),
}

/// What a program in the container must not be able to do. Each is tried at arming as uid 1000,
/// with arguments by which nothing happens even where it is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Attempt {
    /// `unshare` into a user namespace, in which it would have every capability.
    Unshare,
    /// `clone` with a user namespace.
    Clone,
    /// `clone` with the caller's parent as parent, which is how a process is given to the keeper.
    CloneParent,
    /// `clone3`, whose flags no filter sees.
    Clone3,
    /// `setns`
    Setns,
    /// `mount`
    Mount,
    /// `fsopen`, the beginning of a mount in the newer way.
    Fsopen,
    /// `pivot_root`
    PivotRoot,
    /// `chroot`
    Chroot,
    /// `keyctl`
    Keyctl,
    /// `add_key`
    AddKey,
    /// `io_uring_setup`
    IoUring,
    /// `bpf`
    Bpf,
    /// `perf_event_open`
    Perf,
    /// `ptrace`
    Ptrace,
    /// `process_vm_readv`
    ProcessMemory,
    /// `userfaultfd`
    Userfaultfd,
    /// `kexec_load`
    Kexec,
}

impl std::fmt::Display for Attempt {
    /// The name of the system call, with what makes it one that is denied.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Unshare => "unshare",
            Self::Clone => "clone with a user namespace",
            Self::CloneParent => "clone with CLONE_PARENT",
            Self::Clone3 => "clone3",
            Self::Setns => "setns",
            Self::Mount => "mount",
            Self::Fsopen => "fsopen",
            Self::PivotRoot => "pivot_root",
            Self::Chroot => "chroot",
            Self::Keyctl => "keyctl",
            Self::AddKey => "add_key",
            Self::IoUring => "io_uring_setup",
            Self::Bpf => "bpf",
            Self::Perf => "perf_event_open",
            Self::Ptrace => "ptrace",
            Self::ProcessMemory => "process_vm_readv",
            Self::Userfaultfd => "userfaultfd",
            Self::Kexec => "kexec_load",
        })
    }
}

/// What the proof of a reset rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unread {
    /// Which processes there are: neither does the cgroup count them nor does `/proc` show all.
    Processes,
    /// System V IPC objects, which outlive the processes that made them.
    SystemV,
    /// POSIX message queues, likewise.
    MessageQueues,
}

/// One writable mount.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WritableMount {
    /// Where.
    pub path: String,
    /// File system type.
    pub kind: String,
    /// Size in bytes.
    pub bytes: u64,
    /// Files, directories and links at most; 0 if the file system does not say.
    pub inodes: u64,
    /// Mount options, comma-separated.
    pub options: String,
}
