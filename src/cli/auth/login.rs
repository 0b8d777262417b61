//! `auth login`: Codex's own device login, in a container that has a network and never runs a job.
//!
//! ```text
//!  CODEX_HOME can be written ─> container, armed ─> codex login, its words ─> auth.json, checked
//!                                     │ Ctrl-C, --timeout, a failure             │
//!                                     └──────────> removed <─────────────────────┤
//!                                                                 in its place <─┘
//! ```
//!
//! What the login left comes over the keeper's stream, in memory; it is in no argument, no log and
//! no file but the last.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::super::{Context, Outcome, Stopped, engine, out};
use crate::codex::login::{Lines, PROXIES, login_request, read_request};
use crate::config::NetworkConfig;
use crate::container::{Profile, Starter};
use crate::engine::{Engine, Network};
use crate::failure::Failure;
use crate::keeper::client::{Keeper, KeeperError, ProgramEvent};
use crate::keeper::wire::ExitReport;
use crate::model::credentials::{self, Credential, NewLogin, Source, Status, TOKEN_ENDPOINT};
use crate::model::redact;
use crate::pool::owner::Owner;
use crate::pool::source::{Pooled, Source as _};
use crate::server;

/// Lines of Codex's that are shown at most.
const MAX_LINES: usize = 200;

/// Flags of `auth login`.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// How long the login may take; the code that Codex shows is good for 15 minutes.
    #[arg(long, value_name = "TIME", default_value = "16m", value_parser = humantime::parse_duration)]
    pub timeout: Duration,
    /// Print JSON. The words of the login go to stderr.
    #[arg(long)]
    pub json: bool,
    /// Another login server.
    #[arg(long, value_name = "URL", hide = true)]
    pub issuer: Option<String>,
}

/// What came of it.
#[derive(Serialize)]
struct LoggedIn {
    #[serde(flatten)]
    status: Status,
    /// What was in `auth.json` before.
    #[serde(skip_serializing_if = "Option::is_none")]
    replaced: Option<String>,
    /// Whether runs use it.
    used: bool,
}

pub(super) async fn execute(arguments: &Arguments, context: &Context) -> Result<Outcome, Stopped> {
    let home = &context.paths.codex_home;
    let failed = |error: &dyn std::fmt::Display| Stopped::failed(error.to_string());
    let replaced = credentials::present(home);
    credentials::make_ready(home).map_err(|error| failed(&error))?;
    let cancel = CancellationToken::new();
    server::cancel_on_signals(cancel.clone()).map_err(|error| failed(&error))?;
    let path = home.join("auth.json");
    if let Some(replaced) = &replaced {
        let path = path.display();
        out::note(&format!("{path} holds {replaced}; it stays until the new login is there."));
    }

    let login = in_container(arguments, context, &cancel).await?;
    login.install(home).await.map_err(|error| failed(&error))?;

    let installed = Credential::chatgpt(home, TOKEN_ENDPOINT).map_err(Failure::from)?;
    let found = super::find(context);
    let used = found.as_ref().is_ok_and(|found| *found.source() == Source::Login(path));
    let logged_in = LoggedIn { status: installed.status(), replaced, used };
    if arguments.json {
        out::json(&logged_in)?;
    } else {
        out::text(&format!("Logged in: {}.", logged_in.status.line()))?;
    }
    match found {
        Err(error) => out::note(&format!("Runs do not use it: {error}.")),
        Ok(found) if !used => out::note(&format!(
            "Runs do not use it: the credential from {} goes before it; set model.auth = \
             \"chatgpt\" to use the login.",
            found.source()
        )),
        Ok(_) => {}
    }
    Ok(Outcome::Success)
}

/// Starts a container, logs in in it, and removes it in every case.
async fn in_container(
    arguments: &Arguments,
    context: &Context,
    cancel: &CancellationToken,
) -> Result<NewLogin, Stopped> {
    let config = &context.loaded.config;
    let engine = engine::connect(context).map_err(|error| engine::failure(&error))?;
    let engine: Arc<dyn Engine> = Arc::new(engine);
    let owner = Owner::claim(&context.paths.state).map_err(|e| Stopped::failed(e.to_string()))?;
    let mode = match &config.network.mode {
        Network::None => Network::Bridge,
        other => other.clone(),
    };
    let network = NetworkConfig { mode, allow_hosts: Vec::new() };
    let profile = Profile { network, ..Profile::of(config, &[]) };
    let starter = Starter::new(engine, profile, Arc::new(owner));
    out::note("Starting a container with a network for codex login; Ctrl-C ends it.");
    // Not left in the middle, since it would leave a container; container.start_timeout bounds it.
    let container = starter.start().await.map_err(|e| Failure::new(e.kind, e.sentence))?;
    let outcome = tokio::select! {
        biased;
        () = cancel.cancelled() => Err(Stopped {
            outcome: Outcome::Interrupted,
            sentence: "the login was interrupted; nothing was changed".to_owned(),
        }),
        outcome = tokio::time::timeout(arguments.timeout, log_in(container.keeper(), arguments, context)) => {
            outcome.unwrap_or_else(|_| Err(Stopped {
                outcome: Outcome::TimedOut,
                sentence: format!(
                    "nobody logged in within {} (--timeout); nothing was changed, call this again",
                    humantime::format_duration(arguments.timeout)
                ),
            }))
        }
    };
    let id = container.id().clone();
    drop(container);
    if let Err(error) = starter.remove(&id).await {
        out::note(&format!("warning: the container {id} was not removed: {error}"));
    }
    outcome
}

