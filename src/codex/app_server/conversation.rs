//! What is said to and fro, without input or output of its own.
//!
//! ```text
//!  Initializing ──> Opening ──> Waiting ── ask ──> Asking ──> Turn ──> Over
//!        └────────────┴───────────────────────────────┴── an error, nonsense ──> Over (refusal)
//! ```

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::TESTED;
use super::approval::{self, Answer, Approval, Edits, MAX_OPEN};
use super::notifications::{self, Ours};
use super::protocol::{
    InitializeParams, InitializeResult, Request, ThreadStartParams, ThreadStartResult,
    TurnStartParams, TurnStartResult,
};
use crate::codex::events::{CodexEvent, cut};
use crate::codex::lines::{self, Line, Lines};
use crate::codex::outcome::Usage;

/// Requests of Codex that are answered, with a refusal; it has no reason for any.
const MAX_REQUESTS: u32 = 100;

/// The longest id of a thread, a turn or a request, in bytes.
const MAX_ID: usize = 200;

/// The longest message of an error, in bytes.
const MAX_ERROR: usize = 4 * 1024;

const INITIALIZE: u64 = 1;
const THREAD_START: u64 = 2;
const TURN_START: u64 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Initializing,
    Opening,
    Waiting,
    Asking,
    Turn,
    Over,
}

/// The host's side of the conversation.
#[derive(Debug)]
pub(super) struct Conversation {
    state: State,
    lines: Lines,
    open: ThreadStartParams,
    untested: Option<String>,
    thread: String,
    turn: String,
    usage: Option<Usage>,
    refused: u32,
    refusal: Option<String>,
    asking: Asking,
}

/// What Codex asks leave for.
#[derive(Debug, Default)]
struct Asking {
    /// Whether somebody answers.
    answered: bool,
    edits: Edits,
    new: Vec<Approval>,
    /// Ids of those that are open.
    open: Vec<Value>,
}

impl Conversation {
    /// Begins it: what is to be sent is added to `out`, as below.
    pub(super) fn begin(open: &ThreadStartParams, out: &mut Vec<u8>) -> Self {
        say(out, INITIALIZE, "initialize", InitializeParams::ours());
        Self {
            state: State::Initializing,
            lines: Lines::default(),
            open: open.clone(),
            untested: None,
            thread: String::new(),
            turn: String::new(),
            usage: None,
            refused: 0,
            refusal: None,
            asking: Asking::default(),
        }
    }

    /// The version, if it is none that was tried.
    pub(super) fn untested(&self) -> Option<String> {
        self.untested.clone()
    }

    /// Whether the thread is open and nothing was asked of it.
    pub(super) fn is_waiting(&self) -> bool {
        self.state == State::Waiting
    }

    /// Whether nothing more is to come.
    pub(super) fn is_over(&self) -> bool {
        self.state == State::Over
    }

    /// Why it is over, if not for the end of a turn.
    pub(super) fn refusal(&self) -> Option<&str> {
        self.refusal.as_deref()
    }

    /// The thread's id; empty until it is open.
    pub(super) fn thread(&self) -> &str {
        &self.thread
    }

    /// Asks for the turn. Nothing happens unless it [waits](Self::is_waiting).
    pub(super) fn ask(&mut self, mut turn: TurnStartParams, out: &mut Vec<u8>) {
        if self.state == State::Waiting {
            turn.thread_id.clone_from(&self.thread);
            say(out, TURN_START, "turn/start", turn);
            self.state = State::Asking;
        }
    }

    /// Whether somebody answers when Codex asks for leave.
    pub(super) fn answers_questions(&mut self, answered: bool) {
        self.asking.answered = answered;
    }

    /// The questions since the last time.
    pub(super) fn questions(&mut self) -> Vec<Approval> {
        std::mem::take(&mut self.asking.new)
    }

