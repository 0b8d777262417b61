//! Docker over its API, and Podman, which speaks it with words of its own (`podman`). The only user
//! of `bollard`.
//!
//! Nothing is connected until the first call, so that a server can answer its client before the
//! engine is there, and an engine that comes up later is found then. What was found is kept until
//! it stops answering.
//!
//! Every call is bounded by the engine timeout, [`open`](crate::engine::Engine::open) up to the
//! moment when the stream is there; the stream itself has no limit, since its life is the
//! container's (bollard's own timeout bounds the head of a response and no more; tried).

mod create;
mod desktop;
mod endpoint;
mod events;
mod failure;
mod listing;
mod podman;
mod removal;
mod stream;
mod version;
mod volumes;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bollard::exec::{CreateExecOptions, StartExecOptions, StartExecResults};
use bollard::models::ContainerCreateBody;
use bollard::query_parameters::{CreateContainerOptions, StartContainerOptions};
use bollard::{API_DEFAULT_VERSION, Docker};
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::net::{TcpStream, UnixStream};

pub use self::endpoint::{Address, Endpoint, Origin};
use self::failure::failed;
use self::stream::ExecStream;
use self::version::{API_OLDEST, settle, versioned};
use crate::engine::{
    ByteStream, ContainerId, ContainerSpec, Engine, EngineError, EngineFacts, Events, ImageFacts,
    Leftover, Listed,
};

/// Bytes that are taken from the connection at once. The engine sends messages of up to 32 KiB.
const READ_CAPACITY: usize = 64 * 1024;

/// The name under which Podman is known; what it wants otherwise is in [`podman`].
const PODMAN: &str = "podman";

/// A Docker engine. Clones share one connection's findings.
#[derive(Clone, Debug)]
pub struct DockerEngine {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    endpoint: Endpoint,
    timeout: Duration,
    /// Where files are kept that the engine reads.
    files: Option<PathBuf>,
    found: Mutex<Option<Found>>,
}

/// An engine that answered.
#[derive(Clone, Debug)]
struct Found {
    docker: Docker,
    facts: EngineFacts,
    address: Address,
}

impl DockerEngine {
    /// The engine at `endpoint`; `timeout` bounds each call to it. Nothing is connected yet.
    ///
    /// # Errors
    ///
    /// None today; an endpoint that needs work before the first call may have some.
    pub fn connect(endpoint: &Endpoint, timeout: Duration) -> Result<DockerEngine, EngineError> {
        Ok(DockerEngine::new(endpoint.clone(), timeout, None))
    }

    fn new(endpoint: Endpoint, timeout: Duration, files: Option<PathBuf>) -> DockerEngine {
        let shared = Shared { endpoint, timeout, files, found: Mutex::new(None) };
        DockerEngine { shared: Arc::new(shared) }
    }

    /// The same engine, nothing found yet, with a directory for files that it is to read; it is
    /// made when it is needed. Podman needs one to start a container: it takes a seccomp profile
    /// by path only.
    #[must_use]
    pub fn with_files_in(self, directory: PathBuf) -> DockerEngine {
        DockerEngine::new(self.shared.endpoint.clone(), self.shared.timeout, Some(directory))
    }

    /// Bounds one call by the engine timeout.
    async fn bounded<T>(
        &self,
        verb: &'static str,
        call: impl Future<Output = Result<T, EngineError>>,
    ) -> Result<T, EngineError> {
        let limit = self.shared.timeout;
        let result = tokio::time::timeout(limit, call)
            .await
            .unwrap_or(Err(EngineError::Timeout { verb, limit }));
        if matches!(result, Err(EngineError::Unavailable { .. } | EngineError::Timeout { .. })) {
            // Looked for again by the next call: it may have moved, or come back as another.
            *self.shared.found.lock() = None;
        }
        result
    }

    async fn docker(&self) -> Result<Docker, EngineError> {
        Ok(self.found().await?.docker)
    }

    async fn found(&self) -> Result<Found, EngineError> {
        let found = self.shared.found.lock().clone();
        match found {
            Some(found) => Ok(found),
            None => self.find().await,
        }
    }

