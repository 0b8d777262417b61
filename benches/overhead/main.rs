//! Time to the first model request, and overhead, of four ways to run the same Codex with the same
//! configuration against the same scripted model, taking turns:
//!
//! - *host*: `codex exec` on the host, without any container;
//! - *container a run*: what the replaced server did: create, start, wait, logs, remove, with the
//!   workspace and `CODEX_HOME` bind-mounted, over the engine's API without a client program;
//! - *idle container*: the obvious warm pool, from the engine's calls alone: a container that waits
//!   gets the archive of the workspace, one exec runs Codex, the engine is asked for the changes,
//!   and the archive comes back;
//! - *ours*: `codex_run` of the real server binary, over MCP on stdio.
//!
//! *First request* is from the call to the arrival of the first model request; *overhead* is the
//! whole call less the time from the first request's arrival to the end of the last answer.
//! `BENCH_ROUNDS` sets the rounds (40); it exits with 1 if a target is missed.

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
#[path = "../common/place.rs"]
mod place;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use mcp_codex_orchestrator::model::scripted::{Script, ScriptedModel, Step};
use serde_json::{Value, json};
use tokio::process::Command;

use docker::{Docker, Failed, IMAGE};
use figures::{gate, ms, percentile, say, table};
use place::{Server, small_project};

const PROMPT: &str = "Write one file.";
const ROUNDS: usize = 40;
const WARM_UP: usize = 4;
/// Before each turn: the end of a container goes on for a while in the kernel after the engine has
/// said that it is gone.
const PAUSE: Duration = Duration::from_millis(250);
/// What the model writes.
const FILE: &str = "written.txt";
const ARMS: [&str; 4] = ["host", "container a run", "idle container", "ours"];
const OURS: usize = ARMS.len() - 1;
/// Flags of `codex exec` in all arms; ours has the prompt on stdin instead of in the arguments.
const FLAGS: [&str; 7] = [
    "exec",
    "--json",
    "--dangerously-bypass-approvals-and-sandbox",
    "--ephemeral",
    "--skip-git-repo-check",
    "--color",
    "never",
];

/// One call of one arm, in milliseconds.
#[derive(Clone, Copy, Debug)]
struct Sample {
    first: f64,
    overhead: f64,
    total: f64,
}

fn main() -> ExitCode {
    figures::run(measure())
}

async fn measure() -> Result<bool, Failed> {
    let rounds = match std::env::var("BENCH_ROUNDS") {
        Ok(rounds) => rounds.parse()?,
        Err(_) => ROUNDS,
    };
    let mut arms = Arms::prepare().await?;
    let outcome = compare(&mut arms, rounds).await;
    arms.docker.remove(&arms.waiting).await?;
    let (samples, phases, status) = outcome?;
    arms.server.client.close().await?;
    report(&samples, &phases, &status);
    Ok(judge(&samples, &phases))
}

type Figures = ([Vec<Sample>; ARMS.len()], BTreeMap<String, Vec<f64>>, Value);

/// The rounds. Gives the samples of the arms, what our results tell, and the pool's status.
async fn compare(arms: &mut Arms, rounds: usize) -> Result<Figures, Failed> {
    say(&format!(
        "{rounds} rounds after {WARM_UP} to warm up; the arms take turns, and another one begins \
         each round. Before each turn\nthe pool is at rest (no container is being started, reset \
         or removed) and {} ms pass, so that no arm pays\nfor what the one before it left to the \
         kernel and the engine.",
        PAUSE.as_millis()
    ));
    let mut samples: [Vec<Sample>; ARMS.len()] = Default::default();
    let mut phases: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for round in 0..rounds + WARM_UP {
        let mut result = Value::Null;
        let mut taken = Vec::with_capacity(ARMS.len());
        // Another arm begins each round, so that none always follows the same one.
        for turn in 0..ARMS.len() {
            let arm = (round + turn) % ARMS.len();
            tokio::time::sleep(PAUSE).await;
            let sample = match arm {
                0 => arms.host().await?,
                1 => arms.container().await?,
                2 => arms.idle().await?,
                _ => {
                    let (sample, told) = arms.ours().await?;
                    result = told;
                    sample
                }
            };
            taken.push((arm, sample));
        }
        if round < WARM_UP {
            continue;
        }
        for (arm, sample) in taken {
            samples[arm].push(sample);
        }
        for (phase, took) in result["timings_ms"].as_object().into_iter().flatten() {
            phases.entry(phase.clone()).or_default().push(took.as_f64().unwrap_or_default());
        }
    }
    let status = arms.server.rest().await?;
    Ok((samples, phases, status))
}

