//! Answers the host, one task a stream.
//!
//! ```text
//!  nothing put ── put ──> a job is in it ── spawn, end, collect ──> ── reset ─┬─> nothing put
//!                              ▲                                              └─> what is left of a tree
//!                              └──────────────── put of what differs ──────────────────────┘
//! ```
//!
//! The reader of the outer stream waits for no one ([`mux`](crate::keeper::mux)). Operations on the
//! tree happen one at a time; `end`, signals and heartbeats wait for none of them. The keeper ends
//! when its stdin ends, or when the host says nothing for longer than it may ([`Patience`]): 15 s, or
//! 180 s while a job is in the container. Then `init` ends the container.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::container::Container;
use super::guard::InContainer;
use super::transfer::{CHUNKS, Chunk, ChunkReader, ChunkWriter};
use super::{Doing, Inside, Refusal, forward, process, spawn, stdio, sys};
use crate::keeper::frame::{FrameReader, FrameWriter, Kind, MAX_DATA};
use crate::keeper::mux::{self, Opener, Side, Stream};
use crate::keeper::silence::{Limits, Patience, Silence};
use crate::keeper::wire::{
    ArmRequest, Armed, CollectRequest, EndReport, Hello, PROTOCOL, PutReport, PutRequest, Request,
    ResetReport, ResetRequest, SpawnRequest,
};

/// Rounds of killing at most, and the pause between two.
const ROUNDS: u32 = 2000;
const PAUSE: Duration = Duration::from_millis(1);

type Reader = FrameReader<ReadHalf<Stream>>;
type Writer = FrameWriter<WriteHalf<Stream>>;

struct Core<I> {
    inside: Arc<I>,
    opener: Opener,
    /// Held by whoever reads or writes the tree.
    tree: tokio::sync::Mutex<()>,
    patience: Patience,
    listeners: Mutex<Vec<AbortOnDropHandle<()>>>,
    /// As [`ArmRequest`] says.
    ports: Mutex<(Vec<u16>, bool)>,
}

/// Serves a host over the two halves of a stream until it is gone, and says why it ended.
pub async fn serve<I: Inside>(
    inside: Arc<I>,
    reader: impl AsyncRead + Send + Unpin + 'static,
    writer: impl AsyncWrite + Send + Unpin + 'static,
    limits: Limits,
) -> String {
    let silence = Arc::new(Silence::new(Silence::tick_for(limits.idle.min(limits.job))));
    let (opener, driver) = mux::connect(Side::Keeper, reader, writer, Arc::clone(&silence));
    let core = Arc::new(Core {
        inside,
        opener,
        tree: tokio::sync::Mutex::new(()),
        patience: Patience::new(limits, false),
        listeners: Mutex::default(),
        ports: Mutex::default(),
    });
    let inbound = |stream| {
        let core = Arc::clone(&core);
        tokio::spawn(async move { core.answer(stream).await });
    };
    tokio::select! {
        reason = driver.run(inbound) => reason,
        length = silence.over(|| core.patience.limit()) => format!("the host was silent for {} s", length.as_secs()),
    }
}

impl<I: Inside> Core<I> {
    /// Answers one stream. Whatever goes wrong, the host gets a sentence or sees its stream reset.
    async fn answer(self: Arc<Self>, stream: Stream) {
        let (reader, writer) = tokio::io::split(stream);
        let (mut reader, mut writer) = (FrameReader::new(reader), FrameWriter::new(writer));
        let request = match reader.next().await {
            Ok(Some(frame)) if frame.kind == Kind::Request => frame.json::<Request>(),
            Ok(Some(frame)) => {
                let sentence = format!("a stream begins with a request, not with {:?}", frame.kind);
                return refuse(&mut writer, &Refusal(sentence)).await;
            }
            Ok(None) => return,
            Err(error) => Err(error),
        };
        let request = match request {
            Ok(request) => request,
            Err(error) => return refuse(&mut writer, &Refusal(error.to_string())).await,
        };
        match request {
            Request::Hello { heartbeat_ms, .. } => hello(reader, writer, heartbeat_ms).await,
            Request::Ping => reply(&mut writer, Ok(())).await,
            Request::Arm(request) => reply(&mut writer, self.arm(request).await).await,
            Request::End => reply(&mut writer, self.end().await).await,
            Request::Reset(request) => reply(&mut writer, self.reset(request).await).await,
            Request::Put(request) => {
                let done = self.put(request, reader).await;
                reply(&mut writer, done).await;
            }
            Request::Collect(request) => self.collect(request, &mut writer).await,
            Request::Spawn(request) => self.spawn(request, reader, writer).await,
        }
    }

