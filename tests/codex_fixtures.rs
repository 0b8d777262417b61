//! What Codex 0.169.0 printed in real runs (`tests/codex_gateway` records it), judged without it.

#![allow(missing_docs)]
// Helpers of tests, which clippy does not take for tests.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use mcp_codex_orchestrator::codex::app_server::{Peer, Waiting};
use mcp_codex_orchestrator::codex::outcome::Turn;
use mcp_codex_orchestrator::codex::{
    CodexCommand, CodexOutcome, CodexRun, LimitedLog, Output, Source, judge, progress,
};
use mcp_codex_orchestrator::failure::ErrorKind::{
    CodexFailed, CodexUnusable, ContainerLost, DiskFull, OutOfMemory,
};
use mcp_codex_orchestrator::keeper::wire::ExitReport;

struct Recorded(Vec<Output>);

impl Peer for Recorded {
    fn write(&mut self, _: &[u8]) {}
}

impl Source for Recorded {
    type Error = &'static str;

    async fn next(&mut self) -> Result<Output, Self::Error> {
        if self.0.is_empty() { Err("lost") } else { Ok(self.0.remove(0)) }
    }
}

fn exit(code: i32) -> ExitReport {
    ExitReport {
        nonce: "n".into(),
        code: Some(code),
        signal: None,
        out_of_memory: false,
        disk_full: None,
        dropped_bytes: 0,
    }
}

fn fixture(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/codex");
    std::fs::read(path.join(format!("{name}.jsonl"))).unwrap()
}

async fn replay(stdout: &[u8], stderr: &str, exit: ExitReport) -> (CodexOutcome, Vec<String>) {
    // Pieces of an odd size, as a stream has them.
    let mut output: Vec<Output> = stdout.chunks(97).map(|c| Output::Stdout(c.into())).collect();
    output.push(Output::Stderr(stderr.into()));
    output.push(Output::Exited(exit));
    let log = || LimitedLog::new(std::io::sink(), 1 << 20);
    let mut run = CodexRun::new("n", log(), log());
    let mut lines = Vec::new();
    run.follow(&mut Recorded(output), |event| lines.extend(progress::line(event))).await.unwrap();
    (run.outcome(), lines)
}

#[tokio::test]
async fn each_recorded_run_is_judged_as_what_it_was() {
    for (name, code, want) in [
        ("success-code-mode", 0, None),
        ("success-direct", 0, None),
        ("command-failing", 0, None),
        ("reconnecting", 0, None),
        ("code-mode-host-missing", 0, Some((CodexUnusable, "code-mode host"))),
        ("400", 1, Some((CodexFailed, "Codex failed: Invalid request."))),
        ("401", 1, Some((CodexFailed, "check OPENAI_API_KEY"))),
        ("404", 1, Some((CodexFailed, "does not know the model"))),
        ("429", 1, Some((CodexFailed, "limits the rate"))),
        ("500", 1, Some((CodexFailed, "failure of its own"))),
        ("quota", 1, Some((CodexFailed, "quota"))),
        ("context", 1, Some((CodexFailed, "larger one"))),
        ("drop", 1, Some((CodexFailed, "broke off"))),
        ("hang", 1, Some((CodexFailed, "broke off"))),
        ("unreachable", 1, Some((CodexFailed, "cannot be reached"))),
    ] {
        let (outcome, _) = replay(&fixture(name), "", exit(code)).await;
        assert_eq!(outcome.unreadable_lines + outcome.unknown_events, 0, "{name}");
        match (judge(&outcome), want) {
            (Ok(()), None) => assert_eq!(outcome.error, None, "{name}"),
            (Err(failure), Some((kind, text))) => {
                assert_eq!(failure.kind, kind, "{name}");
                assert!(failure.sentence.contains(text), "{name}: {failure}");
            }
            (judged, want) => panic!("{name}: {judged:?}, not {want:?}"),
        }
    }
}

