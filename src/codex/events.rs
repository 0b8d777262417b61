//! What Codex prints with `--json`: one event a line, from a source that is not trusted.
//!
//! A line may be of any length, no JSON, no UTF-8, of a type that nobody knows, or have a key twice
//! (`web_search` has two `id`s); it then gives an event that says so, never an error. At most
//! [`MAX_LINE`] bytes are held.

use serde_json::Value;

use super::outcome::Usage;

/// The longest line that is read whole. Codex itself cuts a command's output at about 1 MiB, and
/// escaping makes that more.
pub const MAX_LINE: usize = 4 * 1024 * 1024;

/// What of a longer line is looked at.
const SKIMMED: usize = 64 * 1024;

/// The longest text that an event keeps of a command and its output, in bytes.
const MAX_TEXT: usize = 4 * 1024;

/// The longest message of Codex that is kept, in bytes.
const MAX_MESSAGE: usize = 1024 * 1024;

/// The most paths that one event keeps.
const MAX_PATHS: usize = 1000;

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
    /// Something went wrong: passing, such as "Reconnecting... 1/5", or the reason of a failure
    /// that follows.
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

/// Takes bytes as they come and gives events.
#[derive(Debug, Default)]
pub struct EventParser {
    line: Vec<u8>,
    /// Bytes of the current line that were not kept.
    skipped: u64,
}

impl EventParser {
    /// Takes `bytes`, in any pieces; calls `each` for each event that they end.
    pub fn feed(&mut self, bytes: &[u8], mut each: impl FnMut(CodexEvent)) {
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            self.keep(&rest[..end]);
            rest = &rest[end + 1..];
            if let Some(event) = self.take() {
                each(event);
            }
        }
        self.keep(rest);
    }

    /// Takes what is left as the last line.
    pub fn finish(&mut self) -> Option<CodexEvent> {
        self.take()
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.skipped == 0 && self.line.len() + bytes.len() <= MAX_LINE {
            self.line.extend_from_slice(bytes);
            return;
        }
        let room = SKIMMED.saturating_sub(self.line.len()).min(bytes.len());
        self.line.extend_from_slice(&bytes[..room]);
        let held = self.line.len();
        self.line.truncate(SKIMMED);
        self.line.shrink_to(SKIMMED);
        self.skipped += (held - self.line.len() + bytes.len() - room) as u64;
    }

    fn take(&mut self) -> Option<CodexEvent> {
        let skipped = std::mem::take(&mut self.skipped);
        let event = if skipped > 0 {
            let bytes = self.line.len() as u64 + skipped;
            Some(skim(&self.line).unwrap_or(CodexEvent::Unreadable { bytes }))
        } else if self.line.trim_ascii().is_empty() {
            None
        } else {
            let bytes = self.line.len() as u64;
            Some(read(&self.line).unwrap_or(CodexEvent::Unreadable { bytes }))
        };
        self.line.clear();
        self.line.shrink_to(SKIMMED);
        event
    }
}

fn read(line: &[u8]) -> Option<CodexEvent> {
    let value: Value = match serde_json::from_slice(line) {
        Ok(value) => value,
        Err(_) => serde_json::from_str(&String::from_utf8_lossy(line)).ok()?,
    };
    event(&value)
}

fn event(value: &Value) -> Option<CodexEvent> {
    let kind = value.as_object()?.get("type")?.as_str()?;
    let item = &value["item"];
    let phase = match kind {
        "thread.started" => {
            return Some(CodexEvent::ThreadStarted { id: text(&value["thread_id"]) });
        }
        "turn.started" => return Some(CodexEvent::TurnStarted),
        "turn.completed" => {
            return Some(CodexEvent::TurnCompleted { usage: usage(&value["usage"]) });
        }
        "turn.failed" => {
            return Some(CodexEvent::TurnFailed { message: text(&value["error"]["message"]) });
        }
        "error" => return Some(CodexEvent::Error { message: text(&value["message"]) }),
        "item.started" => Phase::Started,
        "item.updated" => Phase::Updated,
        "item.completed" => Phase::Completed,
        other => return Some(CodexEvent::Unknown { kind: cut(other, 100) }),
    };
    Some(CodexEvent::Item { phase, item: read_item(item)? })
}

