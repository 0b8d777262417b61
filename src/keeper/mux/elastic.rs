//! A byte stream whose writes never wait.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

use crate::keeper::silence::Silence;

/// What waits at most, twice what a receiver's windows allow: one that grants more, or asks for
/// answers and does not read them, would make this side hold a whole workspace in memory.
const MOST: usize = 2 * super::MAX_IN_FLIGHT;

/// What an idle buffer may keep.
const KEEP: usize = 256 << 10;

/// The two halves of an exec stream as yamux wants them: reads go through, writes go into a buffer
/// that a task of its own, the pump, writes out. Dropping it drops both halves.
pub(super) struct Elastic {
    reader: Box<dyn AsyncRead + Send + Unpin>,
    silence: Arc<Silence>,
    shared: Arc<Shared>,
    _pump: AbortOnDropHandle<()>,
}

#[derive(Default)]
struct Shared {
    out: Mutex<Out>,
    wrote: Notify,
    failed: AtomicWaker,
}

#[derive(Default)]
struct Out {
    bytes: Vec<u8>,
    error: Option<io::ErrorKind>,
}

impl std::fmt::Debug for Elastic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Elastic").field("waiting", &self.shared.out.lock().bytes.len()).finish()
    }
}

impl Elastic {
    pub(super) fn new(
        reader: Box<dyn AsyncRead + Send + Unpin>,
        writer: impl AsyncWrite + Send + Unpin + 'static,
        silence: Arc<Silence>,
    ) -> Self {
        let shared = Arc::new(Shared::default());
        let pump = tokio::spawn(pump(Arc::clone(&shared), writer));
        Self { reader, silence, shared, _pump: AbortOnDropHandle::new(pump) }
    }
}

async fn pump(shared: Arc<Shared>, mut writer: impl AsyncWrite + Unpin) {
    let mut going = Vec::new();
    loop {
        std::mem::swap(&mut going, &mut shared.out.lock().bytes);
        if going.is_empty() {
            shared.wrote.notified().await;
            continue;
        }
        let done = async {
            writer.write_all(&going).await?;
            writer.flush().await
        };
        if let Err(error) = done.await {
            shared.out.lock().error = Some(error.kind());
            shared.failed.wake();
            return;
        }
        going.clear();
        going.shrink_to(KEEP);
    }
}

impl futures::io::AsyncRead for Elastic {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.shared.failed.register(cx.waker());
        let error = self.shared.out.lock().error;
        if let Some(kind) = error {
            return Poll::Ready(Err(kind.into()));
        }
        let mut buf = ReadBuf::new(buf);
        ready!(Pin::new(&mut self.reader).poll_read(cx, &mut buf))?;
        let came = buf.filled().len();
        if came > 0 {
            self.silence.hear();
        }
        Poll::Ready(Ok(came))
    }
}

impl futures::io::AsyncWrite for Elastic {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut out = self.shared.out.lock();
        if let Some(kind) = out.error {
            return Poll::Ready(Err(kind.into()));
        }
        if out.bytes.len() + buf.len() > MOST {
            let what = format!("the other side does not read: over {MOST} bytes wait for it");
            return Poll::Ready(Err(io::Error::other(what)));
        }
        out.bytes.extend_from_slice(buf);
        drop(out);
        self.shared.wrote.notify_one();
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
