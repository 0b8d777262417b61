//! What a demo found out, for `--json`, and how its parts are shown.

use serde::Serialize;
use serde_json::Value;

/// All that was seen.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    /// That only this is not real.
    pub(super) scripted: &'static str,
    /// Milliseconds from the start of the server's process to its answer to `initialize`.
    pub(super) initialize_ms: f64,
    /// Names of its tools.
    pub(super) tools: Vec<String>,
    /// The containers that waited before the first call.
    pub(super) waiting: Vec<Waiting>,
    /// Result of the first run.
    pub(super) run: Value,
    /// Result of the run in mode suggest.
    pub(super) suggested: Value,
    /// Its diff.
    pub(super) diff: String,
    /// What applying it answered.
    pub(super) applied: Value,
    /// The pool after the runs.
    pub(super) pool: Value,
    /// Containers of this server after its end.
    pub(super) left_behind: usize,
    /// Milliseconds the server took to end.
    pub(super) end_ms: f64,
}

/// A container that waits.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Waiting {
    /// As results name it.
    pub(super) container_id: String,
    /// RFC 3339.
    pub(super) started: String,
}

/// Where the time of a run went, as rows of a table. `model` is the time that the model took to
/// answer, in milliseconds.
pub(super) fn times(result: &Value, model: f64) -> Vec<Vec<String>> {
    let time = |name: &str| result["timings_ms"][name].as_f64().unwrap_or_default();
    let codex = time("codex");
    let parts = [
        ("take the container that waits", time("queue") + time("checkout")),
        ("send the workspace into it", time("send")),
        ("Codex works", codex - model),
        ("the scripted model answers", model),
        ("end every process, collect what changed", time("collect")),
        ("apply it to your files", time("apply")),
    ];
    let rest = time("total") - parts.iter().map(|(_, took)| took).sum::<f64>();
    let row = |what: &str, took: f64| vec![what.to_owned(), format!("{took:.1}")];
    let mut rows: Vec<_> = parts.iter().map(|(what, took)| row(what, *took)).collect();
    rows.push(row("check the call, keep the record", rest.max(0.0)));
    rows.push(row("the whole run", time("total")));
    rows
}

/// `text` without what could move a terminal's cursor; it may come from a container.
pub(super) fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect()
}

/// The commands that Codex ran, with the first line of what they printed, from its events.
pub(super) fn commands(events: &str) -> Vec<String> {
    let item = |line: &str| Some(serde_json::from_str::<Value>(line).ok()?["item"].take());
    let mut shown = Vec::new();
    for item in events.lines().filter_map(item) {
        if item["type"] != "command_execution" || item["status"] == "in_progress" {
            continue;
        }
        let command = item["command"].as_str().unwrap_or_default();
        let command = command.strip_prefix("/bin/bash -lc ").unwrap_or(command).trim_matches('\'');
        let output = item["aggregated_output"].as_str().unwrap_or_default().trim();
        shown.push(format!("$ {command}"));
        shown.extend(output.lines().take(6).map(|line| format!("  {line}")));
    }
    shown
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_rows_add_up_to_the_whole() {
        let result = json!({"timings_ms": {"queue": 0.0, "checkout": 0.1, "send": 5.0,
            "first_request": 80.0, "codex": 200.0, "collect": 4.0, "apply": 3.0, "total": 215.0}});
        let rows = times(&result, 10.0);
        let took = |row: &Vec<String>| row[1].parse::<f64>().unwrap();
        let (whole, parts) = rows.split_last().unwrap();
        assert!((took(whole) - parts.iter().map(took).sum::<f64>()).abs() < 0.5);
    }

    #[test]
    fn what_a_container_printed_cannot_move_the_cursor() {
        assert_eq!(printable("a\u{1b}[2Jb\r\nc\t"), "a[2Jb\nc\t");
    }

    #[test]
    fn commands_are_shown_as_they_were_typed() {
        let events = "{\"type\":\"item.started\",\"item\":{\"type\":\"command_execution\",\
            \"command\":\"/bin/bash -lc 'ls -A'\",\"status\":\"in_progress\"}}\n\
            {\"type\":\"item.completed\",\"item\":{\"type\":\"command_execution\",\"command\":\
            \"/bin/bash -lc 'ls -A'\",\"aggregated_output\":\"README.md\\n\",\
            \"status\":\"completed\"}}\nno json\n";
        assert_eq!(commands(events), ["$ ls -A", "  README.md"]);
    }
}
