//! File systems to apply change sets on, each mounted for one test where nobody else sees it.
//!
//! A test runs in a thread with a mount namespace of its own. The mounts end with that thread and
//! the program that serves one gets SIGKILL from the kernel when that thread ends, however it
//! ends, so that also a killed test leaves neither.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::DirBuilderExt;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::thread::{Gid, Uid, UnshareFlags};
use tempfile::TempDir;

/// How long a program that serves a file system may take to have it mounted.
const MOUNT: Duration = Duration::from_secs(20);

/// What a change set can be applied on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ground {
    /// Memory, with so many bytes and inodes.
    Tmpfs { size: u64, inodes: u64 },
    /// A disk of so many bytes with the usual file system of Linux.
    Ext4 { size: u64 },
    /// The same with small inodes, which have no room for parts of a second: a file that is saved twice
    /// in one second has the same times.
    Ext4OfSeconds,
    /// What a program in a container has below it: a layer over a tree that cannot be written.
    Overlay,
    /// Without regard to case, without exchange, with names that are not allowed.
    Ntfs,
    /// The same, and without hard links, symbolic links, owners, modes and extended attributes.
    Exfat,
}

impl Ground {
    /// Why it cannot be had here; `None` if it can.
    pub(crate) fn lacks(self) -> Option<String> {
        if !rustix::process::geteuid().is_root() {
            return Some("only root can mount file systems".into());
        }
        let (programs, device): (&[&str], _) = match self {
            Self::Tmpfs { .. } | Self::Overlay => (&[], None),
            Self::Ext4 { .. } | Self::Ext4OfSeconds => (&["mkfs.ext4"], Some("/dev/loop-control")),
            Self::Ntfs => (&["mkntfs", "lowntfs-3g"], Some("/dev/fuse")),
            Self::Exfat => (&["mkfs.exfat", "mount.exfat-fuse"], Some("/dev/fuse")),
        };
        let missing = programs.iter().find(|program| !is_program(program));
        missing.map(|program| format!("there is no {program}; run tests/host_fs/setup.sh")).or_else(
            || {
                device
                    .filter(|device| !Path::new(device).exists())
                    .map(|device| format!("there is no {device}"))
            },
        )
    }
}

fn is_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(usual).any(|folder| folder.join(name).is_file())
}

/// Runs a test where mounts are its own, with a directory for whatever it needs.
pub(crate) fn alone(test: impl FnOnce(&Path) + Send) {
    // `tests/leftovers.sh` knows the name.
    let dir = tempfile::Builder::new().prefix("codex-host-fs-").tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .unwrap();
    joined(|| {
        own_mounts();
        test(dir.path());
    });
    removed(dir);
}

#[expect(unsafe_code, reason = "there is no safe wrapper")]
fn own_mounts() {
    // SAFETY: it is unsafe for open files only, which stay shared.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS) }.unwrap();
    run("mount", &["-n", "--make-rprivate", "/"]);
}

/// The kernel may take a moment to let go of a directory that a namespace had a mount on.
fn removed(dir: TempDir) {
    let path = dir.path().to_owned();
    dir.close().unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// Runs something in a thread of its own, and panics as it does.
pub(crate) fn joined<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let done = thread::scope(|scope| scope.spawn(work).join());
    done.unwrap_or_else(|panic| resume_unwind(panic))
}

/// Runs something as a user without any rights but his own.
pub(crate) fn as_user<T: Send>(user: u32, work: impl FnOnce() -> T + Send) -> T {
    joined(|| {
        rustix::thread::set_thread_groups(&[]).unwrap();
        rustix::thread::set_thread_gid(Gid::from_raw(user)).unwrap();
        rustix::thread::set_thread_uid(Uid::from_raw(user)).unwrap();
        work()
    })
}

/// A file system that is mounted until this is dropped.
#[derive(Debug)]
pub(crate) struct Mounted {
    at: PathBuf,
    program: Option<Child>,
}

