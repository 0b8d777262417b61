//! One `codex_run` from its acceptance to its result; the only place that knows the order of the
//! stages.
//!
//! ```text
//!  call ─> prepare ─> lease ─> send ─> Codex ─> end ─> collect ─> settle ─> apply or hold ─> result
//!             │         │        │       │       │        │          │
//!          refused   never     never   failed, not     not whole:  reset or destroy,
//!          (no run)  started   started timed   ended:  nothing     in the background
//!                                      out,    nothing kept
//!                                      cancelled kept
//! ```
//!
//! Whatever happens after `prepare`, the run has a folder with a result in it, and its container is
//! either reset or destroyed.

pub mod ask;
pub mod call;
mod changes;
mod commits;
mod connections;
pub mod drops;
pub mod ended;
mod following;
mod inherited;
mod output;
pub mod progress;
pub mod result;
mod run;
mod sending;
mod stop;
mod thread;
mod told;
mod transfer;
mod turn;
mod warm;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::config::{Config, ModelConfig, NetworkConfig, RunConfig};
use crate::container::{Profile, Starter};
use crate::engine::{Engine, EngineFacts};
use crate::failure::{ErrorKind, Failure};
use crate::model::credentials::{self, Files};
use crate::model::gateway::Gateway;
use crate::network;
use crate::pool::Pool;
use crate::pool::owner::Owner;
use crate::pool::status::PoolStatus;
use crate::pool::sweep::Sweeper;
use crate::record::pruner::Pruner;
use crate::workspace::Workspace;
use crate::workspace::apply::recover::recover_all;
use crate::workspace::classify::Policy;
use crate::workspace::git::commits::switch;
use crate::workspace::held::Manifests;
use crate::workspace::root::Roots;

use self::ask::Asker;
use self::call::{ApplyCall, DiffCall, RunCall, UndoCall};
use self::progress::ProgressSender;
use self::result::{ApplyReport, DiffPage, RunResult, UndoReport};
use self::warm::Warm;

/// What the tools do; behind it are the pool, the workspaces and the records.
pub trait Jobs: Send + Sync + 'static {
    /// Runs Codex. Once `cancel` is cancelled it ends soon, with a result like any other; the
    /// future itself is not dropped before it is done. In mode `ask`, `asker` is asked.
    fn run(
        &self,
        call: RunCall,
        progress: ProgressSender,
        asker: Arc<dyn Asker>,
        cancel: CancellationToken,
    ) -> BoxFuture<'_, RunResult>;

    /// One page of the diff of a run.
    fn diff(&self, call: DiffCall) -> BoxFuture<'_, Result<DiffPage, Failure>>;

    /// Applies what is held of a run.
    fn apply(&self, call: ApplyCall) -> BoxFuture<'_, Result<ApplyReport, Failure>>;

    /// Takes back what was applied of a run.
    fn undo(&self, call: UndoCall) -> BoxFuture<'_, Result<UndoReport, Failure>>;

    /// The clocks and limits of runs, which a new file of settings may change.
    fn limits(&self) -> RunConfig;

    /// The pool now. Must answer at once, also while containers start.
    fn pool_status(&self) -> PoolStatus;

    /// The network of the containers, which the texts of the tools tell.
    fn network(&self) -> NetworkConfig;

    /// Tells when the settings have changed; its sender goes with the jobs. Where they never change,
    /// as by default, it is gone already.
    fn changes(&self) -> watch::Receiver<()> {
        watch::channel(()).1
    }
}

/// How long the end of the server waits for an apply; the client may kill before.
const APPLY_END: Duration = Duration::from_secs(60);

/// Between the first sweep and the second, which removes what both saw.
const FIRST_SWEEP: Duration = Duration::from_secs(3);

/// Between later sweeps.
const SWEEP: Duration = Duration::from_secs(60);

/// Reads a variable of the environment that the server was started in.
pub type Lookup = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// Where things are kept.
#[derive(Clone, Debug)]
pub struct Places {
    /// The runs directory.
    pub runs: PathBuf,
    /// Owner files and locks.
    pub state: PathBuf,
    /// `docker/.env` of a checkout, if this is one.
    pub docker_env: Option<PathBuf>,
    /// `CODEX_HOME` of the host, with the login in it.
    pub codex_home: PathBuf,
}

