//! Where things are that are no setting: home, state, records, the checkout of this project.

use std::path::{Path, PathBuf};

use super::{Config, ConfigError};

/// The name of our directory in the places that XDG names.
const DIRECTORY: &str = "mcp-codex-orchestrator";

/// The places that the program uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// The home directory.
    pub home: PathBuf,
    /// Locks and the files of living orchestrators.
    pub state: PathBuf,
    /// The records of runs, see [`super::RunsConfig::dir`].
    pub runs: PathBuf,
    /// `CODEX_HOME`, else `~/.codex`. Only read, and only on the host.
    pub codex_home: PathBuf,
    /// The checkout of this project that the current directory lies in.
    pub checkout: Option<PathBuf>,
}

impl Paths {
    /// Finds them; `lookup` gives environment variables, `current` is the current directory.
    ///
    /// # Errors
    ///
    /// No home directory is known.
    pub fn find(
        config: &Config,
        lookup: impl Fn(&str) -> Option<String>,
        current: &Path,
    ) -> Result<Self, ConfigError> {
        let home = home(&lookup).ok_or(ConfigError::NoHome)?;
        let state = xdg(&lookup, "XDG_STATE_HOME").unwrap_or_else(|| home.join(".local/state"));
        let state = state.join(DIRECTORY);
        let codex_home = lookup("CODEX_HOME")
            .filter(|value| !value.is_empty())
            .map_or_else(|| home.join(".codex"), |value| current.join(value));
        let checkout = checkout(current);
        let runs = if config.runs.dir.as_os_str().is_empty() {
            checkout
                .as_ref()
                .map(|checkout| checkout.join("runs"))
                .filter(|runs| runs.is_dir())
                .unwrap_or_else(|| state.join("runs"))
        } else {
            current.join(&config.runs.dir)
        };
        Ok(Self { home, state, runs, codex_home, checkout })
    }
}

/// The checkout of this project that `start` is or lies in.
pub fn checkout(start: &Path) -> Option<PathBuf> {
    start.ancestors().find(|directory| is_checkout(directory)).map(Path::to_owned)
}

fn is_checkout(directory: &Path) -> bool {
    let Ok(manifest) = std::fs::read_to_string(directory.join("Cargo.toml")) else { return false };
    let Ok(manifest) = manifest.parse::<toml::Table>() else { return false };
    manifest.get("package").and_then(|package| package.get("name")).and_then(|name| name.as_str())
        == Some(env!("CARGO_PKG_NAME"))
}

pub(super) fn home(lookup: &impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    lookup("HOME")
        .map(PathBuf::from)
        .filter(|home| home.is_absolute())
        .or_else(|| etcetera::home_dir().ok())
}

pub(super) fn config_file(lookup: &impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let base = xdg(lookup, "XDG_CONFIG_HOME").or_else(|| Some(home(lookup)?.join(".config")))?;
    Some(base.join(DIRECTORY).join("config.toml"))
}

/// XDG says that relative paths are to be ignored.
fn xdg(lookup: &impl Fn(&str) -> Option<String>, name: &str) -> Option<PathBuf> {
    lookup(name).map(PathBuf::from).filter(|path| path.is_absolute())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Overrides, load};

    fn config() -> Config {
        load(&Overrides::default(), |_| None).unwrap().config
    }

    #[test]
    fn records_are_in_the_checkout_if_there_is_one() {
        let root = tempfile::tempdir().unwrap();
        let inside = root.path().join("src/deep");
        std::fs::create_dir_all(&inside).unwrap();
        let environment = |name: &str| (name == "HOME").then(|| "/home/u".to_owned());
        let runs = |config: &Config| Paths::find(config, environment, &inside).unwrap().runs;

        let state = Path::new("/home/u/.local/state/mcp-codex-orchestrator");
        assert_eq!(runs(&config()), state.join("runs"));
        std::fs::write(
            root.path().join("Cargo.toml"),
            "[package]\nname = \"mcp-codex-orchestrator\"\n",
        )
        .unwrap();
        assert_eq!(runs(&config()), state.join("runs"));
        std::fs::create_dir(root.path().join("runs")).unwrap();
        assert_eq!(runs(&config()), root.path().join("runs"));
        let mut named = config();
        named.runs.dir = "/elsewhere".into();
        assert_eq!(runs(&named), Path::new("/elsewhere"));
    }

    #[test]
    fn another_project_is_no_checkout() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("Cargo.toml"), "[package]\nname = \"x\"\n").unwrap();
        assert_eq!(checkout(root.path()), None);
    }

    #[test]
    fn the_environment_names_the_places() {
        let paths = Paths::find(
            &config(),
            |name| match name {
                "HOME" => Some("/home/u".to_owned()),
                "XDG_STATE_HOME" => Some("/s".to_owned()),
                "CODEX_HOME" => Some("/c".to_owned()),
                _ => None,
            },
            Path::new("/"),
        )
        .unwrap();
        assert_eq!(paths.state, Path::new("/s/mcp-codex-orchestrator"));
        assert_eq!(paths.codex_home, Path::new("/c"));
    }
}
