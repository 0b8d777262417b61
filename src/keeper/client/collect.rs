//! What changed, on its way out of the container.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf, ReadHalf, WriteHalf};

use super::{KeeperError, Lost, answer};
use crate::keeper::frame::{FrameReader, FrameWriter, Kind};
use crate::keeper::mux::Stream;
use crate::keeper::wire::CollectReport;

/// Gives the bytes of a tar stream: `tree/<path>` for each added or changed node, and last
/// `meta/deleted`. It ends at the end of the tar stream. If the keeper refuses midway, reading fails
/// with its sentence, and [`finish`](Self::finish) fails with it again; what was read counts only
/// once `finish` has answered.
#[derive(Debug)]
pub struct Collect {
    frames: FrameReader<ReadHalf<Stream>>,
    _writer: FrameWriter<WriteHalf<Stream>>,
    lost: Lost,
    chunk: Vec<u8>,
    read: usize,
    state: State,
}

#[derive(Debug)]
enum State {
    Data,
    Ended,
    Refused(KeeperError),
}

impl Collect {
    pub(super) fn new(
        frames: FrameReader<ReadHalf<Stream>>,
        writer: FrameWriter<WriteHalf<Stream>>,
        lost: Lost,
    ) -> Self {
        Self { frames, _writer: writer, lost, chunk: Vec::new(), read: 0, state: State::Data }
    }

    /// Reads over what is left and gives the keeper's count of what it sent.
    ///
    /// # Errors
    ///
    /// See [`KeeperError`].
    pub async fn finish(mut self) -> Result<CollectReport, KeeperError> {
        while matches!(self.state, State::Data) {
            match self.frames.next().await {
                Ok(Some(frame)) if frame.kind == Kind::Data => {}
                Ok(Some(frame)) if frame.kind == Kind::End => self.state = State::Ended,
                Ok(Some(frame)) if frame.kind == Kind::Refused => {
                    return Err(KeeperError::refused(&frame.payload));
                }
                Ok(Some(frame)) => {
                    return Err(KeeperError::Corrupt(format!("{:?} within data", frame.kind)));
                }
                Ok(None) => return Err(self.lost.error("the collection was cut").await),
                Err(error) => return Err(self.lost.frame_error(error).await),
            }
        }
        if let State::Refused(error) = self.state {
            return Err(error);
        }
        answer(&mut self.frames, &self.lost).await
    }
}

impl AsyncRead for Collect {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.read == this.chunk.len() {
            match &this.state {
                State::Data => {}
                State::Ended => return Poll::Ready(Ok(())),
                State::Refused(error) => return Poll::Ready(Err(io::Error::other(error.clone()))),
            }
            match ready!(this.frames.poll_next(cx)) {
                Ok(Some(frame)) if frame.kind == Kind::Data => {
                    this.chunk = frame.payload;
                    this.read = 0;
                }
                Ok(Some(frame)) if frame.kind == Kind::End => this.state = State::Ended,
                Ok(Some(frame)) if frame.kind == Kind::Refused => {
                    this.state = State::Refused(KeeperError::refused(&frame.payload));
                }
                Ok(Some(frame)) => {
                    let what = format!("{:?} frame within collected data", frame.kind);
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, what)));
                }
                Ok(None) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                Err(error) => return Poll::Ready(Err(io::Error::other(error))),
            }
        }
        let rest = &this.chunk[this.read..];
        let n = rest.len().min(buf.remaining());
        buf.put_slice(&rest[..n]);
        this.read += n;
        Poll::Ready(Ok(()))
    }
}
