//! The keeper's own stdin and stdout as asynchronous streams, whatever the engine made them of:
//! pipes or sockets.

use std::fs::File;
use std::io;
use std::os::unix::net::UnixStream as StdUnixStream;

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{FileType, fstat};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;

/// The keeper's stdin.
///
/// # Errors
///
/// Those of the kernel, and one for what is neither a pipe nor a socket.
pub(super) fn input() -> io::Result<Box<dyn AsyncRead + Send + Unpin>> {
    let (end, is_pipe) = end(std::io::stdin())?;
    if is_pipe {
        return Ok(Box::new(pipe::Receiver::from_file(File::from(end))?));
    }
    Ok(Box::new(socket(end)?))
}

/// The keeper's stdout.
///
/// # Errors
///
/// As [`input`].
pub(super) fn output() -> io::Result<Box<dyn AsyncWrite + Send + Unpin>> {
    let (end, is_pipe) = end(std::io::stdout())?;
    if is_pipe {
        return Ok(Box::new(pipe::Sender::from_file(File::from(end))?));
    }
    Ok(Box::new(socket(end)?))
}

fn end(end: impl AsFd) -> io::Result<(OwnedFd, bool)> {
    let end = end.as_fd().try_clone_to_owned()?;
    let kind = FileType::from_raw_mode(fstat(&end)?.st_mode);
    match kind {
        FileType::Fifo => Ok((end, true)),
        FileType::Socket => Ok((end, false)),
        _ => Err(io::Error::other("it is neither a pipe nor a socket")),
    }
}

fn socket(end: OwnedFd) -> io::Result<UnixStream> {
    let socket = StdUnixStream::from(end);
    socket.set_nonblocking(true)?;
    UnixStream::from_std(socket)
}
