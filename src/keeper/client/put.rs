//! A tree on its way into the container.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncWrite, ReadHalf, WriteHalf};

use super::{KeeperError, Lost, answer};
use crate::keeper::frame::{FrameReader, FrameWriter, Kind, MAX_DATA};
use crate::keeper::mux::Stream;
use crate::keeper::wire::PutReport;

/// Takes the bytes of a tar stream whose entries are relative to the workspace. The tree counts as
/// put only once [`finish`](Self::finish) has answered; dropped before, the keeper gives it up and
/// spawns nothing until a reset.
#[derive(Debug)]
pub struct Put {
    frames: FrameReader<ReadHalf<Stream>>,
    writer: FrameWriter<WriteHalf<Stream>>,
    lost: Lost,
}

impl Put {
    pub(super) fn new(
        frames: FrameReader<ReadHalf<Stream>>,
        writer: FrameWriter<WriteHalf<Stream>>,
        lost: Lost,
    ) -> Self {
        Self { frames, writer, lost }
    }

    /// Says that the tree is complete and reads what became of it. If writing failed before, this
    /// tells why.
    ///
    /// # Errors
    ///
    /// See [`KeeperError`].
    pub async fn finish(mut self) -> Result<PutReport, KeeperError> {
        // A keeper that refused midway reads no further; its sentence is the answer to both.
        let end = self.writer.send(Kind::End, &[]).await;
        match answer(&mut self.frames, &self.lost).await {
            Err(KeeperError::Lost(reason)) => match end {
                Err(error) => Err(self.lost.frame_error(error).await),
                Ok(()) => Err(KeeperError::Lost(reason)),
            },
            other => other,
        }
    }
}

impl AsyncWrite for Put {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.writer.poll_drain(cx))?;
        let taken = buf.len().min(MAX_DATA);
        self.writer.queue(Kind::Data, &buf[..taken]).map_err(io::Error::other)?;
        // What does not go out now goes out with the next call.
        match self.writer.poll_drain(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(taken)),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writer.poll_drain(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writer.poll_drain(cx)
    }
}