    /// The request that creates a container, in the words of this engine.
    async fn body(
        &self,
        spec: &ContainerSpec,
        facts: &EngineFacts,
    ) -> Result<ContainerCreateBody, EngineError> {
        let mut body = create::body(spec);
        if facts.name != PODMAN {
            return Ok(body);
        }
        let failed = |reason: String| EngineError::Failed {
            verb: "create a container",
            container: None,
            reason,
        };
        let Some(directory) = self.shared.files.clone() else {
            return Err(failed(
                "no directory is known where Podman finds a seccomp profile".into(),
            ));
        };
        let profile = spec.seccomp.clone();
        let kept = directory.clone();
        let path = tokio::task::spawn_blocking(move || podman::keep(&kept, &profile))
            .await
            .map_err(io::Error::other)
            .and_then(|kept| kept)
            .map_err(|error| {
                let place = directory.display();
                failed(format!("the seccomp profile cannot be written to {place}: {error}"))
            })?;
        podman::adapt(&mut body, spec, &path);
        Ok(body)
    }

    /// Tries the addresses in order; the first at which something listens decides.
    async fn find(&self) -> Result<Found, EngineError> {
        let endpoint = &self.shared.endpoint;
        let mut failure: Option<(&Address, std::io::Error)> = None;
        for address in endpoint.addresses() {
            match probe(address).await {
                Ok(()) => {
                    let found = self.greet(address).await?;
                    *self.shared.found.lock() = Some(found.clone());
                    return Ok(found);
                }
                // A socket that refuses tells more than one that is not there.
                Err(error) => {
                    let absent =
                        |error: &std::io::Error| error.kind() == std::io::ErrorKind::NotFound;
                    if failure.as_ref().is_none_or(|(_, kept)| absent(kept) && !absent(&error)) {
                        failure = Some((address, error));
                    }
                }
            }
        }
        let (reason, advice) = match &failure {
            Some((_, error)) if endpoint.addresses().len() == 1 => {
                (error.to_string(), endpoint.advice(error))
            }
            Some((address, error)) => (format!("{address}: {error}"), endpoint.advice(error)),
            None => ("no address".to_owned(), "set DOCKER_HOST".to_owned()),
        };
        Err(EngineError::Unavailable { endpoint: endpoint.to_string(), reason, advice })
    }

    /// Asks for versions and settles on one of the API.
    async fn greet(&self, address: &Address) -> Result<Found, EngineError> {
        // Ours is the timeout that ends a call; bollard's is only to be no shorter.
        let seconds = self.shared.timeout.as_secs().saturating_add(1);
        let docker = match address {
            Address::Unix(path) => Docker::connect_with_unix(
                &format!("unix://{}", path.display()),
                seconds,
                API_DEFAULT_VERSION,
            ),
            Address::Tcp(authority) => Docker::connect_with_http(
                &format!("tcp://{authority}"),
                seconds,
                API_DEFAULT_VERSION,
            ),
        }
        .map_err(|error| failed("connect", None, error, &self.shared.endpoint))?;
        let version = docker
            .version()
            .await
            .map_err(|error| failed("tell its version", None, error, &self.shared.endpoint))?;
        let offered = version.api_version.unwrap_or_default();
        let (major, minor) = settle(&offered).ok_or_else(|| {
            EngineError::Unsupported(format!(
                "the engine at {address} offers version {offered:?} of Docker's API, and at least \
                 {}.{} is needed; use Docker 20.10 or newer",
                API_OLDEST.0, API_OLDEST.1
            ))
        })?;
        // bollard 0.21 negotiates a version but leaves it out of its requests, and the engine then
        // answers in its newest.
        let prefix = format!("/v{major}.{minor}");
        let docker = docker.with_request_modifier(move |request| versioned(request, &prefix));
        let name = version
            .components
            .unwrap_or_default()
            .first()
            .map(|component| component.name.to_lowercase())
            .filter(|name| name.contains(PODMAN))
            .map_or_else(|| "docker".to_owned(), |_| PODMAN.to_owned());
        let platform = version.platform.map(|platform| platform.name).unwrap_or_default();
        let kernel = version.kernel_version.unwrap_or_default();
        let mac = cfg!(target_os = "macos");
        let facts = EngineFacts {
            desktop: desktop::is_desktop(&platform, &kernel, address, mac),
            name,
            version: version.version.unwrap_or_default(),
            api_version: format!("{major}.{minor}"),
            endpoint: address.to_string(),
        };
        Ok(Found { docker, facts, address: address.clone() })
    }

