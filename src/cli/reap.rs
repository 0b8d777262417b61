//! `reap`: removes the containers of orchestrators that live no more.

use serde::Serialize;

use super::{Context, Outcome, Stopped, engine, out};
use crate::container::label;
use crate::engine::Engine;
use crate::pool::owner::{self, Alive};

/// Flags of `reap`.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Default, Serialize)]
struct Reaped {
    removed: Vec<String>,
    failed: Vec<String>,
}

pub(super) async fn execute(arguments: &Arguments, context: &Context) -> Result<Outcome, Stopped> {
    let engine = engine::connect(context).map_err(|error| engine::failure(&error))?;
    let listed = engine.list(label::OWNER).await.map_err(|error| engine::failure(&error))?;
    let mut reaped = Reaped::default();
    for found in listed {
        // Only what is dead for certain: an owner on another machine may share this engine.
        let dead = found
            .labels
            .get(label::OWNER)
            .is_some_and(|owner| owner::alive(owner, &context.paths.state) == Alive::No);
        if !dead {
            continue;
        }
        match engine.remove(&found.id).await {
            Ok(()) => reaped.removed.push(found.id.short().to_owned()),
            Err(error) => reaped.failed.push(error.to_string()),
        }
    }
    if arguments.json {
        out::json(&reaped)?;
    } else {
        out::text(&format!("{} removed", reaped.removed.len()))?;
    }
    match reaped.failed.first() {
        None => Ok(Outcome::Success),
        Some(error) => Err(Stopped::failed(error.clone())),
    }
}
