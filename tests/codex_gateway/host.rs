//! The real Codex on this machine, against a scripted model behind a gateway on loopback.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mcp_codex_orchestrator::codex::command::CONFIG;
use mcp_codex_orchestrator::codex::{
    CodexCommand, CodexEvent, CodexOutcome, CodexRun, LimitedLog, Output, Source,
};
use mcp_codex_orchestrator::config::{Config, DEFAULT_TOML, ModelConfig};
use mcp_codex_orchestrator::keeper::wire::{ExitReport, WORKSPACE};
use mcp_codex_orchestrator::model::scripted::{Script, ScriptedModel};
use mcp_codex_orchestrator::model::{Credential, Gateway, Limits, Traffic};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use tokio_util::task::AbortOnDropHandle;

/// The key that the gateway adds; it must be seen at the provider and nowhere else.
pub const KEY: &str = "sk-test-key-of-the-gateway";

/// Model, gateway, CODEX_HOME and a workspace.
pub struct Bench {
    pub model: ScriptedModel,
    pub traffic: Arc<Traffic>,
    pub address: std::net::SocketAddr,
    dir: tempfile::TempDir,
    _serving: AbortOnDropHandle<()>,
}

/// What a run on it gave.
pub struct Ran {
    pub outcome: CodexOutcome,
    pub events: Vec<CodexEvent>,
    /// What Codex printed, with the workspace's path replaced by `/app`.
    pub jsonl: String,
    /// From the spawn to the first request that the gateway passed.
    pub first_request: Option<Duration>,
    pub took: Duration,
}

impl Bench {
    pub async fn start(script: Script) -> Self {
        Self::start_with(script, |_| {}).await
    }

    pub async fn start_with(script: Script, change: impl FnOnce(&mut ModelConfig)) -> Self {
        let model = ScriptedModel::start(script).await.unwrap();
        let defaults: Config = toml::from_str(DEFAULT_TOML).unwrap();
        let mut config = ModelConfig { base_url: model.base_url(), ..defaults.model };
        change(&mut config);
        let gateway = Gateway::new(&config, Credential::api_key(KEY).unwrap(), |_| None).unwrap();
        let traffic = Arc::new(Traffic::new(Limits::new(&config, 0)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn({
            let traffic = traffic.clone();
            async move {
                let mut connections = tokio::task::JoinSet::new();
                while let Ok((stream, _)) = listener.accept().await {
                    let (gateway, traffic) = (gateway.clone(), traffic.clone());
                    connections.spawn(async move { gateway.serve(stream, traffic).await });
                }
            }
        });
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        for part in ["home", "tmp", "app"] {
            std::fs::create_dir(dir.path().join(part)).unwrap();
        }
        let config = CONFIG.replace("127.0.0.1:8787", &address.to_string());
        std::fs::write(dir.path().join("home/config.toml"), config).unwrap();
        let serving = AbortOnDropHandle::new(serving);
        Self { model, traffic, address, dir, _serving: serving }
    }

    /// Replaces text in Codex's configuration.
    pub fn configure(&self, old: &str, new: &str) {
        let file = self.dir.path().join("home/config.toml");
        let config = std::fs::read_to_string(&file).unwrap();
        assert!(config.contains(old));
        std::fs::write(file, config.replace(old, new)).unwrap();
    }

    /// The workspace.
    pub fn app(&self) -> PathBuf {
        self.dir.path().join("app")
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.app().join(name)).unwrap()
    }

    pub async fn run(&self, binary: &Path, command: &CodexCommand) -> Ran {
        let request = command.spawn_request("nonce").unwrap();
        let app = self.app().to_str().unwrap().to_owned();
        // Where CODEX_HOME is here; in a container the keeper writes them.
        for file in &request.files {
            let name = Path::new(&file.path).strip_prefix(".codex").unwrap();
            std::fs::write(self.dir.path().join("home").join(name), &file.contents).unwrap();
        }
        let mut child = Command::new(binary);
        child
            .args(request.argv[1..].iter().map(|a| a.replace(WORKSPACE, &app)))
            .arg("--strict-config")
            .env_clear()
            .envs(request.env)
            .env("HOME", self.dir.path().join("home"))
            .env("CODEX_HOME", self.dir.path().join("home"))
            .env("TMPDIR", self.dir.path().join("tmp"))
            .current_dir(&app)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let spawned = Instant::now();
        let mut child = child.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stdin, request.stdin.as_bytes()).await.unwrap();
        drop(stdin);
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let mut source = Local { child, stdout, stderr };
        let log = tempfile::tempfile().unwrap();
        let events_log = LimitedLog::new(log.try_clone().unwrap(), 1 << 20);
        let stderr_log = LimitedLog::new(tempfile::tempfile().unwrap(), 1 << 20);
        let mut run = CodexRun::new("nonce", events_log, stderr_log);
        let mut events = Vec::new();
        run.follow(&mut source, |event| events.push(event.clone())).await.unwrap();
        let took = spawned.elapsed();
        let outcome = run.outcome();
        let mut log = log;
        std::io::Seek::rewind(&mut log).unwrap();
        let bin = binary.parent().unwrap().to_str().unwrap();
        let jsonl = std::io::read_to_string(log)
            .unwrap()
            .replace(&app, WORKSPACE)
            .replace(bin, "/opt/codex/bin")
            .replace(&self.address.to_string(), "127.0.0.1:8787");
        let first = self.traffic.report().first_request;
        let first_request = first.map(|at| at.duration_since(spawned));
        Ran { outcome, events, jsonl, first_request, took }
    }
}

/// A child of ours in place of a program in a container.
struct Local {
    child: Child,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
}

impl Source for Local {
    type Error = std::io::Error;

    async fn next(&mut self) -> std::io::Result<Output> {
        loop {
            let (mut out, mut err) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
            tokio::select! {
                read = async { self.stdout.as_mut().unwrap().read(&mut out).await },
                    if self.stdout.is_some() => match read? {
                    0 => self.stdout = None,
                    n => { out.truncate(n); return Ok(Output::Stdout(out)); }
                },
                read = async { self.stderr.as_mut().unwrap().read(&mut err).await },
                    if self.stderr.is_some() => match read? {
                    0 => self.stderr = None,
                    n => { err.truncate(n); return Ok(Output::Stderr(err)); }
                },
                else => {
                    let status = self.child.wait().await?;
                    return Ok(Output::Exited(ExitReport {
                        nonce: "nonce".into(),
                        code: status.code(),
                        signal: std::os::unix::process::ExitStatusExt::signal(&status),
                        out_of_memory: false,
                        disk_full: None,
                        dropped_bytes: 0,
                    }));
                }
            }
        }
    }
}
