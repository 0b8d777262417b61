//! The real Codex CLI through the gateway to a scripted model, without a container.

#![allow(missing_docs, unreachable_pub, missing_debug_implementations)]
// Helpers of tests, which clippy does not take for tests.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "../common/codex_binary.rs"]
mod codex_binary;
mod host;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use codex_binary::codex_binary;
use host::{Bench, KEY, Ran};
use mcp_codex_orchestrator::codex::{CodexCommand, CodexEvent, judge, progress};
use mcp_codex_orchestrator::failure::ErrorKind;
use mcp_codex_orchestrator::model::scripted::{Fault, Script, Step};

const HELLO: &str = "Create a hello.py file that prints 'Hello, World!'";

fn command(prompt: &str, model: Option<&str>) -> CodexCommand {
    CodexCommand { prompt: prompt.into(), model: model.map(Into::into), ..CodexCommand::default() }
}

/// Keeps what Codex printed as a fixture, when asked to.
fn record(name: &str, ran: &Ran) {
    if std::env::var_os("UPDATE_FIXTURES").is_some() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/codex");
        std::fs::write(path.join(format!("{name}.jsonl")), &ran.jsonl).unwrap();
        println!("{name}: exit {:?}", ran.outcome.exit);
    }
}

#[tokio::test]
async fn codex_edits_files_by_script_in_both_tool_modes() {
    let Some(binary) = codex_binary() else { return };
    for (model, name) in [(None, "success-code-mode"), (Some("gpt-5.5"), "success-direct")] {
        let bench = Bench::start(Script::builtin().keeping_bodies()).await;
        let ran = bench.run(&binary, &command(HELLO, model)).await;
        record(name, &ran);
        judge(&ran.outcome).unwrap();
        assert_eq!(bench.read("hello.py"), "print('Hello, World!')\n");
        let last = ran.outcome.last_message.unwrap();
        assert_eq!(last, "Created hello.py; it prints \"Hello, World!\".");
        assert!(ran.outcome.thread_id.is_some() && ran.outcome.tools_worked);
        assert_eq!(ran.outcome.usage.unwrap().input_tokens, 4 * 1200);
        assert_eq!(ran.outcome.unreadable_lines + ran.outcome.unknown_events, 0);

        let requests = bench.model.requests();
        assert_eq!(requests.len(), 4);
        let auth = |name: &str| name == "authorization";
        for request in &requests {
            assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", "/v1/responses"));
            let sent = request.headers.iter().find(|(name, _)| auth(name)).unwrap();
            assert_eq!(sent.1, format!("Bearer {KEY}"));
            let body = request.body.as_ref().unwrap();
            assert_eq!(request.prompt.trim_end(), HELLO, "{body}");
        }
        let report = bench.traffic.report();
        assert_eq!((report.requests, report.denied_total), (4, 0), "{:?}", report.denied);
        assert!(report.first_request < report.last_response && report.bytes_down > 0);
        println!("{name}: first request {:?}, whole {:?}", ran.first_request, ran.took);
    }
}

#[tokio::test]
async fn env_vars_reach_commands_and_not_codex_itself() {
    let Some(binary) = codex_binary() else { return };
    let value = "a \"b\" 'c'\n\\ü=$HOME";
    let steps = vec![
        Step::run("printf %s \"$RUN_VAR\" > value; tr '\\0' '\\n' < /proc/$PPID/environ > codex"),
        Step::run("exit 3"),
        Step::Patch(
            "*** Begin Patch\n*** Update File: nothing\n@@\n-a\n+b\n*** End Patch\n".into(),
        ),
        Step::write("dir/it's.txt", "it's\n"),
        Step::Say("Well.".into()),
    ];
    let bench = Bench::start(Script::always(steps)).await;
    let mut command = command("Go.", Some("gpt-5.5"));
    command.env_vars = BTreeMap::from([("RUN_VAR".into(), value.into())]);
    let ran = bench.run(&binary, &command).await;
    record("command-failing", &ran);
    judge(&ran.outcome).unwrap();
    assert_eq!(bench.read("value"), value);
    assert_eq!(bench.read("dir/it's.txt"), "it's\n");
    let environ = bench.read("codex");
    assert!(environ.contains("CODEX_HOME="), "{environ}");
    assert!(!environ.contains("RUN_VAR=") && !environ.contains(KEY), "{environ}");
}

#[tokio::test]
async fn each_failure_of_the_provider_has_its_sentence() {
    let Some(binary) = codex_binary() else { return };
    let cases = [
        ("[400]", "400", "Codex failed: Invalid request."),
        ("[401]", "401", "check OPENAI_API_KEY"),
        ("[404]", "404", "does not know the model"),
        ("[429]", "429", "limits the rate"),
        ("[500]", "500", "failure of its own"),
        ("[quota]", "quota", "quota"),
        ("[context]", "context", "grew over the model's context"),
        ("[drop]", "drop", "broke off"),
    ];
    let bench = Bench::start(Script::builtin()).await;
    for (prompt, name, want) in cases {
        let ran = bench.run(&binary, &command(prompt, None)).await;
        record(name, &ran);
        let failure = judge(&ran.outcome).unwrap_err();
        println!("{name} after {:?}: {failure}", ran.took);
        assert_eq!(failure.kind, ErrorKind::CodexFailed);
        assert!(failure.sentence.contains(want), "{name}: {failure}");
        assert!(!failure.sentence.contains("sk-"), "{name}: {failure}");
        assert!(ran.took < Duration::from_secs(30), "{name} took {:?}", ran.took);
    }
}

