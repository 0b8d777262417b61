//! `codex exec` and `codex app-server`: the same scripts, the same results.

use std::collections::BTreeMap;
use std::time::Duration;

use mcp_codex_orchestrator::model::scripted::{Fault, Script, Step};
use serde_json::{Value, json};

use crate::need_engine;
use crate::support::{Options, Server};

const WAYS: [&str; 2] = ["exec", "app-server"];

/// One thing that can happen to a run, and how it is judged.
struct Case {
    prompt: &'static str,
    steps: Vec<Step>,
    /// More arguments.
    arguments: Value,
    /// `None`: success.
    kind: Option<&'static str>,
    /// In the sentence, or in the output of a success. "Call again" there means `retryable`.
    says: &'static str,
}

fn case(
    prompt: &'static str,
    steps: Vec<Step>,
    kind: Option<&'static str>,
    says: &'static str,
) -> Case {
    Case { prompt, steps, arguments: json!({}), kind, says }
}

fn fault(status: u16, code: &str, message: &str) -> Vec<Step> {
    vec![Step::Fault(Fault {
        status: Some(status),
        code: Some(code.into()),
        message: Some(message.into()),
        ..Fault::default()
    })]
}

fn broken(fault: Fault) -> Vec<Step> {
    vec![Step::Fault(fault)]
}

fn cases() -> Vec<Case> {
    let failed = Some("codex_failed");
    let patch = "*** Begin Patch\n*** Add File: by-patch.txt\n+patched\n*** End Patch\n";
    let mut cases = vec![
        case(
            "edit",
            vec![
                Step::Reason("Two files.".into()),
                Step::Say("I begin.".into()),
                Step::write("by-shell.txt", "written\n"),
                Step::Patch(patch.into()),
                Step::run("printf %s \"$RUN_VAR\" > variable; pwd > where"),
                Step::Say("Edited.".into()),
            ],
            None,
            "Edited.",
        ),
        case(
            "command",
            vec![Step::run("echo oops >&2; exit 3"), Step::Say("It failed.".into())],
            None,
            "It failed.",
        ),
        case(
            "fleeting",
            vec![
                Step::Fault(Fault { drop: true, times: 1, ..Fault::default() }),
                Step::Say("Back.".into()),
            ],
            None,
            "Back.",
        ),
        case(
            "bad request",
            fault(400, "invalid", "this model cannot do that"),
            failed,
            "this model cannot do that",
        ),
        case(
            "bad key",
            fault(401, "invalid_api_key", "Incorrect API key provided: sk-abcdefgh12345678"),
            failed,
            "check OPENAI_API_KEY",
        ),
        case("forbidden", fault(403, "forbidden", "Country not supported"), failed, "forbids"),
        case(
            "unknown model",
            fault(
                404,
                "model_not_found",
                "The model `x` does not exist or you do not have access to it.",
            ),
            failed,
            "does not know the model",
        ),
        case(
            "quota",
            broken(Fault { failed: Some("insufficient_quota".into()), ..Fault::default() }),
            failed,
            "quota",
        ),
        case(
            "rate",
            fault(429, "rate_limit_exceeded", "Rate limit reached"),
            failed,
            "limits the rate",
        ),
        case(
            "context",
            broken(Fault { failed: Some("context_length_exceeded".into()), ..Fault::default() }),
            failed,
            "larger one",
        ),
        case(
            "server error",
            fault(500, "server_error", "The server had an error"),
            failed,
            "failure of its own",
        ),
        case(
            "refused content",
            broken(Fault {
                failed: Some("invalid_prompt".into()),
                message: Some("Your prompt was flagged as against our usage policies.".into()),
                ..Fault::default()
            }),
            failed,
            "refused the content",
        ),
        case("drop", broken(Fault { drop: true, ..Fault::default() }), failed, "broke off"),
        case(
            "silence",
            vec![
                Step::write("early.txt", "early\n"),
                Step::Fault(Fault { stall: true, ..Fault::default() }),
            ],
            Some("timed_out"),
            "Execution timeout",
        ),
        case(
            "memory",
            vec![
                Step::run("python3 -c 'x = bytearray(2_000_000_000); print(len(x))'"),
                Step::Say("done".into()),
            ],
            None,
            "done",
        ),
    ];
    for case in &mut cases {
        case.arguments = match case.prompt {
            "edit" => {
                json!({"env_vars": {"RUN_VAR": "a \"b\"\n\\ü"}, "working_dir": "src", "model": "gpt-5.5"})
            }
            "silence" => json!({"timeout": 6}),
            _ => json!({}),
        };
    }
    cases
}

fn options(way: &str) -> Options {
    Options::default()
        .set("codex", format!("start = \"{way}\""))
        .set("run", "min_timeout = \"1s\"")
        .set("container", "memory = \"768MiB\"")
}

/// What two runs of the same cannot share.
fn comparable(mut result: Value) -> Value {
    let fields = result.as_object_mut().unwrap();
    for field in
        ["run_id", "container_id", "timings_ms", "execution_time_ms", "warm", "cold_reason", "sent"]
    {
        fields.remove(field);
    }
    result
}

