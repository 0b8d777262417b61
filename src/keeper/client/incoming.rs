//! Connections that programs in the container made.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;

use crate::keeper::frame::{FrameReader, Kind};
use crate::keeper::mux::Stream;
use crate::keeper::wire::IncomingHeader;

/// Receives the connections. There is one for each keeper.
#[derive(Debug)]
pub struct Incoming {
    arrivals: mpsc::UnboundedReceiver<Connection>,
    turn: Turn,
}

/// Counts the jobs of a container, so that a connection is known as one of an earlier job.
#[derive(Clone, Debug, Default)]
pub(super) struct Turn(Arc<AtomicU64>);

impl Turn {
    /// The turn now.
    pub(super) fn now(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// One connection that a program in the container made to a forwarded port. Dropping it resets it.
#[derive(Debug)]
pub struct Connection {
    stream: Stream,
    port: u16,
    turn: u64,
}

/// Reads the header of a stream that the keeper opened and hands it on, in a task of its own: the
/// driver must not wait. What never sends a header is dropped with the connection; there are at
/// most as many as the multiplexer lets be open.
pub(super) fn announce(stream: Stream, arrivals: &mpsc::UnboundedSender<Connection>, turn: u64) {
    let arrivals = arrivals.clone();
    tokio::spawn(async move {
        let mut frames = FrameReader::new(stream);
        let Ok(Some(frame)) = frames.next().await else { return };
        if frame.kind != Kind::Incoming {
            return;
        }
        if let Ok(IncomingHeader { port }) = frame.json() {
            // Nobody accepts any more: the connection is dropped and so reset.
            let _ = arrivals.send(Connection { stream: frames.into_inner(), port, turn });
        }
    });
}

impl Incoming {
    pub(super) fn new(arrivals: mpsc::UnboundedReceiver<Connection>, turn: Turn) -> Self {
        Self { arrivals, turn }
    }

    /// The next connection; `None` once the keeper is lost. Cancel safe.
    pub async fn accept(&mut self) -> Option<Connection> {
        loop {
            let connection = self.arrivals.recv().await?;
            if connection.turn == self.turn.now() {
                return Some(connection);
            }
        }
    }

    /// Drops, and so resets, every connection that was made so far and not accepted, those whose
    /// header is still on its way among them.
    pub fn discard(&mut self) {
        self.turn.0.fetch_add(1, Ordering::SeqCst);
        while self.arrivals.try_recv().is_ok() {}
    }
}

impl Connection {
    /// The port in the container that was connected to.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
