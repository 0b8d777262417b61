//! Starting a container and arming it, and what an armed container can do for the pool.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::future::BoxFuture;

use crate::config::{ContainerConfig, NetworkConfig};
use crate::engine::{ContainerId, Engine, EngineError};
use crate::failure::{ErrorKind, Failure};
use crate::keeper::client::{Incoming, Keeper, KeeperError, KeeperOptions};
use crate::keeper::wire::{ArmRequest, Fingerprint, PROXY_PORT, ResetRequest};
use crate::pool::owner::Owner;
use crate::pool::source::{Findings, Pooled, Source, StartError};

use super::{KEEPER, check_image, check_posture, spec};

/// An idle keeper is given up after this much silence; with a job in it after
/// [`SILENCE_LEASED`], so that a server that was swapped out for a minute finds its run alive.
const SILENCE_IDLE: Duration = Duration::from_secs(15);

/// See [`SILENCE_IDLE`].
const SILENCE_LEASED: Duration = Duration::from_secs(180);

/// How long a reset may take; most of it is deleting files.
const RESET_TIMEOUT: Duration = Duration::from_secs(30);

/// An armed container: the stream to its keeper, and what it was like when it was armed.
#[derive(Debug)]
pub struct ArmedContainer {
    id: ContainerId,
    keeper: Keeper,
    incoming: Incoming,
    fingerprint: Fingerprint,
    findings: Findings,
    /// How it is reset; the pool leases it for one workspace only, which is what allows to keep
    /// build state in it.
    reset: ResetRequest,
}

impl ArmedContainer {
    /// A handle to its keeper. It must not outlive the lease, since the last handle is what keeps
    /// the container alive.
    pub fn keeper(&self) -> Keeper {
        self.keeper.clone()
    }

    /// The connections that programs in it make.
    pub fn incoming(&mut self) -> &mut Incoming {
        &mut self.incoming
    }
}

impl Pooled for ArmedContainer {
    fn id(&self) -> &ContainerId {
        &self.id
    }

    fn findings(&self) -> &Findings {
        &self.findings
    }

    fn answering(&self) -> bool {
        self.keeper.lost().is_none() && self.keeper.silent_for() < SILENCE_IDLE
    }

    fn lost(&self) -> BoxFuture<'static, String> {
        self.keeper.watch_loss()
    }

    fn reset(&mut self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async {
            let report = tokio::time::timeout(RESET_TIMEOUT, self.keeper.reset_with(self.reset))
                .await
                .map_err(|_| format!("it took longer than {} s", RESET_TIMEOUT.as_secs()))?
                .map_err(|error| error.to_string())?;
            if report.fingerprint != self.fingerprint {
                let found = report.fingerprint;
                return Err(format!("it is {found:?} but was {:?}", self.fingerprint));
            }
            if !report.kept.is_empty() {
                tracing::debug!(container = %self.id, kept = ?report.kept, "build state stays");
            }
            // What a program of the run connected and nobody took is of that run.
            self.incoming.discard();
            Ok(())
        })
    }
}

/// Starts containers from one spec and arms them.
#[derive(Debug)]
pub struct Starter {
    engine: Arc<dyn Engine>,
    container: ContainerConfig,
    network: NetworkConfig,
    owner: Arc<Owner>,
    reset: ResetRequest,
}

impl Starter {
    /// Containers of `engine` for `owner`.
    pub fn new(
        engine: Arc<dyn Engine>,
        container: ContainerConfig,
        network: NetworkConfig,
        owner: Arc<Owner>,
    ) -> Self {
        Self { engine, container, network, owner, reset: ResetRequest::default() }
    }

    /// How a container is armed.
    fn arm(&self) -> ArmRequest {
        let mut request = ArmRequest::default();
        if !self.network.allow_hosts.is_empty() {
            request.forward.push(PROXY_PORT);
        }
        request
    }

    /// The same, whose resets keep what was built in ignored directories, or do not
    /// (`workspace.keep_ignored`).
    pub fn keeping_ignored(self, keep_ignored: bool) -> Self {
        Self { reset: ResetRequest { keep_ignored }, ..self }
    }

