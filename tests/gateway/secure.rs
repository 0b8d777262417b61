//! TLS to the provider: extra root certificates of the host, and its proxy. Both come from the
//! environment, so the gateway runs in a process of its own here.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use mcp_codex_orchestrator::model::gateway::install_crypto;
use parking_lot::Mutex;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;

use crate::support::{Served, body};

/// Tells the process of its own what to do.
const CHILD: &str = "GATEWAY_TEST_BASE_URL";

/// Not a test of its own: what the others start.
#[tokio::test]
async fn one_request() {
    let Ok(base) = std::env::var(CHILD) else { return };
    let served = Served::to(&base).await;
    let answer = served.post(body().to_string()).send().await.unwrap();
    println!("status {}: {}", answer.status(), answer.text().await.unwrap());
}

/// What a request to `base` is answered with in a process with these variables.
async fn request(base: &str, variables: &[(&str, &str)]) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "secure::one_request", "--nocapture", "--test-threads=1"]);
    for name in ["ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"] {
        command.env_remove(name).env_remove(name.to_lowercase());
    }
    command.env_remove("SSL_CERT_FILE").env_remove("SSL_CERT_DIR");
    command.env(CHILD, base).envs(variables.iter().copied());
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await.unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Makes an authority and, signed by it, a certificate of `provider.test`. `false` without openssl.
async fn certificates(dir: &Path) -> bool {
    let leaf = "subjectAltName=DNS:provider.test,DNS:localhost\nbasicConstraints=CA:FALSE\n\
                extendedKeyUsage=serverAuth\n";
    std::fs::write(dir.join("leaf.ext"), leaf).unwrap();
    let script = "set -e
        key='-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes'
        openssl req -x509 $key -keyout ca.key -out ca.pem -subj /CN=ca -days 2
        openssl req $key -keyout leaf.key -out leaf.csr -subj /CN=provider.test
        openssl x509 -req -in leaf.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
            -extfile leaf.ext -out leaf.pem
        mkdir certs && cp ca.pem certs/$(openssl x509 -hash -noout -in ca.pem).0";
    let Ok(output) = Command::new("sh").args(["-c", script]).current_dir(dir).output().await else {
        return false;
    };
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_ne!(std::env::var("CODEX_TESTS_REQUIRE_ENGINE").as_deref(), Ok("1"), "{why}");
        println!("skipped: openssl could make no certificates: {why}");
    }
    output.status.success()
}

async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

/// A provider behind TLS; the port.
async fn tls_provider(dir: &Path) -> u16 {
    install_crypto();
    let chain = vec![CertificateDer::from_pem_file(dir.join("leaf.pem")).unwrap()];
    let key = PrivateKeyDer::from_pem_file(dir.join("leaf.key")).unwrap();
    let config = rustls::ServerConfig::builder().with_no_client_auth();
    let config = Arc::new(config.with_single_cert(chain, key).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = tokio_rustls::TlsAcceptor::from(config.clone());
            tokio::spawn(async move {
                // A client that does not trust it goes away.
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                read_head(&mut stream).await;
                let answer =
                    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: {}\n\n";
                stream.write_all(answer.as_bytes()).await.unwrap();
                stream.shutdown().await.unwrap();
            });
        }
    });
    port
}

#[tokio::test]
async fn root_certificates_of_the_host_are_honoured() {
    let dir = tempfile::tempdir().unwrap();
    if !certificates(dir.path()).await {
        return;
    }
    let base = format!("https://localhost:{}/v1", tls_provider(dir.path()).await);
    let file = dir.path().join("ca.pem").to_str().unwrap().to_owned();
    let certs = dir.path().join("certs").to_str().unwrap().to_owned();
    for (variables, want) in [
        (&[("SSL_CERT_FILE", &*file)][..], "status 200"),
        (&[("SSL_CERT_DIR", &*certs)], "status 200"),
        (&[], "status 502"),
    ] {
        let told = request(&base, variables).await;
        assert!(told.contains(want), "{variables:?}: {told}");
    }
    let told = request(&base, &[]).await;
    assert!(told.contains("cannot be reached: invalid peer certificate"), "{told}");
}

#[tokio::test]
async fn the_proxy_of_the_host_is_honoured() {
    let dir = tempfile::tempdir().unwrap();
    if !certificates(dir.path()).await {
        return;
    }
    let provider = tls_provider(dir.path()).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = format!("http://user:pass@{}", listener.local_addr().unwrap());
    let heads = Arc::new(Mutex::new(Vec::new()));
    tokio::spawn({
        let heads = heads.clone();
        async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let head = read_head(&mut stream).await;
                heads.lock().push(head);
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                let mut to = TcpStream::connect(("127.0.0.1", provider)).await.unwrap();
                tokio::spawn(async move { copy_bidirectional(&mut stream, &mut to).await });
            }
        }
    });
    let file = dir.path().join("ca.pem").to_str().unwrap().to_owned();
    let variables = [("SSL_CERT_FILE", &*file), ("HTTPS_PROXY", &*proxy)];
    let told = request("https://provider.test/v1", &variables).await;
    assert!(told.contains("status 200"), "{told}");
    let head = heads.lock().pop().unwrap();
    assert!(head.starts_with("CONNECT provider.test:443 HTTP/1.1\r\n"), "{head}");
    assert!(head.to_lowercase().contains("proxy-authorization: basic "), "{head}");
    // A proxy that does not answer is told without its password.
    let gone = ("HTTPS_PROXY", "http://user:hunter2pass@127.0.0.1:1");
    let told = request("https://provider.test/v1", &[gone]).await;
    assert!(told.contains("status 502") && !told.contains("hunter2pass"), "{told}");
}
