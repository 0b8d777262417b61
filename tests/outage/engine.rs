//! A second engine beside the machine's own, to stop, kill and fill.
//!
//! ```text
//!   unshare ── namespaces (mounts, pids, network, IPC), /run empty ── held until this is dropped
//!      └─ nsenter ── dockerd, its data on a disk of its own, its socket in a directory of its own
//! ```
//!
//! Its data is on a disk of its own, which can be filled; see [`disk`](crate::disk). The image is loaded
//! once and stays there, in `target/outage`; what an earlier run that was killed has left is removed
//! first.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Once;
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::disk;
use crate::support::PATIENCE;
use crate::support::docker::{docker, image};

/// What the first process of its namespaces does.
const GROUND: &str = "set -e
mount -n -o loop,discard \"$1\" \"$0\"
mount -t tmpfs -o mode=755 run /run
ip link set lo up
: >/run/laid
# As the first process it takes in what a killed daemon leaves.
while :; do sleep 0.2; done";

/// An engine of its own.
pub(crate) struct SecondEngine {
    ground: Child,
    /// The first process of its namespaces.
    init: i32,
    daemon: Option<Child>,
    data: PathBuf,
    sockets: TempDir,
    cgroup: String,
    disk: PathBuf,
    _only_one: File,
}

/// Loads the image, if one can be had: to be done before anything here depends on time.
pub(crate) fn prepare() {
    static PREPARED: Once = Once::new();
    PREPARED.call_once(|| {
        if usable().is_ok() {
            drop(SecondEngine::up());
        }
    });
}

/// Whether one can be had; tells why not.
pub(crate) fn usable() -> Result<(), String> {
    if !cfg!(target_os = "linux") || !rustix::process::geteuid().is_root() {
        return Err("a second engine needs root on Linux".to_owned());
    }
    let programs = ["dockerd", "unshare", "nsenter", "setpriv", "pgrep", "ip"];
    for program in programs.into_iter().chain(disk::PROGRAMS) {
        let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).output();
        if !found.is_ok_and(|found| found.status.success()) {
            return Err(format!("a second engine needs {program}"));
        }
    }
    Ok(())
}

pub(crate) fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| error.to_string())?;
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(said(&output.stdout)) } else { Err(said(&output.stderr)) }
}

/// The only child of a process, once it is there.
fn child_of(parent: u32) -> i32 {
    let began = Instant::now();
    loop {
        if let Ok(child) = run(Command::new("pgrep").args(["-P", &parent.to_string()])) {
            return child.parse().unwrap();
        }
        assert!(began.elapsed() < PATIENCE, "{parent} has no child");
        std::thread::sleep(Duration::from_millis(5));
    }
}

impl SecondEngine {
    /// Brings one up that has the image; waits for another test that has it.
    pub(crate) fn up() -> Self {
        let work = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/outage");
        let data = work.join("engine");
        std::fs::create_dir_all(&data).unwrap();
        let only_one = File::create(work.join("lock")).unwrap();
        rustix::fs::flock(&only_one, FlockOperation::LockExclusive).unwrap();
        let disk = disk::image(&work);
        // It ends with this thread, and all in its namespaces with it.
        let ground = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare", "--mount", "--net", "--ipc", "--pid"])
            .args(["--fork", "--kill-child", "--mount-proc", "--propagation", "private"])
            .args(["sh", "-c", GROUND])
            .arg(&data)
            .arg(&disk)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let init = child_of(ground.id());
        let began = Instant::now();
        while !Path::new(&format!("/proc/{init}/root/run/laid")).exists() {
            assert!(began.elapsed() < PATIENCE, "the ground of the engine is not laid");
            std::thread::sleep(Duration::from_millis(5));
        }
        let sockets = TempDir::new().unwrap();
        let cgroup = format!("codex-outage-{}", ground.id());
        let mut engine =
            Self { ground, init, daemon: None, data, sockets, cgroup, disk, _only_one: only_one };
        engine.free();
        engine.start();
        engine.load();
        engine.clear();
        engine
    }

    /// Where its data is, as seen from outside its namespaces.
    pub(crate) fn data(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{}", self.init, self.data.display()))
    }

    /// What `DOCKER_HOST` is for it.
    pub(crate) fn host(&self) -> String {
        format!("unix://{}", self.sockets.path().join("engine.sock").display())
    }

    /// What its client says of these arguments.
    pub(crate) fn docker(&self, arguments: &[&str]) -> Result<String, String> {
        run(Command::new("docker").arg("--host").arg(self.host()).args(arguments))
    }

