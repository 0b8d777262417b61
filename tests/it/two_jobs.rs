//! Two jobs on one workspace, from one server or from two.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use mcp_codex_orchestrator::model::scripted::{Script, Step};
use mcp_codex_orchestrator::workspace::lock::{self, WorkspaceLock};
use mcp_codex_orchestrator::workspace::root::open_unchecked;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::oneshot;

use crate::need_engine;
use crate::support::{Options, Server, await_answer, docker, requests};

/// Files of the change set that must not be seen half.
const MANY: usize = 500;

/// One server, or two of one user, on one workspace.
struct Servers {
    first: Server,
    second: Option<Server>,
}

impl Servers {
    async fn start(count: usize, script: Script) -> Self {
        Self::start_with(count, script, Options::default()).await
    }

    async fn start_with(count: usize, script: Script, options: Options) -> Self {
        let options = || options.clone().set("pool", "min_idle = 2");
        let mut first = Server::start(script.clone(), options()).await;
        while first.ready().await["idle"] != 2 {}
        let mut second = None;
        if count == 2 {
            let home = TempDir::new().unwrap();
            let state = first.home.path().join("state").display().to_string();
            let options = options().env("XDG_STATE_HOME", state);
            let mut other = Server::start_in(script, options, home, first.workspace.clone()).await;
            other.ready().await;
            second = Some(other);
        }
        Self { first, second }
    }

    /// The one that the second job goes to.
    fn other(&mut self) -> &mut Server {
        self.second.as_mut().unwrap_or(&mut self.first)
    }

    /// Begins one job in the first server, and one in the other.
    async fn begin(&mut self, one: &str, two: &str) -> [oneshot::Receiver<Value>; 2] {
        let (_, one) = self.first.begin_call("codex_run", json!({"prompt": one})).await;
        let (_, two) = self.other().begin_call("codex_run", json!({"prompt": two})).await;
        [one, two]
    }

    async fn result(&self, answer: oneshot::Receiver<Value>) -> Value {
        await_answer(answer, self.first.home.path()).await["result"]["structuredContent"].clone()
    }

    async fn stop(self) {
        if let Some(second) = self.second {
            second.stop().await;
        }
        self.first.stop().await;
    }
}

fn state(server: &Server) -> PathBuf {
    server.home.path().join("state/mcp-codex-orchestrator")
}

/// As a run that applies for long.
fn write_lock(server: &Server) -> WorkspaceLock {
    let workspace = open_unchecked(&server.workspace).unwrap();
    lock::write(&state(server), &workspace, Duration::from_secs(20)).unwrap()
}

/// Writes the same text into all of the many files.
fn write_all(text: &str) -> String {
    format!("for file in many/[ac]*; do echo {text} > $file; done")
}

/// The many files, and one between them that takes so long to read that another run's changes could
/// come before the second half.
fn make_many(server: &Server) {
    std::fs::create_dir(server.workspace.join("many")).unwrap();
    for number in 0..MANY {
        let half = if number < MANY / 2 { "a" } else { "c" };
        server.write(&format!("many/{half}{number}"), "old\n");
    }
    let large = std::fs::File::create(server.workspace.join("many/b-large")).unwrap();
    large.set_len(200 << 20).unwrap();
}

