//! What runs take over of the user's own Codex home.
//!
//! ```text
//!  config.toml ── model, model_reasoning_effort ─────────────────────────────────> always
//!              └─ the rest, if codex.inherit_config ── names the host ───────────> left out, named
//!                                                   ── names nothing of the host > taken over
//!  AGENTS.override.md, else AGENTS.md ── lines that name the home directory ─────> left out, counted
//!                                     ── else ───────────────────────────────────> taken over
//! ```
//!
//! Read anew for each run, so that a change counts from the next one on. A file that cannot be used
//! costs what it says and a warning, never a run. Nothing of `auth.json` is read here, and no key,
//! token or header goes anywhere.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::command::CONFIG;

/// Bytes of `config.toml` at most.
const MAX_CONFIG: u64 = 1 << 20;

/// Bytes of `AGENTS.md` at most; Codex warns of more than 32 KiB.
const MAX_AGENTS: u64 = 128 << 10;

/// The longest name of a model or an effort.
const MAX_NAME: usize = 200;

/// Entries whose names are told at most.
const MAX_TOLD: usize = 20;

/// What is known of the host, to know it again.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// The user's home directory.
    pub home: Option<PathBuf>,
    /// Paths that lead to workspaces, which are there in a container, too.
    pub workspaces: Vec<PathBuf>,
    /// Whether everything is wanted that names nothing of the host.
    pub everything: bool,
}

/// What a run takes over.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Inherited {
    /// `model`.
    pub model: Option<String>,
    /// `model_reasoning_effort`.
    pub effort: Option<String>,
    /// The text of `AGENTS.md`.
    pub agents: Option<String>,
    /// Everything else.
    pub settings: Table,
    /// What was left out, and why; never a value.
    pub left_out: Vec<String>,
}

impl Inherited {
    /// One sentence of what runs take over of `home`.
    pub fn line(&self, home: &Path) -> String {
        let mut parts = Vec::new();
        parts.extend(self.model.as_ref().map(|model| format!("model {model}")));
        parts.extend(self.effort.as_ref().map(|effort| format!("effort {effort}")));
        parts.extend(self.agents.as_ref().map(|text| format!("AGENTS.md ({} bytes)", text.len())));
        if !self.settings.is_empty() {
            let names: Vec<&str> = self.settings.keys().map(String::as_str).collect();
            parts.push(names.join(", "));
        }
        let taken = if parts.is_empty() { "nothing".to_owned() } else { parts.join(", ") };
        let left = match self.left_out.as_slice() {
            [] => String::new(),
            left => format!("; left out: {}", left.join(", ")),
        };
        format!("{taken} of {}{left}", home.display())
    }
}

/// Reads what is in `codex_home`. Blocking.
pub fn read(codex_home: &Path, host: &Host) -> Inherited {
    let mut inherited = Inherited::default();
    match text_of(&codex_home.join("config.toml"), MAX_CONFIG) {
        Ok(None) => {}
        Ok(Some(text)) => match text.parse::<Table>() {
            Ok(table) => inherited.take(table, host.everything),
            // The parser's message repeats the line, in which a secret may be.
            Err(_) => inherited.left_out.push("config.toml (it is no TOML)".to_owned()),
        },
        Err(why) => inherited.left_out.push(format!("config.toml ({why})")),
    }
    for name in ["AGENTS.override.md", "AGENTS.md"] {
        match text_of(&codex_home.join(name), MAX_AGENTS) {
            Ok(Some(text)) if !text.trim().is_empty() => {
                let (text, lines) = without_home(&text, host);
                if lines > 0 {
                    let named = "that name the home directory of this machine";
                    inherited.left_out.push(format!("{lines} lines of {name} {named}"));
                }
                inherited.agents = Some(text).filter(|text| !text.trim().is_empty());
                break;
            }
            Ok(_) => {}
            Err(why) => inherited.left_out.push(format!("{name} ({why})")),
        }
    }
    inherited
}

/// The text of a file; `None` if there is none.
fn text_of(path: &Path, most: u64) -> Result<Option<String>, String> {
    // A pipe of that name must not make a run wait.
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = match File::options().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(format!("it cannot be read: {error}")),
    };
    let is_file = file.metadata().is_ok_and(|found| found.is_file());
    if !is_file {
        return Err("it is no file".to_owned());
    }
    let mut bytes = Vec::new();
    let read = file.take(most + 1).read_to_end(&mut bytes);
    read.map_err(|error| format!("it cannot be read: {error}"))?;
    if bytes.len() as u64 > most {
        return Err(format!("it is over {} KiB", most >> 10));
    }
    String::from_utf8(bytes).map(Some).map_err(|_| "it is not UTF-8".to_owned())
}

impl Inherited {
    fn take(&mut self, mut table: Table, everything: bool) {
        let provider = table.get("model_provider");
        let is_other = provider.is_some_and(|provider| provider.as_str() != Some("openai"));
        if let Some(model) = table.remove("model") {
            match name(&model) {
                Some(_) if is_other => {
                    self.left_out.push("model (it is one of another model_provider)".to_owned());
                }
                Some(model) => self.model = Some(model),
                None => self.left_out.push("model (it is no name)".to_owned()),
            }
        }
        if let Some(effort) = table.remove("model_reasoning_effort") {
            self.effort = name(&effort);
            if self.effort.is_none() {
                self.left_out.push("model_reasoning_effort (it is no name)".to_owned());
            }
        }
        if everything {
            let lean = CONFIG.parse::<Table>().unwrap_or_default();
            let mut left = Vec::new();
            sift(&mut table, Some(&lean), "", &mut left);
            let more = left.len().saturating_sub(MAX_TOLD);
            left.truncate(MAX_TOLD);
            left.extend((more > 0).then(|| format!("{more} more")));
            self.left_out.extend(left);
            self.settings = table;
        }
    }
}

