//! The script: which scenario a prompt gets, and its steps.
//!
//! ```json
//! {"scenarios": [
//!   {"match": "hello.py", "steps": [
//!     {"reason": "A small script."},
//!     {"say": "I will look around first."},
//!     {"run": "ls"},
//!     {"write": {"path": "hello.py", "text": "print('Hello, World!')\n"}},
//!     {"run": ["python3 hello.py"]},
//!     {"say": "Created hello.py."}
//!   ]},
//!   {"steps": [{"fault": {"status": 429, "retry_after": 1, "times": 2}}, {"say": "Done."}]}
//! ]}
//! ```

use serde::{Deserialize, Serialize};

use super::builtin;

/// What the model does for which prompt.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Script {
    /// The first that matches is played.
    pub scenarios: Vec<Scenario>,
    /// Milliseconds of thinking before each answer.
    #[serde(default)]
    pub think_ms: u64,
    /// Whether the bodies of requests are kept with what is recorded.
    #[serde(default)]
    pub keep_bodies: bool,
}

/// The steps for one kind of prompt.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Text that the prompt must hold; empty matches every prompt.
    #[serde(default, rename = "match")]
    pub matches: String,
    /// Played in order.
    pub steps: Vec<Step>,
    /// Usage told with each answer.
    #[serde(default)]
    pub usage: Usage,
}

/// One thing the model does. Steps up to and with the next tool call or fault make one answer; an
/// answer without a tool call ends the turn.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// A message.
    Say(String),
    /// A summary of reasoning.
    Reason(String),
    /// Shell commands, one after the other.
    Run(Commands),
    /// A patch in the form of `apply_patch`.
    Patch(String),
    /// A file, written by a shell command; directories on its path are made.
    Write {
        /// Relative to the directory Codex works in.
        path: String,
        /// What it then holds.
        text: String,
    },
    /// A message of this many bytes.
    Flood(u64),
    /// A call of a tool by name, with JSON arguments (text for tools that take text); for what no
    /// other step can do.
    Call {
        /// Name of the tool.
        tool: String,
        /// Its arguments.
        arguments: serde_json::Value,
    },
    /// Something goes wrong.
    Fault(Fault),
    /// This many milliseconds pass before the answer.
    Wait(u64),
    /// From here on the answer is sent in pieces with this many milliseconds between them.
    Slow(u64),
}

/// One command or more.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Commands {
    /// One.
    One(String),
    /// One after the other.
    Many(Vec<String>),
}

impl Commands {
    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many.as_slice(),
        }
        .iter()
        .map(String::as_str)
    }
}

/// How an answer goes wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Fault {
    /// This status, with an error as the provider words it.
    pub status: Option<u16>,
    /// The error's code; by default what the provider says with that status.
    pub code: Option<String>,
    /// The error's message.
    pub message: Option<String>,
    /// Seconds, as the header `retry-after`.
    pub retry_after: Option<u64>,
    /// The request is taken and never answered.
    pub stall: bool,
    /// The answer begins and then the connection is cut.
    pub drop: bool,
    /// The answer begins and then nothing more comes.
    pub hang: bool,
    /// The answer is a stream that ends with `response.failed` and this code.
    pub failed: Option<String>,
    /// After so many times the fault is gone and the next step is played; 0: it stays.
    pub times: u32,
}

/// Tokens, as the provider tells them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Usage {
    /// All input.
    pub input_tokens: u64,
    /// Of it, from the cache.
    pub cached_input_tokens: u64,
    /// All output.
    pub output_tokens: u64,
    /// Of it, reasoning.
    pub reasoning_output_tokens: u64,
}

impl Default for Usage {
    fn default() -> Self {
        Self {
            input_tokens: 1200,
            cached_input_tokens: 200,
            output_tokens: 34,
            reasoning_output_tokens: 5,
        }
    }
}

/// Why a text is no script.
#[derive(Debug, thiserror::Error)]
pub enum ScriptError {
    /// No JSON of that form.
    #[error("the script is not of the right form")]
    Form(#[from] serde_json::Error),
}

impl Script {
    /// Reads a script.
    ///
    /// # Errors
    ///
    /// Text that is not JSON of that form.
    pub fn parse(text: &str) -> Result<Self, ScriptError> {
        Ok(serde_json::from_str(text)?)
    }

    /// The scripts that the demo and the tests share; among them the replaced server's own
    /// example, "Create a hello.py file that prints 'Hello, World!'". A prompt that none of them
    /// knows is answered with "Done."
    pub fn builtin() -> Self {
        Self { scenarios: builtin::scenarios(), think_ms: 0, keep_bodies: false }
    }

    /// A script that does the same for every prompt.
    pub fn always(steps: Vec<Step>) -> Self {
        let scenario = Scenario { steps, ..Scenario::default() };
        Self { scenarios: vec![scenario], think_ms: 0, keep_bodies: false }
    }

    /// The same with `scenario` before all others.
    #[must_use]
    pub fn with(mut self, matches: &str, steps: Vec<Step>) -> Self {
        let scenario = Scenario { matches: matches.into(), steps, usage: Usage::default() };
        self.scenarios.insert(0, scenario);
        self
    }

    /// The same, keeping the bodies of requests.
    #[must_use]
    pub fn keeping_bodies(mut self) -> Self {
        self.keep_bodies = true;
        self
    }

    pub(super) fn scenario(&self, prompt: &str) -> Option<(usize, &Scenario)> {
        self.scenarios.iter().enumerate().find(|(_, scenario)| prompt.contains(&scenario.matches))
    }
}

impl Step {
    /// Shell commands.
    pub fn run(command: impl Into<String>) -> Self {
        Self::Run(Commands::One(command.into()))
    }

    /// A file.
    pub fn write(path: impl Into<String>, text: impl Into<String>) -> Self {
        Self::Write { path: path.into(), text: text.into() }
    }

    /// An error status.
    pub fn status(status: u16) -> Self {
        Self::Fault(Fault { status: Some(status), ..Fault::default() })
    }

    /// Whether the answer ends with this step and Codex comes back with a result.
    pub(super) fn is_call(&self) -> bool {
        matches!(self, Self::Run(_) | Self::Patch(_) | Self::Write { .. } | Self::Call { .. })
    }
}
