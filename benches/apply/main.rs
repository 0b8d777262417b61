//! What it costs to write a change set into a workspace so that nothing can be lost, against ways
//! that can lose something, taking turns:
//!
//! - 1,000 small files: `apply` with journal, pre-image, leases and flush, its undo, a plain
//!   write-and-rename of the same files with one flush, and a plain copy without any;
//! - 10,000 files that nobody touched: the check for conflicts, and reading and hashing them;
//! - one file of 1 GiB and one of 1 MiB: the memory of a process that applies and undoes it.
//!
//! `BENCH_ROUNDS` sets the rounds (15); it exits with 1 if a ratio is over its limit.

#[path = "../common/changes.rs"]
mod changes;
#[allow(dead_code, reason = "shared with what uses other parts of it")]
#[path = "../common/figures.rs"]
mod figures;
#[path = "../common/large.rs"]
mod large;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use mcp_codex_orchestrator::workspace::Workspace;
use mcp_codex_orchestrator::workspace::apply::{OnConflict, Parts, apply, check};
use mcp_codex_orchestrator::workspace::change::{ChangeSet, ChangesState};
use mcp_codex_orchestrator::workspace::root::open_unchecked;
use mcp_codex_orchestrator::workspace::undo::undo;

use changes::{Run, run};
use figures::{gate, high_water, ms, percentile, say, table};
use large::fill;

/// What an arm can fail with; the benchmark then ends.
pub(crate) type Failed = Box<dyn std::error::Error + Send + Sync>;

const ROUNDS: usize = 15;
const WARM_UP: usize = 2;
/// Small files that are changed.
const FILES: usize = 1_000;
const BYTES: usize = 4_000;
/// Files of the workspace that is checked.
const CHECKED: usize = 10_000;
const MIB: u64 = 1 << 20;
const ARMS: [&str; 4] = [
    "apply: journal, pre-image, leases, flush",
    "undo of it",
    "write and rename, one flush",
    "copy, no flush",
];

/// What an apply may take of a write and rename of the same files with one flush.
const APPLY_LIMIT: f64 = 3.0;
/// What a check of unchanged files may take of reading and hashing them.
const CHECK_LIMIT: f64 = 0.5;
/// What 1 GiB may take of the memory that 1 MiB takes.
const MEMORY_LIMIT: f64 = 1.25;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let outcome = match arguments.iter().position(|argument| argument == "--apply-in") {
        Some(at) => apply_in(Path::new(arguments.get(at + 1).map_or("", String::as_str))),
        None => measure(),
    };
    figures::exit(outcome)
}

fn measure() -> Result<bool, Failed> {
    let rounds = match std::env::var("BENCH_ROUNDS") {
        Ok(rounds) => rounds.parse()?,
        Err(_) => ROUNDS,
    };
    // Where Cargo builds, since the memory that `/tmp` may be does not flush.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    say(&format!("{rounds} rounds after {WARM_UP} to warm up; the arms take turns."));
    let mut pass = small_files(&dir.path().join("small"), rounds)?;
    pass &= unchanged(&dir.path().join("unchanged"), rounds)?;
    pass &= memory(&dir.path().join("memory"))?;
    Ok(pass)
}

/// A workspace, and where the parts of its runs are.
struct Place {
    workspace: Workspace,
    app: PathBuf,
    runs: PathBuf,
    state: PathBuf,
    next: u32,
}

impl Place {
    fn new(at: &Path) -> Result<Self, Failed> {
        let [ws, app, runs, state] = ["ws", "app", "runs", "state"].map(|name| at.join(name));
        for folder in [&ws, &app, &runs, &state] {
            fs::create_dir_all(folder)?;
        }
        Ok(Self { workspace: open_unchecked(&ws)?, app, runs, state, next: 0 })
    }

    fn run(&mut self) -> Result<Run, Failed> {
        self.next += 1;
        let id = format!("01a2044e-0000-7000-8000-{:012}", self.next);
        run(&self.workspace, &self.app, &self.runs, &id)
    }

    fn apply(&self, run: &mut Run) -> Result<Duration, Failed> {
        let parts = Parts { run: &run.id, folder: &run.folder, state: &self.state };
        let began = Instant::now();
        apply(&self.workspace, &mut run.set, &[], OnConflict::HoldAll, &parts)?;
        let took = began.elapsed();
        match run.set.state() {
            ChangesState::Applied => Ok(took),
            state => Err(format!("the change set is {state:?}").into()),
        }
    }

