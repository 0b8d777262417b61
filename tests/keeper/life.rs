//! What a keeper does in its life: a job, a reset, faults, its end; and how fast.

use std::process::Stdio;
use std::time::{Duration, Instant};

use mcp_codex_orchestrator::keeper::client::{Keeper, KeeperError, ProgramEvent};
use mcp_codex_orchestrator::keeper::wire::{Limit, PutRequest, SpawnRequest};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use crate::harness::{
    Contained, Failure, engine_is_there, entries, find, header, image, keeper_binary, request,
    start, tree,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_job_goes_through_and_a_reset_restores_the_fingerprint() -> Result<(), Failure> {
    if !engine_is_there() {
        return Ok(());
    }
    let container = start(&[]).await;
    let armed = container.arm().await;
    let posture = &armed.posture;
    assert!(posture.no_new_privileges && posture.read_only_root && posture.seccomp == 2);
    assert_eq!(posture.interfaces, ["lo"]);
    assert_eq!(posture.memory, Limit::At(512 << 20));
    assert_eq!(posture.pids, Limit::At(256));
    println!("{armed:#?}");

    let mut tar = tar::Builder::new(Vec::new());
    let files: [(&str, u32, &[u8]); 6] = [
        ("same", 0o644, b"same"),
        ("edited", 0o644, b"old"),
        ("mode", 0o644, b"#!/bin/sh\n"),
        ("gone/file", 0o644, b"x"),
        (".gitignore", 0o644, b"target/\n"),
        (".git/HEAD", 0o644, b"ref: refs/heads/main\n"),
    ];
    for (path, mode, bytes) in files {
        let mut header = header(tar::EntryType::Regular, mode, bytes.len());
        tar.append_data(&mut header, path, bytes)?;
    }
    tar.append_data(&mut header(tar::EntryType::Directory, 0o755, 0), "empty", std::io::empty())?;
    tar.append_link(&mut header(tar::EntryType::Symlink, 0o777, 0), "link", "./a//b")?;
    let report = container.put(tar.into_inner()?).await?;
    assert_eq!(report.entries, 6 + 2 + 2);

    // Nothing ran: nothing changed.
    let (report, tar) = container.collect().await?;
    assert_eq!((report.entries, report.deleted), (0, 0), "{:?}", entries(&tar));

    let (exit, out, err) = container
        .run_with(
            "id -u; id -g; id -G; cat; echo oops >&2; cat same >/dev/null; echo new > edited; chmod +x mode;
             rm -r gone; mkdir -p d/e target; echo x > target/o; ln same hard; mkfifo fifo;
             ln -s /etc/passwd out; printf x > $'odd\\377'; echo changed > .git/HEAD;
             mkdir -p sub/.git; echo x > sub/.git/config; exit 7",
            "from stdin",
        )
        .await?;
    assert_eq!((exit.code, exit.signal, exit.nonce.as_str()), (Some(7), None, "nonce-1"));
    assert_eq!(out, "1000\n1000\n1000\nfrom stdin");
    assert_eq!(err, "oops\n");
    assert!(!exit.out_of_memory);

    let ended = container.keeper().end().await?;
    assert_eq!(ended.left, 0);
    let (report, tar) = container.collect().await?;
    let found = entries(&tar);
    println!("{report:?}");
    assert_eq!(find(&found, "tree/edited").unwrap().2, b"new\n");
    assert_eq!(find(&found, "tree/hard").unwrap().2, b"same");
    assert_eq!(find(&found, "tree/hard").unwrap().1, tar::EntryType::Regular);
    assert_eq!(find(&found, "tree/out").unwrap().2, b"/etc/passwd");
    assert_eq!(find(&found, "tree/fifo").unwrap().1, tar::EntryType::Fifo);
    assert!(found.iter().any(|(path, ..)| path == b"tree/odd\xff"));
    for path in ["tree/mode", "tree/d", "tree/d/e", "tree/sub/.git"] {
        assert!(find(&found, path).is_some(), "{path}");
    }
    for path in ["tree/link", "tree/empty", "tree/target", "tree/.git/HEAD", "tree/sub/.git/config"]
    {
        assert!(find(&found, path).is_none(), "{path}");
    }
    let (path, _, deleted) = found.last().unwrap();
    assert_eq!((&path[..], &deleted[..]), (&b"meta/deleted"[..], &b"gone\0gone/file\0"[..]));
    assert_eq!(report.deleted, 2);
    assert_eq!(report.entries as usize, found.len() - 1);
    assert_eq!(report.ignored.len(), 1);
    assert_eq!((report.ignored[0].path.as_str(), report.ignored[0].bytes), ("target/", 2));

    let started = Instant::now();
    let fingerprint = container.keeper().reset().await?;
    println!("reset: {:?}", started.elapsed());
    assert_eq!(fingerprint, armed.fingerprint);
    assert!(container.put(tree(&[("a", b"b")])).await.is_ok());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_run_leaves_behind_is_gone_after_a_reset() -> Result<(), Failure> {
    if !engine_is_there() {
        return Ok(());
    }
    let container = start(&[]).await;
    let armed = container.arm().await;
    container.put(tree(&[("a", b"b")])).await?;
    let script = r#"
        for p in /app /tmp /home/codex /home/codex/.codex /var/tmp /dev/shm /cache; do
            mkdir -p $p/planted/closed; echo x > $p/planted/closed/f; chmod 000 $p/planted/closed
        done
        chmod 000 /home/codex
        setsid sh -c 'trap "" TERM HUP; while :; do echo x > /tmp/again; sleep 0.01; done' >/dev/null 2>&1 &
        python3 - <<'PY'
import ctypes
libc = ctypes.CDLL(None)
assert libc.shmget(4242, 4096, 0o1666) >= 0
assert libc.semget(4243, 1, 0o1666) >= 0
assert libc.msgget(4244, 0o1666) >= 0
fd = libc.mq_open(b'/planted', 0o102, 0o666, None)
print('mq', fd)
PY
    "#;
    let (exit, out, err) = container.run(script).await;
    assert_eq!(exit.code, Some(0), "{out}{err}");
    assert!(out.contains("mq 3"), "{out}");
    assert!(matches!(
        container.collect().await,
        Err(KeeperError::Refused(sentence)) if sentence.contains("running")
    ));
    let ended = container.keeper().end().await?;
    assert_eq!(ended.left, 0);
    println!("{ended:?}");
    let fingerprint = container.keeper().reset().await?;
    assert_eq!(fingerprint, armed.fingerprint);
    // The template is back, and nothing else is there.
    let (_, out, _) = container
        .run(
            "diff -r /opt/codex/home-template /home/codex/.codex; \
             find /app /tmp /home/codex /var/tmp /dev/shm /dev/mqueue /cache -mindepth 1 \
             -not -path '/home/codex/.codex*'",
        )
        .await;
    assert_eq!(out, "");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_container_is_gone_when_the_exec_client_is_killed() -> Result<(), Failure> {
    if !engine_is_there() {
        return Ok(());
    }
    let mut container = start(&[]).await;
    container.arm().await;
    let program = container.keeper().spawn(request("sleep 1000", "")).await?;
    let mut exec = container.exec.take().unwrap();
    exec.start_kill()?;
    exec.wait().await?;
    assert!(container.gone_within(Duration::from_secs(30)).await);
    drop(program);
    assert!(container.keeper().closed().await.contains("end"));
    assert!(matches!(container.keeper().end().await, Err(KeeperError::Lost(_))));

    let mut container = start(&[]).await;
    let started = Instant::now();
    container.keeper = None;
    container.exec.take().unwrap().wait().await?;
    assert!(container.gone_within(Duration::from_secs(30)).await);
    println!("gone after {:?}", started.elapsed());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gigabyte_of_output_and_a_host_that_does_not_read() -> Result<(), Failure> {
    if !engine_is_there() {
        return Ok(());
    }
    let container = start(&[]).await;
    container.arm().await;
    println!("round trip {:?}", round_trip(container.keeper()).await?);
    println!("keeper idle: {}", anonymous(&container).await);
    let mut program = container.keeper().spawn(request("head -c 1073741824 /dev/zero", "")).await?;
    // While nobody reads, the program waits and everything else goes on.
    tokio::time::sleep(Duration::from_millis(300)).await;
    println!("round trip beside it {:?}", round_trip(container.keeper()).await?);
    let started = Instant::now();
    let mut bytes = 0;
    let report = loop {
        match program.next().await? {
            ProgramEvent::Stdout(chunk) => bytes += chunk.len(),
            ProgramEvent::Stderr(_) => {}
            ProgramEvent::Exited(report) => break report,
        }
    };
    assert_eq!((bytes, report.dropped_bytes, report.code), (1 << 30, 0, Some(0)));
    let seconds = started.elapsed().as_secs_f64();
    println!("output: {:.0} MB/s", 1073.7 / seconds);
    println!("keeper after 1 GiB: {}", anonymous(&container).await);
    // A program that is dropped is killed, and the connection lives on.
    let program = container.keeper().spawn(request("yes", "")).await?;
    drop(program);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let (_, out, _) = container.run("grep -l '^yes$' /proc/[0-9]*/comm; true").await;
    assert_eq!(out, "");
    Ok(())
}

async fn round_trip(keeper: &Keeper) -> Result<Duration, KeeperError> {
    let mut all = Vec::new();
    for _ in 0..200 {
        all.push(keeper.round_trip().await?);
    }
    all.sort();
    Ok(all[all.len() / 2])
}

/// What the keeper and init hold in anonymous memory.
pub(crate) async fn anonymous(container: &Contained) -> String {
    let script = "grep -h -e ^Name -e ^RssAnon $(grep -ls codex-keeper /proc/[0-9]*/status)";
    let output = Command::new("docker")
        .args(["exec", &container.name, "bash", "-c", script])
        .output()
        .await
        .unwrap();
    String::from_utf8_lossy(&output.stdout).split_whitespace().collect::<Vec<_>>().join(" ")
}

#[tokio::test(flavor = "multi_thread")]
async fn throughput_of_large_and_of_many_files() -> Result<(), Failure> {
    if !engine_is_there() {
        return Ok(());
    }
    let container = start(&[]).await;
    container.arm().await;
    let large = vec![7_u8; 64 << 20];
    let files: Vec<String> = (0..4).map(|i| format!("large-{i}")).collect();
    let files: Vec<(&str, &[u8])> = files.iter().map(|path| (&path[..], &large[..])).collect();
    let tar = tree(&files);
    let started = Instant::now();
    let report = container.put(tar).await?;
    let seconds = started.elapsed().as_secs_f64();
    println!("put: {:.0} MB/s", report.bytes as f64 / 1e6 / seconds);
    container.run("for f in large-*; do cat $f > x; mv x $f; done").await;
    container.keeper().end().await?;
    let started = Instant::now();
    let (report, _) = container.collect().await?;
    assert_eq!((report.entries, report.bytes), (4, 256 << 20));
    let seconds = started.elapsed().as_secs_f64();
    println!("collect: {:.0} MB/s", report.bytes as f64 / 1e6 / seconds);
    println!("reset: {:?}", container.keeper().reset().await.map(|_| ())?);

    let files: Vec<String> = (0..10_000).map(|i| format!("d{}/f{i}", i / 100)).collect();
    let files: Vec<(&str, &[u8])> = files.iter().map(|path| (&path[..], &large[..1024])).collect();
    let tar = tree(&files);
    let started = Instant::now();
    container.put(tar).await?;
    println!("put 10,000 files: {:?}", started.elapsed());
    println!("keeper with 10,000 files: {}", anonymous(&container).await);
    container.run("true").await;
    container.keeper().end().await?;
    let started = Instant::now();
    let (report, _) = container.collect().await?;
    println!("collect 10,000 unchanged: {:?}", started.elapsed());
    assert_eq!((report.entries, report.deleted), (0, 0));
    container.run("for f in d*/*; do echo x > $f; done").await;
    container.keeper().end().await?;
    let started = Instant::now();
    let (report, _) = container.collect().await?;
    println!("collect 10,000 changed: {:?}", started.elapsed());
    assert_eq!(report.entries, 10_000);
    let started = Instant::now();
    container.keeper().reset().await?;
    println!("reset of 10,000 files: {:?}", started.elapsed());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_are_told_by_name() -> Result<(), Failure> {
    if !engine_is_there() {
        return Ok(());
    }
    let mut container = start(&[]).await;
    let armed = container.arm().await;
    // Out of memory: the program is the victim and not the keeper.
    let (exit, ..) = container.run("python3 -c 'x = bytearray(2**30); print(len(x))'").await;
    assert!(exit.out_of_memory, "{exit:?}");
    // A full place ends the run.
    let (exit, ..) = container.run("head -c 40000000 /dev/zero > /tmp/fill; sleep 100").await;
    assert_eq!(exit.disk_full.as_deref(), Some("/tmp"), "{exit:?}");
    container.keeper().reset().await?;
    // At the process limit, end still works.
    let mut program =
        container.keeper().spawn(request("while :; do sleep 1000 & done 2>/dev/null", "")).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let ended = container.keeper().end().await?;
    println!("{ended:?}");
    assert_eq!(ended.left, 0);
    while !matches!(program.next().await?, ProgramEvent::Exited(_)) {}
    assert_eq!(container.keeper().reset().await?, armed.fingerprint);
    // A put that is dropped midway: nothing is spawned until a reset.
    let mut put = container.keeper().put(PutRequest::default()).await?;
    put.write_all(&tree(&[("a", b"b")])[..700]).await?;
    put.flush().await?;
    drop(put);
    let refused = container.run_with("true", "").await.unwrap_err();
    assert!(matches!(&refused, KeeperError::Refused(s) if s.contains("reset")), "{refused}");
    assert_eq!(container.keeper().reset().await?, armed.fingerprint);
    // What cannot be put is refused with a sentence, while more of it is still being sent.
    let mut tar = tree(&[("a", b"b"), ("a/b", b"b")]);
    tar.extend(vec![0; 4 << 20]);
    let refused = container.put(tar).await.unwrap_err();
    assert!(
        matches!(&refused, KeeperError::Refused(s) if s.contains("directory of a/b")),
        "{refused}"
    );
    container.keeper().reset().await?;
    // What is too large is not collected.
    container.run("truncate -s 100G sparse").await;
    container.keeper().end().await?;
    let refused = container.collect().await.unwrap_err();
    assert!(matches!(&refused, KeeperError::Refused(s) if s.contains("sparse")), "{refused}");
    let no_such = container
        .keeper()
        .spawn(SpawnRequest { argv: vec!["/no/such".to_owned()], ..request("", "") });
    assert!(matches!(no_such.await, Err(KeeperError::Refused(_))));
    // A connection to the forwarded port comes out here.
    let keeper = container.keeper().clone();
    let mut program = keeper
        .spawn(request("exec 3<>/dev/tcp/127.0.0.1/8787; echo hello >&3; cat <&3", ""))
        .await?;
    let mut connection = container.incoming.accept().await.unwrap();
    assert_eq!(connection.port(), 8787);
    let mut line = [0; 6];
    connection.read_exact(&mut line).await?;
    assert_eq!(&line, b"hello\n");
    connection.write_all(b"world").await?;
    connection.shutdown().await?;
    assert_eq!(program.next().await?, ProgramEvent::Stdout(b"world".to_vec()));
    assert!(matches!(program.next().await?, ProgramEvent::Exited(_)));
    // A second keeper is refused.
    let second = Command::new("docker")
        .args(["exec", "-i", "-u", "0", &container.name, "/usr/local/bin/codex-keeper", "serve"])
        .stdin(Stdio::null())
        .output()
        .await?;
    assert_eq!(second.status.code(), Some(3), "{second:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_without_a_keeper_ends_after_its_start_timeout() -> Result<(), Failure> {
    if !engine_is_there() {
        return Ok(());
    }
    let mount = format!("{}:/usr/local/bin/codex-keeper:ro", keeper_binary().display());
    let started = Instant::now();
    let output = Command::new("docker")
        .args(["run", "--rm", "--network", "none", "-v", &mount, &image()])
        .args(["/usr/local/bin/codex-keeper", "init", "1"])
        .output()
        .await?;
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(started.elapsed() < Duration::from_secs(10));
    let sentence = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(sentence.contains("no keeper came within 1 s"), "{sentence}");
    Ok(())
}