    /// Creates, starts and arms. `begun` gets the container that must be removed on an error.
    async fn start_armed(
        &self,
        begun: &OnceLock<ContainerId>,
    ) -> Result<ArmedContainer, StartError> {
        let facts = self.engine.image(&self.container.image).await.map_err(engine_error)?;
        check_image(&facts).map_err(|error| StartError {
            kind: ErrorKind::ImageOutdated,
            sentence: error.to_string(),
        })?;
        let network = &self.network.mode;
        let now = jiff::Timestamp::now();
        let spec = spec(&self.container, network, self.owner.label(), now);
        let id = self.engine.start(&spec).await.map_err(engine_error)?;
        let id = begun.get_or_init(|| id);
        let serve = [KEEPER.to_owned(), "serve".to_owned()];
        let stream = self.engine.open(id, &serve).await.map_err(engine_error)?;
        let options =
            KeeperOptions { heartbeat: self.container.heartbeat, silence: SILENCE_LEASED };
        let (keeper, incoming, _) = Keeper::connect(stream, options).await.map_err(keeper_error)?;
        let armed = keeper.arm(self.arm()).await.map_err(keeper_error)?;
        let findings = check_posture(&spec, &armed.posture).map_err(|error| StartError {
            kind: ErrorKind::EngineUnavailable,
            sentence: format!("the engine did not confine a container as asked: {error}"),
        })?;
        let (id, fingerprint, reset) = (id.clone(), armed.fingerprint, self.reset);
        Ok(ArmedContainer { id, keeper, incoming, fingerprint, findings, reset })
    }
}

impl Source for Starter {
    type Container = ArmedContainer;

    fn start(&self) -> BoxFuture<'_, Result<ArmedContainer, StartError>> {
        Box::pin(async {
            let limit = self.container.start_timeout;
            let begun = OnceLock::new();
            let starting = tokio::time::timeout(limit, self.start_armed(&begun));
            let started = starting.await.unwrap_or_else(|_| {
                Err(StartError {
                    kind: ErrorKind::ContainerLost,
                    sentence: format!(
                        "a container was not ready within {} s (container.start_timeout)",
                        limit.as_secs()
                    ),
                })
            });
            if let (Err(_), Some(id)) = (&started, begun.get())
                && let Err(error) = self.engine.remove(id).await
            {
                tracing::warn!(container = %id, %error, "a container that could not be armed was not removed");
            }
            started
        })
    }

    fn remove<'a>(&'a self, id: &'a ContainerId) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async { self.engine.remove(id).await.map_err(|error| error.to_string()) })
    }
}

/// The kind under which a caller knows an engine's error.
fn engine_failure(error: EngineError) -> Failure {
    let kind = match &error {
        EngineError::ImageMissing { .. } => ErrorKind::ImageMissing,
        EngineError::Unavailable { .. } | EngineError::Unsupported(_) => {
            ErrorKind::EngineUnavailable
        }
        EngineError::Failed { .. } | EngineError::Timeout { .. } => ErrorKind::ContainerLost,
    };
    Failure::new(kind, error.to_string())
}

fn engine_error(error: EngineError) -> StartError {
    engine_failure(error).into()
}

fn keeper_error(error: KeeperError) -> StartError {
    match error {
        KeeperError::Protocol { .. } => StartError {
            kind: ErrorKind::ImageOutdated,
            sentence: format!(
                "{error}; rebuild the image with `mcp-codex-orchestrator image build`"
            ),
        },
        other => StartError { kind: ErrorKind::ContainerLost, sentence: other.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::container::label;
    use crate::container::spec::tests::config;
    use crate::engine::Network;
    use crate::engine::fake::{FakeEngine, Manner, Verb};
    use crate::keeper::wire;

    #[tokio::test]
    async fn a_reset_that_leaves_anything_else_than_at_arming_is_refused() {
        let (keeper, incoming, _served) = crate::keeper::loopback::harmless().await;
        let id = ContainerId("c".to_owned());
        let fingerprint = keeper.reset().await.unwrap();
        let reset = ResetRequest { keep_ignored: true };
        let findings = Findings::default();
        let mut container = ArmedContainer { id, keeper, incoming, fingerprint, findings, reset };
        container.reset().await.unwrap();
        container.fingerprint.processes += 1;
        assert!(container.reset().await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_container_that_is_not_ready_in_time_is_removed_before_its_place_is_free() {
        let state = tempfile::tempdir().unwrap();
        let owner = Arc::new(Owner::claim(state.path()).unwrap());
        let engine = FakeEngine::silent();
        engine.set_image_labels(BTreeMap::from([
            (label::PROTOCOL.to_owned(), wire::PROTOCOL.to_string()),
            (label::CODEX.to_owned(), "1".to_owned()),
        ]));
        let network = NetworkConfig { mode: Network::None, allow_hosts: Vec::new() };
        let starter = Starter::new(Arc::new(engine.clone()), config(), network, owner);
        for manner in [Manner::Ok, Manner::Never, Manner::Err] {
            engine.set(Verb::Open, manner);
            let error = starter.start().await.unwrap_err();
            assert_eq!(error.kind, ErrorKind::ContainerLost);
            let named = error.sentence.contains("container.start_timeout");
            assert_eq!(named, manner != Manner::Err, "{error}");
            assert_eq!(engine.counts().alive, 0, "{manner:?}");
        }
        assert_eq!(engine.counts().created, 3);
    }
}
