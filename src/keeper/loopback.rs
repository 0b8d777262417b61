//! Both sides against each other in memory, with an inside that does nothing to the machine.

#![expect(clippy::unwrap_used, reason = "a helper of tests may fail them")]

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::JoinHandle;

use super::client::{Incoming, Keeper, KeeperError, KeeperOptions, ProgramEvent};
use super::frame::{FrameReader, FrameWriter, Kind};
use super::inside::serve::serve;
use super::inside::{Inside, Refusal};
use super::mux::{self, Side};
use super::silence::{Limits, Silence};
use super::wire::{
    ArmRequest, Armed, CollectReport, CollectRequest, ExitReport, Fingerprint, Hello, PROTOCOL,
    Posture, PutReport, PutRequest, Request, ResetReport, ResetRequest, SpawnRequest,
};

/// Counts what is put, collects zeros, runs programs as the user who runs the tests, and ends
/// nothing. Says at arming what it was given.
#[derive(Default)]
struct Harmless(Posture);

impl Inside for Harmless {
    fn arm(&self, _: &ArmRequest) -> Result<Armed, Refusal> {
        let (posture, fingerprint) = (self.0.clone(), Fingerprint::default());
        Ok(Armed { posture, fingerprint, ports: Vec::new() })
    }

    fn put(&self, put: &PutRequest, tar: &mut (dyn Read + Send)) -> Result<PutReport, Refusal> {
        if put.base == Some(13) {
            return Err(Refusal::new("the tree of this number is refused"));
        }
        let bytes =
            std::io::copy(tar, &mut std::io::sink()).map_err(|e| Refusal::new(e.to_string()))?;
        if bytes == 13 {
            return Err(Refusal::new("thirteen bytes are refused"));
        }
        let tree = put.base.unwrap_or_default() + 1;
        Ok(PutReport { bytes, tree, ..PutReport::default() })
    }

    fn settle(&self) -> Result<(), Refusal> {
        Ok(())
    }

    fn command(&self, request: &SpawnRequest) -> Result<tokio::process::Command, Refusal> {
        let mut command = tokio::process::Command::new(&request.argv[0]);
        command.args(&request.argv[1..]).process_group(0).kill_on_drop(true);
        Ok(command)
    }

    fn collect(
        &self,
        request: &CollectRequest,
        tar: &mut dyn Write,
    ) -> Result<CollectReport, Refusal> {
        let chunk = [0; 1000];
        for _ in 0..request.max_bytes / 1000 {
            tar.write_all(&chunk).map_err(|e| Refusal::new(e.to_string()))?;
        }
        if request.max_entries == 0 {
            return Err(Refusal::new("too much"));
        }
        Ok(CollectReport { bytes: request.max_bytes, ..CollectReport::default() })
    }

    fn others(&self) -> Result<u32, Refusal> {
        Ok(0)
    }

    fn kill_round(&self) -> Result<u32, Refusal> {
        Ok(0)
    }

    fn reset(&self, _: &ResetRequest) -> Result<ResetReport, Refusal> {
        Ok(ResetReport::default())
    }

    fn full(&self) -> Option<String> {
        None
    }

    fn oom_kills(&self) -> u64 {
        0
    }
}

fn keeper_over(pipe: usize) -> (DuplexStream, JoinHandle<String>) {
    let (near, far) = tokio::io::duplex(pipe);
    let (reader, writer) = tokio::io::split(far);
    (near, tokio::spawn(serve(Arc::<Harmless>::default(), reader, writer, Limits::default())))
}

/// Serves the far end of a stream as a keeper does that harms nothing, and finds `posture` in force.
pub(crate) async fn keep(posture: Posture, far: DuplexStream) {
    let (reader, writer) = tokio::io::split(far);
    // One that is muted stands for one that is paused, which counts nothing.
    let limits = Limits { idle: Duration::from_secs(3600), job: Duration::from_secs(3600) };
    serve(Arc::new(Harmless(posture)), reader, writer, limits).await;
}

