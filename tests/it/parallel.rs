//! Several calls, several servers.

use std::time::{Duration, Instant};

use mcp_codex_orchestrator::model::scripted::{Script, Step};
use serde_json::json;

use crate::need_engine;
use crate::support::{Options, Server, await_answer, docker};

#[tokio::test]
async fn two_calls_at_once_run_at_once() {
    need_engine!();
    let script = Script::builtin()
        .with("first", vec![Step::run("sleep 3; echo 1 > one.txt"), Step::Say("ok".into())])
        .with("second", vec![Step::run("sleep 3; echo 2 > two.txt"), Step::Say("ok".into())]);
    let options = Options::default().set("pool", "min_idle = 2");
    let mut server = Server::start(script, options).await;
    while server.ready().await["idle"] != 2 {}
    let began = Instant::now();
    let (_, one) = server.begin_call("codex_run", json!({"prompt": "first"})).await;
    let (_, two) = server.begin_call("codex_run", json!({"prompt": "second"})).await;
    for answer in [one, two] {
        let answer = await_answer(answer, server.home.path()).await;
        let result = &answer["result"]["structuredContent"];
        assert_eq!(result["changes_state"], "applied", "{result}\n{}", server.log());
    }
    // One after the other would take six seconds in the commands alone.
    assert!(began.elapsed() < Duration::from_millis(5900), "{:?}", began.elapsed());
    assert_eq!(server.read("one.txt"), "1\n");
    assert_eq!(server.read("two.txt"), "2\n");
    server.stop().await;
}

#[tokio::test]
async fn two_servers_on_one_engine_leave_each_others_containers_alone() {
    need_engine!();
    let mut one = Server::start(Script::builtin(), Options::default()).await;
    one.ready().await;
    let mut two = Server::start(Script::builtin(), Options::default()).await;
    two.ready().await;
    let of_one = docker::containers_of(one.pid);
    // Longer than the first two sweeps, which come three seconds apart.
    tokio::time::sleep(Duration::from_secs(5)).await;
    two.stop().await;
    assert_eq!(docker::containers_of(one.pid), of_one);
    let result = one.run("Create a hello.py file that prints 'Hello, World!'").await;
    assert_eq!(result["success"], true, "{result}");
    one.stop().await;
}
