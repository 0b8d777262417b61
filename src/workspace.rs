//! x

/// Identity of a workspace: the device and inode of its directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkspaceKey {
    /// Device.
    pub dev: u64,
    /// Inode.
    pub ino: u64,
}