    /// Containers in any state. One that was killed may list dead ones that it does not have any more.
    pub(crate) fn containers(&self) -> Vec<String> {
        let listed = self.docker(&["ps", "-a", "--format", "{{.ID}} {{.State}}"]).unwrap();
        let there = |line: &&str| {
            let (id, state) = line.split_once(' ').unwrap();
            state != "dead" || self.docker(&["container", "inspect", id]).is_ok()
        };
        listed.lines().filter(there).map(str::to_owned).collect()
    }

    /// Starts the daemon and waits until it answers.
    pub(crate) fn start(&mut self) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.sockets.path().join("engine.log"))
            .unwrap();
        let init = self.init.to_string();
        let daemon = Command::new("nsenter")
            .args(["-t", &init, "-m", "-n", "-i", "-p", "dockerd", "--data-root"])
            .arg(&self.data)
            .args(["--exec-root", "/run/docker", "--pidfile", "/run/docker.pid"])
            .args(["--host", &self.host(), "--cgroup-parent", &format!("/{}", self.cgroup)])
            .args(["--bridge=none", "--iptables=false", "--ip6tables=false"])
            .args(["--exec-opt", "native.cgroupdriver=cgroupfs"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.daemon = Some(daemon);
        let began = Instant::now();
        while self.docker(&["version"]).is_err() {
            assert!(began.elapsed() < PATIENCE, "the engine does not answer\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends the daemon, as a service manager does (`TERM`) or as a crash does (`KILL`).
    pub(crate) fn end(&mut self, signal: Signal) {
        let Some(mut daemon) = self.daemon.take() else { return };
        if matches!(daemon.try_wait(), Ok(None)) {
            let pid = Pid::from_raw(child_of(daemon.id())).unwrap();
            kill_process(pid, signal).unwrap();
        }
        daemon.wait().unwrap();
    }

    /// Processes of its containers, by what the kernel counts.
    pub(crate) fn processes(&self) -> usize {
        self.cgroups()
            .iter()
            .filter_map(|group| std::fs::read_to_string(group.join("cgroup.procs")).ok())
            .map(|pids| pids.lines().count())
            .max()
            .unwrap_or(0)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.sockets.path().join("engine.log")).unwrap_or_default()
    }

    fn load(&self) {
        let id = ["image", "inspect", "--format", "{{.Id}}", &image()];
        let wanted = docker(&id).unwrap();
        if self.docker(&id).ok().as_deref() == Some(wanted.trim()) {
            return;
        }
        let saved = Command::new("docker").args(["save", &image()]).stdout(Stdio::piped()).spawn();
        let mut saved = saved.unwrap();
        let mut load = Command::new("docker");
        load.args(["--host", &self.host(), "load", "-q"]).stdin(saved.stdout.take().unwrap());
        run(&mut load).unwrap();
        assert!(saved.wait().unwrap().success());
        // What an earlier run was with.
        self.docker(&["image", "prune", "-f"]).unwrap();
    }

    /// Removes what containers there are, and their volumes.
    fn clear(&self) {
        if let Ok(ids) = self.docker(&["ps", "-aq"]) {
            for id in ids.lines() {
                let _ = self.docker(&["rm", "-fv", id]);
            }
        }
        let _ = self.docker(&["volume", "prune", "-f"]);
    }

    /// Its groups of processes with all below them, the lower ones last.
    fn cgroups(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let roots = std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten();
        let mut left: Vec<_> = roots.map(|root| root.path().join(&self.cgroup)).collect();
        left.push(Path::new("/sys/fs/cgroup").join(&self.cgroup));
        while let Some(group) = left.pop() {
            let Ok(below) = std::fs::read_dir(&group) else { continue };
            left.extend(below.flatten().map(|one| one.path()).filter(|path| path.is_dir()));
            found.push(group);
        }
        found
    }
}

impl Drop for SecondEngine {
    fn drop(&mut self) {
        self.free();
        self.clear();
        self.end(Signal::TERM);
        let _ = self.ground.kill();
        let _ = self.ground.wait();
        let began = Instant::now();
        while !self.cgroups().is_empty() && began.elapsed() < Duration::from_secs(5) {
            for group in self.cgroups().iter().rev() {
                let _ = std::fs::remove_dir(group);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        // The kernel detaches it with the last process that has seen it.
        while disk::is_attached(&self.disk) && began.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(std::thread::panicking() || !disk::is_attached(&self.disk), "still mounted");
    }
}
