//! The status of the pool in the log: what `codex_pool_status` answers, as one line of JSON.
//!
//! A line a minute at most, only if something is other than in the line before, and one at the end.

use std::sync::Arc;
use std::time::Duration;

use crate::job::{Jobs, Orchestrator};
use crate::pool::status::PoolStatus;

/// Between two looks.
const PAUSE: Duration = Duration::from_secs(60);

/// Writes the lines until it is dropped.
pub(super) async fn follow(orchestrator: Arc<Orchestrator>) {
    let mut told = None;
    loop {
        tokio::time::sleep(PAUSE).await;
        if let Some(status) = news(&mut told, orchestrator.pool_status()) {
            tell(&status);
        }
    }
}

/// `now`, if it is other than what was `told`; then it counts as told.
fn news(told: &mut Option<PoolStatus>, now: PoolStatus) -> Option<PoolStatus> {
    if told.as_ref() == Some(&now) {
        return None;
    }
    *told = Some(now.clone());
    Some(now)
}

/// Writes one line.
pub(super) fn tell(status: &PoolStatus) {
    match serde_json::to_string(status) {
        Ok(status) => tracing::info!("codex_pool_status {status}"),
        Err(error) => tracing::error!(%error, "the status of the pool cannot be written"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_new_is_told() {
        let mut told = None;
        let status = |hits| PoolStatus { hits, ..PoolStatus::default() };
        let hits: Vec<_> =
            [0, 0, 1, 1, 0].map(|hits| news(&mut told, status(hits)).map(|it| it.hits)).into();
        assert_eq!(hits, [Some(0), None, Some(1), None, Some(0)]);
    }
}
