//! Settings: flag, environment, file, default, in this order.
//!
//! `config/default.toml` is embedded, is the reference for every key, and is what an absent key
//! takes its value from, so the numbers stand in one place. Every mistake is refused with the file,
//! the line and the key: nobody reads the warnings of a server that a client starts.

pub mod codex;
pub mod container;
mod load;
pub mod model;
pub mod network;
pub mod paths;
pub mod pool;
mod range;
pub mod repo;
pub mod run;
pub mod runs;
pub mod server;
pub mod watch;
pub mod workspace;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

pub use self::codex::{CodexConfig, CodexStart};
pub use self::container::ContainerConfig;
pub use self::load::{Loaded, Overrides, file, load};
pub use self::model::{Auth, ModelConfig};
pub use self::network::NetworkConfig;
pub use self::paths::Paths;
pub use self::pool::{PoolConfig, Recycle};
pub use self::repo::RepoConfig;
pub use self::run::RunConfig;
pub use self::runs::RunsConfig;
pub use self::server::{LogFormat, ServerConfig};
pub use self::workspace::{Ignored, WorkspaceConfig};

/// The reference of every key, with its default.
pub const DEFAULT_TOML: &str = include_str!("../config/default.toml");

/// Gives a variable of the environment that the program was started in.
pub type Lookup = std::sync::Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// All settings, checked.
#[derive(Clone, Debug, PartialEq, Deserialize)]
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
    /// `[network]`
    pub network: NetworkConfig,
    /// `[runs]`
    pub runs: RunsConfig,
    /// `[server]`
    pub server: ServerConfig,
    /// `[repo."/path"]`, by path.
    #[serde(default)]
    pub repo: BTreeMap<PathBuf, RepoConfig>,
}

/// Why there are no settings. Each is one sentence.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file that was named cannot be read.
    #[error("{} cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is no TOML.
    #[error("{}:{line}: no valid TOML: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What the parser says.
        message: String,
    },
    /// A key that does not exist.
    #[error("{}:{line}: unknown key \"{key}\"; {advice}", path.display())]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// With its section.
        key: String,
        /// The nearest known key, or where to find them.
        advice: String,
    },
    /// A value of the wrong type or out of range.
    #[error("{place}: {key} {problem}")]
    Value {
        /// File and line, or the environment variable or flag.
        place: String,
        /// With its section.
        key: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Neither `HOME` nor the user database has a home directory.
    #[error("the home directory is unknown; set HOME")]
    NoHome,
    /// The defaults themselves are wrong.
    #[error("the built-in defaults are broken: {0}")]
    Defaults(String),
}

/// Reads a humantime duration such as `"5m"`.
fn duration<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<std::time::Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    humantime::parse_duration(&text).map_err(|_| {
        serde::de::Error::custom(format!("must be a duration such as \"5m\", but is {text:?}"))
    })
}

/// Reads a size such as `"2GiB"`.
fn size<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse::<bytesize::ByteSize>().map(|size| size.as_u64()).map_err(|_| {
        serde::de::Error::custom(format!("must be a size such as \"2GiB\", but is {text:?}"))
    })
}
