//! `[codex]`: how Codex runs.

use serde::Deserialize;

/// The section `[codex]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CodexConfig {
    /// Model if the call names none; empty for Codex's own default.
    pub model: String,
}
