//! `serve`: MCP on stdin and stdout.

mod pool_log;
mod settings;

use std::path::PathBuf;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::{Context, Outcome, Stopped, parts};
use crate::job::Jobs;
use crate::server;

/// Flags of `serve`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Arguments {
    /// The workspace of calls that name none.
    #[arg(long, value_name = "DIRECTORY")]
    pub workspace: Option<PathBuf>,
}

pub(super) async fn execute(context: &Context) -> Result<Outcome, Stopped> {
    let config = &context.loaded.config;
    let shutdown = CancellationToken::new();
    let stopped = |error: server::ServerError| {
        let source = std::error::Error::source(&error).map(|source| format!(": {source}"));
        Stopped::failed(format!("{error}{}", source.unwrap_or_default()))
    };
    server::cancel_on_signals(shutdown.clone()).map_err(stopped)?;
    let parts = parts::start(context)?;
    let _following = AbortOnDropHandle::new(tokio::spawn(settings::follow(
        context.clone(),
        Arc::clone(&parts.orchestrator),
    )));
    let _telling =
        AbortOnDropHandle::new(tokio::spawn(pool_log::follow(Arc::clone(&parts.orchestrator))));
    // The containers go while the last calls are answered, so that both fit into one grace period:
    // the client kills two seconds after it has closed its end.
    let ending = tokio::spawn({
        let (shutdown, orchestrator) = (shutdown.clone(), Arc::clone(&parts.orchestrator));
        async move {
            shutdown.cancelled().await;
            pool_log::tell(&orchestrator.pool_status());
            drop(orchestrator);
            parts.end.await;
        }
    });
    let (reader, writer) = server::standard_streams();
    let grace = config.server.shutdown_grace;
    let served = server::run(parts.orchestrator, grace, reader, writer, shutdown.clone()).await;
    shutdown.cancel();
    // Bounded by the grace period, which began with the shutdown.
    if let Err(panic) = ending.await {
        tracing::error!(%panic, "the containers were not removed");
    }
    served.map_err(stopped)?;
    Ok(Outcome::Success)
}