/// What the settings say. A job uses those that were in force when it was accepted.
#[derive(Debug)]
struct Settings {
    config: Config,
    roots: Roots,
    policy: Policy,
}

impl Settings {
    fn new(config: Config, roots: Roots) -> Result<Self, Failure> {
        let policy = Policy::new(&config.workspace.protect)
            .map_err(|error| Failure::new(ErrorKind::InvalidArgument, error.to_string()))?;
        Ok(Self { config, roots, policy })
    }

    /// Whether what runs on `workspace` build stays for the next one. Blocks for a look at each path
    /// of a `[repo]` section, since what is there may have become another directory.
    fn keeps_built(&self, workspace: &Workspace) -> bool {
        let own = self.config.repo_of(workspace.key).and_then(|repo| repo.keep_ignored);
        own.unwrap_or(self.config.workspace.keep_ignored)
    }

    /// The paths of the host that lead to a workspace, as far as they can be told a keeper.
    fn links(&self, workspace: &Workspace) -> Vec<String> {
        let paths = self.roots.paths_of(workspace).into_iter();
        paths.filter_map(|path| path.into_os_string().into_string().ok()).collect()
    }
}

/// Everything that outlives a single job.
pub struct Orchestrator {
    settings: Arc<Mutex<Arc<Settings>>>,
    /// Why the last file of settings was refused.
    settings_error: Mutex<Option<String>>,
    /// Other settings are in force.
    changed: watch::Sender<()>,
    places: Places,
    lookup: Lookup,
    /// Our label, which the records of our runs have.
    owner: String,
    engine_facts: Arc<Mutex<Option<EngineFacts>>>,
    pruner: Arc<Pruner>,
    pool: Pool<Starter>,
    /// What containers hold of workspaces.
    manifests: Manifests,
    /// The gateway for the settings and the credential it was made for; made anew when one of them
    /// changes.
    gateway: Mutex<Option<(ModelConfig, Gateway)>>,
    /// What was told of the user's own Codex home last.
    inherited: Arc<inherited::Told>,
    /// Applies under way, which the end of the server waits for.
    applies: TaskTracker,
    /// Cancelled by [`Orchestrator::stop`]: what takes long is given up.
    ending: CancellationToken,
    /// Fills idle containers ahead of the calls.
    warm: Warm,
    /// Sweeps and greets the engine; ends with the orchestrator.
    _background: AbortOnDropHandle<()>,
    /// Does what `copies drop` asks for.
    _drops: AbortOnDropHandle<()>,
}

/// What an orchestrator is started with.
pub struct Parts {
    /// All settings.
    pub config: Config,
    /// Where things are kept.
    pub places: Places,
    /// Which workspaces may be used.
    pub roots: Roots,
    /// The environment.
    pub lookup: Lookup,
    /// What starts containers.
    pub engine: Arc<dyn Engine>,
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").field("config", &self.config).finish_non_exhaustive()
    }
}

impl fmt::Debug for Orchestrator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Orchestrator")
            .field("settings", &self.settings())
            .field("places", &self.places)
            .finish_non_exhaustive()
    }
}

