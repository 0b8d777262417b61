//! A thread with uid 1000's credentials.
//!
//! Linux keeps credentials per thread, so the keeper's other threads stay root. The thread is made
//! for one piece of work and ends with it: no thread pool ever sees it.

use rustix::process::{Gid, Uid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use super::{Doing, Refusal};
use crate::keeper::wire::USER;

pub(super) fn uid() -> Uid {
    Uid::from_raw(USER)
}

pub(super) fn gid() -> Gid {
    Gid::from_raw(USER)
}

/// Runs `work` on a thread of its own as uid and gid 1000 without groups, and waits for it.
///
/// # Errors
///
/// Those of `work`, and those of making the thread and changing its credentials.
pub(super) fn as_user<T: Send>(
    work: impl FnOnce() -> Result<T, Refusal> + Send,
) -> Result<T, Refusal> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("user".to_owned())
            .stack_size(512 << 10)
            .spawn_scoped(scope, || {
                set_thread_groups(&[]).doing("drop the groups of a thread")?;
                set_thread_res_gid(gid(), gid(), gid()).doing("change the gid of a thread")?;
                set_thread_res_uid(uid(), uid(), uid()).doing("change the uid of a thread")?;
                work()
            })
            .doing("start a thread")?;
        thread.join().unwrap_or_else(|_| Err(Refusal::new("a thread of the keeper panicked")))
    })
}
