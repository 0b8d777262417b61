//! A server under test: the binary, its client end, its scripted model, its workspace.

pub(crate) mod docker;
pub(crate) mod issuer;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mcp_codex_orchestrator::model::scripted::{Script, ScriptedModel};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::{mpsc, oneshot};

/// How long anything may take before a test is given up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// What a server is started with.
#[derive(Clone, Default)]
pub(crate) struct Options {
    /// More lines of configuration; sections are merged by name.
    pub(crate) config: Vec<(&'static str, String)>,
    /// More variables of the environment.
    pub(crate) env: Vec<(&'static str, String)>,
    /// What the client says that it can do.
    pub(crate) capabilities: Option<Value>,
    /// The client speaks the protocol that has no `initialize`.
    pub(crate) modern: bool,
    /// Name no scripted model in the configuration.
    pub(crate) no_model: bool,
}

impl Options {
    pub(crate) fn set(mut self, section: &'static str, line: impl Into<String>) -> Self {
        self.config.push((section, line.into()));
        self
    }

    pub(crate) fn no_model(mut self) -> Self {
        self.no_model = true;
        self
    }

    pub(crate) fn capabilities(mut self, capabilities: Value) -> Self {
        self.capabilities = Some(capabilities);
        self
    }

    pub(crate) fn env(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.env.push((name, value.into()));
        self
    }
}

type Lines = Arc<Mutex<Vec<String>>>;
type Answers = Arc<Mutex<HashMap<u64, oneshot::Sender<Value>>>>;

/// A running server.
pub(crate) struct Server {
    pub(crate) child: Child,
    pub(crate) pid: u32,
    stdin: Option<ChildStdin>,
    answers: Answers,
    next: AtomicU64,
    pub(crate) notifications: mpsc::UnboundedReceiver<Value>,
    /// Every line on stdout.
    pub(crate) said: Arc<Mutex<Vec<String>>>,
    /// Every line on stdout that was no JSON-RPC message.
    pub(crate) noise: Arc<Mutex<Vec<String>>>,
    pub(crate) model: Option<ScriptedModel>,
    pub(crate) home: TempDir,
    pub(crate) workspace: PathBuf,
    modern: bool,
}

impl Server {
    /// Starts a server with an ordinary git workspace, and initializes it.
    pub(crate) async fn start(script: Script, options: Options) -> Self {
        let home = TempDir::new().unwrap();
        let workspace = home.path().join("project");
        make_workspace(&workspace);
        Self::start_in(script, options, home, workspace).await
    }

    /// The same for a client of 2026-07-28.
    pub(crate) async fn start_modern(script: Script, options: Options) -> Self {
        Self::start(script, Options { modern: true, ..options }).await
    }

    pub(crate) async fn start_in(
        script: Script,
        options: Options,
        home: TempDir,
        workspace: PathBuf,
    ) -> Self {
        let model =
            if options.no_model { None } else { Some(ScriptedModel::start(script).await.unwrap()) };
        let config = write_config(home.path(), &workspace, model.as_ref(), &options);
        let mut command = Command::new(env!("CARGO_BIN_EXE_mcp-codex-orchestrator"));
        command
            .args(["--config", config.to_str().unwrap(), "serve"])
            .env_clear()
            .env("PATH", std::env::var("PATH").unwrap_or_default())
            .env("HOME", home.path())
            .env("XDG_STATE_HOME", home.path().join("state"))
            .current_dir(home.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(home.path().join("server.log")).unwrap())
            .kill_on_drop(true);
        for name in ["DOCKER_HOST", "CODEX_IMAGE"] {
            if let Ok(value) = std::env::var(name) {
                command.env(name, value);
            }
        }
        for (name, value) in &options.env {
            command.env(name, value);
        }
        let mut child = command.spawn().unwrap();
        let pid = child.id().unwrap();
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().unwrap();
        let answers: Answers = Arc::default();
        let noise: Arc<Mutex<Vec<String>>> = Arc::default();
        let said: Arc<Mutex<Vec<String>>> = Arc::default();
        let (notify, notifications) = mpsc::unbounded_channel();
        let told = (Arc::clone(&said), Arc::clone(&noise));
        tokio::spawn(read(stdout, Arc::clone(&answers), notify, told));
        let server = Self {
            child,
            pid,
            stdin,
            answers,
            next: AtomicU64::new(1),
            notifications,
            said,
            noise,
            model,
            home,
            workspace,
            modern: options.modern,
        };
        let mut server = server;
        if options.modern {
            return server;
        }
        let answer = server
            .request(
                "initialize",
                json!({"protocolVersion": "2025-06-18",
                       "capabilities": options.capabilities.clone().unwrap_or(json!({})),
                       "clientInfo": {"name": "test", "version": "1"}}),
            )
            .await;
        assert!(answer["result"]["serverInfo"]["name"] == "mcp-codex-orchestrator", "{answer}");
        server.send(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await;
        server
    }

    pub(crate) async fn send(&mut self, message: &Value) {
        let mut line = message.to_string();
        line.push('\n');
        self.stdin.as_mut().unwrap().write_all(line.as_bytes()).await.unwrap();
    }

    /// Sends a request; gives its id and a receiver for the answer.
    pub(crate) async fn begin(
        &mut self,
        method: &str,
        mut params: Value,
    ) -> (u64, oneshot::Receiver<Value>) {
        if self.modern {
            let capabilities = "io.modelcontextprotocol/clientCapabilities";
            let meta = &mut params["_meta"];
            meta["io.modelcontextprotocol/protocolVersion"] = json!("2026-07-28");
            if meta[capabilities].is_null() {
                meta[capabilities] = json!({});
            }
        }
        let id = self.next.fetch_add(1, Ordering::SeqCst);
        let (sender, receiver) = oneshot::channel();
        self.answers.lock().insert(id, sender);
        self.send(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})).await;
        (id, receiver)
    }

    pub(crate) async fn request(&mut self, method: &str, params: Value) -> Value {
        let (_, answer) = self.begin(method, params).await;
        await_answer(answer, self.home.path()).await
    }

    /// Begins a `tools/call` that asks for progress under the token `"t"`.
    pub(crate) async fn begin_call(
        &mut self,
        tool: &str,
        arguments: Value,
    ) -> (u64, oneshot::Receiver<Value>) {
        let params = json!({"name": tool, "arguments": arguments, "_meta": {"progressToken": "t"}});
        self.begin("tools/call", params).await
    }

    /// Calls a tool; gives its structured result.
    pub(crate) async fn call(&mut self, tool: &str, arguments: Value) -> Value {
        let (_, answer) = self.begin_call(tool, arguments).await;
        let answer = await_answer(answer, self.home.path()).await;
        assert!(answer["error"].is_null(), "{answer}");
        answer["result"]["structuredContent"].clone()
    }

    pub(crate) async fn run(&mut self, prompt: &str) -> Value {
        self.call("codex_run", json!({"prompt": prompt})).await
    }

    /// Waits until a run tells that it does `stage`.
    pub(crate) async fn stage(&mut self, stage: &str) {
        loop {
            let message = tokio::time::timeout(PATIENCE, self.notifications.recv()).await;
            let Ok(Some(message)) = message else { panic!("never {stage}\n{}", self.log()) };
            if message["params"]["message"].as_str().is_some_and(|text| text.starts_with(stage)) {
                return;
            }
        }
    }

    /// Waits until a container is idle.
    pub(crate) async fn ready(&mut self) -> Value {
        let began = std::time::Instant::now();
        loop {
            let status = self.call("codex_pool_status", json!({})).await;
            if status["idle"].as_u64() > Some(0) && status["preparing"] == 0 {
                return status;
            }
            assert!(began.elapsed() < PATIENCE, "no container: {status}\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.home.path().join("server.log")).unwrap_or_default()
    }

    pub(crate) fn runs(&self) -> PathBuf {
        self.home.path().join("runs")
    }

    pub(crate) fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.workspace.join(path)).unwrap()
    }

    pub(crate) fn write(&self, path: &str, text: &str) {
        std::fs::write(self.workspace.join(path), text).unwrap();
    }

    /// Closes stdin, as a client does, and gives how long the server took to end. Then nothing of
    /// it may be left.
    pub(crate) async fn stop(mut self) -> Duration {
        self.close();
        let took = self.ended().await;
        self.check_nothing_left().await;
        took
    }

    /// Closes stdin, as a client does.
    pub(crate) fn close(&mut self) {
        drop(self.stdin.take());
    }

    /// Waits for the end of the process; gives how long that took.
    pub(crate) async fn ended(&mut self) -> Duration {
        let began = std::time::Instant::now();
        let status = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        assert!(matches!(status, Ok(Ok(_))), "the server did not end\n{}", self.log());
        began.elapsed()
    }

    pub(crate) async fn check_nothing_left(&self) {
        let left = docker::containers_of(self.pid);
        assert!(left.is_empty(), "left behind: {left:?}\n{}", self.log());
        assert!(self.noise.lock().is_empty(), "on stdout: {:?}", self.noise.lock());
        for run in std::fs::read_dir(self.runs()).into_iter().flatten().flatten() {
            if run.file_type().unwrap().is_dir() {
                assert!(
                    run.path().join("result.json").exists(),
                    "{} has no result",
                    run.path().display()
                );
            }
        }
    }
}

pub(crate) async fn await_answer(answer: oneshot::Receiver<Value>, home: &Path) -> Value {
    match tokio::time::timeout(PATIENCE, answer).await {
        Ok(Ok(answer)) => answer,
        other => panic!(
            "no answer ({other:?})\n{}",
            std::fs::read_to_string(home.join("server.log")).unwrap_or_default()
        ),
    }
}

async fn read(
    stdout: tokio::process::ChildStdout,
    answers: Answers,
    notify: mpsc::UnboundedSender<Value>,
    (said, noise): (Lines, Lines),
) {
    let mut lines = BufReader::new(stdout).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        said.lock().push(line.clone());
        match serde_json::from_str::<Value>(&line) {
            Ok(message) if message["jsonrpc"] == "2.0" => match message["id"].as_u64() {
                Some(id) if message["method"].is_null() => {
                    if let Some(sender) = answers.lock().remove(&id) {
                        let _ = sender.send(message);
                    }
                }
                _ => {
                    let _ = notify.send(message);
                }
            },
            _ => noise.lock().push(line),
        }
    }
    answers.lock().clear();
}