async fn connect(pipe: usize, options: KeeperOptions) -> (Keeper, Incoming, JoinHandle<String>) {
    let (near, served) = keeper_over(pipe);
    let (keeper, incoming, _) = Keeper::connect(Box::new(near), options).await.unwrap();
    (keeper, incoming, served)
}

/// A connection to a keeper that does nothing to the machine and whose every reset is as good as
/// the state of arming.
pub(crate) async fn harmless() -> (Keeper, Incoming, JoinHandle<String>) {
    connect(64 * 1024, KeeperOptions::default()).await
}

fn quick() -> KeeperOptions {
    KeeperOptions { heartbeat: Duration::from_millis(5), ..KeeperOptions::default() }
}

fn program(script: &str) -> SpawnRequest {
    SpawnRequest {
        argv: vec!["sh".to_owned(), "-c".to_owned(), script.to_owned()],
        nonce: "n".to_owned(),
        ..SpawnRequest::default()
    }
}

#[tokio::test]
async fn both_directions_saturated_with_heartbeats_do_not_deadlock() {
    let (keeper, _incoming, _served) = connect(512, quick()).await;
    let mut running = keeper.spawn(program("head -c 8000000 /dev/zero")).await.unwrap();
    let output = async {
        let mut bytes = 0;
        loop {
            match running.next().await.unwrap() {
                ProgramEvent::Stdout(chunk) => bytes += chunk.len(),
                ProgramEvent::Stderr(_) => {}
                ProgramEvent::Exited(report) => return (bytes, report.code),
            }
        }
    };
    let put = async {
        let mut put = keeper.put(PutRequest::default()).await.unwrap();
        put.write_all(&vec![0; 8_000_000]).await.unwrap();
        put.finish().await.unwrap().bytes
    };
    let pings = async {
        for _ in 0..50 {
            keeper.round_trip().await.unwrap();
        }
    };
    let all = async { tokio::join!(output, put, pings) };
    let (output, put, ()) = tokio::time::timeout(Duration::from_secs(60), all).await.unwrap();
    assert_eq!((output, put), ((8_000_000, Some(0)), 8_000_000));
    assert_eq!(keeper.lost(), None);
}

#[tokio::test]
async fn no_connection_of_one_job_comes_out_in_the_next() {
    let (keeper, mut incoming, _served) = connect(64 * 1024, quick()).await;
    let port = {
        let free = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        free.local_addr().unwrap().port()
    };
    let request = ArmRequest { forward: vec![port], ..ArmRequest::default() };
    keeper.arm(request).await.unwrap();
    // More than are carried at once, so that some wait in the kernel; then their program is gone.
    for _ in 0..40 {
        let mut made = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        made.write_all(b"of the first job").await.unwrap();
    }
    let mut taken = incoming.accept().await.unwrap();
    let mut bytes = [0; 16];
    taken.read_exact(&mut bytes).await.unwrap();
    keeper.reset().await.unwrap();
    incoming.discard();
    drop(taken);

    let mut made = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    made.write_all(b"of the second job").await.unwrap();
    let mut taken = incoming.accept().await.unwrap();
    let mut bytes = [0; 17];
    taken.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"of the second job");
    for _ in 0..20 {
        keeper.round_trip().await.unwrap();
    }
    assert!(futures::poll!(Box::pin(incoming.accept())).is_pending());
}

#[tokio::test]
async fn a_program_nobody_reads_stalls_nothing_else() {
    let (keeper, _incoming, _served) = connect(4096, quick()).await;
    let mut running = keeper.spawn(program("head -c 3000000 /dev/zero")).await.unwrap();
    let mut collect = keeper
        .collect(CollectRequest {
            max_bytes: 2_000_000,
            max_entries: 1,
            ..CollectRequest::default()
        })
        .await
        .unwrap();
    for _ in 0..20 {
        keeper.round_trip().await.unwrap();
    }
    let mut bytes = Vec::new();
    collect.read_to_end(&mut bytes).await.unwrap();
    assert_eq!(bytes.len(), 2_000_000);
    assert_eq!(collect.finish().await.unwrap().bytes, 2_000_000);
    while !matches!(running.next().await.unwrap(), ProgramEvent::Exited(_)) {}
}

