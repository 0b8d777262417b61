//! What `codex_pool_status` answers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::copies::{Disk, WorkspaceCopies};

/// The pool at one moment, and its counters since the server started.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct PoolStatus {
    /// Containers that are clean and wait.
    pub idle: u64,
    /// Those of the idle ones in which Codex also waits.
    pub warm: u64,
    /// Containers that serve a run.
    pub leased: u64,
    /// Containers that are being started.
    pub starting: u64,
    /// Containers that are being reset or removed.
    pub resetting: u64,
    /// Containers that are being prepared for a workspace, ahead of the next call.
    #[serde(default)]
    pub preparing: u64,
    /// Idle containers that the pool tries to keep.
    pub target: u64,
    /// Containers at most.
    pub max_size: u64,
    /// Calls that wait for a container.
    pub queue: u64,
    /// Calls that found an idle container.
    pub hits: u64,
    /// Calls that did not, by reason.
    pub misses: BTreeMap<String, u64>,
    /// Containers that were destroyed, by reason.
    pub destroyed: BTreeMap<String, u64>,
    /// Milliseconds of recent runs, by phase.
    pub latency_ms: BTreeMap<String, Percentiles>,
    /// The engine and its version; left out while none has answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub engine: Option<String>,
    /// Why the file of settings, which has changed, was refused; the old settings are in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub settings_error: Option<String>,
    /// What the settings do not confine, such as another network than "none".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
    /// The last thing that went wrong in the background.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// What was asked for and the engine does not enforce; left out if it enforces everything.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unenforced: Vec<String>,
    /// Why containers are destroyed after each run instead of being reset: what a proof of the
    /// reset would need; left out if a reset can be proved.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub no_reset: Vec<String>,
    /// What containers hold of workspaces, the one used last first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub copies: Vec<WorkspaceCopies>,
    /// The disk that it takes.
    #[serde(default)]
    pub disk: Disk,
}

/// Percentiles in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Percentiles {
    /// Half of all are at most this.
    pub p50: f64,
    /// 95 of 100 are at most this.
    pub p95: f64,
    /// 99 of 100 are at most this.
    pub p99: f64,
}

/// Paths of build state that the line for people shows of each workspace.
const SHOWN: usize = 5;

fn size(bytes: u64) -> impl std::fmt::Display {
    bytesize::ByteSize::b(bytes).display().iec()
}

impl PoolStatus {
    /// One line for people.
    pub fn text(&self) -> String {
        let mut text = format!(
            "{} idle ({} kept ready), {} running, {} starting, {} being reset, at most {}; {} waiting",
            self.idle,
            self.target,
            self.leased,
            self.starting,
            self.resetting,
            self.max_size,
            self.queue
        );
        if self.preparing > 0 {
            text.push_str(&format!("; {} being prepared", self.preparing));
        }
        if let Some(engine) = &self.engine {
            text.push_str("; engine ");
            text.push_str(engine);
        }
        if self.disk.used > 0 {
            let Disk { used, budget, .. } = self.disk;
            text.push_str(&format!("\nOn disk: {} of {}", size(used), size(budget)));
        }
        for copies in &self.copies {
            text.push_str(&format!(
                "\n  {}: {} files, {} in {}",
                copies.path,
                copies.files,
                size(copies.bytes),
                match copies.containers {
                    1 => "1 container".to_owned(),
                    more => format!("{more} containers"),
                },
            ));
            if !copies.kept.is_empty() {
                let kept = copies.kept.iter().take(SHOWN);
                let kept: Vec<_> =
                    kept.map(|one| format!("{} ({})", one.path, size(one.bytes))).collect();
                text.push_str(&format!("; kept of what was built: {}", kept.join(", ")));
                let more = copies.kept.len().saturating_sub(SHOWN);
                if more > 0 {
                    text.push_str(&format!(" and {more} more"));
                }
            }
        }
        if let Some(error) = &self.settings_error {
            text.push_str("\nThe settings were changed and refused: ");
            text.push_str(error);
        }
        if let Some(warning) = &self.warning {
            text.push_str("\nWarning: ");
            text.push_str(warning);
        }
        if let Some(error) = &self.last_error {
            text.push_str("\nLast error: ");
            text.push_str(error);
        }
        for sentence in &self.unenforced {
            text.push_str("\nNot enforced: ");
            text.push_str(sentence);
        }
        for sentence in &self.no_reset {
            text.push_str("\nDestroyed after each run, not reset: ");
            text.push_str(sentence);
        }
        text
    }
}
