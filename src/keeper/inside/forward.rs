//! Hands connections to ports on the container's loopback interface on to the host.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncWriteExt, copy, sink};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

use crate::keeper::frame::{FrameWriter, Kind};
use crate::keeper::mux::Opener;
use crate::keeper::wire::IncomingHeader;

/// Connections of one port at most at once; more wait to be accepted. Far below what the
/// multiplexer can hold, since a program of uid 1000 decides how many it opens.
const CONNECTIONS: usize = 32;

/// Listens on `port` until the handle is dropped, which also ends its connections. The permits
/// bound the connections of all ports.
pub(super) async fn listen(
    port: u16,
    opener: Opener,
    permits: Arc<Semaphore>,
) -> io::Result<AbortOnDropHandle<()>> {
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
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
    Ok(AbortOnDropHandle::new(task))
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

/// The permits that all listeners share.
pub(super) fn permits() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(CONNECTIONS))
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
