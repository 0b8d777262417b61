//! Mode `ask`: the questions of a run, one after another, while its clock stands.
//!
//! ```text
//!               ┌───────────────── clock runs ─────────────────┐
//!               │                                               │
//!  Codex asks ──┴─> recorded ─> put to the user ─┬─ accept ─────┤ this one time
//!                      │        (clock stands)   ├─ decline ────┤
//!                      │                         ├─ nonsense ───┤ counts as decline
//!                      │                         ├─ too late ───┤ codex.approval_timeout: decline
//!                      │                         ├─ stop ───────┴─> the run ends, as by a cancel
//!                      │                         └─ run ends ─────> withdrawn
//!                      └─ for more than is shown: declined, nobody is asked
//! ```
//!
//! What Codex wants comes out of a container: it is bounded, without control characters and without
//! secrets before anybody sees it, and every line of it is indented, so that none can pass for one of
//! ours.

mod text;

use std::fs::File;
use std::time::Duration;

use futures::future::BoxFuture;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::time::Instant;

use super::progress::ProgressSender;
use super::stop::Stop;
use crate::codex::app_server::TESTED;
use crate::codex::app_server::approval::{Answer, Approval, Counter};
use crate::codex::log::LimitedLog;
use crate::failure::{ErrorKind, Failure};

/// Who can be asked.
pub trait Asker: Send + Sync + 'static {
    /// Why nobody can be asked, such as "this client does not support elicitation"; `None` if
    /// somebody can.
    fn refusal(&self) -> Option<String>;

    /// Puts `question` and waits for the answer, however long that takes. Called again only once it
    /// has answered.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it withdraws the question.
    fn ask(&self, question: Question) -> BoxFuture<'_, Reply>;
}

/// Nobody can be asked.
#[derive(Clone, Debug)]
pub struct Nobody(pub String);

impl Asker for Nobody {
    fn refusal(&self) -> Option<String> {
        Some(self.0.clone())
    }

    fn ask(&self, _question: Question) -> BoxFuture<'_, Reply> {
        Box::pin(async { Reply::Nonsense("nobody can be asked".to_owned()) })
    }
}

/// A question, fit to be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Counted from 1 in each run.
    pub number: u64,
    /// What Codex wants, where, and the diff: a few lines, at most 16 KiB or so.
    pub message: String,
}

/// The answer of a person, or what came in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Yes, this one time.
    Accept,
    /// No; Codex goes on without.
    Decline,
    /// No, and the run shall end.
    Stop,
    /// Nothing that could be understood: why not. Counts as no.
    Nonsense(String),
}

/// What became of the questions of a run.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema,
)]
pub struct Approvals {
    /// Questions that were put to the user.
    pub asked: u64,
    /// Of these, those that were accepted.
    pub accepted: u64,
    /// Those that were declined.
    pub declined: u64,
    /// Those that nobody answered within `codex.approval_timeout`, which declined them.
    pub expired: u64,
    /// Those whose answer made no sense, which declined them.
    pub invalid: u64,
    /// Those that ended with the run: by the answer stop, by a cancel, by the end of Codex.
    pub ended: u64,
    /// What Codex asked that was declined without asking anybody, since it was for more than one
    /// command or edit that can be shown.
    pub refused: u64,
    /// How long questions were open, in milliseconds; not counted by `timeout`.
    pub waited_ms: u64,
}

/// Refuses a run that asks where nobody can be asked.
///
/// # Errors
///
/// Kind `invalid_argument`; the sentence names `suggest`.
pub(super) fn check(asker: &dyn Asker) -> Result<(), Failure> {
    let Some(why) = asker.refusal() else { return Ok(()) };
    Err(Failure::new(
        ErrorKind::InvalidArgument,
        format!(
            "mode \"ask\" needs somebody to ask, but {why}; use mode \"suggest\", which holds the \
             changes until codex_run_apply"
        ),
    ))
}

/// What a caller is told who answered that the run shall stop.
pub(super) fn stopped() -> Failure {
    Failure::new(
        ErrorKind::Cancelled,
        "the run was stopped by the answer to a question; the workspace is unchanged",
    )
}

/// What a caller is told whose image has a Codex that was not tried with this mode.
pub(super) fn untested(version: &str) -> Failure {
    let tested = TESTED.join(", ");
    Failure::new(
        ErrorKind::CodexUnusable,
        format!(
            "mode \"ask\" was not tried with the image's Codex {version:?} (but with {tested}); use \
             mode \"suggest\", or build the image anew with mcp-codex-orchestrator image build"
        ),
    )
}

