//! The engine against a real Docker.
//!
//! Where none answers the tests say so and pass, unless `CODEX_TESTS_REQUIRE_ENGINE=1`.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests"
)]

#[path = "engine/endpoints.rs"]
mod endpoints;
#[path = "engine/events.rs"]
mod events;
#[path = "engine/removal.rs"]
mod removal;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use mcp_codex_orchestrator::config::ContainerConfig;
use mcp_codex_orchestrator::container::{self, HostPaths, label};
use mcp_codex_orchestrator::engine::docker::{Address, DockerEngine, Endpoint};
use mcp_codex_orchestrator::engine::{
    ByteStream, ContainerId, ContainerSpec, Engine, EngineError, Network,
};
use mcp_codex_orchestrator::pool::owner::Owner;
use mcp_codex_orchestrator::pool::sweep::Sweeper;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

const TIMEOUT: Duration = Duration::from_secs(30);

fn lookup(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// The engine, with a directory that a Podman of another user could read, too.
fn connect(endpoint: &Endpoint, timeout: Duration) -> DockerEngine {
    let files = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("engine-files");
    DockerEngine::connect(endpoint, timeout).unwrap().with_files_in(files)
}

/// The engine and an image to start, or the reason why there is none.
async fn engine() -> Option<(DockerEngine, String)> {
    let found = async {
        let endpoint = Endpoint::from_environment(lookup).map_err(|error| error.to_string())?;
        let engine = connect(&endpoint, TIMEOUT);
        engine.facts().await.map_err(|error| error.to_string())?;
        let image = lookup("CODEX_IMAGE").unwrap_or_else(|| "codex-runner:latest".to_owned());
        engine.image(&image).await.map_err(|error| error.to_string())?;
        Ok::<_, String>((engine, image))
    };
    match found.await {
        Ok(found) => Some(found),
        Err(reason) => {
            let required = lookup("CODEX_TESTS_REQUIRE_ENGINE").is_some_and(|value| value == "1");
            assert!(!required, "an engine is required: {reason}");
            println!("left out, no engine: {reason}");
            None
        }
    }
}

fn spec(image: &str, owner: &str, argv: &[&str]) -> ContainerSpec {
    let config = ContainerConfig {
        image: image.to_owned(),
        memory: 512 << 20,
        cpus: 0.5,
        pids: 64,
        read_only: true,
        runtime: String::new(),
        start_timeout: Duration::from_secs(30),
        heartbeat: Duration::from_secs(5),
    };
    let mut spec = container::spec(
        &config,
        &Network::None,
        &HostPaths::default(),
        owner,
        jiff::Timestamp::now(),
    );
    spec.argv = words(argv);
    spec
}

fn words(argv: &[&str]) -> Vec<String> {
    argv.iter().map(|word| (*word).to_owned()).collect()
}

/// A label that only this test has.
fn owner(test: &str) -> String {
    format!("dev-engine-{test}-{}", uuid::Uuid::new_v4().simple())
}

async fn listed(engine: &DockerEngine, owner: &str) -> Vec<(ContainerId, String)> {
    let all = engine.list(label::OWNER).await.unwrap();
    all.into_iter()
        .filter(|container| container.labels.get(label::OWNER).is_some_and(|it| it == owner))
        .map(|container| (container.id, container.state))
        .collect()
}

/// Asks the engine in its own words, since the trait has none for volumes or for half a start.
async fn raw(method: &str, path: &str, body: &str) -> String {
    let mut socket = UnixStream::connect(socket()).await.unwrap();
    let request = format!(
        "{method} {path} HTTP/1.0\r\nHost: docker\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    let status = answer.split(' ').nth(1).unwrap_or_default();
    assert!(status.starts_with('2'), "{method} {path}: {answer}");
    answer
}

/// The Unix socket of the engine; these tests need one to look at it from outside.
fn socket() -> PathBuf {
    let endpoint = Endpoint::from_environment(lookup).unwrap();
    let exists = |address: &Address| match address {
        Address::Unix(path) => path.exists().then(|| path.clone()),
        Address::Tcp(_) => None,
    };
    let found = endpoint.addresses().iter().find_map(exists);
    found.unwrap_or_else(|| panic!("the engine has no Unix socket"))
}

/// How many volumes there are of this owner's containers. Podman gives an anonymous volume no
/// label, so the names that its containers showed count, too.
async fn volumes(owner: &str) -> usize {
    static SEEN: parking_lot::Mutex<BTreeSet<(String, String)>> =
        parking_lot::Mutex::new(BTreeSet::new());
    let json = |answer: String| {
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        serde_json::from_str::<serde_json::Value>(body).unwrap()
    };
    let filters = format!(r#"{{"label":["{}={owner}"]}}"#, label::OWNER);
    let encoded: String = filters.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let path = format!("/v1.41/containers/json?all=true&filters={encoded}");
    let containers = json(raw("GET", &path, "").await);
    let volumes = json(raw("GET", "/v1.41/volumes", "").await);
    let mut seen = SEEN.lock();
    for container in containers.as_array().unwrap() {
        for mount in container["Mounts"].as_array().into_iter().flatten() {
            if let Some(name) = mount["Name"].as_str() {
                seen.insert((owner.to_owned(), name.to_owned()));
            }
        }
    }
    let is_of = |volume: &&serde_json::Value| {
        let name = volume["Name"].as_str().unwrap_or_default();
        volume["Labels"][label::OWNER] == owner || seen.contains(&(owner.into(), name.into()))
    };
    volumes["Volumes"].as_array().into_iter().flatten().filter(is_of).count()
}

async fn output(engine: &DockerEngine, id: &ContainerId, argv: &[&str]) -> String {
    let mut stream = engine.open(id, &words(argv)).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

/// Waits until `owner` has no container, which the engine removes by itself, and no volume: it takes a
/// container off its list before it removes these.
async fn until_gone(engine: &DockerEngine, owner: &str) -> Duration {
    let begun = Instant::now();
    while !listed(engine, owner).await.is_empty() || volumes(owner).await > 0 {
        assert!(begun.elapsed() < Duration::from_secs(20), "containers of {owner} are left");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    begun.elapsed()
}

#[tokio::test]
async fn a_container_starts_as_asked_serves_a_stream_and_leaves_nothing_behind() {
    let Some((engine, image)) = engine().await else { return };
    let owner = owner("round");
    let id = engine.start(&spec(&image, &owner, &["sleep", "60"])).await.unwrap();
    assert_eq!(listed(&engine, &owner).await, [(id.clone(), "running".to_owned())]);
    assert_eq!(volumes(&owner).await, 2);

    let status = output(&engine, &id, &["cat", "/proc/self/status"]).await;
    assert!(status.contains("CapBnd:\t00000000000000eb"), "{status}");
    assert!(status.contains("NoNewPrivs:\t1") && status.contains("Seccomp:\t2"), "{status}");
    assert_eq!(output(&engine, &id, &["ls", "/sys/class/net"]).await, "lo\n");
    assert_eq!(output(&engine, &id, &["hostname"]).await, "codex\n");
    let mounts = output(&engine, &id, &["cat", "/proc/mounts"]).await;
    for place in spec(&image, &owner, &[]).tmpfs {
        let line = mounts
            .lines()
            .find(|line| line.split(' ').nth(1) == Some(place.path.as_str()))
            .unwrap_or_else(|| panic!("{} in {mounts}", place.path));
        let inodes = match engine.facts().await.unwrap().name.as_str() {
            // It refuses the option; that there is no such limit is told at arming.
            "podman" => String::new(),
            _ => format!("nr_inodes={}", place.inodes),
        };
        for option in [
            "tmpfs".to_owned(),
            "nosuid".to_owned(),
            "nodev".to_owned(),
            format!("size={}k", place.bytes / 1024),
            inodes,
        ] {
            assert!(line.contains(&option), "{option} in {line}");
        }
        assert!(!line.contains("noexec"), "{line}");
    }
    let root = output(&engine, &id, &["sh", "-c", "touch /x 2>&1; touch /app/y && echo put"]).await;
    assert!(root.contains("Read-only file system") && root.ends_with("put\n"), "{root}");

    engine.remove(&id).await.unwrap();
    engine.remove(&id).await.unwrap();
    until_gone(&engine, &owner).await;
    assert_eq!(volumes(&owner).await, 0);
}

#[tokio::test]
async fn dropping_the_stream_closes_stdin_and_a_program_that_minds_it_ends() {
    let Some((engine, image)) = engine().await else { return };
    let owner = owner("eof");
    // pid 1 ends as soon as the program that wrote the file has ended, as our own init does.
    let script = "while [ ! -e /run/begun ]; do sleep 0.02; done; \
                  while kill -0 $(cat /run/begun) 2>/dev/null; do sleep 0.02; done";
    let id = engine.start(&spec(&image, &owner, &["sh", "-c", script])).await.unwrap();
    let program = "echo $$ > /run/b; mv /run/b /run/begun; exec cat";
    let mut stream = engine.open(&id, &words(&["sh", "-c", program])).await.unwrap();
    stream.write_all(b"hello\n").await.unwrap();
    let mut line = [0; 6];
    stream.read_exact(&mut line).await.unwrap();
    assert_eq!(&line, b"hello\n");
    drop(stream);
    let took = until_gone(&engine, &owner).await;
    println!("gone {} ms after the stream was dropped", took.as_millis());
    assert_eq!(volumes(&owner).await, 0);
}

#[tokio::test]
async fn a_program_that_does_not_exist_fails_the_stream() {
    let Some((engine, image)) = engine().await else { return };
    let owner = owner("missing");
    let id = engine.start(&spec(&image, &owner, &["sleep", "60"])).await.unwrap();
    let failure = match engine.open(&id, &words(&["/no/such/program"])).await {
        Err(error) => error.to_string(),
        Ok(mut stream) => stream.read_u8().await.unwrap_err().to_string(),
    };
    // Podman closes the stream without a word.
    let silent = engine.facts().await.unwrap().name == "podman" && failure.contains("end of file");
    assert!(silent || failure.contains("no such file"), "{failure}");
    engine.remove(&id).await.unwrap();
    let gone = engine.open(&id, &words(&["true"])).await.err().unwrap().to_string();
    assert!(
        gone.contains("could not open a stream (") && gone.to_lowercase().contains("no such"),
        "{gone}"
    );
}

#[tokio::test]
async fn an_image_that_is_missing_says_how_to_build_it_and_leaves_nothing() {
    let Some((engine, _)) = engine().await else { return };
    let owner = owner("image");
    let missing = "dev-engine-no-such-image:latest";
    let error = engine.start(&spec(missing, &owner, &["true"])).await.unwrap_err();
    assert!(matches!(&error, EngineError::ImageMissing { image } if image == missing), "{error}");
    assert!(error.to_string().contains("image build"));
    let error = engine.image(missing).await.unwrap_err();
    assert!(matches!(error, EngineError::ImageMissing { .. }), "{error}");
    assert!(listed(&engine, &owner).await.is_empty());
}

#[tokio::test]
async fn what_cannot_start_is_removed_again() {
    let Some((engine, image)) = engine().await else { return };
    let owner = owner("broken");
    let error = engine.start(&spec(&image, &owner, &["/no/such/init"])).await.unwrap_err();
    assert!(matches!(error, EngineError::Failed { verb: "start a container", .. }), "{error}");
    until_gone(&engine, &owner).await;
    assert_eq!(volumes(&owner).await, 0);
}

#[tokio::test]
async fn a_start_that_nobody_waits_for_leaves_nothing() {
    let Some((engine, image)) = engine().await else { return };
    let owner = owner("dropped");
    for wait in [1, 5, 20, 60] {
        let spec = spec(&image, &owner, &["sleep", "60"]);
        let given_up = tokio::time::timeout(Duration::from_millis(wait), engine.start(&spec)).await;
        assert!(given_up.is_err(), "a start in {wait} ms");
    }
    // All four have been asked for by now; each is removed when its start is done.
    tokio::time::sleep(Duration::from_secs(2)).await;
    // A start that is asked for late makes its volume before the list has its container.
    let begun = Instant::now();
    while !listed(&engine, &owner).await.is_empty() || volumes(&owner).await > 0 {
        assert!(begun.elapsed() < Duration::from_secs(20), "something of {owner} is left");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn bulk_goes_through_the_stream_in_both_directions() {
    const BYTES: usize = 256 << 20;
    let Some((engine, image)) = engine().await else { return };
    let owner = owner("bulk");
    let id = engine.start(&spec(&image, &owner, &["sleep", "600"])).await.unwrap();

    let mut stream: ByteStream =
        engine.open(&id, &words(&["sh", "-c", "cat > /dev/null; echo done"])).await.unwrap();
    let block = vec![7; 256 * 1024];
    let begun = Instant::now();
    for _ in 0..BYTES / block.len() {
        stream.write_all(&block).await.unwrap();
    }
    stream.shutdown().await.unwrap();
    let mut end = String::new();
    stream.read_to_string(&mut end).await.unwrap();
    assert_eq!(end, "done\n");
    println!("in:  {:.0} MB/s", rate(BYTES, begun));

    let count = (BYTES >> 20).to_string();
    let program = format!("dd if=/dev/zero bs=1M count={count} 2>/dev/null");
    let mut stream = engine.open(&id, &words(&["sh", "-c", &program])).await.unwrap();
    let begun = Instant::now();
    let mut block = vec![0; 256 * 1024];
    let mut total = 0;
    loop {
        match stream.read(&mut block).await.unwrap() {
            0 => break,
            count => total += count,
        }
    }
    assert_eq!(total, BYTES);
    println!("out: {:.0} MB/s", rate(BYTES, begun));

    let mut stream = engine.open(&id, &words(&["cat"])).await.unwrap();
    let mut trips = Vec::new();
    for _ in 0..500 {
        let begun = Instant::now();
        stream.write_all(b"x").await.unwrap();
        stream.read_u8().await.unwrap();
        trips.push(begun.elapsed());
    }
    trips.sort_unstable();
    println!("round trip: p50 {:?}, p99 {:?}", trips[250], trips[495]);
    drop(stream);
    engine.remove(&id).await.unwrap();
    until_gone(&engine, &owner).await;
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn rate(bytes: usize, begun: Instant) -> f64 {
    bytes as f64 / 1e6 / begun.elapsed().as_secs_f64()
}

#[tokio::test]
async fn containers_of_a_dead_owner_are_swept_whatever_their_state() {
    let Some((engine, image)) = engine().await else { return };
    let state = tempfile::tempdir().unwrap();
    let me = Owner::claim(state.path()).unwrap();
    let dead = Owner::claim(state.path()).unwrap().label().to_owned();
    let living = Owner::claim(state.path()).unwrap();

    let body = |owner: &str| {
        serde_json::json!({
            "Image": image, "Cmd": ["sleep", "60"], "Labels": {label::OWNER: owner},
            "HostConfig": {"NetworkMode": "none", "Mounts": [{
                "Type": "volume", "Target": "/app",
                "VolumeOptions": {"Labels": {label::OWNER: owner}},
            }]},
        })
        .to_string()
    };
    raw("POST", "/containers/create", &body(&dead)).await;
    raw("POST", "/containers/create", &body(living.label())).await;
    let paused = engine.start(&spec(&image, &dead, &["sleep", "60"])).await.unwrap();
    raw("POST", &format!("/containers/{}/pause", paused.0), "").await;
    engine.start(&spec(&image, &dead, &["sleep", "60"])).await.unwrap();
    let mut states: Vec<String> =
        listed(&engine, &dead).await.into_iter().map(|(_, state)| state).collect();
    states.sort();
    assert_eq!(states, ["created", "paused", "running"]);
    assert_eq!(volumes(&dead).await, 5);

    let mut sweeper = Sweeper::new(me.label(), state.path());
    let first = sweeper.sweep_once(&engine, &|| false).await.unwrap();
    assert!(first.removed.is_empty() && first.waiting >= 3, "{first:?}");
    let second = sweeper.sweep_once(&engine, &|| false).await.unwrap();
    assert!(second.removed.len() >= 3 && second.failed.is_empty(), "{second:?}");
    until_gone(&engine, &dead).await;
    assert_eq!(volumes(&dead).await, 0);
    let kept = listed(&engine, living.label()).await;
    assert_eq!(kept.len(), 1);
    engine.remove(&kept[0].0).await.unwrap();
    until_gone(&engine, living.label()).await;
    assert_eq!(volumes(living.label()).await, 0);
}

#[tokio::test]
async fn a_stream_outlives_every_timeout() {
    let Some((_, image)) = engine().await else { return };
    let endpoint = Endpoint::from_environment(lookup).unwrap();
    // bollard's own timeout is a second longer than ours, in whole seconds: four here.
    let engine = DockerEngine::connect(&endpoint, Duration::from_millis(3900)).unwrap();
    let patient = connect(&endpoint, TIMEOUT);
    let owner = owner("long");
    let id = patient.start(&spec(&image, &owner, &["sleep", "60"])).await.unwrap();
    let mut stream = engine.open(&id, &words(&["cat"])).await.unwrap();
    tokio::time::sleep(Duration::from_millis(5500)).await;
    stream.write_all(b"x").await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'x');
    drop(stream);
    patient.remove(&id).await.unwrap();
    until_gone(&patient, &owner).await;
}
