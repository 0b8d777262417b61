//! The stages of one run, in their order.

use std::collections::BTreeMap;
use std::fs::File;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::codex::command::CodexCommand;
use crate::codex::exec::{self, CodexRun, Output};
use crate::codex::log::LimitedLog;
use crate::codex::outcome::{CodexOutcome, judge};
use crate::codex::progress as codex_progress;
use crate::container::{ArmedContainer, Starter};
use crate::failure::{ErrorKind, Failure};
use crate::keeper::client::{Incoming, Keeper, KeeperError, Program, ProgramEvent};
use crate::model::gateway::{Gateway, Traffic};
use crate::pool::lease::Lease;
use crate::pool::source::Pooled;
use crate::pool::stats::{Phase, name};
use crate::record::{Record, Request};
use crate::verdict::JobEnd;
use crate::workspace::send::SendRules;
use crate::workspace::{GitSent, Snapshot, Workspace};

use super::call::{Mode, RunCall};
use super::progress::ProgressSender;
use super::result::{IgnoredNew, RunResult, Sent, Usage};
use super::transfer::{collect_changes, keeper_failure, send_workspace};
use super::{Orchestrator, blocking, changes};

/// What a run needs, checked before anything is started.
struct Prepared {
    workspace: Workspace,
    gateway: Gateway,
    record: Record,
}

/// Why Codex is not running any more.
enum Stop {
    /// It ended by itself.
    Ended,
    /// The call's timeout ran out.
    TimedOut,
    /// The caller cancelled.
    Cancelled,
    /// The container was lost.
    Lost(KeeperError),
}

/// Runs one job. Never fails: what goes wrong is in the result.
///
/// # Cancel safety
///
/// A future that is dropped destroys the container and leaves a run folder without a result. Use
/// `cancel` instead.
pub(super) async fn run(
    orchestrator: &Orchestrator,
    call: RunCall,
    progress: ProgressSender,
    cancel: CancellationToken,
) -> RunResult {
    let accepted = Instant::now();
    let prepared = match prepare(orchestrator, &call).await {
        Ok(prepared) => prepared,
        Err(failure) => return RunResult::refused(&failure),
    };
    let mut result = RunResult::completed(prepared.record.id());
    let mut job = Job { orchestrator, call: &call, progress, cancel, accepted, result: &mut result };
    if let Err(failure) = job.go(&prepared).await {
        // Codex's own exit code says more than that of a failure, if there is one.
        let code = result.timings_ms.codex.map(|_| result.exit_code);
        result.fail(&failure);
        result.exit_code = code.unwrap_or(result.exit_code);
    }
    result.timings_ms.total = Some(milliseconds(accepted.elapsed()));
    result.execution_time_ms = u64::try_from(accepted.elapsed().as_millis()).unwrap_or(u64::MAX);
    let Prepared { record, .. } = prepared;
    let log_prompts = orchestrator.config.server.log_prompts;
    let whole = result.clone();
    let recorded = blocking(move || record.finish(&whole, log_prompts)).await;
    if let Err(failure) = recorded {
        tracing::error!(%failure, "the result of a run could not be recorded");
    }
    orchestrator.prune_records();
    result.cut()
}

/// Checks everything that can be checked without a container, and opens the record.
async fn prepare(orchestrator: &Orchestrator, call: &RunCall) -> Result<Prepared, Failure> {
    let gateway = orchestrator.gateway()?;
    let roots = orchestrator.roots.clone();
    let runs = orchestrator.places.runs.clone();
    let call = call.clone();
    blocking(move || {
        let workspace = roots.resolve(call.repo.as_deref(), call.working_dir.as_deref())?;
        let record = Record::create(&runs, &Request::new(&call, &workspace.path))?;
        Ok::<_, Failure>(Prepared { workspace, gateway, record })
    })
    .await
}

/// One run under way.
struct Job<'a> {
    orchestrator: &'a Orchestrator,
    call: &'a RunCall,
    progress: ProgressSender,
    cancel: CancellationToken,
    accepted: Instant,
    result: &'a mut RunResult,
}

