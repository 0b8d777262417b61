//! `[runs]`: the records of runs.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

/// The section `[runs]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunsConfig {
    /// The runs directory; empty: `./runs` in a checkout of this project, else the XDG state
    /// directory.
    pub dir: PathBuf,
    /// Records kept at most; older ones go first. One with held changes stays for `keep_for`.
    pub keep: usize,
    /// Age after which a record goes.
    #[serde(deserialize_with = "super::duration")]
    pub keep_for: Duration,
    /// Bytes of all records together; older ones go first.
    #[serde(deserialize_with = "super::size")]
    pub max_bytes: u64,
    /// Bytes of each log file of one run; the cut is marked.
    #[serde(deserialize_with = "super::size")]
    pub log_limit: u64,
}
