//! Workspaces, settings and the server under measurement.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command as Program;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::process::Command;

use super::client::Client;
use super::docker::Failed;

/// How long the pool may take to be at rest: a large workspace is sent ahead of the first call.
const REST: Duration = Duration::from_secs(600);

/// A small repository with one commit, as the one for each arm.
pub(crate) fn small_project(path: &Path) -> Result<(), Failed> {
    fs::create_dir_all(path.join("src"))?;
    fs::write(path.join("README.md"), "# A project\n")?;
    fs::write(path.join("src/lib.rs"), "pub fn one() -> u32 { 1 }\n")?;
    fs::write(path.join(".gitignore"), "target/\n")?;
    for arguments in
        [&["init", "-q", "-b", "main"][..], &["add", "-A"], &["commit", "-q", "-m", "first"]]
    {
        let status = Program::new("git")
            .args(["-c", "user.name=B", "-c", "user.email=b@localhost"])
            .args(arguments)
            .current_dir(path)
            .status()?;
        if !status.success() {
            return Err(format!("git {arguments:?} failed").into());
        }
    }
    Ok(())
}

/// The real server over stdio, initialized.
#[derive(Debug)]
pub(crate) struct Server {
    /// Its client.
    pub(crate) client: Client,
    /// Its process.
    pub(crate) pid: u32,
    log: PathBuf,
}

impl Server {
    /// Starts it with settings and state below `home`.
    pub(crate) async fn start(
        home: &Path,
        workspace: &Path,
        base_url: &str,
        more: &str,
    ) -> Result<Self, Failed> {
        fs::create_dir_all(home)?;
        let settings = home.join("config.toml");
        fs::write(
            &settings,
            format!(
                "{more}\n[workspace]\npath = {workspace:?}\n[runs]\ndir = {:?}\n[model]\nbase_url \
                 = {base_url:?}\nauth = \"none\"\n",
                home.join("runs")
            ),
        )?;
        let log = home.join("server.log");
        let mut command = Command::new(env!("CARGO_BIN_EXE_mcp-codex-orchestrator"));
        command
            .args(["--config".as_ref(), settings.as_os_str(), "serve".as_ref()])
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", home)
            .env("XDG_STATE_HOME", home.join("state"))
            .current_dir(home)
            .stderr(fs::File::create(&log)?);
        for name in ["DOCKER_HOST", "CODEX_IMAGE"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        let mut client = Client::start(&mut command)?;
        let pid = client.pid().ok_or("the server ended")?;
        let hello = json!({"protocolVersion": "2025-06-18", "capabilities": {},
                           "clientInfo": {"name": "bench", "version": "1"}});
        client.request("initialize", hello, |_| {}).await?;
        client.notify("notifications/initialized").await?;
        let mut server = Self { client, pid, log };
        server.rest().await?;
        Ok(server)
    }

    /// Waits until the pool has an idle container and does nothing; gives its status.
    pub(crate) async fn rest(&mut self) -> Result<Value, Failed> {
        let began = Instant::now();
        loop {
            let status = self.client.call("codex_pool_status", json!({}), |_| {}).await?;
            let count = |name: &str| status[name].as_u64().unwrap_or_default();
            if count("idle") > 0 && count("leased") + count("starting") + count("resetting") == 0 {
                return Ok(status);
            }
            if began.elapsed() > REST {
                let log = fs::read_to_string(&self.log).unwrap_or_default();
                return Err(format!("the pool does not come to rest: {status}\n{log}").into());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// One run; a failed one ends the benchmark.
    pub(crate) async fn run(&mut self, arguments: Value) -> Result<Value, Failed> {
        let result = self.client.call("codex_run", arguments, |_| {}).await?;
        if result["success"] == true {
            return Ok(result);
        }
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        Err(format!("a run failed: {result}\n{log}").into())
    }
}
