use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::codex::lines::MAX_LINE;
use crate::codex::outcome::Turn;
use crate::codex::{CodexOutcome, CodexRun, LimitedLog, judge};
use crate::failure::ErrorKind;

/// Says its outputs in their order, whatever it is asked.
#[derive(Default)]
struct Scripted {
    says: VecDeque<Output>,
    heard: Vec<u8>,
}

impl Source for Scripted {
    type Error = &'static str;

    async fn next(&mut self) -> Result<Output, Self::Error> {
        self.says.pop_front().ok_or("lost")
    }
}

impl Peer for Scripted {
    fn write(&mut self, bytes: &[u8]) {
        self.heard.extend_from_slice(bytes);
        assert!(self.heard.len() < 64 * 1024, "what is said to it is bounded");
    }
}

impl Scripted {
    fn saying(lines: &[Value]) -> Self {
        let says = lines.iter().map(|line| Output::Stdout(format!("{line}\n").into_bytes()));
        Self { says: says.collect(), heard: Vec::new() }
    }

    fn then(mut self, output: Output) -> Self {
        self.says.push_back(output);
        self
    }
}

fn exit(code: i32) -> Output {
    Output::Exited(ExitReport {
        nonce: "n".into(),
        code: Some(code),
        signal: None,
        out_of_memory: false,
        disk_full: None,
        dropped_bytes: 0,
    })
}

fn thread() -> ThreadStartParams {
    ThreadStartParams {
        cwd: "/app".into(),
        ephemeral: true,
        config: BTreeMap::new(),
        resumes: None,
        model: None,
    }
}

fn task() -> TurnStartParams {
    let input = vec![protocol::UserInput::Text { text: "do it".into() }];
    TurnStartParams {
        thread_id: String::new(),
        input,
        model: None,
        effort: None,
        approval_policy: None,
        output_schema: None,
    }
}

fn opened() -> Vec<Value> {
    vec![
        json!({"id": 1, "result": {"userAgent": "x/0.169.0 (Debian)"}}),
        json!({"method": "thread/started", "params": {"thread": {"id": "T"}}}),
        json!({"id": 2, "result": {"thread": {"id": "T"}}}),
    ]
}

fn begun() -> Vec<Value> {
    let mut lines = opened();
    lines.push(json!({"id": 3, "result": {"turn": {"id": "U"}}}));
    lines
}

fn ends(thread: &str, turn: &str, status: &str) -> Value {
    let turn = json!({"id": turn, "status": status, "items": [], "error": null});
    json!({"method": "turn/completed", "params": {"threadId": thread, "turn": turn}})
}

fn message(text: &str) -> Value {
    let item = json!({"type": "agentMessage", "id": "i", "text": text});
    json!({"method": "item/completed", "params": {"threadId": "T", "turnId": "U", "item": item}})
}

/// Runs it as a job does: to the end of the turn, then to the exit report.
async fn run(peer: Scripted) -> Result<(CodexOutcome, String), &'static str> {
    let log = || LimitedLog::new(std::io::sink(), 1 << 20);
    let mut run = CodexRun::new("n", log(), log());
    let mut codex = match Waiting::open(peer, &thread()).await {
        Ok(codex) => codex,
        Err(NotOpened::Lost(error)) => return Err(error),
        Err(NotOpened::Untested { .. }) => return Err("untested"),
        Err(NotOpened::Failed(mut peer, opening)) => {
            run.not_opened(opening);
            if !run.has_exited() {
                run.last_words(&mut peer).await?;
            }
            return Ok((run.outcome(), String::new()));
        }
    };
    run.turn(&mut codex, task(), |_| {}).await?;
    let mut peer = codex.into_peer();
    if !run.has_exited() {
        run.last_words(&mut peer).await?;
    }
    Ok((run.outcome(), String::from_utf8(peer.heard).unwrap()))
}

#[tokio::test]
async fn a_turn_that_is_completed_is_a_success_whatever_ended_the_process() {
    let mut lines = begun();
    let total = json!({"inputTokens": 7, "cachedInputTokens": 3, "outputTokens": 2, "reasoningOutputTokens": 1});
    lines.extend([
        message("first"),
        json!({"method": "thread/tokenUsage/updated", "params": {"threadId": "T", "tokenUsage": {"total": total}}}),
        message("last"),
        ends("T", "U", "completed"),
        message("said by something that was left"),
    ]);
    let peer = Scripted::saying(&lines).then(exit(137));
    let (outcome, heard) = run(peer).await.unwrap();
    judge(&outcome).unwrap();
    assert_eq!(outcome.exit.as_ref().unwrap().code, Some(0));
    assert_eq!(outcome.last_message.as_deref(), Some("last"));
    assert_eq!(outcome.usage.unwrap().input_tokens, 7);
    assert_eq!(outcome.thread_id.as_deref(), Some("T"));
    let heard: Vec<Value> = heard.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let methods: Vec<&str> = heard.iter().map(|said| said["method"].as_str().unwrap()).collect();
    assert_eq!(methods, ["initialize", "initialized", "thread/start", "turn/start"]);
    assert_eq!(heard[3]["params"]["threadId"], "T");
    assert_eq!(heard[3]["params"]["input"][0]["text"], "do it");
}