async fn results(way: &str, cases: &[Case]) -> BTreeMap<&'static str, Value> {
    let mut script = Script::always(vec![Step::Say("Nothing.".into())]);
    for case in cases {
        script = script.with(case.prompt, case.steps.clone());
    }
    let mut server = Server::start(script, options(way)).await;
    server.write("src/kept", "kept\n");
    let mut results = BTreeMap::new();
    for case in cases {
        let mut arguments = case.arguments.clone();
        arguments["prompt"] = case.prompt.into();
        let result = server.call("codex_run", arguments).await;
        let events = server.runs().join(result["run_id"].as_str().unwrap()).join("events.jsonl");
        let events = std::fs::read_to_string(events).unwrap();
        let spoken = if way == "exec" { "thread.started" } else { "thread/start" };
        let began = events.contains(spoken) || events.contains("\"thread\":");
        assert!(began, "{way} {}: {events}", case.prompt);
        results.insert(case.prompt, result);
    }
    server.stop().await;
    results
}

#[tokio::test]
async fn both_ways_give_the_same_results() {
    need_engine!();
    let cases = cases();
    let (exec, app_server) = tokio::join!(results(WAYS[0], &cases), results(WAYS[1], &cases));
    let mut differ = Vec::new();
    for case in &cases {
        for results in [&exec, &app_server] {
            let result = &results[case.prompt];
            let said = if case.kind.is_none() { &result["output"] } else { &result["error"] };
            let kind = result["error_kind"].as_str();
            if kind != case.kind || !said.as_str().unwrap_or("").contains(case.says) {
                differ.push(format!(
                    "{} is not {:?} {:?}: {result:#}",
                    case.prompt, case.kind, case.says
                ));
            }
            assert!(!result.to_string().contains("sk-abcdefgh"), "{result}");
            if case.kind == Some("codex_failed") {
                let passes = said.as_str().unwrap_or("").contains("call again");
                assert_eq!(result["retryable"], passes, "{result}");
            }
        }
        let (one, other) =
            (comparable(exec[case.prompt].clone()), comparable(app_server[case.prompt].clone()));
        if one != other {
            differ.push(format!("{}:\n exec {one:#}\n app-server {other:#}", case.prompt));
        }
    }
    if let Ok(file) = std::env::var("TWO_WAYS_TABLE") {
        let rows: Vec<Value> = cases
            .iter()
            .map(|case| {
                json!([
                    case.prompt,
                    comparable(exec[case.prompt].clone()),
                    comparable(app_server[case.prompt].clone())
                ])
            })
            .collect();
        std::fs::write(file, serde_json::to_string_pretty(&rows).unwrap()).unwrap();
    }
    assert!(differ.is_empty(), "{}", differ.join("\n"));
}

#[tokio::test]
async fn a_provider_that_cannot_be_reached_is_told_so_both_ways() {
    need_engine!();
    let mut told = Vec::new();
    for way in WAYS {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let options = options(way)
            .no_model()
            .set("model", format!("base_url = \"http://{closed}/v1\""))
            .env("OPENAI_API_KEY", "sk-abcdefgh12345678");
        let mut server = Server::start(Script::always(Vec::new()), options).await;
        let result = server.run("anything").await;
        assert_eq!(result["error_kind"], "codex_failed", "{result}");
        assert_eq!(result["retryable"], true, "{result}");
        let error = result["error"].as_str().unwrap();
        assert!(error.contains("cannot be reached"), "{error}");
        told.push(error.replace(&closed.to_string(), "PROVIDER"));
        server.ready().await;
        server.stop().await;
    }
    assert_eq!(told[0], told[1]);
}

#[tokio::test]
async fn a_cancelled_turn_ends_at_once_and_holds_what_had_changed() {
    need_engine!();
    let steps = vec![Step::run("echo early > early.txt; setsid sleep 600 & sleep 600")];
    let mut server = Server::start(Script::always(steps), options("app-server")).await;
    let (id, answer) = server.begin_call("codex_run", json!({"prompt": "hang"})).await;
    server.stage("Running echo early").await;
    let began = std::time::Instant::now();
    server
        .send(&json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": id}}))
        .await;
    drop(answer);
    let run = loop {
        let runs = std::fs::read_dir(server.runs()).unwrap();
        let done =
            runs.flatten().map(|run| run.path().join("result.json")).find(|path| path.exists());
        if let Some(done) = done {
            break std::fs::read_to_string(done).unwrap();
        }
        assert!(began.elapsed() < Duration::from_secs(20), "{}", server.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let result: Value = serde_json::from_str(&run).unwrap();
    assert_eq!(
        (&result["status"], &result["exit_code"]),
        (&json!("cancelled"), &json!(-2)),
        "{result}"
    );
    assert_eq!(result["changes"][0]["path"], "early.txt");
    server.stop().await;
}
