//! Between a stream of frames and a thread that blocks.

use std::io::{self, Read, Write};

use tokio::sync::mpsc;

use crate::keeper::frame::MAX_DATA;

/// Chunks on their way between the two at most.
pub(super) const CHUNKS: usize = 8;

/// What comes from the host: chunks, then the end. A channel that closes before it is a cut.
pub(super) type Chunk = Option<Vec<u8>>;

/// Reads what the stream's task sends.
pub(super) struct ChunkReader {
    chunks: mpsc::Receiver<Chunk>,
    chunk: Vec<u8>,
    read: usize,
    ended: bool,
}

impl ChunkReader {
    pub(super) fn new(chunks: mpsc::Receiver<Chunk>) -> Self {
        Self { chunks, chunk: Vec::new(), read: 0, ended: false }
    }
}

impl Read for ChunkReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.read == self.chunk.len() {
            if self.ended {
                return Ok(0);
            }
            match self.chunks.blocking_recv() {
                Some(Some(chunk)) => {
                    self.chunk = chunk;
                    self.read = 0;
                }
                Some(None) => self.ended = true,
                None => return Err(io::Error::other("the host gave it up")),
            }
        }
        let rest = &self.chunk[self.read..];
        let n = rest.len().min(buf.len());
        buf[..n].copy_from_slice(&rest[..n]);
        self.read += n;
        Ok(n)
    }
}

/// Sends what is written to the stream's task, in chunks of the size of a frame.
pub(super) struct ChunkWriter {
    chunks: mpsc::Sender<Vec<u8>>,
    chunk: Vec<u8>,
}

impl ChunkWriter {
    pub(super) fn new(chunks: mpsc::Sender<Vec<u8>>) -> Self {
        Self { chunks, chunk: Vec::with_capacity(MAX_DATA) }
    }
}

impl Write for ChunkWriter {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = buf.len().min(MAX_DATA - self.chunk.len());
        self.chunk.extend_from_slice(&buf[..n]);
        if self.chunk.len() == MAX_DATA {
            self.flush()?;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::replace(&mut self.chunk, Vec::with_capacity(MAX_DATA));
        self.chunks.blocking_send(chunk).map_err(|_| io::Error::other("the host gave it up"))
    }
}
