//! What is used of `codex app-server`, against the schema that the pinned Codex prints of itself: a
//! version that says something else is seen here first.

#![allow(missing_docs)]
// Helpers of tests, which clippy does not take for tests.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "common/codex_binary.rs"]
mod codex_binary;

use std::path::Path;
use std::process::Command;

use codex_binary::codex_binary;
use mcp_codex_orchestrator::codex::CodexCommand;
use mcp_codex_orchestrator::codex::app_server::TESTED;
use mcp_codex_orchestrator::codex::app_server::protocol::{InitializeParams, UNWANTED};
use mcp_codex_orchestrator::codex::thread::ThreadId;
use serde_json::{Value, json};

/// A directory of schemas.
struct Schemas(tempfile::TempDir);

impl Schemas {
    fn print(binary: &Path) -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let made = Command::new(binary)
            .args(["app-server", "generate-json-schema", "--out"])
            .arg(dir.path())
            .env_clear()
            .env("HOME", dir.path())
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        Self(dir)
    }

    fn read(&self, name: &str) -> Value {
        let text = std::fs::read_to_string(self.0.path().join(format!("{name}.json"))).unwrap();
        serde_json::from_str(&text).unwrap()
    }
}

/// The schema behind a reference.
fn deref<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    let named = schema["$ref"].as_str().or_else(|| {
        let all = schema["allOf"].as_array().filter(|all| all.len() == 1);
        all.and_then(|all| all[0]["$ref"].as_str())
    });
    match named {
        Some(name) => root.pointer(name.trim_start_matches('#')).unwrap(),
        None => schema,
    }
}

/// Whether a value is one that the schema takes, as far as objects, enums and types go; an unknown
/// property is one that Codex would pass over.
fn takes(root: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    let schema = deref(root, schema);
    for choice in ["anyOf", "oneOf"] {
        if let Some(choices) = schema[choice].as_array() {
            let fits = choices.iter().any(|schema| takes(root, schema, value).is_ok());
            return if fits { Ok(()) } else { Err(format!("no choice takes {value}")) };
        }
    }
    if ["enum", "type", "properties"].iter().all(|rule| schema[*rule].is_null()) {
        // It takes anything.
        return Ok(());
    }
    if let Some(values) = schema["enum"].as_array()
        && !values.contains(value)
    {
        return Err(format!("{value} is none of {values:?}"));
    }
    let kind = match value {
        Value::Object(_) => "object",
        Value::Array(_) => "array",
        Value::String(_) => "string",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "integer",
        Value::Null => "null",
    };
    let types = &schema["type"];
    let is = types.is_null()
        || types == kind
        || types.as_array().is_some_and(|t| t.contains(&json!(kind)));
    if !is {
        return Err(format!("{value} is no {types}"));
    }
    if let Some(values) = value.as_array() {
        return values.iter().try_for_each(|value| takes(root, &schema["items"], value));
    }
    let Some(fields) = value.as_object() else { return Ok(()) };
    for required in schema["required"].as_array().into_iter().flatten() {
        if !fields.contains_key(required.as_str().unwrap()) {
            return Err(format!("{required} is missing in {value}"));
        }
    }
    for (name, field) in fields {
        match schema["properties"].get(name) {
            Some(property) => {
                takes(root, property, field).map_err(|why| format!("{name}: {why}"))?
            }
            None if schema["additionalProperties"] == true => {}
            None => return Err(format!("{name} is not known")),
        }
    }
    Ok(())
}

/// Follows names of properties: `turn.error.message`.
fn has(root: &Value, path: &str) -> bool {
    let mut at = root;
    for name in path.split('.') {
        let schema = deref(root, at);
        let choices = schema["anyOf"].as_array().or(schema["oneOf"].as_array());
        let mut all: Vec<&Value> = vec![schema];
        all.extend(choices.into_iter().flatten().map(|choice| deref(root, choice)));
        let Some(next) = all.into_iter().find_map(|schema| schema["properties"].get(name)) else {
            return false;
        };
        at = next;
    }
    true
}

