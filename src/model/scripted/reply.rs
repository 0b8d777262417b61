//! From a request and the script to the answer. Pure.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

use super::script::{Fault, Scenario, Step, Usage};

/// What a request says that matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Turn {
    /// The last message of the user.
    pub(super) prompt: String,
    /// Codex's session.
    pub(super) session: String,
    /// The step whose result came last.
    pub(super) done: Option<usize>,
    /// Whether tools are offered as JavaScript.
    pub(super) code_mode: bool,
}

/// What to do with a request.
#[derive(Debug)]
pub(super) enum Plan {
    /// An error status with a body.
    Error { status: u16, retry_after: Option<u64>, body: String },
    /// No answer, ever.
    Stall,
    /// A stream of events.
    Stream(VecDeque<Piece>),
}

/// A piece of an answer.
#[derive(Debug)]
pub(super) enum Piece {
    Bytes(Bytes),
    Pause(Duration),
    /// The connection is cut.
    Cut,
    /// Nothing more comes.
    Hang,
}

/// Begins the ids of our tool calls; the number of the step follows.
const CALL: &str = "call_s";

/// How long before a cut the answer has begun.
const CUT_AFTER_MS: u64 = 20;

impl Turn {
    pub(super) fn read(body: &Value) -> Self {
        let items = body["input"].as_array().map(Vec::as_slice).unwrap_or_default();
        let mut turn = Self {
            prompt: String::new(),
            session: body["prompt_cache_key"].as_str().unwrap_or_default().to_owned(),
            done: None,
            code_mode: false,
        };
        for item in items {
            if item["type"] == "message" && item["role"] == "user" {
                let parts = item["content"].as_array().map(Vec::as_slice).unwrap_or_default();
                turn.prompt = parts.iter().filter_map(|part| part["text"].as_str()).collect();
                turn.done = None;
            }
            let step = item["call_id"].as_str().filter(|_| {
                item["type"].as_str().is_some_and(|kind| kind.ends_with("_call_output"))
            });
            if let Some(step) = step.and_then(|id| id.strip_prefix(CALL)) {
                let number = step.split('_').next().and_then(|n| n.parse().ok());
                turn.done = turn.done.max(number);
            }
            turn.code_mode |= offers_exec(&item["tools"]);
        }
        turn.code_mode |= offers_exec(&body["tools"]);
        turn
    }
}

fn offers_exec(tools: &Value) -> bool {
    tools.as_array().is_some_and(|tools| {
        tools.iter().any(|tool| {
            (tool["type"] == "custom" && tool["name"] == "exec") || offers_exec(&tool["tools"])
        })
    })
}

/// The answer to `turn` by `scenario`. `gone(step, times)` counts one more request at a fault and
/// tells whether the fault is over.
pub(super) fn plan(
    scenario: &Scenario,
    turn: &Turn,
    mut gone: impl FnMut(usize, u32) -> bool,
) -> Plan {
    let mut answer = Answer::new(turn);
    let first = turn.done.map_or(0, |done| done + 1);
    let mut said = false;
    for (number, step) in scenario.steps.iter().enumerate().skip(first) {
        match step {
            Step::Fault(fault) if fault.times > 0 && gone(number, fault.times) => {}
            Step::Fault(fault) => return answer.broken(fault),
            Step::Say(text) => answer.message(text),
            Step::Flood(bytes) => answer.message(&flood(*bytes)),
            Step::Reason(text) => answer.reasoning(text),
            Step::Wait(ms) => answer.pause(*ms),
            Step::Slow(ms) => answer.slow = Some(*ms),
            step => answer.calls(number, step),
        }
        said |= matches!(step, Step::Say(_) | Step::Flood(_));
        if step.is_call() {
            return answer.finished(scenario.usage);
        }
    }
    if !said {
        answer.message("Done.");
    }
    answer.finished(scenario.usage)
}

fn flood(bytes: u64) -> String {
    let line = "All work and no play makes Codex a dull model, so this line is long enough.\n";
    line.chars().cycle().take(usize::try_from(bytes).unwrap_or(usize::MAX)).collect()
}

struct Answer<'a> {
    turn: &'a Turn,
    pieces: VecDeque<Piece>,
    slow: Option<u64>,
    items: usize,
}

impl<'a> Answer<'a> {
    fn new(turn: &'a Turn) -> Self {
        let mut answer = Self { turn, pieces: VecDeque::new(), slow: None, items: 0 };
        answer.event("response.created", json!({"response": {"id": "resp_scripted"}}));
        answer
    }

