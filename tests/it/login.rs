//! `auth login`: Codex's own device login in a container, against a scripted login server.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStderr, Command};

use crate::need_engine;
use crate::support::PATIENCE;
use crate::support::docker;
use crate::support::issuer::{CODE, Issuer};

/// A login under way.
struct Login {
    child: Child,
    pid: u32,
    stderr: tokio::io::Lines<BufReader<ChildStderr>>,
    /// What it said so far.
    said: String,
}

impl Login {
    fn begin(home: &Path, issuer: &str, arguments: &[&str]) -> Self {
        std::fs::write(home.join("config.toml"), "").unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_mcp-codex-orchestrator"));
        command
            .args(["--config", "config.toml", "auth", "login", "--issuer", issuer])
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var("PATH").unwrap_or_default())
            .env("HOME", home)
            .env("CODEX_HOME", home.join("codex"))
            .env("XDG_STATE_HOME", home.join("state"))
            .current_dir(home)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        for name in ["DOCKER_HOST", "CODEX_IMAGE"] {
            if let Ok(value) = std::env::var(name) {
                command.env(name, value);
            }
        }
        let mut child = command.spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap()).lines();
        Self { pid: child.id().unwrap(), child, stderr, said: String::new() }
    }

    /// Reads until a line has `text` in it.
    async fn says(&mut self, text: &str) {
        loop {
            let line = tokio::time::timeout(PATIENCE, self.stderr.next_line()).await;
            let Ok(Ok(Some(line))) = line else { panic!("never {text}: {}", self.said) };
            self.said.push_str(&line);
            self.said.push('\n');
            if line.contains(text) {
                return;
            }
        }
    }

    /// The exit code, stdout and stderr; no container of it is left.
    async fn end(mut self) -> (Option<i32>, String, String) {
        let mut stdout = String::new();
        let ending = async {
            self.child.stdout.take().unwrap().read_to_string(&mut stdout).await.unwrap();
            while let Some(line) = self.stderr.next_line().await.unwrap() {
                self.said.push_str(&line);
                self.said.push('\n');
            }
            self.child.wait().await.unwrap()
        };
        let status = tokio::time::timeout(PATIENCE, ending).await.unwrap();
        assert_eq!(docker::containers_of(self.pid), Vec::<String>::new());
        for secret in ["refresh-secret", "eyJ", "sk-old"] {
            assert!(!stdout.contains(secret) && !self.said.contains(secret), "{}", self.said);
        }
        (status.code(), stdout, self.said)
    }
}

#[tokio::test]
async fn a_device_login_ends_in_the_hosts_auth_json_and_nowhere_else() {
    need_engine!();
    let (issuer, home) = (Issuer::start().await, TempDir::new().unwrap());
    let mut login = Login::begin(home.path(), &issuer.url(), &["--json"]);
    login.says("/codex/device").await;
    login.says(CODE).await;
    // The user's words come while Codex waits; nothing is there yet.
    let path = home.path().join("codex/auth.json");
    assert!(!path.exists());
    // Confined as any other container; only the network differs.
    let containers = docker::containers_of(login.pid);
    let id = containers[0].split_whitespace().next().unwrap();
    let format = "{{.HostConfig.NetworkMode}} {{.HostConfig.ReadonlyRootfs}} \
                  {{.HostConfig.CapDrop}} {{len .HostConfig.SecurityOpt}} {{.HostConfig.AutoRemove}}";
    let inspected = docker::inspect(id, format);
    assert_eq!(inspected, "bridge true [ALL] 2 true");
    *issuer.state.approved.lock() = true;
    let (code, stdout, stderr) = login.end().await;
    assert_eq!(code, Some(0), "{stderr}");
    let told: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(told["kind"], "chatgpt");
    assert_eq!(
        (told["account"].as_str(), told["plan"].as_str()),
        (Some("me@example.org"), Some("pro"))
    );
    assert_eq!((&told["used"], told.get("replaced")), (&Value::Bool(true), None));

    let written: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    assert_eq!(written["auth_mode"], "chatgpt");
    assert_eq!(written["tokens"]["refresh_token"], "refresh-secret-of-login");
    assert_eq!(written["tokens"]["account_id"], "acc-1");
    // What Codex wrote and this program does not know is there, too.
    assert_eq!(written["tokens"]["oauth_provenance"]["issuer"], issuer.url());
    assert!(written["last_refresh"].is_string());
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
    let owners = std::fs::read_dir(home.path().join("state/mcp-codex-orchestrator/owners"));
    assert_eq!(owners.into_iter().flatten().count(), 0, "the owner's file is left");
}

#[tokio::test]
async fn a_login_that_comes_to_nothing_leaves_the_old_one_and_no_container() {
    need_engine!();
    let (issuer, home) = (Issuer::start().await, TempDir::new().unwrap());
    std::fs::create_dir(home.path().join("codex")).unwrap();
    let path = home.path().join("codex/auth.json");
    let old = r#"{"auth_mode":"apikey","OPENAI_API_KEY":"sk-old-secret"}"#;
    std::fs::write(&path, old).unwrap();
    let unchanged = || assert_eq!(std::fs::read_to_string(&path).unwrap(), old);

    // Ctrl-C.
    let mut login = Login::begin(home.path(), &issuer.url(), &[]);
    login.says("holds an API key").await;
    login.says(CODE).await;
    let pid = rustix::process::Pid::from_raw(login.pid.cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let (code, stdout, stderr) = login.end().await;
    assert_eq!((code, stdout.as_str()), (Some(130), ""));
    assert!(stderr.contains("interrupted; nothing was changed"), "{stderr}");
    unchanged();

    // Nobody enters the code in time.
    let login = Login::begin(home.path(), &issuer.url(), &["--timeout", "3s"]);
    let (code, _, stderr) = login.end().await;
    assert_eq!(code, Some(124), "{stderr}");
    assert!(stderr.contains("nobody logged in within 3s (--timeout)"), "{stderr}");
    unchanged();

    // The account may not use device codes.
    *issuer.state.disabled.lock() = true;
    let (code, _, stderr) = Login::begin(home.path(), &issuer.url(), &[]).end().await;
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("security settings of ChatGPT"), "{stderr}");
    unchanged();

    // The login server cannot be reached from a container.
    let closed = issuer.url();
    drop(issuer);
    let (code, _, stderr) = Login::begin(home.path(), &closed, &[]).end().await;
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("check that containers of this engine reach the internet"), "{stderr}");
    unchanged();
    assert_eq!(std::fs::read_dir(home.path().join("codex")).unwrap().count(), 1);
}

#[tokio::test]
async fn a_login_that_replaces_another_says_so() {
    need_engine!();
    let (issuer, home) = (Issuer::start().await, TempDir::new().unwrap());
    *issuer.state.approved.lock() = true;
    for (turn, replaced) in
        [None, Some("the ChatGPT login of me@example.org")].into_iter().enumerate()
    {
        let (code, stdout, stderr) = Login::begin(home.path(), &issuer.url(), &[]).end().await;
        assert_eq!(code, Some(0), "{stderr}");
        assert!(stdout.starts_with("Logged in: ChatGPT login in "), "{stdout}");
        assert!(stdout.contains(" of me@example.org, plan pro, good until "), "{stdout}");
        assert_eq!(stderr.contains(replaced.unwrap_or("it stays until")), turn == 1, "{stderr}");
    }
}
