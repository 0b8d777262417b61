//! The stdio of a program in a container, as one byte stream.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bollard::container::LogOutput;
use bytes::{Buf, Bytes};
use futures::{Stream, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

type Output = Pin<Box<dyn Stream<Item = Result<LogOutput, bollard::errors::Error>> + Send>>;

/// Bytes of stderr that are logged over the life of one stream; a program that floods it must not
/// flood our log.
const STDERR_LIMIT: usize = 64 * 1024;

/// Bytes of one line of stderr that are logged.
const STDERR_LINE: usize = 1024;

/// stdin and stdout of a program. Its stderr is logged. Dropping it closes the connection, and the
/// engine then closes the program's stdin.
pub(super) struct ExecStream {
    output: Output,
    input: Pin<Box<dyn AsyncWrite + Send>>,
    /// What of the last message has not been read yet.
    chunk: Bytes,
    /// Whether a message of the program's stdout has been seen.
    begun: bool,
    stderr: StderrLog,
}

impl ExecStream {
    pub(super) fn new(
        output: Output,
        input: Pin<Box<dyn AsyncWrite + Send>>,
        container: String,
        program: String,
    ) -> ExecStream {
        let stderr = StderrLog { container, program, line: Vec::new(), left: STDERR_LIMIT };
        ExecStream { output, input, chunk: Bytes::new(), begun: false, stderr }
    }

    /// Takes a message in. The engine tells a program that it could not start by writing its error
    /// to the program's stdout, so the first message is looked at.
    fn take(&mut self, message: LogOutput) -> io::Result<()> {
        match message {
            LogOutput::StdOut { message } => {
                if !self.begun && message.starts_with(b"OCI runtime ") {
                    let reason = String::from_utf8_lossy(&message).trim().to_owned();
                    return Err(io::Error::other(reason));
                }
                self.begun = true;
                self.chunk = message;
                Ok(())
            }
            LogOutput::StdErr { message } => {
                self.stderr.take(&message);
                Ok(())
            }
            LogOutput::StdIn { .. } => Ok(()),
            // Not framed: the engine's own words in the middle of the stream.
            LogOutput::Console { message } => {
                let end = message.len().min(STDERR_LINE);
                let reason = String::from_utf8_lossy(&message[..end]).trim().to_owned();
                Err(io::Error::other(format!("the engine broke into the stream: {reason}")))
            }
        }
    }
}

impl AsyncRead for ExecStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        while this.chunk.is_empty() {
            match ready!(this.output.as_mut().poll_next(cx)) {
                Some(Ok(message)) => this.take(message)?,
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
                None => {
                    this.stderr.finish();
                    return Poll::Ready(Ok(()));
                }
            }
        }
        let count = this.chunk.len().min(buf.remaining());
        buf.put_slice(&this.chunk[..count]);
        this.chunk.advance(count);
        if this.chunk.is_empty() {
            // Lets the decoder use its buffer again instead of allocating another.
            this.chunk = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ExecStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().input.as_mut().poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().input.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().input.as_mut().poll_shutdown(cx)
    }
}

impl fmt::Debug for ExecStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExecStream").field("stderr", &self.stderr).finish_non_exhaustive()
    }
}

/// Logs stderr line by line, within [`STDERR_LIMIT`] and [`STDERR_LINE`].
#[derive(Debug)]
struct StderrLog {
    container: String,
    program: String,
    line: Vec<u8>,
    left: usize,
}

impl StderrLog {
    fn take(&mut self, bytes: &[u8]) {
        if self.left == 0 {
            return;
        }
        let bytes = &bytes[..bytes.len().min(self.left)];
        self.left -= bytes.len();
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let room = STDERR_LINE.saturating_sub(self.line.len());
            let text = part.strip_suffix(b"\n").unwrap_or(part);
            self.line.extend_from_slice(&text[..text.len().min(room)]);
            if part.ends_with(b"\n") {
                self.flush();
            }
        }
        if self.left == 0 {
            self.flush();
            tracing::warn!(
                container = %self.container,
                program = %self.program,
                "over {STDERR_LIMIT} bytes on stderr; the rest is not logged"
            );
        }
    }

    fn flush(&mut self) {
        if !self.line.is_empty() {
            tracing::warn!(
                container = %self.container,
                program = %self.program,
                "stderr: {}",
                String::from_utf8_lossy(&self.line)
            );
            self.line.clear();
        }
    }

    fn finish(&mut self) {
        self.flush();
    }
}

impl Drop for StderrLog {
    fn drop(&mut self) {
        self.flush();
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use tokio::io::AsyncReadExt;

    use super::*;

    fn stream(messages: Vec<LogOutput>) -> ExecStream {
        let output: Output = Box::pin(stream::iter(messages.into_iter().map(Ok)));
        ExecStream::new(output, Box::pin(tokio::io::sink()), "c".into(), "p".into())
    }

    fn stdout(bytes: &'static [u8]) -> LogOutput {
        LogOutput::StdOut { message: Bytes::from_static(bytes) }
    }

    #[tokio::test]
    async fn stdout_comes_as_bytes_and_stderr_stays_out_of_it() {
        let mut stream = stream(vec![
            stdout(b"one"),
            LogOutput::StdErr { message: Bytes::from_static(b"warning\n") },
            stdout(b""),
            stdout(b"two"),
        ]);
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "onetwo");
    }

    #[tokio::test]
    async fn a_program_that_could_not_start_is_an_error_and_no_output() {
        let mut stream = stream(vec![stdout(b"OCI runtime exec failed: no such file\r\n")]);
        let error = stream.read_u8().await.unwrap_err();
        assert_eq!(error.to_string(), "OCI runtime exec failed: no such file");
    }

    #[tokio::test]
    async fn words_of_the_engine_in_the_stream_are_an_error() {
        let mut stream = stream(vec![
            stdout(b"x"),
            LogOutput::Console { message: Bytes::from_static(b"broken pipe") },
        ]);
        assert_eq!(stream.read_u8().await.unwrap(), b'x');
        assert!(stream.read_u8().await.unwrap_err().to_string().contains("broken pipe"));
    }

    #[test]
    fn stderr_is_logged_within_its_limit_and_memory_stays_bounded() {
        let mut log = StderrLog {
            container: String::new(),
            program: String::new(),
            line: Vec::new(),
            left: STDERR_LIMIT,
        };
        for _ in 0..1000 {
            log.take(&[b'x'; 4096]);
            assert!(log.line.len() <= STDERR_LINE);
        }
        assert_eq!(log.left, 0);
    }
}