/// Runs Codex's login, shows its words as they come, and takes what it left.
async fn log_in(
    keeper: Keeper,
    arguments: &Arguments,
    context: &Context,
) -> Result<NewLogin, Stopped> {
    let nonce = || uuid::Uuid::new_v4().to_string();
    let proxies = PROXIES
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), (context.lookup)(name)?)))
        .collect();
    let request = login_request(arguments.issuer.as_deref(), proxies, nonce());
    let mut program = keeper.spawn(request).await.map_err(lost)?;
    let (mut stdout, mut stderr) = (Lines::default(), Lines::default());
    let (mut shown, mut last) = (0, String::new());
    let mut show = |line: &str| {
        shown += 1;
        if shown <= MAX_LINES {
            out::note(line);
        }
    };
    let exit = loop {
        match program.next().await.map_err(lost)? {
            ProgramEvent::Stdout(bytes) => stdout.feed(&bytes, &mut show),
            ProgramEvent::Stderr(bytes) => stderr.feed(&bytes, |line| keep(&mut last, line)),
            ProgramEvent::Exited(exit) => break exit,
        }
    };
    stdout.finish(&mut show);
    stderr.finish(|line| keep(&mut last, line));
    if exit.code != Some(0) {
        return Err(Stopped::failed(refused(&exit, &last)));
    }
    let text = read(&keeper, nonce()).await?;
    NewLogin::check(text).map_err(|what| {
        Stopped::failed(format!(
            "what codex login left {what}; nothing was changed, call this again"
        ))
    })
}

/// What the login left; empty if it left nothing.
async fn read(keeper: &Keeper, nonce: String) -> Result<Vec<u8>, Stopped> {
    let mut program = keeper.spawn(read_request(nonce)).await.map_err(lost)?;
    let mut text = Vec::new();
    loop {
        match program.next().await.map_err(lost)? {
            ProgramEvent::Stdout(bytes) => text.extend_from_slice(&bytes),
            ProgramEvent::Stderr(_) => {}
            ProgramEvent::Exited(_) => return Ok(text),
        }
        if text.len() as u64 > NewLogin::MAX_BYTES {
            return Ok(text);
        }
    }
}

fn keep(last: &mut String, line: &str) {
    if !line.trim().is_empty() {
        line.trim().clone_into(last);
    }
}

fn lost(error: KeeperError) -> Stopped {
    Stopped::failed(format!("the login's container was lost ({error}); nothing was changed"))
}

/// Why there is no login, and what to do.
fn refused(exit: &ExitReport, last: &str) -> String {
    let last = redact(last);
    let said = match (last.is_empty(), exit.code) {
        (false, _) => last,
        (true, Some(code)) => format!("exit code {code}"),
        (true, None) => "it was killed".to_owned(),
    };
    let advice = if said.contains("error sending request") {
        "check that containers of this engine reach the internet (network.mode names another \
         network, HTTPS_PROXY a proxy), or run codex login on this machine"
    } else if said.contains("not enabled") {
        "allow device codes in the security settings of ChatGPT, or run codex login on this machine"
    } else {
        "call this again, or run codex login on this machine"
    };
    format!("codex login failed: {said}; nothing was changed; {advice}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_to_do_and_shows_no_token() {
        let exit = ExitReport {
            nonce: String::new(),
            code: Some(1),
            signal: None,
            out_of_memory: false,
            disk_full: None,
            dropped_bytes: 0,
        };
        for (said, want) in [
            ("Error logging in: error sending request for url (https://a/b)", "network.mode"),
            ("Error: device code login is not enabled for this Codex server.", "security settings"),
            ("token eyJhbGciOiJSUzI1NiJ9.e30.c2ln", "[redacted]"),
            ("", "exit code 1"),
        ] {
            let sentence = refused(&exit, said);
            assert!(
                sentence.contains(want) && sentence.contains("nothing was changed"),
                "{sentence}"
            );
            assert!(!sentence.contains("eyJ"), "{sentence}");
        }
    }
}
