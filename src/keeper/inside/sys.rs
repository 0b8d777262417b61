//! The system calls that have no safe wrapper. Nothing else here is unsafe, and this is small.

use std::ffi::CString;
use std::io;

use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use rustix::{fs, process};

use super::user;

/// Sends SIGKILL to every process in the pid namespace but pid 1 and the caller. Takes the proof
/// that this is a container of ours.
pub(super) fn kill_everything(_: &super::guard::InContainer) -> io::Result<()> {
    #[expect(unsafe_code, reason = "kill(-1) has no wrapper; it touches no memory")]
    let result = unsafe { libc::kill(-1, libc::SIGKILL) };
    if result == 0 {
        return Ok(());
    }
    match io::Error::last_os_error() {
        // There was nobody to kill.
        error if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        error => Err(error),
    }
}

/// Lets the kernel reap the children of this process, the adopted ones included, and ends it on
/// SIGTERM, which pid 1 would ignore otherwise.
pub(super) fn reap_and_end_on_term() {
    extern "C" fn end(_: libc::c_int) {
        #[expect(unsafe_code, reason = "_exit is the one way out that a handler may take")]
        unsafe {
            libc::_exit(0);
        }
    }
    #[expect(unsafe_code, reason = "signal has no safe wrapper; `end` calls only _exit")]
    unsafe {
        libc::signal(libc::SIGCHLD, libc::SIG_IGN);
        libc::signal(libc::SIGTERM, end as extern "C" fn(libc::c_int) as libc::sighandler_t);
        libc::signal(libc::SIGINT, end as extern "C" fn(libc::c_int) as libc::sighandler_t);
    }
}

/// Makes the allocator keep little: one arena, and large blocks given back at once.
pub(super) fn frugal_allocator() {
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "mallopt has no wrapper; called before any thread exists")]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 128 << 10);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 256 << 10);
    }
}

/// Gives free memory back to the kernel.
pub(super) fn trim_memory() {
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "malloc_trim has no wrapper and is thread-safe")]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Removes a System V object by its kind and identifier, with the caller's credentials.
pub(super) fn remove_ipc(kind: super::ipc::Kind, id: i32) -> io::Result<()> {
    use super::ipc::Kind;
    #[expect(unsafe_code, reason = "IPC_RMID has no wrapper; it reads and writes no memory")]
    let result = unsafe {
        match kind {
            Kind::Memory => libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut()),
            Kind::Semaphores => libc::semctl(id, 0, libc::IPC_RMID),
            Kind::Messages => libc::msgctl(id, libc::IPC_RMID, std::ptr::null_mut()),
        }
    };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Whether the kernel has System V objects of a kind. Asks for one that cannot be.
pub(super) fn has_ipc(kind: super::ipc::Kind) -> bool {
    use super::ipc::Kind;
    const NOBODYS: libc::key_t = 0x0c0d_e817;
    #[expect(unsafe_code, reason = "without IPC_CREAT and of size 0 nothing is made or touched")]
    let result = unsafe {
        match kind {
            Kind::Memory => libc::shmget(NOBODYS, 0, 0),
            Kind::Semaphores => libc::semget(NOBODYS, 0, 0),
            Kind::Messages => libc::msgget(NOBODYS, 0),
        }
    };
    result != -1 || io::Error::last_os_error().raw_os_error() != Some(libc::ENOSYS)
}

/// Whether the kernel has POSIX message queues. Opens one that is not there.
pub(super) fn has_queues() -> bool {
    let name = c"codex-keeper-has-none";
    #[expect(
        unsafe_code,
        reason = "mq_open has no wrapper; without O_CREAT it only reads the name"
    )]
    let result = unsafe { libc::syscall(libc::SYS_mq_open, name.as_ptr(), libc::O_RDONLY, 0, 0) };
    result != -1 || io::Error::last_os_error().raw_os_error() != Some(libc::ENOSYS)
}

