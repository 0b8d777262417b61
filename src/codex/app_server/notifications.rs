//! Notifications of `codex app-server` as events.

use serde_json::Value;

use crate::codex::events::{
    CodexEvent, Item, MAX_MESSAGE, MAX_PATHS, MAX_TEXT, Phase, cut, error, long_text, skimmed,
    text, without_shell,
};
use crate::codex::outcome::Usage;

/// Which thread and turn are ours. What is told of any other is none of a run's events.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ours<'a> {
    pub(super) thread: &'a str,
    /// Empty until there is one.
    pub(super) turn: &'a str,
    /// What was told last.
    pub(super) usage: Option<Usage>,
}

impl Ours<'_> {
    fn is_thread(&self, params: &Value) -> bool {
        !self.thread.is_empty() && params["threadId"] == self.thread
    }

    fn is_turn(&self, turn: &Value) -> bool {
        !self.turn.is_empty() && turn["id"] == self.turn
    }
}

/// Tokens of the thread, if this tells them.
pub(super) fn usage(method: &str, params: &Value, ours: &Ours<'_>) -> Option<Usage> {
    if method != "thread/tokenUsage/updated" || !ours.is_thread(params) {
        return None;
    }
    let total = params["tokenUsage"]["total"].as_object()?;
    let tokens = |name: &str| total.get(name).and_then(Value::as_u64).unwrap_or_default();
    Some(Usage {
        input_tokens: tokens("inputTokens"),
        cached_input_tokens: tokens("cachedInputTokens"),
        output_tokens: tokens("outputTokens"),
        reasoning_output_tokens: tokens("reasoningOutputTokens"),
    })
}

/// The event; `None` for what tells nothing of a run.
pub(super) fn event(method: &str, params: &Value, ours: &Ours<'_>) -> Option<CodexEvent> {
    let mine = ours.is_thread(params);
    Some(match method {
        "turn/started" if mine => CodexEvent::TurnStarted,
        "item/started" if mine => item(Phase::Started, &params["item"])?,
        "item/completed" if mine => item(Phase::Completed, &params["item"])?,
        "error" if mine => {
            let message = worded(&params["error"]);
            match params["willRetry"].as_bool() {
                Some(true) => passing(message),
                _ => CodexEvent::Error { message },
            }
        }
        "turn/completed" if mine && ours.is_turn(&params["turn"]) => completed(params, ours),
        "warning" | "guardianWarning" => warning(text(&params["message"])),
        "configWarning" | "deprecationNotice" => {
            let details = params["details"].as_str().map(|details| format!(": {details}"));
            warning(text(&params["summary"]) + &cut(&details.unwrap_or_default(), MAX_TEXT))
        }
        known if KNOWN.contains(&known) => return None,
        other => CodexEvent::Unknown { kind: cut(other, 100) },
    })
}

/// What else comes, and means nothing here; or not for another thread.
const KNOWN: &[&str] = &[
    "account/rateLimits/updated",
    "account/updated",
    "error",
    "item/completed",
    "item/started",
    "mcpServer/startupStatus/updated",
    "model/rerouted",
    "model/safetyBuffering/updated",
    "model/verification",
    "remoteControl/status/changed",
    "serverRequest/resolved",
    "skills/changed",
    "thread/compacted",
    "thread/goal/cleared",
    "thread/name/updated",
    "thread/settings/updated",
    "thread/started",
    "thread/status/changed",
    "thread/tokenUsage/updated",
    "turn/completed",
    "turn/diff/updated",
    "turn/moderationMetadata",
    "turn/plan/updated",
    "turn/started",
];

fn completed(params: &Value, ours: &Ours<'_>) -> CodexEvent {
    let turn = &params["turn"];
    match turn["status"].as_str() {
        Some("completed") => CodexEvent::TurnCompleted { usage: ours.usage },
        Some("failed") if turn["error"].is_object() => {
            CodexEvent::TurnFailed { message: worded(&turn["error"]) }
        }
        status => {
            let status = cut(status.unwrap_or("without a status"), 100);
            CodexEvent::TurnFailed { message: format!("the turn ended {status}") }
        }
    }
}

