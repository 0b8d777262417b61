//! `reap`: removes the containers of orchestrators that live no more.

use std::time::Duration;

use serde::Serialize;

use super::{Context, Outcome, Stopped, engine, out};
use crate::pool::sweep::Sweeper;

/// Between the two looks: an engine lists for a moment what it is removing already.
const PAUSE: Duration = Duration::from_millis(500);

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
    // Nobody's own: a command starts no containers. What an owner on another machine that shares this
    // engine has is never judged.
    let mut sweeper = Sweeper::new("", &context.paths.state);
    let failed = |error| engine::failure(&error);
    let first = sweeper.sweep_once(&engine, &|| false).await.map_err(failed)?;
    let mut reaped = Reaped::default();
    if first.waiting > 0 {
        tokio::time::sleep(PAUSE).await;
        let second = sweeper.sweep_once(&engine, &|| false).await.map_err(failed)?;
        reaped.removed = second.removed.iter().map(|id| id.short().to_owned()).collect();
        reaped.failed = second.failed.iter().map(|(_, error)| error.to_string()).collect();
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