/// A run whose snapshot is taken while another one's change set is applied sees all of it or none.
async fn a_change_set_is_never_seen_half(servers: usize) {
    let mut script = Script::builtin().with(
        "count",
        vec![
            Step::run("cat many/[ac]* | sort | uniq -c > count.txt"),
            Step::Say("Counted.".into()),
        ],
    );
    let rounds = ["red", "green", "blue"];
    for text in rounds {
        script = script.with(text, vec![Step::run(write_all(text)), Step::Say("Done.".into())]);
    }
    // Each run sends everything, which takes its time.
    let whole = Options::default().set("workspace", "warm = false");
    let whole = whole.set("pool", "recycle = \"destroy\"");
    let mut servers = Servers::start_with(servers, script, whole).await;
    make_many(&servers.first);
    for (round, text) in rounds.into_iter().enumerate() {
        let held = json!({"prompt": text, "mode": "suggest"});
        let held = servers.first.call("codex_run", held).await;
        assert_eq!(held["changes_state"], "held", "{held}");
        servers.other().ready().await;
        let apply = json!({"run_id": held["run_id"]});
        let count = json!({"prompt": "count"});
        let (applied, counted);
        if round % 2 == 0 {
            (_, counted) = servers.other().begin_call("codex_run", count).await;
            servers.other().stage("Sending").await;
            (_, applied) = servers.first.begin_call("codex_run_apply", apply).await;
        } else {
            (_, applied) = servers.first.begin_call("codex_run_apply", apply).await;
            (_, counted) = servers.other().begin_call("codex_run", count).await;
        }
        let applied = servers.result(applied).await;
        assert_eq!(applied["changes_state"], "applied", "{applied}");
        let counted = servers.result(counted).await;
        // Nothing is changed where it counts the same as the time before.
        assert_eq!(counted["success"], true, "{counted}");
        assert_eq!(counted["conflicts"], json!([]), "{counted}");
        let seen = servers.first.read("count.txt");
        assert_eq!(seen.lines().count(), 1, "a torn snapshot: {seen}");
        assert!(seen.trim_start().starts_with(&format!("{MANY} ")), "{seen}");
    }
    servers.stop().await;
}

#[tokio::test]
async fn a_change_set_is_never_seen_half_from_one_server() {
    need_engine!();
    a_change_set_is_never_seen_half(1).await;
}

#[tokio::test]
async fn a_change_set_is_never_seen_half_from_two_servers() {
    need_engine!();
    a_change_set_is_never_seen_half(2).await;
}

/// Two jobs that began from the same snapshot.
async fn two_jobs_at_once(count: usize) {
    let steps =
        |command: &str| vec![Step::run(command), Step::Wait(1500), Step::Say("Done.".into())];
    let script = Script::builtin()
        .with("left", steps("echo left > left.txt; echo left >> README.md"))
        .with("right", steps("echo right > right.txt"))
        .with("mine", steps("echo mine > src/lib.rs"))
        .with("yours", steps("echo yours > src/lib.rs"));
    let mut servers = Servers::start(count, script).await;

    // Different files: both are applied.
    let [one, two] = servers.begin("left", "right").await;
    for answer in [one, two] {
        let result = servers.result(answer).await;
        assert_eq!(result["changes_state"], "applied", "{result}\n{}", servers.first.log());
    }
    assert_eq!(servers.first.read("left.txt"), "left\n");
    assert_eq!(servers.first.read("right.txt"), "right\n");
    assert_eq!(servers.first.read("README.md"), "# A project\nleft\n");

    // The same file: one is applied, the other one is a conflict, and both versions are there.
    servers.first.ready().await;
    servers.other().ready().await;
    let [one, two] = servers.begin("mine", "yours").await;
    let results = [servers.result(one).await, servers.result(two).await];
    let (won, lost) = match results[0]["changes_state"].as_str() {
        Some("applied") => (0, 1),
        _ => (1, 0),
    };
    assert_eq!(results[won]["changes_state"], "applied", "{results:?}");
    assert_eq!(results[lost]["changes_state"], "held", "{results:?}");
    assert_eq!(results[lost]["conflicts"][0]["path"], "src/lib.rs", "{results:?}");
    let texts = ["mine\n", "yours\n"];
    assert_eq!(servers.first.read("src/lib.rs"), texts[won]);
    let server = if lost == 0 { &mut servers.first } else { servers.other() };
    let run = server.runs().join(results[lost]["run_id"].as_str().unwrap());
    let archive = std::fs::read(run.join("changes.tar")).unwrap();
    let kept = |text: &str| archive.windows(text.len()).any(|bytes| bytes == text.as_bytes());
    assert!(kept(texts[lost]) && !kept(texts[won]));
    servers.stop().await;
}

#[tokio::test]
async fn two_jobs_at_once_in_one_server() {
    need_engine!();
    two_jobs_at_once(1).await;
}