#[tokio::test]
async fn stdin_of_any_size_and_both_outputs_arrive_before_the_exit() {
    let (keeper, _incoming, _served) = connect(4096, quick()).await;
    let mut request = program("wc -c; echo err >&2; exit 3");
    request.stdin = "x".repeat(1 << 20);
    let mut running = keeper.spawn(request).await.unwrap();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let report = loop {
        match running.next().await.unwrap() {
            ProgramEvent::Stdout(bytes) => out.extend(bytes),
            ProgramEvent::Stderr(bytes) => err.extend(bytes),
            ProgramEvent::Exited(report) => break report,
        }
    };
    assert_eq!(String::from_utf8(out).unwrap().trim(), "1048576");
    assert_eq!(err, b"err\n");
    assert_eq!((report.code, report.nonce.as_str()), (Some(3), "n"));
}

#[tokio::test]
async fn a_signal_reaches_the_program() {
    let (keeper, _incoming, _served) = connect(4096, quick()).await;
    let mut running = keeper.spawn(program("sleep 100")).await.unwrap();
    running.signal(libc::SIGTERM).await;
    let ProgramEvent::Exited(report) = running.next().await.unwrap() else { panic!() };
    assert_eq!((report.code, report.signal), (None, Some(libc::SIGTERM)));
}

#[tokio::test]
async fn a_pipe_held_open_by_a_process_left_behind_does_not_hold_the_report() {
    let (keeper, _incoming, _served) = connect(4096, quick()).await;
    let mut running = keeper.spawn(program("sleep 20 & echo done")).await.unwrap();
    assert_eq!(running.next().await.unwrap(), ProgramEvent::Stdout(b"done\n".to_vec()));
    let exited = tokio::time::timeout(Duration::from_secs(10), running.next()).await.unwrap();
    assert!(matches!(exited.unwrap(), ProgramEvent::Exited(_)));
}

#[tokio::test]
async fn operations_dropped_midway_leave_the_connection_whole() {
    let (keeper, _incoming, _served) = connect(300, quick()).await;
    for _ in 0..100 {
        let mut put = keeper.put(PutRequest::default()).await.unwrap();
        let bytes = [0; 100_000];
        let _ = tokio::time::timeout(Duration::from_micros(300), put.write_all(&bytes)).await;
        drop(put);
        let request =
            CollectRequest { max_bytes: 1 << 30, max_entries: 1, ..CollectRequest::default() };
        let mut collect = keeper.collect(request).await.unwrap();
        let mut some = [0; 10];
        let _ = tokio::time::timeout(Duration::from_millis(5), collect.read_exact(&mut some)).await;
        drop(collect);
        let _ = tokio::time::timeout(Duration::from_micros(200), keeper.round_trip()).await;
    }
    keeper.round_trip().await.unwrap();
    let mut put = keeper.put(PutRequest::default()).await.unwrap();
    put.write_all(&[1; 100]).await.unwrap();
    assert_eq!(put.finish().await.unwrap().bytes, 100);
}

#[tokio::test]
async fn refusals_come_as_sentences() {
    let (keeper, _incoming, _served) = connect(4096, quick()).await;
    let mut put = keeper.put(PutRequest::default()).await.unwrap();
    put.write_all(&[0; 13]).await.unwrap();
    let refused = put.finish().await.unwrap_err();
    assert_eq!(refused, KeeperError::Refused("thirteen bytes are refused".to_owned()));
    let request =
        CollectRequest { max_bytes: 100_000, max_entries: 0, ..CollectRequest::default() };
    let mut collect = keeper.collect(request).await.unwrap();
    let error = collect.read_to_end(&mut Vec::new()).await.unwrap_err();
    assert!(error.to_string().contains("too much"), "{error}");
    let refused = collect.finish().await.unwrap_err();
    assert_eq!(refused, KeeperError::Refused("too much".to_owned()));
}