/// Makes a call that is to be denied and tells whether it was: by the filter, by a right that the
/// caller lacks, or since the kernel has no such call. `call` must be one that does no harm where it
/// is allowed.
pub(super) fn is_denied(call: Call) -> bool {
    let [a, b, c, d, e] = call.arguments;
    #[expect(unsafe_code, reason = "the arguments of `attempts` name no memory of this process")]
    let result = unsafe { libc::syscall(call.number, a, b, c, d, e) };
    if result == 0 && call.forks {
        #[expect(unsafe_code, reason = "the child of a clone that was allowed has nothing to do")]
        unsafe {
            libc::_exit(0);
        }
    }
    let refused = [libc::EPERM, libc::EACCES, libc::ENOSYS];
    result == -1
        && io::Error::last_os_error().raw_os_error().is_some_and(|error| refused.contains(&error))
}

/// A system call for [`is_denied`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    pub(super) number: libc::c_long,
    pub(super) arguments: [libc::c_long; 5],
    /// Whether a success returns twice.
    pub(super) forks: bool,
}

/// Numbers of `ioctl` that exchange the blocks of two files and leave the times of one of them as they
/// were: ext4's `MOVE_EXT`, XFS's `SWAPEXT`, `EXCHANGE_RANGE` and `COMMIT_RANGE`. Type and number, as
/// the lower half of the request has them.
const EXCHANGES: [u32; 4] =
    [exchange(b'f', 15), exchange(b'X', 109), exchange(b'X', 129), exchange(b'X', 131)];

const fn exchange(kind: u8, number: u8) -> u32 {
    (kind as u32) << 8 | number as u32
}

/// Keeps the caller and all it starts from exchanging the blocks of files: what such a call changes no
/// ctime tells. The container's own filter knows no ranges of arguments on every engine.
fn deny_exchanges() -> io::Result<()> {
    // In `seccomp_data`; of the second argument the lower half, since both machines are little-endian.
    const NUMBER: u32 = 0;
    const REQUEST: u32 = 24;
    let step =
        |code: u32, k: u32, jt: u8, jf: u8| libc::sock_filter { code: code as u16, jt, jf, k };
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let filter = [
        step(load, NUMBER, 0, 0),
        step(equal, libc::SYS_ioctl as u32, 0, 6),
        step(load, REQUEST, 0, 0),
        step(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0xffff, 0, 0),
        step(equal, EXCHANGES[0], 4, 0),
        step(equal, EXCHANGES[1], 3, 0),
        step(equal, EXCHANGES[2], 2, 0),
        step(equal, EXCHANGES[3], 1, 0),
        step(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0, 0),
        step(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | libc::EOPNOTSUPP as u32, 0, 0),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    // Without it the kernel takes a filter from root alone. It is in force already, unless the engine
    // does not do as it is asked, and then the posture is to tell.
    rustix::thread::set_no_new_privs(true)?;
    #[expect(unsafe_code, reason = "the kernel copies the filter before the call returns")]
    let result = unsafe {
        libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program, 0, 0)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Lets `command` start as uid 1000 in a session of its own, in `cwd`, as the first victim when
/// memory runs out.
pub(super) fn become_user(command: &mut std::process::Command, cwd: CString) {
    use std::os::unix::process::CommandExt;
    let child = move || -> io::Result<()> {
        // As root still: afterwards /proc/self is root's.
        let flags = fs::OFlags::WRONLY | fs::OFlags::CLOEXEC;
        if let Ok(adj) = fs::open(c"/proc/self/oom_score_adj", flags, fs::Mode::empty()) {
            let _ = rustix::io::write(&adj, b"500");
        }
        process::setsid()?;
        process::umask(fs::Mode::from_raw_mode(0o022));
        set_thread_groups(&[])?;
        set_thread_res_gid(user::gid(), user::gid(), user::gid())?;
        set_thread_res_uid(user::uid(), user::uid(), user::uid())?;
        // With the program's rights, so that it starts nowhere it could not go.
        process::chdir(cwd.as_c_str())?;
        deny_exchanges()
    };
    #[expect(unsafe_code, reason = "the closure makes only system calls and allocates nothing")]
    unsafe {
        command.pre_exec(child);
    }
}
