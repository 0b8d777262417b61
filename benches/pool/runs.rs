//! Runs one after another through the real server, with a stand-in for Codex that writes one file:
//! what the server and the engine hold after the first ones and at the end.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use mcp_codex_orchestrator::container::label;
use mcp_codex_orchestrator::model::scripted::{Script, ScriptedModel, Step};
use serde_json::json;

use super::docker::{Docker, Failed};
use super::figures::{ms, percentile, table};
use super::ground::Ground;
use super::place::{Server, small_project};
use super::sheet::Sheet;

pub(crate) const STAND_IN: &str = "codex-runner-bench:short";

/// Writes one file, as a run does.
const SHORT: &str = r#"#!/bin/sh
cat > /dev/null
echo '{"type":"thread.started","thread_id":"t"}'
echo '{"type":"turn.started"}'
date +%s%N > /app/written.txt
echo '{"type":"item.completed","item":{"id":"item_0","type":"agent_message","text":"Done."}}'
echo '{"type":"turn.completed","usage":{"input_tokens":1,"cached_input_tokens":0,"output_tokens":1,"reasoning_output_tokens":0}}'
"#;

/// Runs before the first look, at least: a container's 50 uses, and the server's caches, are behind it
/// by then.
const WARM_UP: usize = 50;

/// Kilobytes of log and state that a run may leave.
const OWN_KB: f64 = 2.0;

/// `runs.keep`.
const KEPT: usize = 500;

/// What is held at one moment.
#[derive(Clone, Copy, Debug)]
struct Held {
    runs: usize,
    memory: f64,
    files: f64,
    containers: f64,
    volumes: f64,
    /// Of the volumes.
    disk: f64,
    /// Of the server: its log and its state.
    own: f64,
    /// Records of runs: these stay for `runs.keep_for`, since they have what an undo needs.
    records: f64,
    /// Those that have their logs, which `runs.keep` bounds.
    logs: f64,
}

/// The labels of the servers that were started below our home.
pub(crate) fn owners(ground: &Ground) -> Vec<String> {
    let owners = ground.home.path().join("server/state/mcp-codex-orchestrator/owners");
    let entries = fs::read_dir(owners).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter_map(|name| name.strip_suffix(".lock").map(str::to_owned)).collect()
}

/// Does the runs and compares.
pub(crate) async fn growth(ground: &Ground, sheet: &mut Sheet, runs: usize) -> Result<(), Failed> {
    let mut docker = Docker::find()?;
    docker.stand_in(STAND_IN, "/opt/codex/bin/codex", SHORT).await?;
    let outcome = one_after_another(ground, sheet, &mut docker, runs).await;
    docker.remove_image(STAND_IN).await?;
    outcome
}

async fn one_after_another(
    ground: &Ground,
    sheet: &mut Sheet,
    docker: &mut Docker,
    runs: usize,
) -> Result<(), Failed> {
    let model = ScriptedModel::start(Script::always(vec![Step::Say("Unused.".into())])).await?;
    let workspace = ground.home.path().join("project");
    small_project(&workspace)?;
    let settings = format!("[container]\nimage = {STAND_IN:?}\n");
    let home = ground.home.path().join("server");
    let settings = settings + "[pool]\nadaptive = false\n";
    let mut server = Server::start(&home, &workspace, &model.base_url(), &settings).await?;
    let warm_up = (runs / 10).max(WARM_UP).min(runs);
    let (mut took, mut held) = (Vec::new(), Vec::new());
    for run in 1..=runs + warm_up {
        let began = Instant::now();
        let result = server.run(json!({"prompt": "Write one file."})).await?;
        took.push(ms(began.elapsed()));
        if result["success"] != true {
            return Err(format!("run {run} failed: {result}").into());
        }
        if run >= warm_up && (run - warm_up).is_multiple_of(runs.div_ceil(8).max(1))
            || run == runs + warm_up
        {
            held.push(look(ground, docker, &mut server, &home, run).await?);
        }
    }
    let closed = server.client.close().await?;
    if !closed.success() {
        return Err(format!("the server ended with {closed}").into());
    }
    report(sheet, &took, &held)?;
    let (containers, volumes) = in_engine(ground, docker, &owners(ground)).await?;
    sheet.limit(
        "runs: containers and volumes after the server's end",
        containers + volumes,
        0.0,
        "",
    );
    Ok(())
}

