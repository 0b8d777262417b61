//! The command line of a run.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;
use toml::Table;

use super::app_server::protocol::{ThreadStartParams, TurnStartParams, UserInput};
use super::thread::ThreadId;
use crate::failure::{ErrorKind, Failure};
use crate::keeper::wire::{PrivateFile, SpawnRequest, WORKSPACE};
use crate::network::PROXY_ENVIRONMENT;
use crate::path::RelPath;

/// Where Codex keeps its state in a container.
pub const CODEX_HOME: &str = "/home/codex/.codex";

/// The lean configuration that the image's CODEX_HOME template holds. What varies from run to run
/// is given on the command line.
pub const CONFIG: &str = include_str!("../../docker/codex-home/config.toml");

/// The environment of Codex; nothing of the host's environment is in it, and no credential.
pub(crate) const ENVIRONMENT: &[(&str, &str)] = &[
    ("HOME", "/home/codex"),
    ("CODEX_HOME", CODEX_HOME),
    // Programs that a run installs for itself come first.
    ("PATH", "/home/codex/.local/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
    ("LANG", "C.UTF-8"),
    ("USER", "codex"),
    ("LOGNAME", "codex"),
    ("SHELL", "/bin/bash"),
    // On the volume, because home is memory.
    ("XDG_CACHE_HOME", "/cache"),
    ("npm_config_cache", "/cache/npm"),
    ("PIP_CACHE_DIR", "/cache/pip"),
    ("CARGO_HOME", "/cache/cargo"),
    ("GOPATH", "/cache/go"),
    ("NPM_CONFIG_UPDATE_NOTIFIER", "false"),
    // A leak check needs ptrace, which the seccomp profile refuses.
    ("ASAN_OPTIONS", "detect_leaks=0"),
    ("LSAN_OPTIONS", "detect_leaks=0"),
];

/// Bytes that all of `env_vars` may take together. They share the space of a command's arguments.
const MAX_ENV_VARS: usize = 100 * 1024;

/// The layer of Codex's configuration that holds `env_vars`. Not the command line, which every user
/// of the host can read in the list of processes; a reset empties the directory.
const CALL_PROFILE: &str = "call";
const CALL_CONFIG: &str = ".codex/call.config.toml";

/// The user's own instructions; a reset takes them out.
const AGENTS: &str = ".codex/AGENTS.md";

/// The schema of the answer, for `codex exec`; a reset empties the directory.
const SCHEMA: &str = ".codex/answer.schema.json";

/// With it Codex asks before it runs a command, also one that only looks, or changes a file. Codex
/// takes it here, though no more on its command line; `on-request` asks for nothing where its own
/// sandbox is off.
const ASKING: &str = "untrusted";

/// One run of Codex. `Debug` has no values of `env_vars`.
#[derive(Clone, Default)]
pub struct CodexCommand {
    /// The task; goes to stdin, so it is in no process list.
    pub prompt: String,
    /// `None`: Codex's own default.
    pub model: Option<String>,
    /// How hard the model thinks; `None`: Codex's own default.
    pub effort: Option<String>,
    /// The text of the user's own AGENTS.md, which comes before those of the workspace.
    pub agents: Option<String>,
    /// More of Codex's configuration.
    pub settings: Table,
    /// Inside the workspace; `None`: its root.
    pub working_dir: Option<RelPath>,
    /// For the commands that Codex runs, not for Codex itself.
    pub env_vars: BTreeMap<String, String>,
    /// Whether Codex asks before each command and each edit; only `codex app-server` can.
    pub asks: bool,
    /// The form of the last message, a JSON schema.
    pub output_schema: Option<Value>,
    /// Whether Codex writes the thread down, so that it can be kept.
    pub keep_thread: bool,
    /// The thread to go on with, whose file must be in the container; `None`: a new one.
    pub resumes: Option<ThreadId>,
}

impl fmt::Debug for CodexCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.env_vars.keys().map(String::as_str).collect();
        f.debug_struct("CodexCommand")
            .field("model", &self.model)
            .field("effort", &self.effort)
            .field("working_dir", &self.working_dir)
            .field("env_vars", &names)
            .finish_non_exhaustive()
    }
}

