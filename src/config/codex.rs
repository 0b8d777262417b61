//! `[codex]`: how Codex runs.

use std::time::Duration;

use serde::Deserialize;
use toml::Table;

/// The section `[codex]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CodexConfig {
    /// Model if the call names none; empty for Codex's own default.
    pub model: String,
    /// How Codex is run.
    pub start: CodexStart,
    /// Whether everything of the user's own `config.toml` is taken over that names nothing of the
    /// host; if not, only the model and its effort are.
    pub inherit_config: bool,
    /// Passed on to Codex as it is: `[codex.config]`.
    pub config: Table,
    /// How long a question of mode `ask` waits for its answer.
    #[serde(deserialize_with = "super::duration")]
    pub approval_timeout: Duration,
}

/// Keys that Codex is given in another way, and what that is.
const TAKEN: &[(&str, &str)] = &[
    ("approval_policy", "the container is the sandbox"),
    ("chatgpt_base_url", "use model.base_url"),
    ("model", "use codex.model"),
    ("model_provider", "use model.base_url"),
    ("model_providers", "use model.base_url"),
    ("openai_base_url", "use model.base_url"),
    ("profile", "write its keys here"),
    ("profiles", "write their keys here"),
    ("sandbox_mode", "the container is the sandbox"),
    ("shell_environment_policy", "use env_vars of a call"),
];

/// Bytes of `[codex.config]` at most: it goes with each run.
const MAX_CONFIG: usize = 100 * 1024;

/// What is wrong with `[codex.config]`, as the rest of a sentence.
pub(super) fn wrong_config(config: &Table) -> Option<String> {
    let taken = TAKEN.iter().find(|(key, _)| config.contains_key(*key));
    let taken = taken.map(|(key, instead)| format!("may not have {key}: {instead}"));
    let is_long = || config.to_string().len() > MAX_CONFIG;
    taken.or_else(|| is_long().then(|| format!("must be at most {} KiB", MAX_CONFIG / 1024)))
}

/// How Codex is run. The outcome is the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CodexStart {
    /// By `codex exec`.
    #[default]
    Exec,
    /// By `codex app-server`.
    AppServer,
}
