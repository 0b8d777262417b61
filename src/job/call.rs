//! What a caller asks for, checked before anything else happens.
//!
//! The arguments come from a model that guesses and from people who type, so every mistake gets one
//! sentence that names the argument, what it was and what it may be. Nothing is started, written or
//! recorded before the whole call has passed.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::codex::schema::AnswerSchema;
use crate::config::RunConfig;
use crate::failure::{ErrorKind, Failure};

mod env_vars;
mod thread;

pub use self::env_vars::EnvVars;
pub(crate) use self::env_vars::name_of;
use self::env_vars::parse_env_vars;
pub use self::thread::ThreadCall;

/// Bytes of a prompt at most.
pub const MAX_PROMPT_BYTES: usize = 1 << 20;

/// Characters of the name of a model at most.
const MAX_MODEL: usize = 200;

/// The arguments of `codex_run`, in the order in which they are documented.
pub const RUN_ARGUMENTS: [&str; 10] = [
    "prompt",
    "mode",
    "timeout",
    "repo",
    "working_dir",
    "env_vars",
    "model",
    "output_schema",
    "continue_run",
    "keep_thread",
];

/// What Codex may do with the workspace.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Codex works freely in the container; its changes are applied.
    #[default]
    FullAuto,
    /// The same, but the changes are held until `codex_run_apply`.
    Suggest,
    /// Codex asks before each command and each edit; its changes are applied.
    Ask,
}

impl Mode {
    /// As it stands in a call.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::FullAuto => "full-auto",
            Self::Suggest => "suggest",
            Self::Ask => "ask",
        }
    }

    /// Reads a mode.
    ///
    /// # Errors
    ///
    /// A sentence that lists the modes.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        match text {
            "full-auto" => Ok(Self::FullAuto),
            "suggest" => Ok(Self::Suggest),
            "ask" => Ok(Self::Ask),
            other => Err(invalid(format!(
                "mode must be \"full-auto\", \"suggest\" or \"ask\", but was {}",
                quoted(other)
            ))),
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One `codex_run`, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunCall {
    /// What Codex shall do: not blank, at most [`MAX_PROMPT_BYTES`].
    pub prompt: String,
    /// What Codex may do with the workspace.
    pub mode: Mode,
    /// Time for Codex, from its start; the setting's default is already filled in.
    pub timeout: Duration,
    /// The workspace, if not the default one.
    pub repo: Option<String>,
    /// Where in the workspace Codex starts: relative, or under `/app`.
    pub working_dir: Option<String>,
    /// Variables for the commands that Codex runs.
    pub env_vars: EnvVars,
    /// The model, if not the setting's.
    pub model: Option<String>,
    /// The form of the answer.
    pub output_schema: Option<AnswerSchema>,
    /// What becomes of the thread, and which one it is.
    pub thread: ThreadCall,
}

impl RunCall {
    /// A call with `prompt` and nothing else said.
    ///
    /// # Errors
    ///
    /// The prompt is blank or too long.
    pub fn new(prompt: impl Into<String>, limits: &RunConfig) -> Result<Self, Failure> {
        let prompt = prompt.into();
        if prompt.trim().is_empty() {
            return Err(invalid("prompt is blank; say what Codex shall do"));
        }
        if prompt.len() > MAX_PROMPT_BYTES {
            return Err(invalid(format!(
                "prompt is {} bytes long, over the limit of 1 MiB; put long text in a file of the \
                 workspace and name the file",
                prompt.len()
            )));
        }
        Ok(Self {
            prompt,
            mode: Mode::default(),
            timeout: limits.timeout,
            repo: None,
            working_dir: None,
            env_vars: EnvVars::default(),
            model: None,
            output_schema: None,
            thread: ThreadCall::default(),
        })
    }

    /// Reads the arguments of a `codex_run`. An optional argument that is null counts as absent.
    ///
    /// # Errors
    ///
    /// Kind `invalid_argument` with one sentence about the first thing that is wrong.
    pub fn parse(mut arguments: Map<String, Value>, limits: &RunConfig) -> Result<Self, Failure> {
        refuse_unknown("codex_run", &arguments, &RUN_ARGUMENTS)?;
        let Some(prompt) = take_string(&mut arguments, "prompt")? else {
            return Err(invalid("prompt is missing; say what Codex shall do"));
        };
        let mut call = Self::new(prompt, limits)?;
        if let Some(mode) = take_string(&mut arguments, "mode")? {
            call.mode = Mode::parse(&mode)?;
        }
        if let Some(timeout) = take(&mut arguments, "timeout") {
            call.timeout = parse_timeout(&timeout, limits)?;
        }
        call.repo = take_not_blank(&mut arguments, "repo")?;
        call.working_dir = take_not_blank(&mut arguments, "working_dir")?;
        if let Some(variables) = take(&mut arguments, "env_vars") {
            call.env_vars = parse_env_vars(variables)?;
        }
        call.model = take_model(&mut arguments)?;
        if let Some(schema) = take(&mut arguments, "output_schema") {
            let schema = AnswerSchema::read(schema);
            let schema = schema.map_err(|wrong| invalid(format!("output_schema {wrong}")))?;
            call.output_schema = Some(schema);
        }
        call.thread = ThreadCall::take(&mut arguments)?;
        Ok(call)
    }
}

