//! Attempts from inside: what a prompt injection can make Codex run, and what comes back.
//!
//! Each attempt is a few lines of Python that the real Codex runs as uid 1000 in a container that a
//! real server has leased; only the model is scripted. It ends in a verdict: the error that the
//! kernel gave, or what the lines return. After each group an ordinary run in the same pool must
//! give what it gives on a server where nothing was attempted: the same result, and the same
//! portrait of its container, drawn from inside.

mod exhaustion;
mod files;
mod gateway;
mod keeper;
mod kernel;
mod marker;
mod neighbours;
mod network;
mod slow;

use std::collections::BTreeMap;

use mcp_codex_orchestrator::model::scripted::{Script, Step};
use serde_json::Value;

use crate::support::{Options, PATIENCE, Server, docker, git};

/// What the lines of an attempt may use.
const PRELUDE: &str = include_str!("attempts/prelude.py");

/// Draws the container as a run finds it.
const PORTRAIT: &str = include_str!("attempts/portrait.py");

/// Where the verdicts of a group are, in the workspace.
const VERDICTS: &str = "verdicts.txt";

/// The attempts that a Python file makes: what each goes for, and how a verdict that is right
/// begins, of which there may be several with `|` between them. Of the verdicts of several tries
/// what went through comes first.
fn table(attempts: &'static str) -> Vec<(&'static str, &'static str)> {
    let heads = attempts.lines().filter(|line| line.starts_with("@attempt("));
    let words = |line: &'static str| line.split('"').skip(1).step_by(2).collect::<Vec<_>>();
    let table: Vec<_> = heads.map(|line| (words(line)[0], words(line)[1])).collect();
    assert_eq!(table.len(), attempts.matches("@attempt").count());
    table
}

/// The command that makes all attempts one after the other. `given` is Python that runs first.
pub(super) fn command(attempts: &str, given: &str) -> String {
    in_python(&format!("{PRELUDE}\n{given}\n{attempts}"), VERDICTS)
}

/// A shell command that runs `program`; what it prints goes to `output`.
pub(super) fn in_python(program: &str, output: &str) -> String {
    format!("python3 - > {output} 2>&1 <<'PY'\n{program}\nPY")
}

/// The settings of all servers here: one container, so that the next run gets what the attempts
/// left, and limits that are soon reached.
pub(super) fn options() -> Options {
    Options::default()
        .set("pool", "max_size = 1")
        .set("container", "memory = \"512MiB\"\npids = 256")
        .set("run", "min_timeout = \"1s\"")
        .set("server", "shutdown_grace = \"20s\"")
        .set("runs", "log_limit = \"1MiB\"")
        .set("model", "request_limit = \"1MiB\"")
}

/// A script that makes attempts, and does ordinary work for the prompt that asks for it.
pub(super) fn script(attempts: Vec<Step>) -> Script {
    let ordinary = vec![
        Step::run(in_python(PORTRAIT, "portrait.txt")),
        Step::write("src/new.rs", "pub fn two() -> u32 { 2 }\n"),
        Step::run("rm README.md; git add -A; git -c core.safecrlf=false diff --cached --stat"),
        Step::Say("Ordinary work is done.".into()),
    ];
    Script::always(attempts)
        .with("ordinary", ordinary)
        .with("FLOOD", vec![Step::Flood(2 << 20)])
        .keeping_bodies()
}

/// What an ordinary run gave.
#[derive(Debug, PartialEq)]
pub(super) struct Ordinary {
    /// The result without what differs by nature: ids and times.
    result: Value,
    /// The container as the run found it.
    portrait: String,
}

/// An ordinary run, and the container it had. The workspace is put back.
pub(super) async fn ordinary(server: &mut Server) -> (Ordinary, String) {
    let mut result = server.run("Some ordinary work").await;
    assert_eq!(result["status"], "completed", "{result}\n{}", server.log());
    let container = result["container_id"].as_str().unwrap().to_owned();
    for different in [
        "run_id",
        "container_id",
        "execution_time_ms",
        "timings_ms",
        "warm",
        "cold_reason",
        // A container that was destroyed had all of it; one that was reset has it still.
        "sent",
    ] {
        result.as_object_mut().unwrap().remove(different);
    }
    // The path of the workspace leads to it inside.
    let home = server.home.path().display().to_string();
    let portrait = server.read("portrait.txt").replace(&home, "/tmp/HOME");
    assert!(portrait.ends_with("whole\n"), "{portrait}");
    restore(server);
    (Ordinary { result, portrait }, container)
}

