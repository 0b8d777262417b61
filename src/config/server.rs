//! `[server]`: logging and shutdown.

use std::time::Duration;

use serde::Deserialize;

/// The section `[server]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerConfig {
    /// Log filter in the syntax of `RUST_LOG`, which overrides it.
    pub log: String,
    /// How a log line looks.
    pub log_format: LogFormat,
    /// Whether the log event of a run has the first 100 characters of the prompt.
    pub log_prompts: bool,
    /// How long the server may take to end after stdin closed or SIGTERM came.
    #[serde(deserialize_with = "super::duration")]
    pub shutdown_grace: Duration,
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}
