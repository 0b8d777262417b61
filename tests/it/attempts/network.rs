//! The network: the host, its neighbours, the metadata address, names, raw sockets.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener};

use super::{attempted, finish, stop};
use crate::need_engine;

const PLACES: &str = include_str!("network.py");

/// Addresses of this machine, as a container might guess them.
fn addresses() -> Vec<String> {
    let mut found = vec!["172.17.0.1".to_owned(), "10.0.2.2".to_owned()];
    // Sends nothing; asks the kernel which address it would be sent from.
    if let Ok(socket) = UdpSocket::bind("0.0.0.0:0")
        && socket.connect("198.51.100.1:9").is_ok()
        && let Ok(own) = socket.local_addr()
    {
        found.push(own.ip().to_string());
    }
    found
}

#[tokio::test]
async fn nothing_but_the_gateway_can_be_reached() {
    need_engine!();
    // All addresses of this machine, on every kind of socket.
    let tcp = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = tcp.local_addr().unwrap().port();
    let six = TcpListener::bind(("::1", port));
    let udp = UdpSocket::bind(("0.0.0.0", port)).unwrap();
    let name = format!("codex-attempt-{}-{port}", std::process::id());
    let unix = UnixListener::bind_addr(&UnixAddr::from_abstract_name(&name).unwrap()).unwrap();
    let model = SocketAddr::from(([127, 0, 0, 1], port));
    let given = format!(
        "HOST_PORT, MODEL_PORT, HOST_SOCKET, HOST_ADDRESSES = {port}, {}, {name:?}, {:?}",
        model.port(),
        addresses()
    );
    let mut server = attempted(PLACES, &given).await;
    finish(&mut server, PLACES).await;
    // Nobody came.
    tcp.set_nonblocking(true).unwrap();
    assert_eq!(tcp.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    if let Ok(six) = six {
        six.set_nonblocking(true).unwrap();
        assert_eq!(six.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    }
    unix.set_nonblocking(true).unwrap();
    assert_eq!(unix.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    udp.set_nonblocking(true).unwrap();
    assert_eq!(udp.recv(&mut [0; 8]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    // The listeners would have seen it.
    std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    tcp.set_nonblocking(false).unwrap();
    tcp.accept().unwrap();
    stop(server).await;
}
