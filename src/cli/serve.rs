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
    let grace = config.server.shutdown_grace;
    // One grace bounds all of it, because the client kills two seconds after it has closed its end;
    // what the calls leave of it is for the containers.
    let calls = grace / 3 * 2;
    let ending = shutdown.clone();
    let served = async {
        let served =
            server::run(parts.jobs, config.run.clone(), calls, reader, writer, shutdown).await;
        parts.end.await;
        served
    };
    let served = tokio::select! {
        served = served => served,
        () = async {
            ending.cancelled().await;
            tokio::time::sleep(grace).await;
        } => {
            tracing::warn!("server.shutdown_grace ran out; the containers end by themselves");
            Ok(())
        }
    };
    served.map_err(stopped)?;
    Ok(Outcome::Success)
}