    async fn arm(self: &Arc<Self>, request: ArmRequest) -> Result<Armed, Refusal> {
        let _tree = self.tree.lock().await;
        require_end(self.end().await?)?;
        self.close_listeners().await;
        *self.ports.lock() = (request.forward.clone(), request.any_port);
        let ports = self.listen().await?;
        self.patience.cleared();
        let inside = Arc::clone(&self.inside);
        let armed = blocking(move || inside.arm(&request)).await?;
        Ok(Armed { ports, ..armed })
    }

    /// Gives the ports that are listened on.
    async fn listen(&self) -> Result<Vec<u16>, Refusal> {
        let (ports, any_port) = self.ports.lock().clone();
        let mut bound = Vec::with_capacity(ports.len());
        for port in ports {
            let listener = forward::bind(if any_port { 0 } else { port }).await;
            let (listener, at) = listener.doing(format_args!("listen on port {port}"))?;
            bound.push(at);
            self.listeners.lock().push(forward::serve(listener, port, self.opener.clone()));
        }
        Ok(bound)
    }

    async fn close_listeners(&self) {
        let listeners = std::mem::take(&mut *self.listeners.lock());
        forward::close(listeners).await;
    }

    async fn end(&self) -> Result<EndReport, Refusal> {
        end_all(&*self.inside).await
    }

    async fn reset(self: &Arc<Self>, request: ResetRequest) -> Result<ResetReport, Refusal> {
        // First of all, so that what holds the tree comes to its end.
        require_end(self.end().await?)?;
        let _tree = self.tree.lock().await;
        require_end(self.end().await?)?;
        // What a dead program connected and nobody took yet would reach the next job's host.
        self.close_listeners().await;
        let inside = Arc::clone(&self.inside);
        let report = blocking(move || inside.reset(&request)).await?;
        let ports = self.listen().await?;
        self.patience.cleared();
        Ok(ResetReport { ports, ..report })
    }

    async fn put(
        self: &Arc<Self>,
        request: PutRequest,
        mut reader: Reader,
    ) -> Result<PutReport, Refusal> {
        let _tree = self.tree.lock().await;
        self.patience.put(request.ahead);
        let (chunks, received) = mpsc::channel::<Chunk>(CHUNKS);
        let inside = Arc::clone(&self.inside);
        let work = blocking(move || inside.put(&request, &mut ChunkReader::new(received)));
        let feed = async move {
            loop {
                let chunk = match reader.next().await {
                    Ok(Some(frame)) if frame.kind == Kind::Data => Some(frame.payload),
                    Ok(Some(frame)) if frame.kind == Kind::End => None,
                    // Cut, or not what belongs here: the channel closes without its end.
                    _ => break,
                };
                let last = chunk.is_none();
                if chunks.send(chunk).await.is_err() || last {
                    break;
                }
            }
            // Kept until the answer has gone out, lest the stream looks half closed before it.
            reader
        };
        let (done, _reader) = tokio::join!(work, feed);
        done
    }

    async fn collect(self: &Arc<Self>, request: CollectRequest, writer: &mut Writer) {
        let _tree = self.tree.lock().await;
        let (chunks, mut collected) = mpsc::channel(CHUNKS);
        let inside = Arc::clone(&self.inside);
        let work = blocking(move || {
            let mut out = ChunkWriter::new(chunks);
            let report = inside.collect(&request, &mut out)?;
            out.flush().doing("send the changes")?;
            Ok(report)
        });
        let send = async {
            while let Some(chunk) = collected.recv().await {
                if writer.send(Kind::Data, &chunk).await.is_err() {
                    break;
                }
            }
            // Closed, so that the thread does not wait for a host that is gone.
            drop(collected);
        };
        let (report, ()) = tokio::join!(work, send);
        if report.is_ok() && writer.send(Kind::End, &[]).await.is_err() {
            return;
        }
        reply(writer, report).await;
    }

