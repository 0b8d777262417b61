//! The host's side of the stream to a keeper.
//!
//! ```text
//!  connect ──> Keeper ── arm ──> armed ── put, spawn, end, collect, reset, … ──> dropped
//!                 └──────────── any time ────────────> lost (reason), for ever
//! ```
//!
//! Three tasks serve a connection: the driver, which moves bytes; the beat, which sends a sign of
//! life each heartbeat; the watch, which counts the keeper's silence. All end with the last
//! [`Keeper`]; then the exec stream is dropped, and with it the container ends.
//!
//! No method here has a deadline: the caller bounds every wait by dropping the future. That is
//! always allowed. An operation dropped midway is reset on its own stream and no other stream
//! notices; what the keeper did of it is undone by a reset.

mod collect;
mod incoming;
mod program;
mod put;
mod said;

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{ReadHalf, WriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::task::AbortOnDropHandle;

pub use self::collect::Collect;
pub use self::incoming::{Connection, Incoming};
pub use self::program::{Program, ProgramEvent};
pub use self::put::Put;
use self::said::Said;
use super::frame::{FrameError, FrameReader, FrameWriter, Kind};
use super::mux::{self, Opener, Side, Stream};
use super::silence::{Limits, Patience, Silence};
use super::wire::{
    ArmRequest, Armed, CollectRequest, EndReport, Fingerprint, Hello, PROTOCOL, PutRequest,
    Request, ResetReport, ResetRequest, SpawnRequest,
};
use crate::engine::ByteStream;

type Frames = (FrameReader<ReadHalf<Stream>>, FrameWriter<WriteHalf<Stream>>);

/// How long an operation waits for the reason of a loss when its stream ended without an answer.
const REASON_WAIT: Duration = Duration::from_millis(200);

/// How a connection is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeeperOptions {
    /// Between two signs of life, in both directions.
    pub heartbeat: Duration,
    /// The host gives the keeper up after hearing nothing for so long. Until it is armed, that of a job
    /// holds: who starts it has a limit of his own.
    pub silence: Limits,
}

impl Default for KeeperOptions {
    fn default() -> Self {
        Self { heartbeat: Duration::from_secs(5), silence: Limits::default() }
    }
}

/// Why something asked of a keeper did not happen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeeperError {
    /// The stream is gone; the container will be, too.
    #[error("the stream to the keeper was lost: {0}")]
    Lost(String),
    /// The keeper in the image speaks another version.
    #[error("the keeper speaks protocol {keeper}, this program {host}")]
    Protocol {
        /// Version of the keeper.
        keeper: u32,
        /// Version of this program.
        host: u32,
    },
    /// The keeper refused, with a sentence of at most 300 plain characters.
    #[error("the keeper refused: {0}")]
    Refused(String),
    /// The keeper said what it should not.
    #[error("the keeper's answer cannot be read: {0}")]
    Corrupt(String),
    /// The keeper said nothing for longer than it may.
    #[error("the keeper was silent for {} s", .0.as_secs())]
    Silent(Duration),
}

#[derive(Clone, Debug)]
enum Loss {
    Ended(String),
    Silent(Duration),
}

impl Loss {
    fn error(self) -> KeeperError {
        match self {
            Self::Ended(reason) => KeeperError::Lost(reason),
            Self::Silent(length) => KeeperError::Silent(length),
        }
    }

    fn reason(&self) -> String {
        match self {
            Self::Ended(reason) => reason.clone(),
            Self::Silent(length) => format!("the keeper was silent for {} s", length.as_secs()),
        }
    }
}

/// The way operations learn that the connection is lost.
#[derive(Clone, Debug)]
struct Lost(watch::Receiver<Option<Loss>>);

impl Lost {
    async fn wait(&self) -> Loss {
        let mut receiver = self.0.clone();
        match receiver.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(loss)) => loss.clone(),
            _ => Loss::Ended("the connection was given up".to_owned()),
        }
    }

    /// The error of an operation whose stream ended or failed before its answer.
    async fn error(&self, what: &str) -> KeeperError {
        match tokio::time::timeout(REASON_WAIT, self.wait()).await {
            Ok(loss) => loss.error(),
            Err(_) => KeeperError::lost(what),
        }
    }

    async fn frame_error(&self, error: FrameError) -> KeeperError {
        match error {
            FrameError::Io(error) => self.error(&error.to_string()).await,
            FrameError::Cut => self.error("the keeper reset the operation").await,
            other => KeeperError::corrupt(other),
        }
    }
}

