//! Runs between two calls: their question is with the client, who comes back with the answer.
//!
//! ```text
//!  call ──> Attending ─┬─ the run ends ──> its result
//!              ▲       └─ it asks ──> Waiting, under a new state ──> input_required
//!              └────────────── call with that state ────┘
//! ```
//!
//! A state is a random name, good for one call with the same arguments. If nobody comes back, the
//! question expires by `codex.approval_timeout` and the run goes on; its result is kept an hour for
//! whoever comes late.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use rmcp::model::{InputRequest, InputRequests, InputRequiredResult, InputResponses, JsonObject};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinError, JoinHandle};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{decide, request};
use crate::job::ask::{Asker, Question, Reply};
use crate::job::progress::ProgressReceiver;
use crate::job::result::RunResult;

/// How long the result of a run is kept for which nobody has come.
const KEPT: Duration = Duration::from_secs(3600);

/// A question on its way to the client.
#[derive(Debug)]
pub(in crate::mcp) struct Asked {
    question: Question,
    reply: oneshot::Sender<Reply>,
}

/// Asks whoever attends the run.
struct Inputs {
    asked: mpsc::UnboundedSender<Asked>,
    refusal: Option<String>,
}

impl Asker for Inputs {
    fn refusal(&self) -> Option<String> {
        self.refusal.clone()
    }

    fn ask(&self, question: Question) -> BoxFuture<'_, Reply> {
        let (reply, answer) = oneshot::channel();
        let sent = self.asked.send(Asked { question, reply });
        Box::pin(async move {
            let gone = || Reply::Nonsense("the client is gone".to_owned());
            if sent.is_err() {
                return gone();
            }
            answer.await.unwrap_or_else(|_| gone())
        })
    }
}

/// A run that a call attends. Dropped, it cancels the run.
#[derive(Debug)]
pub(in crate::mcp) struct Attending {
    pub(in crate::mcp) arguments: JsonObject,
    pub(in crate::mcp) body: JoinHandle<RunResult>,
    pub(in crate::mcp) asked: mpsc::UnboundedReceiver<Asked>,
    pub(in crate::mcp) stages: ProgressReceiver,
    pub(in crate::mcp) cancel: DropGuard,
    pub(in crate::mcp) open: Option<Asked>,
}

/// How the attending of a call ended.
#[derive(Debug)]
pub(in crate::mcp) enum Attended {
    /// The run has ended.
    Ended(Box<Result<RunResult, JoinError>>),
    /// The client is to answer first.
    Input(InputRequiredResult),
}

/// Someone to ask, and where the questions come.
pub(in crate::mcp) fn inputs(
    refusal: Option<String>,
) -> (Arc<dyn Asker>, mpsc::UnboundedReceiver<Asked>) {
    let (asked, questions) = mpsc::unbounded_channel();
    (Arc::new(Inputs { asked, refusal }), questions)
}

/// The runs that wait for their client.
#[derive(Clone, Debug, Default)]
pub(in crate::mcp) struct Waiting(Arc<Mutex<HashMap<String, (Instant, Attending)>>>);

impl Waiting {
    /// The run that waits under `state`, with the answer to its question, if one came.
    ///
    /// # Errors
    ///
    /// A sentence: no run waits under it, or it was of another call.
    pub(in crate::mcp) fn resume(
        &self,
        state: &str,
        arguments: &JsonObject,
        mut responses: InputResponses,
    ) -> Result<Attending, &'static str> {
        let mut waiting = self.0.lock();
        match waiting.get(state) {
            None => {
                return Err("requestState names no run that waits for an answer: it was used \
                            before, or the server was started anew; call codex_run again without it");
            }
            Some((_, attending)) if attending.arguments != *arguments => {
                return Err(
                    "requestState belongs to a call with other arguments; send those again",
                );
            }
            Some(_) => {}
        }
        let (_, mut attending) = waiting.remove(state).ok_or("requestState names no run")?;
        if let Some(asked) = attending.open.take() {
            match responses.remove(&key(&asked.question)) {
                // Too late: the run went on.
                _ if asked.reply.is_closed() => {}
                Some(answer) => {
                    let _ = asked.reply.send(decide(&answer));
                }
                // Not answered: it is put again, and the same time runs.
                None => attending.open = Some(asked),
            }
        }
        Ok(attending)
    }

    /// Waits for the end of the run or its next question.
    pub(in crate::mcp) async fn attend(
        &self,
        mut attending: Attending,
        cancelled: CancellationToken,
    ) -> Attended {
        loop {
            if let Some(asked) = attending.open.take_if(|asked| !asked.reply.is_closed()) {
                attending.open = Some(asked);
                return Attended::Input(self.wait(attending));
            }
            tokio::select! {
                biased;
                ended = &mut attending.body => return Attended::Ended(Box::new(ended)),
                Some(asked) = attending.asked.recv() => attending.open = Some(asked),
                () = cancelled.cancelled() => {
                    drop(attending.cancel);
                    return Attended::Ended(Box::new(attending.body.await));
                }
            }
        }
    }

    fn wait(&self, attending: Attending) -> InputRequiredResult {
        let requests: InputRequests = attending
            .open
            .iter()
            .map(|asked| {
                (key(&asked.question), InputRequest::Elicitation(request(&asked.question)))
            })
            .collect();
        // 122 random bits of the system: nobody guesses it.
        let state = uuid::Uuid::new_v4().to_string();
        let mut waiting = self.0.lock();
        waiting.retain(|_, (since, left)| !left.body.is_finished() || since.elapsed() < KEPT);
        waiting.insert(state.clone(), (Instant::now(), attending));
        InputRequiredResult::new(Some(requests), Some(state))
    }
}

fn key(question: &Question) -> String {
    format!("approval-{}", question.number)
}