    /// Creates and starts. The name is ours, so that a container whose creation was not
    /// acknowledged in time can be removed all the same.
    async fn create_and_start(
        &self,
        spec: &ContainerSpec,
        name: &str,
    ) -> Result<ContainerId, EngineError> {
        let Found { docker, facts, .. } = self.bounded("answer", self.found()).await?;
        let body = self.body(spec, &facts).await?;
        let endpoint = &self.shared.endpoint;
        let options = CreateContainerOptions { name: Some(name.to_owned()), ..Default::default() };
        let created = self
            .bounded("create a container", async {
                docker.create_container(Some(options), body).await.map_err(|error| {
                    match failure::status(&error) {
                        Some(404) if failure::is_missing_image(&error) => {
                            EngineError::ImageMissing { image: spec.image.clone() }
                        }
                        _ => failed("create a container", None, error, endpoint),
                    }
                })
            })
            .await?;
        for warning in &created.warnings {
            tracing::warn!(container = name, "the engine warns: {warning}");
        }
        let id = ContainerId(created.id);
        self.bounded("start a container", async {
            docker
                .start_container(&id.0, None::<StartContainerOptions>)
                .await
                .map_err(|error| failed("start a container", Some(&id), error, endpoint))
        })
        .await?;
        Ok(id)
    }

    async fn remove_by(&self, name_or_id: &str) -> Result<(), EngineError> {
        self.bounded("remove a container", async {
            let removed = removal::remove(&self.docker().await?, name_or_id).await;
            removed.map_err(|error| {
                let id = ContainerId(name_or_id.to_owned());
                failed("remove a container", Some(&id), error, &self.shared.endpoint)
            })
        })
        .await
    }

    async fn start_guarded(&self, spec: ContainerSpec) -> Result<ContainerId, EngineError> {
        let name = format!("codex-{}", uuid::Uuid::new_v4().simple());
        let result = self.create_and_start(&spec, &name).await;
        if let Err(error) = &result
            && !matches!(error, EngineError::ImageMissing { .. } | EngineError::Unavailable { .. })
            && let Err(remains) = self.remove_by(&name).await
        {
            tracing::warn!(container = %name, "left for the sweep: {remains}");
        }
        result
    }
}