fn report(
    samples: &[Vec<Sample>; ARMS.len()],
    phases: &BTreeMap<String, Vec<f64>>,
    status: &Value,
) {
    let mut rows = Vec::new();
    for (name, arm) in ARMS.iter().zip(samples) {
        let mut row = vec![(*name).to_owned()];
        for of in [|s: &Sample| s.first, |s: &Sample| s.overhead, |s: &Sample| s.total] {
            let values: Vec<f64> = arm.iter().map(of).collect();
            row.push(format!("{:.1}", percentile(&values, 50)));
            row.push(format!("{:.1}", percentile(&values, 95)));
        }
        rows.push(row);
    }
    say("\nMilliseconds");
    let header =
        ["arm", "first request p50", "p95", "overhead p50", "p95", "whole call p50", "p95"];
    table(&header, &rows);

    let mut rows = Vec::new();
    for (name, other) in ARMS.iter().zip(samples).take(OURS) {
        rows.push(vec![
            format!("ours / {name}"),
            format!("{:.2}", paired(&samples[OURS], other, |s| s.first)),
            format!("{:.2}", paired(&samples[OURS], other, |s| s.overhead)),
            format!("{:.2}", paired(&samples[OURS], other, |s| s.total)),
        ]);
    }
    say("\nMedians of the ratios within a round");
    table(&["ratio", "first request", "overhead", "whole call"], &rows);

    let rows: Vec<_> = phases
        .iter()
        .map(|(phase, values)| {
            let at = |percent| format!("{:.3}", percentile(values, percent));
            vec![phase.clone(), at(50), at(95), at(99)]
        })
        .collect();
    say("\nOurs, as its results tell it (timings_ms)");
    table(&["phase", "p50", "p95", "p99"], &rows);

    let rows: Vec<_> = status["latency_ms"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(phase, values)| {
            let at = |name: &str| format!("{:.3}", values[name].as_f64().unwrap_or_default());
            vec![phase.clone(), at("p50"), at("p95"), at("p99")]
        })
        .collect();
    say("\nThe pool, warm-up included (codex_pool_status)");
    table(&["phase", "p50", "p95", "p99"], &rows);
    say("");
}

fn judge(samples: &[Vec<Sample>; ARMS.len()], phases: &BTreeMap<String, Vec<f64>>) -> bool {
    let median = |arm: &[Sample]| percentile(&arm.iter().map(|s| s.first).collect::<Vec<_>>(), 50);
    let checkout = phases.get("checkout").map_or(&[][..], Vec::as_slice);
    let passed = [
        gate(
            "overhead, ours / container a run (median of ratios)",
            paired(&samples[OURS], &samples[1], |s| s.overhead),
            0.5,
            "",
        ),
        gate(
            "first request p50, ours against host",
            median(&samples[OURS]),
            median(&samples[0]),
            " ms",
        ),
        gate("checkout p50", percentile(checkout, 50), 1.0, " ms"),
    ];
    passed.iter().all(|passed| *passed)
}

/// The median of the ratios of samples of the same round.
fn paired(ours: &[Sample], other: &[Sample], of: impl Fn(&Sample) -> f64) -> f64 {
    let ratios: Vec<f64> = ours.iter().zip(other).map(|(a, b)| of(a) / of(b)).collect();
    percentile(&ratios, 50)
}