impl Mounted {
    /// Makes a file system and mounts it at `at`, a directory that is made if need be. What it
    /// needs lies beside that.
    pub(crate) fn new(ground: Ground, at: &Path) -> Self {
        let _ = std::fs::DirBuilder::new().mode(0o755).recursive(true).create(at);
        let beside = |name: &str| {
            let own = at.file_name().unwrap().to_string_lossy();
            at.with_file_name(format!("{own}.{name}"))
        };
        let image = beside("image");
        let target = at.to_str().unwrap();
        let file = image.to_str().unwrap();
        let program = match ground {
            Ground::Tmpfs { size, inodes } => {
                let options = format!("size={size},nr_inodes={inodes},mode=0755");
                run("mount", &["-n", "-t", "tmpfs", "-o", &options, "tmpfs", target]);
                None
            }
            Ground::Ext4 { size } => {
                disk(&image, size);
                run("mkfs.ext4", &["-q", "-F", "-m", "0", "-I", "256", file]);
                run("mount", &["-n", "-o", "loop", file, target]);
                None
            }
            Ground::Ext4OfSeconds => {
                disk(&image, 8 << 20);
                run("mkfs.ext4", &["-q", "-F", "-m", "0", "-I", "128", file]);
                run("mount", &["-n", "-o", "loop", file, target]);
                None
            }
            Ground::Overlay => {
                let [lower, upper, work] = ["lower", "upper", "work"].map(beside);
                for folder in [&lower, &upper, &work] {
                    std::fs::create_dir_all(folder).unwrap();
                }
                let options = format!(
                    "lowerdir={},upperdir={},workdir={}",
                    lower.display(),
                    upper.display(),
                    work.display()
                );
                run("mount", &["-n", "-t", "overlay", "-o", &options, "overlay", target]);
                None
            }
            Ground::Ntfs => {
                disk(&image, 16 << 20);
                run("mkntfs", &["-q", "-F", "-f", file]);
                let options = "ignore_case,windows_names,permissions,no_detach";
                Some(serve(at, &["lowntfs-3g", "-o", options, file, target]))
            }
            Ground::Exfat => {
                disk(&image, 16 << 20);
                run("mkfs.exfat", &[file]);
                let device = run("losetup", &["-f", "--show", file]);
                let device = device.trim();
                // It stays in the foreground for the sake of its messages, which nobody wants.
                let program = serve(at, &["mount.exfat-fuse", "-d", device, target]);
                // The device goes as soon as the program does.
                run("losetup", &["-d", device]);
                Some(program)
            }
        };
        Self { at: at.to_owned(), program }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.at
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazily, since what a failed test has open must not keep it.
        let done = Command::new("umount").args(["-n", "-l"]).arg(&self.at).status();
        if !thread::panicking() {
            assert!(done.unwrap().success());
        }
        if let Some(program) = &mut self.program {
            let _ = program.kill();
            let _ = program.wait();
        }
    }
}

/// Binds `at` to itself, read-only, until the test ends.
pub(crate) fn read_only(at: &Path) {
    let at = at.to_str().unwrap();
    run("mount", &["-n", "--bind", at, at]);
    run("mount", &["-n", "-o", "remount,bind,ro", at]);
}

/// Runs a program and gives its output.
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    let done = Command::new(program)
        .args(arguments)
        .env("PATH", format!("{path}:/usr/sbin:/sbin"))
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(done.status.success(), "{program} {arguments:?}: {done:?}");
    String::from_utf8(done.stdout).unwrap()
}

fn disk(image: &Path, size: u64) {
    File::create_new(image).unwrap().set_len(size).unwrap();
}

/// Starts a program that serves a file system at `at`, and waits until it is mounted.
fn serve(at: &Path, command: &[&str]) -> Child {
    let mut mounts = File::open("/proc/thread-self/mountinfo").unwrap();
    let path = std::env::var("PATH").unwrap_or_default();
    let mut program = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "--"])
        .args(command)
        .env("PATH", format!("{path}:/usr/sbin:/sbin"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let began = Instant::now();
    let wanted = format!(" {} ", at.display());
    loop {
        let mut table = String::new();
        std::io::Seek::rewind(&mut mounts).unwrap();
        mounts.read_to_string(&mut table).unwrap();
        if table.contains(&wanted) {
            return program;
        }
        if let Some(status) = program.try_wait().unwrap() {
            panic!("{command:?} ended: {status}");
        }
        if began.elapsed() > MOUNT {
            let _ = program.kill();
            let _ = program.wait();
            panic!("{command:?} mounted nothing within {MOUNT:?}");
        }
        // The kernel tells when the table changes; the time is for a program that ended.
        let slice = rustix::time::Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        poll(&mut [PollFd::new(&mounts, PollFlags::PRI)], Some(&slice)).unwrap();
    }
}

/// Leaves a test out where a ground cannot be had, or fails it where all tests must run.
#[macro_export]
macro_rules! need {
    ($ground:expr) => {
        if let Some(reason) = $crate::ground::Ground::lacks($ground) {
            assert!(
                std::env::var_os("CODEX_TESTS_REQUIRE_ENGINE").is_none(),
                "cannot mount {:?}: {reason}",
                $ground
            );
            eprintln!("skipped {}: {reason}", module_path!());
            return;
        }
    };
}
