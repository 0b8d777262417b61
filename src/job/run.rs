//! The stages of one run, in their order.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::codex::exec::CodexRun;
use crate::codex::log::LimitedLog;
use crate::codex::outcome::{CodexOutcome, judge};
use crate::codex::thread::ThreadId;
use crate::config::NetworkConfig;
use crate::container::{ArmedContainer, Starter};
use crate::failure::{ErrorKind, Failure};
use crate::keeper::client::{Keeper, KeeperError};
use crate::keeper::wire::IgnoredTotal;
use crate::model::gateway::{Limits, Traffic};
use crate::network;
use crate::pool::lease::Lease;
use crate::pool::stats::Phase;
use crate::verdict::{JobEnd, Verdict};
use crate::workspace::Snapshot;
use crate::workspace::change::{ChangeSet, ChangesState};
use crate::workspace::receive::ReceiveLimits;

use super::ask::{self, Asker, Asking};
use super::call::{Mode, RunCall};
use super::connections::{self, Ways};
use super::progress::ProgressSender;
use super::result::{IgnoredNew, RunResult, Status};
use super::stop::Stop;
use super::thread;
use super::told::{
    cancelled, gateway_notes, given_up, join, last_bytes, lost, not_started, over_tokens,
    timed_out, with_fate,
};
use super::transfer::{collect_changes, keeper_failure, sort_out};
use super::{Orchestrator, Settings, blocking, changes, commits};

mod asking;
mod kept;
mod prepare;
mod send;

use self::prepare::{Prepared, prepare};

/// Runs one job. Never fails: what goes wrong is in the result.
///
/// # Cancel safety
///
/// A future that is dropped destroys the container, and the result in the run's folder says only
/// that it was given up. Use `cancel` instead.
pub(super) async fn run(
    orchestrator: &Orchestrator,
    call: RunCall,
    progress: ProgressSender,
    asker: Arc<dyn Asker>,
    cancel: CancellationToken,
) -> RunResult {
    let accepted = Instant::now();
    let settings = orchestrator.settings();
    if let (Mode::Ask, Err(failure)) = (call.mode, ask::check(&*asker)) {
        return RunResult::refused(&failure);
    }
    let prepared = match prepare(orchestrator, &settings, &call).await {
        Ok(prepared) => prepared,
        Err(failure) => return RunResult::refused(&failure),
    };
    let mut result = RunResult::completed(prepared.record.id());
    let mut job = Job {
        orchestrator,
        settings: &settings,
        call: &call,
        asker: &*asker,
        progress,
        cancel,
        accepted,
        keeps: prepared.keeps,
        thread: None,
        result: &mut result,
    };
    if let Err(failure) = job.go(&prepared).await {
        let code = result.timings_ms.codex.map(|_| result.exit_code);
        result.fail(&failure);
        // Codex's own exit code says more than that of a failure, if there is one.
        if let (Status::Failed, Some(code)) = (result.status, code) {
            result.exit_code = code;
        }
    }
    result.timings_ms.total = Some(milliseconds(accepted.elapsed()));
    result.execution_time_ms = u64::try_from(accepted.elapsed().as_millis()).unwrap_or(u64::MAX);
    let Prepared { record, .. } = prepared;
    let log_prompts = settings.config.server.log_prompts;
    let whole = result.clone();
    let folder = record.folder().to_owned();
    let recorded = blocking(move || record.finish(&whole, log_prompts)).await;
    if let Err(failure) = recorded {
        tracing::error!(%failure, "the result of a run could not be recorded");
    }
    orchestrator.prune_records(folder);
    result.cut()
}

/// What is told of a run that went on without what was killed in it.
const MEMORY: &str = "a process of the run was killed at the memory limit of its container, and \
                      Codex went on without it; raise container.memory if it was needed";

/// One run under way.
struct Job<'a> {
    orchestrator: &'a Orchestrator,
    settings: &'a Settings,
    call: &'a RunCall,
    asker: &'a dyn Asker,
    progress: ProgressSender,
    cancel: CancellationToken,
    accepted: Instant,
    /// Whether what it builds stays for the next run on the same workspace.
    keeps: bool,
    /// The thread, once Codex has named it.
    thread: Option<ThreadId>,
    result: &'a mut RunResult,
}

