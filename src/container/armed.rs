//! Starting a container and arming it, and what an armed container can do for the pool.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio_util::task::AbortOnDropHandle;

use crate::engine::{ContainerId, Engine, EngineError, Happened, Network};
use crate::failure::{ErrorKind, Failure, MAKE_ROOM, is_full_disk};
use crate::keeper::client::{Incoming, Keeper, KeeperError, KeeperOptions};
use crate::keeper::silence::Limits;
use crate::keeper::wire::{ArmRequest, Fingerprint, IgnoredTotal, ResetRequest};
use crate::network;
use crate::pool::copies::{Copy, KeptState, Note};
use crate::pool::owner::Owner;
use crate::pool::source::{Findings, Pooled, Source, StartError};
use crate::workspace::held::{Birth, Held};

use super::health::{Mark, Marks, sentence, watch};
use super::{KEEPER, Profile, check_image, check_posture, spec};

/// A keeper is given up after this much silence while no job is in its container, filled or empty;
/// with one in it after [`SILENCE_LEASED`], so that a server that was swapped out for a minute finds
/// its run alive.
const SILENCE_IDLE: Duration = Duration::from_secs(15);

/// See [`SILENCE_IDLE`].
const SILENCE_LEASED: Duration = Duration::from_secs(180);

/// How long after the end of a stream the engine's word about its container is waited for.
const EVENT_WAIT: Duration = Duration::from_millis(200);

/// How long a reset may take; most of it is deleting files.
const RESET_TIMEOUT: Duration = Duration::from_secs(30);

/// Resets that are under way at once: they are work for the processors, which the calls that came
/// with those that just ended need first.
static RESETS: Semaphore = Semaphore::const_new(2);

/// How long a reset waits for its turn at most, since those before it may wait for a disk.
const RESET_TURN: Duration = Duration::from_millis(500);

/// An armed container: the stream to its keeper, and what it was like when it was armed.
#[derive(Debug)]
pub struct ArmedContainer {
    id: ContainerId,
    keeper: Keeper,
    incoming: Incoming,
    /// See [`ArmedContainer::gateway_port`].
    gateway_port: Option<u16>,
    fingerprint: Fingerprint,
    /// What the workspace in it holds; nothing is known to be there without.
    held: Option<Held>,
    /// Of which directory all that is in it is, what was built included; `None` while it is clean.
    root: Option<Birth>,
    /// The same for the pool; as it was last while nothing is known.
    note: Note,
    /// See [`ArmedContainer::keep_built`].
    keep_built: bool,
    /// What the engine said against it.
    mark: Arc<Mark>,
    findings: Findings,
    /// What it was started from.
    origin: Origin,
    /// What containers are started from now.
    now: Arc<Mutex<Origin>>,
}

impl ArmedContainer {
    /// A handle to its keeper. It must not outlive the lease, since the last handle is what keeps
    /// the container alive.
    pub fn keeper(&self) -> Keeper {
        self.keeper.clone()
    }

    /// The port of the loopback interface at which Codex finds the gateway, if it is another than
    /// usual: one that other programs reach too.
    pub fn gateway_port(&self) -> Option<u16> {
        self.gateway_port
    }

    /// Resolves with a sentence when it was paused from outside: its stream stays open, and nobody
    /// knows for how long. What else happens to it ends the stream, or leaves a run that goes on.
    pub fn paused(&self) -> BoxFuture<'static, String> {
        let mark = Arc::clone(&self.mark);
        Box::pin(async move {
            match mark.told().await {
                Happened::Paused => sentence(Happened::Paused),
                _ => std::future::pending().await,
            }
        })
    }

    /// What the engine says against it, once its stream has ended; waits a moment, since the two
    /// come by different ways.
    pub async fn said_against(&self) -> Option<String> {
        tokio::time::timeout(EVENT_WAIT, self.mark.told()).await.ok().map(sentence)
    }

    /// Whether what the runs from now on build stays for the next one on the same workspace.
    pub fn keep_built(&mut self, keep: bool) {
        self.keep_built = keep;
    }

    /// The network it was started with.
    pub fn network(&self) -> &Network {
        &self.origin.profile.network.mode
    }

    /// What it holds of a workspace.
    pub fn held(&self) -> Option<&Held> {
        self.held.as_ref()
    }

    /// Notes what it holds now; `None` before anything is put, since a put that fails leaves nothing
    /// that is known.
    pub fn set_held(&mut self, held: Option<Held>) {
        if let Some(held) = &held {
            let before = self.note.get().filter(|before| before.workspace == held.workspace);
            let mut now = copy(held, before.as_ref().and_then(|before| before.used));
            if let Some(before) = before.filter(|_| now.kept.is_empty()) {
                now.kept = before.kept;
            }
            self.note.set(Some(now));
        }
        self.held = held;
    }

    /// Gives it to the directory that `birth` tells. One that is deleted leaves its inode number to the
    /// next, and with that its key: what is there of another directory, what it built above all, is
    /// cleaned away first.
    ///
    /// # Errors
    ///
    /// It could not be cleaned and must be destroyed.
    pub async fn give_to(&mut self, birth: Birth) -> Result<(), String> {
        if self.root.as_ref().is_some_and(|root| !root.is(&birth)) {
            tracing::info!(container = %self.id, "its workspace is another directory by now");
            self.clean().await?;
        }
        self.root = Some(birth);
        Ok(())
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

    fn note(&self) -> &Note {
        &self.note
    }

    fn outdated(&self) -> bool {
        self.origin != *self.now.lock()
    }

    fn answering(&self) -> bool {
        self.mark.get().is_none()
            && self.keeper.lost().is_none()
            && self.keeper.silent_for() < SILENCE_IDLE
    }

    fn silent_in(&self) -> Duration {
        SILENCE_IDLE.saturating_sub(self.keeper.silent_for())
    }

    fn lost(&self) -> BoxFuture<'static, String> {
        let (lost, mark) = (self.keeper.watch_loss(), Arc::clone(&self.mark));
        Box::pin(async move {
            tokio::select! {
                reason = lost => reason,
                what = mark.told() => sentence(what),
            }
        })
    }

    fn reset(&mut self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async {
            // The pool leases it for one workspace only, which is what allows to keep build state.
            let reset =
                ResetRequest { keep_ignored: self.keep_built, keep_tree: self.held.is_some() };
            let _turn = tokio::time::timeout(RESET_TURN, RESETS.acquire()).await;
            self.reset_with(reset).await
        })
    }

    fn clean(&mut self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async {
            self.held = None;
            self.reset_with(ResetRequest { keep_ignored: false, keep_tree: false }).await?;
            self.root = None;
            self.note.set(None);
            Ok(())
        })
    }
}

