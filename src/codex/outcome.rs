//! How a run ended, and what that means.
//!
//! | what was seen | judged |
//! |---|---|
//! | no exit report of this run | `container_lost` |
//! | the keeper ended it because a place was full | `disk_full` |
//! | a part of Codex's installation is missing and no tool worked | `codex_unusable` |
//! | exit code 0 and `turn.completed` | success |
//! | the memory limit made the kernel kill | `out_of_memory` |
//! | anything else | `codex_failed`, with the provider's own words |
//!
//! The first row that fits counts.

use serde::{Deserialize, Serialize};

use super::events::cut;
use crate::failure::{ErrorKind, Failure, MAKE_ROOM};
use crate::keeper::wire::{ExitReport, WORKSPACE};
use crate::model::redact;

/// The longest error text in a sentence, in bytes.
const MAX_ERROR: usize = 500;

/// Tokens that a run used.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema,
)]
pub struct Usage {
    /// All input.
    pub input_tokens: u64,
    /// Of it, from the provider's cache.
    pub cached_input_tokens: u64,
    /// All output.
    pub output_tokens: u64,
    /// Of it, reasoning.
    pub reasoning_output_tokens: u64,
}

impl Usage {
    /// What was used since `before`.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self {
            input_tokens: self.input_tokens.saturating_sub(before.input_tokens),
            cached_input_tokens: self
                .cached_input_tokens
                .saturating_sub(before.cached_input_tokens),
            output_tokens: self.output_tokens.saturating_sub(before.output_tokens),
            reasoning_output_tokens: self
                .reasoning_output_tokens
                .saturating_sub(before.reasoning_output_tokens),
        }
    }
}

/// How far the turn came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Turn {
    /// Nothing was said about it.
    #[default]
    Unknown,
    /// It began.
    Started,
    /// It ended well, as far as the protocol goes.
    Completed,
    /// It failed.
    Failed,
}

/// What is known of a run.
#[derive(Clone, Debug, Default)]
pub struct CodexOutcome {
    /// Its own exit report; `None`: the run was cut short or the stream was lost.
    pub exit: Option<ExitReport>,
    /// Codex's thread.
    pub thread_id: Option<String>,
    /// How far the turn came.
    pub turn: Turn,
    /// What Codex said last.
    pub last_message: Option<String>,
    /// Tokens used, if the turn was completed.
    pub usage: Option<Usage>,
    /// The last error that was not followed by `turn.completed`, as Codex words it.
    pub error: Option<String>,
    /// The part of the installation that is missing, if one is.
    pub unusable: Option<String>,
    /// Whether any command, edit or other tool worked.
    pub tools_worked: bool,
    /// What Codex warned of, the first few.
    pub warnings: Vec<String>,
    /// Lines that were no events.
    pub unreadable_lines: u64,
    /// Events of types that are not known here.
    pub unknown_events: u64,
    /// The end of stderr.
    pub stderr_tail: String,
    /// Why a log of the run is not whole.
    pub log_error: Option<String>,
}

/// Texts that tell of a missing part of the installation, and what is missing.
const UNUSABLE: &[(&str, &str)] = &[
    ("Code Mode is unavailable", "the code-mode host beside bin/codex"),
    ("failed to spawn code-mode host", "the code-mode host beside bin/codex"),
    ("bwrap: No permissions to create a new namespace", "a way for Codex's sandbox to work"),
    ("bwrap: pivot_root", "a way for Codex's sandbox to work"),
    ("requires bubblewrap", "bubblewrap"),
    ("error while loading shared libraries", "a shared library"),
    ("Exec format error", "a Codex for this machine's architecture"),
];

/// The part of the installation that `text` says is missing.
pub(super) fn unusable(text: &str) -> Option<String> {
    let found = UNUSABLE.iter().find(|(mark, _)| text.contains(mark));
    found.map(|(_, what)| (*what).to_owned())
}