#[tokio::test]
async fn an_exit_code_of_0_is_not_enough_and_neither_is_a_completed_turn() {
    let whole = fixture("success-direct");
    let last = whole[..whole.len() - 1].iter().rposition(|b| *b == b'\n').unwrap();
    let judged = |stdout: &[u8], stderr: &'static str, exit: ExitReport| {
        let stdout = stdout.to_vec();
        async move { judge(&replay(&stdout, stderr, exit).await.0) }
    };
    assert!(judged(&whole, "", exit(0)).await.is_ok());
    for (stdout, stderr, exit, kind, text) in [
        (&whole[..last], "", exit(0), CodexFailed, "without finishing its turn"),
        (&whole[..], "", exit(1), CodexFailed, "exit code 1"),
        (b"", "Error: no such dir\n\n", exit(1), CodexFailed, "it said last: Error: no such dir"),
        (b"", "error: unexpected argument", exit(2), CodexFailed, "image build"),
        (b"", "", ExitReport { code: None, signal: Some(9), ..exit(0) }, CodexFailed, "signal 9"),
        (b"", "", ExitReport { out_of_memory: true, ..exit(137) }, OutOfMemory, "container.memory"),
        (
            &whole[..last],
            "",
            ExitReport { disk_full: Some("/app".into()), ..exit(0) },
            DiskFull,
            "/app",
        ),
        (&whole[..], "", ExitReport { nonce: "x".into(), ..exit(0) }, ContainerLost, "never"),
        (
            b"",
            "thread panicked: filesystem-restricted execution requires bubblewrap",
            exit(101),
            CodexUnusable,
            "bubblewrap",
        ),
    ] {
        let failure = judged(stdout, stderr, exit).await.unwrap_err();
        assert_eq!(failure.kind, kind, "{failure}");
        assert!(failure.sentence.contains(text), "{failure}");
    }
}

#[tokio::test]
async fn a_sandbox_that_cannot_work_is_unusable_unless_a_tool_worked() {
    let bwrap = r#"{"type":"item.completed","item":{"id":"i","type":"command_execution","command":"ls","aggregated_output":"bwrap: No permissions to create a new namespace, likely because","exit_code":1,"status":"failed"}}"#;
    let fine = bwrap.replace("bwrap: No permissions", "ls: no").replace("failed", "completed");
    let end = r#"{"type":"turn.completed","usage":{}}"#;
    let (outcome, _) = replay(format!("{bwrap}\n{end}\n").as_bytes(), "", exit(0)).await;
    assert_eq!(outcome.turn, Turn::Completed);
    assert_eq!(judge(&outcome).unwrap_err().kind, CodexUnusable);
    let (outcome, _) = replay(format!("{bwrap}\n{fine}\n{end}\n").as_bytes(), "", exit(0)).await;
    judge(&outcome).unwrap();
}

#[tokio::test]
async fn progress_says_what_codex_does() {
    let lines = |name| async move { replay(&fixture(name), "", exit(0)).await.1 };
    assert_eq!(
        lines("success-direct").await,
        [
            "Thinking",
            "Thinking: A file with one line; I look at what is there first.",
            "Saying: I will look at the workspace and then create hello.py.",
            "Running ls -A",
            "Ran ls -A",
            "Editing hello.py",
            "Edited hello.py",
            "Running python3 hello.py",
            "Ran python3 hello.py",
            "Saying: Created hello.py; it prints \"Hello, World!\".",
            "Finishing",
        ]
    );
    let failing = lines("command-failing").await;
    assert!(failing.contains(&"Failed with 3: exit 3".into()), "{failing:?}");
    assert_eq!(
        lines("401").await[1],
        "Reconnecting to the model: 1/3 (unexpected status 401 Unauthorized: Incorrect API key pro…"
    );
}

/// What `tests/it/progress.rs` recorded, line by line as it is told: nothing twice in a row.
async fn told(name: &str, way: &str) -> String {
    let stdout = fixture(&format!("../progress/{name}.{way}"));
    let lines = match way {
        "exec" => replay(&stdout, "", exit(0)).await.1,
        _ => replay_turn(&stdout).await,
    };
    let mut lines: Vec<String> = lines.into_iter().map(|line| line + "\n").collect();
    lines.dedup();
    lines.concat()
}

async fn replay_turn(stdout: &[u8]) -> Vec<String> {
    let output = stdout.chunks(97).map(|c| Output::Stdout(c.into())).collect();
    let command = CodexCommand::default();
    let mut codex = Waiting::open(Recorded(output), &command.thread().unwrap()).await.unwrap();
    let log = || LimitedLog::new(std::io::sink(), 1 << 20);
    let mut run = CodexRun::new("n", log(), log());
    let mut lines = Vec::new();
    let turn = run.turn(&mut codex, command.turn(), |event| lines.extend(progress::line(event)));
    turn.await.unwrap();
    lines
}

#[tokio::test]
async fn recorded_runs_tell_what_their_snapshots_say_both_ways() {
    for name in ["worked", "failed", "long"] {
        for way in ["exec", "app-server"] {
            let told = told(name, way).await;
            let path = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join(format!("tests/fixtures/progress/{name}.{way}.txt"));
            if std::env::var_os("UPDATE_FIXTURES").is_some() {
                std::fs::write(&path, &told).unwrap();
            }
            let want = std::fs::read_to_string(path).unwrap();
            assert_eq!(told, want, "{name} by {way}");
        }
    }
}
