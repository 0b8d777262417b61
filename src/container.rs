//! A container of ours: identity, stream to its keeper, state with its edges.

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
