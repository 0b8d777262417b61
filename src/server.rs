//! The server's life: from the first line on stdin to its end.
//!
//! ```text
//!  stdin ──> EOF guard ──> Patient transport ──> rmcp ──> CodexTools ──> tasks of a tracker
//!               │ EOF                              ▲            ▲
//!  SIGTERM ─────┴─────> shutdown token ────────────┴────────────┘
//! ```
//!
//! `rmcp` alone notices a closed stdin only after it has waited five seconds for the calls in
//! flight, and by then the client has killed us. So the end of stdin cancels our own token at once,
//! every call ends as cancelled and is answered, and all of it takes at most
//! `server.shutdown_grace`.

mod patient;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rmcp::ServiceExt;
use rmcp::service::ServerInitializeError;
use rmcp::transport::async_rw::AsyncRwTransport;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::patient::Patient;
use crate::job::Jobs;
use crate::mcp::CodexTools;

/// Why the server could not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The client and we did not agree on a protocol.
    #[error("the client could not be served")]
    Initialize(#[source] Box<ServerInitializeError>),
    /// The loop of the protocol library panicked.
    #[error("the protocol loop ended by a defect")]
    Loop(#[source] tokio::task::JoinError),
    /// The signals could not be listened for.
    #[error("could not listen for signals")]
    Signals(#[source] io::Error),
}

/// Serves one client on `reader` and `writer` until it closes its end or `shutdown` is cancelled,
/// which this also does itself at the end. Returns at most `grace` after that, whatever a call does.
///
/// # Errors
///
/// The client spoke no protocol of ours, or the protocol library failed.
pub async fn run<R, W>(
    jobs: Arc<dyn Jobs>,
    grace: Duration,
    reader: R,
    writer: W,
    shutdown: CancellationToken,
) -> Result<(), ServerError>
where
    R: AsyncRead + Send + Unpin + 'static,
    W: AsyncWrite + Send + Unpin + 'static,
{
    let tracker = TaskTracker::new();
    let handler = CodexTools::new(jobs, tracker.clone(), shutdown.clone());
    let reader = EofGuard { inner: reader, shutdown: shutdown.clone() };
    let transport = Patient::new(AsyncRwTransport::new_server(reader, writer));
    let serving = async {
        match handler.serve_with_ct(transport, shutdown.clone()).await {
            Ok(service) => {
                let waited = service.waiting().await;
                shutdown.cancel();
                // Answers went out while the library drained; what is left are calls whose client
                // has cancelled them, and they still have containers to give back.
                tracker.close();
                tracker.wait().await;
                waited.map(|_| ()).map_err(ServerError::Loop)
            }
            Err(ServerInitializeError::Cancelled | ServerInitializeError::ConnectionClosed(_)) => {
                Ok(())
            }
            Err(error) => Err(ServerError::Initialize(Box::new(error))),
        }
    };
    let outcome = tokio::select! {
        outcome = serving => outcome,
        () = async {
            shutdown.cancelled().await;
            tokio::time::sleep(grace).await;
        } => {
            tracing::warn!(unfinished = tracker.len(), "server.shutdown_grace ran out");
            Ok(())
        }
    };
    shutdown.cancel();
    outcome
}

/// Cancels `shutdown` at SIGTERM or SIGINT.
///
/// # Errors
///
/// The operating system refuses a handler.
pub fn cancel_on_signals(shutdown: CancellationToken) -> Result<(), ServerError> {
    use tokio::signal::unix::{SignalKind, signal};

    let mut terminate = signal(SignalKind::terminate()).map_err(ServerError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ServerError::Signals)?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("ending by SIGTERM"),
            _ = interrupt.recv() => tracing::info!("ending by SIGINT"),
            () = shutdown.cancelled() => {}
        }
        shutdown.cancel();
    });
    Ok(())
}

/// Standard input and output for [`run`].
///
/// A read that waits on standard input cannot always be stopped, so the runtime must be shut down
/// without waiting for it.
pub fn standard_streams()
-> (impl AsyncRead + Send + Unpin + 'static, impl AsyncWrite + Send + Unpin + 'static) {
    rmcp::transport::io::stdio_pipes()
}

/// A reader that cancels a token at its end.
#[derive(Debug)]
struct EofGuard<R> {
    inner: R,
    shutdown: CancellationToken,
}

impl<R: AsyncRead + Unpin> AsyncRead for EofGuard<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (before, room) = (buffer.filled().len(), buffer.remaining());
        let read = Pin::new(&mut self.inner).poll_read(context, buffer);
        let ended = match &read {
            Poll::Ready(Ok(())) => buffer.filled().len() == before && room > 0,
            Poll::Ready(Err(_)) => true,
            Poll::Pending => false,
        };
        if ended {
            self.shutdown.cancel();
        }
        read
    }
}

impl<R> Drop for EofGuard<R> {
    fn drop(&mut self) {
        // The library dropped the transport, so nobody will be heard any more.
        self.shutdown.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_end_of_the_input_is_an_end() {
        let shutdown = CancellationToken::new();
        let mut guard = EofGuard { inner: &b"ab"[..], shutdown: shutdown.clone() };
        let mut bytes = [0; 2];
        let mut buffer = ReadBuf::new(&mut bytes);
        // The second read finds no room, the third the end.
        for ended in [false, false] {
            std::future::poll_fn(|cx| Pin::new(&mut guard).poll_read(cx, &mut buffer))
                .await
                .unwrap();
            assert_eq!(shutdown.is_cancelled(), ended);
        }
        buffer.clear();
        std::future::poll_fn(|cx| Pin::new(&mut guard).poll_read(cx, &mut buffer)).await.unwrap();
        assert!(shutdown.is_cancelled());
    }
}
