//! `[container]`: what a container is started from and its limits.

use std::time::Duration;

use serde::Deserialize;

/// The section `[container]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContainerConfig {
    /// Image name; `CODEX_IMAGE` overrides it.
    pub image: String,
    /// Memory limit in bytes. The tmpfs places take at most a quarter of it.
    #[serde(deserialize_with = "super::size")]
    pub memory: u64,
    /// CPUs; 0 means all of the host's.
    pub cpus: f64,
    /// Processes and threads at most.
    pub pids: u32,
    /// Whether the root file system is read-only.
    pub read_only: bool,
    /// The engine's runtime, such as `runsc`; empty for the engine's default.
    pub runtime: String,
    /// How long a container may take from create to armed.
    #[serde(deserialize_with = "super::duration")]
    pub start_timeout: Duration,
    /// How often each side of the stream tells the other that it lives.
    #[serde(deserialize_with = "super::duration")]
    pub heartbeat: Duration,
}