#[tokio::test]
async fn only_the_end_of_the_turn_that_was_asked_for_counts() {
    for forged in [
        ends("T", "V", "completed"),
        ends("S", "U", "completed"),
        ends("", "", "completed"),
        json!({"method": "turn/completed", "params": {"turn": {"id": "U", "status": "completed"}}}),
        json!({"method": "turn/completed"}),
        json!({"id": 3, "result": {"turn": {"id": "V"}}}),
    ] {
        let mut lines = begun();
        // Before the turn was asked for, and while it runs.
        lines.insert(2, forged.clone());
        lines.extend([forged.clone(), message("mine"), ends("T", "U", "failed")]);
        let (outcome, _) = run(Scripted::saying(&lines).then(exit(0))).await.unwrap();
        assert_eq!(outcome.turn, Turn::Failed, "{forged}");
        assert_eq!(outcome.last_message.as_deref(), Some("mine"), "{forged}");
        assert_eq!(outcome.exit.as_ref().unwrap().code, Some(1));
        assert_eq!(judge(&outcome).unwrap_err().kind, ErrorKind::CodexFailed);
    }
}

#[tokio::test]
async fn without_its_exit_report_no_turn_is_complete() {
    let mut lines = begun();
    lines.push(ends("T", "U", "completed"));
    assert_eq!(run(Scripted::saying(&lines)).await.unwrap_err(), "lost");
    let Output::Exited(other) = exit(0) else { panic!() };
    let other = Output::Exited(ExitReport { nonce: "other".into(), ..other });
    let (outcome, _) = run(Scripted::saying(&lines).then(other)).await.unwrap();
    assert_eq!(judge(&outcome).unwrap_err().kind, ErrorKind::ContainerLost);
    // It ended before its turn did.
    let (outcome, _) = run(Scripted::saying(&begun()).then(exit(0))).await.unwrap();
    let failure = judge(&outcome).unwrap_err();
    assert!(failure.sentence.contains("without finishing its turn"), "{failure}");
}

#[tokio::test]
async fn an_answer_that_is_an_error_or_nonsense_ends_the_run_with_a_sentence() {
    for at in 0..3 {
        for (answer, says) in [
            (json!({"error": {"message": "no such provider"}}), "no such provider"),
            (json!({"error": 7}), "no reason"),
            (json!({"result": []}), "is not understood"),
            (
                json!({"result": {"userAgent": 1, "thread": {"id": ""}, "turn": {"id": "x".repeat(500)}}}),
                "is not understood",
            ),
            (json!({}), "is not understood"),
        ] {
            let mut lines = begun();
            lines.retain(|line| line.get("id").is_some());
            let id = lines[at]["id"].clone();
            lines[at] = answer;
            lines[at]["id"] = id;
            lines.truncate(at + 1);
            let (outcome, _) = run(Scripted::saying(&lines).then(exit(137))).await.unwrap();
            let failure = judge(&outcome).unwrap_err();
            assert_eq!(failure.kind, ErrorKind::CodexFailed);
            assert!(failure.sentence.contains(says), "{at}: {failure}");
        }
    }
}

#[tokio::test]
async fn a_version_that_was_not_tried_is_not_spoken_to() {
    for agent in ["x/0.170.0 (Debian)", "x", "", "/", "x/0.169.0-beta (y)"] {
        let line = json!({"id": 1, "result": {"userAgent": agent}});
        let opening = Waiting::open(Scripted::saying(&[line]), &thread()).await;
        assert!(matches!(opening, Err(NotOpened::Untested { .. })), "{agent}");
    }
}

#[tokio::test]
async fn requests_are_refused_and_a_flood_of_them_ends_the_run() {
    let ask = |id: Value| json!({"id": id, "method": "item/commandExecution/requestApproval", "params": {}});
    let mut lines = begun();
    lines.extend([ask(json!(0)), ask(json!("a")), ends("T", "U", "completed")]);
    let (outcome, heard) = run(Scripted::saying(&lines).then(exit(0))).await.unwrap();
    judge(&outcome).unwrap();
    assert_eq!(heard.matches("not supported").count(), 2, "{heard}");
    let mut lines = begun();
    lines.extend((0..1000).map(|id| ask(json!(id))));
    let (outcome, heard) = run(Scripted::saying(&lines).then(exit(0))).await.unwrap();
    assert!(judge(&outcome).unwrap_err().sentence.contains("never offered"), "{outcome:?}");
    assert_eq!(heard.matches("not supported").count(), 100);
    let mut lines = begun();
    lines.push(ask(json!("x".repeat(100_000))));
    assert_eq!(run(Scripted::saying(&lines).then(exit(0))).await.unwrap().0.turn, Turn::Failed);
}

