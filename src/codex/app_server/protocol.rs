//! What is said to `codex app-server`, and what is read of its answers: JSON-RPC without the
//! version, one message a line. Only what is used; a test compares it with the schema that the
//! pinned Codex prints of itself.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Notifications that nobody here reads and that would come for every piece of an answer.
pub const UNWANTED: &[&str] = &[
    "item/agentMessage/delta",
    "item/commandExecution/outputDelta",
    "item/commandExecution/terminalInteraction",
    "item/fileChange/outputDelta",
    "item/fileChange/patchUpdated",
    "item/plan/delta",
    "item/reasoning/summaryPartAdded",
    "item/reasoning/summaryTextDelta",
    "item/reasoning/textDelta",
    "thread/settings/updated",
    "thread/status/changed",
    "turn/diff/updated",
];

/// A request.
#[derive(Debug, Serialize)]
pub struct Request<P> {
    /// Comes back in the answer.
    pub id: u64,
    /// What is asked for.
    pub method: &'static str,
    /// Its parameters.
    pub params: P,
}

/// Parameters of `initialize`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InitializeParams {
    /// Who asks.
    pub client_info: ClientInfo,
    /// What it wants.
    pub capabilities: Capabilities,
}

/// Who asks.
#[derive(Debug, Serialize)]
pub struct ClientInfo {
    /// Its name.
    pub name: &'static str,
    /// Its version.
    pub version: &'static str,
}

/// What the client wants.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Capabilities {
    /// What may change without notice is not used.
    pub experimental_api: bool,
    /// See [`UNWANTED`].
    pub opt_out_notification_methods: &'static [&'static str],
}

impl InitializeParams {
    /// Ours.
    pub fn ours() -> Self {
        Self {
            client_info: ClientInfo {
                name: env!("CARGO_PKG_NAME"),
                version: env!("CARGO_PKG_VERSION"),
            },
            capabilities: Capabilities {
                experimental_api: false,
                opt_out_notification_methods: UNWANTED,
            },
        }
    }
}

/// What is read of the answer to `initialize`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InitializeResult {
    /// `name/version (system) …`.
    pub user_agent: String,
}

/// Parameters of `thread/start`: what a thread cannot change later; with [`resumes`] set, those of
/// [`thread/resume`]. `Debug` has no values of the configuration, since `env_vars` are in it.
///
/// [`resumes`]: Self::resumes
/// [`thread/resume`]: Self::resume
#[derive(Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ThreadStartParams {
    /// Where commands run.
    pub cwd: String,
    /// Whether nothing of it is written to disk.
    pub ephemeral: bool,
    /// Settings on top of Codex's configuration, by dotted name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub config: BTreeMap<String, Value>,
    /// The thread to go on with; `None`: a new one.
    #[serde(skip)]
    pub resumes: Option<String>,
    /// The model with which it goes on; a new one is told with each turn.
    #[serde(skip)]
    pub model: Option<String>,
}

impl ThreadStartParams {
    /// The parameters of `thread/resume`, if a thread is gone on with.
    pub fn resume(&self) -> Option<ThreadResumeParams<'_>> {
        self.resumes.as_deref().map(|thread_id| ThreadResumeParams {
            thread_id,
            cwd: &self.cwd,
            config: &self.config,
            model: self.model.as_deref(),
            exclude_turns: true,
        })
    }
}

/// Parameters of `thread/resume`. Its answer is that of `thread/start`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ThreadResumeParams<'a> {
    /// The thread.
    pub thread_id: &'a str,
    /// Where commands run from now on.
    pub cwd: &'a str,
    /// As for a new one.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub config: &'a BTreeMap<String, Value>,
    /// The model from now on; the thread's own if it is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<&'a str>,
    /// Whether the answer leaves out what was said.
    pub exclude_turns: bool,
}

impl std::fmt::Debug for ThreadResumeParams<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ThreadResumeParams")
            .field("thread_id", &self.thread_id)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for ThreadStartParams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ThreadStartParams")
            .field("cwd", &self.cwd)
            .field("ephemeral", &self.ephemeral)
            .finish_non_exhaustive()
    }
}

/// What is read of the answer to `thread/start`.
#[derive(Debug, Deserialize)]
pub struct ThreadStartResult {
    /// The thread.
    pub thread: Named,
}

/// What is read of a thread or of a turn.
#[derive(Debug, Deserialize)]
pub struct Named {
    /// Its id.
    pub id: String,
}

/// What a turn is asked to do; its thread is filled in when it is asked for.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TurnStartParams {
    /// The thread.
    pub thread_id: String,
    /// The task.
    pub input: Vec<UserInput>,
    /// Codex's own default if it is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// How hard it thinks; its own default if it is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub effort: Option<String>,
    /// What Codex asks leave for; the thread's own if it is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approval_policy: Option<&'static str>,
    /// The form of the last message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_schema: Option<Value>,
}

/// One piece of what the user says. `Debug` has none of it.
#[derive(Clone, Serialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub enum UserInput {
    /// Text.
    Text {
        /// The text.
        text: String,
    },
}

impl std::fmt::Debug for UserInput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Text")
    }
}

/// What is read of the answer to `turn/start`.
#[derive(Debug, Deserialize)]
pub struct TurnStartResult {
    /// The turn.
    pub turn: Named,
}