/// What the pool is told of a tree.
fn copy(held: &Held, used: Option<jiff::Timestamp>) -> Copy {
    Copy {
        workspace: held.workspace,
        path: held.path.clone(),
        files: held.snapshot.files,
        bytes: held.bytes,
        kept: held.kept.iter().map(kept_state).collect(),
        used,
    }
}

fn kept_state(kept: &IgnoredTotal) -> KeptState {
    KeptState { path: kept.path.clone(), bytes: kept.bytes }
}

impl ArmedContainer {
    async fn reset_with(&mut self, reset: ResetRequest) -> Result<(), String> {
        let report = tokio::time::timeout(RESET_TIMEOUT, self.keeper.reset_with(reset))
            .await
            .map_err(|_| format!("it took longer than {} s", RESET_TIMEOUT.as_secs()))?
            .map_err(|error| error.to_string())?;
        if report.fingerprint != self.fingerprint {
            let found = report.fingerprint;
            return Err(format!("it is {found:?} but was {:?}", self.fingerprint));
        }
        if self.gateway_port.is_some() {
            let port = report.ports.first().copied();
            self.gateway_port = Some(port.ok_or("it does not say where it listens")?);
        }
        let kept = !report.kept.is_empty() || report.tree.is_some();
        if kept && !reset.keep_ignored && !reset.keep_tree {
            return Err("it kept of the workspace what it was to give up".to_owned());
        }
        let (held, tree) = (self.held.take(), report.tree);
        self.held = held.zip(tree).map(|(held, tree)| held.after_reset(tree, report.kept.clone()));
        let used = Some(jiff::Timestamp::now());
        // Without a tree there may still be what was built.
        let kept = report.kept.iter().map(kept_state).collect::<Vec<_>>();
        self.note.set(match (&self.held, self.note.get()) {
            (Some(held), _) => Some(copy(held, used)),
            (None, Some(before)) if !kept.is_empty() => {
                Some(Copy { files: 0, bytes: 0, kept, used, ..before })
            }
            (None, _) => None,
        });
        if !report.kept.is_empty() {
            tracing::debug!(container = %self.id, kept = ?report.kept, "build state stays");
        }
        // What a program of the run connected and nobody took is of that run.
        self.incoming.discard();
        Ok(())
    }
}

/// What a container was started from.
#[derive(Clone, Debug, PartialEq)]
struct Origin {
    profile: Arc<Profile>,
    /// The engine's identifier of the image; empty before the first start. A new image of the same
    /// name is seen when the next container is started.
    image: String,
}

/// Starts containers from one profile and arms them.
#[derive(Debug)]
pub struct Starter {
    engine: Arc<dyn Engine>,
    now: Arc<Mutex<Origin>>,
    owner: Arc<Owner>,
    marks: Arc<Marks>,
    /// Listens to the engine from the first start on.
    watch: OnceLock<AbortOnDropHandle<()>>,
}

impl Starter {
    /// Containers of `engine` for `owner`.
    pub fn new(engine: Arc<dyn Engine>, profile: Profile, owner: Arc<Owner>) -> Self {
        let now = Origin { profile: Arc::new(profile), image: String::new() };
        let (marks, watch) = (Arc::default(), OnceLock::new());
        Self { engine, now: Arc::new(Mutex::new(now)), owner, marks, watch }
    }