impl Job<'_> {
    async fn go(&mut self, prepared: &Prepared) -> Result<(), Failure> {
        let mut lease = self.lease(&prepared.workspace).await?;
        let keeper = lease.container().keeper();
        let snapshot = match self.send(&mut lease, &prepared.workspace).await {
            Ok(snapshot) => snapshot,
            Err(mut failure) => {
                if failure.kind == ErrorKind::ContainerLost
                    && let Some(said) = lease.container().said_against().await
                {
                    failure = keeper_failure(KeeperError::Lost(said));
                }
                let end = match failure.kind {
                    ErrorKind::Cancelled => JobEnd::Cancelled,
                    ErrorKind::ContainerLost => JobEnd::Lost,
                    ErrorKind::DiskFull => JobEnd::DiskFull,
                    _ => JobEnd::TransferFailed,
                };
                drop(keeper);
                lease.settle(end);
                return Err(failure);
            }
        };
        let run = self.codex(&mut lease, &keeper, prepared).await;
        let (stop, outcome) = match run {
            Ok(run) => run,
            Err(failure) => {
                drop(keeper);
                lease.settle(match failure.kind {
                    ErrorKind::ContainerLost => JobEnd::Lost,
                    ErrorKind::TransferFailed => JobEnd::TransferFailed,
                    _ => JobEnd::NotStarted,
                });
                return Err(failure);
            }
        };
        let was_ended = stop.is_by_us();
        let (end, mut failure) = self.judge(&stop, &outcome);
        if failure.is_none() {
            failure = self.answer(&outcome, prepared).err();
        }
        self.tell(&outcome, failure.as_ref(), prepared);
        if matches!(stop, Stop::Lost(_)) {
            drop(keeper);
            lease.settle(JobEnd::Lost);
            return failure.map_or(Ok(()), Err);
        }
        let (orchestrator, settings) = (self.orchestrator, self.settings);
        let collected = tokio::select! {
            collected = self.collect(&keeper, snapshot, prepared) => collected,
            // The call must be answered and its container given back before the grace is over.
            () = async {
                orchestrator.ending.cancelled().await;
                tokio::time::sleep(settings.config.server.shutdown_grace / 2).await;
            } => Err((JobEnd::Cancelled, given_up())),
        };
        drop(keeper);
        let mut keeps = self.keeps;
        let (set, ignored) = match collected {
            Ok(collected) => {
                let cancelled_now = failure.is_none() && self.cancel.is_cancelled();
                // Its container is not brought up to date before the changes are applied.
                orchestrator.warm.changed(prepared.workspace.key);
                let verdict = lease.settle(if cancelled_now { JobEnd::Cancelled } else { end });
                keeps &= verdict == Verdict::Reset;
                if cancelled_now {
                    failure = Some(cancelled());
                }
                collected
            }
            Err((end, collect_failure)) => {
                lease.settle(end);
                // The first thing that went wrong is what the caller is told.
                return Err(match failure {
                    Some(failure) => with_fate(
                        failure,
                        was_ended,
                        "what Codex had changed could not be collected",
                    ),
                    None => collect_failure,
                });
            }
        };
        self.result.ignored_new = IgnoredNew::told(ignored, &set, keeps);
        let apply = failure.is_none() && self.call.mode != Mode::Suggest;
        self.progress.say(if apply { "Applying the changes" } else { "Holding the changes" });
        let began = Instant::now();
        let kept = changes::keep_and_apply(
            self.orchestrator,
            &prepared.workspace,
            &prepared.record,
            set,
            apply,
            self.cancel.clone(),
        )
        .await;
        let took = began.elapsed();
        self.result.timings_ms.apply = Some(milliseconds(took));
        self.orchestrator.pool.took(Phase::Apply, took);
        let kept = match kept {
            Ok(kept) => kept,
            Err(error) => {
                let fate = "what Codex had changed could not be recorded";
                return Err(failure.map_or(error, |failure| with_fate(failure, was_ended, fate)));
            }
        };
        let proposed = self.call.mode == Mode::Suggest && failure.is_none();
        changes::tell(self.result, &kept, proposed);
        self.result.notes.extend(kept.repository_made().then(commits::made_there));
        if apply && kept.failure.is_none() {
            let home = commits::home(self.orchestrator, &prepared.workspace, &prepared.record);
            self.result.commits = home.await.or(self.result.commits.take());
            self.result.timings_ms.apply = Some(milliseconds(began.elapsed()));
        }
        orchestrator.warm.changed(prepared.workspace.key);
        let fate = match self.result.changes_state {
            ChangesState::None => "Codex had changed nothing",
            _ => "what Codex had changed is held: look at it with codex_run_diff",
        };
        failure.or(kept.failure).map_or(Ok(()), |failure| Err(with_fate(failure, was_ended, fate)))
    }

    /// Runs Codex until it ends, its time is over, or the caller cancels; then ends every process
    /// that it left.
    async fn codex(
        &mut self,
        lease: &mut Lease<Starter>,
        keeper: &Keeper,
        prepared: &Prepared,
    ) -> Result<(Stop, CodexOutcome), Failure> {
        self.progress.say("Starting Codex");
        let config = &self.settings.config;
        if let Some(kept) = &prepared.continues {
            thread::put(keeper, kept, config.run.transfer_timeout).await?;
        }
        // The container's own: the settings may have changed since it was started.
        let mode = lease.container().network().clone();
        let network = NetworkConfig { mode, ..config.network.clone() };
        let log = |path| {
            File::create(path).map(|file| LimitedLog::new(file, config.runs.log_limit)).map_err(
                |error| {
                    Failure::new(
                        ErrorKind::Internal,
                        format!("a log of the run cannot be written ({error}); check runs.dir"),
                    )
                },
            )
        };
        let events = log(prepared.record.events_jsonl())?;
        let stderr = log(prepared.record.stderr_log())?;
        let mut run = CodexRun::new(prepared.start.nonce(), events, stderr);
        let began = Instant::now();
        let mut traffic = Traffic::new(Limits::new(&config.model, config.run.max_tokens));
        // What listens there is reached by every program of the host.
        let elsewhere =
            lease.container().gateway_port().map(|port| (port, uuid::Uuid::new_v4().to_string()));
        let gateway = elsewhere.as_ref().map(|(port, secret)| (*port, &**secret));
        let start = prepared.start.reaching(gateway, network::has_proxy(&network));
        if let Some((_, secret)) = elsewhere {
            traffic = traffic.requiring(secret);
        }
        let traffic = std::sync::Arc::new(traffic);
        let ways = Ways {
            gateway: &prepared.gateway,
            traffic: traffic.clone(),
            proxy: connections::proxy(&network)?,
        };
        let mut asking = match self.call.mode {
            Mode::Ask => {
                Some(self.asking(&mut run, prepared, log(prepared.record.approvals_jsonl())?))
            }
            _ => None,
        };
        let mut notes = Vec::new();
        let stop = {
            let limit = config.run.end_timeout;
            let following = start.follow(keeper, &mut run, &self.progress, limit, &mut notes);
            let container: &mut ArmedContainer = lease.container();
            let paused = container.paused();
            let connections = ways.serve(container.incoming());
            tokio::select! {
                stop = following => stop,
                stop = ask::clock(&mut asking, self.call.timeout) => stop,
                () = self.cancel.cancelled() => Stop::Cancelled,
                () = traffic.over_tokens() => Stop::OverTokens(traffic.report().tokens),
                reason = paused => Stop::Lost(KeeperError::Lost(reason)),
                never = connections => match never {},
            }
        };
        self.result.approvals = asking.map(Asking::finish);
        let stop = match stop {
            // What the engine knows says more than the end of a stream.
            Stop::Lost(error) => {
                let said = lease.container().said_against().await;
                Stop::Lost(said.map_or(error, KeeperError::Lost))
            }
            stop => stop,
        };
        match stop {
            Stop::NotStarted(error) => return Err(not_started(error)),
            Stop::Untested(version) => return Err(ask::untested(&version)),
            _ => {}
        }
        self.result.notes.extend(notes);
        self.result.timings_ms.codex = Some(milliseconds(began.elapsed()));
        let report = traffic.report();
        if let Some(first) = report.first_request {
            let first = first.saturating_duration_since(self.accepted.into_std());
            self.result.timings_ms.first_request = Some(milliseconds(first));
            self.orchestrator.pool.took(Phase::FirstRequest, first);
        }
        self.result.notes.extend(gateway_notes(&report));
        ways.tell(self.result, &prepared.record, &config.network.allow_hosts).await;
        Ok((stop, run.outcome()))
    }

    /// How the run left its container, and what the caller is told of it.
    fn judge(&self, stop: &Stop, outcome: &CodexOutcome) -> (JobEnd, Option<Failure>) {
        match stop {
            Stop::Ended => {
                let exit = outcome.exit.as_ref();
                let end = match exit {
                    Some(exit) if exit.disk_full.is_some() => JobEnd::DiskFull,
                    Some(exit) if exit.out_of_memory => JobEnd::OutOfMemory,
                    Some(_) => JobEnd::Completed,
                    None => JobEnd::Lost,
                };
                (end, judge(outcome).err())
            }
            Stop::TimedOut => (JobEnd::TimedOut, Some(timed_out(self.call.timeout))),
            Stop::Cancelled => (JobEnd::Cancelled, Some(cancelled())),
            Stop::ByAnswer => (JobEnd::Cancelled, Some(ask::stopped())),
            Stop::Untested(version) => (JobEnd::NotStarted, Some(ask::untested(version))),
            Stop::OverTokens(used) => {
                let limit = self.settings.config.run.max_tokens;
                (JobEnd::Cancelled, Some(over_tokens(*used, limit)))
            }
            Stop::Lost(error) | Stop::NotStarted(error) => (JobEnd::Lost, Some(lost(error))),
        }
    }

    /// Holds the answer against the form that was asked for.
    fn answer(&mut self, outcome: &CodexOutcome, prepared: &Prepared) -> Result<(), Failure> {
        let Some(schema) = &self.call.output_schema else { return Ok(()) };
        let said = prepared.gateway.redact(outcome.last_message.as_deref().unwrap_or_default());
        let limit = self.settings.config.run.output_limit;
        let short = u64::try_from(said.len()).is_ok_and(|bytes| bytes <= limit);
        let long = || format!("is {} bytes long, over run.output_limit", said.len());
        let answer = if short { schema.answer(&said) } else { Err(long()) };
        let answer = answer.map_err(|wrong| {
            let sentence = format!("Codex's answer {wrong}; output has it as it is, call again");
            Failure::new(ErrorKind::CodexFailed, sentence).passing()
        })?;
        self.result.output_json = Some(answer);
        Ok(())
    }

    /// Puts what Codex said into the result.
    fn tell(&mut self, outcome: &CodexOutcome, failure: Option<&Failure>, prepared: &Prepared) {
        let exit_code = outcome
            .exit
            .as_ref()
            .map(|exit| exit.code.unwrap_or_else(|| 128 + exit.signal.unwrap_or_default()));
        self.result.exit_code = exit_code.unwrap_or(i32::from(failure.is_some()));
        let limit = usize::try_from(self.settings.config.run.output_limit).unwrap_or(usize::MAX);
        let mut output = outcome.last_message.clone().unwrap_or_default();
        if failure.is_some_and(|failure| failure.kind == ErrorKind::TimedOut) {
            output = join("Timeout exceeded", &output);
        }
        if failure.is_some() {
            output = join(&output, outcome.stderr_tail.trim_end());
        }
        // Redacted first: the cut might leave a part of what would be known as a secret.
        self.result.output = last_bytes(&prepared.gateway.redact(&output), limit);
        self.result.usage = prepared.of_this_run(outcome.usage);
        self.thread = outcome.thread_id.as_deref().and_then(ThreadId::parse);
        if failure.is_none() && outcome.exit.as_ref().is_some_and(|exit| exit.out_of_memory) {
            self.result.notes.push(MEMORY.to_owned());
        }
    }

    /// Ends every process and takes in what changed.
    async fn collect(
        &mut self,
        keeper: &Keeper,
        snapshot: Arc<Snapshot>,
        prepared: &Prepared,
    ) -> Result<(ChangeSet, Vec<IgnoredTotal>), (JobEnd, Failure)> {
        self.progress.say("Collecting the changes");
        let Prepared { workspace, record, .. } = prepared;
        let config = &self.settings.config.run;
        let began = Instant::now();
        let limit = config.end_timeout;
        match tokio::time::timeout(limit, keeper.end()).await {
            Ok(Ok(report)) if report.left == 0 => {}
            Ok(Err(error)) => return Err((JobEnd::Lost, keeper_failure(error))),
            Ok(Ok(_)) | Err(_) => {
                return Err((
                    JobEnd::NotEnded,
                    Failure::new(
                        ErrorKind::ContainerLost,
                        format!(
                            "the processes of the run did not end within {} s (run.end_timeout); \
                             the container was destroyed and the workspace is unchanged",
                            limit.as_secs()
                        ),
                    ),
                ));
            }
        }
        let tree = &self.settings.config.workspace;
        let limits = ReceiveLimits::new(tree.max_files, tree.max_bytes);
        let limit = config.transfer_timeout;
        let failed = |failure: Failure| match failure.kind {
            ErrorKind::ContainerLost => (JobEnd::Lost, failure),
            _ => (JobEnd::TransferFailed, failure),
        };
        let collecting =
            collect_changes(keeper, Arc::clone(&snapshot), record.changes_tar(), limits, limit);
        let (received, report) = collecting.await.map_err(failed)?;
        if let (true, Some(base)) = (report.git_changed, &snapshot.git_base) {
            let bytes = self.settings.config.workspace.max_bytes;
            let limits = commits::Limits { bytes, time: config.transfer_timeout };
            self.result.commits = commits::take_out(keeper, base, record, limits).await;
        }
        if self.call.thread.keep {
            self.keep_thread(keeper, prepared).await;
        }
        let took = began.elapsed();
        self.result.timings_ms.collect = Some(milliseconds(took));
        self.orchestrator.pool.took(Phase::Collect, took);
        let set = sort_out(self.orchestrator, received, &snapshot, workspace, record).await;
        Ok((set.map_err(failed)?, report.ignored))
    }
}

/// A duration as it stands in a result.
pub(super) fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}