fn write_config(
    home: &Path,
    workspace: &Path,
    model: Option<&ScriptedModel>,
    options: &Options,
) -> PathBuf {
    let mut sections: HashMap<&str, Vec<String>> = HashMap::new();
    let mut add = |section, line: String| sections.entry(section).or_default().push(line);
    if !options
        .config
        .iter()
        .any(|(section, line)| *section == "workspace" && line.starts_with("path"))
    {
        add("workspace", format!("path = {workspace:?}"));
    }
    add("runs", format!("dir = {:?}", home.join("runs")));
    if let Some(model) = model {
        add("model", format!("base_url = {:?}\nauth = \"none\"", model.base_url()));
    }
    for (section, line) in &options.config {
        add(section, line.clone());
    }
    let mut text = String::new();
    for (section, lines) in sections {
        text.push_str(&format!("[{section}]\n{}\n", lines.join("\n")));
    }
    let path = home.join("config.toml");
    std::fs::write(&path, text).unwrap();
    path
}

/// An ordinary small repository with one commit.
pub(crate) fn make_workspace(path: &Path) {
    std::fs::create_dir_all(path.join("src")).unwrap();
    std::fs::write(path.join("README.md"), "# A project\n").unwrap();
    std::fs::write(path.join("src/lib.rs"), "pub fn one() -> u32 { 1 }\n").unwrap();
    std::fs::write(path.join(".gitignore"), "target/\n").unwrap();
    git(path, &["init", "-q", "-b", "main"]);
    git(path, &["add", "-A"]);
    git(path, &["commit", "-q", "-m", "first"]);
}

