//! The proxy end to end: programs in a container, their names resolved by the server, a host that
//! answers. The test is in a network of its own, so that addresses are what it says they are.

use std::process::Command;
use std::sync::Arc;

use mcp_codex_orchestrator::model::gateway::install_crypto;
use mcp_codex_orchestrator::model::scripted::{Script, Step};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::need_engine;
use crate::support::{Options, Server};

/// Set in the process that has a network of its own.
const ALONE: &str = "CODEX_TESTS_OWN_NETWORK";

/// 11.22.33.44 stands for a host of the internet: packets to it are delivered here, but come from
/// another address. 22.33.44.55 is this machine's own.
const SETUP: &str = r#"
ip link set lo up
ip addr add 10.9.9.9/32 dev lo
ip route add local 11.22.33.0/24 dev lo src 10.9.9.9
ip addr add 22.33.44.55/32 dev lo
mount -t tmpfs tmpfs /mnt
cat > /mnt/hosts <<END
127.0.0.1 localhost
11.22.33.44 allowed.example a.under.example under.example
10.9.9.9 private.example
169.254.169.254 metadata.example
127.0.0.1 loopback.example
22.33.44.55 machine.example
11.22.33.44 mixed.example
10.9.9.9 mixed.example
END
mount --bind /mnt/hosts /etc/hosts
exec "$@"
"#;

/// Whether this process is the one with a network of its own. If not, the test of the same name is
/// run in one that is.
fn alone() -> bool {
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let test = std::thread::current().name().unwrap().to_owned();
    let mut command = Command::new("unshare");
    command.args(["-mn", "--", "sh", "-euc", SETUP, "sh"]);
    command.arg(std::env::current_exe().unwrap()).args(["--exact", &test, "--nocapture"]);
    let output = command.env(ALONE, "1").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{err}");
    assert!(said.contains("1 passed"), "{said}\n{err}");
    false
}

/// Whether an own network can be had; tells why not.
#[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
fn can_be_alone() -> bool {
    let tried = Command::new("unshare").args(["-mn", "ip", "link", "set", "lo", "up"]).output();
    let can = tried.is_ok_and(|output| output.status.success());
    if !can {
        let required = std::env::var_os("CODEX_TESTS_REQUIRE_ENGINE").is_some();
        assert!(!required, "no network of its own: needs root, unshare and ip");
        eprintln!("skipped: a network of its own needs root, unshare and ip");
    }
    can
}

/// A host that answers every request over TLS with "hello", on `address`.
async fn host(address: &str) {
    install_crypto();
    let dir = tempfile::TempDir::new().unwrap();
    let script = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \
                  -keyout key -out cert -subj /CN=allowed.example -days 2";
    let made = Command::new("sh").args(["-c", script]).current_dir(dir.path()).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let chain = vec![CertificateDer::from_pem_file(dir.path().join("cert")).unwrap()];
    let key = PrivateKeyDer::from_pem_file(dir.path().join("key")).unwrap();
    let config = rustls::ServerConfig::builder().with_no_client_auth();
    let config = Arc::new(config.with_single_cert(chain, key).unwrap());
    let listener = TcpListener::bind(address).await.unwrap();
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            let config = Arc::clone(&config);
            tokio::spawn(async move {
                let acceptor = tokio_rustls::TlsAcceptor::from(config);
                let Ok(mut stream) = acceptor.accept(connection).await else { return };
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = stream.read_u8().await else { return };
                    head.push(byte);
                }
                let answer =
                    b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\nconnection: close\r\n\r\nhello\n";
                let _ = stream.write_all(answer).await;
                let _ = stream.shutdown().await;
            });
        }
    });
}

/// A step that runs commands and keeps what they say in `out.txt`.
fn commands(commands: &[String]) -> Vec<Step> {
    let all = commands.join("\n");
    vec![Step::run(format!("{{ {all}\n}} > out.txt 2>&1")), Step::Say("Done.".into())]
}