#[tokio::test]
async fn two_jobs_at_once_in_two_servers() {
    need_engine!();
    two_jobs_at_once(2).await;
}

#[tokio::test]
async fn a_job_waits_for_the_one_that_applies_and_sees_what_it_applied() {
    need_engine!();
    let script = Script::always(vec![Step::run("cp new seen"), Step::Say("Done.".into())]);
    let mut server = Server::start(script, Options::default()).await;
    server.ready().await;
    let other = write_lock(&server);
    let (_, answer) = server.begin_call("codex_run", json!({"prompt": "copy"})).await;
    server.stage("Sending").await;
    // Time enough to send it, if it did not wait.
    tokio::time::sleep(Duration::from_millis(300)).await;
    server.write("new", "applied meanwhile\n");
    drop(other);
    let answer = await_answer(answer, server.home.path()).await;
    let result = &answer["result"]["structuredContent"];
    assert_eq!(result["changes_state"], "applied", "{result}");
    assert_eq!(server.read("seen"), "applied meanwhile\n");
    server.stop().await;
}

#[tokio::test]
async fn a_job_that_waits_too_long_names_the_setting_and_loses_nothing() {
    need_engine!();
    let script = Script::always(vec![
        Step::run("echo new > new.txt"),
        Step::Wait(1000),
        Step::Say("Done.".into()),
    ]);
    let options = Options::default().set("workspace", "lock_timeout = \"300ms\"");
    let mut server = Server::start(script, options).await;
    server.ready().await;
    let other = write_lock(&server);
    let result = server.run("write").await;
    assert_eq!(result["error_kind"], "transfer_failed", "{result}");
    assert!(result["error"].as_str().unwrap().contains("workspace.lock_timeout"), "{result}");
    drop(other);

    server.ready().await;
    let (_, answer) = server.begin_call("codex_run", json!({"prompt": "write"})).await;
    requests(&server, 2).await;
    let other = write_lock(&server);
    let answer = await_answer(answer, server.home.path()).await;
    let result = answer["result"]["structuredContent"].clone();
    assert_eq!(result["error_kind"], "apply_failed", "{result}");
    assert_eq!(result["changes_state"], "held", "{result}");
    assert!(result["error"].as_str().unwrap().contains("workspace.lock_timeout"), "{result}");
    drop(other);
    let applied = server.call("codex_run_apply", json!({"run_id": result["run_id"]})).await;
    assert_eq!(applied["changes_state"], "applied", "{applied}");
    assert_eq!(server.read("new.txt"), "new\n");
    server.stop().await;
}

#[tokio::test]
async fn the_lock_is_held_while_the_workspace_is_read_and_ends_with_its_server() {
    need_engine!();
    // One container, and it is there: none is being made when the server is killed, which only a
    // later sweep would find.
    let options = Options::default().set("pool", "max_size = 1");
    let mut server = Server::start(Script::builtin(), options).await;
    server.ready().await;
    // Takes long to send, and no place on the disk.
    let large = std::fs::File::create(server.workspace.join("large")).unwrap();
    large.set_len(1900 << 20).unwrap();
    let workspace = open_unchecked(&server.workspace).unwrap();
    let (_, _answer) = server.begin_call("codex_run", json!({"prompt": "hello.py"})).await;
    server.stage("Sending").await;
    let began = Instant::now();
    // It takes the lock a moment after it says so.
    while lock::write(&state(&server), &workspace, Duration::ZERO).is_ok() {
        assert!(began.elapsed() < Duration::from_secs(10), "it never took the lock");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for _ in 0..5 {
        lock::write(&state(&server), &workspace, Duration::from_millis(100)).unwrap_err();
    }
    // Another reader may come.
    lock::read(&state(&server), &workspace, Duration::from_secs(1)).unwrap();
    server.child.start_kill().unwrap();
    server.child.wait().await.unwrap();
    lock::write(&state(&server), &workspace, Duration::from_secs(1)).unwrap();
    let began = Instant::now();
    while docker::containers_of(server.pid).iter().any(|line| line.contains("running")) {
        assert!(began.elapsed() < Duration::from_secs(30), "still running");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
