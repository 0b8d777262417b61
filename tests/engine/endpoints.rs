//! Engines at other addresses, late ones, and none.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mcp_codex_orchestrator::container::label;
use mcp_codex_orchestrator::engine::docker::{Address, DockerEngine, Endpoint};
use mcp_codex_orchestrator::engine::{Engine, EngineError};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixStream};

use super::{TIMEOUT, connect, engine, output, owner, socket, spec, until_gone, words};

/// Serves the engine's socket on a TCP port, and notes the first line of each request.
async fn proxy() -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let lines = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&lines);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let noted = Arc::clone(&noted);
            tokio::spawn(async move {
                let mut socket = UnixStream::connect(socket()).await.unwrap();
                let mut first = vec![0; 4096];
                let Ok(count @ 1..) = client.read(&mut first).await else { return };
                let line = String::from_utf8_lossy(&first[..count]);
                noted.lock().push(line.lines().next().unwrap_or_default().to_owned());
                socket.write_all(&first[..count]).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut socket).await;
            });
        }
    });
    (address, lines)
}

#[tokio::test]
async fn an_engine_over_tcp_works_the_same_and_is_asked_in_the_version_settled_on() {
    let Some((_, image)) = engine().await else { return };
    let (address, lines) = proxy().await;
    let variables = format!("tcp://{address}");
    let endpoint =
        Endpoint::from_environment(|name| (name == "DOCKER_HOST").then(|| variables.clone()))
            .unwrap();
    let engine = connect(&endpoint, TIMEOUT);
    let facts = engine.facts().await.unwrap();
    assert_eq!(facts.endpoint, variables);
    let owner = owner("tcp");
    let id = engine.start(&spec(&image, &owner, &["sleep", "60"])).await.unwrap();
    assert_eq!(output(&engine, &id, &["echo", "over tcp"]).await, "over tcp\n");
    let mut stream = engine.open(&id, &words(&["cat"])).await.unwrap();
    stream.write_all(b"x").await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'x');
    drop(stream);
    engine.remove(&id).await.unwrap();
    until_gone(&engine, &owner).await;
    let prefix = format!("/v{}/", facts.api_version);
    for line in lines.lock().iter().skip(1) {
        assert!(line.contains(&prefix), "{line}");
    }
}

#[tokio::test]
async fn where_nothing_answers_the_error_says_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let engine = |address| DockerEngine::connect(&Endpoint::at(address), TIMEOUT).unwrap();
    let missing = engine(Address::Unix(directory.path().join("none.sock")));
    let sentence = missing.facts().await.unwrap_err().to_string();
    assert!(sentence.contains("no container engine answers at unix://"), "{sentence}");
    assert!(sentence.contains("start Docker"), "{sentence}");

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let closed = engine(Address::Tcp(address));
    let error = closed.list(label::OWNER).await.unwrap_err();
    assert!(matches!(error, EngineError::Unavailable { .. }), "{error}");
}

#[tokio::test]
async fn an_engine_that_never_answers_runs_into_the_engine_timeout() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let endpoint = Endpoint::at(Address::Tcp(address));
    let engine = DockerEngine::connect(&endpoint, Duration::from_millis(200)).unwrap();
    let begun = Instant::now();
    let error = engine.list(label::OWNER).await.unwrap_err();
    assert!(matches!(error, EngineError::Timeout { verb: "list containers", .. }), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn an_engine_that_comes_up_later_is_found_then() {
    let Some(_) = engine().await else { return };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("late.sock");
    let endpoint = Endpoint::at(Address::Unix(path.clone()));
    let engine = DockerEngine::connect(&endpoint, TIMEOUT).unwrap();
    assert!(matches!(engine.facts().await, Err(EngineError::Unavailable { .. })));
    std::os::unix::fs::symlink(socket(), &path).unwrap();
    engine.facts().await.unwrap();
}
