//! Hands connections to ports on the container's loopback interface on to the host.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncWriteExt, copy, sink};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

use crate::keeper::frame::{FrameWriter, Kind};
use crate::keeper::mux::{MAX_OPENED, Opener};
use crate::keeper::wire::IncomingHeader;

/// Connections of one port at most at once; more wait to be accepted. Each port has its own share
/// of what the multiplexer lets be open, so that a program that fills the proxy's does not keep
/// Codex from the gateway.
const CONNECTIONS: usize = MAX_OPENED / 2;

/// Takes `port` on the loopback interface, or one that the kernel chooses if it is 0, and tells
/// which.
pub(super) async fn bind(port: u16) -> io::Result<(TcpListener, u16)> {
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let port = listener.local_addr()?.port();
    Ok((listener, port))
}

/// Hands the connections that `listener` accepts on, announced as to `port`, until the handle is
/// dropped, which also ends them.
pub(super) fn serve(listener: TcpListener, port: u16, opener: Opener) -> AbortOnDropHandle<()> {
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    let task = tokio::spawn(async move {
        let mut open = JoinSet::new();
        loop {
            let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
            let accepted = loop {
                tokio::select! {
                    accepted = listener.accept() => break accepted,
                    Some(_) = open.join_next() => {}
                }
            };
            // Out of descriptors or the like: the next one may do better.
            let Ok((connection, _)) = accepted else {
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                continue;
            };
            let opener = opener.clone();
            open.spawn(async move {
                // Either end may break a connection at any time; the other one sees it end.
                let _ = carry(connection, port, &opener).await;
                drop(permit);
            });
        }
    });
    AbortOnDropHandle::new(task)
}

/// Ends listeners and their connections, and returns once their ports are free again. What waited
/// to be accepted ends with them.
pub(super) async fn close(listeners: Vec<AbortOnDropHandle<()>>) {
    for listener in listeners {
        listener.abort();
        // It was aborted; that is what it says.
        let _ = listener.await;
    }
}

/// Carries bytes both ways until both have ended. The stream is given up only after the host has
/// closed its side, so that both sides agree on how many streams are open; only [`close`] does not
/// wait for that.
async fn carry(connection: TcpStream, port: u16, opener: &Opener) -> io::Result<()> {
    connection.set_nodelay(true)?;
    let Some(stream) = opener.open().await else { return Ok(()) };
    let (mut from_host, mut to_host) = tokio::io::split(stream);
    FrameWriter::new(&mut to_host)
        .send_json(Kind::Incoming, &IncomingHeader { port })
        .await
        .map_err(io::Error::other)?;
    let (mut from_program, mut to_program) = connection.into_split();
    let up = async {
        let done = copy(&mut from_program, &mut to_host).await;
        to_host.shutdown().await.and(done)
    };
    let down = async {
        let done = copy(&mut from_host, &mut to_program).await;
        // The program is gone: what the host still sends is read and dropped.
        let _ = to_program.shutdown().await;
        copy(&mut from_host, &mut sink()).await.and(done)
    };
    let (up, down) = tokio::join!(up, down);
    up.and(down).map(|_| ())
}