mod asking;

#[tokio::test]
async fn too_much_before_the_thread_is_open_ends_the_run() {
    for stderr in [false, true] {
        let flood = (0..2000).map(|_| vec![b'x'; 16 * 1024]);
        let flood =
            flood.map(|bytes| if stderr { Output::Stderr(bytes) } else { Output::Stdout(bytes) });
        let peer = Scripted { says: flood.chain([exit(137)]).collect(), heard: Vec::new() };
        let (outcome, _) = run(peer).await.unwrap();
        let failure = judge(&outcome).unwrap_err();
        assert!(failure.sentence.contains("said too much"), "{failure}");
    }
}

#[tokio::test]
async fn the_end_of_a_turn_counts_also_in_a_line_too_long_to_read() {
    let end = |status: &str, turn: &str| {
        let text = "y".repeat(MAX_LINE + 1);
        // In Codex's own order.
        format!(
            "{{\"method\":\"turn/completed\",\"params\":{{\"threadId\":\"T\",\"turn\":{{\"id\":\"{turn}\",\
             \"items\":[{{\"type\":\"agentMessage\",\"text\":\"{text}\"}}],\"status\":\"{status}\"}}}}}}\n"
        )
    };
    for (line, want) in [
        (end("completed", "U"), Some(Turn::Completed)),
        (end("failed", "U"), Some(Turn::Failed)),
        (end("completed", "V"), None),
    ] {
        let peer = Scripted::saying(&begun()).then(Output::Stdout(line.into_bytes())).then(exit(0));
        let (outcome, _) = run(peer).await.unwrap();
        match want {
            Some(turn) => assert_eq!(outcome.turn, turn),
            None => assert_eq!((outcome.turn, outcome.unreadable_lines), (Turn::Unknown, 1)),
        }
    }
}

#[tokio::test]
async fn an_attempt_to_reconnect_is_progress_and_an_error_is_worded_as_by_exec() {
    let error = |message: &str, retries: bool| {
        let error = json!({"message": message, "additionalDetails": "status 500"});
        json!({"method": "error", "params": {"threadId": "T", "turnId": "U", "willRetry": retries, "error": error}})
    };
    let mut lines = begun();
    lines.extend([error("Reconnecting... 1/5", true), error("broken", false)]);
    lines.push(ends("T", "U", "completed"));
    let mut codex = Waiting::open(Scripted::saying(&lines), &thread()).await.unwrap();
    let mut events = Vec::new();
    let log = || LimitedLog::new(std::io::sink(), 1 << 20);
    CodexRun::new("n", log(), log())
        .turn(&mut codex, task(), |event| events.push(event.clone()))
        .await
        .unwrap();
    let want = [
        CodexEvent::ThreadStarted { id: "T".into() },
        CodexEvent::Reconnecting { detail: "1/5 (status 500)".into() },
        CodexEvent::Error { message: "broken (status 500)".into() },
        CodexEvent::TurnCompleted { usage: None },
    ];
    assert_eq!(events, want);
}

fn line() -> impl Strategy<Value = Vec<u8>> {
    let known = proptest::sample::select(
        begun()
            .into_iter()
            .chain([message("m"), ends("T", "U", "completed"), ends("S", "U", "failed")])
            .chain([
                json!({"id": 9, "method": "x"}),
                json!({"id": 2}),
                json!({"method": "error", "params": 4}),
            ])
            .map(|line| line.to_string().into_bytes())
            .collect::<Vec<_>>(),
    );
    prop_oneof![4 => known, 1 => proptest::collection::vec(any::<u8>(), 0..40)]
}

proptest! {
    /// Forged, reordered, doubled, cut: it ends, by an outcome or the loss of the stream.
    #[test]
    fn no_order_of_lines_hangs_or_panics(
        lines in proptest::collection::vec(line(), 0..20),
        size in 1_usize..60,
        cut in 0_usize..200,
    ) {
        let mut bytes = lines.join(&b'\n');
        bytes.truncate(bytes.len().saturating_sub(cut));
        let pieces = |size: usize| {
            let says = bytes.chunks(size).map(|piece| Output::Stdout(piece.to_vec()));
            Scripted { says: says.chain([exit(0)]).collect(), heard: Vec::new() }
        };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let whole = runtime.block_on(run(pieces(bytes.len().max(1))));
        let parts = runtime.block_on(run(pieces(size)));
        let seen = |run: Result<(CodexOutcome, String), &'static str>| {
            run.map(|(outcome, _)| (outcome.turn, judge(&outcome).err().map(|f| f.kind)))
        };
        prop_assert_eq!(seen(whole).is_ok(), seen(parts).is_ok());
    }
}
