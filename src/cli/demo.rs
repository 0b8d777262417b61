//! `demo`: whole runs with a scripted model, seen as an MCP client sees them.
//!
//! The program starts itself as `serve`, with settings and state in a temporary directory, and
//! talks to it over stdio. Codex, the containers and the changed files are real; only the model is
//! scripted. Nothing that came out of a container is executed here.

mod client;
mod report;
mod stage;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::process::Command;

use super::{Context, Outcome, Stopped, engine, out};
use crate::container::label;
use crate::engine::Engine;
use crate::engine::docker::DockerEngine;
use crate::model::scripted::ScriptedModel;

use self::client::{Client, ClientError};
use self::report::{Report, Waiting, commands, printable, times};
use self::stage::{FIRST, SECOND, Stage};

/// How long the first container may take.
const FIRST_CONTAINER: Duration = Duration::from_secs(60);
/// How long an error of the pool is taken for one that passes.
const PASSING_ERROR: Duration = Duration::from_secs(3);
/// Between two looks at the pool.
const LOOK: Duration = Duration::from_millis(20);

const SCRIPTED: &str = "Only the model is scripted: a local server answers in its place, so no key \
                        is needed. The MCP\nserver, the containers, Codex itself and the changed \
                        files are real.";

/// Variables that would give the demo's server a place or a key of the user's.
const NOT_PASSED: [&str; 8] = [
    "CODEX_HOME",
    "CODEX_IMAGE",
    "CODEX_ORCHESTRATOR_CONFIG",
    "CODEX_TIMEOUT",
    "CODEX_WORKSPACE",
    "CLAUDE_PROJECT_DIR",
    "OPENAI_API_KEY",
    "WORKSPACE_FOLDER_PATHS",
];

/// Flags of `demo`.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

pub(super) async fn execute(arguments: Arguments, context: &Context) -> Result<Outcome, Stopped> {
    let engine = engine::connect(context).map_err(|error| engine::failure(&error))?;
    let sample = context.paths.checkout.as_ref().map(|checkout| checkout.join("workspace"));
    let stage = Stage::make(sample.as_deref().filter(|sample| sample.is_dir()))
        .map_err(|error| failed("the demo's directory cannot be made", &error))?;
    let model = ScriptedModel::start(stage::script())
        .await
        .map_err(|error| failed("the scripted model cannot be started", &error))?;
    let mut demo = Demo {
        engine,
        stage,
        model,
        quiet: arguments.json,
        report: Report { scripted: "model", ..Report::default() },
    };
    let shown = demo.show(context).await;
    if shown.is_err() && !arguments.json {
        demo.show_log();
    }
    shown?;
    let Demo { stage, report, .. } = demo;
    stage.remove().map_err(|error| failed("the demo's directory cannot be removed", &error))?;
    if arguments.json {
        return out::json(&report);
    }
    out::text("Nothing is left behind: no container, no process, no file.")
}

struct Demo {
    engine: DockerEngine,
    stage: Stage,
    model: ScriptedModel,
    quiet: bool,
    report: Report,
}

impl Demo {
    async fn show(&mut self, context: &Context) -> Result<(), Stopped> {
        self.say(SCRIPTED)?;
        let mut client = self.start(context).await?;
        let pid = client.pid().unwrap_or_default();
        self.wait_for_container(&mut client, pid).await?;
        self.full_auto(&mut client).await?;
        self.suggest(&mut client).await?;
        self.report.pool = client.call("codex_pool_status", json!({}), |_| {}).await?;
        self.heading("4. The end")?;
        let began = Instant::now();
        let status = client.close().await?;
        self.report.end_ms = milliseconds(began.elapsed());
        check(status.success(), "the server ended with an error")?;
        let left = self.containers(pid).await?;
        self.report.left_behind = left.len();
        self.say(&format!(
            "The client closed the server's stdin; {:.0} ms later the server had ended, and the \
             engine has {} containers of it.",
            self.report.end_ms,
            left.len()
        ))?;
        check(left.is_empty(), "containers of the server were left behind")
    }