#[tokio::test]
async fn an_unreachable_provider_ends_the_run_by_itself() {
    let Some(binary) = codex_binary() else { return };
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let bench =
        Bench::start_with(Script::builtin(), |m| m.base_url = format!("http://{free}/v1")).await;
    let ran = bench.run(&binary, &command("Hello", None)).await;
    record("unreachable", &ran);
    let failure = judge(&ran.outcome).unwrap_err();
    println!("unreachable after {:?}: {failure}", ran.took);
    assert!(failure.sentence.contains("cannot be reached"), "{failure}");
}

#[tokio::test]
async fn a_fault_that_passes_is_only_progress() {
    let Some(binary) = codex_binary() else { return };
    let fault = |fault| Step::Fault(Fault { times: 1, ..fault });
    let steps = vec![
        fault(Fault { drop: true, ..Fault::default() }),
        fault(Fault { status: Some(500), ..Fault::default() }),
        Step::Slow(1),
        Step::Say("There after all.".into()),
    ];
    let bench = Bench::start(Script::always(steps)).await;
    let ran = bench.run(&binary, &command("Go.", None)).await;
    record("reconnecting", &ran);
    judge(&ran.outcome).unwrap();
    assert_eq!(ran.outcome.last_message.as_deref(), Some("There after all."));
    assert_eq!(bench.model.requests().len(), 3);
    let lines: Vec<String> = ran.events.iter().filter_map(progress::line).collect();
    assert!(lines.iter().any(|l| l.starts_with("Reconnecting to the model")), "{lines:?}");
}

#[tokio::test]
async fn a_tree_without_the_code_mode_host_is_unusable_though_codex_exits_with_0() {
    let Some(binary) = codex_binary() else { return };
    let bench = Bench::start(Script::builtin()).await;
    let alone = bench.app().parent().unwrap().join("codex");
    // A hard link where the file system allows it: the binary is large.
    std::fs::hard_link(&binary, &alone)
        .or_else(|_| std::fs::copy(&binary, &alone).map(drop))
        .unwrap();
    let ran = bench.run(&alone, &command(HELLO, None)).await;
    record("code-mode-host-missing", &ran);
    assert_eq!(ran.outcome.exit.as_ref().unwrap().code, Some(0));
    let failure = judge(&ran.outcome).unwrap_err();
    assert_eq!(failure.kind, ErrorKind::CodexUnusable);
    assert!(failure.sentence.contains("image build"), "{failure}");
}

#[tokio::test]
async fn a_silent_model_is_silence_until_the_run_is_ended() {
    let Some(binary) = codex_binary() else { return };
    let bench = Bench::start(Script::builtin()).await;
    let limit = Duration::from_secs(3);
    let silent = command("[stall]", None);
    let run = tokio::time::timeout(limit, bench.run(&binary, &silent)).await;
    assert!(run.is_err(), "it ended by itself");
    let requests = bench.model.requests();
    assert_eq!(requests.len(), 1);
    assert!(requests[0].answered.is_none());
}

#[tokio::test]
async fn a_stream_that_stalls_is_begun_again_and_then_given_up() {
    let Some(binary) = codex_binary() else { return };
    let bench = Bench::start(Script::builtin()).await;
    bench.configure("stream_idle_timeout_ms = 300000", "stream_idle_timeout_ms = 300");
    // An answer that never begins would be waited for until the run's own deadline.
    let ran = bench.run(&binary, &command("[hang]", None)).await;
    record("hang", &ran);
    let failure = judge(&ran.outcome).unwrap_err();
    println!("hang after {:?}: {failure}", ran.took);
    assert!(failure.sentence.contains("broke off"), "{failure}");
    assert!(bench.model.requests().len() > 1);
}

#[tokio::test]
async fn a_large_answer_streams_through() {
    let Some(binary) = codex_binary() else { return };
    let bench = Bench::start(Script::always(vec![Step::Flood(12 << 20)])).await;
    let ran = bench.run(&binary, &command("Go.", None)).await;
    judge(&ran.outcome).unwrap();
    assert!(ran.outcome.last_message.unwrap().starts_with("All work and no play"));
    assert!(ran.events.iter().any(|e| matches!(e, CodexEvent::TurnCompleted { .. })));
}

#[tokio::test]
async fn a_thread_that_is_compacted_stays_on_the_same_path() {
    let Some(binary) = codex_binary() else { return };
    let bench = Bench::start(Script::builtin()).await;
    let compact = "model_auto_compact_token_limit = 1000\nmodel_provider =";
    bench.configure("model_provider =", compact);
    let ran = bench.run(&binary, &command(HELLO, None)).await;
    judge(&ran.outcome).unwrap();
    let requests = bench.model.requests();
    assert!(requests.iter().any(|r| r.prompt.contains("CONTEXT CHECKPOINT COMPACTION")));
    assert!(requests.iter().all(|r| (r.path.as_str(), r.status) == ("/v1/responses", 200)));
    assert_eq!(bench.traffic.report().denied_total, 0);
}
