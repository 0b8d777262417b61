//! Slow ones: connections to the gateway that are held, and answers that nobody takes. A run can
//! starve itself so, within its own time; the server and the next run cannot be starved.

use std::time::{Duration, Instant};

use mcp_codex_orchestrator::model::scripted::Step;
use serde_json::{Value, json};

use super::{
    PRELUDE, Then, in_python, next_is_as_ever, options, restore, script, stop, undisturbed,
};
use crate::need_engine;
use crate::support::Server;

/// Seconds that each run has.
const TIMEOUT: u64 = 8;

/// Opens connections with `first`, then sends a byte a second on each, in a process that outlives
/// the command; more are opened as soon as one is closed.
fn held(count: usize, first: &str) -> String {
    let program = format!(
        "{PRELUDE}
if os.fork():
    time.sleep(2)
    os._exit(0)
os.setsid()
os.closerange(0, 3)
first = {first}
held = []
while True:
    while len(held) < {count}:
        try:
            s = socket.socket()
            s.settimeout(0.2)
            s.connect(('127.0.0.1', 8787))
            s.sendall(first)
            s.setblocking(False)
            held.append(s)
        except OSError:
            break
    for s in list(held):
        try:
            s.send(b'x')
        except BlockingIOError:
            pass
        except OSError:
            held.remove(s)
    time.sleep(1)"
    );
    in_python(&program, "/dev/null")
}

/// A run beside which connections are held; gives its result once the next run was as ever.
async fn beside(command: String) -> Value {
    let steps =
        vec![Step::run(command), Step::run("echo more > more.txt"), Step::Say("Tried.".into())];
    let mut server = Server::start(script(steps), options()).await;
    server.ready().await;
    let as_ever = undisturbed(options()).await;
    let began = Instant::now();
    let attacked = server.call("codex_run", json!({"prompt": "Try it", "timeout": TIMEOUT})).await;
    let took = began.elapsed();
    assert!(took < Duration::from_secs(TIMEOUT + 10), "{took:?}");
    let then = match attacked["status"].as_str() {
        Some("completed" | "failed") => Then::Reset,
        Some("timed_out") => Then::Destroyed("timed_out"),
        other => panic!("{other:?}: {attacked}"),
    };
    if attacked["status"] != "completed" {
        assert!(attacked["error"].as_str().is_some_and(|said| !said.is_empty()), "{attacked}");
        assert_ne!(attacked["changes_state"], "applied");
    }
    restore(&server);
    let began = Instant::now();
    next_is_as_ever(&mut server, &attacked, then, &as_ever).await;
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    stop(server).await;
    attacked
}

#[tokio::test]
async fn headers_that_never_end_hold_nothing_but_their_own_run() {
    need_engine!();
    beside(held(48, "b'POST /v1/responses HTTP/1.1\\r\\nhost: g\\r\\nx-slow: '")).await;
}

#[tokio::test]
async fn bodies_that_never_end_hold_nothing_but_their_own_run() {
    need_engine!();
    let first =
        "b'POST /v1/responses HTTP/1.1\\r\\nhost: g\\r\\ncontent-length: 1000000\\r\\n\\r\\n'";
    beside(held(24, first)).await;
}

#[tokio::test]
async fn connections_that_say_nothing_hold_nothing_but_their_own_run() {
    need_engine!();
    beside(held(200, "b''")).await;
}

#[tokio::test]
async fn answers_that_nobody_takes_hold_nothing_but_their_own_run() {
    need_engine!();
    let first = "(lambda b: b'POST /v1/responses HTTP/1.1\\r\\nhost: g\\r\\ncontent-length: %d\\r\\n\\r\\n' % len(b) + b)(body().replace('leave', 'FLOOD').encode())";
    beside(held(12, first)).await;
}
