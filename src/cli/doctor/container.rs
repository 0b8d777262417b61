//! Arms one container as a server does, and tells what came of it.

use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use super::super::{Context, parts};
use crate::config::Recycle;
use crate::container::{Profile, Starter};
use crate::engine::Engine;
use crate::pool::owner::Owner;
use crate::pool::source::{Findings, Pooled, Source};

/// What arming found.
#[derive(Debug, Serialize)]
pub(super) struct Armed {
    /// From the request to start a container until it could be leased, in milliseconds.
    armed_ms: u64,
    #[serde(flatten)]
    findings: Findings,
    /// What happens to a container after a run.
    #[serde(skip)]
    recycle: Recycle,
}

impl Armed {
    /// In one line.
    pub(super) fn line(&self) -> String {
        let Self { armed_ms, findings, recycle } = self;
        let enforced = match findings.unenforced.join("; ") {
            none if none.is_empty() => "everything that was asked for is in force".to_owned(),
            some => format!("not in force: {some}"),
        };
        let after = match (recycle, findings.no_reset.join("; ")) {
            (Recycle::Destroy, _) => "destroyed after each run (pool.recycle = \"destroy\")".into(),
            (Recycle::Reset, none) if none.is_empty() => "reset after each run".to_owned(),
            (Recycle::Reset, some) => {
                format!("destroyed after each run and not reset, since {some}")
            }
        };
        format!("armed in {armed_ms} ms; {enforced}; {after}")
    }
}

/// Starts a container, arms it, and removes it again.
///
/// # Errors
///
/// What the start ran into, or that the container could not be removed.
pub(super) async fn arm(engine: Arc<dyn Engine>, context: &Context) -> Result<Armed, String> {
    let owner = Owner::claim(&context.paths.state).map_err(|error| error.to_string())?;
    let config = &context.loaded.config;
    let profile = Profile::of(config, &parts::roots(context, config).paths());
    let starter = Starter::new(engine, profile, Arc::new(owner));
    let began = Instant::now();
    let armed = starter.start().await.map_err(|error| error.to_string())?;
    let armed_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    let findings = armed.findings().clone();
    let removed = starter.remove(armed.id()).await;
    drop(armed);
    removed.map_err(|error| format!("armed in {armed_ms} ms, but not removed: {error}"))?;
    Ok(Armed { armed_ms, findings, recycle: config.pool.recycle })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(recycle: Recycle, unenforced: &[&str], no_reset: &[&str]) -> String {
        let list = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let findings = Findings { unenforced: list(unenforced), no_reset: list(no_reset) };
        Armed { armed_ms: 200, findings, recycle }.line()
    }

    #[test]
    fn the_line_says_what_is_in_force_and_what_becomes_of_a_container() {
        assert_eq!(
            line(Recycle::Reset, &[], &[]),
            "armed in 200 ms; everything that was asked for is in force; reset after each run"
        );
        assert_eq!(
            line(Recycle::Reset, &["a", "b"], &["c"]),
            "armed in 200 ms; not in force: a; b; destroyed after each run and not reset, since c"
        );
        let by_setting = line(Recycle::Destroy, &[], &["c"]);
        assert!(by_setting.ends_with("destroyed after each run (pool.recycle = \"destroy\")"));
    }
}
