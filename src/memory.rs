//! How the server's process keeps memory that it does not use.

/// Arenas of the allocator: one for each thread that ever allocates at the same time as another is
/// its habit, and what one arena has free no other uses.
#[cfg(target_env = "gnu")]
const ARENAS: libc::c_int = 2;

/// Blocks from this size on go back to the kernel as soon as they are free, and grow without being
/// copied. Without a limit that is set, the first large one that is freed raises it to its own size.
#[cfg(target_env = "gnu")]
const LARGE: libc::c_int = 128 << 10;

/// Bytes at the end of an arena that it may keep.
#[cfg(target_env = "gnu")]
const KEPT: libc::c_int = 1 << 20;

/// Makes the allocator keep little of what is free: the lists of a large workspace would otherwise
/// stay in each arena in which one was ever made. To be called before there is a second thread.
pub fn keep_little() {
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "mallopt has no wrapper; called before any thread exists")]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, ARENAS);
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT);
    }
}
