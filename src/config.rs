//! Settings: flag, environment, file, default, in this order.
//!
//! `config/default.toml` is embedded, is the reference for every key, and is what an absent key
//! takes its value from, so the numbers stand in one place.

pub mod codex;
pub mod container;
pub mod model;
pub mod pool;
pub mod run;
pub mod runs;
pub mod server;
pub mod workspace;

use serde::Deserialize;

pub use self::codex::CodexConfig;
pub use self::container::ContainerConfig;
pub use self::model::{Auth, ModelConfig};
pub use self::pool::{PoolConfig, Recycle};
pub use self::run::RunConfig;
pub use self::runs::RunsConfig;
pub use self::server::{LogFormat, ServerConfig};
pub use self::workspace::{Ignored, WorkspaceConfig};

/// All settings, checked.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// `[pool]`
    pub pool: PoolConfig,
    /// `[container]`
    pub container: ContainerConfig,
    /// `[workspace]`
    pub workspace: WorkspaceConfig,
    /// `[run]`
    pub run: RunConfig,
    /// `[codex]`
    pub codex: CodexConfig,
    /// `[model]`
    pub model: ModelConfig,
    /// `[runs]`
    pub runs: RunsConfig,
    /// `[server]`
    pub server: ServerConfig,
}

/// Reads a humantime duration such as `"5m"`.
fn duration<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<std::time::Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    humantime::parse_duration(&text).map_err(serde::de::Error::custom)
}

/// Reads a size such as `"2GiB"`.
fn size<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse::<bytesize::ByteSize>().map(|size| size.as_u64()).map_err(serde::de::Error::custom)
}
