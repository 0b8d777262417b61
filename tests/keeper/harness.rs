//! A container with a keeper in it, driven through the docker command line.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use mcp_codex_orchestrator::keeper::client::{
    Incoming, Keeper, KeeperError, KeeperOptions, ProgramEvent,
};
use mcp_codex_orchestrator::keeper::wire::{
    ArmRequest, Armed, CollectReport, CollectRequest, ExitReport, PROTOCOL, PutReport, PutRequest,
    SpawnRequest,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

pub(crate) use crate::engine::{engine_is_there, image};

pub(crate) type Failure = Box<dyn std::error::Error>;

/// A container with a keeper in it; removed when it is dropped.
pub(crate) struct Contained {
    pub(crate) name: String,
    pub(crate) exec: Option<Child>,
    pub(crate) keeper: Option<Keeper>,
    pub(crate) incoming: Incoming,
}

impl Drop for Contained {
    fn drop(&mut self) {
        let _ = std::process::Command::new("docker").args(["rm", "-fv", &self.name]).output();
    }
}

/// Whether the engine is Podman, which refuses some words of Docker's.
fn is_podman() -> bool {
    static IS: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *IS.get_or_init(|| {
        let mut version = std::process::Command::new("docker");
        version.args(["version", "--format", "{{range .Server.Components}}{{.Name}} {{end}}"]);
        version.output().is_ok_and(|told| told.stdout.starts_with(b"Podman"))
    })
}

/// The static keeper, built once.
pub(crate) fn keeper_binary() -> PathBuf {
    static BUILT: std::sync::OnceLock<PathBuf> = std::sync::OnceLock::new();
    BUILT
        .get_or_init(|| {
            let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
            let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
            let status = std::process::Command::new(env!("CARGO"))
                .current_dir(&root)
                .env("RUSTFLAGS", "-C target-feature=+crt-static")
                .args(["build", "--release", "--no-default-features", "--bin", "codex-keeper"])
                .args(["--target", &target])
                .status()
                .unwrap();
            assert!(status.success());
            root.join("target").join(target).join("release/codex-keeper")
        })
        .clone()
}

pub(crate) async fn start(more: &[&str]) -> Contained {
    start_on(&["-v", "/app"], more).await
}

/// With the workspace on what the arguments `app` say.
pub(crate) async fn start_on(app: &[&str], more: &[&str]) -> Contained {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let next = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let name = format!("dev-keeper-{}-{next}", std::process::id());
    let mount = format!("{}:/usr/local/bin/codex-keeper:ro", keeper_binary().display());
    let mut run = Command::new("docker");
    run.args([
        "run",
        "-d",
        "--rm",
        "--name",
        &name,
        "--read-only",
        "--user",
        "0",
        "--network",
        "none",
    ]);
    run.args(["--cap-drop", "ALL", "--security-opt", "no-new-privileges"]);
    for capability in ["KILL", "CHOWN", "FOWNER", "DAC_OVERRIDE", "SETUID", "SETGID"] {
        run.args(["--cap-add", capability]);
    }
    run.args(["--memory", "512m", "--memory-swap", "512m", "--pids-limit", "256"]);
    run.args(app).args(["-v", "/cache", "-v", &mount, "--shm-size", "16m"]);
    for (place, size) in [("/home/codex", 32), ("/tmp", 32), ("/run", 4), ("/var/tmp", 8)] {
        // Podman knows no number of files, and would fill it from the image.
        let more = if is_podman() { "notmpcopyup" } else { "nr_inodes=20000" };
        let tmpfs = format!("{place}:rw,exec,nosuid,nodev,size={size}m,{more}");
        run.args(["--tmpfs", &tmpfs]);
    }
    if is_podman() {
        // It sets more than it may itself, where it may not raise its own limits.
        run.args(["--ulimit", "nofile=1024:4096", "--ulimit", "nproc=8192:8192"]);
    }
    run.args(more).args([&image(), "/usr/local/bin/codex-keeper", "init", "30"]);
    let output = run.output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut exec = Command::new("docker")
        .args(["exec", "-i", "-u", "0", &name, "/usr/local/bin/codex-keeper", "serve"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let stream = tokio::io::join(exec.stdout.take().unwrap(), exec.stdin.take().unwrap());
    let (keeper, incoming, hello) =
        Keeper::connect(Box::new(stream), KeeperOptions::default()).await.unwrap();
    assert_eq!(hello.protocol, PROTOCOL);
    Contained { name, exec: Some(exec), keeper: Some(keeper), incoming }
}

impl Contained {
    pub(crate) fn keeper(&self) -> &Keeper {
        self.keeper.as_ref().unwrap()
    }

    pub(crate) async fn arm(&self) -> Armed {
        self.keeper().arm(ArmRequest::default()).await.unwrap()
    }

    pub(crate) async fn is_running(&self) -> bool {
        let mut inspect = Command::new("docker");
        inspect.args(["inspect", "-f", "{{.State.Running}}", &self.name]);
        inspect.output().await.unwrap().stdout.starts_with(b"true")
    }

    pub(crate) async fn gone_within(&self, limit: Duration) -> bool {
        let started = Instant::now();
        while self.is_running().await {
            if started.elapsed() > limit {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        true
    }

    pub(crate) async fn put(&self, tar: Vec<u8>) -> Result<PutReport, KeeperError> {
        self.put_on(None, tar).await
    }

    /// Puts what differs on a tree.
    pub(crate) async fn put_on(
        &self,
        base: Option<u64>,
        tar: Vec<u8>,
    ) -> Result<PutReport, KeeperError> {
        let mut put = self.keeper().put(PutRequest { base, ..PutRequest::default() }).await?;
        // A refusal midway shows here first and in `finish` with its sentence.
        let _ = put.write_all(&tar).await;
        put.finish().await
    }

    pub(crate) async fn run(&self, script: &str) -> (ExitReport, String, String) {
        self.run_with(script, "").await.unwrap()
    }

    pub(crate) async fn run_with(
        &self,
        script: &str,
        stdin: &str,
    ) -> Result<(ExitReport, String, String), KeeperError> {
        let mut program = self.keeper().spawn(request(script, stdin)).await?;
        let (mut out, mut err) = (Vec::new(), Vec::new());
        loop {
            match program.next().await? {
                ProgramEvent::Stdout(bytes) => out.extend(bytes),
                ProgramEvent::Stderr(bytes) => err.extend(bytes),
                ProgramEvent::Exited(report) => {
                    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
                    return Ok((report, text(&out[..]), text(&err[..])));
                }
            }
        }
    }

    pub(crate) async fn collect(&self) -> Result<(CollectReport, Vec<u8>), KeeperError> {
        let mut collect = self.keeper().collect(CollectRequest::default()).await?;
        let mut tar = Vec::new();
        // A refusal midway shows here first and in `finish` with its sentence.
        let read = collect.read_to_end(&mut tar).await;
        let report = collect.finish().await?;
        read.unwrap();
        Ok((report, tar))
    }
}

pub(crate) fn request(script: &str, stdin: &str) -> SpawnRequest {
    SpawnRequest {
        argv: ["bash", "-c", script].map(str::to_owned).to_vec(),
        env: [
            ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
            ("HOME", "/home/codex"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec(),
        cwd: "/app".to_owned(),
        files: Vec::new(),
        stdin: stdin.to_owned(),
        nonce: "nonce-1".to_owned(),
    }
}

pub(crate) fn header(kind: tar::EntryType, mode: u32, size: usize) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(1000);
    header.set_gid(1000);
    header.set_size(size as u64);
    header.set_mtime(1_700_000_000);
    header
}

pub(crate) fn tree(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, bytes) in files {
        let mut header = header(tar::EntryType::Regular, 0o644, bytes.len());
        tar.append_data(&mut header, path, *bytes).unwrap();
    }
    tar.into_inner().unwrap()
}

/// Path, kind and contents (or link target) of each entry.
pub(crate) fn entries(tar: &[u8]) -> Vec<(Vec<u8>, tar::EntryType, Vec<u8>)> {
    use std::io::Read;
    let mut archive = tar::Archive::new(tar);
    let mut entries = Vec::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path_bytes().into_owned();
        let mut bytes = entry.link_name_bytes().map(|b| b.into_owned()).unwrap_or_default();
        entry.read_to_end(&mut bytes).unwrap();
        entries.push((path, entry.header().entry_type(), bytes));
    }
    entries
}

pub(crate) fn find<'a>(
    entries: &'a [(Vec<u8>, tar::EntryType, Vec<u8>)],
    path: &str,
) -> Option<&'a (Vec<u8>, tar::EntryType, Vec<u8>)> {
    entries.iter().find(|(have, ..)| have == path.as_bytes())
}