    async fn spawn(self: &Arc<Self>, request: SpawnRequest, reader: Reader, mut writer: Writer) {
        let started = async {
            let _tree = self.tree.lock().await;
            let inside = Arc::clone(&self.inside);
            blocking(move || inside.settle()).await?;
            self.patience.spawned();
            spawn::start(self.inside.command(&request)?)
        };
        let child = match started.await {
            Ok(child) => child,
            Err(refusal) => return refuse(&mut writer, &refusal).await,
        };
        // A host that is gone shows in the program's own loop.
        let _ = writer.send(Kind::Started, &[]).await;
        let nonce = request.nonce;
        let report = spawn::run(&*self.inside, child, nonce, reader, &mut writer).await;
        let report = report.ok_or_else(|| Refusal::new("the program's end was not seen"));
        reply(&mut writer, report).await;
    }
}

/// Repeats rounds of killing until none is left. In place, since at the process limit no thread
/// could be made.
pub(super) async fn end_all<I: Inside>(inside: &I) -> Result<EndReport, Refusal> {
    let mut report = EndReport::default();
    loop {
        report.rounds += 1;
        report.left = inside.kill_round()?;
        if report.left == 0 || report.rounds >= ROUNDS {
            return Ok(report);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn require_end(report: EndReport) -> Result<(), Refusal> {
    if report.left == 0 {
        return Ok(());
    }
    Err(Refusal(format!("{} processes could not be ended", report.left)))
}

/// Says who this is, then gives and takes signs of life until the stream ends.
async fn hello(mut reader: Reader, mut writer: Writer, heartbeat_ms: u64) {
    let hello = Hello { protocol: PROTOCOL, version: env!("CARGO_PKG_VERSION").to_owned() };
    if writer.send_json(Kind::Reply, &hello).await.is_err() {
        return;
    }
    let beat = async {
        let interval = Duration::from_millis(heartbeat_ms.clamp(10, 60_000));
        let mut ticks = tokio::time::interval(interval);
        loop {
            ticks.tick().await;
            if writer.send(Kind::Beat, &[]).await.is_err() {
                break;
            }
        }
    };
    let hear = async { while let Ok(Some(_)) = reader.next().await {} };
    tokio::join!(beat, hear);
}

async fn reply<T: Serialize>(writer: &mut Writer, result: Result<T, Refusal>) {
    match result {
        Ok(value) => {
            if let Err(error) = writer.send_json(Kind::Reply, &value).await {
                let sentence = format!("the answer cannot be sent: {error}");
                refuse(writer, &Refusal(sentence)).await;
            }
        }
        Err(refusal) => refuse(writer, &refusal).await,
    }
}

async fn refuse(writer: &mut Writer, refusal: &Refusal) {
    let sentence = refusal.0.as_bytes();
    // The host is gone if this fails, and then nobody wants to know.
    let _ = writer.send(Kind::Refused, &sentence[..sentence.len().min(MAX_DATA)]).await;
}

/// Runs blocking work on a thread for it.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(Refusal(format!("the keeper failed: {error}"))),
    }
}

/// The subcommand `serve`: proves that this is a container of ours, then serves stdin and stdout.
///
/// # Errors
///
/// The proof that is missing, or another keeper that is there already.
pub fn main() -> Result<(), Refusal> {
    let proof = InContainer::prove()?;
    sys::frugal_allocator();
    rustix::process::umask(rustix::fs::Mode::empty());
    if !process::keepers().is_empty() {
        return Err(Refusal::new("a keeper is here already"));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_stack_size(512 << 10)
        .thread_keep_alive(Duration::from_secs(1))
        .build()
        .doing("start the runtime")?;
    let reason = runtime.block_on(async {
        let reader = stdio::input().doing("read stdin")?;
        let writer = stdio::output().doing("write stdout")?;
        Ok(serve(Arc::new(Container::new(proof)), reader, writer, Limits::default()).await)
    })?;
    // A thread that waits for a disk must not keep the container.
    runtime.shutdown_background();
    // Nobody reads it if this fails.
    let _ = writeln!(std::io::stderr(), "codex-keeper: ended, because {reason}");
    Ok(())
}