    /// Starts containers from another profile from now on. Those that were started from the one
    /// before are outdated, if it differs.
    pub fn change(&self, profile: Profile) {
        self.now.lock().profile = Arc::new(profile);
    }

    /// How a container is armed.
    fn arm(profile: &Profile) -> ArmRequest {
        let network = &profile.network;
        ArmRequest {
            forward: network::forwarded(network),
            any_port: network::is_shared(network),
            link_places: profile.host_paths.places().to_vec(),
            ..ArmRequest::default()
        }
    }

    /// Creates, starts and arms. `begun` gets the container that must be removed on an error.
    async fn start_armed(
        &self,
        profile: Arc<Profile>,
        begun: &OnceLock<ContainerId>,
    ) -> Result<ArmedContainer, StartError> {
        let Profile { container, network, host_paths, .. } = &*profile;
        let facts = self.engine.image(&container.image).await.map_err(engine_error)?;
        check_image(&facts).map_err(|error| StartError {
            kind: ErrorKind::ImageOutdated,
            sentence: error.to_string(),
        })?;
        let origin = Origin { profile: Arc::clone(&profile), image: facts.id };
        {
            let mut now = self.now.lock();
            if now.profile == profile {
                now.image.clone_from(&origin.image);
            }
        }
        let started = jiff::Timestamp::now();
        let spec = spec(container, &network.mode, host_paths, self.owner.label(), started);
        let id = self.engine.start(&spec).await.map_err(engine_error)?;
        let id = begun.get_or_init(|| id);
        let mark = self.marks.add(id);
        let serve = [KEEPER.to_owned(), "serve".to_owned()];
        let stream = self.engine.open(id, &serve).await.map_err(engine_error)?;
        let silence = Limits { idle: SILENCE_IDLE, job: SILENCE_LEASED };
        let options = KeeperOptions { heartbeat: container.heartbeat, silence };
        let (keeper, incoming, _) = Keeper::connect(stream, options).await.map_err(keeper_error)?;
        let armed = keeper.arm(Self::arm(&profile)).await.map_err(keeper_error)?;
        let findings = check_posture(&spec, &armed.posture).map_err(|error| StartError {
            kind: ErrorKind::EngineUnavailable,
            sentence: format!("the engine did not confine a container as asked: {error}"),
        })?;
        let gateway_port = if network::is_shared(network) {
            Some(armed.ports.first().copied().ok_or_else(|| StartError {
                kind: ErrorKind::ContainerLost,
                sentence: "the keeper does not say where it listens".to_owned(),
            })?)
        } else {
            None
        };
        Ok(ArmedContainer {
            id: id.clone(),
            keeper,
            incoming,
            gateway_port,
            fingerprint: armed.fingerprint,
            held: None,
            root: None,
            note: Note::default(),
            keep_built: false,
            findings,
            mark,
            origin,
            now: Arc::clone(&self.now),
        })
    }
}

impl Source for Starter {
    type Container = ArmedContainer;

    fn start(&self) -> BoxFuture<'_, Result<ArmedContainer, StartError>> {
        Box::pin(async {
            self.watch.get_or_init(|| {
                let (engine, marks) = (Arc::clone(&self.engine), Arc::clone(&self.marks));
                watch(engine, self.owner.label().to_owned(), marks)
            });
            let profile = Arc::clone(&self.now.lock().profile);
            let limit = profile.container.start_timeout;
            let begun = OnceLock::new();
            let starting = tokio::time::timeout(limit, self.start_armed(profile, &begun));
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
    if let EngineError::Failed { reason, .. } = &error
        && is_full_disk(reason)
    {
        return Failure::new(ErrorKind::DiskFull, format!("{error}; {MAKE_ROOM}"));
    }
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
        KeeperError::Refused(reason) if is_full_disk(&reason) => StartError {
            kind: ErrorKind::DiskFull,
            sentence: format!("a container could not be made ready ({reason}); {MAKE_ROOM}"),
        },
        other => StartError { kind: ErrorKind::ContainerLost, sentence: other.to_string() },
    }
}

/// A container that harms nothing, with a keeper in this process.
#[cfg(test)]
impl ArmedContainer {
    pub(crate) async fn in_process() -> Self {
        let (keeper, incoming, _) = crate::keeper::loopback::harmless().await;
        Self::harmless(ContainerId("c".to_owned()), keeper, incoming, Arc::default())
    }

    pub(super) fn harmless(
        id: ContainerId,
        keeper: Keeper,
        incoming: Incoming,
        mark: Arc<Mark>,
    ) -> Self {
        let (fingerprint, findings) = (Fingerprint::default(), Findings::default());
        let profile = Arc::new(Profile::harmless());
        let origin = Origin { profile, image: String::new() };
        let now = Arc::new(Mutex::new(origin.clone()));
        Self {
            id,
            keeper,
            incoming,
            gateway_port: None,
            fingerprint,
            held: None,
            root: None,
            note: Note::default(),
            keep_built: false,
            mark,
            findings,
            origin,
            now,
        }
    }
}

#[cfg(test)]
mod tests;
