//! The log event of a run, `codex_run_completed`: one JSON line whatever the log format is, because
//! programs count on it.

use std::io::Write;

use jiff::Timestamp;
use serde_json::json;

use super::Request;
use crate::job::result::RunResult;

/// Characters of the prompt in the event.
const PROMPT_CHARACTERS: usize = 100;

/// The line, with its newline.
pub fn completed(id: &str, request: &Request, result: &RunResult, log_prompts: bool) -> String {
    let mut event = json!({
        "timestamp": Timestamp::now().to_string(),
        "event": "codex_run_completed",
        "run_id": id,
        "mode": request.mode,
        "success": result.success,
        "exit_code": result.exit_code,
        "files_changed": result.files_changed.len(),
        "execution_time_ms": result.execution_time_ms,
    });
    if log_prompts {
        let start: String = request.prompt.chars().take(PROMPT_CHARACTERS).collect();
        event["prompt"] = start.into();
    }
    format!("{event}\n")
}

/// Writes the line to stderr, in one piece. A client that has closed stderr misses it.
pub(super) fn to_stderr(line: &str) {
    let _ = std::io::stderr().lock().write_all(line.as_bytes());
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::job::call::Mode;

    fn request(prompt: &str) -> Request {
        Request {
            accepted: Timestamp::now(),
            prompt: prompt.into(),
            mode: Mode::Suggest,
            timeout: 300,
            workspace: "/w".into(),
            working_dir: None,
            env_vars: Vec::new(),
            model: None,
            continue_run: None,
            keep_thread: false,
            owner: None,
        }
    }

    #[test]
    fn the_event_is_one_line_with_the_start_of_the_prompt() {
        let mut result = RunResult::completed("r");
        result.files_changed = vec!["a".into(), "b".into()];
        result.execution_time_ms = 12;
        let line = completed("r", &request(&"é\n".repeat(200)), &result, true);
        assert_eq!(line.matches('\n').count(), 1);
        let event: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(event["event"], "codex_run_completed");
        assert_eq!(event["prompt"].as_str().unwrap().chars().count(), 100);
        assert_eq!(
            (&event["mode"], &event["files_changed"], &event["execution_time_ms"]),
            (&json!("suggest"), &json!(2), &json!(12))
        );
        assert!(event["timestamp"].as_str().unwrap().parse::<Timestamp>().is_ok());
    }

    #[test]
    fn the_prompt_stays_out_if_it_shall() {
        let line = completed("r", &request("secret plan"), &RunResult::completed("r"), false);
        assert!(!line.contains("secret"), "{line}");
    }
}