impl Orchestrator {
    /// Claims an owner's identity and begins to fill the pool, in the background: nothing of the
    /// engine is waited for. What a killed server left half applied is put right in the background
    /// too; a run on such a workspace does it first. Must be called in a tokio runtime.
    ///
    /// # Errors
    ///
    /// A setting that cannot be used, or a state directory that cannot be written.
    pub fn start(parts: Parts) -> Result<Self, Failure> {
        let Parts { config, places, roots, lookup, engine } = parts;
        let settings = Settings::new(config, roots)?;
        let config = &settings.config;
        let owner = Owner::claim(&places.state)
            .map_err(|error| Failure::new(ErrorKind::Internal, error.to_string()))?;
        let state = places.state.clone();
        tokio::task::spawn_blocking(move || recover_all(&state));
        let sweeper = Sweeper::new(owner.label(), &places.state);
        let label = owner.label().to_owned();
        if let Some(warning) = network::warning(&config.network) {
            tracing::warn!("{warning}");
        }
        let profile = Profile::of(config, &settings.roots.paths());
        let starter = Starter::new(Arc::clone(&engine), profile, owner.into());
        let pool = Pool::start(starter, config.pool.clone());
        pool.set_disk_budget(config.workspace.disk_budget);
        let state = places.state.clone();
        tokio::task::spawn_blocking(move || switch::recover_all(&state));
        let engine_facts = Arc::new(Mutex::new(None));
        let background = tokio::spawn(keep_house(
            Arc::clone(&engine),
            Arc::clone(&engine_facts),
            pool.clone(),
            sweeper,
        ));
        let drops = drops::follow(places.state.clone(), label.clone(), pool.clone());
        let drops = tokio::spawn(drops);
        let settings = Arc::new(Mutex::new(Arc::new(settings)));
        let (manifests, ending) = (Manifests::default(), CancellationToken::new());
        let warm = Warm::start(warm::Context {
            settings: Arc::clone(&settings),
            pool: pool.clone(),
            state_dir: places.state.clone(),
            manifests: manifests.clone(),
            ending: ending.clone(),
        });
        Ok(Self {
            settings,
            settings_error: Mutex::new(None),
            changed: watch::Sender::new(()),
            places,
            lookup,
            owner: label,
            pruner: Arc::new(Pruner::start()),
            engine_facts,
            pool,
            manifests,
            gateway: Mutex::new(None),
            inherited: Arc::default(),
            applies: TaskTracker::new(),
            ending,
            warm,
            _background: AbortOnDropHandle::new(background),
            _drops: AbortOnDropHandle::new(drops),
        })
    }

    /// Removes every container. Resolves when they are gone or `limit` is over; what is left then
    /// ends by itself, since its stream ends with this process, and is swept by the next one. Runs
    /// that were cancelled have half of `server.shutdown_grace` to collect what Codex had changed.
    /// An apply that is under way is waited for all the same: the user's files come first.
    pub async fn stop(&self, limit: Duration) {
        self.ending.cancel();
        if tokio::time::timeout(limit, self.pool.drain()).await.is_err() {
            tracing::warn!("containers were left to end by themselves (server.shutdown_grace)");
        }
        self.applies.close();
        if tokio::time::timeout(APPLY_END, self.applies.wait()).await.is_err() {
            tracing::error!("the server ends while changes are still being written");
        }
        let gateway = self.gateway.lock().clone();
        if let Some((_, gateway)) = gateway {
            // Bounded by itself; one that is cut off would cost the user the login.
            gateway.credential().settle().await;
        }
    }

    /// Puts new settings in force: sizes and times of the pool at once, the rest from the next job
    /// on. If containers are to be started from something else, idle ones are replaced at once and
    /// leased ones at the end of their lease.
    ///
    /// # Errors
    ///
    /// A setting that cannot be used; then everything stays as it was.
    pub fn change(&self, config: Config, roots: Roots) -> Result<(), Failure> {
        let settings = Settings::new(config, roots)?;
        let config = &settings.config;
        self.pool.source().change(Profile::of(config, &settings.roots.paths()));
        self.pool.change(config.pool.clone());
        self.pool.set_disk_budget(config.workspace.disk_budget);
        let warning = network::warning(&config.network);
        let before = std::mem::replace(&mut *self.settings.lock(), Arc::new(settings));
        if let Some(warning) =
            warning.filter(|it| network::warning(&before.config.network).as_ref() != Some(it))
        {
            tracing::warn!("{warning}");
        }
        // Who fills containers looks at them again.
        self.pool.inspect();
        self.changed.send_replace(());
        Ok(())
    }

    /// Notes why a new file of settings was refused, or that there is no such reason any more.
    pub fn settings_refused(&self, sentence: Option<String>) {
        *self.settings_error.lock() = sentence;
    }

