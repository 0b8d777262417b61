//! SIGKILL of the server at random moments of its life: while it starts and arms a container, leases
//! it, sends, runs, collects, applies, resets.
//!
//! `CODEX_KILLS` is how often (ten without it), `CODEX_KILL_SEED` makes the moments the same again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mcp_codex_orchestrator::model::scripted::{Script, Step};
use serde_json::json;
use tempfile::TempDir;

use crate::need_engine;
use crate::support::{Options, Server, docker, make_workspace, tree};

/// Files that each run writes anew.
const FILES: usize = 60;

/// Longer than a start, a run and a reset take; the moments are within it.
const LIFE: Duration = Duration::from_millis(2500);

/// Containers that run may do so for this long after their server was killed.
const RUNNING: Duration = Duration::from_secs(30);

/// A small generator of numbers (splitmix64), the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % limit
    }
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |value| value.parse().unwrap())
}

/// The files of the user, without what git keeps of its own.
fn files(workspace: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = tree(workspace);
    files.retain(|path, _| !path.starts_with(".git"));
    files
}

/// What a whole run makes of a tree.
fn changed(before: &BTreeMap<PathBuf, Vec<u8>>, round: u64) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut after = before.clone();
    after.retain(|path, _| !path.starts_with("new"));
    for file in 0..FILES {
        after.insert(format!("many/{file}").into(), format!("{round}\n").into());
    }
    after.insert("new".into(), b"directory".to_vec());
    after.insert(format!("new/{round}").into(), format!("{round}\n").into());
    after
}

fn script(round: u64) -> Script {
    let change = format!(
        "for i in $(seq 0 {}); do echo {round} > many/$i; done; find new -delete; mkdir new; echo {round} > new/{round}",
        FILES - 1
    );
    Script::always(vec![Step::run(change), Step::Say("Done.".into())])
}

fn options() -> Options {
    Options::default().set("pool", "min_idle = 1\nmax_size = 2")
}

/// Waits until `done`.
async fn until(limit: Duration, what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < limit, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_server_that_is_killed_at_any_moment_leaves_nothing_behind_and_no_half_change() {
    need_engine!();
    let (kills, seed) = (number("CODEX_KILLS", 10), number("CODEX_KILL_SEED", 20_261_122));
    // What was killed between start and arming runs on for as long as this; the suite has no time.
    let start_timeout = if kills > 10 { "30s" } else { "8s" };
    println!("{kills} kills with CODEX_KILL_SEED={seed}");
    let mut random = Random(seed);
    let mut home = TempDir::new().unwrap();
    let mut workspace = home.path().join("project");
    make_workspace(&workspace);
    std::fs::create_dir(workspace.join("many")).unwrap();
    for file in 0..FILES {
        std::fs::write(workspace.join(format!("many/{file}")), "first\n").unwrap();
    }
    let (mut applied, mut ended) = (0, 0);
    let mut states: BTreeMap<String, usize> = BTreeMap::new();
    for round in 0..kills {
        let before = files(&workspace);
        let victim_options =
            options().set("container", format!("start_timeout = {start_timeout:?}"));
        let mut victim = Server::start_in(script(round), victim_options, home, workspace).await;
        let (_, answer) = victim.begin_call("codex_run", json!({"prompt": "change"})).await;
        let moment = Duration::from_micros(random.below(LIFE.as_micros() as u64));
        tokio::time::sleep(moment).await;
        victim.child.start_kill().unwrap();
        victim.child.wait().await.unwrap();
        if let Ok(answer) = answer.await {
            let result = &answer["result"]["structuredContent"];
            assert_eq!(result["success"], true, "{answer}");
            assert_eq!(result["changes_state"], "applied", "{answer}");
            ended += 1;
        }
        let pid = victim.pid;
        let left = docker::containers_of(pid);
        for line in &left {
            let state = line.split(' ').nth(1).unwrap_or_default().to_owned();
            *states.entry(state).or_default() += 1;
        }
        let volumes = docker::volumes_of(pid);
        let running = |line: &String| line.contains(" running ");
        let told = format!("round {round}, killed after {moment:?}, {left:?}");
        until(RUNNING, &format!("{told}: a container still runs"), || {
            !docker::containers_of(pid).iter().any(running)
        })
        .await;

        // The next start puts the files right and sweeps.
        let Server { home: kept, workspace: place, .. } = victim;
        (home, workspace) = (kept, place);
        let mut next = Server::start_in(Script::builtin(), options(), home, workspace).await;
        let after = changed(&before, round);
        let journals = next.home.path().join("state/mcp-codex-orchestrator/applies");
        let left = || -> Vec<PathBuf> {
            let entries = std::fs::read_dir(&journals).into_iter().flatten();
            entries.map(|entry| entry.unwrap().path()).collect()
        };
        let what = format!("{told}: an apply was not brought to its end: {:?}", left());
        until(RUNNING, &what, || left().is_empty()).await;
        let now = files(&next.workspace);
        assert!(now == before || now == after, "{told}: half a change\n{}", next.log());
        applied += u32::from(now == after);
        until(RUNNING, &format!("{told}: not swept"), || docker::containers_of(pid).is_empty())
            .await;
        // The engine takes a container off its list before it removes the volumes.
        until(RUNNING, &format!("{told}: volumes are left"), || {
            docker::still_there(&volumes).is_empty()
        })
        .await;
        for run in std::fs::read_dir(next.runs()).into_iter().flatten().flatten() {
            std::fs::remove_dir_all(run.path()).unwrap();
        }
        // What a server leaves that is ended while it makes its first container is another question.
        next.ready().await;
        next.close();
        next.ended().await;
        // On a machine that is busy the grace period ends before the engine has removed all.
        until(RUNNING, &format!("{told}: left by the next server"), || {
            docker::containers_of(next.pid).is_empty()
        })
        .await;
        next.check_nothing_left().await;
        let Server { home: kept, workspace: place, .. } = next;
        (home, workspace) = (kept, place);
    }
    println!(
        "{applied} changes were applied, {ended} calls had their answer, killed with {states:?}"
    );
}
