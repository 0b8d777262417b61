//! Pools as the server makes them, no-op jobs in their containers, and the end of all of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use mcp_codex_orchestrator::config::{ContainerConfig, NetworkConfig, PoolConfig, Recycle};
use mcp_codex_orchestrator::container::{ArmedContainer, HostPaths, Profile, Starter, label};
use mcp_codex_orchestrator::engine::docker::{DockerEngine, Endpoint};
use mcp_codex_orchestrator::engine::{Engine, Network};
use mcp_codex_orchestrator::keeper::client::ProgramEvent;
use mcp_codex_orchestrator::keeper::wire::SpawnRequest;
use mcp_codex_orchestrator::pool::Pool;
use mcp_codex_orchestrator::pool::choice::WorkspaceKey;
use mcp_codex_orchestrator::pool::lease::Lease;
use mcp_codex_orchestrator::pool::owner::Owner;
use mcp_codex_orchestrator::pool::source::Source;
use mcp_codex_orchestrator::pool::status::PoolStatus;
use mcp_codex_orchestrator::verdict::JobEnd;
use parking_lot::Mutex;

use super::docker::{Failed, image};

/// How long anything that is waited for may take.
const LONG: Duration = Duration::from_secs(120);

/// How often a pool is looked at while something is waited for: the error of such a figure.
const LOOK: Duration = Duration::from_millis(1);

/// A day, which is for ever here.
const FOR_EVER: Duration = Duration::from_secs(86_400);

/// What a container of a job that does next to nothing may take.
const MEMORY: u64 = 512 << 20;

type Drain = Box<dyn Fn() -> BoxFuture<'static, ()> + Send>;

/// The engine, our identity in it, and every pool that was started.
pub(crate) struct Ground {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) home: tempfile::TempDir,
    /// What a container may take, in bytes.
    pub(crate) memory: u64,
    owner: Arc<Owner>,
    drains: Mutex<Vec<Drain>>,
}

impl Ground {
    pub(crate) fn prepare() -> Result<Self, Failed> {
        let home = tempfile::tempdir()?;
        let owner = Arc::new(Owner::claim(home.path())?);
        let engine = engine(|name| std::env::var(name).ok())?;
        Ok(Self { engine, home, memory: MEMORY, owner, drains: Mutex::default() })
    }

    /// What starts containers of `engine` as the server does.
    pub(crate) fn starter(&self, engine: &Arc<dyn Engine>) -> Starter {
        let container = ContainerConfig {
            image: image(),
            memory: self.memory,
            cpus: 0.0,
            pids: 256,
            read_only: true,
            runtime: String::new(),
            start_timeout: Duration::from_secs(60),
            heartbeat: Duration::from_secs(5),
        };
        let network = NetworkConfig { mode: Network::None, allow_hosts: Vec::new() };
        let profile = Profile { container, network, host_paths: HostPaths::default() };
        Starter::new(Arc::clone(engine), profile, Arc::clone(&self.owner))
    }

    /// A pool of the engine's containers.
    pub(crate) fn pool(&self, config: PoolConfig) -> Pool<Starter> {
        self.pool_of(self.starter(&self.engine), config)
    }

    /// A pool that is drained at the end of the benchmark at the latest.
    pub(crate) fn pool_of<S: Source>(&self, source: S, config: PoolConfig) -> Pool<S> {
        let pool = Pool::start(source, config);
        let kept = pool.clone();
        self.drains.lock().push(Box::new(move || {
            let pool = kept.clone();
            Box::pin(async move { pool.drain().await })
        }));
        pool
    }

    /// Our containers in any state.
    pub(crate) async fn left(&self) -> Result<usize, Failed> {
        let all = self.engine.list(label::OWNER).await?;
        let ours = |one: &&_| self.is_ours(one);
        Ok(all.iter().filter(ours).count())
    }

    fn is_ours(&self, one: &mcp_codex_orchestrator::engine::Listed) -> bool {
        one.labels.get(label::OWNER).is_some_and(|owner| owner == self.owner.label())
    }

