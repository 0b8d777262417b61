//! The network: the host, its neighbours, the metadata address, names, raw sockets.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener};

use super::{Attempt, attempt, attempted, finish, stop};
use crate::need_engine;

const PLACES: &[Attempt] = &[
    attempt("the host over its bridge", "return each(lambda h=h: connect(h, HOST_PORT) for h in HOST_ADDRESSES)", "ENETUNREACH"),
    attempt("the host's loopback interface", "return each([lambda: connect('127.0.0.1', HOST_PORT), lambda: connect('127.0.0.1', MODEL_PORT), lambda: connect('0.0.0.0', HOST_PORT)])", "ECONNREFUSED"),
    attempt("the host by its names", "return each(lambda h=h: connect(h, HOST_PORT) for h in ('host.docker.internal', 'gateway.docker.internal', 'host.containers.internal'))", "no such name"),
    attempt("the host's loopback over IPv6", "return each([lambda: connect('::1', HOST_PORT), lambda: connect('::ffff:127.0.0.1', HOST_PORT), lambda: connect('fe80::1', HOST_PORT)])", "ENETUNREACH|ECONNREFUSED|EADDRNOTAVAIL|EINVAL"),
    attempt("a datagram to the host", "return each(lambda h=h: connect(h, HOST_PORT, socket.SOCK_DGRAM) for h in HOST_ADDRESSES)", "ENETUNREACH"),
    attempt("an abstract socket of the host", "s = socket.socket(socket.AF_UNIX)
return s.connect('\\0' + HOST_SOCKET)", "ECONNREFUSED"),
    attempt("the metadata addresses", "return each(lambda h=h: connect(h, 80) for h in ('169.254.169.254', 'fd00:ec2::254', '169.254.170.2', '100.100.100.200', '168.63.129.16'))", "ENETUNREACH|EADDRNOTAVAIL"),
    attempt("the metadata by curl", "return subprocess.run(['curl', '-s', '-m', '3', 'http://169.254.169.254/latest/meta-data/'], capture_output=True).returncode", "went through: 7"),
    attempt("private networks", "return each(lambda h=h: connect(h, 80) for h in ('10.0.0.1', '192.168.0.1', '172.17.0.2', '100.64.0.1'))", "ENETUNREACH"),
    attempt("the internet", "return each(lambda h=h, k=k: connect(h, 443, k) for h in ('1.1.1.1', '8.8.8.8', '2606:4700:4700::1111') for k in (socket.SOCK_STREAM, socket.SOCK_DGRAM))", "ENETUNREACH|EADDRNOTAVAIL"),
    attempt("names", "return each(lambda n=n: socket.getaddrinfo(n, 443) for n in ('example.com', 'api.openai.com', 'metadata.google.internal'))", "no such name"),
    attempt("a name server, asked by hand", "return each(lambda h=h: connect(h, 53, socket.SOCK_DGRAM) for h in ('127.0.0.11', '127.0.0.53', '8.8.8.8'))", "ENETUNREACH|ECONNREFUSED"),
    attempt("many at once", "def send(to):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    s.sendto(b'x', (to, 9999))
return each(lambda t=t: send(t) for t in ('255.255.255.255', '224.0.0.1', '172.17.255.255'))", "ENETUNREACH"),
    attempt("raw sockets", "return each([lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1), lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 255), lambda: socket.socket(socket.AF_INET6, socket.SOCK_RAW, 58), lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0x300), lambda: socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0x300)])", "EPERM|EAFNOSUPPORT"),
    attempt("ping", "def ping():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
    s.sendto(b'\\x08\\0' + bytes(6), (HOST_ADDRESSES[0], 0))
return ping()", "ENETUNREACH|EACCES|EPERM"),
    attempt("other kinds of sockets", "kinds = [40, 38, 44, 16 + 1, 31, 29, 30, 9, 21]
return each(lambda k=k: socket.socket(k, socket.SOCK_DGRAM, 0) for k in kinds)", "EPERM|EAFNOSUPPORT"),
    attempt("an interface of its own", "s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
# RTM_NEWLINK with NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE, a dummy.
info = struct.pack('HH', 9, 1) + b'dummy' + bytes(3)
link = struct.pack('HH', 4 + len(info), 18) + info
message = struct.pack('IHHII', 16 + 16 + len(link), 16, 0x405, 1, 0) + bytes(16) + link
s.send(message)
raise OSError(-struct.unpack_from('i', s.recv(4096), 16)[0], '')", "EPERM"),
    attempt("routes and addresses", "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
return each(lambda r=r: fcntl.ioctl(s, r, b'lo'.ljust(16, b'\\0') + bytes(64)) for r in (0x8914, 0x8916, 0x890b, 0x8922, 0x8924))", "EPERM"),
    attempt("a tunnel", "return os.open('/dev/net/tun', os.O_RDWR)", "ENOENT"),
    attempt("interfaces besides loopback", "names = [name for _, name in socket.if_nameindex()]
return 'none' if not [n for n in names if n not in ('lo', 'tunl0', 'sit0', 'ip6tnl0', 'gre0', 'erspan0', 'gretap0', 'ip_vti0', 'ip6_vti0', 'ip6gre0')] else names", "none"),
    attempt("the engine's socket", "def open_it(path):
    s = socket.socket(socket.AF_UNIX)
    s.connect(path)
paths = ['/var/run/docker.sock', '/run/docker.sock', '/run/containerd/containerd.sock', '/run/podman/podman.sock', '/run/user/1000/docker.sock', '/run/docker/containerd/containerd.sock']
return each(lambda p=p: open_it(p) for p in paths) + ' ' + each(lambda p=p: connect('127.0.0.1', p) for p in (2375, 2376))", "ENOENT ECONNREFUSED"),
    attempt("the proxy that nobody asked for", "return connect('127.0.0.1', 8788)", "ECONNREFUSED"),
];

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
