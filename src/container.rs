//! A container of ours: what it is started from, what must be in force in it, and how it is armed.
//!
//! *Armed* means: started, the keeper answers, what is in force was compared with what was asked
//! for, and the fingerprint that every reset must restore was taken. Its states are the pool's, see
//! [`crate::pool`]; what the engine says of one that is armed is noted in `health`.

mod armed;
mod health;
mod host_paths;
mod image;
mod posture;
mod profile;
mod spec;

pub use self::armed::{ArmedContainer, Starter};
pub use self::host_paths::HostPaths;
pub use self::image::{ImageError, ImageVersions, check_image};
#[cfg(test)]
pub(crate) use self::posture::tests::good as good_posture;
pub use self::posture::{PostureError, check_posture};
pub use self::profile::Profile;
pub use self::spec::{HOME, MIN_MEMORY, spec};

/// Where the keeper is in the image.
pub const KEEPER: &str = "/usr/local/bin/codex-keeper";

/// Names of the labels that every container of ours carries.
pub mod label {
    /// Identity of the orchestrator that started it.
    pub const OWNER: &str = "mcp-codex-orchestrator.owner";
    /// When it was started, RFC 3339.
    pub const STARTED: &str = "mcp-codex-orchestrator.started";
    /// Version of the protocol its keeper speaks.
    pub const PROTOCOL: &str = "mcp-codex-orchestrator.protocol";
    /// Name of the profile it was started from.
    pub const PROFILE: &str = "mcp-codex-orchestrator.profile";
    /// On the image: version of Codex in it.
    pub const CODEX: &str = "mcp-codex-orchestrator.codex";
}
