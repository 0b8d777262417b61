//! `run`: one run from the command line, the same as `codex_run`.

use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;

use super::ask::Terminal;
use super::{Context, Outcome, Stopped, out, parts};
use crate::failure::{ErrorKind, Failure};
use crate::job::Jobs;
use crate::job::call::{Mode, RunCall};
use crate::job::progress::{self, ProgressReceiver};
use crate::job::result::{RunResult, Status};
use crate::server;

/// Flags of `run`.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// What Codex shall do; `-` reads it from stdin.
    pub prompt: String,
    /// full-auto writes the changes to the workspace, suggest holds them, ask asks here before each
    /// command and edit.
    #[arg(long)]
    pub mode: Option<String>,
    /// Time for Codex: seconds, or a duration such as 10m.
    #[arg(long, value_name = "TIME")]
    pub timeout: Option<String>,
    /// The workspace.
    #[arg(long, value_name = "DIRECTORY")]
    pub repo: Option<String>,
    /// Where in the workspace Codex starts.
    #[arg(long, value_name = "DIRECTORY")]
    pub working_dir: Option<String>,
    /// A variable for the commands that Codex runs; may be given again.
    #[arg(long = "env", value_name = "NAME=VALUE")]
    pub env: Vec<String>,
    /// The model that Codex uses.
    #[arg(long)]
    pub model: Option<String>,
    /// A file with a JSON schema that the answer must have the form of.
    #[arg(long, value_name = "FILE")]
    pub output_schema: Option<PathBuf>,
    /// Go on with the thread of this run.
    #[arg(long, value_name = "RUN_ID")]
    pub continue_run: Option<String>,
    /// Keep the thread, so that a later run can go on with it.
    #[arg(long)]
    pub keep_thread: bool,
    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,
}

impl Arguments {
    /// As the arguments of `codex_run`, so that there is one place that checks them.
    fn into_call(self, context: &Context) -> Result<RunCall, Failure> {
        let mut map = Map::new();
        let prompt = if self.prompt == "-" { read_stdin()? } else { self.prompt };
        map.insert("prompt".to_owned(), Value::String(prompt));
        for (name, value) in [
            ("mode", self.mode),
            ("repo", self.repo),
            ("working_dir", self.working_dir),
            ("model", self.model),
            ("continue_run", self.continue_run),
        ] {
            if let Some(value) = value {
                map.insert(name.to_owned(), Value::String(value));
            }
        }
        if let Some(timeout) = self.timeout {
            map.insert("timeout".to_owned(), seconds(&timeout));
        }
        let mut variables = Map::new();
        for pair in self.env {
            let Some((name, value)) = pair.split_once('=') else {
                return Err(Failure::new(
                    ErrorKind::InvalidArgument,
                    "--env needs NAME=VALUE, with the = between them",
                ));
            };
            variables.insert(name.to_owned(), Value::String(value.to_owned()));
        }
        if let Some(file) = self.output_schema {
            map.insert("output_schema".to_owned(), read_schema(&file)?);
        }
        map.insert("keep_thread".to_owned(), Value::Bool(self.keep_thread));
        map.insert("env_vars".to_owned(), Value::Object(variables));
        RunCall::parse(map, &context.loaded.config.run)
    }
}

/// Whole seconds where the text is a number or a duration; else the text, which is refused later.
fn seconds(text: &str) -> Value {
    if let Ok(number) = text.parse::<serde_json::Number>() {
        return Value::Number(number);
    }
    match humantime::parse_duration(text) {
        Ok(duration) if duration.subsec_nanos() == 0 => duration.as_secs().into(),
        _ => Value::String(text.to_owned()),
    }
}

fn read_schema(file: &Path) -> Result<Value, Failure> {
    let failed = |what: String| {
        let sentence = format!("--output-schema {}: {what}", file.display());
        Failure::new(ErrorKind::InvalidArgument, sentence)
    };
    let text = std::fs::read(file).map_err(|error| failed(error.to_string()))?;
    serde_json::from_slice(&text).map_err(|error| failed(format!("is no JSON ({error})")))
}

fn read_stdin() -> Result<String, Failure> {
    let mut text = String::new();
    // One byte over the limit is enough to be refused.
    let limit = crate::job::call::MAX_PROMPT_BYTES as u64 + 1;
    std::io::stdin().lock().take(limit).read_to_string(&mut text).map_err(|error| {
        Failure::new(
            ErrorKind::InvalidArgument,
            format!("the prompt cannot be read from stdin: {error}"),
        )
    })?;
    Ok(text)
}

pub(super) async fn execute(arguments: Arguments, context: &Context) -> Result<Outcome, Stopped> {
    let json = arguments.json;
    let prompt_is_stdin = arguments.prompt == "-";
    let call = arguments.into_call(context)?;
    let asker = Arc::new(Terminal::new(call.mode == Mode::Ask, prompt_is_stdin));
    let cancel = CancellationToken::new();
    server::cancel_on_signals(cancel.clone())
        .map_err(|error| Stopped::failed(error.to_string()))?;
    // There is one run: a container that waits for the next would be started for nothing.
    let mut config = context.loaded.config.clone();
    (config.pool.min_idle, config.pool.max_size) = (1, 1);
    let parts = parts::start_with(context, config)?;
    let (sender, receiver) = progress::channel();
    let shown = std::io::stderr().is_terminal().then(|| tokio::spawn(show(receiver)));
    let result = parts.orchestrator.run(call, sender, asker, cancel).await;
    if let Some(shown) = shown {
        shown.abort();
    }
    parts.end.await;
    if json {
        out::json(&result)?;
    } else if let (None, Some(error)) = (&result.run_id, &result.error) {
        // Refused before there was a run, so there is no data; as any other wrong command line.
        return Err(Stopped { outcome: outcome_of(&result), sentence: error.clone() });
    } else {
        out::text(&result.text())?;
    }
    Ok(outcome_of(&result))
}

fn outcome_of(result: &RunResult) -> Outcome {
    match (result.status, result.error_kind) {
        (Status::Completed, _) => Outcome::Success,
        (Status::TimedOut, _) => Outcome::TimedOut,
        (Status::Cancelled, _) => Outcome::Interrupted,
        (_, Some(kind)) => Outcome::of(kind),
        (_, None) => Outcome::Failed,
    }
}

/// Shows each new stage to the person who waits.
async fn show(mut stages: ProgressReceiver) {
    loop {
        let elapsed = Duration::from_secs(stages.elapsed().as_secs());
        let stage = stages.stage();
        out::note(&format!("{:>6}  {stage}", humantime::format_duration(elapsed).to_string()));
        if !stages.changed().await {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_may_be_seconds_or_a_duration() {
        assert_eq!(seconds("90"), 90);
        assert_eq!(seconds("2m"), 120);
        assert_eq!(seconds("soon"), "soon");
        assert_eq!(seconds("1500ms"), "1500ms");
    }

    #[test]
    fn the_outcome_follows_the_result() {
        let mut result = RunResult::completed("r");
        assert_eq!(outcome_of(&result), Outcome::Success);
        for (kind, outcome) in [
            (ErrorKind::TimedOut, Outcome::TimedOut),
            (ErrorKind::Cancelled, Outcome::Interrupted),
            (ErrorKind::CodexFailed, Outcome::Failed),
            (ErrorKind::AuthMissing, Outcome::NotReady),
            (ErrorKind::WorkspaceMissing, Outcome::Usage),
        ] {
            result.fail(&Failure::new(kind, "s"));
            assert_eq!(outcome_of(&result), outcome);
        }
    }
}