/// The arguments of `codex_run_diff`, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiffCall {
    /// The run.
    pub run_id: String,
    /// Only these paths; empty for all. As they stand in a result, or a directory of them.
    pub paths: Vec<String>,
    /// Which page, from 1.
    pub page: usize,
}

impl DiffCall {
    /// Reads the arguments.
    ///
    /// # Errors
    ///
    /// Kind `invalid_argument` with one sentence.
    pub fn parse(mut arguments: Map<String, Value>) -> Result<Self, Failure> {
        refuse_unknown("codex_run_diff", &arguments, &["run_id", "paths", "page"])?;
        let run_id = take_run_id(&mut arguments)?;
        let paths = take_paths(&mut arguments)?;
        let page = match take(&mut arguments, "page") {
            None => 1,
            Some(value) => whole(&value)
                .and_then(|page| usize::try_from(page).ok())
                .filter(|page| *page >= 1)
                .ok_or_else(|| {
                    invalid(format!(
                        "page must be a whole number from 1, but was {}",
                        shown(&value)
                    ))
                })?,
        };
        Ok(Self { run_id, paths, page })
    }
}

/// What a call of `codex_run_apply` wants done about paths in conflict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conflicts {
    /// Nothing is applied then.
    HoldAll,
    /// The rest is applied.
    HoldConflicting,
    /// As `hold_conflicting`, and text is merged, with markers where both sides changed the same
    /// lines.
    Markers,
}

impl Conflicts {
    /// Reads it.
    ///
    /// # Errors
    ///
    /// A sentence that lists what it may be.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        match text {
            "hold_all" => Ok(Self::HoldAll),
            "hold_conflicting" => Ok(Self::HoldConflicting),
            "markers" => Ok(Self::Markers),
            other => Err(invalid(format!(
                "on_conflict must be \"hold_all\", which applies nothing if any path conflicts, \
                 \"hold_conflicting\", which applies the rest, or \"markers\", which merges text, \
                 but was {}",
                quoted(other)
            ))),
        }
    }
}

/// The arguments of `codex_run_apply`, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApplyCall {
    /// The run.
    pub run_id: String,
    /// Only these paths; empty for all that are held.
    pub paths: Vec<String>,
    /// What to do about conflicts; `None` for what the settings say.
    pub on_conflict: Option<Conflicts>,
}

impl ApplyCall {
    /// Reads the arguments.
    ///
    /// # Errors
    ///
    /// Kind `invalid_argument` with one sentence.
    pub fn parse(mut arguments: Map<String, Value>) -> Result<Self, Failure> {
        refuse_unknown("codex_run_apply", &arguments, &["run_id", "paths", "on_conflict"])?;
        let run_id = take_run_id(&mut arguments)?;
        let paths = take_paths(&mut arguments)?;
        let on_conflict = take_string(&mut arguments, "on_conflict")?
            .map(|text| Conflicts::parse(&text))
            .transpose()?;
        Ok(Self { run_id, paths, on_conflict })
    }
}

/// The arguments of `codex_run_undo`, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UndoCall {
    /// The run.
    pub run_id: String,
    /// Only these paths, or what lies in them; empty for all that are applied.
    pub paths: Vec<String>,
}

impl UndoCall {
    /// Reads the arguments.
    ///
    /// # Errors
    ///
    /// Kind `invalid_argument` with one sentence.
    pub fn parse(mut arguments: Map<String, Value>) -> Result<Self, Failure> {
        refuse_unknown("codex_run_undo", &arguments, &["run_id", "paths"])?;
        let run_id = take_run_id(&mut arguments)?;
        let paths = take_paths(&mut arguments)?;
        Ok(Self { run_id, paths })
    }
}

