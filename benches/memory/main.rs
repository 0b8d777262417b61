//! Memory of the server's process at its highest (`VmHWM`) while a workspace of 1 GiB goes in, while
//! 256 MiB of changes come back, while 10,000 small files go in, and while a stand-in for Codex
//! prints 1 GiB. Its limit decides the exit code; the speeds are for orientation.

#[allow(dead_code, reason = "shared with what uses other parts of it")]
#[path = "../../src/cli/demo/client.rs"]
mod client;
#[allow(dead_code, reason = "shared with what uses other parts of it")]
#[path = "../common/docker.rs"]
mod docker;
#[allow(dead_code, reason = "shared with what uses other parts of it")]
#[path = "../common/figures.rs"]
mod figures;
#[path = "../common/large.rs"]
mod large;
#[allow(dead_code, reason = "shared with what uses other parts of it")]
#[path = "../common/place.rs"]
mod place;

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use mcp_codex_orchestrator::model::scripted::{Script, ScriptedModel, Step};
use serde_json::{Value, json};

use docker::{Docker, Failed};
use figures::{gate, high_water, table};
use large::fill;
use place::{Server, small_project};

/// What the process may take at most, in MB of a million bytes.
const LIMIT: f64 = 60.0;
const MIB: u64 = 1 << 20;
const SENT: u64 = 1024 * MIB;
const CAME_BACK: u64 = 256 * MIB;
const FLOOD: u64 = 1024 * MIB;
const SMALL_FILES: usize = 10_000;
const STAND_IN: &str = "codex-runner-bench:flood";

/// Prints as much as [`FLOOD`] in lines of 8 KiB, as Codex prints its messages.
const FLOODING: &str = r#"#!/bin/sh
echo '{"type":"thread.started","thread_id":"t"}'
echo '{"type":"turn.started"}'
text=$(head -c 8000 /dev/zero | tr '\0' x)
line='{"type":"item.completed","item":{"id":"item_0","type":"agent_message","text":"'$text'"}}'
yes "$line" | head -n BYTES_IN_LINES
echo '{"type":"turn.completed","usage":{"input_tokens":1,"cached_input_tokens":0,"output_tokens":1,"reasoning_output_tokens":0}}'
"#;

fn main() -> ExitCode {
    figures::run(measure())
}

/// What one run came to.
struct Row {
    what: &'static str,
    memory: f64,
    phase: &'static str,
    took: f64,
    bytes: u64,
}

async fn measure() -> Result<bool, Failed> {
    let script = Script::always(vec![Step::Say("Nothing to do.".into())]).with(
        "[large]",
        vec![
            Step::run(format!("head -c {CAME_BACK} /dev/urandom > large.bin")),
            Step::Say("Written.".into()),
        ],
    );
    let model = ScriptedModel::start(script).await?;
    let mut rows = Vec::new();

    let home = tempfile::tempdir()?;
    let workspace = home.path().join("project");
    fs::create_dir(&workspace)?;
    for index in 0..16_u64 {
        fill(&workspace.join(format!("{index}.bin")), SENT / 16, index + 1)?;
    }
    let server = home.path().join("server");
    let mut server = Server::start(&server, &workspace, &model.base_url(), "").await?;
    rows.push(Row {
        what: "idle, one container waits",
        memory: high_water(&server.pid.to_string())?,
        phase: "",
        took: 0.0,
        bytes: 0,
    });
    let result = server.run(json!({"prompt": "Look at it."})).await?;
    rows.push(row("a workspace of 1 GiB goes in", &server, &result, "send", SENT)?);
    server.rest().await?;
    let result = server.run(json!({"prompt": "Look at it again."})).await?;
    rows.push(row("the same again", &server, &result, "send", SENT)?);
    server.rest().await?;
    server.client.close().await?;

    fs::remove_dir_all(&workspace)?;
    small_project(&workspace)?;
    let mut server =
        Server::start(&home.path().join("server-2"), &workspace, &model.base_url(), "").await?;
    let result = server.run(json!({"prompt": "Make it [large]."})).await?;
    rows.push(row("256 MiB of changes come back", &server, &result, "collect", CAME_BACK)?);
    rows.push(row("and are applied", &server, &result, "apply", CAME_BACK)?);
    server.rest().await?;
    fs::remove_file(workspace.join("large.bin"))?;
    let mut bytes = 0;
    for index in 0..SMALL_FILES {
        let directory = workspace.join(format!("many/{}", index / 100));
        fs::create_dir_all(&directory)?;
        let text = format!("file {index}\n").repeat(index % 200);
        bytes += text.len() as u64;
        fs::write(directory.join(format!("{index}.txt")), text)?;
    }
    let result = server.run(json!({"prompt": "Look at them."})).await?;
    rows.push(row("10,000 small files go in", &server, &result, "send", bytes)?);
    rows.push(row("and are compared", &server, &result, "collect", 0)?);
    server.client.close().await?;

    let mut docker = Docker::find()?;
    let lines = FLOOD / 8084;
    let program = FLOODING.replace("BYTES_IN_LINES", &lines.to_string());
    docker.stand_in(STAND_IN, "/opt/codex/bin/codex", &program).await?;
    let flood = flood(home.path(), &model).await;
    docker.remove_image(STAND_IN).await?;
    rows.push(flood?);

    let shown: Vec<_> = rows
        .iter()
        .map(|row| {
            let speed = if row.bytes > 0 {
                format!("{:.0}", row.bytes as f64 / 1e3 / row.took)
            } else {
                String::new()
            };
            let took = if row.took > 0.0 { format!("{:.0}", row.took) } else { String::new() };
            vec![row.what.into(), format!("{:.1}", row.memory), row.phase.into(), took, speed]
        })
        .collect();
    table(&["what", "memory at its highest, MB", "phase", "ms", "MB/s"], &shown);
    let highest = rows.iter().map(|row| row.memory).fold(0.0, f64::max);
    Ok(gate("memory of the server's process at its highest", highest, LIMIT, " MB"))
}

async fn flood(home: &Path, model: &ScriptedModel) -> Result<Row, Failed> {
    let workspace = home.join("flooded");
    small_project(&workspace)?;
    let image = format!("[container]\nimage = {STAND_IN:?}\n");
    let mut server =
        Server::start(&home.join("server-3"), &workspace, &model.base_url(), &image).await?;
    let result = server.run(json!({"prompt": "Print."})).await?;
    let row = row("a stand-in for Codex prints 1 GiB", &server, &result, "codex", FLOOD)?;
    server.client.close().await?;
    Ok(row)
}

fn row(
    what: &'static str,
    server: &Server,
    result: &Value,
    phase: &'static str,
    bytes: u64,
) -> Result<Row, Failed> {
    let took = result["timings_ms"][phase].as_f64().unwrap_or_default();
    Ok(Row { what, memory: high_water(&server.pid.to_string())?, phase, took, bytes })
}