    fn event(&mut self, kind: &str, mut data: Value) {
        data["type"] = kind.into();
        let text = format!("event: {kind}\ndata: {data}\n\n");
        self.pieces.push_back(Piece::Bytes(text.into()));
        if let Some(ms) = self.slow {
            self.pause(ms);
        }
    }

    fn pause(&mut self, ms: u64) {
        self.pieces.push_back(Piece::Pause(Duration::from_millis(ms)));
    }

    fn item(&mut self, item: &Value) {
        let index = self.items;
        self.items += 1;
        self.event("response.output_item.done", json!({"output_index": index, "item": item}));
    }

    fn message(&mut self, text: &str) {
        let index = self.items;
        let id = format!("msg_{index}");
        let message = |content: Value| json!({"type": "message", "role": "assistant", "id": id, "content": content});
        self.event(
            "response.output_item.added",
            json!({"output_index": index, "item": message(json!([]))}),
        );
        if self.slow.is_some() {
            for word in text.split_inclusive(' ') {
                self.event(
                    "response.output_text.delta",
                    json!({"item_id": id, "output_index": index, "content_index": 0, "delta": word}),
                );
            }
        }
        self.item(&message(json!([{"type": "output_text", "text": text, "annotations": []}])));
    }

    fn reasoning(&mut self, text: &str) {
        let id = format!("rs_{}", self.items);
        self.item(&json!({
            "type": "reasoning", "id": id, "summary": [{"type": "summary_text", "text": text}],
            "encrypted_content": "scripted",
        }));
    }

    fn calls(&mut self, step: usize, what: &Step) {
        let calls: Vec<(String, Value)> = match what {
            Step::Run(commands) => commands.iter().map(command).collect(),
            Step::Write { path, text } => vec![command(&write_command(path, text))],
            Step::Patch(patch) => vec![("apply_patch".into(), patch.as_str().into())],
            Step::Call { tool, arguments } => vec![(tool.clone(), arguments.clone())],
            _ => return,
        };
        if self.turn.code_mode {
            let mut code = String::from("// @exec: {\"yield_time_ms\": 600000}\n");
            for (tool, arguments) in &calls {
                // Writing to a String cannot fail.
                let _ = writeln!(code, "text(await tools.{tool}({arguments}));");
            }
            self.item(&json!({
                "type": "custom_tool_call", "id": format!("ctc_{step}"), "status": "completed",
                "call_id": format!("{CALL}{step}_0"), "name": "exec", "namespace": "functions",
                "input": code,
            }));
            return;
        }
        for (index, (tool, arguments)) in calls.iter().enumerate() {
            let call_id = format!("{CALL}{step}_{index}");
            let item = match arguments {
                Value::String(text) => json!({
                    "type": "custom_tool_call", "id": format!("ctc_{step}_{index}"),
                    "status": "completed", "call_id": call_id, "name": tool, "input": text,
                }),
                object => json!({
                    "type": "function_call", "id": format!("fc_{step}_{index}"),
                    "call_id": call_id, "name": tool, "arguments": object.to_string(),
                }),
            };
            self.item(&item);
        }
    }

    fn finished(mut self, usage: Usage) -> Plan {
        self.event(
            "response.completed",
            json!({"response": {"id": "resp_scripted", "usage": {
                "input_tokens": usage.input_tokens,
                "input_tokens_details": {"cached_tokens": usage.cached_input_tokens},
                "output_tokens": usage.output_tokens,
                "output_tokens_details": {"reasoning_tokens": usage.reasoning_output_tokens},
                "total_tokens": usage.input_tokens + usage.output_tokens,
            }}}),
        );
        Plan::Stream(joined(self.pieces))
    }

    fn broken(mut self, fault: &Fault) -> Plan {
        if let Some(status) = fault.status {
            let (code, message) = worded(status);
            let code = fault.code.as_deref().unwrap_or(code);
            let message = fault.message.as_deref().unwrap_or(message);
            let body = json!({"error": {"message": message, "type": code, "code": code}});
            let body = body.to_string();
            return Plan::Error { status, retry_after: fault.retry_after, body };
        }
        if fault.stall {
            return Plan::Stall;
        }
        if let Some(code) = &fault.failed {
            let message = fault.message.as_deref().unwrap_or("The scripted model failed.");
            let error = json!({"code": code, "message": message});
            let response = json!({"id": "resp_scripted", "status": "failed", "error": error});
            self.event("response.failed", json!({"response": response}));
            return Plan::Stream(joined(self.pieces));
        }
        if fault.hang {
            self.pieces.push_back(Piece::Hang);
        } else {
            // What was sent must be on its way, or the client sees no answer at all.
            self.pause(CUT_AFTER_MS);
            self.pieces.push_back(Piece::Cut);
        }
        Plan::Stream(joined(self.pieces))
    }
}