fn read_item(item: &Value) -> Option<Item> {
    let failed = item["status"] == "failed";
    Some(match item.as_object()?.get("type")?.as_str()? {
        "agent_message" => Item::Message { text: long_text(&item["text"], MAX_MESSAGE) },
        "reasoning" => Item::Reasoning { text: text(&item["text"]) },
        "command_execution" => Item::Command {
            command: cut(&without_shell(item["command"].as_str().unwrap_or_default()), MAX_TEXT),
            output: text(&item["aggregated_output"]),
            exit_code: item["exit_code"].as_i64(),
            failed,
        },
        "file_change" => {
            let changes = item["changes"].as_array().map(Vec::as_slice).unwrap_or_default();
            let paths = changes.iter().take(MAX_PATHS).map(|change| text(&change["path"]));
            Item::FileChange { paths: paths.collect(), failed }
        }
        "mcp_tool_call" => {
            Item::McpCall { server: text(&item["server"]), tool: text(&item["tool"]), failed }
        }
        "web_search" => Item::WebSearch { query: text(&item["query"]) },
        "error" => Item::Warning { message: text(&item["message"]) },
        other => Item::Other { kind: cut(other, 100) },
    })
}

fn usage(usage: &Value) -> Option<Usage> {
    usage.as_object()?;
    let tokens = |name: &str| usage[name].as_u64().unwrap_or_default();
    Some(Usage {
        input_tokens: tokens("input_tokens"),
        cached_input_tokens: tokens("cached_input_tokens"),
        output_tokens: tokens("output_tokens"),
        reasoning_output_tokens: tokens("reasoning_output_tokens"),
    })
}

fn text(value: &Value) -> String {
    long_text(value, MAX_TEXT)
}

