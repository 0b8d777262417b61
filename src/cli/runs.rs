//! `runs`: the records of runs.

use serde::Serialize;

use super::{Context, Outcome, Stopped, out, parts};
use crate::job::call::ApplyCall;
use crate::job::result::{RunResult, Status};
use crate::record::{self, Record, RecordError};
use crate::workspace::change::ChangesState;

/// What to do with records.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Command {
    /// List the runs, the newest first.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show the result of a run.
    Show {
        /// The run id, or `latest`.
        run_id: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Print the changes of a run as a unified diff.
    Diff {
        /// The run id, or `latest`.
        run_id: String,
    },
    /// Write the held changes of a run to its workspace.
    Apply {
        /// The run id, or `latest`.
        run_id: String,
        /// Only these paths.
        paths: Vec<String>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Serialize)]
struct Row {
    run_id: String,
    started: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Status>,
    #[serde(skip_serializing_if = "Option::is_none")]
    changes_state: Option<ChangesState>,
    files_changed: usize,
    prompt: String,
}

pub(super) async fn execute(command: Command, context: &Context) -> Result<Outcome, Stopped> {
    match command {
        Command::List { json } => list(json, context),
        Command::Show { run_id, json } => {
            let record = find(&run_id, context)?;
            match record.result().map_err(failed)? {
                Some(result) if json => out::json(&result),
                Some(result) => {
                    out::text(&format!("{}\n{}", result.text(), record.folder().display()))
                }
                None => Err(Stopped::failed(format!(
                    "run {} has not ended, or its server was killed; its folder is {}",
                    record.id(),
                    record.folder().display()
                ))),
            }
        }
        Command::Diff { run_id } => {
            let record = find(&run_id, context)?;
            match std::fs::read(record.diff_patch()) {
                Ok(diff) => out::text(&String::from_utf8_lossy(&diff)),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    out::note("No file changed.");
                    Ok(Outcome::Success)
                }
                Err(error) => Err(Stopped::failed(format!(
                    "{} cannot be read: {error}",
                    record.diff_patch().display()
                ))),
            }
        }
        Command::Apply { run_id, paths, json } => {
            let run_id = find(&run_id, context)?.id().to_owned();
            // Nothing runs, so no container needs to wait.
            let mut config = context.loaded.config.clone();
            config.pool.min_idle = 0;
            let parts = parts::start_with(context, config)?;
            let report = parts.jobs.apply(ApplyCall { run_id, paths }).await;
            parts.end.await;
            let report = report?;
            if json {
                out::json(&report)?;
            } else {
                out::text(&report.text())?;
            }
            let conflict = !report.conflicts.is_empty();
            Ok(if conflict { Outcome::Failed } else { Outcome::Success })
        }
    }
}

fn list(json: bool, context: &Context) -> Result<Outcome, Stopped> {
    let records = record::list(&context.paths.runs).map_err(failed)?;
    let rows: Vec<Row> = records.iter().map(row).collect();
    if json {
        return out::json(&rows);
    }
    if rows.is_empty() {
        return out::text("No run is recorded.");
    }
    let rows: Vec<Vec<String>> = rows
        .into_iter()
        .map(|row| {
            vec![
                row.run_id,
                row.started,
                row.status.map_or("unfinished", word).to_owned(),
                row.files_changed.to_string(),
                row.prompt,
            ]
        })
        .collect();
    out::table(&["RUN", "STARTED", "STATUS", "FILES", "PROMPT"], &rows)
}

fn word(status: Status) -> &'static str {
    match status {
        Status::Running => "running",
        Status::Completed => "completed",
        Status::Failed => "failed",
        Status::TimedOut => "timed_out",
        Status::Cancelled => "cancelled",
    }
}

fn row(record: &Record) -> Row {
    const SHOWN: usize = 60;
    let request = record.request().ok();
    let result: Option<RunResult> = record.result().ok().flatten();
    let started = request.as_ref().map(|request| request.accepted);
    let prompt = request.map(|request| request.prompt).unwrap_or_default();
    // Control characters of a prompt must not reach a terminal.
    let prompt = prompt.split_whitespace().collect::<Vec<_>>().join(" ");
    Row {
        run_id: record.id().to_owned(),
        started: started.map_or_else(String::new, |time| format!("{time:.0}")),
        status: result.as_ref().map(|result| result.status),
        changes_state: result.as_ref().map(|result| result.changes_state),
        files_changed: result.as_ref().map_or(0, |result| result.files_changed.len()),
        prompt: prompt.chars().filter(|c| !c.is_control()).take(SHOWN).collect(),
    }
}

fn find(run_id: &str, context: &Context) -> Result<Record, Stopped> {
    let runs = &context.paths.runs;
    if run_id == "latest" {
        let newest = record::list(runs).map_err(failed)?.into_iter().next();
        return newest.ok_or_else(|| Stopped::failed("no run is recorded"));
    }
    Record::open(runs, run_id).map_err(failed)
}

fn failed(error: RecordError) -> Stopped {
    crate::failure::Failure::from(error).into()
}
