//! Frames: one byte of kind, four bytes of length (big endian), the payload.
//!
//! Lengths are checked before anything is allocated: data is at most [`MAX_DATA`] a frame, JSON at
//! most [`MAX_JSON`]. Reading and writing keep their state between polls, so every method here is
//! cancel safe: dropping a future that waits in one loses and repeats nothing.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The longest payload of a data frame, in bytes.
pub const MAX_DATA: usize = 64 << 10;

/// The longest JSON payload, in bytes.
pub const MAX_JSON: usize = 4 << 20;

const HEAD: usize = 5;

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A request, as JSON; the first frame of a stream.
    Request = 1,
    /// Bytes: of a tar stream, of stdin, of stdout.
    Data = 2,
    /// Bytes of stderr.
    Stderr = 3,
    /// The data is complete.
    End = 4,
    /// The answer, as JSON; the last frame.
    Reply = 5,
    /// Why there is no answer, as text; the last frame.
    Refused = 6,
    /// Nothing but a sign of life.
    Beat = 7,
    /// A signal for the program: its number in four bytes, big endian.
    Signal = 8,
    /// Which port a connection came to, as JSON; the first frame of a stream of the keeper's.
    Incoming = 9,
    /// The program runs.
    Started = 10,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Request,
            2 => Self::Data,
            3 => Self::Stderr,
            4 => Self::End,
            5 => Self::Reply,
            6 => Self::Refused,
            7 => Self::Beat,
            8 => Self::Signal,
            9 => Self::Incoming,
            10 => Self::Started,
            _ => return None,
        })
    }

    /// The longest payload of this kind.
    pub fn limit(self) -> usize {
        match self {
            Self::Data | Self::Stderr => MAX_DATA,
            Self::Request | Self::Reply => MAX_JSON,
            Self::Refused => MAX_DATA,
            Self::Incoming => 256,
            Self::Signal => 4,
            Self::End | Self::Beat | Self::Started => 0,
        }
    }
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it carries.
    pub kind: Kind,
    /// The payload.
    pub payload: Vec<u8>,
}

/// What is wrong with a frame.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The kind is not known.
    #[error("frame of unknown kind {0}")]
    Kind(u8),
    /// The payload is over the limit of its kind.
    #[error("{kind:?} frame of {length} bytes, over the limit of {}", kind.limit())]
    Length {
        /// Its kind.
        kind: Kind,
        /// The length it announced.
        length: usize,
    },
    /// The stream ended within a frame.
    #[error("the stream ended within a frame")]
    Cut,
    /// The payload is no JSON of the expected shape.
    #[error("{kind:?} frame cannot be read: {source}")]
    Json {
        /// Its kind.
        kind: Kind,
        /// What the parser says.
        source: serde_json::Error,
    },
    /// The stream failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Frame {
    /// The payload as JSON of the shape `T`.
    ///
    /// # Errors
    ///
    /// [`FrameError::Json`].
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, FrameError> {
        serde_json::from_slice(&self.payload)
            .map_err(|source| FrameError::Json { kind: self.kind, source })
    }
}

/// Reads frames.
#[derive(Debug)]
pub struct FrameReader<R> {
    inner: R,
    head: [u8; HEAD],
    have: usize,
    body: Option<Body>,
}

/// A payload that has come in part.
#[derive(Debug)]
struct Body {
    kind: Kind,
    bytes: Vec<u8>,
    filled: usize,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// Reads from `inner`.
    pub fn new(inner: R) -> Self {
        Self { inner, head: [0; HEAD], have: 0, body: None }
    }

    /// The reader, with nothing of it buffered here between two frames.
    pub fn into_inner(self) -> R {
        self.inner
    }

    /// The next frame; `None` at the end of the stream. Cancel safe.
    ///
    /// # Errors
    ///
    /// See [`FrameError`]; after one the stream is of no use.
    pub async fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// As [`next`](Self::next).
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame>, FrameError>> {
        loop {
            if let Some(Body { kind, bytes, filled }) = &mut self.body {
                let kind = *kind;
                let length = payload_length(&self.head);
                while *filled < length {
                    // Grows with what came, and zeroes each byte once, however small the reads are.
                    if *filled == bytes.len() {
                        bytes.resize(length.min(bytes.len() + MAX_DATA), 0);
                    }
                    let mut buf = ReadBuf::new(&mut bytes[*filled..]);
                    ready!(Pin::new(&mut self.inner).poll_read(cx, &mut buf))?;
                    let came = buf.filled().len();
                    if came == 0 {
                        return Poll::Ready(Err(FrameError::Cut));
                    }
                    *filled += came;
                }
                let payload = std::mem::take(bytes);
                self.body = None;
                self.have = 0;
                return Poll::Ready(Ok(Some(Frame { kind, payload })));
            }
            while self.have < HEAD {
                let mut buf = ReadBuf::new(&mut self.head[self.have..]);
                ready!(Pin::new(&mut self.inner).poll_read(cx, &mut buf))?;
                let came = buf.filled().len();
                if came == 0 {
                    let end = if self.have == 0 { Ok(None) } else { Err(FrameError::Cut) };
                    return Poll::Ready(end);
                }
                self.have += came;
            }
            let kind = Kind::from_byte(self.head[0]).ok_or(FrameError::Kind(self.head[0]))?;
            let length = payload_length(&self.head);
            if length > kind.limit() {
                return Poll::Ready(Err(FrameError::Length { kind, length }));
            }
            self.body = Some(Body { kind, bytes: Vec::new(), filled: 0 });
        }
    }
}

fn payload_length(head: &[u8; HEAD]) -> usize {
    u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize
}

