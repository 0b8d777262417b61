//! What Codex does, in one model for both ways it is run.
//!
//! ```text
//!  codex exec --json ──> EventParser (jsonl) ─────────┐
//!                                                     ├──> CodexEvent ──> progress, outcome
//!  codex app-server ──> Conversation (app_server) ────┘
//! ```
//!
//! Both read lines from a source that is not trusted, by [`Lines`](super::lines::Lines): what cannot
//! be read gives an event that says so, never an error.

mod jsonl;

use serde_json::Value;

pub use self::jsonl::EventParser;
pub(super) use self::jsonl::skimmed;
use super::outcome::Usage;

/// The longest text that an event keeps of a command and its output, in bytes.
pub(super) const MAX_TEXT: usize = 4 * 1024;

/// The longest message of Codex that is kept, in bytes.
pub(super) const MAX_MESSAGE: usize = 1024 * 1024;

/// The most paths that one event keeps.
pub(super) const MAX_PATHS: usize = 1000;

/// One event.
#[derive(Clone, Debug, PartialEq)]
pub enum CodexEvent {
    /// The thread's id.
    ThreadStarted {
        /// Names it in Codex's own records.
        id: String,
    },
    /// Codex begins to work.
    TurnStarted,
    /// Codex has ended its work.
    TurnCompleted {
        /// Tokens used.
        usage: Option<Usage>,
    },
    /// Codex gives up.
    TurnFailed {
        /// Why.
        message: String,
    },
    /// The connection to the model is made again: nothing has failed yet.
    Reconnecting {
        /// Which attempt it is, and why.
        detail: String,
    },
    /// Something went wrong: the reason of a failure that follows, as a rule.
    Error {
        /// What.
        message: String,
    },
    /// Codex does something.
    Item {
        /// Whether it begins or ends.
        phase: Phase,
        /// What it does.
        item: Item,
    },
    /// A type that is not known here.
    Unknown {
        /// The type.
        kind: String,
    },
    /// A line that could not be read.
    Unreadable {
        /// Its length.
        bytes: u64,
    },
}

/// Where an item is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It begins.
    Started,
    /// It goes on.
    Updated,
    /// It has ended.
    Completed,
}

/// What Codex does.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// It says something.
    Message {
        /// What.
        text: String,
    },
    /// It thinks.
    Reasoning {
        /// A summary.
        text: String,
    },
    /// It runs a command.
    Command {
        /// The command, without the shell around it.
        command: String,
        /// The beginning of the output.
        output: String,
        /// Once it has ended.
        exit_code: Option<i64>,
        /// Whether it failed.
        failed: bool,
    },
    /// It edits files by `apply_patch`.
    FileChange {
        /// Paths as Codex names them.
        paths: Vec<String>,
        /// Whether it failed.
        failed: bool,
    },
    /// It calls a tool of an MCP server.
    McpCall {
        /// The server.
        server: String,
        /// The tool.
        tool: String,
        /// Whether it failed.
        failed: bool,
    },
    /// It searches the web.
    WebSearch {
        /// For what.
        query: String,
    },
    /// It warns.
    Warning {
        /// Of what.
        message: String,
    },
    /// Anything else.
    Other {
        /// Its type.
        kind: String,
    },
}

/// An error's message, as Codex words it: passing, or not.
pub(super) fn error(message: String) -> CodexEvent {
    match message.strip_prefix("Reconnecting...") {
        Some(detail) => CodexEvent::Reconnecting { detail: detail.trim().to_owned() },
        None => CodexEvent::Error { message },
    }
}

/// A string of ordinary length; empty if it is none.
pub(super) fn text(value: &Value) -> String {
    long_text(value, MAX_TEXT)
}

/// A string, cut to `limit` bytes; empty if it is none.
pub(super) fn long_text(value: &Value, limit: usize) -> String {
    cut(value.as_str().unwrap_or_default(), limit)
}

/// At most `limit` bytes of `text`, cut between characters.
pub(super) fn cut(text: &str, limit: usize) -> String {
    let mut end = limit.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

/// The command in `/bin/bash -lc '…'`; any other as it is.
pub(super) fn without_shell(command: &str) -> String {
    let shells = ["/bin/bash -lc ", "bash -lc ", "/bin/bash -c ", "/bin/sh -c "];
    let inner = shells.iter().find_map(|shell| command.strip_prefix(shell));
    inner.and_then(unquoted).unwrap_or_else(|| command.to_owned())
}

/// What a shell makes of `word`, if it is one word without expansions outside quotes.
fn unquoted(word: &str) -> Option<String> {
    let mut out = String::with_capacity(word.len());
    let mut quote = None;
    let mut chars = word.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some('"'), '\\') => match chars.next()? {
                c @ ('"' | '\\' | '$' | '`') => out.push(c),
                c => out.extend(['\\', c]),
            },
            (Some(_), c) => out.push(c),
            (None, '\'' | '"') => quote = Some(c),
            (None, '\\') => out.push(chars.next()?),
            (None, c) if c.is_whitespace() => return None,
            (None, c) => out.push(c),
        }
    }
    quote.is_none().then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shell_around_a_command_is_taken_off() {
        for (command, want) in [
            ("/bin/bash -lc 'exit 3'", "exit 3"),
            ("/bin/bash -lc ls", "ls"),
            (
                r#"/bin/bash -lc 'echo '"'a b' > f'\''s\""#,
                r#"/bin/bash -lc 'echo '"'a b' > f'\''s\""#,
            ),
            (r#"/bin/bash -lc 'tr '"'\\\\0' x""#, r"tr '\\0' x"),
            ("/bin/bash -lc 'a' b", "/bin/bash -lc 'a' b"),
            ("python3 x.py", "python3 x.py"),
        ] {
            assert_eq!(without_shell(command), want);
        }
    }
}
