//! What starts containers: anything that can start one from a spec, open a byte stream to a
//! program in it, tell what happens to one, list what carries a label, and remove. Docker today, and
//! Podman by Docker's API.

pub mod docker;
#[doc(hidden)]
pub mod fake;

use std::collections::BTreeMap;
use std::fmt;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use tokio::io::{AsyncRead, AsyncWrite};

/// A byte stream in both directions, such as the stdio of a program in a container.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// An owned [`Duplex`]. Dropping it closes the program's stdin.
pub type ByteStream = Box<dyn Duplex>;

/// The engine's full identifier of a container.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContainerId(pub String);

impl ContainerId {
    /// The twelve characters people know it by.
    pub fn short(&self) -> &str {
        self.0.get(..12).unwrap_or(&self.0)
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.short())
    }
}

impl fmt::Debug for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a container is started from. Holds no word of one engine.
#[derive(Clone, Debug)]
pub struct ContainerSpec {
    /// Image name.
    pub image: String,
    /// Labels; see [`crate::container::label`].
    pub labels: BTreeMap<String, String>,
    /// The program of pid 1 and its arguments.
    pub argv: Vec<String>,
    /// Memory limit in bytes, swap included.
    pub memory: u64,
    /// CPUs; 0 means no limit.
    pub cpus: f64,
    /// Processes and threads at most.
    pub pids: u32,
    /// Whether the root file system is read-only.
    pub read_only: bool,
    /// The engine's runtime; `None` for its default.
    pub runtime: Option<String>,
    /// Sized tmpfs mounts, `/dev/shm` among them.
    pub tmpfs: Vec<Tmpfs>,
    /// Where anonymous volumes are mounted; they are removed with the container.
    pub volumes: Vec<String>,
    /// Capabilities kept; all others are dropped.
    pub capabilities: Vec<String>,
    /// The seccomp profile, as JSON.
    pub seccomp: String,
    /// The network it is in.
    pub network: Network,
}

/// The network of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Network {
    /// Its own loopback interface and nothing else.
    None,
    /// The engine's default network, with a way to the internet.
    Bridge,
    /// A network that the user made in the engine.
    Named(String),
    /// The host's own: all that listens on the host's loopback interface can be reached.
    Host,
}

/// One tmpfs mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tmpfs {
    /// Where it is mounted.
    pub path: String,
    /// Size in bytes.
    pub bytes: u64,
    /// Files, directories and links at most.
    pub inodes: u64,
    /// Permission bits of its top directory.
    pub mode: u32,
}

/// What is known of an image.
#[derive(Clone, Debug, Default)]
pub struct ImageFacts {
    /// The engine's identifier of it.
    pub id: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// What is known of the engine, for status and messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineFacts {
    /// Its name, such as `docker`.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The API version in use.
    pub api_version: String,
    /// Where it was reached.
    pub endpoint: String,
    /// Whether it runs in a virtual machine that a desktop program keeps for it, such as Docker
    /// Desktop or Colima.
    pub desktop: bool,
}

/// A volume that no container has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    /// The engine's name for it.
    pub name: String,
    /// Those of the container it was made for.
    pub labels: BTreeMap<String, String>,
}

/// A container found by label.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Its identifier.
    pub id: ContainerId,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The engine's word for its state: created, running, paused, exited, dead.
    pub state: String,
}

/// What the engine saw happen to a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Happened {
    /// It ended, was stopped or is being killed.
    Ended,
    /// Its memory limit made the kernel kill a process in it.
    OutOfMemory,
    /// It was frozen.
    Paused,
    /// It was removed.
    Removed,
}

/// Something that happened to a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Which container.
    pub id: ContainerId,
    /// What.
    pub what: Happened,
}

/// What happens to containers, until the connection to the engine ends.
pub type Events = BoxStream<'static, Event>;