/// A name as it may go to a model provider.
fn name(value: &Value) -> Option<String> {
    let name = value.as_str()?;
    let fits = !name.is_empty()
        && name.len() <= MAX_NAME
        && !name.contains(|c: char| c.is_whitespace() || c.is_control());
    (fits && !names_host(name)).then(|| name.to_owned())
}

/// Sections and keys of the first level that are about this machine, about the way to a model, or
/// about what the container decides.
const OF_THE_HOST: &[&str] = &[
    "agents",
    "allow_login_shell",
    "approval_policy",
    "approvals_reviewer",
    "apps",
    "audio",
    "chatgpt_base_url",
    "cli_auth_credentials_store",
    "default_permissions",
    "file_opener",
    "forced_chatgpt_workspace_id",
    "forced_login_method",
    "history",
    "hooks",
    "marketplaces",
    "mcp_oauth_callback_port",
    "mcp_oauth_callback_url",
    "mcp_oauth_credentials_store",
    "mcp_servers",
    "memories",
    "model_catalog_json",
    "model_provider",
    "model_providers",
    "notice",
    "notify",
    "openai_base_url",
    "oss_provider",
    "otel",
    "permissions",
    "plugins",
    "profile",
    "profiles",
    "projects",
    "sandbox_mode",
    "sandbox_workspace_write",
    "shell_environment_policy",
    "skills",
    "sqlite_home",
    "tui",
    "windows",
    "zsh_path",
];

/// Endings of keys whose values are programs, places or secrets.
const ENDINGS: &[&str] = &[
    "_file", "_path", "_dir", "_home", "_root", "_roots", "_url", "_key", "_token", "_secret",
    "command", "headers", "password", "secret", "token", "env", "args", "cwd",
];

/// Takes out what is not to be inherited, and names it.
fn sift(table: &mut Table, lean: Option<&Table>, prefix: &str, left: &mut Vec<String>) {
    let keys: Vec<String> = table.keys().cloned().collect();
    for key in keys {
        let shown: String = key.chars().take(60).filter(|c| !c.is_control()).collect();
        let named = format!("{prefix}{shown}");
        let ours = lean.and_then(|lean| lean.get(&key));
        let lower = key.to_ascii_lowercase();
        let reason = match (table.get_mut(&key), ours) {
            _ if prefix.is_empty() && OF_THE_HOST.contains(&&*key) => Some("of this machine"),
            (Some(Value::Table(inner)), ours) => {
                sift(inner, ours.and_then(Value::as_table), &format!("{named}."), left);
                if inner.is_empty() {
                    table.remove(&key);
                }
                continue;
            }
            (Some(_), Some(_)) => Some("set for containers"),
            _ if ENDINGS.iter().any(|ending| lower.ends_with(ending)) => Some("of this machine"),
            (Some(value), None) => names_host_within(value).then_some("names this machine"),
            (None, None) => None,
            (None, Some(_)) => None,
        };
        if let Some(reason) = reason {
            table.remove(&key);
            left.push(format!("{named} ({reason})"));
        }
    }
}

fn names_host_within(value: &Value) -> bool {
    match value {
        Value::String(text) => names_host(text),
        Value::Array(items) => items.iter().any(names_host_within),
        Value::Table(table) => {
            table.iter().any(|(key, value)| names_host(key) || names_host_within(value))
        }
        _ => false,
    }
}

/// Whether a text is a path of this machine or an address.
fn names_host(text: &str) -> bool {
    let drive = text.as_bytes().get(1..3).is_some_and(|rest| rest == b":\\" || rest == b":/");
    text.starts_with(['/', '~', '\\'])
        || drive
        || text.contains("://")
        || text.contains("localhost")
}

/// The text without lines that name the home directory in another way than that to a workspace; and
/// how many these were.
fn without_home(text: &str, host: &Host) -> (String, usize) {
    let home = host.home.as_ref().and_then(|home| home.to_str());
    let Some(home) = home.filter(|home| home.len() > 1) else { return (text.to_owned(), 0) };
    let is_of_host = |line: &str| {
        line.match_indices(home).any(|(at, _)| {
            let path = &line[at..];
            let ends = path[home.len()..].chars().next();
            let is_path = !ends.is_some_and(|c| c.is_alphanumeric() || "-_.".contains(c));
            let of_workspace = |path_of: &PathBuf| {
                path_of.to_str().is_some_and(|workspace| path.starts_with(workspace))
            };
            is_path && !host.workspaces.iter().any(of_workspace)
        })
    };
    let mut lines = 0;
    let kept: String = text
        .split_inclusive('\n')
        .filter(|line| {
            let drop = is_of_host(line);
            lines += usize::from(drop);
            !drop
        })
        .collect();
    (kept, lines)
}

#[cfg(test)]
mod tests;