fn report(sheet: &mut Sheet, took: &[f64], held: &[Held]) -> Result<(), Failed> {
    let rows: Vec<_> = held
        .iter()
        .map(|held| {
            let Held { runs, memory, files, containers, volumes, disk, own, records, logs } = held;
            let mut row = vec![runs.to_string(), format!("{memory:.1}")];
            row.extend([files, containers, volumes].map(|count| format!("{count:.0}")));
            row.push(format!("{disk:.2}"));
            row.push(format!("{own:.2}"));
            row.push(format!("{records:.0}"));
            row.push(format!("{logs:.0}"));
            row
        })
        .collect();
    let header = [
        "after runs",
        "memory, MB",
        "descriptors",
        "containers",
        "volumes",
        "their disk, MB",
        "own disk, MB",
        "records",
        "of them with logs",
    ];
    table(&header, &rows);
    sheet.row("runs one after another through the server: whole call", took);
    let (Some(first), Some(last)) = (held.first(), held.last()) else {
        return Err("nothing was looked at".into());
    };
    sheet.limit("runs: memory, end / after warm-up", last.memory / first.memory, 1.2, "");
    sheet.limit("runs: more disk in the engine", last.disk - first.disk, 1.0, " MB");
    sheet.limit("runs: more file descriptors", last.files - first.files, 4.0, "");
    sheet.limit("runs: more containers", last.containers - first.containers, 0.0, "");
    sheet.limit("runs: more volumes", last.volumes - first.volumes, 0.0, "");
    // A line of the log for each run, and nothing else.
    let runs = (last.runs - first.runs).max(1) as f64;
    let each = (last.own - first.own) * 1e3 / runs;
    sheet.limit("runs: log and state, a run", each, OWN_KB, " kB");
    // A look for old ones is due when a tenth of what is kept has come, and a twentieth of what is there.
    let more = (KEPT / 10).max(last.runs / 20) + 2;
    sheet.limit("runs: records with their logs", last.logs, (KEPT + more) as f64, "");
    let eighth = took.len() / 8;
    let slower =
        percentile(&took[took.len() - eighth..], 50) / percentile(&took[eighth..2 * eighth], 50);
    sheet.limit("runs: a call at the end / at the start", slower, 1.25, "");
    Ok(())
}

/// Looks when the pool is at rest and what is being removed is gone.
async fn look(
    ground: &Ground,
    docker: &mut Docker,
    server: &mut Server,
    home: &Path,
    runs: usize,
) -> Result<Held, Failed> {
    let began = Instant::now();
    let (containers, volumes) = loop {
        let status = server.rest().await?;
        let (containers, volumes) = in_engine(ground, docker, &owners(ground)).await?;
        let idle = status["idle"].as_f64().unwrap_or_default();
        // What does not go in this time is what is to be found.
        if containers <= idle || began.elapsed() > Duration::from_secs(10) {
            break (containers, volumes);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let process = format!("/proc/{}", server.pid);
    let status = fs::read_to_string(format!("{process}/status"))?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = resident.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<f64>().ok());
    let memory = kib.ok_or("no VmRSS in /proc")? * 1024.0 / 1e6;
    let files = fs::read_dir(format!("{process}/fd"))?.count() as f64;
    let disk = docker.volumes_size(label::OWNER, &owners(ground)).await? as f64 / 1e6;
    let own = size(home, &home.join("runs"))? as f64 / 1e6;
    let folders: Vec<_> = fs::read_dir(home.join("runs"))?.flatten().collect();
    let logs = folders.iter().filter(|one| one.path().join("events.jsonl").exists()).count() as f64;
    let records = folders.len() as f64;
    Ok(Held { runs, memory, files, containers, volumes, disk, own, records, logs })
}

/// The containers in any state and the volumes of `owners`.
async fn in_engine(
    ground: &Ground,
    docker: &mut Docker,
    owners: &[String],
) -> Result<(f64, f64), Failed> {
    let all = ground.engine.list(label::OWNER).await?;
    let ours = all
        .iter()
        .filter(|one| one.labels.get(label::OWNER).is_some_and(|owner| owners.contains(owner)));
    let mut volumes = 0;
    for owner in owners {
        volumes += docker.volumes(&format!("{}={owner}", label::OWNER)).await?;
    }
    Ok((ours.count() as f64, volumes as f64))
}

/// Bytes that the files below a directory take, without the records, which `[runs]` bounds.
fn size(directory: &Path, records: &Path) -> Result<u64, Failed> {
    use std::os::unix::fs::MetadataExt;
    let mut bytes = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        // What is gone by now takes nothing.
        let Ok(facts) = entry.path().symlink_metadata() else { continue };
        if entry.path() == records {
            continue;
        }
        bytes += facts.blocks() * 512;
        if facts.is_dir() {
            bytes += size(&entry.path(), records)?;
        }
    }
    Ok(bytes)
}