    fn undo(&self, run: &mut Run) -> Result<Duration, Failed> {
        let parts = Parts { run: &run.id, folder: &run.folder, state: &self.state };
        let began = Instant::now();
        undo(&self.workspace, &mut run.set, &[], &parts)?;
        let took = began.elapsed();
        match run.set.state() {
            ChangesState::Held => Ok(took),
            state => Err(format!("after its undo the change set is {state:?}").into()),
        }
    }
}

/// The path of a small file, so many of them in a directory.
fn small(root: &Path, index: usize) -> PathBuf {
    root.join(format!("d{}/{index}.txt", index / 100))
}

fn text(index: usize, round: usize) -> Vec<u8> {
    let line = format!("file {index} in round {round}\n");
    line.bytes().cycle().take(BYTES).collect()
}

fn small_tree(root: &Path, files: usize, round: usize) -> Result<(), Failed> {
    for index in 0..files {
        let path = small(root, index);
        if let Some(parent) = path.parent().filter(|_| index % 100 == 0) {
            fs::create_dir_all(parent)?;
        }
        fs::write(path, text(index, round))?;
    }
    Ok(())
}

/// All that was written so far is on the disk, so that no arm pays for another one.
fn settle(at: &Path) -> Result<(), Failed> {
    rustix::fs::syncfs(File::open(at)?)?;
    // Times have to be older than what is sent, or they prove nothing.
    std::thread::sleep(Duration::from_millis(20));
    Ok(())
}

fn small_files(at: &Path, rounds: usize) -> Result<bool, Failed> {
    let mut place = Place::new(at)?;
    let (renamed, copied) = (at.join("renamed"), at.join("copied"));
    for root in [&place.workspace.path, &renamed, &copied] {
        small_tree(root, FILES, 0)?;
    }
    let mut taken: [Vec<f64>; 4] = Default::default();
    for round in 1..=rounds + WARM_UP {
        small_tree(&place.app, FILES, round)?;
        settle(at)?;
        let mut run = place.run()?;
        let mut now = [0.0; 4];
        for turn in 0..3 {
            settle(at)?;
            match (round + turn) % 3 {
                0 => {
                    now[0] = ms(place.apply(&mut run)?);
                    settle(at)?;
                    now[1] = ms(place.undo(&mut run)?);
                }
                1 => now[2] = ms(write_and_rename(&renamed, round)?),
                _ => now[3] = ms(copy(&place.app, &copied)?),
            }
        }
        fs::remove_dir_all(&run.folder)?;
        if round > WARM_UP {
            taken.iter_mut().zip(now).for_each(|(all, now)| all.push(now));
        }
    }
    let rows: Vec<_> = ARMS
        .iter()
        .zip(&taken)
        .map(|(arm, one)| {
            let ratio = percentile(&ratios(one, &taken[2]), 50);
            vec![(*arm).into(), p(one, 50), p(one, 95), format!("{ratio:.2}")]
        })
        .collect();
    table(&["1,000 files of 4 kB", "p50, ms", "p95, ms", "to a write and rename"], &rows);
    let ratio = percentile(&ratios(&taken[0], &taken[2]), 50);
    Ok(gate("apply against write and rename, median of the rounds", ratio, APPLY_LIMIT, ""))
}

fn p(taken: &[f64], percent: usize) -> String {
    format!("{:.1}", percentile(taken, percent))
}

/// One to the other, round by round.
fn ratios(one: &[f64], other: &[f64]) -> Vec<f64> {
    one.iter().zip(other).map(|(one, other)| one / other).collect()
}

/// What many programs do to save a file, but with one flush for all.
fn write_and_rename(root: &Path, round: usize) -> Result<Duration, Failed> {
    let texts: Vec<_> = (0..FILES).map(|index| text(index, round)).collect();
    let began = Instant::now();
    for (index, text) in texts.iter().enumerate() {
        let path = small(root, index);
        fs::write(path.with_extension("tmp"), text)?;
    }
    rustix::fs::syncfs(File::open(root)?)?;
    for index in 0..FILES {
        let path = small(root, index);
        fs::rename(path.with_extension("tmp"), path)?;
    }
    Ok(began.elapsed())
}

