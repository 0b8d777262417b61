//! An engine that starts containers from a weaker spec than it is given.

use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use mcp_codex_orchestrator::config::{ContainerConfig, NetworkConfig};
use mcp_codex_orchestrator::container::{HostPaths, Profile, Starter, label};
use mcp_codex_orchestrator::engine::docker::{DockerEngine, Endpoint};
use mcp_codex_orchestrator::engine::{
    ByteStream, ContainerId, ContainerSpec, Engine, EngineError, EngineFacts, Events, ImageFacts,
    Listed, Network,
};
use mcp_codex_orchestrator::pool::owner::Owner;

/// How a container differs from what was asked for.
#[derive(Clone, Debug)]
pub(crate) enum Weakness {
    /// In the spec.
    Spec(fn(&mut ContainerSpec)),
    /// In the seccomp profile.
    Profile(String),
    /// By arguments to the docker command line, which come after the spec's.
    Docker(&'static [&'static str]),
}

#[derive(Debug)]
struct Weakened {
    engine: DockerEngine,
    weakness: Weakness,
}

impl Engine for Weakened {
    fn facts(&self) -> BoxFuture<'_, Result<EngineFacts, EngineError>> {
        self.engine.facts()
    }

    fn image<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<ImageFacts, EngineError>> {
        self.engine.image(name)
    }

    fn start<'a>(
        &'a self,
        spec: &'a ContainerSpec,
    ) -> BoxFuture<'a, Result<ContainerId, EngineError>> {
        Box::pin(async {
            let mut weaker = spec.clone();
            match &self.weakness {
                Weakness::Spec(weaken) => weaken(&mut weaker),
                Weakness::Profile(profile) => weaker.seccomp.clone_from(profile),
                Weakness::Docker(more) => return Ok(docker_run(spec, more).await),
            }
            self.engine.start(&weaker).await
        })
    }

    fn open<'a>(
        &'a self,
        id: &'a ContainerId,
        argv: &'a [String],
    ) -> BoxFuture<'a, Result<ByteStream, EngineError>> {
        self.engine.open(id, argv)
    }

    fn list<'a>(&'a self, label: &'a str) -> BoxFuture<'a, Result<Vec<Listed>, EngineError>> {
        self.engine.list(label)
    }

    fn events<'a>(
        &'a self,
        label: &'a str,
        value: &'a str,
    ) -> BoxFuture<'a, Result<Events, EngineError>> {
        self.engine.events(label, value)
    }

    fn remove<'a>(&'a self, id: &'a ContainerId) -> BoxFuture<'a, Result<(), EngineError>> {
        self.engine.remove(id)
    }
}

/// Starts a container as the spec says and `more` changes it.
async fn docker_run(spec: &ContainerSpec, more: &[&str]) -> ContainerId {
    let profile = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&profile, &spec.seccomp).unwrap();
    let mut run = tokio::process::Command::new("docker");
    run.args(["run", "--detach", "--rm", "--user=0", "--network=none", "--read-only"]);
    run.args(["--ipc=private", "--cap-drop=ALL", "--entrypoint="]);
    run.args(spec.capabilities.iter().map(|name| format!("--cap-add={name}")));
    run.args(spec.labels.iter().map(|(key, value)| format!("--label={key}={value}")));
    run.args(spec.volumes.iter().map(|path| format!("--volume={path}")));
    run.args(spec.tmpfs.iter().map(|place| {
        let (path, bytes, inodes) = (&place.path, place.bytes, place.inodes);
        format!("--tmpfs={path}:rw,exec,nosuid,nodev,size={bytes},nr_inodes={inodes}")
    }));
    run.arg(format!("--memory={0}", spec.memory)).arg(format!("--memory-swap={}", spec.memory));
    run.arg(format!("--pids-limit={}", spec.pids)).arg(format!("--cpus={}", spec.cpus));
    run.arg(format!("--security-opt=seccomp={}", profile.path().display()));
    if !more.iter().any(|option| option.contains("no-new-privileges")) {
        run.arg("--security-opt=no-new-privileges");
    }
    run.args(more).arg(&spec.image).args(&spec.argv);
    let output = run.stdin(Stdio::null()).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    ContainerId(String::from_utf8(output.stdout).unwrap().trim().to_owned())
}

/// An engine and an owner that nobody else has.
pub(crate) struct Ground {
    engine: DockerEngine,
    image: String,
    owner: Arc<Owner>,
    _state: tempfile::TempDir,
}

impl Ground {
    /// `None` where there is no engine, with a printed reason.
    pub(crate) async fn new() -> Option<Self> {
        let lookup = |name: &str| std::env::var(name).ok();
        let image = lookup("CODEX_IMAGE").unwrap_or_else(|| "codex-runner:latest".to_owned());
        let found = async {
            let endpoint = Endpoint::from_environment(lookup).map_err(|error| error.to_string())?;
            let engine = DockerEngine::connect(&endpoint, Duration::from_secs(30))
                .map_err(|error| error.to_string())?;
            engine.image(&image).await.map_err(|error| error.to_string())?;
            Ok::<_, String>(engine)
        };
        let engine = match found.await {
            Ok(engine) => engine,
            Err(reason) => {
                let required = lookup("CODEX_TESTS_REQUIRE_ENGINE").as_deref() == Some("1");
                assert!(!required, "an engine is required: {reason}");
                println!("left out, no engine: {reason}");
                return None;
            }
        };
        let state = tempfile::tempdir().unwrap();
        let owner = Arc::new(Owner::claim(state.path()).unwrap());
        Some(Self { engine, image, owner, _state: state })
    }

    /// Starts containers that are weaker so than what it asks for.
    pub(crate) fn starter(&self, weakness: Weakness) -> Starter {
        self.starter_of(weakness, |_| {})
    }

    /// The same, of other settings.
    pub(crate) fn starter_of(
        &self,
        weakness: Weakness,
        set: impl FnOnce(&mut ContainerConfig),
    ) -> Starter {
        let engine = Weakened { engine: self.engine.clone(), weakness };
        let mut config = ContainerConfig {
            image: self.image.clone(),
            memory: 512 << 20,
            cpus: 0.5,
            pids: 64,
            read_only: true,
            runtime: String::new(),
            start_timeout: Duration::from_secs(60),
            heartbeat: Duration::from_secs(5),
        };
        set(&mut config);
        let network = NetworkConfig { mode: Network::None, allow_hosts: Vec::new() };
        let profile = Profile {
            container: config,
            network,
            keep_ignored: false,
            host_paths: HostPaths::default(),
        };
        Starter::new(Arc::new(engine), profile, Arc::clone(&self.owner))
    }

    /// The image under test.
    pub(crate) fn image(&self) -> &str {
        &self.image
    }

    /// How many containers in any state have the process `pid` as owner.
    pub(crate) async fn containers_of(&self, pid: u32) -> usize {
        let listed = self.engine.list(label::OWNER).await.unwrap();
        // A label is machine, boot, pid, start and number.
        let is_of =
            |it: &Listed| it.labels[label::OWNER].split('-').nth(2) == Some(&pid.to_string());
        listed.iter().filter(|it| is_of(it)).count()
    }

    /// Waits until the engine lists none of this owner's containers.
    pub(crate) async fn until_nothing_is_left(&self) {
        let begun = Instant::now();
        loop {
            let listed = self.engine.list(label::OWNER).await.unwrap();
            let of_ours = |it: &Listed| it.labels[label::OWNER] == self.owner.label();
            if !listed.iter().any(of_ours) {
                return;
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "a container is left");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