/// The four ways, ready to be called.
struct Arms {
    docker: Docker,
    model: ScriptedModel,
    server: Server,
    /// The container of the arm *idle container*.
    waiting: String,
    codex: PathBuf,
    home: tempfile::TempDir,
}

impl Arms {
    async fn prepare() -> Result<Self, Failed> {
        let mut docker = Docker::find()?;
        let image = docker.image_id().await?;
        let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join(image.get(..16).unwrap_or(&image));
        let codex = cache.join("codex");
        if !codex.is_dir() {
            let part = cache.with_extension("part");
            let _ = fs::remove_dir_all(&part);
            docker.extract("/opt/codex", &part).await?;
            fs::rename(&part, &cache)?;
        }
        let model = ScriptedModel::start(Script::always(vec![
            Step::write(FILE, "written\n"),
            Step::Say("Written.".into()),
        ]))
        .await?;
        let home = tempfile::tempdir()?;
        // uid 1000 of the container must reach what is mounted.
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755))?;
        for arm in ["host", "container", "idle", "ours"] {
            let path = home.path().join(arm);
            small_project(&path)?;
            // As the image's configuration, but for the place of the model.
            let codex_home = home.path().join(format!("{arm}-codex-home"));
            copy(&codex.join("home-template"), &codex_home)?;
            let config = codex_home.join("config.toml");
            let text = fs::read_to_string(&config)?;
            let direct = text.replace("http://127.0.0.1:8787/v1", &model.base_url());
            if direct == text {
                return Err("the image's configuration has no base_url that is known".into());
            }
            fs::remove_file(&config)?;
            fs::write(&config, direct)?;
            if arm == "container" || arm == "idle" {
                open(&path)?;
                open(&codex_home)?;
            }
        }
        let codex_home = home.path().join("idle-codex-home");
        let waiting = docker
            .start_idle(&json!({
                "Image": IMAGE,
                // Gone by itself if this program is killed.
                "Cmd": ["sleep", "1800"],
                "HostConfig": {
                    "AutoRemove": true,
                    "NetworkMode": "host",
                    "Init": true,
                    "Binds": [format!("{}:/home/codex/.codex", codex_home.display())],
                },
            }))
            .await?;
        let workspace = home.path().join("ours");
        let server =
            Server::start(&home.path().join("server"), &workspace, &model.base_url(), "").await?;
        Ok(Self { docker, model, server, waiting, codex: codex.join("bin/codex"), home })
    }

    async fn host(&mut self) -> Result<Sample, Failed> {
        let workspace = self.begin("host")?;
        let mut command = Command::new(&self.codex);
        command
            .args(FLAGS)
            .arg("-C")
            .arg(&workspace)
            .arg(PROMPT)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.home.path())
            .env("CODEX_HOME", self.home.path().join("host-codex-home"))
            .env("LANG", "C.UTF-8")
            .env("SHELL", "/bin/bash")
            .current_dir(&workspace)
            .stdin(Stdio::null());
        let began = Instant::now();
        let output = command.output().await?;
        let sample = self.end(began, &workspace)?;
        if !output.status.success() {
            return Err(format!("codex on the host: {output:?}").into());
        }
        Ok(sample)
    }

    async fn container(&mut self) -> Result<Sample, Failed> {
        let workspace = self.begin("container")?;
        let codex_home = self.home.path().join("container-codex-home");
        let mut argv = vec!["codex"];
        argv.extend(FLAGS);
        argv.extend(["-C", "/app", PROMPT]);
        let spec = json!({
            "Image": IMAGE,
            "Cmd": argv,
            "WorkingDir": "/app",
            "HostConfig": {
                "NetworkMode": "host",
                "Binds": [
                    format!("{}:/app", workspace.display()),
                    format!("{}:/home/codex/.codex", codex_home.display()),
                ],
            },
        });
        let began = Instant::now();
        let (code, logs) = self.docker.run_once(&spec).await?;
        let sample = self.end(began, &workspace);
        if code != 0 {
            return Err(
                format!("codex exited with {code}: {}", String::from_utf8_lossy(&logs)).into()
            );
        }
        sample
    }

    async fn idle(&mut self) -> Result<Sample, Failed> {
        let workspace = self.begin("idle")?;
        let mut argv = vec!["codex"];
        argv.extend(FLAGS);
        argv.extend(["-C", "/app", PROMPT]);
        let exec = json!({
            "Cmd": argv,
            "WorkingDir": "/app",
            "AttachStdout": true,
            "AttachStderr": true,
        });
        let began = Instant::now();
        let mut archive = tar::Builder::new(Vec::new());
        pack(&mut archive, &workspace, Path::new(""))?;
        let (code, changed) =
            self.docker.run_in_idle(&self.waiting, archive.into_inner()?, &exec).await?;
        let mut changed = tar::Archive::new(&changed[..]);
        for entry in changed.entries()? {
            let mut entry = entry?;
            let path = entry.path()?.into_owned();
            let Ok(path) = path.strip_prefix("app") else { continue };
            if entry.header().entry_type().is_file() {
                entry.unpack(workspace.join(path))?;
            }
        }
        let sample = self.end(began, &workspace);
        if code != 0 {
            return Err(format!("codex in the idle container exited with {code}").into());
        }
        sample
    }

    async fn ours(&mut self) -> Result<(Sample, Value), Failed> {
        let workspace = self.begin("ours")?;
        let began = Instant::now();
        let result = self.server.run(json!({"prompt": PROMPT})).await?;
        let sample = self.end(began, &workspace)?;
        if result["warm"] != true {
            return Err("no container was waiting".into());
        }
        self.server.rest().await?;
        Ok((sample, result))
    }

    /// Makes the arm's workspace as it was at first.
    fn begin(&self, arm: &str) -> Result<PathBuf, Failed> {
        let workspace = self.home.path().join(arm);
        match fs::remove_file(workspace.join(FILE)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        drop(self.model.take_requests());
        Ok(workspace)
    }

    /// What came out of a call that began at `began` and has just ended.
    fn end(&self, began: Instant, workspace: &Path) -> Result<Sample, Failed> {
        let total = began.elapsed();
        let requests = self.model.take_requests();
        let (Some(first), Some(last)) =
            (requests.first(), requests.iter().filter_map(|request| request.answered).max())
        else {
            return Err("the model was not asked".into());
        };
        if !workspace.join(FILE).exists() {
            return Err(format!("no {FILE} in {}", workspace.display()).into());
        }
        let model = last.duration_since(first.at);
        Ok(Sample {
            first: ms(first.at.duration_since(began)),
            overhead: ms(total.saturating_sub(model)),
            total: ms(total),
        })
    }
}

fn copy(from: &Path, to: &Path) -> Result<(), Failed> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// Packs a tree for the container's user.
fn pack(archive: &mut tar::Builder<Vec<u8>>, root: &Path, below: &Path) -> Result<(), Failed> {
    for entry in fs::read_dir(root.join(below))? {
        let entry = entry?;
        let path = below.join(entry.file_name());
        let mut header = tar::Header::new_gnu();
        header.set_metadata(&entry.metadata()?);
        header.set_uid(1000);
        header.set_gid(1000);
        if entry.file_type()?.is_dir() {
            archive.append_data(&mut header, &path, std::io::empty())?;
            pack(archive, root, &path)?;
        } else {
            archive.append_data(&mut header, &path, fs::File::open(entry.path())?)?;
        }
    }
    Ok(())
}

/// Lets every user write it: the container's user is another than ours.
fn open(path: &Path) -> Result<(), Failed> {
    let directory = fs::metadata(path)?.is_dir();
    fs::set_permissions(path, fs::Permissions::from_mode(if directory { 0o777 } else { 0o666 }))?;
    if directory {
        for entry in fs::read_dir(path)? {
            open(&entry?.path())?;
        }
    }
    Ok(())
}
