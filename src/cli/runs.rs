//! `runs`: the records of runs.

use std::time::SystemTime;

use serde::Serialize;

use super::{Context, Outcome, Stopped, out, parts};
use crate::failure::Failure;
use crate::job::Jobs;
use crate::job::call::{ApplyCall, Conflicts, UndoCall};
use crate::job::ended::Ended;
use crate::job::result::{RunResult, Status};
use crate::record::prune::{Pruned, prune};
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
    ///
    /// Without PATHS all but those that wait for a person to decide (`runs show` has the reasons);
    /// commits come along. Exit code 1 if a path could not be written; `runs undo` takes it back.
    Apply {
        /// The run id, or `latest`.
        run_id: String,
        /// Only these paths, or what lies in them.
        paths: Vec<String>,
        /// What to do if you changed a path meanwhile: hold_all, hold_conflicting (apply the
        /// rest), or markers (merge text). Default: workspace.on_conflict.
        #[arg(long, value_name = "WORD")]
        on_conflict: Option<String>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Take back what a run changed in its workspace.
    ///
    /// What was edited since stays as it is and is named (exit code 1). The changes are held then,
    /// and `runs apply` applies them again.
    Undo {
        /// The run id, or `latest`.
        run_id: String,
        /// Only these paths, or what lies in them.
        paths: Vec<String>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Remove old records, as `[runs]` in the settings says; runs do so too.
    ///
    /// Changes that are held, and what the workspace had before, stay for `runs.keep_for`.
    Prune {
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
            let Ended { record, result } = ended(&run_id, context)?;
            match json {
                true => out::json(&result),
                false => out::text(&format!("{}\n{}", result.text(), record.folder().display())),
            }
        }
        Command::Diff { run_id } => {
            let Ended { record, .. } = ended(&run_id, context)?;
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
        Command::Apply { run_id, paths, on_conflict, json } => {
            let on_conflict = on_conflict.map(|word| Conflicts::parse(&word)).transpose()?;
            let run_id = find(&run_id, context)?.id().to_owned();
            let call = ApplyCall { run_id, paths, on_conflict };
            let report = with_jobs(context, async |jobs| jobs.apply(call).await).await?;
            match json {
                true => out::json(&report)?,
                false => out::text(&report.text())?,
            };
            Ok(if report.conflicts.is_empty() { Outcome::Success } else { Outcome::Failed })
        }
        Command::Undo { run_id, paths, json } => {
            let run_id = find(&run_id, context)?.id().to_owned();
            let call = UndoCall { run_id, paths };
            let report = with_jobs(context, async |jobs| jobs.undo(call).await).await?;
            match json {
                true => out::json(&report)?,
                false => out::text(&report.text())?,
            };
            Ok(if report.refused.is_empty() { Outcome::Success } else { Outcome::Failed })
        }
        Command::Prune { json } => {
            let (runs, state) = (context.paths.runs.clone(), context.paths.state.clone());
            let rules = context.loaded.config.runs.clone();
            let go = move || prune(&runs, &state, &rules, SystemTime::now());
            let pruned = tokio::task::spawn_blocking(go)
                .await
                .map_err(|error| Stopped::failed(format!("pruning ended early: {error}")))?
                .map_err(failed)?;
            match json {
                true => out::json(&pruned),
                false => out::text(&told(&pruned)),
            }
        }
    }
}

/// What went, for a person.
fn told(pruned: &Pruned) -> String {
    if pruned.is_nothing() {
        return "Nothing to remove: all records are within [runs], or have the only copy of \
                something."
            .into();
    }
    let mut lines: Vec<String> =
        pruned.removed.iter().map(|run| format!("removed {run}")).collect();
    lines.extend(pruned.slimmed.iter().map(|run| {
        format!("removed the logs of {run} (its changes stay, they are the only copy)")
    }));
    let bytes = bytesize::ByteSize::b(pruned.bytes).display().iec();
    lines.push(format!("{bytes} are free now."));
    lines.join("\n")
}

/// Does something with the jobs. Nothing runs, so no container needs to wait.
async fn with_jobs<T>(
    context: &Context,
    work: impl AsyncFnOnce(&dyn Jobs) -> Result<T, Failure>,
) -> Result<T, Stopped> {
    let mut config = context.loaded.config.clone();
    config.pool.min_idle = 0;
    let parts = parts::start_with(context, config)?;
    let done = work(&*parts.orchestrator).await;
    parts.end.await;
    Ok(done?)
}

/// A run that has ended. Of one whose server was killed, what became of it is found out now.
fn ended(run_id: &str, context: &Context) -> Result<Ended, Stopped> {
    let id = find(run_id, context)?.id().to_owned();
    let config = &context.loaded.config;
    let (roots, lock_timeout) = (parts::roots(context, config), config.workspace.lock_timeout);
    Ok(crate::job::ended::ended(&parts::places(context), &roots, lock_timeout, &id)?)
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
    Failure::from(error).into()
}