/// Whether the run was a success; pure.
///
/// # Errors
///
/// What went wrong and what to do about it, without secrets.
pub fn judge(outcome: &CodexOutcome) -> Result<(), Failure> {
    let fail = |kind, sentence: String| Err(Failure::new(kind, sentence));
    let Some(exit) = &outcome.exit else {
        return fail(
            ErrorKind::ContainerLost,
            "the run's end was never reported: its container or the stream to it was lost; call \
             again"
                .into(),
        );
    };
    if let Some(place) = &exit.disk_full {
        let on_disk = place == WORKSPACE || place == "/cache";
        let room = if on_disk { MAKE_ROOM } else { "raise container.memory" };
        let place = cut(place, MAX_ERROR);
        return fail(
            ErrorKind::DiskFull,
            format!(
                "no room was left in {place} of the run's container and it was ended; let it write \
                 less, or {room}"
            ),
        );
    }
    if let Some(missing) = &outcome.unusable
        && !outcome.tools_worked
    {
        return fail(
            ErrorKind::CodexUnusable,
            format!(
                "Codex ran but its tools could not work, since the image lacks {missing}; rebuild \
                 it with `mcp-codex-orchestrator image build`"
            ),
        );
    }
    if exit.code == Some(0) && outcome.turn == Turn::Completed {
        return Ok(());
    }
    if exit.out_of_memory {
        return fail(
            ErrorKind::OutOfMemory,
            "the run went over its container's memory and was killed; raise container.memory or \
             give it less to do at once"
                .into(),
        );
    }
    if let Some(error) = &outcome.error {
        return Err(told(error));
    }
    let stderr = last_line(&outcome.stderr_tail);
    let sentence = match (exit.code, exit.signal) {
        (_, Some(signal)) => format!("Codex was ended by signal {signal}{stderr}"),
        (Some(0), _) => format!("Codex ended without finishing its turn{stderr}"),
        (Some(2), _) => format!(
            "Codex refused its command line, so the image holds another version than this server \
             is made for; rebuild it with `mcp-codex-orchestrator image build`{stderr}"
        ),
        (Some(code), _) => format!("Codex failed with exit code {code}{stderr}"),
        (None, None) => format!("Codex ended for no reason that was told{stderr}"),
    };
    fail(ErrorKind::CodexFailed, sentence)
}

/// What each kind of error is to be told as, and whether it passes by itself: marks in the
/// lower-case text, any of which fits. Where two fit, the first counts.
const TOLD: &[(&[&str], bool, &str)] = &[
    (
        &["model.response_timeout", "model.idle_timeout"],
        true,
        "the model provider fell silent; call again later, or raise the limit that is named",
    ),
    (
        &["cannot be understood: "],
        false,
        "the model provider cannot be understood; check model.base_url and this machine's network",
    ),
    (
        &["the gateway refused", "goes to the model provider"],
        false,
        "the gateway refused what Codex asked of the model provider",
    ),
    (
        &["run codex login", "chatgpt login"],
        false,
        "the login for the model provider cannot be used",
    ),
    (
        &["idle timeout", "stream disconnected", "stream closed", " broke off: "],
        true,
        "the connection to the model provider broke off again and again; call again later",
    ),
    (
        &["cannot be reached", "502 bad gateway", "error sending request"],
        true,
        "the model provider cannot be reached; check model.base_url and this machine's network",
    ),
    (
        &["context window", "context_length", "context length"],
        false,
        "the task grew over the model's context; split it or choose a model with a larger one",
    ),
    (
        &["quota", "billing", "usage limit"],
        false,
        "the account's quota at the model provider is used up; check its plan and billing",
    ),
    (
        &["401 unauthorized", "invalid_api_key", "incorrect api key"],
        false,
        "the model provider refused the credential; check OPENAI_API_KEY or the login \
         (mcp-codex-orchestrator auth status says which is used)",
    ),
    (
        &["403 forbidden"],
        false,
        "the model provider forbids this; check what the account and its region may use",
    ),
    (
        &["model_not_found", "does not exist or you do not have access", "model is not supported"],
        false,
        "the model provider does not know the model or the account may not use it; choose another",
    ),
    (
        &["usage polic", "content polic", "content_filter", "content filter", "flagged as"],
        false,
        "the model provider refused the content; word the task otherwise",
    ),
    (&["404 not found"], false, "the model provider does not know the path; check model.base_url"),
    (
        &["429 too many", "rate limit", "rate_limit", "exceeded retry limit, last status: 429"],
        true,
        "the model provider limits the rate of requests; wait and call again",
    ),
    (
        &[
            "500 internal",
            "503 service",
            "504 gateway",
            "server_error",
            "high demand",
            "overloaded",
        ],
        true,
        "the model provider has a failure of its own; call again later",
    ),
];

fn told(error: &str) -> Failure {
    let error = redact(&cut(provider_message(error.trim()).trim(), MAX_ERROR));
    let lower = error.to_lowercase();
    let what = TOLD.iter().find(|(marks, ..)| marks.iter().any(|mark| lower.contains(mark)));
    match what {
        Some((_, passes, what)) => {
            let sentence = format!("{what} (Codex says: {error})");
            let failure = Failure::new(ErrorKind::CodexFailed, sentence);
            if *passes { failure.passing() } else { failure }
        }
        None => Failure::new(ErrorKind::CodexFailed, format!("Codex failed: {error}")),
    }
}

/// The message in an error body, which Codex repeats whole for some statuses; else `error` itself.
pub(super) fn provider_message(error: &str) -> String {
    let body: Option<serde_json::Value> = serde_json::from_str(error).ok();
    let message = body.as_ref().and_then(|body| body["error"]["message"].as_str());
    message.unwrap_or(error).to_owned()
}

fn last_line(stderr: &str) -> String {
    let last = stderr.lines().rev().map(str::trim).find(|line| !line.is_empty());
    last.map_or_else(String::new, |line| {
        format!("; it said last: {}", redact(&cut(line, MAX_ERROR)))
    })
}