    async fn start(&mut self, context: &Context) -> Result<Client, Stopped> {
        self.heading("1. An MCP client starts the server")?;
        let program = std::env::current_exe()
            .map_err(|error| failed("the program's own file cannot be found", &error))?;
        let image = &context.loaded.config.container.image;
        let settings = self
            .stage
            .settings(&self.model.base_url(), image)
            .map_err(|error| failed("the demo's settings cannot be written", &error))?;
        let log = std::fs::File::create(self.stage.log())
            .map_err(|error| failed("the demo's log cannot be written", &error))?;
        let mut command = Command::new(program);
        command.arg("--config").arg(settings).arg("serve").stderr(log);
        command.current_dir(self.stage.project()).env("XDG_STATE_HOME", self.stage.state());
        for name in NOT_PASSED {
            command.env_remove(name);
        }
        let began = Instant::now();
        let mut client = Client::start(&mut command)?;
        let answer = client
            .request(
                "initialize",
                json!({"protocolVersion": "2025-06-18", "capabilities": {},
                       "clientInfo": {"name": "demo", "version": env!("CARGO_PKG_VERSION")}}),
                |_| {},
            )
            .await?;
        self.report.initialize_ms = milliseconds(began.elapsed());
        client.notify("notifications/initialized").await?;
        let mut tools = client.request("tools/list", json!({}), |_| {}).await?;
        self.report.tools = tools["tools"]
            .as_array_mut()
            .into_iter()
            .flatten()
            .filter_map(|tool| Some(tool["name"].as_str()?.to_owned()))
            .collect();
        self.say(&format!(
            "{} answered initialize {:.0} ms after its process was started; its tools: {}.",
            answer["serverInfo"]["name"].as_str().unwrap_or("The server"),
            self.report.initialize_ms,
            self.report.tools.join(", ")
        ))?;
        Ok(client)
    }

    async fn wait_for_container(&mut self, client: &mut Client, pid: u32) -> Result<(), Stopped> {
        let began = Instant::now();
        let mut failing: Option<Instant> = None;
        loop {
            let status = client.call("codex_pool_status", json!({}), |_| {}).await?;
            if status["idle"].as_u64().is_some_and(|idle| idle > 0) {
                break;
            }
            let waited = began.elapsed();
            if let Some(error) = status["last_error"].as_str() {
                let since = *failing.get_or_insert_with(Instant::now);
                if since.elapsed() > PASSING_ERROR {
                    return Err(not_ready(error.to_owned()));
                }
            } else if waited > FIRST_CONTAINER {
                return Err(not_ready(format!("no container within {} s", waited.as_secs())));
            }
            tokio::time::sleep(LOOK).await;
        }
        let took = began.elapsed();
        self.report.waiting = self.containers(pid).await?;
        let names: Vec<_> = self
            .report
            .waiting
            .iter()
            .map(|waiting| format!("{} (started {})", waiting.container_id, waiting.started))
            .collect();
        self.say(&format!(
            "{} ms later a container waits for the first call: {}.",
            took.as_millis(),
            names.join(", ")
        ))
    }

    async fn full_auto(&mut self, client: &mut Client) -> Result<(), Stopped> {
        self.heading(&format!("2. codex_run \"{FIRST}\""))?;
        let before = self.files()?;
        self.say(&format!("Files before: {}", listed(&before)))?;
        let result = self.run(client, json!({"prompt": FIRST})).await?;
        let after = self.files()?;
        self.say(&format!("Files after:  {}", listed(&after)))?;
        check(result["files_changed"] == json!(["hello.py"]), "the run changed other files")?;
        check(after.contains_key("hello.py"), "the run's file did not arrive")?;
        self.show_file("hello.py")?;
        self.say(&format!(
            "Success: {}; exit code {}; changed: hello.py; changes {}; run {}.",
            result["success"],
            result["exit_code"],
            result["changes_state"].as_str().unwrap_or_default(),
            result["run_id"].as_str().unwrap_or_default()
        ))?;
        let used = result["container_id"].as_str().unwrap_or_default();
        let waited = self.report.waiting.iter().any(|waiting| waiting.container_id == used);
        self.say(&format!(
            "It ran in container {used}{}.",
            if waited { ", the one that had been waiting" } else { "" }
        ))?;
        self.say(&format!("Codex said: {}", result["output"].as_str().unwrap_or_default()))?;
        self.show_times(&result)?;
        self.report.run = result;
        Ok(())
    }

    async fn suggest(&mut self, client: &mut Client) -> Result<(), Stopped> {
        self.heading(&format!("3. codex_run \"{SECOND}\", mode suggest"))?;
        let before = self.read("hello.py")?;
        let result = self.run(client, json!({"prompt": SECOND, "mode": "suggest"})).await?;
        check(result["changes_state"] == "held", "the changes of mode suggest are not held")?;
        check(self.read("hello.py")? == before, "mode suggest changed a file")?;
        self.say("hello.py is as it was; the change is held. codex_run_diff shows it:")?;
        let run = json!({"run_id": result["run_id"]});
        let page = client.call("codex_run_diff", run.clone(), |_| {}).await?;
        let diff = page["diff"].as_str().unwrap_or_default().to_owned();
        check(diff.contains("+import sys"), "the diff does not show the change")?;
        self.quote(&diff)?;
        let applied = client.call("codex_run_apply", run, |_| {}).await?;
        check(applied["changes_state"] == "applied", &sentence(&applied))?;
        self.say("codex_run_apply applied it:")?;
        self.show_file("hello.py")?;
        check(self.read("hello.py")? != before, "the held change was not applied")?;
        self.show_times(&result)?;
        self.report.suggested = result;
        self.report.diff = diff;
        self.report.applied = applied;
        Ok(())
    }

