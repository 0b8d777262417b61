//! JSON schemas of the tools.
//!
//! Inputs are written by hand, because their limits come from the settings and clients show them to
//! models. Outputs are derived from the types and then made plain: clients differ in what they
//! understand, so there are no references, no integer formats, no unions with null.

use serde_json::{Map, Value, json};

use crate::config::RunConfig;
use crate::job::call::MAX_PROMPT_BYTES;

/// A JSON object.
pub type Schema = Map<String, Value>;

/// Arguments of `codex_run`.
pub fn run_input(limits: &RunConfig) -> Schema {
    object(json!({
        "type": "object",
        "additionalProperties": false,
        "required": ["prompt"],
        "properties": {
            "prompt": {
                "type": "string",
                "minLength": 1,
                "maxLength": MAX_PROMPT_BYTES,
                "description": "What Codex shall do. It knows nothing of this conversation, so say \
                    everything it needs. Long text belongs in a file of the workspace."
            },
            "mode": {
                "type": "string",
                "enum": ["full-auto", "suggest", "ask"],
                "default": "full-auto",
                "description": "full-auto: the changes are written to the workspace. suggest: they \
                    are held; codex_run_diff shows them and codex_run_apply writes them. ask: \
                    Codex asks the user before each command and each edit, by elicitation; the \
                    changes are written."
            },
            "timeout": {
                "type": "integer",
                "minimum": limits.min_timeout.as_secs(),
                "maximum": limits.max_timeout.as_secs(),
                "default": limits.timeout.as_secs(),
                "description": "Seconds that Codex may take. Past it everything it started is ended \
                    and what it had changed is held."
            },
            "repo": {
                "type": "string",
                "minLength": 1,
                "description": "Absolute path of the workspace. Default: the one the server was \
                    set up with."
            },
            "working_dir": {
                "type": "string",
                "minLength": 1,
                "description": "Directory in the workspace in which Codex starts: relative to it, \
                    or under /app."
            },
            "env_vars": {
                "type": "object",
                "additionalProperties": {"type": "string"},
                "description": "Environment variables for the commands that Codex runs. They are \
                    readable by Codex."
            },
            "model": {
                "type": "string",
                "minLength": 1,
                "description": "The model that Codex uses. Default: the one the server was set up \
                    with, else Codex's own."
            },
            "output_schema": {
                "type": "object",
                "description": "A JSON schema for the last message: output_json in the result then \
                    has it, checked. Default: free text in output."
            },
            "continue_run": {
                "type": "string",
                "minLength": 1,
                "description": "The run_id of an earlier run whose thread goes on, on the same \
                    workspace: Codex still knows what was said and done in it. That run must have \
                    had keep_thread. Default: a new thread."
            },
            "keep_thread": {
                "type": "boolean",
                "default": false,
                "description": "Keep Codex's thread, so that a later call can go on with it by \
                    continue_run."
            }
        }
    }))
}

/// Arguments of `codex_run_diff`.
pub fn diff_input() -> Schema {
    object(json!({
        "type": "object",
        "additionalProperties": false,
        "required": ["run_id"],
        "properties": {
            "run_id": run_id(),
            "paths": paths("Only these paths, or directories; default: all."),
            "page": {
                "type": "integer",
                "minimum": 1,
                "default": 1,
                "description": "Which page of a long diff."
            }
        }
    }))
}

/// Arguments of `codex_run_apply`.
pub fn apply_input() -> Schema {
    object(json!({
        "type": "object",
        "additionalProperties": false,
        "required": ["run_id"],
        "properties": {
            "run_id": run_id(),
            "paths": paths(
                "Only these paths, or directories. Default: all that are held, but not those that \
                 wait for the user's decision (their reason says so): these must be named.",
            ),
            "on_conflict": {
                "type": "string",
                "enum": ["hold_all", "hold_conflicting", "markers"],
                "description": "hold_all: if any path was changed meanwhile, nothing is applied. \
                    hold_conflicting: the other paths are. markers: as hold_conflicting, and text \
                    files that both sides changed are merged, with conflict markers where they \
                    changed the same lines. Default: the server's setting, hold_all unless changed."
            }
        }
    }))
}

/// Arguments of `codex_run_undo`.
pub fn undo_input() -> Schema {
    object(json!({
        "type": "object",
        "additionalProperties": false,
        "required": ["run_id"],
        "properties": {
            "run_id": run_id(),
            "paths": paths("Only these paths, or directories; default: all that were applied.")
        }
    }))
}

