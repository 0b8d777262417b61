//! Points at which a test kills the process. In the program itself they are nothing.

/// Called before and after everything that changes the disk.
#[cfg(not(test))]
#[inline]
pub(in crate::workspace) fn point() {}

#[cfg(test)]
pub(in crate::workspace) use self::armed::point;

#[cfg(test)]
pub(super) mod armed {
    use std::sync::atomic::{AtomicU64, Ordering};

    /// How many more points are passed; `u64::MAX` for all of them.
    static LEFT: AtomicU64 = AtomicU64::new(u64::MAX);

    /// The `n`th point from now on, counted from 0, is the last.
    pub(in crate::workspace::apply) fn arm(n: u64) {
        LEFT.store(n, Ordering::SeqCst);
    }

    pub(in crate::workspace) fn point() {
        match LEFT.load(Ordering::Relaxed) {
            u64::MAX => {}
            0 => {
                // Nothing is unwound and nothing flushed, as when the server is killed.
                let _ = rustix::process::kill_process(
                    rustix::process::getpid(),
                    rustix::process::Signal::KILL,
                );
            }
            n => LEFT.store(n - 1, Ordering::Relaxed),
        }
    }
}
