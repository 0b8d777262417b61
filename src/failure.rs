//! What a person is told when something fails: a stable kind, and one sentence that says what
//! happened and what to do.
//!
//! Modules have errors of their own; each of them converts to a [`Failure`] at the border.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The stable kinds of failure, as they stand in `error_kind` of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// An argument of the call is wrong; calling again with the same arguments fails again.
    InvalidArgument,
    /// No engine answers.
    EngineUnavailable,
    /// The engine has no image of that name.
    ImageMissing,
    /// The image speaks another protocol version or holds another Codex.
    ImageOutdated,
    /// No credential for the model provider was found.
    AuthMissing,
    /// `pool.max_queue` calls wait already.
    QueueFull,
    /// `pool.acquire_timeout` ran out before a container was free.
    AcquireTimeout,
    /// The workspace does not exist or is no directory.
    WorkspaceMissing,
    /// The workspace may not be used: not allowed, or one of the places always refused.
    WorkspaceRefused,
    /// The workspace is over `workspace.max_bytes` or `workspace.max_files`.
    WorkspaceTooLarge,
    /// The workspace could not be sent, or the change set did not arrive whole.
    TransferFailed,
    /// Codex ran and failed, or said that it failed.
    CodexFailed,
    /// Codex ran but a part of its installation is missing, so that its tools cannot work.
    CodexUnusable,
    /// The call's `timeout` ran out.
    TimedOut,
    /// The caller cancelled.
    Cancelled,
    /// The container or the stream to its keeper was lost during the run.
    ContainerLost,
    /// The container's memory limit was hit and a process of the run was killed.
    OutOfMemory,
    /// No room was left on the engine's disk, or the run filled the container's writable places.
    DiskFull,
    /// The change set is whole but could not be written to the workspace; it is held.
    ApplyFailed,
    /// A defect of ours.
    Internal,
}

/// What to do when the engine's disk is full.
pub(crate) const MAKE_ROOM: &str = "make room on the engine's disk (docker system df shows it)";

/// Whether the reason that an engine or a keeper gives is a full disk.
pub(crate) fn is_full_disk(reason: &str) -> bool {
    reason.to_lowercase().contains("no space left on device")
}

impl ErrorKind {
    /// Whether the same call, as a rule, may succeed later without a change by the user.
    pub fn retryable(self) -> bool {
        matches!(
            self,
            Self::EngineUnavailable
                | Self::QueueFull
                | Self::AcquireTimeout
                | Self::TransferFailed
                | Self::ContainerLost
        )
    }
}

/// A failure as the caller sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The stable kind.
    pub kind: ErrorKind,
    /// One sentence: what happened, then what to do. Holds no secret.
    pub sentence: String,
    /// Whether it passes by itself, though its kind as a rule does not.
    passing: bool,
}

impl Failure {
    /// A failure of `kind`, told by `sentence`.
    pub fn new(kind: ErrorKind, sentence: impl Into<String>) -> Self {
        Self { kind, sentence: sentence.into(), passing: false }
    }

    /// The same, of a cause that passes by itself.
    #[must_use]
    pub fn passing(self) -> Self {
        Self { passing: true, ..self }
    }

    /// Whether the same call may succeed later without a change by the user.
    pub fn retryable(&self) -> bool {
        self.passing || self.kind.retryable()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)
    }
}

impl std::error::Error for Failure {}
