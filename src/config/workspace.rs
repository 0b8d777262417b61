//! `[workspace]`: which tree goes into a container, and which of its files.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use crate::workspace::apply::OnConflict;

/// The section `[workspace]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkspaceConfig {
    /// The default workspace; empty for none. `--workspace` and `CODEX_WORKSPACE` override it.
    pub path: PathBuf,
    /// Directories whose trees may be used besides; empty: the workspace and what lies in it.
    pub allowed: Vec<PathBuf>,
    /// Patterns in the syntax of `.gitignore` for what stays home besides.
    pub exclude: Vec<String>,
    /// What happens to files that git ignores.
    pub ignored: Ignored,
    /// Whether what a run builds in ignored directories stays in the container for the next run on
    /// the same workspace.
    pub keep_ignored: bool,
    /// Whether the paths of workspaces on the host lead to them in a container, too.
    pub host_paths: bool,
    /// Bytes that may be sent at most.
    #[serde(deserialize_with = "super::size")]
    pub max_bytes: u64,
    /// Files, directories and links that may be sent at most.
    pub max_files: u64,
    /// How long a run waits for another one that reads or writes the same workspace.
    #[serde(deserialize_with = "super::duration")]
    pub lock_timeout: Duration,
    /// Patterns for files that are held for a person, because editors or agents execute them.
    pub protect: Vec<String>,
    /// What becomes of a change set of which some paths cannot be applied.
    pub on_conflict: OnConflict,
}

/// What happens to files that git ignores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ignored {
    /// Single ignored files travel, ignored directories stay home.
    Files,
    /// All travel.
    All,
    /// None travel.
    None,
}
