//! An engine that is stopped, killed and started again.

use std::path::Path;
use std::time::{Duration, Instant};

use mcp_codex_orchestrator::model::scripted::{Script, Step};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::engine::{SecondEngine, prepare, usable};
use crate::need_engine;
use crate::support::{Options, Server, await_answer, cli_with, requests, tree};

/// How long the pool may take to have a container again when the engine is back: what it waits for
/// before it tries anew, and a start.
const BACK: Duration = Duration::from_secs(20);

/// Says something, changes something, and hangs if it is the first.
fn script() -> Script {
    Script::always(vec![
        Step::run("echo new > new.txt; if [ -e hang ]; then sleep 600; fi"),
        Step::Say("Done.".into()),
    ])
}

fn options(engine: &SecondEngine) -> Options {
    Options::default().set("pool", "min_idle = 1\nmax_size = 2").env("DOCKER_HOST", engine.host())
}

async fn until(engine: &SecondEngine, what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < BACK, "{what}: {:?}", engine.containers());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Stops a server; gives its home.
async fn stopped(mut server: Server) -> TempDir {
    server.close();
    server.ended().await;
    server.home
}

/// No server is there any more, and a `reap` removes what an engine that failed has left.
async fn nothing_left(engine: &SecondEngine, home: &Path) {
    until(engine, "containers are left", || engine.containers().is_empty()).await;
    let left = engine.docker(&["volume", "ls", "-q"]).unwrap();
    println!("{} volumes are left", left.lines().count());
    let reaped = cli_with(home, &["reap"], &[("DOCKER_HOST", &engine.host())]);
    assert!(reaped.status.success(), "{reaped:?}");
    // Nor does it tell of what only the engine's list has.
    assert!(reaped.stdout.starts_with(b"0 removed"), "{reaped:?}");
    assert_eq!(engine.docker(&["volume", "ls", "-q"]).unwrap(), "");
}

/// Ends the engine with `signal` in the middle of a run, and starts it again.
async fn restarted(engine: &mut SecondEngine, signal: Signal) {
    let mut server = Server::start(script(), options(engine)).await;
    server.ready().await;
    server.write("hang", "");
    let before = tree(&server.workspace);
    let (_, answer) = server.begin_call("codex_run", json!({"prompt": "work"})).await;
    requests(&server, 1).await;
    server.stage("Running").await;
    let began = Instant::now();
    engine.end(signal);
    let answer = await_answer(answer, server.home.path()).await;
    println!("{signal:?}: answered {:?} later", began.elapsed());
    let result: &Value = &answer["result"]["structuredContent"];
    assert_eq!(result["error_kind"], "container_lost", "{result}\n{}", server.log());
    assert_eq!(result["retryable"], true, "{result}");
    let error = result["error"].as_str().unwrap();
    assert!(error.contains("the workspace is unchanged, run it again"), "{error}");
    assert_eq!(tree(&server.workspace), before);
    // What Codex had said until then is kept.
    let folder = server.runs().join(result["run_id"].as_str().unwrap());
    let events = std::fs::read_to_string(folder.join("events.jsonl")).unwrap();
    assert!(events.contains("echo new > new.txt"), "{events}");

    if signal == Signal::TERM {
        until(engine, "programs run on", || engine.processes() == 0).await;
    }
    // A call is told at once, not after pool.acquire_timeout.
    let began = Instant::now();
    let refused = server.run("more").await;
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    assert_eq!(refused["error_kind"], "engine_unavailable", "{refused}");
    let status = server.call("codex_pool_status", json!({})).await;
    assert!(status["last_error"].is_string(), "{status}");

    engine.start();
    let began = Instant::now();
    let status = server.ready().await;
    println!("{signal:?}: idle again {:?} after the engine was", began.elapsed());
    assert!(began.elapsed() < BACK, "{:?}", began.elapsed());
    assert_eq!(status["last_error"], Value::Null, "{status}");
    // The engine itself takes its time to be rid of what ended with it.
    let dead = |line: &String| !line.ends_with("running");
    let gone = || !engine.containers().iter().any(dead);
    until(engine, "the dead are there", gone).await;
    println!("{signal:?}: the dead are gone {:?} after the engine was there", began.elapsed());
    std::fs::remove_file(server.workspace.join("hang")).unwrap();
    let result = server.run("again").await;
    assert_eq!(result["success"], true, "{result}\n{}", server.log());
    assert_eq!(server.read("new.txt"), "new\n");
    let home = stopped(server).await;
    nothing_left(engine, home.path()).await;
}

/// The engine and the server are killed; both come again.
async fn both_killed(engine: &mut SecondEngine) {
    let mut server = Server::start(script(), options(engine)).await;
    server.ready().await;
    server.write("hang", "");
    let before = tree(&server.workspace);
    let _answer = server.begin_call("codex_run", json!({"prompt": "work"})).await;
    requests(&server, 1).await;
    engine.end(Signal::KILL);
    server.child.start_kill().unwrap();
    server.child.wait().await.unwrap();
    assert_eq!(tree(&server.workspace), before);
    engine.start();
    let Server { home, workspace, .. } = server;
    let mut next = Server::start_in(script(), options(engine), home, workspace).await;
    next.ready().await;
    // The killed run has no result, which is how a folder tells that it did not finish.
    for run in std::fs::read_dir(next.runs()).unwrap().flatten() {
        assert!(!run.path().join("result.json").exists());
        std::fs::remove_dir_all(run.path()).unwrap();
    }
    let home = stopped(next).await;
    nothing_left(engine, home.path()).await;
}

#[tokio::test]
async fn an_engine_that_goes_and_comes_back_loses_runs_but_no_file_and_the_pool_is_refilled() {
    need_engine!();
    if let Err(reason) = usable() {
        assert!(std::env::var_os("CODEX_TESTS_REQUIRE_ENGINE").is_none(), "{reason}");
        println!("skipped {}: {reason}", module_path!());
        return;
    }
    prepare();
    let mut engine = SecondEngine::up();
    restarted(&mut engine, Signal::TERM).await;
    restarted(&mut engine, Signal::KILL).await;
    both_killed(&mut engine).await;
}
