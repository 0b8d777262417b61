//! Many streams over the one exec stream: yamux, with an elastic buffer below it.
//!
//! ```text
//!  streams ── Connection (yamux) ── Elastic ──> pump ──> exec stream
//!                                      ^─────────────────── exec stream
//! ```
//!
//! yamux 0.14 stops reading while one frame of its own (a pong) waits for a socket that is not
//! writable. If both sides get there at once, both directions stand still for ever; the test
//! `without_the_elastic_buffer_...` shows it. So writes never wait here: [`Elastic`] takes every
//! byte and a task of its own, the pump, writes them out. An honest receiver's windows bound what a
//! sender may send: at most [`MAX_STREAMS`] streams of 256 KiB, which is [`MAX_IN_FLIGHT`], and in
//! practice the few streams that are busy. One that grants more and does not read is given up. The
//! reader of the
//! exec stream never waits for a consumer for the same reason: what comes fits into a window that
//! this side has granted.
//!
//! The exec stream is never half-closed: it is open, or it is dropped whole.

mod elastic;

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt};
use yamux::{Config, Connection, Mode};

use self::elastic::Elastic;
use super::frame::MAX_DATA;
use super::silence::Silence;

/// Streams at most that yamux lets be open at once; one more would end the connection, so both
/// sides stay far below it ([`MAX_OPENED`]).
pub const MAX_STREAMS: usize = 128;

/// Streams at most that one side has open at once; the next one waits.
pub const MAX_OPENED: usize = 48;

/// Bytes at most that can be on their way in one direction.
pub const MAX_IN_FLIGHT: usize = MAX_STREAMS * yamux::DEFAULT_CREDIT as usize;

/// One stream of many; resets itself when it is dropped before it was shut down.
#[derive(Debug)]
pub struct Stream {
    inner: Compat<yamux::Stream>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// Which side of the exec stream this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The orchestrator.
    Host,
    /// The keeper.
    Keeper,
}

type Opened = oneshot::Sender<yamux::Stream>;

/// Opens streams; when the last one is dropped, the connection is closed.
#[derive(Clone, Debug)]
pub struct Opener {
    requests: mpsc::UnboundedSender<Opened>,
    permits: Arc<Semaphore>,
}

impl Opener {
    /// Opens a stream, once fewer than [`MAX_OPENED`] are open; `None` when the connection is
    /// closed. Cancel safe.
    pub async fn open(&self) -> Option<Stream> {
        let permit = Arc::clone(&self.permits).acquire_owned().await.ok()?;
        let (opened, stream) = oneshot::channel();
        self.requests.send(opened).ok()?;
        let inner = stream.await.ok()?.compat();
        Some(Stream { inner, _permit: Some(permit) })
    }
}

/// A connection that [`Driver::run`] must drive.
#[derive(Debug)]
pub struct Driver {
    connection: Connection<Elastic>,
    requests: mpsc::UnboundedReceiver<Opened>,
}

/// Makes a connection of the two halves of an exec stream. `silence` hears every byte that comes.
/// Must be called within a runtime, which runs the pump.
pub fn connect<R, W>(side: Side, reader: R, writer: W, silence: Arc<Silence>) -> (Opener, Driver)
where
    R: AsyncRead + Send + Unpin + 'static,
    W: AsyncWrite + Send + Unpin + 'static,
{
    let mode = match side {
        Side::Host => Mode::Client,
        Side::Keeper => Mode::Server,
    };
    let connection =
        Connection::new(Elastic::new(Box::new(reader), writer, silence), config(), mode);
    let (sender, requests) = mpsc::unbounded_channel();
    let opener = Opener { requests: sender, permits: Arc::new(Semaphore::new(MAX_OPENED)) };
    (opener, Driver { connection, requests })
}

fn config() -> Config {
    let mut config = Config::default();
    config.set_max_num_streams(MAX_STREAMS);
    config.set_max_connection_receive_window(Some(MAX_IN_FLIGHT));
    config.set_split_send_size(2 * MAX_DATA);
    config
}

