//! `serve`: MCP on stdin and stdout.

use std::path::PathBuf;

use tokio_util::sync::CancellationToken;

use super::{Context, Outcome, Stopped, parts};
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
    let (reader, writer) = server::standard_streams();
    let served = server::run(
        parts.jobs,
        config.run.clone(),
        config.server.shutdown_grace,
        reader,
        writer,
        shutdown,
    )
    .await;
    // Bounded, because the client kills two seconds after it has closed its end.
    if tokio::time::timeout(config.server.shutdown_grace, parts.end).await.is_err() {
        tracing::warn!("server.shutdown_grace ran out before every container was removed");
    }
    served.map_err(stopped)?;
    Ok(Outcome::Success)
}
