//! Reads what `codex exec --json` prints: one event a line.
//!
//! A line may be no JSON, no UTF-8, of a type that nobody knows, or have a key twice (`web_search`
//! has two `id`s).

use serde_json::Value;

use super::{
    CodexEvent, Item, MAX_MESSAGE, MAX_PATHS, MAX_TEXT, Phase, Usage, cut, error, long_text, text,
    without_shell,
};
use crate::codex::lines::{Line, Lines, json};

/// Takes bytes as they come and gives events.
#[derive(Debug, Default)]
pub struct EventParser {
    lines: Lines,
}

impl EventParser {
    /// Takes `bytes`, in any pieces; calls `each` for each event that they end.
    pub fn feed(&mut self, bytes: &[u8], mut each: impl FnMut(CodexEvent)) {
        self.lines.feed(bytes, |line| each(event_of(line)));
    }

    /// Takes what is left as the last line.
    pub fn finish(&mut self) -> Option<CodexEvent> {
        let mut last = None;
        self.lines.finish(|line| last = Some(event_of(line)));
        last
    }
}

fn event_of(line: Line<'_>) -> CodexEvent {
    match line {
        Line::Whole(line) => {
            read(line).unwrap_or(CodexEvent::Unreadable { bytes: line.len() as u64 })
        }
        Line::Long { head, bytes, .. } => skim(head).unwrap_or(CodexEvent::Unreadable { bytes }),
    }
}

fn read(line: &[u8]) -> Option<CodexEvent> {
    event(&json(line)?)
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
        "error" => return Some(error(text(&value["message"]))),
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
            return Some(error(cut(&skimmed(rest, "message"), MAX_TEXT)));
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
pub(in crate::codex) fn skimmed(rest: &str, key: &str) -> String {
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
    use crate::codex::lines::{MAX_LINE, SKIMMED};

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
            assert!(parser.lines.capacity() <= 2 * MAX_LINE);
        }
        parser.feed(b"\"}}\n{\"type\":\"turn.started\"}\n", |event| events.push(event));
        let CodexEvent::Item { item: Item::Message { text }, .. } = &events[0] else {
            panic!("{:?}", events[0])
        };
        assert!(text.starts_with("so \u{1f600} \u{1f600}") && text.len() < SKIMMED);
        assert_eq!(events[1..], [CodexEvent::TurnStarted]);
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
