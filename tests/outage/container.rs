//! What happens to a container from outside while a run is in it, and a server that stands still.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use mcp_codex_orchestrator::model::scripted::{Script, Step};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::engine::prepare;
use crate::need_engine;
use crate::support::docker::{containers_of, docker, inspect};
use crate::support::{Options, Server, await_answer, requests, tree};

/// Far less than the silence after which a leased container counts as lost (180 s), and than the
/// timeout of a run.
const SOON: Duration = Duration::from_secs(30);

/// A minute, which is also longer than an idle container may be silent (15 s).
const STILL: Duration = Duration::from_secs(62);

/// The container of the run that goes on, and the server.
async fn running(script: Script) -> (Server, String, tokio::sync::oneshot::Receiver<Value>) {
    let options = Options::default().set("pool", "min_idle = 1\nmax_size = 1");
    let mut server = Server::start(script, options).await;
    server.ready().await;
    let (_, answer) = server.begin_call("codex_run", json!({"prompt": "work"})).await;
    requests(&server, 1).await;
    server.stage("Running").await;
    let of = containers_of(server.pid).remove(0);
    (server, of.split(' ').next().unwrap().to_owned(), answer)
}

#[tokio::test]
async fn a_container_that_is_ended_paused_or_removed_from_outside_loses_its_run_and_no_file() {
    need_engine!();
    prepare();
    for (verb, said) in [
        (&["kill"][..], "ended or was stopped from outside"),
        (&["stop", "-t", "0"], "ended or was stopped from outside"),
        (&["rm", "-f"], "from outside"),
        (&["pause"], "was paused from outside"),
    ] {
        let script = Script::always(vec![
            Step::run("echo new > new.txt; sleep 600"),
            Step::Say("never".into()),
        ]);
        let (mut server, container, answer) = running(script).await;
        let before = tree(&server.workspace);
        let began = Instant::now();
        docker(&[verb, &[container.as_str()]].concat()).unwrap();
        let answer = await_answer(answer, server.home.path()).await;
        assert!(began.elapsed() < SOON, "{verb:?}: {:?}", began.elapsed());
        let result = &answer["result"]["structuredContent"];
        assert_eq!(result["error_kind"], "container_lost", "{verb:?}: {result}");
        assert_eq!(result["status"], "failed", "{verb:?}: {result}");
        assert_eq!(result["retryable"], true, "{verb:?}: {result}");
        assert_eq!(result["changes_state"], "none", "{verb:?}: {result}");
        let error = result["error"].as_str().unwrap();
        assert!(error.contains(said), "{verb:?}: {error}");
        assert!(error.ends_with("the workspace is unchanged, run it again"), "{error}");
        assert_eq!(tree(&server.workspace), before, "{verb:?}");
        let folder = server.runs().join(result["run_id"].as_str().unwrap());
        let events = std::fs::read_to_string(folder.join("events.jsonl")).unwrap();
        assert!(events.contains("echo new > new.txt"), "{verb:?}: {events}");
        // Its place is free again without a new call, and what was in it is gone.
        let status = server.ready().await;
        assert_eq!(status["destroyed"]["lost"], 1, "{verb:?}: {status}");
        let left = containers_of(server.pid);
        assert!(left.len() == 1 && !left[0].starts_with(&container), "{verb:?}: {left:?}");
        server.stop().await;
    }
}

/// The switch that freezes a container's processes, and the words for on and off; none if this user
/// may not or this kernel has none.
fn freezer(container: &str) -> Option<(PathBuf, [&'static str; 2])> {
    let pid = inspect(container, "{{.State.Pid}}");
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let path = |prefix: &str, line: &str| {
        let group = line.split(':').nth(2)?;
        Some(PathBuf::from(format!("{prefix}{group}")))
    };
    let of = |controller: &str| groups.lines().find(|line| line.contains(controller));
    let found = match of(":freezer:") {
        Some(line) => {
            (path("/sys/fs/cgroup/freezer", line)?.join("freezer.state"), ["FROZEN", "THAWED"])
        }
        None => (path("/sys/fs/cgroup", of("0::")?)?.join("cgroup.freeze"), ["1", "0"]),
    };
    std::fs::OpenOptions::new().write(true).open(&found.0).ok().map(|_| found)
}

/// The run ends well, in the container that it began in, which is as good as before.
async fn survives(
    mut server: Server,
    container: &str,
    answer: tokio::sync::oneshot::Receiver<Value>,
) {
    let answer = await_answer(answer, server.home.path()).await;
    let result = &answer["result"]["structuredContent"];
    assert_eq!(result["success"], true, "{result}\n{}", server.log());
    assert_eq!(result["container_id"], container, "{result}");
    assert_eq!(result["changes_state"], "applied", "{result}");
    assert_eq!(server.read("new.txt"), "new\n");
    let status = server.ready().await;
    assert_eq!(status["destroyed"], json!({}), "{status}");
    assert!(containers_of(server.pid)[0].starts_with(container));
    server.stop().await;
}

/// A command during which the server stands still, and what the model answers to it afterwards.
fn script(seconds: u64) -> Script {
    let command = format!("sleep {seconds}; echo new > new.txt");
    Script::always(vec![Step::run(command), Step::Say("Done.".into())])
}

#[tokio::test]
async fn a_server_that_stood_still_for_a_minute_finds_its_run_alive() {
    need_engine!();
    prepare();
    // Its end is told while nobody listens, and the model is asked once somebody does.
    let (server, container, answer) = running(script(STILL.as_secs() / 2)).await;
    let pid = Pid::from_raw(server.pid.cast_signed()).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    tokio::time::sleep(STILL).await;
    assert_eq!(server.model.as_ref().unwrap().requests().len(), 1);
    kill_process(pid, Signal::CONT).unwrap();
    survives(server, &container, answer).await;
}

#[tokio::test]
async fn a_server_and_its_container_that_are_frozen_together_for_a_minute_go_on_together() {
    need_engine!();
    prepare();
    let (server, container, answer) = running(script(2)).await;
    let Some((switch, [on, off])) = freezer(&container) else {
        assert!(std::env::var_os("CODEX_TESTS_REQUIRE_ENGINE").is_none(), "no freezer");
        println!("skipped: the processes of a container cannot be frozen by this user");
        return;
    };
    let pid = Pid::from_raw(server.pid.cast_signed()).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    std::fs::write(&switch, on).unwrap();
    tokio::time::sleep(STILL).await;
    assert_eq!(server.model.as_ref().unwrap().requests().len(), 1);
    std::fs::write(&switch, off).unwrap();
    kill_process(pid, Signal::CONT).unwrap();
    survives(server, &container, answer).await;
}