/// What `cp -a` does.
fn copy(from: &Path, to: &Path) -> Result<Duration, Failed> {
    let began = Instant::now();
    for index in 0..FILES {
        fs::copy(small(from, index), small(to, index))?;
    }
    Ok(began.elapsed())
}

/// All files are part of the change set, none of them was touched on the host.
fn unchanged(at: &Path, rounds: usize) -> Result<bool, Failed> {
    let mut place = Place::new(at)?;
    small_tree(&place.workspace.path, CHECKED, 0)?;
    small_tree(&place.app, CHECKED, 1)?;
    settle(at)?;
    let run = place.run()?;
    let mut taken: [Vec<f64>; 2] = Default::default();
    for round in 0..rounds + WARM_UP {
        for turn in 0..2 {
            let began = Instant::now();
            let arm = (round + turn) % 2;
            match arm {
                0 => {
                    let against = check(&place.workspace, &run.set, &[]);
                    if !against.is_empty() {
                        return Err(format!("{} conflicts", against.len()).into());
                    }
                }
                _ => {
                    for index in 0..CHECKED {
                        let mut hasher = blake3::Hasher::new();
                        let file = File::open(small(&place.workspace.path, index))?;
                        std::io::copy(&mut &file, &mut hasher)?;
                        std::hint::black_box(hasher.finalize());
                    }
                }
            }
            if round >= WARM_UP {
                taken[arm].push(ms(began.elapsed()));
            }
        }
    }
    let rows: Vec<_> = ["the check for conflicts", "reading and hashing"]
        .iter()
        .zip(&taken)
        .map(|(arm, taken)| vec![(*arm).into(), p(taken, 50), p(taken, 95)])
        .collect();
    table(&["10,000 unchanged files", "p50, ms", "p95, ms"], &rows);
    let ratio = percentile(&ratios(&taken[0], &taken[1]), 50);
    Ok(gate("check against hashing, median of the rounds", ratio, CHECK_LIMIT, ""))
}

/// A process each that applies and undoes one large file.
fn memory(at: &Path) -> Result<bool, Failed> {
    let mut highest = Vec::new();
    let mut rows = Vec::new();
    for bytes in [MIB, 1024 * MIB] {
        let at = at.join(bytes.to_string());
        let mut place = Place::new(&at)?;
        fill(&place.workspace.path.join("large"), bytes, 1)?;
        fill(&place.app.join("large"), bytes, 2)?;
        let run = place.run()?;
        fs::remove_dir_all(&place.app)?;
        settle(&at)?;
        let child = Command::new(std::env::current_exe()?).arg("--apply-in").arg(&at).output()?;
        let said = String::from_utf8_lossy(&child.stdout).into_owned();
        let figures: Vec<f64> = said.split_whitespace().flat_map(str::parse).collect();
        let [memory, apply, undo] = figures[..] else {
            return Err(format!("{said}{}", String::from_utf8_lossy(&child.stderr)).into());
        };
        drop(run);
        fs::remove_dir_all(&at)?;
        rows.push(vec![
            format!("{} MiB", bytes / MIB),
            format!("{memory:.1}"),
            format!("{apply:.0}"),
            format!("{undo:.0}"),
        ]);
        highest.push(memory);
    }
    table(&["one file of", "memory at its highest, MB", "apply, ms", "undo, ms"], &rows);
    let ratio = highest[1] / highest[0];
    Ok(gate("memory for 1 GiB against 1 MiB", ratio, MEMORY_LIMIT, ""))
}

/// What the process of [`memory`] does: prints its highest memory in MB and what both took in ms.
fn apply_in(at: &Path) -> Result<bool, Failed> {
    let place = Place::new(at)?;
    let folder = fs::read_dir(&place.runs)?.next().ok_or("no run")??;
    let set: ChangeSet = serde_json::from_slice(&fs::read(folder.path().join("changes.json"))?)?;
    let id = folder.file_name().to_string_lossy().into_owned();
    let mut run = Run { id, folder: folder.path(), set };
    let apply = ms(place.apply(&mut run)?);
    let undo = ms(place.undo(&mut run)?);
    say(&format!("{} {apply} {undo}", high_water("self")?));
    Ok(true)
}