    /// Answers a question; one that is not open is not answered.
    pub(super) fn answer(&mut self, answer: &Answer, out: &mut Vec<u8>) {
        let open = self.asking.open.iter().position(|id| *id == answer.id);
        if let (Some(at), State::Turn) = (open, self.state) {
            self.asking.open.swap_remove(at);
            let decision = if answer.accept { "accept" } else { "decline" };
            push(out, &json!({"id": answer.id, "result": {"decision": decision}}));
        }
    }

    /// Takes what Codex printed, in any pieces.
    pub(super) fn feed(
        &mut self,
        bytes: &[u8],
        out: &mut Vec<u8>,
        mut each: impl FnMut(CodexEvent),
    ) {
        let mut lines = std::mem::take(&mut self.lines);
        lines.feed(bytes, |line| {
            if self.state != State::Over {
                self.take(line, out, &mut each);
            }
        });
        self.lines = lines;
    }

    fn take(&mut self, line: Line<'_>, out: &mut Vec<u8>, each: &mut impl FnMut(CodexEvent)) {
        let message = match line {
            Line::Long { head, tail, bytes } => {
                let event = notifications::skim(head, tail, &self.ours());
                return self.note(event.unwrap_or(CodexEvent::Unreadable { bytes }), each);
            }
            Line::Whole(line) => match lines::json(line) {
                Some(message) if message.is_object() => message,
                _ => return each(CodexEvent::Unreadable { bytes: line.len() as u64 }),
            },
        };
        match (message["method"].as_str(), message.get("id")) {
            (Some(method), None) => {
                if let Some(usage) = notifications::usage(method, &message["params"], &self.ours())
                {
                    self.usage = Some(usage);
                    return;
                }
                if method == "item/started" && message["params"]["threadId"] == *self.thread {
                    self.asking.edits.note(&message["params"]["item"]);
                }
                let event = notifications::event(method, &message["params"], &self.ours());
                if let Some(event) = event {
                    self.note(event, each);
                }
            }
            (Some(method), Some(id)) => {
                if !self.question(method, id, &message["params"], each) {
                    self.refuse(method, id, out, each);
                }
            }
            (None, Some(id)) => self.answered(id.as_u64(), &message, out, each),
            (None, None) => each(CodexEvent::Unknown { kind: "a message without a method".into() }),
        }
    }