/// An error as `codex exec` words it.
fn worded(error: &Value) -> String {
    let message = text(&error["message"]);
    match error["additionalDetails"].as_str().filter(|details| !details.is_empty()) {
        Some(details) => format!("{message} ({})", cut(details, MAX_TEXT)),
        None => message,
    }
}

/// Codex goes on by itself, however it words that.
fn passing(message: String) -> CodexEvent {
    match error(message) {
        CodexEvent::Error { message } => CodexEvent::Reconnecting { detail: message },
        event => event,
    }
}

fn warning(message: String) -> CodexEvent {
    CodexEvent::Item { phase: Phase::Completed, item: Item::Warning { message } }
}

fn item(phase: Phase, item: &Value) -> Option<CodexEvent> {
    let failed = matches!(item["status"].as_str(), Some("failed" | "declined"));
    let item = match item["type"].as_str()? {
        // The task, said back.
        "userMessage" => return None,
        "agentMessage" => Item::Message { text: long_text(&item["text"], MAX_MESSAGE) },
        "reasoning" => {
            let parts = item["summary"].as_array().map(Vec::as_slice).unwrap_or_default();
            let parts: Vec<&str> = parts.iter().take(100).filter_map(Value::as_str).collect();
            Item::Reasoning { text: cut(&parts.join("\n"), MAX_TEXT) }
        }
        "commandExecution" => Item::Command {
            command: cut(&without_shell(item["command"].as_str().unwrap_or_default()), MAX_TEXT),
            output: text(&item["aggregatedOutput"]),
            exit_code: item["exitCode"].as_i64(),
            failed,
        },
        "fileChange" => {
            let changes = item["changes"].as_array().map(Vec::as_slice).unwrap_or_default();
            let paths = changes.iter().take(MAX_PATHS).map(|change| text(&change["path"]));
            Item::FileChange { paths: paths.collect(), failed }
        }
        "mcpToolCall" => {
            Item::McpCall { server: text(&item["server"]), tool: text(&item["tool"]), failed }
        }
        "webSearch" => Item::WebSearch { query: text(&item["query"]) },
        other => Item::Other { kind: cut(other, 100) },
    };
    Some(CodexEvent::Item { phase, item })
}

/// What the beginning and the end of a line too long to read tell. An end of the turn must name
/// ours in them, as every other one must.
pub(super) fn skim(head: &[u8], tail: &[u8], ours: &Ours<'_>) -> Option<CodexEvent> {
    let (head, tail) = (String::from_utf8_lossy(head), String::from_utf8_lossy(tail));
    let method = skimmed(&head, "method");
    let names = |id: &str| {
        let id = format!("\"{id}\"");
        !ours.thread.is_empty() && (head.contains(&id) || tail.contains(&id))
    };
    if !names(ours.thread) {
        return None;
    }
    let phase = match method.as_str() {
        "item/started" => Phase::Started,
        "item/completed" => Phase::Completed,
        "turn/completed" if !ours.turn.is_empty() && names(ours.turn) => {
            let completed = tail.contains("\"status\":\"completed\"");
            let message = || "the turn ended with a message too long to read".to_owned();
            return Some(if completed {
                CodexEvent::TurnCompleted { usage: ours.usage }
            } else {
                CodexEvent::TurnFailed { message: message() }
            });
        }
        _ => return None,
    };
    let (_, item) = head.split_once("\"item\":")?;
    let item = match skimmed(item, "type").as_str() {
        "agentMessage" => Item::Message { text: skimmed(item, "text") },
        "commandExecution" => Item::Command {
            command: cut(&without_shell(&skimmed(item, "command")), MAX_TEXT),
            output: cut(&skimmed(item, "aggregatedOutput"), MAX_TEXT),
            exit_code: None,
            failed: false,
        },
        other => Item::Other { kind: cut(other, 100) },
    };
    Some(CodexEvent::Item { phase, item })
}