pub(crate) fn git(path: &Path, arguments: &[&str]) -> String {
    let output = std::process::Command::new("git")
        .args(["-c", "user.name=T", "-c", "user.email=t@localhost", "-c", "safe.directory=*"])
        .args(arguments)
        .current_dir(path)
        .output()
        .unwrap();
    assert!(output.status.success(), "git {arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Every path under `root` with its bytes, for comparing trees.
pub(crate) fn tree(root: &Path) -> std::collections::BTreeMap<PathBuf, Vec<u8>> {
    let mut found = std::collections::BTreeMap::new();
    let mut left = vec![root.to_path_buf()];
    while let Some(directory) = left.pop() {
        for entry in std::fs::read_dir(&directory).unwrap().flatten() {
            let path = entry.path();
            let kind = entry.file_type().unwrap();
            let bytes = if kind.is_dir() {
                left.push(path.clone());
                b"directory".to_vec()
            } else if kind.is_symlink() {
                std::fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
            } else {
                std::fs::read(&path).unwrap()
            };
            found.insert(path.strip_prefix(root).unwrap().to_path_buf(), bytes);
        }
    }
    found
}

/// Waits until the model was asked `count` times.
pub(crate) async fn requests(server: &Server, count: usize) {
    let model = server.model.as_ref().unwrap();
    let began = std::time::Instant::now();
    while model.requests().len() < count {
        assert!(began.elapsed() < PATIENCE, "the model was not asked\n{}", server.log());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Whether the engine tests can run; tells why not.
#[macro_export]
macro_rules! need_engine {
    () => {
        if let Err(reason) = $crate::support::docker::usable() {
            assert!(
                std::env::var_os("CODEX_TESTS_REQUIRE_ENGINE").is_none(),
                "no engine to test with: {reason}"
            );
            eprintln!("skipped {}: {reason}", module_path!());
            return;
        }
    };
}

/// The program on the command line, with the settings of the server.
pub(crate) fn cli(home: &Path, arguments: &[&str]) -> std::process::Output {
    cli_with(home, arguments, &[])
}

/// The same with more variables.
pub(crate) fn cli_with(
    home: &Path,
    arguments: &[&str],
    variables: &[(&str, &str)],
) -> std::process::Output {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_mcp-codex-orchestrator"));
    command
        .args(["--config", home.join("config.toml").to_str().unwrap()])
        .args(arguments)
        .env_clear()
        .env("PATH", std::env::var("PATH").unwrap_or_default())
        .env("HOME", home)
        .env("XDG_STATE_HOME", home.join("state"))
        .envs(variables.iter().copied())
        .current_dir(home);
    for name in ["DOCKER_HOST", "CODEX_IMAGE"] {
        if let Ok(value) = std::env::var(name) {
            command.env(name, value);
        }
    }
    command.output().unwrap()
}

/// The paths of a list of changes, conflicts or refusals.
pub(crate) fn paths(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|entry| entry["path"].as_str().unwrap()).collect()
}
