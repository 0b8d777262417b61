//! One short line for each event: what Codex does now, verb first.

use super::events::{CodexEvent, Item, Phase};
use crate::model::redact;

/// The longest line, in characters.
pub const MAX_CHARS: usize = 100;

/// The line for `event`; `None` where there is nothing to tell.
pub fn line(event: &CodexEvent) -> Option<String> {
    let line = match event {
        CodexEvent::ThreadStarted { .. } => "Reading the workspace".into(),
        CodexEvent::TurnStarted => "Asking the model".into(),
        CodexEvent::TurnCompleted { .. } => "Finishing".into(),
        CodexEvent::TurnFailed { message } => format!("Giving up: {message}"),
        CodexEvent::Reconnecting { detail } => format!("Reconnecting to the model: {detail}"),
        CodexEvent::Error { message } => format!("Failing: {message}"),
        CodexEvent::Item { phase, item } => item_line(*phase, item)?,
        CodexEvent::Unknown { .. } | CodexEvent::Unreadable { .. } => return None,
    };
    Some(shortened(&redact(&line)))
}

fn item_line(phase: Phase, item: &Item) -> Option<String> {
    let ended = phase == Phase::Completed;
    Some(match item {
        Item::Message { text } if ended => format!("Saying: {text}"),
        Item::Reasoning { text } if ended => format!("Thinking: {}", text.trim_matches('*')),
        Item::Command { command, .. } if !ended => format!("Running {command}"),
        Item::Command { command, exit_code: Some(code), failed: true, .. } => {
            format!("Failed with {code}: {command}")
        }
        Item::Command { command, .. } => format!("Ran {command}"),
        Item::FileChange { paths, failed: true } => format!("Failed to edit {}", listed(paths)),
        Item::FileChange { paths, .. } if ended => format!("Edited {}", listed(paths)),
        Item::FileChange { paths, .. } => format!("Editing {}", listed(paths)),
        Item::McpCall { server, tool, .. } if !ended => format!("Calling {server}.{tool}"),
        Item::WebSearch { query } => format!("Searching the web for {query}"),
        Item::Warning { message } => format!("Warning: {message}"),
        _ => return None,
    })
}

fn listed(paths: &[String]) -> String {
    let short = |path: &String| path.strip_prefix("/app/").unwrap_or(path).to_owned();
    match paths {
        [] => "files".into(),
        [one] => short(one),
        [first, rest @ ..] => format!("{} and {} more", short(first), rest.len()),
    }
}

/// One line without control characters, at most [`MAX_CHARS`] long.
fn shortened(text: &str) -> String {
    let mut out = String::new();
    let words = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|w| !w.is_empty());
    let mut chars = 0;
    for word in words {
        if chars > 0 {
            out.push(' ');
            chars += 1;
        }
        for c in word.chars() {
            if chars == MAX_CHARS {
                out.pop();
                out.push('…');
                return out;
            }
            out.push(c);
            chars += 1;
        }
        if chars == MAX_CHARS {
            break;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_line_is_long_or_broken(text in any::<String>()) {
            let line = line(&CodexEvent::Error { message: text }).unwrap();
            prop_assert!(line.chars().count() <= MAX_CHARS);
            prop_assert!(!line.chars().any(char::is_control));
        }
    }

    #[test]
    fn a_key_in_an_error_is_not_shown() {
        let event = CodexEvent::Reconnecting { detail: "1/5 (bad key sk-abcdefgh)".into() };
        let want = "Reconnecting to the model: 1/5 (bad key [redacted])";
        assert_eq!(line(&event).unwrap(), want);
    }
}