impl Engine for DockerEngine {
    fn facts(&self) -> BoxFuture<'_, Result<EngineFacts, EngineError>> {
        Box::pin(self.bounded("tell its version", async {
            let found = self.shared.found.lock().clone();
            match found {
                None => Ok(self.find().await?.facts),
                Some(found) => {
                    found.docker.ping().await.map_err(|error| {
                        failed("answer a ping", None, error, &self.shared.endpoint)
                    })?;
                    Ok(found.facts)
                }
            }
        }))
    }

    fn image<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<ImageFacts, EngineError>> {
        Box::pin(self.bounded("look up the image", async move {
            let docker = self.docker().await?;
            let image =
                docker.inspect_image(name).await.map_err(|error| {
                    match failure::status(&error) {
                        Some(404) => EngineError::ImageMissing { image: name.to_owned() },
                        _ => failed("look up the image", None, error, &self.shared.endpoint),
                    }
                })?;
            let labels = image.config.and_then(|config| config.labels).unwrap_or_default();
            Ok(ImageFacts {
                id: image.id.unwrap_or_default(),
                labels: labels.into_iter().collect(),
            })
        }))
    }

    fn start<'a>(
        &'a self,
        spec: &'a ContainerSpec,
    ) -> BoxFuture<'a, Result<ContainerId, EngineError>> {
        Box::pin(async move {
            // On a task of its own: a caller that gives up must not leave half a container. The
            // task finishes, finds nobody to take the container, and removes it.
            let (take, taken) = tokio::sync::oneshot::channel();
            let engine = self.clone();
            let spec = spec.clone();
            tokio::spawn(async move {
                if let Err(Ok(id)) = take.send(engine.start_guarded(spec).await)
                    && let Err(remains) = engine.remove(&id).await
                {
                    tracing::warn!(container = %id, "left for the sweep: {remains}");
                }
            });
            taken.await.unwrap_or_else(|_| {
                Err(EngineError::Failed {
                    verb: "start a container",
                    container: None,
                    reason: "the task that started it panicked".into(),
                })
            })
        })
    }

    fn open<'a>(
        &'a self,
        id: &'a ContainerId,
        argv: &'a [String],
    ) -> BoxFuture<'a, Result<ByteStream, EngineError>> {
        Box::pin(self.bounded("open a stream", async move {
            let docker = self.docker().await?;
            let map = |error| failed("open a stream", Some(id), error, &self.shared.endpoint);
            let options = CreateExecOptions::<String> {
                attach_stdin: Some(true),
                attach_stdout: Some(true),
                attach_stderr: Some(true),
                tty: Some(false),
                user: Some("0".to_owned()),
                cmd: Some(argv.to_vec()),
                ..Default::default()
            };
            let exec = docker.create_exec(&id.0, options).await.map_err(map)?;
            let options =
                StartExecOptions { output_capacity: Some(READ_CAPACITY), ..Default::default() };
            match docker.start_exec(&exec.id, Some(options)).await.map_err(map)? {
                StartExecResults::Attached { output, input } => {
                    let program = argv.first().cloned().unwrap_or_default();
                    let stream = ExecStream::new(output, input, id.to_string(), program);
                    Ok(Box::new(stream) as ByteStream)
                }
                StartExecResults::Detached => Err(EngineError::Failed {
                    verb: "open a stream",
                    container: Some(id.clone()),
                    reason: "it detached from the program".into(),
                }),
            }
        }))
    }

    fn list<'a>(&'a self, label: &'a str) -> BoxFuture<'a, Result<Vec<Listed>, EngineError>> {
        Box::pin(self.bounded("list containers", async move {
            let Found { docker, facts, address } = self.found().await?;
            if facts.name == PODMAN {
                let listed = listing::read(&address, &facts.api_version, label).await;
                return listed.map_err(|reason| EngineError::Failed {
                    verb: "list containers",
                    container: None,
                    reason,
                });
            }
            let listed = listing::ask(&docker, label).await;
            listed.map_err(|error| failed("list containers", None, error, &self.shared.endpoint))
        }))
    }

    fn events<'a>(
        &'a self,
        label: &'a str,
        value: &'a str,
    ) -> BoxFuture<'a, Result<Events, EngineError>> {
        Box::pin(self.bounded("tell what happens", async move {
            Ok(events::stream(&self.docker().await?, label, value))
        }))
    }

    fn remove<'a>(&'a self, id: &'a ContainerId) -> BoxFuture<'a, Result<(), EngineError>> {
        Box::pin(self.remove_by(&id.0))
    }

    fn leftovers<'a>(
        &'a self,
        label: &'a str,
    ) -> BoxFuture<'a, Result<Vec<Leftover>, EngineError>> {
        Box::pin(self.bounded("list volumes", async move {
            let left = volumes::left(&self.docker().await?, label).await;
            left.map_err(|error| failed("list volumes", None, error, &self.shared.endpoint))
        }))
    }

    fn remove_leftover<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), EngineError>> {
        Box::pin(self.bounded("remove a volume", async move {
            let removed = volumes::remove(&self.docker().await?, name).await;
            removed.map_err(|error| failed("remove a volume", None, error, &self.shared.endpoint))
        }))
    }
}

/// Whether something listens at `address`. Gives the plain error of the system, which bollard would
/// wrap beyond recognition.
async fn probe(address: &Address) -> std::io::Result<()> {
    match address {
        Address::Unix(path) => UnixStream::connect(path).await.map(drop),
        Address::Tcp(authority) => TcpStream::connect(authority).await.map(drop),
    }
}