/// Writes frames. A frame is queued whole and then written out, so that a caller who gives up
/// while it waits leaves no half frame behind: the rest goes out with the next call.
#[derive(Debug)]
pub struct FrameWriter<W> {
    inner: W,
    queue: Vec<u8>,
    written: usize,
}

impl<W: AsyncWrite + Unpin> FrameWriter<W> {
    /// Writes to `inner`.
    pub fn new(inner: W) -> Self {
        Self { inner, queue: Vec::new(), written: 0 }
    }

    /// Sends one frame. Cancel safe in the sense of this type.
    ///
    /// # Errors
    ///
    /// [`FrameError::Length`] before anything is sent, or those of the writer.
    pub async fn send(&mut self, kind: Kind, payload: &[u8]) -> Result<(), FrameError> {
        std::future::poll_fn(|cx| self.poll_drain(cx)).await?;
        self.queue(kind, payload)?;
        std::future::poll_fn(|cx| self.poll_drain(cx)).await?;
        Ok(())
    }

    /// Sends one frame of JSON.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send), and [`FrameError::Json`].
    pub async fn send_json<T: Serialize>(
        &mut self,
        kind: Kind,
        value: &T,
    ) -> Result<(), FrameError> {
        let payload =
            serde_json::to_vec(value).map_err(|source| FrameError::Json { kind, source })?;
        self.send(kind, &payload).await
    }

    /// Queues a frame behind what is queued already; [`poll_drain`](Self::poll_drain) sends it.
    ///
    /// # Errors
    ///
    /// [`FrameError::Length`].
    pub fn queue(&mut self, kind: Kind, payload: &[u8]) -> Result<(), FrameError> {
        if payload.len() > kind.limit() {
            return Err(FrameError::Length { kind, length: payload.len() });
        }
        self.queue.push(kind as u8);
        self.queue.extend_from_slice(&(payload.len() as u32).to_be_bytes());
        self.queue.extend_from_slice(payload);
        Ok(())
    }

    /// Ready once nothing is queued and what was queued is on its way.
    pub fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.queue.len() {
            let rest = &self.queue[self.written..];
            let n = ready!(Pin::new(&mut self.inner).poll_write(cx, rest))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += n;
        }
        self.queue.clear();
        self.written = 0;
        if self.queue.capacity() > 2 * MAX_DATA {
            self.queue = Vec::new();
        }
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    /// Says that nothing more will come.
    pub async fn close(&mut self) -> io::Result<()> {
        std::future::poll_fn(|cx| self.poll_drain(cx)).await?;
        std::future::poll_fn(|cx| Pin::new(&mut self.inner).poll_shutdown(cx)).await
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn kind() -> impl Strategy<Value = Kind> {
        (1u8..=10).prop_map(|byte| Kind::from_byte(byte).unwrap())
    }

    proptest! {
        #[test]
        fn what_is_sent_is_read_back(
            frames in proptest::collection::vec((kind(), proptest::collection::vec(any::<u8>(), 0..300)), 0..20),
            pipe in 1usize..200,
        ) {
            let frames: Vec<Frame> = frames
                .into_iter()
                .map(|(kind, mut payload)| {
                    payload.truncate(kind.limit());
                    Frame { kind, payload }
                })
                .collect();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let sent = frames.clone();
            let got = runtime.block_on(async move {
                let (near, far) = tokio::io::duplex(pipe);
                let send = async move {
                    let mut writer = FrameWriter::new(near);
                    for frame in &sent {
                        writer.send(frame.kind, &frame.payload).await.unwrap();
                    }
                };
                let read = async move {
                    let mut reader = FrameReader::new(far);
                    let mut got = Vec::new();
                    while let Some(frame) = reader.next().await.unwrap() {
                        got.push(frame);
                    }
                    got
                };
                tokio::join!(send, read).1
            });
            prop_assert_eq!(got, frames);
        }

        #[test]
        fn no_bytes_make_the_reader_panic_or_allocate_over_a_limit(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let mut reader = FrameReader::new(&bytes[..]);
                while let Ok(Some(_)) = reader.next().await {}
            });
        }
    }

    #[tokio::test]
    async fn a_frame_over_its_limit_is_refused_before_it_is_read() {
        let mut bytes = vec![Kind::Data as u8];
        bytes.extend_from_slice(&(MAX_DATA as u32 + 1).to_be_bytes());
        let error = FrameReader::new(&bytes[..]).next().await.unwrap_err();
        assert!(matches!(error, FrameError::Length { kind: Kind::Data, .. }), "{error}");
    }

    #[tokio::test]
    async fn a_long_payload_in_single_bytes_costs_what_it_is_long() {
        struct Single(usize);
        impl AsyncRead for Single {
            fn poll_read(
                mut self: Pin<&mut Self>,
                _: &mut Context<'_>,
                buf: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                let head = [&[Kind::Reply as u8][..], &(MAX_JSON as u32).to_be_bytes()].concat();
                buf.put_slice(&[head.get(self.0).copied().unwrap_or(b' ')]);
                self.0 += 1;
                Poll::Ready(Ok(()))
            }
        }
        let started = std::time::Instant::now();
        let frame = FrameReader::new(Single(0)).next().await.unwrap().unwrap();
        assert_eq!(frame.payload.len(), MAX_JSON);
        // Filling the whole with zeros for each byte would take a quarter of an hour.
        assert!(started.elapsed() < std::time::Duration::from_secs(30));
    }

    #[tokio::test]
    async fn a_cut_frame_is_an_error_and_not_an_end() {
        let bytes = [Kind::Data as u8, 0, 0, 0, 3, b'a'];
        let error = FrameReader::new(&bytes[..]).next().await.unwrap_err();
        assert!(matches!(error, FrameError::Cut));
    }
}