impl Driver {
    /// Drives the connection until it ends, and says why it did. `inbound` gets the streams that
    /// the other side opens and must not wait.
    pub async fn run(mut self, mut inbound: impl FnMut(Stream)) -> String {
        let mut waiting: Option<Opened> = None;
        poll_fn(|cx| self.poll(cx, &mut waiting, &mut inbound)).await
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        waiting: &mut Option<Opened>,
        inbound: &mut impl FnMut(Stream),
    ) -> Poll<String> {
        loop {
            match self.connection.poll_next_inbound(cx) {
                Poll::Ready(Some(Ok(stream))) => {
                    inbound(Stream { inner: stream.compat(), _permit: None });
                    continue;
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(error.to_string()),
                Poll::Ready(None) => return Poll::Ready("the stream ended".to_owned()),
                Poll::Pending => {}
            }
            if waiting.is_none() {
                match ready!(self.requests.poll_recv(cx)) {
                    Some(opened) => *waiting = Some(opened),
                    None => return Poll::Ready("the connection was given up".to_owned()),
                }
            }
            match ready!(self.connection.poll_new_outbound(cx)) {
                Ok(stream) => {
                    if let Some(opened) = waiting.take() {
                        // Nobody waits for it any more: it is dropped and never said anything.
                        let _ = opened.send(stream);
                    }
                }
                Err(error) => return Poll::Ready(error.to_string()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::{AsyncReadExt, AsyncWriteExt};
    use tokio::io::DuplexStream;
    use tokio_util::compat::{Compat, TokioAsyncReadCompatExt};

    use super::*;

    const BYTES: usize = 200_000;

    /// Lets both sides send before either has read anything, over a pipe that holds 64 bytes, and
    /// tells whether all of it arrives.
    async fn both_arrive<T>(mut near: Connection<T>, mut far: Connection<T>) -> bool
    where
        T: futures::AsyncRead + futures::AsyncWrite + Send + Unpin + 'static,
    {
        let mut tasks = Vec::new();
        for connection in [&mut near, &mut far] {
            let mut stream = poll_fn(|cx| connection.poll_new_outbound(cx)).await.unwrap();
            // Queued in the connection before it is polled for the first time.
            stream.write_all(&[1; 1000]).await.unwrap();
            tasks.push(tokio::spawn(async move {
                stream.write_all(&vec![1; BYTES - 1000]).await.unwrap();
                stream.close().await.unwrap();
                // Kept, since dropping it early would reset it.
                stream.read_to_end(&mut Vec::new()).await.unwrap();
            }));
        }
        let (arrived, mut arrivals) = mpsc::unbounded_channel();
        let drive = |mut connection: Connection<T>| {
            let arrived = arrived.clone();
            tokio::spawn(async move {
                while let Some(Ok(mut stream)) =
                    poll_fn(|cx| connection.poll_next_inbound(cx)).await
                {
                    let arrived = arrived.clone();
                    tokio::spawn(async move {
                        let mut bytes = Vec::new();
                        stream.read_to_end(&mut bytes).await.unwrap();
                        arrived.send(bytes.len()).unwrap();
                    });
                }
            })
        };
        let drivers = [drive(near), drive(far)];
        let both = async { (arrivals.recv().await, arrivals.recv().await) };
        // The clock is paused: it jumps here only when every task stands still.
        let done = tokio::time::timeout(Duration::from_secs(60), both).await;
        drivers.iter().for_each(tokio::task::JoinHandle::abort);
        done.is_ok_and(|done| done == (Some(BYTES), Some(BYTES)))
    }

    fn raw(stream: DuplexStream, mode: Mode) -> Connection<Compat<DuplexStream>> {
        Connection::new(stream.compat(), config(), mode)
    }

    fn elastic(stream: DuplexStream, mode: Mode) -> Connection<Elastic> {
        let (reader, writer) = tokio::io::split(stream);
        let silence = Arc::new(Silence::new(Duration::from_secs(1)));
        Connection::new(Elastic::new(Box::new(reader), writer, silence), config(), mode)
    }

    #[tokio::test(start_paused = true)]
    async fn without_the_elastic_buffer_both_directions_stand_still() {
        let (near, far) = tokio::io::duplex(64);
        assert!(!both_arrive(raw(near, Mode::Client), raw(far, Mode::Server)).await);
    }

    #[tokio::test]
    async fn a_receiver_that_grants_a_window_without_end_and_reads_nothing_is_given_up() {
        let (near, mut far) = tokio::io::duplex(64);
        let (reader, writer) = tokio::io::split(near);
        let silence = Arc::new(Silence::new(Duration::from_secs(1)));
        let (_opener, driver) = connect(Side::Host, reader, writer, silence);
        let (send, mut streams) = mpsc::unbounded_channel();
        let driver = tokio::spawn(driver.run(move |stream| {
            let _ = send.send(stream);
        }));
        // A window update that opens stream 2: version, type, flags, stream, credit.
        let open = [0, 1, 0, 1, 0, 0, 0, 2, 0xf0, 0, 0, 0];
        tokio::io::AsyncWriteExt::write_all(&mut far, &open).await.unwrap();
        let mut stream = streams.recv().await.unwrap();
        let chunk = vec![1; 1 << 20];
        let mut taken = 0;
        while tokio::io::AsyncWriteExt::write_all(&mut stream, &chunk).await.is_ok() {
            taken += chunk.len();
            assert!(taken <= 3 * MAX_IN_FLIGHT, "held in memory without end");
        }
        let reason = driver.await.unwrap();
        assert!(reason.contains("does not read"), "{reason}");
    }

    #[tokio::test(start_paused = true)]
    async fn with_the_elastic_buffer_everything_arrives() {
        let (near, far) = tokio::io::duplex(64);
        assert!(both_arrive(elastic(near, Mode::Client), elastic(far, Mode::Server)).await);
    }
}