fn curl(url: &str) -> String {
    format!("echo '{url}' $(curl -sSk -m 20 {url} 2>&1)")
}

fn recorded(server: &Server, result: &Value) -> Value {
    let file = server.runs().join(result["run_id"].as_str().unwrap()).join("network.json");
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

#[tokio::test]
async fn a_host_that_is_not_allowed_is_told_with_the_line_that_allows_it() {
    need_engine!();
    let script = Script::always(commands(&[
        curl("https://crates.example/api"),
        curl("https://crates.example/again"),
        curl("http://plain.example/"),
        "python3 -c 'import urllib.request as u; u.urlopen(\"https://python.example/simple/\")' | tail -1"
            .into(),
        "git ls-remote https://github.com/x/y".into(),
        "env | grep -i proxy | sort".into(),
    ]));
    let mut server = Server::start(script, Options::default()).await;
    server.ready().await;
    let (_, answer) = server.begin_call("codex_run", json!({"prompt": "fetch"})).await;
    let answer = crate::support::await_answer(answer, server.home.path()).await;
    let result = answer["result"]["structuredContent"].clone();
    assert_eq!(result["success"], true, "{result}");
    let out = server.read("out.txt");
    assert!(out.contains("403"), "{out}");
    let denied = ["crates.example", "github.com", "plain.example:80", "python.example"];
    // Nothing that Codex itself asks for is among them.
    assert_eq!(result["denied_hosts"], json!(denied), "{result}\n{out}");
    let line = "network.allow_hosts = [\"crates.example\", \"github.com\", \"python.example\"]";
    let text = answer["result"]["content"][0]["text"].as_str().unwrap();
    assert!(text.contains(line) && result["notes"].to_string().contains("https"), "{text}");
    let record = recorded(&server, &result);
    assert_eq!(record["decisions"][0]["count"], 2, "{record}");
    server.stop().await;
}

#[tokio::test]
async fn without_a_program_that_asks_for_a_host_nothing_is_told() {
    need_engine!();
    let mut server = Server::start(
        Script::always(commands(&["curl -sS http://127.0.0.1:1/ || true".into()])),
        Options::default(),
    )
    .await;
    let result = server.run("nothing").await;
    assert_eq!(result["success"], true, "{result}");
    assert_eq!(result["denied_hosts"], json!([]));
    assert_eq!(result["notes"], Value::Null);
    let run = server.runs().join(result["run_id"].as_str().unwrap());
    assert!(!run.join("network.json").exists());
    server.stop().await;
}

#[tokio::test]
async fn allowed_hosts_are_reached_and_no_others() {
    need_engine!();
    if !can_be_alone() || !alone() {
        return;
    }
    host("11.22.33.44:443").await;
    host("11.22.33.44:8443").await;
    host("10.9.9.9:443").await;
    host("22.33.44.55:443").await;
    let urls = [
        "https://allowed.example/",
        "https://ALLOWED.example./",
        "https://a.under.example:8443/",
        "https://under.example:8443/",
        "https://allowed.example:8443/",
        "https://a.under.example/",
        "https://private.example/",
        "https://loopback.example/",
        "https://machine.example/",
        "https://metadata.example/",
        "https://mixed.example/",
        "https://11.22.33.44/",
        "https://169.254.169.254/",
        "https://127.1:8787/",
        "https://unknown.example/",
    ];
    let mut steps: Vec<String> = urls.iter().map(|url| curl(url)).collect();
    let python = "import ssl, urllib.request as u; \
                  print(\"python\", u.urlopen(\"https://allowed.example/\", \
                  context=ssl._create_unverified_context()).read())";
    steps.push(format!("python3 -c '{python}'"));
    // A connection of its own making: what is sent without waiting goes into the tunnel.
    let pipelined = "import socket, ssl; s = socket.create_connection((\"127.0.0.1\", 8788)); \
        i, o = ssl.MemoryBIO(), ssl.MemoryBIO(); \
        t = ssl._create_unverified_context().wrap_bio(i, o); \
        exec(\"try: t.do_handshake()\\nexcept ssl.SSLWantReadError: pass\"); \
        s.sendall(b\"CONNECT allowed.example:443 HTTP/1.1\\r\\n\\r\\n\" + o.read()); \
        s.settimeout(10); d = s.recv(65536); \
        exec(\"while d.count(b\\\"\\\\x16\\\\x03\\\") == 0: d += s.recv(65536)\"); \
        print(\"pipelined\", d[:12])";
    steps.push(format!("python3 -c '{pipelined}'"));
    let hosts = [
        "allowed.example",
        "*.under.example:8443",
        "private.example",
        "loopback.example",
        "machine.example",
        "metadata.example",
        "mixed.example",
        "unknown.example",
    ];
    let options = Options::default().set("network", format!("allow_hosts = {:?}", hosts));
    let mut server = Server::start(Script::always(commands(&steps)), options).await;
    server.ready().await;
    let result = server.run("fetch").await;
    assert_eq!(result["success"], true, "{result}");
    let out = server.read("out.txt");
    for url in &urls[..3] {
        assert!(out.contains(&format!("{url} hello")), "{url}\n{out}\n{}", server.log());
    }
    assert_eq!(out.matches("hello").count(), 4, "{out}");
    assert!(out.contains("python b'hello"), "{out}");
    assert!(out.contains("pipelined b'HTTP/1.1 200"), "{out}");
    let mut denied: Vec<_> =
        result["denied_hosts"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    denied.sort_unstable();
    let mut wanted = [
        "under.example:8443",
        "allowed.example:8443",
        "a.under.example",
        "private.example",
        "loopback.example",
        "machine.example",
        "metadata.example",
        "mixed.example",
        "11.22.33.44",
        "169.254.169.254",
        "127.0.0.1:8787",
    ];
    wanted.sort_unstable();
    // curl itself takes an address for one, whatever its form, and keeps to NO_PROXY.
    let wanted: Vec<_> = wanted.into_iter().filter(|host| !host.starts_with("127.")).collect();
    assert_eq!(denied, wanted, "{out}\n{result}");
    let record = recorded(&server, &result);
    let reasons = record["decisions"].to_string();
    for reason in ["listed", "not_listed", "not_public", "this_machine", "address", "unresolved"] {
        assert!(reasons.contains(&format!("\"{reason}\"")), "{reason}: {record}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_program_that_fills_the_proxy_does_not_keep_codex_from_its_model() {
    need_engine!();
    let flood = "import socket, time\n\
        s = []\n\
        for n in range(3000):\n\
        \x20 try:\n\
        \x20  c = socket.socket(); c.setblocking(False); c.connect_ex((\"127.0.0.1\", 8788)); s.append(c)\n\
        \x20 except OSError as e: print(e); break\n\
        for c in s[:64]:\n\
        \x20 try: c.send(b\"CONNECT a.example:443 HTTP/1.1\\r\\nX: \" + b\"x\" * 65536)\n\
        \x20 except OSError: pass\n\
        print(\"held\", len(s), flush=True)\n\
        time.sleep(600)\n";
    let write = format!("cat > /tmp/flood.py <<'END'\n{flood}END\n");
    let start = "(python3 /tmp/flood.py > /tmp/flood.out 2>&1 &) ; \
                 until grep -q held /tmp/flood.out; do sleep 0.1; done; cp /tmp/flood.out out.txt";
    let script = Script::always(vec![
        Step::run(write),
        Step::run(start),
        Step::run("echo more >> out.txt"),
        Step::Say("Done.".into()),
    ]);
    let mut server = Server::start(script, Options::default()).await;
    server.ready().await;
    let result = server.run("flood").await;
    assert_eq!(result["success"], true, "{result}\n{}", server.log());
    let out = server.read("out.txt");
    assert!(out.contains("held") && out.contains("more"), "{out}");
    // And the next run is as the first would have been.
    let next = server.run("flood").await;
    assert_eq!(next["success"], true, "{next}");
    server.stop().await;
}