    /// Drains every pool, and removes what is left in the engine of ours and of `others`.
    pub(crate) async fn clear(&self, others: &[String]) -> Result<(), Failed> {
        let drains = std::mem::take(&mut *self.drains.lock());
        for drain in drains {
            let _ = tokio::time::timeout(Duration::from_secs(20), drain()).await;
        }
        let mut quiet = 0;
        while quiet < 2 {
            let all = self.engine.list(label::OWNER).await?;
            let ours = |one: &&_| -> bool {
                let one: &mcp_codex_orchestrator::engine::Listed = one;
                let owner = one.labels.get(label::OWNER);
                self.is_ours(one) || owner.is_some_and(|owner| others.contains(owner))
            };
            let ours: Vec<_> = all.iter().filter(ours).collect();
            quiet = if ours.is_empty() { quiet + 1 } else { 0 };
            for one in ours {
                self.engine.remove(&one.id).await?;
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        Ok(())
    }
}

/// The engine that the environment names.
pub(crate) fn engine(lookup: impl Fn(&str) -> Option<String>) -> Result<Arc<dyn Engine>, Failed> {
    let endpoint = Endpoint::from_environment(lookup)?;
    Ok(Arc::new(DockerEngine::connect(&endpoint, Duration::from_secs(60))?))
}

/// `count` containers at all times, each for as long as the measurement takes.
pub(crate) fn fixed(count: usize) -> PoolConfig {
    PoolConfig {
        min_idle: count,
        max_size: count,
        acquire_timeout: LONG,
        max_queue: 1000,
        idle_ttl: FOR_EVER,
        max_uses: u32::MAX,
        max_age: FOR_EVER,
        refill_concurrency: 2,
        recycle: Recycle::Reset,
        adaptive: false,
    }
}

/// A workspace that is only a name.
pub(crate) fn workspace(number: usize) -> WorkspaceKey {
    WorkspaceKey { dev: u64::MAX, ino: number as u64 }
}

/// Runs a program in a leased container to its end.
pub(crate) async fn program<S: Source<Container = ArmedContainer>>(
    lease: &mut Lease<S>,
    argv: &[&str],
) -> Result<(), Failed> {
    let request = SpawnRequest {
        argv: argv.iter().map(|part| (*part).to_owned()).collect(),
        env: vec![("PATH".to_owned(), "/usr/local/bin:/usr/bin:/bin".to_owned())],
        cwd: "/app".to_owned(),
        files: Vec::new(),
        stdin: String::new(),
        nonce: "nonce".to_owned(),
    };
    let mut program = lease.container().keeper().spawn(request).await?;
    loop {
        if let ProgramEvent::Exited(report) = program.next().await? {
            let ended = report.code == Some(0);
            return if ended { Ok(()) } else { Err(format!("{argv:?}: {report:?}").into()) };
        }
    }
}

/// Runs a program that does nothing.
pub(crate) async fn no_op<S: Source<Container = ArmedContainer>>(
    lease: &mut Lease<S>,
) -> Result<(), Failed> {
    program(lease, &["/bin/true"]).await
}

/// Gives a container back as a run does: what is left of it is ended first.
pub(crate) async fn give_back<S: Source<Container = ArmedContainer>>(
    mut lease: Lease<S>,
) -> Result<(), Failed> {
    lease.container().keeper().end().await?;
    lease.settle(JobEnd::Completed);
    Ok(())
}

/// Waits until a pool is as `wanted`; gives how long it took.
pub(crate) async fn until<S: Source>(
    pool: &Pool<S>,
    wanted: impl Fn(&PoolStatus) -> bool,
) -> Result<Duration, Failed> {
    let began = Instant::now();
    loop {
        let status = pool.status();
        if wanted(&status) {
            return Ok(began.elapsed());
        }
        if began.elapsed() > LONG {
            return Err(format!("the pool does not get there: {status:?}").into());
        }
        tokio::time::sleep(LOOK).await;
    }
}
