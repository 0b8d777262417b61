//! Puts the parts together for the commands that run Codex.

use std::sync::Arc;

use futures::future::BoxFuture;

use super::{Context, engine};
use crate::config::Config;
use crate::engine::{Engine, Unusable};
use crate::failure::Failure;
use crate::job::{Orchestrator, Parts as JobParts, Places};
use crate::workspace::root::Roots;

/// The jobs, and how to end what is behind them.
pub(super) struct Parts {
    pub(super) orchestrator: Arc<Orchestrator>,
    /// Removes every container of ours; to be awaited after the last job has ended.
    pub(super) end: BoxFuture<'static, ()>,
}

/// Makes the parts. Does not wait for a container or an engine: a server must answer `initialize`
/// at once.
pub(super) fn start(context: &Context) -> Result<Parts, Failure> {
    start_with(context, context.loaded.config.clone())
}

/// As [`start`], with settings that a command changed.
pub(super) fn start_with(context: &Context, config: Config) -> Result<Parts, Failure> {
    let orchestrator = Arc::new(orchestrator(context, config)?);
    let limit = context.loaded.config.server.shutdown_grace;
    let ending = Arc::clone(&orchestrator);
    let end = Box::pin(async move { ending.stop(limit).await });
    Ok(Parts { orchestrator, end })
}

/// The orchestrator itself, for what measures it.
pub(super) fn orchestrator(context: &Context, config: Config) -> Result<Orchestrator, Failure> {
    // An endpoint that cannot be used is told by every call: a client shows that, and not stderr.
    let engine: Arc<dyn Engine> = match engine::connect(context) {
        Ok(engine) => Arc::new(engine),
        Err(error) => Arc::new(Unusable(error.to_string())),
    };
    Orchestrator::start(JobParts {
        places: places(context),
        roots: roots(context, &config),
        config,
        lookup: Arc::clone(&context.lookup),
        engine,
    })
}

/// Which workspaces may be used.
pub(super) fn roots(context: &Context, config: &Config) -> Roots {
    let paths = &context.paths;
    Roots::from(
        &config.workspace,
        |name| (context.lookup)(name),
        context.workspace.clone(),
        &paths.runs,
        &paths.state,
        &paths.codex_home,
        &paths.home,
    )
}

/// Where things are kept.
pub(super) fn places(context: &Context) -> Places {
    let paths = &context.paths;
    Places {
        runs: paths.runs.clone(),
        state: paths.state.clone(),
        docker_env: paths.checkout.as_ref().map(|checkout| checkout.join("docker/.env")),
        codex_home: paths.codex_home.clone(),
    }
}
