//! `[codex]`: how Codex runs.

use std::time::Duration;

use serde::Deserialize;

/// The section `[codex]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CodexConfig {
    /// Model if the call names none; empty for Codex's own default.
    pub model: String,
    /// How Codex is run.
    pub start: CodexStart,
    /// How long a question of mode `ask` waits for its answer.
    #[serde(deserialize_with = "super::duration")]
    pub approval_timeout: Duration,
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