/// Refuses any argument that `tool` does not have, by name.
///
/// # Errors
///
/// Kind `invalid_argument`; the sentence names the nearest known argument if there is a near one.
pub fn refuse_unknown(
    tool: &str,
    arguments: &Map<String, Value>,
    known: &[&str],
) -> Result<(), Failure> {
    let Some(name) = arguments.keys().find(|name| !known.contains(&name.as_str())) else {
        return Ok(());
    };
    let advice = match nearest(name, known.iter().copied()) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None if known.is_empty() => "call it without arguments".to_owned(),
        None => format!("it has {}", known.join(", ")),
    };
    Err(invalid(format!("{tool} has no argument {}; {advice}", quoted(name))))
}

/// The known name that `name` was most likely meant to be.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_lowercase();
    known
        .into_iter()
        .map(|candidate| (strsim::normalized_damerau_levenshtein(&name, candidate), candidate))
        .filter(|(likeness, _)| *likeness >= 0.6)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

fn invalid(sentence: impl Into<String>) -> Failure {
    Failure::new(ErrorKind::InvalidArgument, sentence)
}

fn take(arguments: &mut Map<String, Value>, name: &str) -> Option<Value> {
    arguments.remove(name).filter(|value| !value.is_null())
}

fn take_string(arguments: &mut Map<String, Value>, name: &str) -> Result<Option<String>, Failure> {
    match take(arguments, name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(invalid(format!("{name} must be a string, but was {}", shown(&other)))),
    }
}

/// Takes the name of a model: no provider has one with a space in it.
fn take_model(arguments: &mut Map<String, Value>) -> Result<Option<String>, Failure> {
    let model = take_not_blank(arguments, "model")?;
    if let Some(name) = &model {
        let odd = |char: char| char.is_whitespace() || char.is_control();
        if name.contains(odd) || name.chars().count() > MAX_MODEL {
            return Err(invalid(format!(
                "model must be a name of at most {MAX_MODEL} characters without spaces, but was {}",
                quoted(name)
            )));
        }
    }
    Ok(model)
}

fn take_not_blank(
    arguments: &mut Map<String, Value>,
    name: &str,
) -> Result<Option<String>, Failure> {
    match take_string(arguments, name)? {
        Some(text) if text.trim().is_empty() => {
            Err(invalid(format!("{name} is blank; leave it out or give it a value")))
        }
        Some(text) if text.contains('\0') => {
            Err(invalid(format!("{name} contains NUL; remove it")))
        }
        other => Ok(other),
    }
}

fn take_run_id(arguments: &mut Map<String, Value>) -> Result<String, Failure> {
    take_not_blank(arguments, "run_id")?
        .ok_or_else(|| invalid("run_id is missing; give the run_id from the result of a codex_run"))
}

fn take_paths(arguments: &mut Map<String, Value>) -> Result<Vec<String>, Failure> {
    let wrong = |value: &Value| {
        invalid(format!(
            "paths must be a list of paths as they stand in a result, but was {}",
            shown(value)
        ))
    };
    match take(arguments, "paths") {
        None => Ok(Vec::new()),
        Some(Value::Array(items)) => items
            .into_iter()
            .map(|item| match item {
                Value::String(path) if !path.is_empty() => Ok(path),
                other => Err(wrong(&other)),
            })
            .collect(),
        Some(other) => Err(wrong(&other)),
    }
}

/// A whole number, also one that a client wrote as `300.0`.
fn whole(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| {
        let number = value.as_f64()?;
        (number.fract() == 0.0 && (0.0..1e9).contains(&number)).then_some(number as u64)
    })
}

fn parse_timeout(value: &Value, limits: &RunConfig) -> Result<Duration, Failure> {
    whole(value)
        .map(Duration::from_secs)
        .filter(|timeout| (limits.min_timeout..=limits.max_timeout).contains(timeout))
        .ok_or_else(|| {
            invalid(format!(
                "timeout must be a whole number of seconds from {} to {}, but was {}",
                limits.min_timeout.as_secs(),
                limits.max_timeout.as_secs(),
                shown(value)
            ))
        })
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// A value as it stands in a sentence: short.
fn shown(value: &Value) -> String {
    match value {
        Value::Array(_) | Value::Object(_) => kind_of(value).to_owned(),
        Value::String(text) => quoted(text),
        other => other.to_string(),
    }
}

fn quoted(text: &str) -> String {
    const SHOWN: usize = 60;
    if text.chars().count() <= SHOWN {
        return format!("{text:?}");
    }
    let start: String = text.chars().take(SHOWN).collect();
    format!("{:?}", start + "…")
}

#[cfg(test)]
mod tests;