/// A handle to a keeper. The last one dropped closes the stream, which ends the container.
#[derive(Clone, Debug)]
pub struct Keeper {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    opener: Opener,
    silence: Arc<Silence>,
    patience: Arc<Patience>,
    lost: Lost,
    _driver: AbortOnDropHandle<()>,
    _beat: AbortOnDropHandle<()>,
}

impl Keeper {
    /// Says hello over `stream`. A stream that is dropped midway closes the connection.
    ///
    /// # Errors
    ///
    /// [`KeeperError::Protocol`] if the keeper speaks another version, and all others.
    pub async fn connect(
        stream: ByteStream,
        options: KeeperOptions,
    ) -> Result<(Self, Incoming, Hello), KeeperError> {
        let Limits { idle, job } = options.silence;
        let silence = Arc::new(Silence::new(Silence::tick_for(idle.min(job))));
        let patience = Arc::new(Patience::new(options.silence, true));
        let (reader, writer) = tokio::io::split(stream);
        let (opener, driver) = mux::connect(Side::Host, reader, writer, Arc::clone(&silence));
        let (announce, arrivals) = mpsc::unbounded_channel();
        let (tell, lost) = watch::channel(None);
        let (watched, limit) = (Arc::clone(&silence), Arc::clone(&patience));
        let turn = incoming::Turn::default();
        let arriving = turn.clone();
        let driver = tokio::spawn(async move {
            let inbound = |stream| incoming::announce(stream, &announce, arriving.now());
            let loss = tokio::select! {
                reason = driver.run(inbound) => Loss::Ended(said::fit(&reason, said::MAX_SENTENCE)),
                length = watched.over(|| limit.limit()) => Loss::Silent(length),
            };
            // Nobody listens when the last handle is gone.
            let _ = tell.send(Some(loss));
        });
        let driver = AbortOnDropHandle::new(driver);
        let lost = Lost(lost);

        let request = Request::Hello {
            protocol: PROTOCOL,
            heartbeat_ms: u64::try_from(options.heartbeat.as_millis()).unwrap_or(u64::MAX),
        };
        let (mut frames, mut writer) = open(&opener, &lost, &request).await?;
        let hello: Hello = answer(&mut frames, &lost).await?;
        if hello.protocol != PROTOCOL {
            return Err(KeeperError::Protocol { keeper: hello.protocol, host: PROTOCOL });
        }
        let beat = tokio::spawn(async move {
            let send = async {
                let mut ticks = tokio::time::interval(options.heartbeat);
                ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
                loop {
                    ticks.tick().await;
                    if writer.send(Kind::Beat, &[]).await.is_err() {
                        break;
                    }
                }
            };
            let hear = async { while let Ok(Some(_)) = frames.next().await {} };
            tokio::join!(send, hear);
        });
        let beat = AbortOnDropHandle::new(beat);
        let shared = Shared { opener, silence, patience, lost, _driver: driver, _beat: beat };
        Ok((Self { shared: Arc::new(shared) }, Incoming::new(arrivals, turn), hello))
    }

    /// Prepares the writable places, starts the listeners, reads the posture and the fingerprint.
    ///
    /// # Errors
    ///
    /// See [`KeeperError`].
    pub async fn arm(&self, request: ArmRequest) -> Result<Armed, KeeperError> {
        let armed = self.call(&Request::Arm(request)).await?;
        self.shared.patience.cleared();
        Ok(armed)
    }

    /// Begins to write a tree into the workspace.
    ///
    /// # Errors
    ///
    /// See [`KeeperError`]; what the keeper refuses comes with [`Put::finish`].
    pub async fn put(&self, request: PutRequest) -> Result<Put, KeeperError> {
        self.shared.patience.put(request.ahead);
        let (frames, writer) = self.open(&Request::Put(request)).await?;
        Ok(Put::new(frames, writer, self.shared.lost.clone()))
    }

    /// Runs a program as uid 1000, and returns once it runs.
    ///
    /// # Errors
    ///
    /// See [`KeeperError`]; `Refused` if it cannot be started.
    pub async fn spawn(&self, request: SpawnRequest) -> Result<Program, KeeperError> {
        self.start_program(request, true).await
    }

    /// The same, but stdin stays open for [`Program::write`].
    ///
    /// # Errors
    ///
    /// See [`KeeperError`].
    pub async fn spawn_open(&self, request: SpawnRequest) -> Result<Program, KeeperError> {
        self.start_program(request, false).await
    }

    async fn start_program(
        &self,
        request: SpawnRequest,
        closing: bool,
    ) -> Result<Program, KeeperError> {
        let stdin = request.stdin.clone().into_bytes();
        let nonce = request.nonce.clone();
        self.shared.patience.spawned();
        let (frames, writer) = self.open(&Request::Spawn(request)).await?;
        Program::start(frames, writer, self.shared.lost.clone(), nonce, stdin, closing).await
    }

