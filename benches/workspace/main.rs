//! Workspaces on their way into a container and back, of 100, 10,000 and 100,000 small files, of 2 GiB
//! in few files, and of a real source tree; and a repository of 200,000 files through the whole server.
//!
//! All ways take turns in one run: ours (pool, keeper, `workspace::send` and `receive`), a raw stream
//! of the same engine that makes no files, `tar` through `docker exec`, the engine's archive calls, and
//! `rsync` between the host's disk and the container's volume, where it is installed and the volume can
//! be reached (it crosses no boundary, and goes by size and time).
//!
//! `BENCH_ROUNDS` sets the rounds of the small trees (6; the large ones have a third of it, at least
//! one), `BENCH_TREES` which trees (`100,10000,real,100000,large,monorepo`). It exits with 1 if a target
//! is missed. Everything in the engine is removed at the end, also after a failure or Ctrl-C.

#[allow(dead_code, reason = "shared with what uses other parts of it")]
#[path = "../../src/cli/demo/client.rs"]
mod client;
#[allow(dead_code, reason = "shared with what uses other parts of it")]
#[path = "../common/docker.rs"]
mod docker;
#[allow(dead_code, reason = "shared with what uses other parts of it")]
#[path = "../common/figures.rs"]
mod figures;
#[allow(dead_code, reason = "shared with what uses other parts of it")]
#[path = "../pool/ground.rs"]
mod ground;
#[path = "../common/large.rs"]
mod large;
mod monorepo;
mod ours;
#[allow(dead_code, reason = "shared with what uses other parts of it")]
#[path = "../common/place.rs"]
mod place;
mod rivals;
mod tree;
mod turns;

use std::process::ExitCode;

use docker::Failed;
use figures::{gate, say};
use ground::Ground;
use rivals::Rivals;
use turns::{COLLECT_ALL, RAW_IN, RAW_OUT, SEND, Turns, collect_of, send_of};

/// What a container may take in this benchmark: the usual `container.memory`, in bytes.
const MEMORY: u64 = 4 << 30;

/// What a whole send or collect of large files may take of a raw stream's time.
const OF_RAW: f64 = 2.0;
/// What 10,000 small files may take, whole, in milliseconds.
const WHOLE_10_000: f64 = 1_000.0;
/// What it may take to send and to collect so many files of which none changed, in milliseconds.
const UNCHANGED_10_000: f64 = 60.0;
/// See [`UNCHANGED_10_000`].
const UNCHANGED_100_000: f64 = 500.0;
/// What sending all files on a tree that is there may take of sending them where nothing is.
const DELTA_OF_WHOLE: f64 = 1.1;

fn main() -> ExitCode {
    if let Some(path) = monorepo::asked_for_manifest() {
        return monorepo::manifest(&path);
    }
    figures::run(whole())
}

/// Measures and, whatever comes of it, clears away.
async fn whole() -> Result<bool, Failed> {
    let mut ground = Ground::prepare()?;
    ground.memory = MEMORY;
    let mut rivals = Rivals::start().await?;
    let outcome = figures::unless_ended(measure(&ground, &mut rivals)).await;
    let removed = rivals.end().await;
    ground.clear(&monorepo::owners(&ground)).await?;
    removed?;
    outcome
}

async fn measure(ground: &Ground, rivals: &mut Rivals) -> Result<bool, Failed> {
    let rounds: usize = match std::env::var("BENCH_ROUNDS") {
        Ok(rounds) => rounds.parse()?,
        Err(_) => 6,
    };
    let few = (rounds / 3).max(1);
    let wanted = std::env::var("BENCH_TREES")
        .unwrap_or_else(|_| "100,10000,real,100000,large,monorepo".to_owned());
    say(&format!("{rounds} rounds a tree, {few} of the large ones; all ways take turns."));
    if let Err(why) = &rivals.volume {
        say(&format!("rsync takes no part: {why}"));
    }
    for disk in without_journal() {
        say(&format!(
            "{disk} is an ext4 without a journal. For minutes after files are deleted there, every \
             file that is made looks past all of\ntheir inodes. So nothing is deleted here before the end, but \
             what is replaced is: times of all changed mean little."
        ));
    }
    let home = ground.home.path();
    let mut gates = Vec::new();
    for name in wanted.split(',') {
        let (tree, rounds) = match name {
            "100" | "10000" => (tree::small(home, name.parse()?)?, rounds),
            "100000" => (tree::small(home, name.parse()?)?, few),
            "large" => (tree::large(home)?, few),
            "real" => match tree::real(home)? {
                Ok(tree) => (tree, rounds),
                Err(why) => {
                    say(&format!("\nno real source tree: {why}"));
                    continue;
                }
            },
            "monorepo" => {
                gates.extend(monorepo::whole(ground).await?);
                continue;
            }
            other => {
                return Err(format!("BENCH_TREES names no tree that is known: {other:?}").into());
            }
        };
        let turns = turns::take(ground, rivals, &tree, home, rounds).await?;
        gates.extend(targets(name, &tree.name, &turns));
        if tree.is_few() {
            std::fs::remove_dir_all(tree.root())?;
        }
    }
    say("");
    let passed: Vec<bool> =
        gates.iter().map(|(what, value, limit, unit)| gate(what, *value, *limit, unit)).collect();
    Ok(passed.iter().all(|passed| *passed))
}

/// The disks with an ext4 that has no journal.
fn without_journal() -> Vec<String> {
    let names = |directory: &str| -> Vec<String> {
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    };
    let journals = names("/proc/fs/jbd2");
    let mut disks = names("/proc/fs/ext4");
    disks.retain(|disk| !journals.iter().any(|journal| journal.starts_with(&format!("{disk}-"))));
    disks
}

/// What is compared with a limit: the sentence, the value, the limit and the unit.
type Target = (String, f64, f64, &'static str);

/// The targets that one tree decides.
fn targets(name: &str, what: &str, turns: &Turns) -> Vec<Target> {
    let mut targets: Vec<Target> = Vec::new();
    let mut target = |what: &str, value: f64, limit: f64, unit: &'static str| {
        targets.push((what.to_owned(), value, limit, unit));
    };
    let unchanged = turns.together(&send_of("0"), &collect_of("0"));
    target(
        &format!("{what}: all changed on what is there, of the whole"),
        turns.ratio(&send_of("all"), SEND),
        DELTA_OF_WHOLE,
        "",
    );
    match name {
        "10000" => {
            target("10,000 small files, whole, in", turns.median(SEND), WHOLE_10_000, " ms");
            target(
                "10,000 small files, whole, out",
                turns.median(COLLECT_ALL),
                WHOLE_10_000,
                " ms",
            );
            target("10,000 unchanged files, in and out", unchanged, UNCHANGED_10_000, " ms");
        }
        "100000" => {
            target("100,000 unchanged files, in and out", unchanged, UNCHANGED_100_000, " ms");
        }
        "large" => {
            target("2 GiB in, of a raw stream's time", turns.ratio(SEND, RAW_IN), OF_RAW, "");
            target(
                "2 GiB out, of a raw stream's time",
                turns.ratio(COLLECT_ALL, RAW_OUT),
                OF_RAW,
                "",
            );
        }
        _ => {}
    }
    targets
}
