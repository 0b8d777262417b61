//! A client is told when the list of tools has changed, and never else.

use std::fs;
use std::time::{Duration, Instant};

use mcp_codex_orchestrator::model::scripted::Script;
use serde_json::{Value, json};

use crate::need_engine;
use crate::support::{Options, PATIENCE, Server, await_answer};

/// Saves the settings with another section at their end, and waits until they are in force.
async fn set(server: &mut Server, before: &str, section: &str) {
    let seen = server.log().matches("the settings have changed").count();
    fs::write(server.home.path().join("config.toml"), format!("{before}\n{section}\n")).unwrap();
    let began = Instant::now();
    while server.log().matches("the settings have changed").count() == seen {
        assert!(began.elapsed() < PATIENCE, "never in force: {section}\n{}", server.log());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The next notification that is no progress.
async fn told(server: &mut Server) -> Value {
    loop {
        let message = tokio::time::timeout(PATIENCE, server.notifications.recv()).await;
        let Ok(Some(message)) = message else { panic!("nothing was told\n{}", server.log()) };
        if message["method"] != "notifications/progress" {
            return message;
        }
    }
}

async fn run_text(server: &mut Server) -> String {
    let listed = server.request("tools/list", json!({})).await;
    listed["result"]["tools"][0].to_string()
}

/// Three changes, of which the second is in no text; gives what was told of the first and the third.
async fn two_of_three(server: &mut Server) -> [Value; 2] {
    let plain = fs::read_to_string(server.home.path().join("config.toml")).unwrap();
    let first = run_text(server).await;
    set(server, &plain, "[network]\nallow_hosts = [\"crates.io\"]").await;
    let told_first = told(server).await;
    let second = run_text(server).await;
    assert!(!first.contains("crates.io") && second.contains("crates.io"), "{second}");
    let hosts = "[network]\nallow_hosts = [\"crates.io\"]";
    // Of the same section as the limits in the schema, but not in it.
    set(server, &plain, &format!("{hosts}\n[run]\nend_timeout = \"6s\"")).await;
    assert_eq!(run_text(server).await, second);
    set(server, &plain, &format!("{hosts}\n[run]\nmax_timeout = \"3h\"")).await;
    let told_third = told(server).await;
    assert!(run_text(server).await.contains("10800"));
    set(server, &plain, &format!("{hosts}\n[run]\nmax_timeout = \"3h\"\n[pool]\nmax_size = 3"))
        .await;
    // Whatever was told was sent before this answer.
    server.call("codex_pool_status", json!({})).await;
    while let Ok(message) = server.notifications.try_recv() {
        assert_eq!(message["method"], "notifications/progress", "{message}");
    }
    [told_first, told_third]
}

fn options() -> Options {
    Options::default().set("server", "log = \"info\"")
}

#[tokio::test]
async fn in_the_older_era_on_the_connection() {
    need_engine!();
    let mut server = Server::start(Script::builtin(), options()).await;
    server.ready().await;
    for told in two_of_three(&mut server).await {
        assert_eq!(told["method"], "notifications/tools/list_changed", "{told}");
    }
    let said = server.said.lock()[0].clone();
    let initialized: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(initialized["result"]["capabilities"]["tools"]["listChanged"], true, "{said}");
    let took = server.stop().await;
    assert!(took < Duration::from_secs(3), "{took:?}");
}

#[tokio::test]
async fn in_the_newer_era_on_the_stream_of_who_listens() {
    need_engine!();
    let mut server = Server::start_modern(Script::builtin(), options()).await;
    let discovered = server.request("server/discover", json!({})).await;
    let capability = &discovered["result"]["capabilities"]["tools"]["listChanged"];
    assert_eq!(capability, true, "{discovered}");
    server.ready().await;
    let filter = json!({"notifications": {"toolsListChanged": true, "promptsListChanged": true}});
    let (id, answer) = server.begin("subscriptions/listen", filter).await;
    let acknowledged = told(&mut server).await;
    assert_eq!(
        (&acknowledged["method"], &acknowledged["params"]["notifications"]),
        (&json!("notifications/subscriptions/acknowledged"), &json!({"toolsListChanged": true})),
        "{acknowledged}"
    );
    for told in two_of_three(&mut server).await {
        assert_eq!(told["method"], "notifications/tools/list_changed", "{told}");
        let subscription = &told["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"];
        assert_eq!(subscription, id, "{told}");
    }
    // The end of the server is no error of the stream, and does not wait for it.
    server.close();
    let answer = await_answer(answer, server.home.path()).await;
    assert!(answer["error"].is_null(), "{answer}");
    let took = server.ended().await;
    assert!(took < Duration::from_secs(3), "{took:?}");
    server.check_nothing_left().await;
}