    /// Ends every process but init and keeper. The tree is at rest if the report has none left.
    ///
    /// # Errors
    ///
    /// See [`KeeperError`].
    pub async fn end(&self) -> Result<EndReport, KeeperError> {
        self.call(&Request::End).await
    }

    /// Begins to read what differs from what was put. Refused while a process is left.
    ///
    /// # Errors
    ///
    /// See [`KeeperError`]; what the keeper refuses comes with [`Collect::finish`].
    pub async fn collect(&self, request: CollectRequest) -> Result<Collect, KeeperError> {
        let (frames, writer) = self.open(&Request::Collect(request)).await?;
        Ok(Collect::new(frames, writer, self.shared.lost.clone()))
    }

    /// Ends every process, empties every writable place and restores the template; the caller
    /// compares the fingerprint with the one of arming.
    ///
    /// # Errors
    ///
    /// See [`KeeperError`].
    pub async fn reset(&self) -> Result<Fingerprint, KeeperError> {
        Ok(self.reset_with(ResetRequest::default()).await?.fingerprint)
    }

    /// As [`Keeper::reset`], and may keep what was built in ignored directories for the next tree,
    /// which must be of the same workspace. The fingerprint is of everything else.
    ///
    /// # Errors
    ///
    /// See [`KeeperError`].
    pub async fn reset_with(&self, request: ResetRequest) -> Result<ResetReport, KeeperError> {
        let report = self.call(&Request::Reset(request)).await?;
        self.shared.patience.cleared();
        Ok(report)
    }

    /// How long the keeper has said nothing, of the time lived through; no round trip.
    pub fn silent_for(&self) -> Duration {
        self.shared.silence.length()
    }

    /// Why the stream was lost, if it was; no round trip.
    pub fn lost(&self) -> Option<String> {
        self.shared.lost.0.borrow().as_ref().map(Loss::reason)
    }

    /// Resolves with the reason once the stream is lost. Cancel safe.
    pub async fn closed(&self) -> String {
        self.shared.lost.wait().await.reason()
    }

    /// As [`Keeper::closed`], without keeping the stream open meanwhile.
    pub fn watch_loss(&self) -> BoxFuture<'static, String> {
        let lost = self.shared.lost.clone();
        Box::pin(async move { lost.wait().await.reason() })
    }

    /// Asks the keeper for an answer and measures how long it takes.
    ///
    /// # Errors
    ///
    /// See [`KeeperError`].
    pub async fn round_trip(&self) -> Result<Duration, KeeperError> {
        let started = Instant::now();
        let () = self.call(&Request::Ping).await?;
        Ok(started.elapsed())
    }

    async fn open(&self, request: &Request) -> Result<Frames, KeeperError> {
        open(&self.shared.opener, &self.shared.lost, request).await
    }

    async fn call<T: DeserializeOwned + Said>(&self, request: &Request) -> Result<T, KeeperError> {
        let (mut frames, _writer) = self.open(request).await?;
        answer(&mut frames, &self.shared.lost).await
    }
}

async fn open(
    opener: &Opener,
    lost: &Lost,
    request: &impl Serialize,
) -> Result<Frames, KeeperError> {
    let Some(stream) = opener.open().await else {
        return Err(lost.error("the connection is closed").await);
    };
    let (reader, writer) = tokio::io::split(stream);
    let mut writer = FrameWriter::new(writer);
    match writer.send_json(Kind::Request, request).await {
        Ok(()) => Ok((FrameReader::new(reader), writer)),
        Err(error @ (FrameError::Length { .. } | FrameError::Json { .. })) => {
            Err(KeeperError::Refused(format!("the request cannot be sent: {error}")))
        }
        Err(error) => Err(lost.frame_error(error).await),
    }
}

/// Reads the one frame that answers an operation, and sees that what it says can be shown.
async fn answer<T: DeserializeOwned + Said>(
    frames: &mut FrameReader<ReadHalf<Stream>>,
    lost: &Lost,
) -> Result<T, KeeperError> {
    match frames.next().await {
        Ok(Some(frame)) if frame.kind == Kind::Reply => {
            frame.json().map_err(KeeperError::corrupt).and_then(T::checked)
        }
        Ok(Some(frame)) if frame.kind == Kind::Refused => Err(KeeperError::refused(&frame.payload)),
        Ok(Some(frame)) => {
            Err(KeeperError::Corrupt(format!("{:?} where an answer belongs", frame.kind)))
        }
        Ok(None) => Err(lost.error("the keeper ended the operation without an answer").await),
        Err(error) => Err(lost.frame_error(error).await),
    }
}