fn long_text(value: &Value, limit: usize) -> String {
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
fn without_shell(command: &str) -> String {
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

/// What the beginning of a line too long to read tells: what kind of event it is, and of a message
/// its beginning. Codex writes `type` and the item's `type` first.
fn skim(line: &[u8]) -> Option<CodexEvent> {
    let line = String::from_utf8_lossy(line);
    let head = line.trim_start();
    let after_type = head.strip_prefix("{\"type\":\"")?;
    let (kind, rest) = after_type.split_once('"')?;
    let phase = match kind {
        "item.started" => Phase::Started,
        "item.updated" => Phase::Updated,
        "item.completed" => Phase::Completed,
        "error" => {
            return Some(CodexEvent::Error { message: cut(&skimmed(rest, "message"), MAX_TEXT) });
        }
        "turn.failed" => {
            return Some(CodexEvent::TurnFailed {
                message: cut(&skimmed(rest, "message"), MAX_TEXT),
            });
        }
        other => return Some(CodexEvent::Unknown { kind: cut(other, 100) }),
    };
    let item = rest.split_once("\"type\":\"")?.1;
    let (kind, rest) = item.split_once('"')?;
    let item = match kind {
        "agent_message" => Item::Message { text: skimmed(rest, "text") },
        "command_execution" => {
            let command = skimmed(rest, "command");
            Item::Command {
                command: cut(&without_shell(&command), MAX_TEXT),
                output: cut(&skimmed(rest, "aggregated_output"), MAX_TEXT),
                // They stand behind the part that was not kept.
                exit_code: None,
                failed: false,
            }
        }
        other => Item::Other { kind: cut(other, 100) },
    };
    Some(CodexEvent::Item { phase, item })
}

/// The beginning of the string under `key`.
fn skimmed(rest: &str, key: &str) -> String {
    let Some((_, value)) = rest.split_once(&format!("\"{key}\":\"")) else { return String::new() };
    let mut escaped = false;
    let end = value.find(|c| {
        let ends = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    });
    let mut value = &value[..end.unwrap_or(value.len())];
    // The cut may have gone through an escape, of a surrogate pair at most.
    for _ in 0..12 {
        if let Ok(text) = serde_json::from_str::<String>(&format!("\"{value}\"")) {
            return text;
        }
        let Some((last, _)) = value.char_indices().next_back() else { break };
        value = &value[..last];
    }
    String::new()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn events(pieces: &[&[u8]]) -> Vec<CodexEvent> {
        let mut parser = EventParser::default();
        let mut events = Vec::new();
        for piece in pieces {
            parser.feed(piece, |event| events.push(event));
        }
        events.extend(parser.finish());
        events
    }

    fn one(line: &str) -> CodexEvent {
        let mut all = events(&[line.as_bytes()]);
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0)
    }

    fn line() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..40),
            Just(br#"{"type":"turn.completed","usage":{"input_tokens":5}}"#.to_vec()),
            Just(
                br#"{"type":"item.completed","item":{"type":"agent_message","text":"x"}}"#.to_vec()
            ),
            Just(br#"{"type":"item.started","item":{"type":"file_change","changes":7}}"#.to_vec()),
            "\\{\"type\":\"[a-z.]{0,12}\",\"item\":[0-9\\[\\{\\}\\]]{0,4}\\}"
                .prop_map(String::into_bytes),
        ]
    }

    proptest! {
        #[test]
        fn the_events_are_the_same_in_any_pieces(
            lines in proptest::collection::vec(line(), 0..8),
            size in 1_usize..40,
        ) {
            let bytes = lines.join(&b'\n');
            let whole = events(&[&bytes]);
            let pieces: Vec<&[u8]> = bytes.chunks(size).collect();
            prop_assert_eq!(events(&pieces), whole);
        }
    }

    #[test]
    fn odd_lines_give_events_and_never_errors() {
        for (line, want) in [
            ("{", CodexEvent::Unreadable { bytes: 1 }),
            ("[]", CodexEvent::Unreadable { bytes: 2 }),
            (r#"{"type":7}"#, CodexEvent::Unreadable { bytes: 10 }),
            (r#"{"type":"item.completed"}"#, CodexEvent::Unreadable { bytes: 25 }),
            (r#"{"type":"new.thing"}"#, CodexEvent::Unknown { kind: "new.thing".into() }),
            (r#"{"type":"turn.completed"}"#, CodexEvent::TurnCompleted { usage: None }),
            (
                r#"{"type":"item.completed","item":{"id":"a","type":"web_search","id":"b","query":"q"}}"#,
                CodexEvent::Item {
                    phase: Phase::Completed,
                    item: Item::WebSearch { query: "q".into() },
                },
            ),
        ] {
            assert_eq!(one(line), want, "{line}");
        }
        let mut latin = br#"{"type":"error","message":"caf"#.to_vec();
        latin.extend_from_slice(b"\xe9\"}");
        let want = CodexEvent::Error { message: "caf\u{fffd}".into() };
        assert_eq!(events(&[&latin, b"\n"]), [want]);
    }

    #[test]
    fn a_line_of_twelve_megabytes_is_skimmed_in_bounded_memory() {
        let mut parser = EventParser::default();
        let mut events = Vec::new();
        let head = br#"{"type":"item.completed","item":{"id":"item_1","type":"agent_message","text":"so \ud83d\ude00 "#;
        parser.feed(head, |event| events.push(event));
        for _ in 0..12 * 1024 {
            parser.feed(&br"\ud83d\ude00".repeat(100), |event| events.push(event));
            assert!(parser.line.capacity() <= 2 * MAX_LINE);
        }
        parser.feed(b"\"}}\n{\"type\":\"turn.started\"}\n", |event| events.push(event));
        let CodexEvent::Item { item: Item::Message { text }, .. } = &events[0] else {
            panic!("{:?}", events[0])
        };
        assert!(text.starts_with("so \u{1f600} \u{1f600}") && text.len() < SKIMMED);
        assert_eq!(events[1..], [CodexEvent::TurnStarted]);
    }

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

    #[test]
    fn a_long_command_line_is_still_a_command() {
        let line = format!(
            r#"{{"type":"item.completed","item":{{"id":"i","type":"command_execution","command":"/bin/bash -lc 'yes \"a\"'","aggregated_output":"{}","exit_code":0,"status":"completed"}}}}"#,
            "y".repeat(MAX_LINE)
        );
        let CodexEvent::Item { item: Item::Command { command, output, .. }, .. } = one(&line)
        else {
            panic!("no command")
        };
        assert_eq!(command, "yes \"a\"");
        assert_eq!(output.len(), MAX_TEXT);
    }
}