/// The questions of one run.
pub(super) struct Asking<'a> {
    pub(super) asker: &'a dyn Asker,
    pub(super) questions: UnboundedReceiver<Approval>,
    pub(super) answers: UnboundedSender<Answer>,
    /// Takes secrets out of a text.
    pub(super) redact: Box<dyn Fn(&str) -> String + Send + Sync + 'a>,
    /// `codex.approval_timeout`.
    pub(super) limit: Duration,
    pub(super) log: LimitedLog<File>,
    pub(super) progress: ProgressSender,
    counts: Approvals,
    /// The number of the question that is open, and since when.
    open: Option<(u64, Instant)>,
}

impl<'a> Asking<'a> {
    /// The questions that come to `counter`, put to `asker`.
    pub(super) fn new(
        asker: &'a dyn Asker,
        counter: Counter,
        redact: Box<dyn Fn(&str) -> String + Send + Sync + 'a>,
        limit: Duration,
        log: LimitedLog<File>,
        progress: ProgressSender,
    ) -> Self {
        let Counter { questions, answers } = counter;
        let counts = Approvals::default();
        Self { asker, questions, answers, redact, limit, log, progress, counts, open: None }
    }

    /// Answers what Codex asks, until the run has taken `timeout`, in which the time that questions
    /// are open does not count, or shall stop.
    pub(super) async fn clock(&mut self, timeout: Duration) -> Stop {
        let mut left = timeout;
        loop {
            let began = Instant::now();
            let asked = tokio::select! {
                Some(asked) = self.questions.recv() => asked,
                () = tokio::time::sleep(left) => return Stop::TimedOut,
            };
            left = left.saturating_sub(began.elapsed());
            let id = asked.id.clone();
            let Some(accept) = self.put(asked).await else { return Stop::ByAnswer };
            // Nobody listens once Codex has ended; then the run ends, too.
            let _ = self.answers.send(Answer { id, accept });
        }
    }

    /// Whether it may; `None` if the run shall stop.
    async fn put(&mut self, asked: Approval) -> Option<bool> {
        let question = text::question(&asked, &self.redact);
        if let Some(why) = asked.refused {
            self.counts.refused += 1;
            self.record(json!({"wanted": question.wanted, "answer": "refused", "why": why}));
            return Some(false);
        }
        self.counts.asked += 1;
        let (number, since) = (self.counts.asked, Instant::now());
        self.open = Some((number, since));
        self.record(json!({"question": number, "wanted": question.wanted}));
        self.progress.say(format!("Waiting for an answer: {}", question.title));
        let putting = self.asker.ask(Question { number, message: question.message });
        let reply = tokio::time::timeout(self.limit, putting).await;
        self.progress.say("Answered, Codex works on");
        let (answer, accept, why) = match reply {
            Ok(Reply::Accept) => {
                self.counts.accepted += 1;
                ("accept", Some(true), None)
            }
            Ok(Reply::Decline) => {
                self.counts.declined += 1;
                ("decline", Some(false), None)
            }
            Ok(Reply::Stop) => {
                self.counts.ended += 1;
                ("stop", None, None)
            }
            Ok(Reply::Nonsense(why)) => {
                self.counts.invalid += 1;
                ("invalid", Some(false), Some(text::clean(&(self.redact)(&why), 200)))
            }
            Err(_) => {
                self.counts.expired += 1;
                ("expired", Some(false), None)
            }
        };
        self.answered(answer, why);
        accept
    }

    fn answered(&mut self, answer: &str, why: Option<String>) {
        let Some((number, since)) = self.open.take() else { return };
        let waited = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.counts.waited_ms = self.counts.waited_ms.saturating_add(waited);
        let mut line = json!({"question": number, "answer": answer, "waited_ms": waited});
        if let Some(why) = why {
            line["why"] = why.into();
        }
        self.record(line);
    }

    fn record(&mut self, mut line: Value) {
        line["at"] = Timestamp::now().to_string().into();
        self.log.append(format!("{line}\n").as_bytes());
    }

    /// The end of the run: what was open is withdrawn.
    pub(super) fn finish(mut self) -> Approvals {
        if self.open.is_some() {
            self.counts.ended += 1;
            self.answered("withdrawn", None);
        }
        if let Err(error) = self.log.finish() {
            tracing::warn!(%error, "the answers of a run could not be recorded");
        }
        self.counts
    }
}

/// Time that runs while [`Asking`] lets it; all of it in a run that asks nothing.
pub(super) async fn clock(asking: &mut Option<Asking<'_>>, timeout: Duration) -> Stop {
    match asking {
        Some(asking) => asking.clock(timeout).await,
        None => {
            tokio::time::sleep(timeout).await;
            Stop::TimedOut
        }
    }
}

#[cfg(test)]
mod tests;
