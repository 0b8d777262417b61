//! Settings that change while the server runs.
//!
//! ```text
//!  the file changed, or SIGHUP ─> read and checked ─┬─> wrong: nothing changes, the log and the
//!                                                   │   status of the pool say why
//!                                                   └─> new: from the next job on
//! ```

use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cli::{Context, Stopped, parts};
use crate::config::watch::Watch;
use crate::config::{self, Config};
use crate::job::Orchestrator;

/// Follows the file of settings until it is dropped.
pub(super) async fn follow(context: Context, orchestrator: Arc<Orchestrator>) {
    let overrides = context.overrides();
    let mut watch =
        config::file(&overrides, |name| (context.lookup)(name)).as_deref().map(Watch::new);
    let mut hangup = signal(SignalKind::hangup())
        .inspect_err(|error| tracing::warn!(%error, "SIGHUP cannot be listened for"))
        .ok();
    let mut now = context.loaded.config.clone();
    loop {
        tokio::select! {
            () = changed(watch.as_mut()) => {}
            () = received(hangup.as_mut()) => tracing::info!("reading the settings by SIGHUP"),
        }
        match read(&context, &orchestrator, &now) {
            Ok(Some(new)) => now = new,
            Ok(None) => {}
            Err(stopped) => {
                let sentence = stopped.sentence;
                tracing::error!("the settings stay as they were: {sentence}");
                orchestrator.settings_refused(Some(sentence));
            }
        }
    }
}

/// Reads the settings and puts them in force. `None` if they are as they were.
fn read(
    context: &Context,
    orchestrator: &Orchestrator,
    now: &Config,
) -> Result<Option<Config>, Stopped> {
    let new = config::load(&context.overrides(), |name| (context.lookup)(name))?.config;
    orchestrator.settings_refused(None);
    if new == *now {
        return Ok(None);
    }
    let later = at_the_next_start(now, &new);
    orchestrator.change(new.clone(), parts::roots(context, &new))?;
    tracing::info!("the settings have changed");
    for key in later {
        tracing::warn!("{key} has changed and is used when the server is started again");
    }
    Ok(Some(new))
}

/// The keys that differ and are read only once.
fn at_the_next_start(now: &Config, new: &Config) -> Vec<&'static str> {
    let keys = [
        ("runs.dir", now.runs.dir != new.runs.dir),
        ("server.log", now.server.log != new.server.log),
        ("server.log_format", now.server.log_format != new.server.log_format),
        ("server.shutdown_grace", now.server.shutdown_grace != new.server.shutdown_grace),
    ];
    keys.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key).collect()
}

async fn changed(watch: Option<&mut Watch>) {
    match watch {
        Some(watch) => watch.changed().await,
        None => std::future::pending().await,
    }
}

async fn received(signal: Option<&mut Signal>) {
    let received = match signal {
        Some(signal) => signal.recv().await,
        None => None,
    };
    if received.is_none() {
        std::future::pending().await
    }
}
