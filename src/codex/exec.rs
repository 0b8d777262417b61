//! Follows one run of Codex from its first byte to its exit report.

use std::future::Future;
use std::io::Write;

use super::app_server::approval::{Answer, Desk};
use super::app_server::protocol::TurnStartParams;
use super::app_server::{Opening, Peer, Waiting};
use super::events::{CodexEvent, EventParser, Item, Phase};
use super::log::{LimitedLog, Tail};
use super::outcome::{CodexOutcome, Turn, unusable};
use crate::keeper::wire::ExitReport;

/// What of stderr is kept for the outcome, in bytes.
const STDERR_TAIL: usize = 8 * 1024;

/// Warnings kept for the outcome.
const MAX_WARNINGS: usize = 20;

/// What a program gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Bytes of its stdout.
    Stdout(Vec<u8>),
    /// Bytes of its stderr.
    Stderr(Vec<u8>),
    /// It has ended; nothing comes after.
    Exited(ExitReport),
}

/// Where the output comes from: a program in a container, or a test.
pub trait Source {
    /// Why there is no more.
    type Error;

    /// The next output. Must be cancel safe. Not called again after [`Output::Exited`].
    fn next(&mut self) -> impl Future<Output = Result<Output, Self::Error>> + Send;
}

/// A run of Codex as it is followed. Holds a bounded amount of what went by, so it can be asked
/// for an outcome at any time, also when the run was cut short.
#[derive(Debug)]
pub struct CodexRun<W> {
    nonce: String,
    events_log: LimitedLog<W>,
    stderr_log: LimitedLog<W>,
    parser: EventParser,
    stderr: Tail,
    seen: CodexOutcome,
    desk: Option<Desk>,
}

impl<W: Write + Send> CodexRun<W> {
    /// The run whose exit report will have `nonce`. Codex's events go to `events_log` as they come,
    /// its stderr to `stderr_log`.
    pub fn new(
        nonce: impl Into<String>,
        events_log: LimitedLog<W>,
        stderr_log: LimitedLog<W>,
    ) -> Self {
        Self {
            nonce: nonce.into(),
            events_log,
            stderr_log,
            parser: EventParser::default(),
            stderr: Tail::new(STDERR_TAIL),
            seen: CodexOutcome::default(),
            desk: None,
        }
    }

    /// In its turns, Codex's questions go to `desk` and are answered from there. Without it none is
    /// answered but by a refusal. If nobody is at the other end any more, they are declined.
    pub fn asking(&mut self, desk: Desk) {
        self.desk = Some(desk);
    }

    /// Follows `source` to its end; calls `sink` for each event. Knows no deadline.
    ///
    /// # Errors
    ///
    /// Those of the source; then there is no exit report.
    ///
    /// # Cancel safety
    ///
    /// What went by until then is in [`outcome`](Self::outcome); calling it again goes on.
    pub async fn follow<S: Source>(
        &mut self,
        source: &mut S,
        mut sink: impl FnMut(&CodexEvent) + Send,
    ) -> Result<(), S::Error> {
        loop {
            match source.next().await? {
                Output::Stdout(bytes) => {
                    self.events_log.append(&bytes);
                    let seen = &mut self.seen;
                    self.parser.feed(&bytes, |event| {
                        note(seen, &event);
                        sink(&event);
                    });
                }
                Output::Stderr(bytes) => {
                    self.stderr_log.append(&bytes);
                    self.stderr.append(&bytes);
                }
                Output::Exited(report) => {
                    if let Some(event) = self.parser.finish() {
                        note(&mut self.seen, &event);
                        sink(&event);
                    }
                    self.exited(report);
                    return Ok(());
                }
            }
        }
    }

