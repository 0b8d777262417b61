//! Flags, logging, settings, call, exit code.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use mcp_codex_orchestrator::cli::{Cli, Context, Outcome, Stopped};
use mcp_codex_orchestrator::config::{self, LogFormat, Overrides, Paths, ServerConfig};
use mcp_codex_orchestrator::memory;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::prelude::*;

/// How long the runtime may take to end: a read that waits on stdin cannot be stopped.
const RUNTIME_END: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    memory::keep_little();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { code(Outcome::Usage) } else { ExitCode::SUCCESS };
        }
    };
    match start(cli) {
        Ok(outcome) => code(outcome),
        Err(stopped) => {
            let _ = writeln!(std::io::stderr(), "mcp-codex-orchestrator: {}", stopped.sentence);
            code(stopped.outcome)
        }
    }
}

/// The exit codes, which programs that call us rely on.
fn code(outcome: Outcome) -> ExitCode {
    ExitCode::from(match outcome {
        Outcome::Success => 0,
        Outcome::Failed => 1,
        Outcome::Usage => 2,
        Outcome::NotReady => 3,
        Outcome::TimedOut => 124,
        Outcome::Interrupted => 130,
    })
}

fn start(cli: Cli) -> Result<Outcome, Stopped> {
    let failed = |what: &str, error: std::io::Error| Stopped {
        outcome: Outcome::Failed,
        sentence: format!("{what}: {error}"),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| failed("the runtime cannot be started", error))?;
    if cli.needs_no_settings() {
        let config = cli.config.clone();
        return runtime.block_on(cli.command().execute_without_settings(config));
    }
    let lookup = |name: &str| std::env::var(name).ok();
    let overrides = cli.overrides();
    let loaded = config::load(&overrides, lookup)?;
    start_log(&loaded.config.server, cli.is_server() || lookup("RUST_LOG").is_some());
    let current = std::env::current_dir()
        .map_err(|error| failed("the current directory cannot be read", error))?;
    let paths = Paths::find(&loaded.config, lookup, &current)?;
    let Overrides { config, workspace } = overrides;
    let context = Context { loaded, paths, lookup: Arc::new(lookup), config, workspace };
    let outcome = runtime.block_on(cli.command().execute(context));
    runtime.shutdown_timeout(RUNTIME_END);
    outcome
}

/// Logs go to stderr; a command that a person looks at logs only what went wrong.
fn start_log(config: &ServerConfig, whole: bool) {
    let filter = EnvFilter::new(if whole { &*config.log } else { "error" });
    // The protocol library logs whole messages, with the values of env_vars; no filter brings
    // those back.
    let no_messages = filter_fn(|event| {
        !event.target().starts_with("rmcp") || *event.level() <= tracing::Level::WARN
    });
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match config.log_format {
        LogFormat::Text => builder.with_ansi(false).finish().with(no_messages).init(),
        LogFormat::Json => builder.json().finish().with(no_messages).init(),
    }
}
