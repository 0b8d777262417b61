@attempt("the host over its bridge", "ENETUNREACH")
def _():
    return each(lambda h=h: connect(h, HOST_PORT) for h in HOST_ADDRESSES)


@attempt("the host's loopback interface", "ECONNREFUSED")
def _():
    return each(
        [
            lambda: connect("127.0.0.1", HOST_PORT),
            lambda: connect("127.0.0.1", MODEL_PORT),
            lambda: connect("0.0.0.0", HOST_PORT),
        ]
    )


@attempt("the host by its names", "no such name")
def _():
    return each(
        lambda h=h: connect(h, HOST_PORT)
        for h in ("host.docker.internal", "gateway.docker.internal", "host.containers.internal")
    )


@attempt("the host's loopback over IPv6", "ENETUNREACH|ECONNREFUSED|EADDRNOTAVAIL|EINVAL")
def _():
    return each(
        [
            lambda: connect("::1", HOST_PORT),
            lambda: connect("::ffff:127.0.0.1", HOST_PORT),
            lambda: connect("fe80::1", HOST_PORT),
        ]
    )


@attempt("a datagram to the host", "ENETUNREACH")
def _():
    return each(lambda h=h: connect(h, HOST_PORT, socket.SOCK_DGRAM) for h in HOST_ADDRESSES)


@attempt("an abstract socket of the host", "ECONNREFUSED")
def _():
    s = socket.socket(socket.AF_UNIX)
    return s.connect("\0" + HOST_SOCKET)


@attempt("the metadata addresses", "ENETUNREACH|EADDRNOTAVAIL")
def _():
    return each(
        lambda h=h: connect(h, 80)
        for h in (
            "169.254.169.254",
            "fd00:ec2::254",
            "169.254.170.2",
            "100.100.100.200",
            "168.63.129.16",
        )
    )


def curl(*arguments):
    """What curl ends with, and what the proxy said."""
    said = subprocess.run(
        ["curl", "-s", "-m", "3", "-o", "/dev/null", "-w", "%{http_code} %{http_connect}"]
        + list(arguments),
        capture_output=True,
        text=True,
    )
    return "%d, %s" % (said.returncode, said.stdout)


@attempt("the metadata by curl", "7, 000 000")
def _():
    return curl("--noproxy", "*", "http://169.254.169.254/latest/meta-data/")


@attempt("the metadata by curl and the proxy", "0, 403 000")
def _():
    return curl("http://169.254.169.254/latest/meta-data/")


@attempt("the metadata by curl through the proxy", "56, 000 403")
def _():
    return curl("https://169.254.169.254/latest/meta-data/")


@attempt("a host by curl and the proxy", "56, 000 403")
def _():
    return curl("https://example.com/")


@attempt("private networks", "ENETUNREACH")
def _():
    return each(
        lambda h=h: connect(h, 80) for h in ("10.0.0.1", "192.168.0.1", "172.17.0.2", "100.64.0.1")
    )


@attempt("the internet", "ENETUNREACH|EADDRNOTAVAIL")
def _():
    return each(
        lambda h=h, k=k: connect(h, 443, k)
        for h in ("1.1.1.1", "8.8.8.8", "2606:4700:4700::1111")
        for k in (socket.SOCK_STREAM, socket.SOCK_DGRAM)
    )


@attempt("names", "no such name")
def _():
    return each(
        lambda n=n: socket.getaddrinfo(n, 443)
        for n in ("example.com", "api.openai.com", "metadata.google.internal")
    )


@attempt("a name server, asked by hand", "ENETUNREACH|ECONNREFUSED")
def _():
    return each(
        lambda h=h: connect(h, 53, socket.SOCK_DGRAM)
        for h in ("127.0.0.11", "127.0.0.53", "8.8.8.8")
    )


@attempt("many at once", "ENETUNREACH")
def _():
    def send(to):
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        s.sendto(b"x", (to, 9999))

    return each(lambda t=t: send(t) for t in ("255.255.255.255", "224.0.0.1", "172.17.255.255"))


@attempt("raw sockets", "EPERM|EAFNOSUPPORT")
def _():
    return each(
        [
            lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1),
            lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 255),
            lambda: socket.socket(socket.AF_INET6, socket.SOCK_RAW, 58),
            lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0x300),
            lambda: socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0x300),
        ]
    )


@attempt("ping", "ENETUNREACH|EACCES|EPERM")
def _():
    def ping():
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
        s.sendto(b"\x08\0" + bytes(6), (HOST_ADDRESSES[0], 0))

    return ping()


@attempt("other kinds of sockets", "EPERM|EAFNOSUPPORT")
def _():
    kinds = [40, 38, 44, 16 + 1, 31, 29, 30, 9, 21]
    return each(lambda k=k: socket.socket(k, socket.SOCK_DGRAM, 0) for k in kinds)


@attempt("an interface of its own", "EPERM")
def _():
    s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
    # RTM_NEWLINK with NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE, a dummy.
    info = struct.pack("HH", 9, 1) + b"dummy" + bytes(3)
    link = struct.pack("HH", 4 + len(info), 18) + info
    message = struct.pack("IHHII", 16 + 16 + len(link), 16, 0x405, 1, 0) + bytes(16) + link
    s.send(message)
    raise OSError(-struct.unpack_from("i", s.recv(4096), 16)[0], "")


@attempt("routes and addresses", "EPERM")
def _():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    return each(
        lambda r=r: fcntl.ioctl(s, r, b"lo".ljust(16, b"\0") + bytes(64))
        for r in (0x8914, 0x8916, 0x890B, 0x8922, 0x8924)
    )


@attempt("a tunnel", "ENOENT")
def _():
    return os.open("/dev/net/tun", os.O_RDWR)


@attempt("interfaces besides loopback", "none")
def _():
    names = [name for _, name in socket.if_nameindex()]
    return (
        "none"
        if not [
            n
            for n in names
            if n
            not in (
                "lo",
                "tunl0",
                "sit0",
                "ip6tnl0",
                "gre0",
                "erspan0",
                "gretap0",
                "ip_vti0",
                "ip6_vti0",
                "ip6gre0",
            )
        ]
        else names
    )


@attempt("the engine's socket", "ENOENT ECONNREFUSED")
def _():
    def open_it(path):
        s = socket.socket(socket.AF_UNIX)
        s.connect(path)

    paths = [
        "/var/run/docker.sock",
        "/run/docker.sock",
        "/run/containerd/containerd.sock",
        "/run/podman/podman.sock",
        "/run/user/1000/docker.sock",
        "/run/docker/containerd/containerd.sock",
    ]
    return (
        each(lambda p=p: open_it(p) for p in paths)
        + " "
        + each(lambda p=p: connect("127.0.0.1", p) for p in (2375, 2376))
    )


@attempt("the proxy to what nobody allowed", "403 403 403 403 403")
def _():
    said = []
    for target in (
        "localhost:22",
        "127.0.0.1:8787",
        "host.docker.internal:2375",
        "metadata.google.internal:80",
        "example.com:443",
    ):
        with socket.create_connection(("127.0.0.1", 8788), 3) as proxy:
            proxy.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
            said.append(proxy.recv(4096).decode().split(" ")[1])
    return " ".join(said)