/// Arguments of a tool that has none.
pub fn no_input() -> Schema {
    object(json!({"type": "object", "additionalProperties": false}))
}

/// The schema of what `codex_run` answers.
pub fn result_output<T: schemars::JsonSchema>() -> Schema {
    plain(derived::<T>())
}

/// The schema of a tool that answers `T` or a failure: `success` is always there, then either the
/// fields of `T` or those of the failure.
pub fn answer_output<T: schemars::JsonSchema>() -> Schema {
    let mut schema = plain(derived::<T>());
    let failure = plain(derived::<FailureFields>());
    if let (Some(Value::Object(properties)), Some(Value::Object(more))) =
        (schema.get_mut("properties"), failure.get("properties"))
    {
        properties.extend(more.clone());
    }
    schema.insert("required".to_owned(), json!(["success"]));
    schema
}

/// What every answer of a tool other than `codex_run` has besides.
#[derive(schemars::JsonSchema)]
#[expect(dead_code, reason = "only its schema is used")]
struct FailureFields {
    /// Whether the tool did what was asked.
    success: bool,
    /// What happened, then what to do. Only on failure, like the next two.
    error: Option<String>,
    /// The stable kind of the failure.
    error_kind: Option<crate::failure::ErrorKind>,
    /// Whether the same call may succeed later.
    retryable: Option<bool>,
}

fn run_id() -> Value {
    json!({
        "type": "string",
        "minLength": 1,
        "description": "The run_id from the result of a codex_run."
    })
}

fn paths(description: &str) -> Value {
    json!({
        "type": "array",
        "items": {"type": "string", "minLength": 1},
        "description": description
    })
}

fn object(value: Value) -> Schema {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn derived<T: schemars::JsonSchema>() -> Value {
    let settings = schemars::generate::SchemaSettings::draft2020_12().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    settings.into_generator().into_root_schema_for::<T>().to_value()
}

fn plain(schema: Value) -> Schema {
    let mut schema = schema;
    make_plain(&mut schema);
    let mut schema = object(schema);
    schema.remove("title");
    schema.remove("description");
    schema
}

fn make_plain(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(make_plain),
        Value::Object(map) => {
            map.values_mut().for_each(make_plain);
            without_null(map);
            enum_of_constants(map);
            if matches!(map.get("type"), Some(Value::String(kind)) if kind == "integer" || kind == "number")
            {
                map.remove("format");
            }
            if matches!(map.get("default"), Some(Value::Null)) {
                map.remove("default");
            }
            // Doc comments are wrapped; descriptions are not.
            if let Some(Value::String(text)) = map.get_mut("description") {
                *text = text.split_whitespace().collect::<Vec<_>>().join(" ");
            }
        }
        _ => {}
    }
}

/// `["string", "null"]` becomes `"string"`, `anyOf [X, null]` becomes `X`.
fn without_null(map: &mut Map<String, Value>) {
    if let Some(Value::Array(kinds)) = map.get_mut("type") {
        kinds.retain(|kind| kind != "null");
        if let [only] = kinds.as_slice() {
            let only = only.clone();
            map.insert("type".to_owned(), only);
        }
    }
    if let Some(Value::Array(choices)) = map.get("anyOf") {
        let real: Vec<&Value> = choices.iter().filter(|choice| choice["type"] != "null").collect();
        if let [Value::Object(only)] = real.as_slice() {
            let only = only.clone();
            map.remove("anyOf");
            for (key, value) in only {
                map.entry(key).or_insert(value);
            }
        }
    }
}

/// `oneOf` documented constants becomes a plain `enum`.
fn enum_of_constants(map: &mut Map<String, Value>) {
    let Some(Value::Array(choices)) = map.get("oneOf") else { return };
    let constants: Option<Vec<Value>> =
        choices.iter().map(|choice| choice.get("const").cloned()).collect();
    if let Some(constants) = constants {
        map.remove("oneOf");
        map.insert("type".to_owned(), json!("string"));
        map.insert("enum".to_owned(), Value::Array(constants));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::result::RunResult;

    #[test]
    fn outputs_are_plain() {
        let text = serde_json::to_string(&result_output::<RunResult>()).unwrap();
        for foreign in ["$ref", "$defs", "null", "uint", "oneOf", "anyOf", "$schema"] {
            assert!(!text.contains(foreign), "{foreign} in {text}");
        }
    }
}
