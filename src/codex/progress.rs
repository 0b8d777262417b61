//! One short line for each event: what Codex does now, verb first.
//!
//! The text is Codex's, or that of whatever runs in the container, and goes to a screen: nothing in
//! it steers a terminal or turns the direction of writing, and no known form of a secret stays in it.

use super::events::{CodexEvent, Item, Phase};
use super::outcome::provider_message;
use crate::keeper::wire::WORKSPACE;
use crate::model::redact;

/// The longest line, in characters. With the time that is shown after it a line has at most 100.
pub const MAX_CHARS: usize = 90;

/// The line for `event`; `None` where there is nothing to tell.
pub fn line(event: &CodexEvent) -> Option<String> {
    let line = match event {
        CodexEvent::TurnStarted => "Thinking".into(),
        CodexEvent::TurnCompleted { .. } => "Finishing".into(),
        CodexEvent::TurnFailed { message } => format!("Giving up: {}", provider_message(message)),
        CodexEvent::Reconnecting { detail } => format!("Reconnecting to the model: {detail}"),
        CodexEvent::Error { message } => format!("Failing: {}", provider_message(message)),
        CodexEvent::Item { phase, item } => item_line(*phase, item)?,
        CodexEvent::ThreadStarted { .. }
        | CodexEvent::Unknown { .. }
        | CodexEvent::Unreadable { .. } => return None,
    };
    Some(shortened(&relative(&redact(&line))))
}

fn item_line(phase: Phase, item: &Item) -> Option<String> {
    let ended = phase == Phase::Completed;
    Some(match item {
        Item::Message { text } if ended => format!("Saying: {text}"),
        // Its headings are Markdown.
        Item::Reasoning { text } => match &*text.replace("**", "") {
            "" => "Thinking".into(),
            text => format!("Thinking: {text}"),
        },
        Item::Command { command, .. } if !ended => format!("Running {}", there(command)),
        Item::Command { command, exit_code: Some(code), failed: true, .. } => {
            format!("Failed with {code}: {}", there(command))
        }
        Item::Command { command, .. } => format!("Ran {}", there(command)),
        Item::FileChange { paths, failed: true } => format!("Failed to edit {}", listed(paths)),
        Item::FileChange { paths, .. } if ended => format!("Edited {}", listed(paths)),
        Item::FileChange { paths, .. } => format!("Editing {}", listed(paths)),
        Item::McpCall { server, tool, failed: true } => format!("Failed to call {server}.{tool}"),
        Item::McpCall { server, tool, .. } if ended => format!("Called {server}.{tool}"),
        Item::McpCall { server, tool, .. } => format!("Calling {server}.{tool}"),
        Item::WebSearch { query } if query.is_empty() => "Searching the web".into(),
        Item::WebSearch { query } => format!("Searching the web: {query}"),
        Item::Warning { message } => format!("Warned: {message}"),
        _ => return None,
    })
}

fn listed(paths: &[String]) -> String {
    match paths {
        [] => "files".into(),
        [one] => one.clone(),
        [first, rest @ ..] => format!("{first} and {} more", rest.len()),
    }
}

/// A command without the change to the workspace in front of it: it is there already.
fn there(command: &str) -> &str {
    let after = command.trim_start().strip_prefix("cd ").and_then(|at| at.strip_prefix(WORKSPACE));
    let after = after.and_then(|rest| rest.trim_start_matches('/').trim_start().strip_prefix("&&"));
    after.map_or(command, str::trim_start)
}

/// `text` with paths in the workspace as they are named everywhere else: relative to it.
fn relative(text: &str) -> String {
    let prefix = format!("{WORKSPACE}/");
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(&prefix) {
        let (before, found) = rest.split_at(at);
        out.push_str(before);
        let within = out.ends_with(|c: char| c.is_alphanumeric() || "/._-~$}".contains(c));
        if within {
            out.push_str(&prefix);
        }
        rest = &found[prefix.len()..];
    }
    out.push_str(rest);
    out
}

/// Whether a character is none to see but changes how others are seen.
fn is_unseen(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// One line without what cannot be seen, at most [`MAX_CHARS`] long.
fn shortened(text: &str) -> String {
    let mut out = String::new();
    let mut chars = 0;
    for word in text.split(|c: char| c.is_whitespace() || c.is_control()) {
        let mut word = word.chars().filter(|c| !is_unseen(*c)).peekable();
        if word.peek().is_none() {
            continue;
        }
        let space = (chars > 0).then_some(' ');
        for c in space.into_iter().chain(word) {
            if chars == MAX_CHARS {
                out.pop();
                out.push('…');
                return out;
            }
            out.push(c);
            chars += 1;
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
            prop_assert!(!line.chars().any(is_unseen));
        }
    }

    #[test]
    fn paths_of_the_workspace_are_relative_and_others_are_not() {
        for (command, want) in [
            ("cd /app && cargo test", "Running cargo test"),
            ("cd /app/ && cargo test", "Running cargo test"),
            ("cd /app/src && cargo test", "Running cd src && cargo test"),
            ("cd /apple && ls", "Running cd /apple && ls"),
            ("cat /app/src/lib.rs '/app/a b' x=/app/c", "Running cat src/lib.rs 'a b' x=c"),
            ("ls /my/app/x /usr/app/y $H/app/z", "Running ls /my/app/x /usr/app/y $H/app/z"),
            ("printf '\u{202e}\u{1b}[31mx\u{7}'\n\tls", "Running printf ' [31mx ' ls"),
        ] {
            let item = Item::Command {
                command: command.into(),
                output: String::new(),
                exit_code: None,
                failed: false,
            };
            let event = CodexEvent::Item { phase: Phase::Started, item };
            assert_eq!(line(&event).unwrap(), want);
        }
    }

    #[test]
    fn a_key_in_an_error_is_not_shown() {
        let event = CodexEvent::Reconnecting { detail: "1/5 (bad key sk-abcdefgh)".into() };
        let want = "Reconnecting to the model: 1/5 (bad key [redacted])";
        assert_eq!(line(&event).unwrap(), want);
    }
}
