//! A repository of 200,000 files through the whole server: its first run, and its second.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use mcp_codex_orchestrator::model::scripted::{Script, ScriptedModel, Step};
use mcp_codex_orchestrator::workspace::root::open_unchecked;
use mcp_codex_orchestrator::workspace::send::send;
use serde_json::{Value, json};

use super::Target;
use super::docker::Failed;
use super::figures::{ms, say, table};
use super::ground::Ground;
use super::place::Server;
use super::{ours, tree};

const FILES: usize = 200_000;

/// What the server's process may take beyond one manifest, in MB of a million bytes.
const BEYOND_MANIFEST: f64 = 60.0;

const ASKED: &str = "--manifest-of";

/// The labels of the server that was started below our home.
pub(crate) fn owners(ground: &Ground) -> Vec<String> {
    let owners = ground.home.path().join("server/state/mcp-codex-orchestrator/owners");
    let entries = fs::read_dir(owners).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter_map(|name| name.strip_suffix(".lock").map(str::to_owned)).collect()
}

/// Runs it twice, with a change in between, and tells what it took.
pub(crate) async fn whole(ground: &Ground) -> Result<Vec<Target>, Failed> {
    let home = ground.home.path();
    let tree = tree::small(home, FILES)?;
    for arguments in
        [&["init", "-q", "-b", "main"][..], &["add", "-A"], &["commit", "-q", "-m", "one"]]
    {
        let mut git = Command::new("git");
        git.args(["-c", "user.name=B", "-c", "user.email=b@localhost", "-c", "gc.auto=0", "-C"]);
        if !git.arg(tree.root()).args(arguments).status()?.success() {
            return Err(format!("git {arguments:?} failed").into());
        }
    }
    // As a clone has its objects.
    Command::new("git").arg("-C").arg(tree.root()).args(["repack", "-adq"]).status()?;
    let manifest = manifest_of(tree.root())?;
    let script =
        Script::always(vec![Step::write("written.txt", "written\n"), Step::Say("Written.".into())]);
    let model = ScriptedModel::start(script).await?;
    let settings = "[pool]\nmin_idle = 1\nmax_size = 1\nadaptive = false\n";
    let mut server =
        Server::start(&home.join("server"), tree.root(), &model.base_url(), settings).await?;
    let mut rows = Vec::new();
    let mut highest = 0.0_f64;
    for what in ["first run", "second run, 10 files changed"] {
        let began = Instant::now();
        let result = server.run(json!({"prompt": "Write one file.", "timeout": 600})).await?;
        let took = ms(began.elapsed());
        let id = result["container_id"].as_str().unwrap_or_default().to_owned();
        let memory = super::figures::high_water(&server.pid.to_string())?;
        let keeper = keeper_memory(&id)?;
        server.rest().await?;
        let reset = ms(began.elapsed()) - took;
        rows.push(row(what, took, &result, reset, memory, keeper));
        highest = highest.max(super::figures::high_water(&server.pid.to_string())?);
        tree.change(10)?;
        fs::remove_file(tree.root().join("written.txt"))?;
    }
    server.client.close().await?;
    say(&format!(
        "\n{FILES} files in a repository, {:.0} MB, through the server; its manifest \
                  alone is {manifest:.0} MB",
        tree.bytes as f64 / 1e6
    ));
    let header = [
        "what",
        "whole ms",
        "send ms",
        "collect ms",
        "reset ms",
        "files sent",
        "server's memory, MB",
        "keeper's, MB",
    ];
    table(&header, &rows);
    fs::remove_dir_all(tree.root())?;
    let beyond = highest - manifest;
    Ok(vec![(
        "200,000 files: the server's memory beyond one manifest".to_owned(),
        beyond,
        BEYOND_MANIFEST,
        " MB",
    )])
}

fn row(
    what: &str,
    took: f64,
    result: &Value,
    reset: f64,
    memory: f64,
    keeper: Option<f64>,
) -> Vec<String> {
    let phase =
        |name: &str| format!("{:.0}", result["timings_ms"][name].as_f64().unwrap_or(f64::NAN));
    vec![
        what.to_owned(),
        format!("{took:.0}"),
        phase("send"),
        phase("collect"),
        format!("{reset:.0}"),
        result["sent"]["files"].to_string(),
        format!("{memory:.0}"),
        keeper.map_or_else(|| "?".to_owned(), |keeper| format!("{keeper:.0}")),
    ]
}

/// The most that the keeper in the container `id` had resident, if its process can be seen from here.
fn keeper_memory(id: &str) -> Result<Option<f64>, Failed> {
    for process in fs::read_dir("/proc")?.flatten() {
        let path = process.path();
        let text = |name: &str| fs::read(path.join(name)).unwrap_or_default();
        let serves = text("cmdline").split(|byte| *byte == 0).any(|part| part == b"serve");
        let there = String::from_utf8_lossy(&text("cgroup")).contains(id);
        if !id.is_empty() && serves && there && text("comm").starts_with(b"codex-keeper") {
            let pid = process.file_name().to_string_lossy().into_owned();
            return Ok(Some(super::figures::high_water(&pid)?));
        }
    }
    Ok(None)
}

/// What the manifest of a tree takes, by a process of its own that has nothing else, in MB.
fn manifest_of(root: &Path) -> Result<f64, Failed> {
    let output = Command::new(std::env::current_exe()?).arg(ASKED).arg(root).output()?;
    Ok(String::from_utf8(output.stdout)?.trim().parse()?)
}

/// The tree whose manifest this process was started for.
pub(crate) fn asked_for_manifest() -> Option<PathBuf> {
    let mut arguments = std::env::args_os();
    arguments.find(|argument| argument == ASKED)?;
    arguments.next().map(PathBuf::from)
}

/// Makes one, and prints what it takes.
pub(crate) fn manifest(root: &Path) -> ExitCode {
    // As the server does.
    mcp_codex_orchestrator::memory::keep_little();
    let made = || -> Result<f64, Failed> {
        let workspace = open_unchecked(root)?;
        let before = resident()?;
        let snapshot = send(&workspace, &ours::rules(), std::io::sink())?;
        let after = resident()?;
        drop(snapshot);
        Ok(after - before)
    };
    match made() {
        Ok(megabytes) => {
            say(&format!("{megabytes}"));
            ExitCode::SUCCESS
        }
        Err(_) => ExitCode::FAILURE,
    }
}

fn resident() -> Result<f64, Failed> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<f64>().ok());
    Ok(kib.ok_or("no VmRSS in /proc")? * 1024.0 / 1e6)
}
