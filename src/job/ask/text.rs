//! The words of a question.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::codex::app_server::approval::{Approval, Wanted};

/// Bytes of a command or of a diff in a question at most.
const SHOWN: usize = 16 * 1024;

/// A question in words, for a person and for the record.
pub(super) struct Worded {
    /// Half a line.
    pub(super) title: String,
    pub(super) message: String,
    pub(super) wanted: Value,
}

/// Words of what Codex wants.
pub(super) fn question(asked: &Approval, redact: &dyn Fn(&str) -> String) -> Worded {
    // Redacted before it is cut: a cut might leave a part of what would be known as a secret.
    let fit = |text: &str, most: usize| clean(&redact(text), most);
    let line = |text: &str, most: usize| fit(text, most).replace(['\n', '\t'], " ");
    let reason = asked.reason.as_deref().map(|reason| line(reason, 300));
    let mut message;
    let (title, mut wanted) = match &asked.what {
        Wanted::Command { command, cwd, cut } => {
            let (command, cwd) = (fit(command, SHOWN), line(cwd, 500));
            message = format!("Codex wants to run a command in {cwd}:\n\n{}", indented(&command));
            let title = format!("run {}", short(&command));
            (title, json!({"kind": "command", "command": command, "cwd": cwd, "cut": cut}))
        }
        Wanted::Edit(edit) => {
            message = "Codex wants to change files:\n".to_owned();
            let (mut files, mut left) = (Vec::new(), SHOWN);
            for file in &edit.files {
                let (path, kind) = (line(&file.path, 500), line(&file.kind, 20));
                let moved = file.moved_to.as_deref().map(|to| line(to, 500));
                let arrow = moved.as_deref().map(|to| format!(" -> {to}")).unwrap_or_default();
                let diff = fit(&file.diff, left);
                left = left.saturating_sub(diff.len());
                let _ = write!(message, "\n{kind} {path}{arrow}\n{}", indented(&diff));
                files.push(json!({"path": path, "kind": kind, "moved_to": moved, "diff": diff}));
            }
            if edit.cut > 0 {
                let _ = write!(message, "\nThis is not all: {} more are not shown.\n", edit.cut);
            }
            let title = edit.files.first().map(|file| short(&line(&file.path, 500)));
            let title = format!("change {}", title.unwrap_or_default());
            (title, json!({"kind": "edit", "files": files, "cut": edit.cut}))
        }
    };
    if let Some(reason) = reason {
        let _ = write!(message, "\nCodex's reason:\n{}", indented(&reason));
        wanted["reason"] = reason.into();
    }
    message.push_str("\nYour answer holds for this one time.");
    Worded { title, message, wanted }
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("    {line}\n")).collect()
}

fn short(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    let mut short: String = line.chars().take(60).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

/// At most `most` bytes of `text`, and a mark if there are more. What steers a terminal or turns the
/// direction of writing is shown by its number.
pub(super) fn clean(text: &str, most: usize) -> String {
    let mut out = String::with_capacity(text.len().min(most));
    for (at, c) in text.char_indices() {
        if out.len() >= most {
            let _ = write!(out, "\n[cut: {} bytes more]", text.len() - at);
            break;
        }
        match c {
            '\n' | '\t' => out.push(c),
            c if c.is_control() || unseen(c) => {
                let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out
}

/// Characters that are not seen, but change how others are.
fn unseen(c: char) -> bool {
    matches!(
        c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e0fff}'
    )
}
