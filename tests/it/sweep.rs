//! Which containers a `reap` and the sweeps of a server remove: those of an owner that is dead for
//! certain, whatever their state, and no others.

use std::time::{Duration, Instant};

use mcp_codex_orchestrator::model::scripted::Script;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::need_engine;
use crate::support::docker::{containers_of, docker, image, still_there};
use crate::support::{Options, PATIENCE, Server, cli};

/// A container that no server made, with a label that one could have written; removed when dropped.
struct Planted {
    id: String,
    volumes: Vec<String>,
}

impl Planted {
    fn make(verb: &[&str], owner: &str, program: &[&str]) -> Self {
        let label = format!("mcp-codex-orchestrator.owner={owner}");
        let image = image();
        let more = ["--network", "none", "-v", "/app", "-v", "/cache", "--label", &label, &image];
        let id = docker(&[verb, &more, program].concat()).unwrap().trim().to_owned();
        let volumes =
            docker(&["inspect", "-f", "{{range .Mounts}}{{.Name}} {{end}}", &id]).unwrap();
        let volumes: Vec<String> = volumes.split_whitespace().map(str::to_owned).collect();
        assert_eq!(volumes.len(), 2);
        Self { id, volumes }
    }

    fn state(&self) -> Option<String> {
        let state = docker(&["inspect", "-f", "{{.State.Status}}", &self.id]).ok()?;
        Some(state.trim().to_owned())
    }

    /// Waits for a state; `None` is gone.
    fn must_become(&self, state: Option<&str>) {
        let began = Instant::now();
        while self.state().as_deref() != state {
            assert!(began.elapsed() < PATIENCE, "{:?} is not {state:?}", self.state());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn must_be_gone(&self) {
        self.must_become(None);
        let began = Instant::now();
        // The engine takes a container off its list before it removes the volumes.
        while !still_there(&self.volumes).is_empty() {
            assert!(began.elapsed() < PATIENCE, "volumes are left");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Planted {
    fn drop(&mut self) {
        let _ = docker(&["rm", "-fv", &self.id]);
    }
}

/// The parts of the owner's label of a living server.
async fn parts(server: &mut Server) -> Vec<String> {
    server.ready().await;
    let line = containers_of(server.pid).remove(0);
    line.split(' ').nth(2).unwrap().split('-').map(str::to_owned).collect()
}

fn reap(home: &std::path::Path) -> Vec<String> {
    let output = cli(home, &["reap", "--json"]);
    assert!(output.status.success(), "{output:?}");
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    told["removed"].as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn containers_of_dead_owners_are_removed_in_every_state_and_no_others() {
    need_engine!();
    let options = Options::default().set("pool", "max_size = 1");
    let mut server = Server::start(Script::builtin(), options).await;
    let parts = parts(&mut server).await;
    let [machine, boot, pid, start, _] = &parts[..] else { panic!("{parts:?}") };
    let zeros = "0".repeat(16);
    let earlier = start.parse::<u64>().unwrap() - 1;
    // The same pid, as another process before it had it; the same boot is another one's.
    let reused = format!("{machine}-{boot}-{pid}-{earlier}-0");
    let before_the_boot = format!("{machine}-{zeros}-{pid}-{start}-0");
    let elsewhere = format!("{zeros}-{boot}-{pid}-{earlier}-0");
    let idle: &[&str] = &["sleep", "600"];
    let dead = [
        Planted::make(&["create"], &reused, idle),
        Planted::make(&["run", "-d"], &reused, idle),
        Planted::make(&["run", "-d"], &before_the_boot, idle),
        Planted::make(&["run", "-d"], &before_the_boot, &["true"]),
        Planted::make(&["create"], &before_the_boot, idle),
    ];
    docker(&["pause", &dead[2].id]).unwrap();
    dead[3].must_become(Some("exited"));
    let living = [
        Planted::make(&["create"], &elsewhere, idle),
        Planted::make(&["create"], "not one of ours", idle),
        Planted::make(&["create"], &parts.join("-"), idle),
    ];
    let mut removed = reap(server.home.path());
    for container in &dead {
        container.must_be_gone();
        removed.retain(|id| !container.id.starts_with(id.as_str()));
    }
    for container in &living {
        assert_eq!(container.state().as_deref(), Some("created"));
        assert!(!removed.iter().any(|id| container.id.starts_with(id.as_str())));
    }
    drop(living);
    server.stop().await;
}

/// A server that is stopped, as a laptop's sleep or a debugger does, is no dead server.
#[tokio::test]
async fn containers_of_a_stopped_server_are_nobody_elses() {
    need_engine!();
    let options = || Options::default().set("pool", "max_size = 1");
    let mut stopped = Server::start(Script::builtin(), options()).await;
    stopped.ready().await;
    let containers = containers_of(stopped.pid);
    let pid = Pid::from_raw(i32::try_from(stopped.pid).unwrap()).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    let home = TempDir::new().unwrap();
    let state = stopped.home.path().join("state").display().to_string();
    let other = options().env("XDG_STATE_HOME", state);
    let workspace = stopped.workspace.clone();
    let mut other = Server::start_in(Script::builtin(), other, home, workspace).await;
    other.ready().await;
    // As a sweep does: two looks, with the same locks.
    reap(stopped.home.path());
    assert_eq!(containers_of(stopped.pid), containers);
    kill_process(pid, Signal::CONT).unwrap();
    let run = stopped.run("demo").await;
    assert_eq!(run["success"], true, "{run}\n{}", stopped.log());
    assert!(containers[0].starts_with(run["container_id"].as_str().unwrap()), "{run}");
    other.stop().await;
    stopped.stop().await;
}

/// One that the engine could not remove whole stays in its list as dead.
#[tokio::test]
async fn a_dead_container_is_removed_once_the_engine_can() {
    need_engine!();
    let options = Options::default().set("pool", "max_size = 1");
    let mut server = Server::start(Script::builtin(), options).await;
    let parts = parts(&mut server).await;
    let owner = format!("{}-{}-{}-1-0", parts[0], "0".repeat(16), parts[2]);
    let planted = Planted::make(&["create"], &owner, &["true"]);
    let upper = docker(&["inspect", "-f", "{{.GraphDriver.Data.UpperDir}}", &planted.id]).unwrap();
    let stuck = std::path::Path::new(upper.trim()).join("stuck");
    let chattr = |flag: &str| {
        let done = std::process::Command::new("chattr").arg(flag).arg(&stuck).output();
        done.is_ok_and(|output| output.status.success())
    };
    // Where the engine keeps its files out of reach of this test, there is nothing to see.
    if std::fs::write(&stuck, "").is_ok() && chattr("+i") {
        assert!(docker(&["rm", "-fv", &planted.id]).is_err());
        planted.must_become(Some("dead"));
        let output = cli(server.home.path(), &["reap"]);
        assert!(!output.status.success(), "{output:?}");
        assert_eq!(planted.state().as_deref(), Some("dead"));
        assert!(chattr("-i"));
    } else {
        println!("left out: the engine's files are out of reach");
    }
    // By this look or by that of another server, whichever comes first.
    reap(server.home.path());
    planted.must_be_gone();
    server.stop().await;
}
