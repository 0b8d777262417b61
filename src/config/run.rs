//! `[run]`: the clocks and limits of one run.

use std::time::Duration;

use serde::Deserialize;

/// The section `[run]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// Time for Codex if the call names none, from the start of Codex. `CODEX_TIMEOUT` overrides it.
    #[serde(deserialize_with = "super::duration")]
    pub timeout: Duration,
    /// The shortest `timeout` a call may ask for.
    #[serde(deserialize_with = "super::duration")]
    pub min_timeout: Duration,
    /// The longest `timeout` a call may ask for.
    #[serde(deserialize_with = "super::duration")]
    pub max_timeout: Duration,
    /// How long ending every process of a run may take.
    #[serde(deserialize_with = "super::duration")]
    pub end_timeout: Duration,
    /// How long sending the workspace may take, and how long collecting the changes may.
    #[serde(deserialize_with = "super::duration")]
    pub transfer_timeout: Duration,
    /// Bytes of `output` in a result; more is cut at the front.
    #[serde(deserialize_with = "super::size")]
    pub output_limit: u64,
    /// Tokens that one run may use; 0 means no limit.
    pub max_tokens: u64,
}
