//! Starts Codex in a container by one of its two ways, and follows it to its end.

use std::fs::File;
use std::time::Duration;

use crate::codex::app_server::{NotOpened, TESTED, Waiting};
use crate::codex::command::{self, CodexCommand};
use crate::codex::events::CodexEvent;
use crate::codex::exec::CodexRun;
use crate::codex::progress as codex_progress;
use crate::config::CodexStart;
use crate::failure::Failure;
use crate::keeper::client::{Keeper, KeeperError};
use crate::keeper::wire::SpawnRequest;

use super::output::Running;
use super::progress::ProgressSender;
use super::stop::Stop;

/// What Codex is started with. Checked before there is a container.
#[derive(Debug)]
pub(super) struct Start {
    way: CodexStart,
    command: CodexCommand,
    exec: SpawnRequest,
    app_server: SpawnRequest,
}

impl Start {
    /// Of `command` by `way`; the exit report will have `nonce`.
    ///
    /// # Errors
    ///
    /// As [`CodexCommand::spawn_request`].
    pub(super) fn new(
        way: CodexStart,
        command: CodexCommand,
        nonce: &str,
    ) -> Result<Self, Failure> {
        let exec = command.spawn_request(nonce)?;
        let app_server = command.app_server_request(nonce);
        Ok(Self { way, command, exec, app_server })
    }

    /// The nonce.
    pub(super) fn nonce(&self) -> &str {
        &self.exec.nonce
    }

    /// The same for a container whose gateway is elsewhere, or in which there is a proxy.
    pub(super) fn reaching(&self, gateway: Option<(u16, &str)>, proxy: bool) -> Self {
        let (mut exec, mut app_server) = (self.exec.clone(), self.app_server.clone());
        for request in [&mut exec, &mut app_server] {
            if let Some((port, secret)) = gateway {
                command::reach_gateway(request, port, secret);
            }
            if proxy {
                command::reach_proxy(request);
            }
        }
        Self { way: self.way, command: self.command.clone(), exec, app_server }
    }

    /// Starts Codex and follows it.
    ///
    /// # Cancel safety
    ///
    /// What went by until then is in `run`. Processes may be left, which an end of all must end.
    pub(super) async fn follow(
        self,
        keeper: &Keeper,
        run: &mut CodexRun<File>,
        progress: &ProgressSender,
        end_timeout: Duration,
        notes: &mut Vec<String>,
    ) -> Stop {
        let tell = |event: &CodexEvent| {
            if let Some(line) = codex_progress::line(event) {
                progress.say(line);
            }
        };
        let asks = self.command.asks;
        // `codex exec` never asks.
        let way = if asks { CodexStart::AppServer } else { self.way };
        let followed = match way {
            CodexStart::Exec => exec(keeper, self.exec, run, tell).await,
            CodexStart::AppServer => {
                match app_server(keeper, self.app_server, &self.command, run, end_timeout, tell)
                    .await
                {
                    Ok(None) => Ok(()),
                    Ok(Some(version)) if asks => Err(Stop::Untested(version)),
                    Ok(Some(version)) => {
                        notes.push(untested(&version));
                        exec(keeper, self.exec, run, tell).await
                    }
                    Err(stop) => Err(stop),
                }
            }
        };
        followed.map_or_else(|stop| stop, |()| Stop::Ended)
    }
}

fn untested(version: &str) -> String {
    format!(
        "codex.start = \"app-server\" was not tried with the image's Codex {version:?} (but with {}), \
         so this run used codex exec",
        TESTED.join(", ")
    )
}

async fn exec(
    keeper: &Keeper,
    request: SpawnRequest,
    run: &mut CodexRun<File>,
    tell: impl FnMut(&CodexEvent) + Send,
) -> Result<(), Stop> {
    let program = keeper.spawn(request).await.map_err(Stop::NotStarted)?;
    run.follow(&mut Running(program), tell).await.map_err(Stop::Lost)
}

/// Runs it to its end; the version, if it is one by which it is not run.
async fn app_server(
    keeper: &Keeper,
    request: SpawnRequest,
    command: &CodexCommand,
    run: &mut CodexRun<File>,
    end_timeout: Duration,
    tell: impl FnMut(&CodexEvent) + Send,
) -> Result<Option<String>, Stop> {
    // Checked with the request of `codex exec`, which has the same in it.
    let thread = command
        .thread()
        .map_err(|failure| Stop::NotStarted(KeeperError::Refused(failure.sentence)))?;
    let program = keeper.spawn_open(request).await.map_err(Stop::NotStarted)?;
    let mut codex = match Waiting::open(Running(program), &thread).await {
        Ok(codex) => codex,
        Err(NotOpened::Lost(error)) => return Err(Stop::Lost(error)),
        Err(NotOpened::Untested { version }) => {
            end(keeper, end_timeout).await?;
            return Ok(Some(version));
        }
        Err(NotOpened::Failed(codex, opening)) => {
            run.not_opened(opening);
            return finish(keeper, run, codex, end_timeout).await;
        }
    };
    run.turn(&mut codex, command.turn(), tell).await.map_err(Stop::Lost)?;
    finish(keeper, run, codex.into_peer(), end_timeout).await
}

/// Ends every process, unless Codex has ended by itself, and reads its exit report.
async fn finish(
    keeper: &Keeper,
    run: &mut CodexRun<File>,
    mut codex: Running,
    end_timeout: Duration,
) -> Result<Option<String>, Stop> {
    if !run.has_exited() {
        end(keeper, end_timeout).await?;
        run.last_words(&mut codex).await.map_err(Stop::Lost)?;
    }
    Ok(None)
}

/// What is not ended by then is told by the end of all that comes before the collecting.
async fn end(keeper: &Keeper, end_timeout: Duration) -> Result<(), Stop> {
    match tokio::time::timeout(end_timeout, keeper.end()).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(Stop::Lost(error)),
        Err(_) => Err(Stop::Lost(KeeperError::Lost(format!(
            "its processes did not end within {} s (run.end_timeout)",
            end_timeout.as_secs()
        )))),
    }
}
