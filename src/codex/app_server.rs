//! Codex by `codex app-server`: started and its thread opened first, the task later.
//!
//! ```text
//!  process started ──> initialize ──> thread/start ──> Waiting ── turn/start ──> the turn ──> over
//!        │                 │               │                                        │
//!        └─────────────────┴───────────────┴──> NotOpened                           └──> exited, lost
//! ```
//!
//! What waits is a [`Waiting`]: it needs nothing of the job but its directory and its `env_vars`.
//! The turn is a step of its own ([`CodexRun::turn`]). A turn is over when Codex says so of the
//! turn that was asked for, on the thread that was opened; the process stays, and whoever started it
//! ends it with every other process of the container and then reads its exit report
//! ([`CodexRun::last_words`]), which alone makes the run complete.
//!
//! Whatever runs in the container can write to Codex's stdout. It can thereby end its own run and
//! say what it likes in it, as it can under `codex exec`; it cannot make this side wait, grow or
//! panic: lines, requests and what comes before the turn are bounded.
//!
//! [`CodexRun::turn`]: super::CodexRun::turn
//! [`CodexRun::last_words`]: super::CodexRun::last_words

pub mod approval;
mod conversation;
mod notifications;
pub mod protocol;

use self::approval::{Answer, Approval};
use self::conversation::Conversation;
use self::protocol::{ThreadStartParams, TurnStartParams};
use super::events::CodexEvent;
use super::exec::{Output, Source};
use crate::keeper::wire::ExitReport;

/// The versions of Codex with which this way was tried; the protocol is none that is promised to
/// stay. Any other is run by `codex exec`.
pub const TESTED: &[&str] = &["0.169.0"];

/// Bytes of stdout at most before the turn, and of stderr.
const MAX_OPENING: usize = 256 * 1024;

/// A program whose stdin is open.
pub trait Peer: Source {
    /// Queues `bytes` for its stdin. Never waits: they are written while [`next`](Source::next)
    /// does.
    fn write(&mut self, bytes: &[u8]);
}

/// A Codex that waits: its process runs, and its thread is open.
#[derive(Debug)]
pub struct Waiting<P> {
    pub(super) peer: P,
    conversation: Conversation,
    pub(super) opening: Opening,
}

/// What came until the thread was open, or until it was clear that it would not be.
#[derive(Clone, Debug, Default)]
pub struct Opening {
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: Vec<u8>,
    /// If the process has ended.
    pub(super) exit: Option<ExitReport>,
    /// What Codex answered instead, one sentence.
    pub(super) refusal: Option<String>,
}

/// Why no Codex waits.
pub enum NotOpened<P: Source> {
    /// The stream to it was lost.
    Lost(P::Error),
    /// It ended, refused, or said what cannot be understood.
    Failed(P, Opening),
    /// It is a version with which this way was not tried.
    Untested {
        /// Its version, as it names it.
        version: String,
    },
}

impl<P: Source> std::fmt::Debug for NotOpened<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Lost(_) => f.write_str("Lost"),
            Self::Failed(_, opening) => f.debug_tuple("Failed").field(opening).finish(),
            Self::Untested { version } => f.debug_tuple("Untested").field(version).finish(),
        }
    }
}

impl<P: Peer> Waiting<P> {
    /// Initializes the Codex that was started as `peer`, and opens its thread. Knows no deadline.
    ///
    /// # Errors
    ///
    /// See [`NotOpened`]. The process may still run then.
    ///
    /// # Cancel safety
    ///
    /// Dropped midway, the peer is dropped, too.
    pub async fn open(mut peer: P, thread: &ThreadStartParams) -> Result<Self, NotOpened<P>> {
        let mut opening = Opening::default();
        let mut answers = Vec::new();
        let mut conversation = Conversation::begin(thread, &mut answers);
        loop {
            if !answers.is_empty() {
                peer.write(&answers);
                answers.clear();
            }
            if let Some(version) = conversation.untested() {
                return Err(NotOpened::Untested { version });
            }
            if conversation.is_waiting() {
                return Ok(Self { peer, conversation, opening });
            }
            if let Some(refusal) = conversation.refusal() {
                opening.refusal = Some(refusal.to_owned());
                return Err(NotOpened::Failed(peer, opening));
            }
            match peer.next().await.map_err(NotOpened::Lost)? {
                Output::Stdout(bytes) => {
                    opening.stdout.extend_from_slice(&bytes);
                    conversation.feed(&bytes, &mut answers, |_| {});
                }
                Output::Stderr(bytes) => opening.stderr.extend_from_slice(&bytes),
                Output::Exited(report) => {
                    opening.exit = Some(report);
                    return Err(NotOpened::Failed(peer, opening));
                }
            }
            if opening.stdout.len().max(opening.stderr.len()) > MAX_OPENING {
                opening.refusal = Some("it said too much before its thread was open".to_owned());
                return Err(NotOpened::Failed(peer, opening));
            }
        }
    }

    /// The thread's id.
    pub fn thread_id(&self) -> &str {
        self.conversation.thread()
    }

    /// The program alone.
    pub fn into_peer(self) -> P {
        self.peer
    }

    /// Asks for the turn; `asks` is whether somebody answers when Codex asks for leave in it.
    pub(super) fn ask(&mut self, turn: TurnStartParams, asks: bool) {
        let mut request = Vec::new();
        self.conversation.answers_questions(asks);
        self.conversation.ask(turn, &mut request);
        self.peer.write(&request);
    }

    /// Takes what Codex printed; whether the turn is over.
    pub(super) fn feed(&mut self, bytes: &[u8], each: impl FnMut(CodexEvent)) -> bool {
        let mut answers = Vec::new();
        self.conversation.feed(bytes, &mut answers, each);
        if !answers.is_empty() {
            self.peer.write(&answers);
        }
        self.conversation.is_over()
    }

    /// What Codex has asked leave for since the last time.
    pub(super) fn questions(&mut self) -> Vec<Approval> {
        self.conversation.questions()
    }

    /// Tells Codex the answer to a question that is open.
    pub(super) fn answer(&mut self, answer: &Answer) {
        let mut said = Vec::new();
        self.conversation.answer(answer, &mut said);
        self.peer.write(&said);
    }
}

#[cfg(test)]
mod tests;