#[tokio::test]
async fn the_keeper_ends_when_the_last_handle_is_dropped() {
    let (keeper, mut incoming, served) = connect(4096, quick()).await;
    let other = keeper.clone();
    drop(keeper);
    other.round_trip().await.unwrap();
    drop(other);
    assert!(served.await.unwrap().contains("stream ended"));
    assert!(incoming.accept().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_silent_keeper_is_given_up() {
    let (near, _held) = tokio::io::duplex(4096);
    let error = Keeper::connect(Box::new(near), KeeperOptions::default()).await.unwrap_err();
    assert!(matches!(error, KeeperError::Silent(length) if length.as_secs() >= 15), "{error}");
}

/// A limit that never comes.
const NEVER: Limits = Limits { idle: HOURS, job: HOURS };
const HOURS: Duration = Duration::from_secs(36_000);

/// What is done to an armed container, and whether a job is in it then.
#[derive(Clone, Copy, Debug)]
enum Use {
    Nothing,
    Filled,
    FilledAndWaiting,
    FilledAndLeased,
    Leased,
    Started,
    Reset,
}

impl Use {
    const ALL: [(Self, bool); 7] = [
        (Self::Nothing, false),
        (Self::Filled, false),
        (Self::FilledAndWaiting, false),
        (Self::FilledAndLeased, true),
        (Self::Leased, true),
        (Self::Started, true),
        (Self::Reset, false),
    ];

    async fn happen(self, keeper: &Keeper) {
        let nothing = ArmRequest { forward: Vec::new(), ..ArmRequest::default() };
        keeper.arm(nothing).await.unwrap();
        let put = async |ahead| {
            let put = keeper.put(PutRequest { ahead, ..PutRequest::default() }).await.unwrap();
            put.finish().await.unwrap();
        };
        let start = async || drop(keeper.spawn(program("true")).await.unwrap());
        match self {
            Self::Nothing => {}
            Self::Filled => put(true).await,
            Self::FilledAndWaiting => {
                put(true).await;
                start().await;
            }
            Self::FilledAndLeased => {
                put(true).await;
                put(false).await;
            }
            Self::Leased => put(false).await,
            Self::Started => start().await,
            Self::Reset => {
                put(false).await;
                start().await;
                drop(keeper.reset().await.unwrap());
            }
        }
    }
}

/// Sees that `keeper` is lost in the time that is right.
async fn lost_in_time(keeper: &Keeper, job: bool, what: Use) {
    let started = tokio::time::Instant::now();
    keeper.closed().await;
    let waited = started.elapsed().as_secs();
    let right = if job { 174..=184 } else { 9..=18 };
    assert!(right.contains(&waited), "{what:?}: {waited} s");
}

#[tokio::test(start_paused = true)]
async fn a_silent_host_is_given_up_soon_and_later_with_a_job_in_the_container() {
    let mute = KeeperOptions { heartbeat: HOURS, silence: NEVER };
    for (what, job) in Use::ALL {
        let (keeper, _incoming, _served) = connect(4096, mute).await;
        what.happen(&keeper).await;
        lost_in_time(&keeper, job, what).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_keeper_that_falls_silent_is_given_up_soon_and_later_with_a_job_in_its_container() {
    for (what, job) in Use::ALL {
        let (near, mut outer) = tokio::io::duplex(4096);
        let (mut inner, far) = tokio::io::duplex(4096);
        let (reader, writer) = tokio::io::split(far);
        let _served = tokio::spawn(serve(Arc::<Harmless>::default(), reader, writer, NEVER));
        let (fall_silent, silent) = tokio::sync::oneshot::channel();
        tokio::spawn(async move {
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut outer, &mut inner) => {}
                _ = silent => std::future::pending().await,
            }
        });
        let options = KeeperOptions::default();
        let (keeper, _incoming, _) = Keeper::connect(Box::new(near), options).await.unwrap();
        what.happen(&keeper).await;
        fall_silent.send(()).unwrap();
        lost_in_time(&keeper, job, what).await;
    }
}

#[tokio::test(start_paused = true)]
async fn heartbeats_keep_an_idle_connection_for_ever() {
    let (keeper, _incoming, _served) = connect(4096, KeeperOptions::default()).await;
    for _ in 0..3600 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(keeper.silent_for() <= Duration::from_secs(7), "{:?}", keeper.silent_for());
    }
    assert_eq!(keeper.lost(), None);
}

#[tokio::test]
async fn a_keeper_of_another_protocol_is_told_by_its_version() {
    let (near, far) = tokio::io::duplex(4096);
    let (reader, writer) = tokio::io::split(far);
    let silence = Arc::new(Silence::new(Duration::from_secs(1)));
    let (_opener, driver) = mux::connect(Side::Keeper, reader, writer, silence);
    tokio::spawn(driver.run(|stream| {
        tokio::spawn(async move {
            let (reader, writer) = tokio::io::split(stream);
            FrameReader::new(reader).next().await.unwrap();
            let hello = Hello { protocol: 99, version: "9.9".to_owned() };
            FrameWriter::new(writer).send_json(Kind::Reply, &hello).await.unwrap();
        });
    }));
    let error = Keeper::connect(Box::new(near), quick()).await.unwrap_err();
    assert_eq!(error, KeeperError::Protocol { keeper: 99, host: PROTOCOL });
}

#[tokio::test]
async fn the_exit_report_of_another_run_is_no_exit() {
    let (near, far) = tokio::io::duplex(4096);
    let (reader, writer) = tokio::io::split(far);
    let silence = Arc::new(Silence::new(Duration::from_secs(1)));
    let (_opener, driver) = mux::connect(Side::Keeper, reader, writer, silence);
    tokio::spawn(driver.run(|stream| {
        tokio::spawn(async move {
            let (reader, writer) = tokio::io::split(stream);
            let (mut reader, mut writer) = (FrameReader::new(reader), FrameWriter::new(writer));
            match reader.next().await.unwrap().unwrap().json().unwrap() {
                Request::Hello { .. } => {
                    let hello = Hello { protocol: PROTOCOL, version: "0".to_owned() };
                    writer.send_json(Kind::Reply, &hello).await.unwrap();
                }
                _ => {
                    let report = ExitReport {
                        nonce: "of another run".to_owned(),
                        code: Some(0),
                        signal: None,
                        out_of_memory: false,
                        disk_full: None,
                        dropped_bytes: 0,
                    };
                    writer.send(Kind::Started, &[]).await.unwrap();
                    writer.send_json(Kind::Reply, &report).await.unwrap();
                }
            }
            // Kept open, since its end would be another error.
            while let Ok(Some(_)) = reader.next().await {}
        });
    }));
    let (keeper, ..) = Keeper::connect(Box::new(near), quick()).await.unwrap();
    let mut program = keeper.spawn(program("true")).await.unwrap();
    let error = program.next().await.unwrap_err();
    assert!(
        matches!(&error, KeeperError::Corrupt(what) if what.contains("another run")),
        "{error}"
    );
    assert!(program.next().await.is_err());
}

#[tokio::test]
async fn garbage_ends_the_connection_with_a_reason() {
    let (near, mut far) = tokio::io::duplex(4096);
    far.write_all(b"bash: codex-keeper: command not found\n").await.unwrap();
    let error = Keeper::connect(Box::new(near), quick()).await.unwrap_err();
    assert!(matches!(error, KeeperError::Lost(_)), "{error}");
}