    /// Asks a Codex that waits for its turn, and follows it until the turn is over or the process
    /// has ended; calls `sink` for each event. Knows no deadline. If the process has not ended, end
    /// every process of the container and call [`last_words`](Self::last_words).
    ///
    /// # Errors
    ///
    /// Those of the peer.
    ///
    /// # Cancel safety
    ///
    /// What went by until then is in [`outcome`](Self::outcome).
    pub async fn turn<P: Peer>(
        &mut self,
        codex: &mut Waiting<P>,
        turn: TurnStartParams,
        mut sink: impl FnMut(&CodexEvent) + Send,
    ) -> Result<(), P::Error> {
        let opening = std::mem::take(&mut codex.opening);
        self.log(&opening.stdout, &opening.stderr);
        let thread = CodexEvent::ThreadStarted { id: codex.thread_id().to_owned() };
        note(&mut self.seen, &thread);
        sink(&thread);
        codex.ask(turn, self.desk.is_some());
        loop {
            let output = tokio::select! {
                output = codex.peer.next() => output?,
                Some(answer) = answered(&mut self.desk) => {
                    codex.answer(&answer);
                    continue;
                }
            };
            match output {
                Output::Stdout(bytes) => {
                    self.events_log.append(&bytes);
                    let seen = &mut self.seen;
                    let over = codex.feed(&bytes, |event| {
                        note(seen, &event);
                        sink(&event);
                    });
                    if over {
                        return Ok(());
                    }
                    for question in codex.questions() {
                        let id = question.id.clone();
                        let desk = self.desk.as_ref();
                        if desk.is_none_or(|desk| desk.questions.send(question).is_err()) {
                            codex.answer(&Answer { id, accept: false });
                        }
                    }
                }
                Output::Stderr(bytes) => self.log(&[], &bytes),
                Output::Exited(report) => {
                    self.exited(report);
                    return Ok(());
                }
            }
        }
    }

    /// Reads what a Codex whose turn is over still says, which is logged and means nothing, to its
    /// exit report. Its exit code is then that of the turn: 0 if it was completed, else 1.
    ///
    /// # Errors
    ///
    /// Those of the source; then there is no exit report.
    pub async fn last_words<S: Source>(&mut self, codex: &mut S) -> Result<(), S::Error> {
        loop {
            match codex.next().await? {
                Output::Stdout(bytes) => self.events_log.append(&bytes),
                Output::Stderr(bytes) => self.log(&[], &bytes),
                Output::Exited(report) => {
                    let code = i32::from(self.seen.turn != Turn::Completed);
                    self.exited(ExitReport { code: Some(code), signal: None, ..report });
                    return Ok(());
                }
            }
        }
    }

    /// Takes over what became of a Codex that was to wait and did not.
    pub fn not_opened(&mut self, opening: Opening) {
        self.log(&opening.stdout, &opening.stderr);
        if let Some(message) = opening.refusal {
            note(&mut self.seen, &CodexEvent::TurnFailed { message });
        }
        if let Some(report) = opening.exit {
            self.exited(report);
        }
    }

    /// Whether its exit was reported.
    pub fn has_exited(&self) -> bool {
        self.seen.exit.is_some()
    }

    fn log(&mut self, stdout: &[u8], stderr: &[u8]) {
        self.events_log.append(stdout);
        self.stderr_log.append(stderr);
        self.stderr.append(stderr);
    }

    fn exited(&mut self, report: ExitReport) {
        // A report of another run proves nothing about this one.
        self.seen.exit = Some(report).filter(|report| report.nonce == self.nonce);
    }

    /// What is known so far; whole once [`follow`](Self::follow) has returned `Ok`. Ends the logs;
    /// a log that could not be written is told in the outcome.
    pub fn outcome(mut self) -> CodexOutcome {
        let logs = [&mut self.events_log, &mut self.stderr_log].map(LimitedLog::finish);
        self.seen.log_error = logs.into_iter().find_map(Result::err).map(|e| e.to_string());
        self.seen.stderr_tail = self.stderr.text();
        if self.seen.unusable.is_none() && self.seen.turn == Turn::Unknown {
            self.seen.unusable = unusable(&self.seen.stderr_tail);
        }
        self.seen
    }
}

/// The next answer; never, if nobody is asked. Cancel safe.
async fn answered(desk: &mut Option<Desk>) -> Option<Answer> {
    match desk {
        Some(desk) => desk.answers.recv().await,
        None => std::future::pending().await,
    }
}

/// Follows one run to its end, as [`CodexRun`] does step by step.
///
/// # Errors
///
/// Those of the source.
pub async fn run<S: Source, W: Write + Send>(
    source: &mut S,
    mut run: CodexRun<W>,
    sink: impl FnMut(&CodexEvent) + Send,
) -> Result<CodexOutcome, S::Error> {
    run.follow(source, sink).await?;
    Ok(run.outcome())
}