    /// The settings now.
    fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.settings.lock())
    }

    /// The pool.
    pub fn pool(&self) -> &Pool<Starter> {
        &self.pool
    }

    /// Removes old records in the background, as `[runs]` says, if that is due now that a run has
    /// ended whose record is in `folder`.
    fn prune_records(&self, folder: PathBuf) {
        let (runs, state) = (self.places.runs.clone(), self.places.state.clone());
        let rules = self.settings().config.runs.clone();
        let pruner = Arc::clone(&self.pruner);
        tokio::task::spawn_blocking(move || pruner.ended(&folder, &runs, &state, &rules));
    }

    /// The gateway for the credential that is there now, so that a key that is set later is used
    /// without a restart.
    fn gateway(&self) -> Result<Gateway, Failure> {
        let settings = self.settings();
        let model = &settings.config.model;
        let lookup = |name: &str| (self.lookup)(name);
        let files = Files {
            docker_env: self.places.docker_env.as_deref(),
            codex_home: &self.places.codex_home,
        };
        let credential = credentials::find(model, lookup, files)?;
        let mut kept = self.gateway.lock();
        if let Some((made_for, gateway)) = &*kept
            && made_for == model
            && gateway.credential().serves_for(&credential)
        {
            return Ok(gateway.clone());
        }
        for warning in credential.warnings() {
            tracing::warn!("{warning}");
        }
        let gateway = Gateway::new(model, credential, lookup)
            .map_err(|error| Failure::new(ErrorKind::Internal, error.to_string()))?;
        *kept = Some((model.clone(), gateway.clone()));
        Ok(gateway)
    }
}

/// Learns the engine's name and version, and sweeps what dead orchestrators left: at once, again
/// soon, since only what was seen twice is removed, and then regularly.
async fn keep_house(
    engine: Arc<dyn Engine>,
    engine_facts: Arc<Mutex<Option<EngineFacts>>>,
    pool: Pool<Starter>,
    mut sweeper: Sweeper,
) {
    let mut pause = FIRST_SWEEP;
    let mut recoveries = pool.recoveries();
    loop {
        match engine.facts().await {
            Ok(facts) => {
                pool.set_desktop(facts.desktop);
                *engine_facts.lock() = Some(facts);
            }
            Err(error) => tracing::debug!(%error, "no engine"),
        }
        let mut next = SWEEP;
        match sweeper.sweep_once(&*engine, &|| pool.is_starting()).await {
            Ok(swept) => {
                // What a killed server had only asked for comes up after the first look.
                if swept.waiting > 0 {
                    next = FIRST_SWEEP;
                }
                for (container, error) in swept.failed {
                    tracing::warn!(%container, %error, "an orphan could not be removed");
                }
            }
            Err(error) => tracing::debug!(%error, "no sweep"),
        }
        tokio::select! {
            () = tokio::time::sleep(std::mem::replace(&mut pause, SWEEP).min(next)) => {}
            // An engine that failed may have lost something in the middle of a start.
            _ = recoveries.changed() => tokio::time::sleep(FIRST_SWEEP).await,
        }
    }
}

impl Jobs for Orchestrator {
    fn run(
        &self,
        call: RunCall,
        progress: ProgressSender,
        asker: Arc<dyn Asker>,
        cancel: CancellationToken,
    ) -> BoxFuture<'_, RunResult> {
        Box::pin(run::run(self, call, progress, asker, cancel))
    }

    fn diff(&self, call: DiffCall) -> BoxFuture<'_, Result<DiffPage, Failure>> {
        Box::pin(changes::later::diff(self, call))
    }

    fn apply(&self, call: ApplyCall) -> BoxFuture<'_, Result<ApplyReport, Failure>> {
        Box::pin(changes::later::apply_held(self, call))
    }

    fn undo(&self, call: UndoCall) -> BoxFuture<'_, Result<UndoReport, Failure>> {
        Box::pin(changes::undo::undo(self, call))
    }

    fn limits(&self) -> RunConfig {
        self.settings().config.run.clone()
    }

    fn pool_status(&self) -> PoolStatus {
        let engine =
            self.engine_facts.lock().as_ref().map(|facts| {
                format!("{} {} (API {})", facts.name, facts.version, facts.api_version)
            });
        let warning = network::warning(&self.settings().config.network);
        let settings_error = self.settings_error.lock().clone();
        PoolStatus { engine, warning, settings_error, ..self.pool.status() }
    }

    fn network(&self) -> NetworkConfig {
        self.settings().config.network.clone()
    }

    fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }
}

/// Runs blocking work on a thread for it.
///
/// # Errors
///
/// [`ErrorKind::Internal`] if it panicked.
async fn blocking<T, E>(work: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, Failure>
where
    T: Send + 'static,
    E: Into<Failure> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome.map_err(Into::into),
        Err(panic) => Err(Failure::new(
            ErrorKind::Internal,
            format!("a part of the server failed ({panic}); please report it"),
        )),
    }
}