/// What the provider says with a status.
fn worded(status: u16) -> (&'static str, &'static str) {
    match status {
        400 => ("invalid_request_error", "Invalid request."),
        401 => ("invalid_api_key", "Incorrect API key provided: sk-scripted000000000000."),
        403 => ("unsupported_country_region_territory", "Country or region not supported."),
        404 => ("model_not_found", "The model does not exist or you do not have access to it."),
        429 => ("rate_limit_exceeded", "Rate limit reached."),
        _ => ("server_error", "The server had an error while processing your request."),
    }
}

/// Neighbouring bytes become one piece, so that an answer is one write.
fn joined(pieces: VecDeque<Piece>) -> VecDeque<Piece> {
    let mut out: VecDeque<Piece> = VecDeque::new();
    let mut open: Vec<u8> = Vec::new();
    for piece in pieces {
        match piece {
            Piece::Bytes(bytes) => open.extend_from_slice(&bytes),
            other => {
                if !open.is_empty() {
                    out.push_back(Piece::Bytes(std::mem::take(&mut open).into()));
                }
                out.push_back(other);
            }
        }
    }
    if !open.is_empty() {
        out.push_back(Piece::Bytes(open.into()));
    }
    out
}

fn command(command: &str) -> (String, Value) {
    ("exec_command".into(), json!({"cmd": command, "yield_time_ms": 30_000}))
}

fn write_command(path: &str, text: &str) -> String {
    let (path, text) = (quoted(path), quoted(text));
    format!("mkdir -p \"$(dirname {path})\" && printf %s {text} > {path}")
}

/// In single quotes for a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::scripted::Script;

    fn request(code_mode: bool, items: &[Value]) -> Value {
        let exec = json!([{"type": "namespace", "name": "functions", "tools": [
            {"type": "custom", "name": "exec"}]}]);
        let mut input = vec![
            json!({"type": "message", "role": "user", "content": [
                {"type": "input_text", "text": "<environment_context/>"}]}),
            json!({"type": "message", "role": "user", "content": [
                {"type": "input_text", "text": "Create a hello.py file"}]}),
        ];
        if code_mode {
            input.insert(0, json!({"type": "additional_tools", "tools": exec}));
        }
        input.extend_from_slice(items);
        json!({"prompt_cache_key": "s", "input": input, "tools": []})
    }

    fn text(plan: Plan) -> String {
        let Plan::Stream(pieces) = plan else { panic!("no stream: {plan:?}") };
        let bytes = pieces.into_iter().filter_map(|piece| match piece {
            Piece::Bytes(bytes) => Some(String::from_utf8(bytes.to_vec()).unwrap()),
            _ => None,
        });
        bytes.collect()
    }

    fn answer(code_mode: bool, items: &[Value]) -> String {
        let script = Script::builtin();
        let turn = Turn::read(&request(code_mode, items));
        let (_, scenario) = script.scenario(&turn.prompt).unwrap();
        text(plan(scenario, &turn, |_, _| false))
    }

    #[test]
    fn the_results_in_a_request_tell_what_comes_next() {
        assert!(answer(false, &[]).contains("\"call_id\":\"call_s2_0\""));
        let done = |id: &str| json!({"type": "custom_tool_call_output", "call_id": id});
        let third = answer(false, &[done("call_s2_0"), done("call_s3_0")]);
        assert!(third.contains("python3 hello.py"), "{third}");
        let last = answer(true, &[done("call_s2_0"), done("call_s4_0")]);
        assert!(last.contains("Created hello.py") && !last.contains("call_s"), "{last}");
    }

    #[test]
    fn the_form_of_a_call_follows_the_tools_offered() {
        assert!(answer(true, &[]).contains("tools.exec_command("));
        assert!(answer(false, &[]).contains("\"type\":\"function_call\""));
    }

    #[test]
    fn a_fault_goes_away_after_its_times() {
        let steps = vec![
            Step::Fault(Fault { status: Some(500), times: 2, ..Fault::default() }),
            Step::Say("Well.".into()),
        ];
        let script = Script::always(steps);
        let turn = Turn::read(&request(false, &[]));
        let plan = |over: bool| plan(&script.scenarios[0], &turn, |_, _| over);
        assert!(matches!(plan(false), Plan::Error { status: 500, .. }));
        assert!(text(plan(true)).contains("Well."));
    }
}