    /// Calls `codex_run` and shows its progress as it comes.
    async fn run(&mut self, client: &mut Client, arguments: Value) -> Result<Value, Stopped> {
        drop(self.model.take_requests());
        let quiet = self.quiet;
        let began = Instant::now();
        let result = client
            .call("codex_run", arguments, |stage| {
                if !quiet {
                    let stage = printable(stage.split(" (").next().unwrap_or(stage));
                    let _ =
                        out::text(&format!("  {:>6.3} s  {stage}", began.elapsed().as_secs_f64()));
                }
            })
            .await?;
        self.say(&format!("  {:>6.3} s  answered", began.elapsed().as_secs_f64()))?;
        check(result["success"] == true, &sentence(&result))?;
        let run = self.stage.run(result["run_id"].as_str().unwrap_or_default());
        let events = std::fs::read_to_string(run.join("events.jsonl")).unwrap_or_default();
        let commands = commands(&events);
        if !commands.is_empty() {
            self.say("In the container Codex ran:")?;
            self.quote(&commands.join("\n"))?;
        }
        Ok(result)
    }

    fn show_times(&self, result: &Value) -> Result<(), Stopped> {
        if self.quiet {
            return Ok(());
        }
        let model: Duration = self
            .model
            .requests()
            .iter()
            .filter_map(|request| Some(request.answered?.duration_since(request.at)))
            .sum();
        out::text("")?;
        out::table(&["WHERE THE TIME WENT", "MS"], &times(result, milliseconds(model)))?;
        let first = result["timings_ms"]["first_request"].as_f64().unwrap_or_default();
        let requests = self.model.requests().len();
        self.say(&format!(
            "Codex asked the model {requests} times, the first time {first:.0} ms after the call."
        ))
    }

    fn show_file(&self, path: &str) -> Result<(), Stopped> {
        self.say(&format!("{path} on the host:"))?;
        self.quote(&self.read(path)?)
    }

    fn show_log(&self) {
        let log = std::fs::read_to_string(self.stage.log()).unwrap_or_default();
        for line in log.lines().filter(|line| line.contains("WARN") || line.contains("ERROR")) {
            out::note(&printable(line));
        }
    }

    /// Containers in any state that the process `pid` started.
    async fn containers(&self, pid: u32) -> Result<Vec<Waiting>, Stopped> {
        let listed = self.engine.list(label::OWNER).await;
        let listed = listed.map_err(|error| engine::failure(&error))?;
        let pid = pid.to_string();
        let text = |labels: &BTreeMap<String, String>, key| labels.get(key).cloned();
        Ok(listed
            .into_iter()
            .filter(|found| {
                // An owner is machine, boot, pid, start time and number.
                text(&found.labels, label::OWNER)
                    .is_some_and(|owner| owner.split('-').nth(2) == Some(pid.as_str()))
            })
            .map(|found| Waiting {
                container_id: found.id.short().to_owned(),
                started: text(&found.labels, label::STARTED).unwrap_or_default(),
            })
            .collect())
    }

    fn files(&self) -> Result<BTreeMap<String, u64>, Stopped> {
        self.stage.files().map_err(|error| failed("the demo's project cannot be read", &error))
    }

    fn read(&self, path: &str) -> Result<String, Stopped> {
        self.stage.read(path).map_err(|error| failed("a file of the demo cannot be read", &error))
    }

    fn heading(&self, text: &str) -> Result<(), Stopped> {
        self.say(&format!("\n{text}"))
    }

    fn quote(&self, text: &str) -> Result<(), Stopped> {
        let lines: Vec<_> = text.lines().map(|line| format!("    | {line}")).collect();
        self.say(&lines.join("\n"))
    }

    fn say(&self, text: &str) -> Result<(), Stopped> {
        if !self.quiet {
            out::text(&printable(text))?;
        }
        Ok(())
    }
}

impl From<ClientError> for Stopped {
    fn from(error: ClientError) -> Self {
        Self::failed(error.to_string())
    }
}

fn listed(files: &BTreeMap<String, u64>) -> String {
    let files: Vec<_> = files.iter().map(|(path, size)| format!("{path} ({size} bytes)")).collect();
    if files.is_empty() { "none".to_owned() } else { files.join(", ") }
}

/// The sentence of a result that is no success.
fn sentence(result: &Value) -> String {
    result["error"].as_str().unwrap_or("a call did not do what it should").to_owned()
}

fn check(holds: bool, otherwise: &str) -> Result<(), Stopped> {
    if holds { Ok(()) } else { Err(Stopped::failed(otherwise)) }
}

fn failed(what: &str, error: &std::io::Error) -> Stopped {
    Stopped::failed(format!("{what}: {error}"))
}

fn not_ready(why: String) -> Stopped {
    Stopped { outcome: Outcome::NotReady, sentence: why }
}

fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}
