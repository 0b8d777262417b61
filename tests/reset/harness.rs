//! An armed container, as the server makes it, and a second opinion of what is in it.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use mcp_codex_orchestrator::config::{ContainerConfig, NetworkConfig};
use mcp_codex_orchestrator::container::{ArmedContainer, HostPaths, Profile, Starter};
use mcp_codex_orchestrator::engine::docker::{DockerEngine, Endpoint};
use mcp_codex_orchestrator::engine::{Engine, Network};
use mcp_codex_orchestrator::keeper::client::{KeeperError, ProgramEvent};
use mcp_codex_orchestrator::keeper::wire::{ExitReport, PutRequest, SpawnRequest};
use mcp_codex_orchestrator::pool::owner::Owner;
use mcp_codex_orchestrator::pool::source::{Pooled, Source};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;

pub(crate) use crate::engine::engine_is_there;
use crate::engine::image;

pub(crate) type Failure = Box<dyn std::error::Error>;

/// What is in a container, as root sees it through an exec of its own: every path in the places
/// that uid 1000 can write to, what the file systems in memory hold, IPC, sockets, mounts, processes.
const LOOK: &str = r#"
    places="/app /cache /home/codex /tmp /run /dev/shm /dev/mqueue /var/tmp /dev"
    find $places -xdev -type d -printf '%p %y %m %U:%G\n' -o -printf '%p %y %m %U:%G %s %l\n' | LC_ALL=C sort
    df --output=target,used,iused /home/codex /tmp /run /dev/shm
    tail -q -n +2 /proc/sysvipc/shm /proc/sysvipc/sem /proc/sysvipc/msg | sed 's/^/ipc /'
    awk 'NR > 1 { print "unix", $5, $6, $8 }' /proc/net/unix
    awk '$4 == "0A" { print "listens", $2 }' /proc/net/tcp /proc/net/tcp6
    awk 'FNR > 1 { print "udp", $2 }' /proc/net/udp /proc/net/udp6
    cat /proc/self/mounts
    for stat in /proc/[0-9]*/stat; do
        [ ${stat#/proc/} = $$/stat ] || awk '$4 != '$$' { print "process", $2, $3 }' $stat 2>/dev/null
    done | sed 's/ [RSD]$//' | LC_ALL=C sort
"#;

/// A shell script that runs this in Python.
pub(crate) fn python(code: &str) -> String {
    format!(
        "exec python3 - <<'PY'\nimport array, ctypes, fcntl, os, signal, socket, struct, sys, time\nlibc = ctypes.CDLL(None, use_errno=True)\n{code}\nPY\n"
    )
}

fn docker(arguments: &[&str]) -> Option<String> {
    let output = Command::new("docker").args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What must become of a leftover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The reset is proved, and nothing of it is there.
    Gone,
    /// The reset is not proved, so that the container is destroyed.
    Refused,
}

/// A leftover: its name, what makes it, and its fate. What makes it says `planted` when it is there.
pub(crate) type Leftover = (&'static str, String, Fate);

/// An armed container of the server's own making; removed when it is dropped.
pub(crate) struct Armed {
    pub(crate) container: ArmedContainer,
    /// What was in it when it was armed.
    look: String,
    _owner: Arc<Owner>,
    _state: TempDir,
}

impl Drop for Armed {
    fn drop(&mut self) {
        let _ = docker(&["rm", "-fv", &self.container.id().0]);
    }
}

impl Armed {
    pub(crate) async fn start(keep_ignored: bool) -> Self {
        let endpoint = Endpoint::from_environment(|name| std::env::var(name).ok()).unwrap();
        let engine = DockerEngine::connect(&endpoint, Duration::from_secs(60)).unwrap();
        let engine: Arc<dyn Engine> = Arc::new(engine);
        let config = ContainerConfig {
            image: image(),
            memory: 512 << 20,
            cpus: 0.0,
            pids: 256,
            read_only: true,
            runtime: String::new(),
            start_timeout: Duration::from_secs(60),
            heartbeat: Duration::from_secs(1),
        };
        let network = NetworkConfig { mode: Network::None, allow_hosts: vec!["a.example".into()] };
        let state = TempDir::new().unwrap();
        let owner = Arc::new(Owner::claim(state.path()).unwrap());
        let profile =
            Profile { container: config, network, keep_ignored, host_paths: HostPaths::default() };
        let starter = Starter::new(engine, profile, Arc::clone(&owner));
        let container = starter.start().await.unwrap();
        let mut armed = Self { container, look: String::new(), _owner: owner, _state: state };
        armed.look = armed.look();
        armed
    }

    /// Runs `script` as root, by an exec of the engine.
    pub(crate) fn as_root(&self, script: &str) -> String {
        docker(&["exec", "-u", "0", &self.container.id().0, "bash", "-c", script]).unwrap()
    }

    fn look(&self) -> String {
        self.as_root(LOOK)
    }

    /// Runs `script` as a job does.
    pub(crate) async fn run(&self, script: &str) -> Result<(ExitReport, String), KeeperError> {
        let request = SpawnRequest {
            argv: ["bash", "-c", script].map(str::to_owned).to_vec(),
            env: [
                ("PATH", "/home/codex/.local/bin:/usr/local/bin:/usr/bin:/bin"),
                ("HOME", "/home/codex"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec(),
            cwd: "/app".to_owned(),
            files: Vec::new(),
            stdin: String::new(),
            nonce: "nonce".to_owned(),
        };
        let mut program = self.container.keeper().spawn(request).await?;
        let mut said = Vec::new();
        loop {
            match program.next().await? {
                ProgramEvent::Stdout(bytes) | ProgramEvent::Stderr(bytes) => said.extend(bytes),
                ProgramEvent::Exited(report) => {
                    return Ok((report, String::from_utf8_lossy(&said).into_owned()));
                }
            }
        }
    }

    /// Runs a script that must succeed, and gives what it said.
    pub(crate) async fn must(&self, script: &str) -> String {
        let (exit, said) = self.run(script).await.unwrap();
        assert_eq!(exit.code, Some(0), "{script}\n{said}");
        said
    }

    pub(crate) async fn put(&self, files: &[(&str, &str)]) -> Result<(), Failure> {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, text) in files {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o644);
            header.set_size(text.len() as u64);
            header.set_mtime(1_700_000_000);
            tar.append_data(&mut header, path, text.as_bytes())?;
        }
        let mut put = self.container.keeper().put(PutRequest::default()).await?;
        put.write_all(&tar.into_inner()?).await?;
        put.finish().await?;
        Ok(())
    }

    /// Ends everything and resets, as after a job.
    pub(crate) async fn reset(&mut self) -> Result<(), String> {
        let ended = self.container.keeper().end().await.map_err(|error| error.to_string())?;
        if ended.left > 0 {
            return Err(format!("{} processes are left", ended.left));
        }
        self.container.reset().await
    }

    /// Sees that the container is as it was when it was armed.
    pub(crate) fn must_be_as_armed(&self, after: &str) {
        let now = self.look();
        let differ = |one: &str, other: &str| {
            let other: std::collections::BTreeSet<&str> = other.lines().collect();
            one.lines().filter(|line| !other.contains(line)).map(str::to_owned).collect::<Vec<_>>()
        };
        let (more, less) = (differ(&now, &self.look), differ(&self.look, &now));
        assert!(now == self.look, "after {after}: more {more:#?} less {less:#?}");
    }
}

/// Plants one leftover after the other and sees what becomes of each. A container whose reset was
/// refused is replaced.
pub(crate) async fn check(leftovers: Vec<Leftover>) -> Result<(), Failure> {
    let mut armed = Armed::start(false).await;
    for (name, script, fate) in leftovers {
        armed.put(&[("file", "text"), ("directory/file", "text")]).await?;
        let (_, said) = armed.run(&script).await?;
        assert!(said.contains("planted"), "{name}: {said}");
        let began = std::time::Instant::now();
        let reset = armed.reset().await;
        println!("{name}: {reset:?} in {:?}", began.elapsed());
        match fate {
            Fate::Gone => {
                assert_eq!(reset, Ok(()), "{name}");
                armed.must_be_as_armed(name);
            }
            Fate::Refused => {
                assert!(reset.is_err(), "{name} was not seen");
                armed = Armed::start(false).await;
            }
        }
    }
    Ok(())
}