fn note(seen: &mut CodexOutcome, event: &CodexEvent) {
    match event {
        CodexEvent::ThreadStarted { id } => seen.thread_id = Some(id.clone()),
        CodexEvent::TurnStarted => seen.turn = Turn::Started,
        CodexEvent::TurnCompleted { usage } => {
            seen.turn = Turn::Completed;
            seen.usage = usage.or(seen.usage);
            // Errors before it were passing ones.
            seen.error = None;
        }
        CodexEvent::TurnFailed { message } => {
            seen.turn = Turn::Failed;
            seen.error = Some(message.clone());
        }
        CodexEvent::Error { message } => seen.error = Some(message.clone()),
        // Progress, not failure: if it comes to nothing, an error follows.
        CodexEvent::Reconnecting { .. } => {}
        CodexEvent::Item { phase: Phase::Completed, item } => note_item(seen, item),
        CodexEvent::Unreadable { .. } => seen.unreadable_lines += 1,
        CodexEvent::Unknown { .. } => seen.unknown_events += 1,
        CodexEvent::Item { .. } => {}
    }
}

fn note_item(seen: &mut CodexOutcome, item: &Item) {
    let (worked, missing) = match item {
        Item::Message { text } => {
            seen.last_message = Some(text.clone());
            return;
        }
        Item::Warning { message } => {
            if seen.warnings.len() < MAX_WARNINGS {
                seen.warnings.push(message.clone());
            }
            (false, unusable(message))
        }
        Item::Command { output, failed, .. } => {
            // A failing command is a tool that worked, unless a part of Codex failed it.
            let missing = if *failed { unusable(output) } else { None };
            (missing.is_none(), missing)
        }
        Item::FileChange { failed, .. } | Item::McpCall { failed, .. } => (!failed, None),
        Item::Reasoning { .. } | Item::WebSearch { .. } | Item::Other { .. } => return,
    };
    seen.tools_worked |= worked;
    if seen.unusable.is_none() {
        seen.unusable = missing;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codex::judge;
    use crate::failure::ErrorKind;

    struct Scripted(std::collections::VecDeque<Output>);

    impl Source for Scripted {
        type Error = &'static str;

        async fn next(&mut self) -> Result<Output, Self::Error> {
            self.0.pop_front().ok_or("lost")
        }
    }

    fn exited(nonce: &str) -> Output {
        Output::Exited(ExitReport {
            nonce: nonce.into(),
            code: Some(0),
            signal: None,
            out_of_memory: false,
            disk_full: None,
            dropped_bytes: 0,
        })
    }

    fn run_of(limit: u64) -> CodexRun<Vec<u8>> {
        CodexRun::new("n", LimitedLog::new(Vec::new(), limit), LimitedLog::new(Vec::new(), limit))
    }

    #[tokio::test]
    async fn a_run_without_its_own_exit_report_is_not_complete() {
        let line = b"{\"type\":\"turn.completed\"}\n".to_vec();
        let mut forged = Scripted([Output::Stdout(line.clone()), exited("other")].into());
        let outcome = run(&mut forged, run_of(100), |_| {}).await.unwrap();
        assert_eq!(judge(&outcome).unwrap_err().kind, ErrorKind::ContainerLost);

        let mut lost = Scripted([Output::Stdout(line)].into());
        let mut cut_short = run_of(100);
        assert_eq!(cut_short.follow(&mut lost, |_| {}).await, Err("lost"));
        let outcome = cut_short.outcome();
        assert_eq!(outcome.turn, Turn::Completed);
        assert_eq!(judge(&outcome).unwrap_err().kind, ErrorKind::ContainerLost);
    }

    #[tokio::test]
    async fn a_flood_without_an_end_of_line_is_held_in_bounds() {
        struct Flood(u32);
        impl Source for Flood {
            type Error = &'static str;

            async fn next(&mut self) -> Result<Output, Self::Error> {
                self.0 += 1;
                Ok(match self.0 {
                    0..=4000 => Output::Stdout(vec![b'x'; 16 * 1024]),
                    4001..=5000 => Output::Stderr(vec![b'y'; 16 * 1024]),
                    _ => exited("n"),
                })
            }
        }
        let mut run = run_of(1000);
        run.follow(&mut Flood(0), |_| {}).await.unwrap();
        let outcome = run.outcome();
        assert_eq!(outcome.unreadable_lines, 1);
        assert_eq!(outcome.stderr_tail.len(), STDERR_TAIL);
    }
}