impl CodexCommand {
    /// What the keeper is asked to start for `codex exec`. `nonce` comes back with the exit.
    ///
    /// # Errors
    ///
    /// `env_vars` as [`check_env_vars`] says; a `working_dir` that is not UTF-8, which no argument
    /// of a call can name.
    pub fn spawn_request(&self, nonce: impl Into<String>) -> Result<SpawnRequest, Failure> {
        check_env_vars(&self.env_vars)
            .map_err(|sentence| Failure::new(ErrorKind::InvalidArgument, sentence))?;
        let cwd = self.cwd()?;
        let mut argv: Vec<String> = [
            "codex",
            "exec",
            "--json",
            "--dangerously-bypass-approvals-and-sandbox",
            "--skip-git-repo-check",
            "--color",
            "never",
            "-C",
            &cwd,
        ]
        .map(String::from)
        .into();
        if self.is_ephemeral() {
            argv.push("--ephemeral".into());
        }
        if let Some(model) = self.model.as_deref().filter(|model| !model.is_empty()) {
            // In one word, so that a name that begins with a dash is no flag.
            argv.push(format!("--model={model}"));
        }
        if let Some(effort) = &self.effort {
            let mut option = String::from("model_reasoning_effort=");
            push_toml_string(&mut option, effort);
            argv.extend(["-c".to_owned(), option]);
        }
        let mut files = self.files();
        if !self.env_vars.is_empty() || !self.settings.is_empty() {
            argv.push(format!("--profile={CALL_PROFILE}"));
            let mut contents = self.settings.to_string();
            if !self.env_vars.is_empty() {
                let table = toml_table(&self.env_vars);
                contents.push_str(&format!("[shell_environment_policy]\nset = {table}\n"));
            }
            files.push(PrivateFile { path: CALL_CONFIG.into(), contents });
        }
        if let Some(schema) = &self.output_schema {
            argv.push(format!("--output-schema=/home/codex/{SCHEMA}"));
            files.push(PrivateFile { path: SCHEMA.into(), contents: schema.to_string() });
        }
        if let Some(thread) = &self.resumes {
            argv.extend(["resume".to_owned(), thread.as_str().to_owned()]);
        }
        argv.push("-".into());
        let stdin = self.prompt.clone();
        Ok(SpawnRequest { argv, env: Self::env(), cwd, files, stdin, nonce: nonce.into() })
    }

    /// What the keeper is asked to start for `codex app-server`, with its stdin open. Nothing of the
    /// job is in it but what the profile says.
    pub fn app_server_request(&self, nonce: impl Into<String>) -> SpawnRequest {
        let argv = [
            "codex",
            "-c",
            "sandbox_mode=\"danger-full-access\"",
            "-c",
            "approval_policy=\"never\"",
            "app-server",
        ];
        SpawnRequest {
            argv: argv.map(String::from).into(),
            env: Self::env(),
            cwd: WORKSPACE.into(),
            files: self.files(),
            stdin: String::new(),
            nonce: nonce.into(),
        }
    }

    /// The thread of `codex app-server`.
    ///
    /// # Errors
    ///
    /// As [`spawn_request`](Self::spawn_request).
    pub fn thread(&self) -> Result<ThreadStartParams, Failure> {
        check_env_vars(&self.env_vars)
            .map_err(|sentence| Failure::new(ErrorKind::InvalidArgument, sentence))?;
        let mut config = BTreeMap::new();
        dotted(&self.settings, "", &mut config);
        if !self.env_vars.is_empty() {
            let variables = self.env_vars.iter();
            let variables = variables.map(|(name, value)| (name.clone(), value.clone().into()));
            let set = Value::Object(variables.collect());
            config.insert("shell_environment_policy.set".to_owned(), set);
        }
        Ok(ThreadStartParams {
            cwd: self.cwd()?,
            ephemeral: self.is_ephemeral(),
            config,
            resumes: self.resumes.as_ref().map(|thread| thread.as_str().to_owned()),
            model: self.model.clone().filter(|model| !model.is_empty()),
        })
    }

    /// Whether Codex writes nothing of the thread. What goes on with one writes to its file.
    fn is_ephemeral(&self) -> bool {
        !self.keep_thread && self.resumes.is_none()
    }

    /// The turn of `codex app-server`.
    pub fn turn(&self) -> TurnStartParams {
        TurnStartParams {
            thread_id: String::new(),
            input: vec![UserInput::Text { text: self.prompt.clone() }],
            model: self.model.clone().filter(|model| !model.is_empty()),
            effort: self.effort.clone(),
            approval_policy: self.asks.then_some(ASKING),
            output_schema: self.output_schema.clone(),
        }
    }

    /// What Codex reads when it starts or opens a thread.
    fn files(&self) -> Vec<PrivateFile> {
        let agents = self.agents.clone().into_iter();
        agents.map(|contents| PrivateFile { path: AGENTS.into(), contents }).collect()
    }