#[test]
fn what_is_used_of_the_protocol_is_what_the_pinned_codex_speaks() {
    let Some(binary) = codex_binary() else { return };
    let version = Command::new(&binary).arg("--version").output().unwrap();
    let version = String::from_utf8(version.stdout).unwrap();
    assert!(TESTED.iter().any(|tested| version.trim().ends_with(tested)), "{version}");
    let schemas = Schemas::print(&binary);

    let command = CodexCommand {
        prompt: "p".into(),
        model: Some("m".into()),
        effort: Some("high".into()),
        settings: "model_verbosity = \"low\"\n[features]\nx = true\n".parse().unwrap(),
        env_vars: [("A".to_owned(), "b".to_owned())].into(),
        output_schema: Some(json!({"type": "object"})),
        asks: true,
        ..CodexCommand::default()
    };
    let thread = ThreadId::parse("01a206e9-25ab-7c10-af1d-54aa4c6b91f5");
    let resumes = CodexCommand { resumes: thread, ..command.clone() }.thread().unwrap();
    let said = [
        ("v1/InitializeParams", serde_json::to_value(InitializeParams::ours()).unwrap()),
        ("v2/ThreadStartParams", serde_json::to_value(command.thread().unwrap()).unwrap()),
        ("v2/ThreadResumeParams", serde_json::to_value(resumes.resume().unwrap()).unwrap()),
        ("v2/TurnStartParams", serde_json::to_value(command.turn()).unwrap()),
    ];
    for (name, value) in said {
        let schema = schemas.read(name);
        takes(&schema, &schema, &value).unwrap_or_else(|why| panic!("{name}: {why}"));
        let mut wrong = value.clone();
        wrong["renamed"] = json!(1);
        assert!(takes(&schema, &schema, &wrong).is_err(), "{name}: is this test right?");
    }

    let read = [
        ("v1/InitializeResponse", "userAgent"),
        ("v2/ThreadStartResponse", "thread.id"),
        ("v2/ThreadResumeResponse", "thread.id"),
        ("v2/TurnStartResponse", "turn.id"),
        ("v2/ErrorNotification", "threadId"),
        ("v2/ErrorNotification", "willRetry"),
        ("v2/ErrorNotification", "error.message"),
        ("v2/ErrorNotification", "error.additionalDetails"),
        ("v2/TurnCompletedNotification", "threadId"),
        ("v2/TurnCompletedNotification", "turn.id"),
        ("v2/TurnCompletedNotification", "turn.status"),
        ("v2/TurnCompletedNotification", "turn.error.message"),
        ("v2/ThreadTokenUsageUpdatedNotification", "threadId"),
        ("v2/ThreadTokenUsageUpdatedNotification", "tokenUsage.total.inputTokens"),
        ("v2/ThreadTokenUsageUpdatedNotification", "tokenUsage.total.cachedInputTokens"),
        ("v2/ThreadTokenUsageUpdatedNotification", "tokenUsage.total.outputTokens"),
        ("v2/ThreadTokenUsageUpdatedNotification", "tokenUsage.total.reasoningOutputTokens"),
        ("v2/ItemStartedNotification", "threadId"),
        ("CommandExecutionRequestApprovalParams", "threadId"),
        ("CommandExecutionRequestApprovalParams", "turnId"),
        ("CommandExecutionRequestApprovalParams", "kind"),
        ("CommandExecutionRequestApprovalParams", "command"),
        ("CommandExecutionRequestApprovalParams", "cwd"),
        ("CommandExecutionRequestApprovalParams", "reason"),
        ("CommandExecutionRequestApprovalParams", "networkApprovalContext"),
        ("FileChangeRequestApprovalParams", "threadId"),
        ("FileChangeRequestApprovalParams", "turnId"),
        ("FileChangeRequestApprovalParams", "itemId"),
        ("FileChangeRequestApprovalParams", "reason"),
        ("FileChangeRequestApprovalParams", "grantRoot"),
        ("v2/ItemCompletedNotification", "threadId"),
        ("v2/WarningNotification", "message"),
        ("v2/ConfigWarningNotification", "summary"),
        ("v2/ConfigWarningNotification", "details"),
    ];
    for (name, path) in read {
        assert!(has(&schemas.read(name), path), "{name} has no {path}");
    }
    assert!(!has(&schemas.read("v2/ErrorNotification"), "error.renamed"));

    for name in ["CommandExecutionRequestApprovalResponse", "FileChangeRequestApprovalResponse"] {
        let schema = schemas.read(name);
        for decision in ["accept", "decline"] {
            let answer = json!({"decision": decision});
            takes(&schema, &schema, &answer).unwrap_or_else(|why| panic!("{name}: {why}"));
        }
        assert!(takes(&schema, &schema, &json!({"decision": "renamed"})).is_err(), "{name}");
    }

    let items = schemas.read("v2/ItemCompletedNotification");
    let kinds = items["definitions"]["ThreadItem"]["oneOf"].as_array().unwrap();
    for (kind, fields) in [
        ("agentMessage", &["text"][..]),
        ("reasoning", &["summary"]),
        ("commandExecution", &["command", "aggregatedOutput", "exitCode", "status"]),
        ("fileChange", &["changes", "status"]),
        ("mcpToolCall", &["server", "tool", "status"]),
        ("webSearch", &["query"]),
        ("userMessage", &[]),
    ] {
        let item = kinds.iter().find(|item| item["properties"]["type"]["enum"][0] == kind);
        let item = item.unwrap_or_else(|| panic!("no item of type {kind}"));
        for field in fields {
            assert!(item["properties"].get(field).is_some(), "{kind} has no {field}");
        }
    }
    for (name, want) in [
        ("CommandExecutionStatus", json!(["inProgress", "completed", "failed", "declined"])),
        ("PatchApplyStatus", json!(["inProgress", "completed", "failed", "declined"])),
    ] {
        assert_eq!(items["definitions"][name]["enum"], want, "{name}");
    }
    let turns = schemas.read("v2/TurnCompletedNotification");
    let want = json!(["completed", "interrupted", "failed", "inProgress"]);
    assert_eq!(turns["definitions"]["TurnStatus"]["enum"], want);

    let told = schemas.read("ServerNotification");
    let told: Vec<&str> = told["oneOf"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["properties"]["method"]["enum"][0].as_str().unwrap())
        .collect();
    let used = [
        "error",
        "item/started",
        "item/completed",
        "thread/tokenUsage/updated",
        "turn/started",
        "turn/completed",
        "warning",
        "configWarning",
    ];
    for method in used.iter().chain(UNWANTED) {
        assert!(told.contains(method), "{method} is not told any more: {told:?}");
    }
}