impl Job<'_> {
    async fn go(&mut self, prepared: &Prepared) -> Result<(), Failure> {
        let mut lease = self.lease(&prepared.workspace).await?;
        let keeper = lease.container().keeper();
        let snapshot = match self.send(&keeper, &prepared.workspace).await {
            Ok(snapshot) => snapshot,
            Err(failure) => {
                let end = match failure.kind {
                    ErrorKind::Cancelled => JobEnd::Cancelled,
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
                lease.settle(JobEnd::Lost);
                return Err(failure);
            }
        };
        let (end, failure) = self.judge(&stop, &outcome);
        self.tell(&outcome, failure.as_ref(), &prepared.gateway);
        if matches!(stop, Stop::Lost(_)) {
            drop(keeper);
            lease.settle(JobEnd::Lost);
            return failure.map_or(Ok(()), Err);
        }
        // A run that was cancelled already is collected all the same, so that it can be held.
        let cancel = self.cancel.clone();
        let given_up = async {
            match stop {
                Stop::Cancelled => std::future::pending().await,
                _ => cancel.cancelled().await,
            }
        };
        let collected = tokio::select! {
            biased;
            collected = self.collect(&keeper, snapshot, &prepared.record) => collected,
            () = given_up => Err((JobEnd::Cancelled, cancelled("while its changes were collected"))),
        };
        drop(keeper);
        let (set, report) = match collected {
            Ok(collected) => {
                lease.settle(end);
                collected
            }
            Err((end, collect_failure)) => {
                lease.settle(end);
                // The first thing that went wrong is what the caller is told.
                return Err(failure.unwrap_or(collect_failure));
            }
        };
        self.result.ignored_new = report;
        // From here on the run goes to its end: an apply is never left half done.
        let failure = failure.or_else(|| {
            self.cancel.is_cancelled().then(|| cancelled("and what Codex had changed is held"))
        });
        let apply = failure.is_none() && self.call.mode == Mode::FullAuto;
        self.progress.say(if apply { "applying the changes" } else { "holding the changes" });
        let began = Instant::now();
        let applied = changes::keep_and_apply(
            self.orchestrator,
            &prepared.workspace,
            &prepared.record,
            set,
            apply,
        )
        .await;
        let took = began.elapsed();
        self.result.timings_ms.apply = Some(milliseconds(took));
        self.orchestrator.pool.took(Phase::Apply, took);
        let outcome = applied.map(|applied| {
            changes::tell(self.result, &applied, self.call.mode == Mode::Suggest && failure.is_none());
        });
        match (failure, outcome) {
            (Some(failure), _) => Err(failure),
            (None, outcome) => outcome,
        }
    }

    async fn lease(&mut self, workspace: &Workspace) -> Result<Lease<Starter>, Failure> {
        let pool = &self.orchestrator.pool;
        self.progress.say(match pool.waiting() {
            0 => String::from("waiting for a container"),
            waiting => format!("waiting for a container behind {waiting} other calls"),
        });
        let began = Instant::now();
        let mut lease = tokio::select! {
            biased;
            () = self.cancel.cancelled() => return Err(cancelled("before Codex was started")),
            lease = pool.acquire(workspace.key) => lease?,
        };
        let took = milliseconds(began.elapsed());
        let miss = lease.miss();
        self.result.timings_ms.queue = Some(if miss.is_some() { took } else { 0.0 });
        self.result.timings_ms.checkout = Some(if miss.is_some() { 0.0 } else { took });
        self.result.warm = Some(miss.is_none());
        self.result.cold_reason = miss.map(name);
        self.result.container_id = Some(lease.container().id().short().to_owned());
        Ok(lease)
    }

    async fn send(&mut self, keeper: &Keeper, workspace: &Workspace) -> Result<Snapshot, Failure> {
        self.progress.say("sending the workspace");
        let config = &self.orchestrator.config;
        let began = Instant::now();
        let sending = send_workspace(
            keeper,
            workspace.clone(),
            SendRules::from(&config.workspace),
            self.orchestrator.places.state.clone(),
            config.run.transfer_timeout,
        );
        let snapshot = tokio::select! {
            biased;
            () = self.cancel.cancelled() => return Err(cancelled("before Codex was started")),
            snapshot = sending => snapshot?,
        };
        let took = began.elapsed();
        self.orchestrator.pool.took(Phase::Send, took);
        self.result.timings_ms.send = Some(milliseconds(took));
        self.result.sent = Some(Sent { files: snapshot.files, bytes: snapshot.bytes, full: true });
        self.result.stayed_home =
            snapshot.stayed_home.iter().map(|stayed| stayed.path.clone()).collect();
        if let GitSent::StayedHome(reason) = &snapshot.git {
            self.result.stayed_home.push(format!(".git ({reason})"));
        }
        Ok(snapshot)
    }

    /// Runs Codex until it ends, its time is over, or the caller cancels; then ends every process
    /// that it left.
    async fn codex(
        &mut self,
        lease: &mut Lease<Starter>,
        keeper: &Keeper,
        prepared: &Prepared,
    ) -> Result<(Stop, CodexOutcome), Failure> {
        self.progress.say("starting Codex");
        let config = &self.orchestrator.config;
        let command = CodexCommand {
            prompt: self.call.prompt.clone(),
            model: self.call.model.clone().or_else(|| {
                Some(config.codex.model.clone()).filter(|model| !model.is_empty())
            }),
            working_dir: prepared.workspace.working_dir.clone(),
            env_vars: self
                .call
                .env_vars
                .iter()
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect::<BTreeMap<_, _>>(),
        };
        let nonce = uuid::Uuid::new_v4().to_string();
        let request = command.spawn_request(nonce.clone())?;
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
        let mut run =
            CodexRun::new(nonce, log(prepared.record.events_jsonl())?, log(prepared.record.stderr_log())?);
        let began = Instant::now();
        let mut program = Running(keeper.spawn(request).await.map_err(keeper_failure)?);
        let traffic = std::sync::Arc::new(Traffic::default());
        let progress = self.progress.clone();
        let stop = {
            let following = run.follow(&mut program, |event| {
                if let Some(line) = codex_progress::line(event) {
                    progress.say(line);
                }
            });
            let container: &mut ArmedContainer = lease.container();
            let connections = serve(container.incoming(), &prepared.gateway, &traffic);
            tokio::select! {
                followed = following => match followed {
                    Ok(()) => Stop::Ended,
                    Err(error) => Stop::Lost(error),
                },
                () = tokio::time::sleep(self.call.timeout) => Stop::TimedOut,
                () = self.cancel.cancelled() => Stop::Cancelled,
                never = connections => match never {},
            }
        };
        self.result.timings_ms.codex = Some(milliseconds(began.elapsed()));
        let report = traffic.report();
        if let Some(first) = report.first_request {
            let first = first.saturating_duration_since(self.accepted.into_std());
            self.result.timings_ms.first_request = Some(milliseconds(first));
            self.orchestrator.pool.took(Phase::FirstRequest, first);
        }
        for denied in &report.denied {
            tracing::warn!(what = %denied, "the gateway refused a request");
        }
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
            Stop::TimedOut => (
                JobEnd::TimedOut,
                Some(Failure::new(
                    ErrorKind::TimedOut,
                    format!(
                        "Execution timeout after {} s; what Codex had changed is held: look at it \
                         with codex_run_diff, or call again with a longer timeout",
                        self.call.timeout.as_secs()
                    ),
                )),
            ),
            Stop::Cancelled => (JobEnd::Cancelled, Some(cancelled("and what Codex had changed is held"))),
            Stop::Lost(error) => (JobEnd::Lost, Some(keeper_failure(error.clone()))),
        }
    }

    /// Puts what Codex said into the result.
    fn tell(&mut self, outcome: &CodexOutcome, failure: Option<&Failure>, gateway: &Gateway) {
        let exit_code = outcome.exit.as_ref().map(|exit| {
            exit.code.unwrap_or_else(|| 128 + exit.signal.unwrap_or_default())
        });
        self.result.exit_code = match failure.map(|failure| failure.kind) {
            Some(ErrorKind::TimedOut) => super::result::EXIT_TIMED_OUT,
            Some(ErrorKind::Cancelled) => super::result::EXIT_CANCELLED,
            Some(_) => exit_code.unwrap_or(1),
            None => exit_code.unwrap_or(0),
        };
        let limit = usize::try_from(self.orchestrator.config.run.output_limit).unwrap_or(usize::MAX);
        let mut output = outcome.last_message.clone().unwrap_or_default();
        if failure.is_some_and(|failure| failure.kind == ErrorKind::TimedOut) {
            output = join("Timeout exceeded", &output);
        }
        if failure.is_some() {
            output = join(&output, outcome.stderr_tail.trim_end());
        }
        self.result.output = gateway.redact(&last_bytes(&output, limit));
        self.result.usage = outcome.usage.map(|usage| Usage {
            input_tokens: usage.input_tokens,
            cached_input_tokens: usage.cached_input_tokens,
            output_tokens: usage.output_tokens,
            reasoning_output_tokens: usage.reasoning_output_tokens,
        });
    }

    /// Ends every process and takes in what changed.
    async fn collect(
        &mut self,
        keeper: &Keeper,
        snapshot: Snapshot,
        record: &Record,
    ) -> Result<(crate::workspace::change::ChangeSet, Vec<IgnoredNew>), (JobEnd, Failure)> {
        self.progress.say("collecting the changes");
        let config = &self.orchestrator.config.run;
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
        let (received, snapshot, report) =
            collect_changes(keeper, snapshot, record.changes_tar(), config.transfer_timeout)
                .await
                .map_err(|failure| (JobEnd::TransferFailed, failure))?;
        let took = began.elapsed();
        self.result.timings_ms.collect = Some(milliseconds(took));
        self.orchestrator.pool.took(Phase::Collect, took);
        let set =
            crate::workspace::classify::classify(&received, &snapshot, &self.orchestrator.policy);
        let ignored = report
            .ignored
            .into_iter()
            .map(|ignored| IgnoredNew { path: ignored.path, bytes: ignored.bytes })
            .collect();
        Ok((set, ignored))
    }
}