    fn env() -> Vec<(String, String)> {
        ENVIRONMENT.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
    }

    fn cwd(&self) -> Result<String, Failure> {
        let Some(dir) = &self.working_dir else { return Ok(WORKSPACE.into()) };
        let Ok(dir) = std::str::from_utf8(dir.as_bytes()) else {
            let sentence = "working_dir is not UTF-8; rename the directory or run in its parent";
            return Err(Failure::new(ErrorKind::InvalidArgument, sentence));
        };
        Ok(format!("{WORKSPACE}/{dir}"))
    }
}

/// The header in which Codex shows the secret of its run to the gateway, where one is asked for. It
/// is none that the gateway passes on.
pub const RUN_HEADER: &str = "x-gateway-run";

/// The variable from which Codex takes that secret, so that it is in no argv.
const RUN_VARIABLE: &str = "CODEX_GATEWAY_RUN";

/// Names the proxy in the environment of Codex and what it starts.
pub fn reach_proxy(request: &mut SpawnRequest) {
    let variables = PROXY_ENVIRONMENT.iter();
    request.env.extend(variables.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
}

/// Tells Codex that the gateway is at `port` of the loopback interface and asks for `secret`.
pub fn reach_gateway(request: &mut SpawnRequest, port: u16, secret: &str) {
    let options = [
        "-c".to_owned(),
        format!("model_providers.gateway.base_url=\"http://127.0.0.1:{port}/v1\""),
        "-c".to_owned(),
        format!("model_providers.gateway.env_http_headers={{\"{RUN_HEADER}\"=\"{RUN_VARIABLE}\"}}"),
    ];
    // In front of what is last: the prompt's place, or the name of the subcommand.
    let at = request.argv.len().saturating_sub(1);
    request.argv.splice(at..at, options);
    request.env.push((RUN_VARIABLE.to_owned(), secret.to_owned()));
}

/// Checks names and values that a program's environment cannot hold.
///
/// # Errors
///
/// One sentence that names the variable, never its value.
pub fn check_env_vars(env_vars: &BTreeMap<String, String>) -> Result<(), String> {
    for (name, value) in env_vars {
        if name.is_empty() {
            return Err("env_vars has an empty name; give every variable a name".into());
        }
        if name.contains(['=', '\0']) {
            return Err(format!(
                "env_vars has the name {:?}; a name may hold neither \"=\" nor NUL",
                crate::job::call::name_of(name)
            ));
        }
        if value.contains('\0') {
            return Err(format!("the value of {name:?} in env_vars has a NUL; leave it out"));
        }
    }
    if toml_table(env_vars).len() > MAX_ENV_VARS {
        return Err(format!(
            "env_vars is over {} KiB in all; put large values into a file of the workspace",
            MAX_ENV_VARS / 1024
        ));
    }
    Ok(())
}

/// Settings by dotted name, as a thread takes them: down to single values, so that nothing beside
/// them is replaced. A table with a key that has a dot or the like goes as it is.
fn dotted(table: &Table, prefix: &str, out: &mut BTreeMap<String, Value>) {
    let bare = |key: &str| {
        !key.is_empty() && key.bytes().all(|c| c.is_ascii_alphanumeric() || b"_-".contains(&c))
    };
    for (key, value) in table {
        let name = format!("{prefix}{key}");
        match value {
            toml::Value::Table(inner) if !inner.is_empty() && inner.keys().all(|key| bare(key)) => {
                dotted(inner, &format!("{name}."), out);
            }
            value => {
                out.insert(name, json(value));
            }
        }
    }
}

fn json(value: &toml::Value) -> Value {
    match value {
        toml::Value::String(text) => text.as_str().into(),
        toml::Value::Integer(number) => (*number).into(),
        toml::Value::Float(number) => (*number).into(),
        toml::Value::Boolean(flag) => (*flag).into(),
        toml::Value::Datetime(time) => time.to_string().into(),
        toml::Value::Array(items) => items.iter().map(json).collect(),
        toml::Value::Table(table) => {
            Value::Object(table.iter().map(|(key, value)| (key.clone(), json(value))).collect())
        }
    }
}

/// An inline table of strings in TOML.
fn toml_table(table: &BTreeMap<String, String>) -> String {
    let mut out = String::from("{");
    for (index, (name, value)) in table.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        push_toml_string(&mut out, name);
        out.push('=');
        push_toml_string(&mut out, value);
    }
    out.push('}');
    out
}

fn push_toml_string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c.is_control() => out.push_str(&format!("\\u{:04X}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests;
