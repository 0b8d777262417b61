//! `[repo."/path/of/a/workspace"]`: what differs for one workspace.
//!
//! Read from the user's file only, never from the workspace: what runs in a container can write there.

use std::os::unix::fs::MetadataExt;

use serde::Deserialize;

use super::Config;
use crate::workspace::WorkspaceKey;

/// A section `[repo."/path"]`; an absent key takes its value from the section for all.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RepoConfig {
    /// Overrides `workspace.keep_ignored`.
    #[serde(default)]
    pub keep_ignored: Option<bool>,
}

/// The keys of a section, with a value of the type of each.
pub(super) const KEYS: [(&str, toml::Value); 1] = [("keep_ignored", toml::Value::Boolean(true))];

impl Config {
    /// The section for a workspace: the one whose path leads to it, whatever way. Blocks for a look
    /// at each path.
    pub fn repo_of(&self, key: WorkspaceKey) -> Option<&RepoConfig> {
        let leads_there = |path: &std::path::Path| {
            let found = std::fs::metadata(path);
            found.is_ok_and(|found| WorkspaceKey { dev: found.dev(), ino: found.ino() } == key)
        };
        self.repo.iter().find(|(path, _)| leads_there(path)).map(|(_, repo)| repo)
    }
}