/// What an engine could not do. The sentence of each is fit for the user.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// No engine answers at `endpoint`.
    #[error("no container engine answers at {endpoint} ({reason}); {advice}")]
    Unavailable {
        /// Where it was looked for.
        endpoint: String,
        /// What happened.
        reason: String,
        /// What to do.
        advice: String,
    },
    /// The endpoint is of a kind that cannot be used yet.
    #[error("{0}")]
    Unsupported(String),
    /// The engine has no such image.
    #[error("the engine has no image {image}; build it with `mcp-codex-orchestrator image build`")]
    ImageMissing {
        /// Its name.
        image: String,
    },
    /// The engine refused or failed.
    #[error("the engine could not {verb}{}: {reason}", of(container.as_ref()))]
    Failed {
        /// What was asked of it, such as "start a container".
        verb: &'static str,
        /// Which container.
        container: Option<ContainerId>,
        /// The engine's own words.
        reason: String,
    },
    /// The engine did not answer in time.
    #[error("the engine did not {verb} within {} (engine timeout)", humantime::format_duration(*limit))]
    Timeout {
        /// What was asked of it.
        verb: &'static str,
        /// The limit.
        limit: std::time::Duration,
    },
}

fn of(container: Option<&ContainerId>) -> String {
    container.map(|id| format!(" ({id})")).unwrap_or_default()
}

/// What starts containers. All methods are cancel safe in this sense: a container that was made
/// and not returned carries its labels, so that a sweep finds it.
pub trait Engine: fmt::Debug + Send + Sync {
    /// Name and versions; one cheap call, which also tells whether the engine is there.
    fn facts(&self) -> BoxFuture<'_, Result<EngineFacts, EngineError>>;

    /// Looks an image up.
    fn image<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<ImageFacts, EngineError>>;

    /// Creates and starts a container. On an error after creation the container is removed again.
    fn start<'a>(
        &'a self,
        spec: &'a ContainerSpec,
    ) -> BoxFuture<'a, Result<ContainerId, EngineError>>;

    /// Starts `argv` as root in a running container and gives its stdio (stdout without stderr).
    fn open<'a>(
        &'a self,
        id: &'a ContainerId,
        argv: &'a [String],
    ) -> BoxFuture<'a, Result<ByteStream, EngineError>>;

    /// All containers in any state that carry the label key.
    fn list<'a>(&'a self, label: &'a str) -> BoxFuture<'a, Result<Vec<Listed>, EngineError>>;

    /// What happens from now on to the containers that carry the label key with this value. It may
    /// repeat what happened a moment ago, and it may miss what happens while it is being connected.
    fn events<'a>(
        &'a self,
        label: &'a str,
        value: &'a str,
    ) -> BoxFuture<'a, Result<Events, EngineError>>;

    /// Removes a container in any state, with its anonymous volumes. One that is gone already is
    /// no error.
    fn remove<'a>(&'a self, id: &'a ContainerId) -> BoxFuture<'a, Result<(), EngineError>>;

    /// What is left of containers that carried the label key and are gone: their volumes, after the
    /// engine itself has failed. An engine that leaves none has nothing to say.
    fn leftovers<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Vec<Leftover>, EngineError>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    /// Removes such a volume. One that is gone already, or that a container has, is no error.
    fn remove_leftover<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<(), EngineError>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

/// Stands for an engine that cannot be used: every call ends with the same sentence, so that a
/// server with a wrong `DOCKER_HOST` still answers its client.
#[derive(Debug)]
pub struct Unusable(pub String);

impl Unusable {
    fn error<T: Send + 'static>(&self) -> BoxFuture<'_, Result<T, EngineError>> {
        Box::pin(std::future::ready(Err(EngineError::Unsupported(self.0.clone()))))
    }
}

impl Engine for Unusable {
    fn facts(&self) -> BoxFuture<'_, Result<EngineFacts, EngineError>> {
        self.error()
    }

    fn image<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<ImageFacts, EngineError>> {
        self.error()
    }

    fn start<'a>(
        &'a self,
        _: &'a ContainerSpec,
    ) -> BoxFuture<'a, Result<ContainerId, EngineError>> {
        self.error()
    }

    fn open<'a>(
        &'a self,
        _: &'a ContainerId,
        _: &'a [String],
    ) -> BoxFuture<'a, Result<ByteStream, EngineError>> {
        self.error()
    }

    fn list<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Vec<Listed>, EngineError>> {
        self.error()
    }

    fn events<'a>(&'a self, _: &'a str, _: &'a str) -> BoxFuture<'a, Result<Events, EngineError>> {
        self.error()
    }

    fn remove<'a>(&'a self, _: &'a ContainerId) -> BoxFuture<'a, Result<(), EngineError>> {
        self.error()
    }
}