/// What an ordinary run gives on a server on which nothing was attempted.
pub(super) async fn undisturbed(options: Options) -> Ordinary {
    let mut server = Server::start(script(Vec::new()), options).await;
    server.ready().await;
    let (ordinary, _) = ordinary(&mut server).await;
    stop(server).await;
    ordinary
}

/// What became of the container in which attempts were made.
#[derive(Clone, Copy, Debug)]
pub(super) enum Then {
    /// It was reset, proved to be as it was when it was armed, and is used again.
    Reset,
    /// It was destroyed for this reason.
    Destroyed(&'static str),
}

/// Checks what an ordinary run gives after `attacked`, a run with attempts: the same as without.
pub(super) async fn next_is_as_ever(
    server: &mut Server,
    attacked: &Value,
    then: Then,
    as_ever: &Ordinary,
) {
    let status = server.ready().await;
    let (next, container) = ordinary(server).await;
    let before = attacked["container_id"].as_str().unwrap();
    match then {
        Then::Reset => {
            assert_eq!(status["destroyed"], serde_json::json!({}), "{status}\n{}", server.log());
            assert_eq!(container, before);
        }
        Then::Destroyed(reason) => {
            assert_eq!(status["destroyed"][reason], 1, "{status}\n{}", server.log());
            assert_ne!(container, before);
        }
    }
    for (is, ever) in next.portrait.lines().zip(as_ever.portrait.lines()) {
        assert_eq!(is, ever);
    }
    assert_eq!(&next, as_ever);
}

/// Stops a server; then nothing of it may be left. The engine may take its time to remove what it
/// was told to remove, which is not what is tested here.
pub(super) async fn stop(mut server: Server) {
    server.close();
    server.ended().await;
    let told = |left: &[String]| left.iter().all(|line| line.contains(" removing "));
    let began = std::time::Instant::now();
    loop {
        let left = docker::containers_of(server.pid);
        if left.is_empty() || !told(&left) || began.elapsed() > PATIENCE {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    server.check_nothing_left().await;
}

/// Puts the workspace back to its one commit.
pub(super) fn restore(server: &Server) {
    git(&server.workspace, &["reset", "-q", "--hard"]);
    git(&server.workspace, &["clean", "-q", "-ffdx"]);
}

/// Compares verdicts in the workspace with what they must be, all of them before it fails.
pub(super) fn check(server: &Server, attempts: &'static str) {
    let text = server.read(VERDICTS);
    let verdicts: BTreeMap<&str, &str> =
        text.lines().filter_map(|line| line.split_once('\t')).collect();
    let mut wrong = Vec::new();
    let table = table(attempts);
    for (name, must) in &table {
        match verdicts.get(name) {
            Some(verdict) if must.split('|').any(|must| verdict.starts_with(must)) => {}
            Some(verdict) => wrong.push(format!("{name}: {verdict}; must be {must}")),
            None => wrong.push(format!("{name}: no verdict")),
        }
    }
    assert!(wrong.is_empty(), "{}\n{text}", wrong.join("\n"));
}

/// A whole group: the attempts in one run, their verdicts, and then an ordinary run.
pub(super) async fn group(attempts: &'static str, given: &str) {
    let mut server = attempted(attempts, given).await;
    finish(&mut server, attempts).await;
    stop(server).await;
}

/// A server whose model makes the attempts when it is asked for anything but ordinary work.
pub(super) async fn attempted(attempts: &'static str, given: &str) -> Server {
    let steps = vec![Step::run(command(attempts, given)), Step::Say("Tried.".into())];
    let mut server = Server::start(script(steps), options()).await;
    server.ready().await;
    server
}

/// Makes the attempts and checks what comes of them and after them. Gives the result of the run.
pub(super) async fn finish(server: &mut Server, attempts: &'static str) -> Value {
    let (attacked, as_ever) = tokio::join!(server.run("Try it"), undisturbed(options()));
    assert_eq!(attacked["status"], "completed", "{attacked}\n{}", server.log());
    check(server, attempts);
    restore(server);
    next_is_as_ever(server, &attacked, Then::Reset, &as_ever).await;
    attacked
}
