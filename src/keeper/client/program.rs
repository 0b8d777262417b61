//! A program that runs in the container.

use tokio::io::{ReadHalf, WriteHalf};

use super::{KeeperError, Lost, Said};
use crate::keeper::frame::{FrameError, FrameReader, FrameWriter, Kind, MAX_DATA};
use crate::keeper::mux::Stream;
use crate::keeper::wire::ExitReport;

/// What a program did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProgramEvent {
    /// It wrote to stdout.
    Stdout(Vec<u8>),
    /// It wrote to stderr.
    Stderr(Vec<u8>),
    /// It ended. Always the last event, and always of this program: its nonce was compared.
    Exited(ExitReport),
}

/// A running program. Dropped before its exit was read, the keeper kills its process group; what
/// it started in sessions of their own ends with [`end`](super::Keeper::end).
#[derive(Debug)]
pub struct Program {
    frames: FrameReader<ReadHalf<Stream>>,
    writer: FrameWriter<WriteHalf<Stream>>,
    lost: Lost,
    nonce: String,
    stdin: Vec<u8>,
    fed: usize,
    feeding: bool,
    /// Whether stdin is closed once all of it is written.
    closing: bool,
    ended: bool,
}

impl Program {
    pub(super) async fn start(
        mut frames: FrameReader<ReadHalf<Stream>>,
        writer: FrameWriter<WriteHalf<Stream>>,
        lost: Lost,
        nonce: String,
        stdin: Vec<u8>,
        closing: bool,
    ) -> Result<Self, KeeperError> {
        match frames.next().await {
            Ok(Some(frame)) if frame.kind == Kind::Started => {}
            Ok(Some(frame)) if frame.kind == Kind::Refused => {
                return Err(KeeperError::refused(&frame.payload));
            }
            Ok(Some(frame)) => {
                return Err(KeeperError::Corrupt(format!("{:?} before the start", frame.kind)));
            }
            Ok(None) => return Err(lost.error("the keeper ended the program's stream").await),
            Err(error) => return Err(lost.frame_error(error).await),
        }
        Ok(Self {
            frames,
            writer,
            lost,
            nonce,
            stdin,
            fed: 0,
            feeding: true,
            closing,
            ended: false,
        })
    }

    /// The next event. Cancel safe. Stdin is written while this waits, so that a program that
    /// writes before it reads does not stand still.
    ///
    /// # Errors
    ///
    /// [`KeeperError::Lost`] if the stream ends before the exit report, and after the exit report
    /// was read; `Corrupt` if the report is of another run.
    pub async fn next(&mut self) -> Result<ProgramEvent, KeeperError> {
        if self.ended {
            return Err(KeeperError::Lost("the program has ended".to_owned()));
        }
        let frame = loop {
            let feeding = self.feeding;
            let fed = feed(&mut self.writer, &self.stdin, &mut self.fed, self.closing);
            tokio::select! {
                biased;
                frame = self.frames.next() => break frame,
                // A program that does not read its stdin is no error: its exit report comes.
                _ = fed, if feeding => self.feeding = false,
            }
        };
        match frame {
            Ok(Some(frame)) => match frame.kind {
                Kind::Data => Ok(ProgramEvent::Stdout(frame.payload)),
                Kind::Stderr => Ok(ProgramEvent::Stderr(frame.payload)),
                Kind::Refused => Err(KeeperError::refused(&frame.payload)),
                Kind::Reply => {
                    let report: ExitReport =
                        frame.json().map_err(KeeperError::corrupt).and_then(ExitReport::checked)?;
                    self.ended = true;
                    if report.nonce != self.nonce {
                        return Err(KeeperError::Corrupt("exit report of another run".to_owned()));
                    }
                    Ok(ProgramEvent::Exited(report))
                }
                kind => Err(KeeperError::Corrupt(format!("{kind:?} within output"))),
            },
            Ok(None) => Err(self.lost.error("the program's stream ended before its exit").await),
            Err(error) => Err(self.lost.frame_error(error).await),
        }
    }

    /// Queues `bytes` for the stdin of a program that was started with [`spawn_open`]; they are
    /// written while [`next`](Self::next) waits. The caller bounds what it queues.
    ///
    /// [`spawn_open`]: super::Keeper::spawn_open
    pub fn write(&mut self, bytes: &[u8]) {
        if self.closing || self.ended {
            return;
        }
        if self.fed == self.stdin.len() {
            self.stdin.clear();
            self.fed = 0;
        }
        self.stdin.extend_from_slice(bytes);
        self.feeding = true;
    }

    /// Sends a signal to the program's process group; nothing happens if it has ended. Cancel safe.
    pub async fn signal(&mut self, signal: i32) {
        if !self.ended {
            // The stream's end tells what a failure here means.
            let _ = self.writer.send(Kind::Signal, &signal.to_be_bytes()).await;
        }
    }
}

/// Sends what is left of stdin, then its end if it is `closing`. Cancel safe: `fed` grows as a frame is queued.
async fn feed(
    writer: &mut FrameWriter<WriteHalf<Stream>>,
    stdin: &[u8],
    fed: &mut usize,
    closing: bool,
) -> Result<(), FrameError> {
    std::future::poll_fn(|cx| writer.poll_drain(cx)).await?;
    while *fed < stdin.len() {
        let chunk = &stdin[*fed..stdin.len().min(*fed + MAX_DATA)];
        writer.queue(Kind::Data, chunk)?;
        *fed += chunk.len();
        std::future::poll_fn(|cx| writer.poll_drain(cx)).await?;
    }
    if closing && *fed == stdin.len() {
        writer.queue(Kind::End, &[])?;
        *fed += 1;
    }
    std::future::poll_fn(|cx| writer.poll_drain(cx)).await?;
    Ok(())
}