    fn ours(&self) -> Ours<'_> {
        Ours { thread: &self.thread, turn: &self.turn, usage: self.usage }
    }

    /// Passes an event on; the end of the turn is the end of the conversation.
    fn note(&mut self, event: CodexEvent, each: &mut impl FnMut(CodexEvent)) {
        if matches!(event, CodexEvent::TurnCompleted { .. } | CodexEvent::TurnFailed { .. }) {
            // None that was not asked for: without a turn no id fits.
            if self.state != State::Turn {
                return;
            }
            self.state = State::Over;
        }
        each(event);
    }

    /// Takes a question of the turn, if it is one and somebody answers.
    fn question(
        &mut self,
        method: &str,
        id: &Value,
        params: &Value,
        each: &mut impl FnMut(CodexEvent),
    ) -> bool {
        let mine = self.state == State::Turn
            && params["threadId"] == *self.thread
            && params["turnId"] == *self.turn;
        if !self.asking.answered || !mine || !fits_request(id) {
            return false;
        }
        let asked = approval::read(method, id, params, &mut self.asking.edits);
        let Some(asked) = asked else { return false };
        if self.asking.open.contains(id) || self.asking.open.len() == MAX_OPEN {
            // An answer would be for two questions, of which one was not shown.
            self.fail("asked for leave twice under one id, or too often at once", each);
            return true;
        }
        self.asking.open.push(id.clone());
        self.asking.new.push(asked);
        true
    }

    /// Codex asks for something. Nothing that this side can do was offered to it.
    fn refuse(
        &mut self,
        method: &str,
        id: &Value,
        out: &mut Vec<u8>,
        each: &mut impl FnMut(CodexEvent),
    ) {
        self.refused += 1;
        if self.refused > MAX_REQUESTS || !fits_request(id) {
            return self.fail("asked for what was never offered to it, again and again", each);
        }
        let error = json!({"code": -32601, "message": "not supported"});
        push(out, &json!({"id": id, "error": error}));
        each(CodexEvent::Unknown { kind: cut(method, 100) });
    }

    fn answered(
        &mut self,
        id: Option<u64>,
        message: &Value,
        out: &mut Vec<u8>,
        each: &mut impl FnMut(CodexEvent),
    ) {
        let (want, method) = match self.state {
            State::Initializing => (INITIALIZE, "initialize"),
            State::Opening => (THREAD_START, "the opening of a thread"),
            State::Asking => (TURN_START, "turn/start"),
            State::Waiting | State::Turn | State::Over => (0, ""),
        };
        if id != Some(want) {
            return each(CodexEvent::Unknown { kind: "an answer to no question".into() });
        }
        if let Some(error) = message.get("error") {
            let said = cut(error["message"].as_str().unwrap_or("no reason"), MAX_ERROR);
            return self.fail(&said, each);
        }
        let result = &message["result"];
        let understood = match self.state {
            State::Initializing => self.initialized(result, out),
            State::Opening => self.opened(result),
            _ => self.began(result),
        };
        if understood.is_none() {
            self.fail(&format!("its answer to {method} is not understood"), each);
        }
    }

    fn initialized(&mut self, result: &Value, out: &mut Vec<u8>) -> Option<()> {
        let result: InitializeResult = read(result)?;
        let version = version(&result.user_agent);
        if !TESTED.contains(&version) {
            self.untested = Some(cut(version, 50));
            self.state = State::Over;
            return Some(());
        }
        push(out, &json!({"method": "initialized"}));
        match self.open.resume() {
            Some(resume) => say(out, THREAD_START, "thread/resume", resume),
            None => say(out, THREAD_START, "thread/start", &self.open),
        }
        self.state = State::Opening;
        Some(())
    }

    fn opened(&mut self, result: &Value) -> Option<()> {
        let result: ThreadStartResult = read(result)?;
        let asked = self.open.resumes.as_ref();
        self.thread = Some(result.thread.id)
            .filter(|id| fits(id) && asked.is_none_or(|asked| asked == id))?;
        self.state = State::Waiting;
        Some(())
    }

    fn began(&mut self, result: &Value) -> Option<()> {
        let result: TurnStartResult = read(result)?;
        self.turn = Some(result.turn.id).filter(|id| fits(id))?;
        self.state = State::Turn;
        Some(())
    }

    /// It cannot go on.
    fn fail(&mut self, reason: &str, each: &mut impl FnMut(CodexEvent)) {
        self.state = State::Over;
        self.refusal = Some(reason.to_owned());
        each(CodexEvent::TurnFailed { message: reason.to_owned() });
    }
}

/// The version in `name/version (system) …`.
fn version(user_agent: &str) -> &str {
    let after = user_agent.split_once('/').map_or("", |(_, after)| after);
    after.split_ascii_whitespace().next().unwrap_or("")
}

fn fits_request(id: &Value) -> bool {
    id.is_u64() || id.as_str().is_some_and(|id| id.len() <= MAX_ID)
}

fn fits(id: &str) -> bool {
    !id.is_empty() && id.len() <= MAX_ID
}

fn read<T: DeserializeOwned>(value: &Value) -> Option<T> {
    T::deserialize(value).ok()
}

fn say(out: &mut Vec<u8>, id: u64, method: &'static str, params: impl serde::Serialize) {
    push(out, &Request { id, method, params });
}

fn push(out: &mut Vec<u8>, message: &impl serde::Serialize) {
    // Types of ours, whose maps have text for keys: this cannot fail.
    if serde_json::to_writer(&mut *out, message).is_ok() {
        out.push(b'\n');
    }
}