/// The program in the container as a source of Codex's output.
struct Running(Program);

impl exec::Source for Running {
    type Error = KeeperError;

    async fn next(&mut self) -> Result<Output, KeeperError> {
        Ok(match self.0.next().await? {
            ProgramEvent::Stdout(bytes) => Output::Stdout(bytes),
            ProgramEvent::Stderr(bytes) => Output::Stderr(bytes),
            ProgramEvent::Exited(report) => Output::Exited(report),
        })
    }
}

/// Serves the connections that Codex makes to the model, until it is dropped.
async fn serve(
    incoming: &mut Incoming,
    gateway: &Gateway,
    traffic: &std::sync::Arc<Traffic>,
) -> std::convert::Infallible {
    let mut open = FuturesUnordered::new();
    loop {
        tokio::select! {
            connection = incoming.accept() => match connection {
                Some(connection) => {
                    open.push(gateway.serve(connection, std::sync::Arc::clone(traffic)));
                }
                // The loss is told by the program's stream.
                None => std::future::pending().await,
            },
            Some(()) = open.next() => {}
        }
    }
}

fn cancelled(when: &str) -> Failure {
    Failure::new(
        ErrorKind::Cancelled,
        format!("the run was cancelled {when}; the workspace is unchanged"),
    )
}

/// A duration as it stands in a result.
pub(super) fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

fn join(first: &str, second: &str) -> String {
    match (first.is_empty(), second.is_empty()) {
        (true, _) => second.to_owned(),
        (_, true) => first.to_owned(),
        _ => format!("{first}\n{second}"),
    }
}

/// The end of `text`, whole characters, with a mark where something was cut.
fn last_bytes(text: &str, limit: usize) -> String {
    if text.len() <= limit {
        return text.to_owned();
    }
    let from = (text.len() - limit..=text.len()).find(|at| text.is_char_boundary(*at));
    format!("[{} bytes cut]\n{}", text.len() - limit, &text[from.unwrap_or(text.len())..])
}
