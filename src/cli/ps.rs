//! `ps`: the containers of all orchestrators.

use serde::Serialize;

use super::{Context, Outcome, Stopped, engine, out};
use crate::container::label;
use crate::engine::Engine;
use crate::pool::owner::{self, Alive};

/// Flags of `ps`.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Serialize)]
struct Row {
    container_id: String,
    state: String,
    started: String,
    /// Whether the orchestrator that started it lives: yes, no, unknown.
    owner_alive: &'static str,
    owner: String,
}

pub(super) async fn execute(arguments: &Arguments, context: &Context) -> Result<Outcome, Stopped> {
    let engine = engine::connect(context).map_err(|error| engine::failure(&error))?;
    let listed = engine.list(label::OWNER).await.map_err(|error| engine::failure(&error))?;
    let rows: Vec<Row> = listed
        .into_iter()
        .map(|found| {
            let text = |key: &str| found.labels.get(key).cloned().unwrap_or_default();
            let owner = text(label::OWNER);
            let owner_alive = match owner::alive(&owner, &context.paths.state) {
                Alive::Yes => "yes",
                Alive::No => "no",
                Alive::Unknown => "unknown",
            };
            Row {
                container_id: found.id.short().to_owned(),
                state: found.state.clone(),
                started: text(label::STARTED),
                owner_alive,
                owner,
            }
        })
        .collect();
    if arguments.json {
        return out::json(&rows);
    }
    if rows.is_empty() {
        return out::text("No container is there.");
    }
    let rows: Vec<Vec<String>> = rows
        .into_iter()
        .map(|row| vec![row.container_id, row.state, row.started, row.owner_alive.to_owned()])
        .collect();
    out::table(&["CONTAINER", "STATE", "STARTED", "OWNER LIVES"], &rows)
}
