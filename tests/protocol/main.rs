//! The MCP server from the outside, over streams in memory, with jobs that do nothing real.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]

mod client;

use mcp_codex_orchestrator::server;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::client::{Client, GRACE, Script};

#[tokio::test]
async fn initialize_answers_with_instructions_that_no_client_cuts() {
    let mut client = Client::new();
    let answer = client.initialize().await;
    let result = &answer["result"];
    assert_eq!(result["protocolVersion"], "2025-11-25");
    assert_eq!(result["serverInfo"]["name"], "mcp-codex-orchestrator");
    assert!(result["instructions"].as_str().unwrap().len() <= 2048);
    assert!(result["capabilities"].get("logging").is_none());
}

/// With `UPDATE_FIXTURES=1` the file is written instead; look at the difference.
#[tokio::test]
async fn the_list_of_tools_is_the_one_in_the_fixture() {
    let mut client = Client::initialized().await;
    client.send(json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"})).await;
    let listed = client.next().await["result"]["tools"].clone();
    let text = format!("{}\n", serde_json::to_string_pretty(&listed).unwrap());
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tools.json");
    if std::env::var_os("UPDATE_FIXTURES").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    assert_eq!(text, std::fs::read_to_string(path).unwrap());
    for tool in listed.as_array().unwrap() {
        assert!(tool["description"].as_str().unwrap().len() <= 2048);
        assert_eq!(tool["inputSchema"]["additionalProperties"], json!(false));
        assert_eq!(tool["outputSchema"]["type"], "object");
    }
}

#[tokio::test]
async fn a_run_is_answered_as_structure_and_as_text() {
    let mut client = Client::initialized().await;
    let result = client.called("codex_run", json!({"prompt": "x"})).await["result"].clone();
    assert_eq!(result["isError"], false);
    assert_eq!(result["structuredContent"]["success"], true);
    assert_eq!(result["structuredContent"]["run_id"], "run-1");
    let text = result["content"][0]["text"].as_str().unwrap();
    assert!(text.contains("done") && text.contains("run-1"), "{text}");
    assert!(!result.to_string().contains("null"), "{result}");
}

#[tokio::test]
async fn bad_arguments_are_tool_errors_of_one_sentence() {
    let mut client = Client::initialized().await;
    for (tool, arguments, part) in [
        ("codex_run", json!({}), "prompt is missing"),
        ("codex_run", json!({"prompt": "x", "timeout": 9}), "10 to 3600"),
        ("codex_run", json!({"prompt": "x", "verify": {}}), "\"verify\""),
        ("codex_run", json!({"prompt": "x", "output_schema": {"type": 1}}), "output_schema is no"),
        ("codex_run_diff", json!({}), "run_id is missing"),
        ("codex_run_diff", json!({"run_id": "run-2"}), "no run is called run-2"),
        ("codex_run_apply", json!({"run_id": "a", "on_conflict": "x"}), "hold_all"),
        ("codex_run_undo", json!({"run_id": "a", "path": "x"}), "did you mean \"paths\"?"),
        ("codex_pool_status", json!({"a": 1}), "no argument \"a\"; call it without arguments"),
    ] {
        let result = client.called(tool, arguments).await["result"].clone();
        assert_eq!(result["isError"], true, "{result}");
        let content = &result["structuredContent"];
        assert_eq!(content["success"], false);
        assert_eq!(content["error_kind"], "invalid_argument");
        assert_eq!(content["retryable"], false);
        let sentence = content["error"].as_str().unwrap();
        assert!(sentence.contains(part), "{sentence}");
        assert!(!sentence.contains('\n'));
        assert!(result["content"][0]["text"].as_str().unwrap().starts_with(sentence));
    }
}

#[tokio::test]
async fn diff_and_pool_status_answer() {
    let mut client = Client::initialized().await;
    let diff = client.called("codex_run_diff", json!({"run_id": "run-1"})).await;
    assert_eq!(diff["result"]["structuredContent"]["changes_state"], "held");
    assert_eq!(diff["result"]["structuredContent"]["success"], true);
    let status = client.called("codex_pool_status", json!({})).await;
    assert_eq!(status["result"]["structuredContent"]["idle"], 1);
}

#[tokio::test]
async fn an_unknown_tool_is_a_protocol_error() {
    let mut client = Client::initialized().await;
    let answer = client.called("codex_runs", json!({})).await;
    assert_eq!(answer["error"]["code"], -32602);
    assert!(answer["error"]["message"].as_str().unwrap().contains("codex_run_diff"));
}

#[tokio::test]
async fn a_panic_is_answered_and_the_server_lives() {
    let mut client = Client::initialized().await;
    let answer = client.called("codex_run", json!({"prompt": "panic"})).await;
    assert_eq!(answer["result"]["structuredContent"]["error_kind"], "internal");
    let answer = client.called("codex_run_apply", json!({"run_id": "a"})).await;
    assert_eq!(answer["result"]["structuredContent"]["error_kind"], "internal");
    let answer = client.called("codex_run", json!({"prompt": "x"})).await;
    assert_eq!(answer["result"]["isError"], false);
}

#[tokio::test]
async fn two_calls_run_at_the_same_time() {
    let mut client = Client::initialized().await;
    // Each of them ends only when both are there.
    client.call(1, "codex_run", json!({"prompt": "both"})).await;
    client.call(2, "codex_run", json!({"prompt": "both"})).await;
    let mut ids = [client.next().await["id"].as_u64(), client.next().await["id"].as_u64()];
    ids.sort_unstable();
    assert_eq!(ids, [Some(1), Some(2)]);
}

async fn notifications_of(prompt: &str) -> Vec<Value> {
    let mut client = Client::initialized().await;
    client
        .send(json!({
            "jsonrpc": "2.0", "id": 7, "method": "tools/call",
            "params": {
                "name": "codex_run", "arguments": {"prompt": prompt},
                "_meta": {"progressToken": "t"}
            }
        }))
        .await;
    let mut notifications = Vec::new();
    loop {
        let message = client.next().await;
        if message["id"] == 7 {
            break;
        }
        assert_eq!(message["method"], "notifications/progress");
        assert_eq!(message["params"]["progressToken"], "t");
        notifications.push(message["params"].clone());
    }
    // Nothing follows the answer.
    client.call(8, "codex_pool_status", json!({})).await;
    assert_eq!(client.next().await["id"], 8);
    notifications
}

fn strictly_increases(notifications: &[Value]) -> bool {
    let values: Vec<f64> =
        notifications.iter().map(|params| params["progress"].as_f64().unwrap()).collect();
    values.windows(2).all(|pair| pair[0] < pair[1])
}

#[tokio::test(start_paused = true)]
async fn each_new_stage_is_told_and_nothing_twice() {
    let notifications = notifications_of("stages").await;
    let stages: Vec<char> = notifications
        .iter()
        .map(|params| params["message"].as_str().unwrap().chars().next().unwrap())
        .collect();
    assert!(stages.ends_with(&['b', 'c']), "{stages:?}");
    assert!(stages.len() <= 4, "{stages:?}");
    assert!(strictly_increases(&notifications));
}

#[tokio::test(start_paused = true)]
async fn at_most_four_stages_a_second_are_told_and_always_the_last_one() {
    let notifications = notifications_of("many").await;
    let values: Vec<f64> =
        notifications.iter().map(|params| params["progress"].as_f64().unwrap()).collect();
    let (last, before) = values.split_last().unwrap();
    // The last one comes with the answer.
    assert!(before.windows(2).all(|pair| pair[1] - pair[0] > 0.248), "{values:?}");
    assert!(*last >= 2.9 && values.len() >= 10, "{values:?}");
    let told = notifications.last().unwrap()["message"].as_str().unwrap();
    assert!(told.starts_with("stage 999 "), "{told}");
}

#[tokio::test(start_paused = true)]
async fn a_run_with_nothing_new_still_tells_that_it_lives() {
    let notifications = notifications_of("long").await;
    assert!(notifications[0]["progress"].as_f64().unwrap() < 1.0);
    assert!(strictly_increases(&notifications));
    let mut last = 0.0;
    for params in &notifications {
        let value = params["progress"].as_f64().unwrap();
        assert!(value - last <= 10.0);
        last = value;
    }
    assert!(last >= 50.0, "{last}");
}

#[tokio::test(start_paused = true)]
async fn without_a_token_there_are_no_notifications() {
    let mut client = Client::initialized().await;
    assert_eq!(client.called("codex_run", json!({"prompt": "long"})).await["id"], 7);
}

#[tokio::test]
async fn a_cancelled_call_ends_its_run_and_the_server_lives() {
    let mut client = Client::initialized().await;
    client.call(3, "codex_run", json!({"prompt": "wait"})).await;
    client.script.begun.notified().await;
    client
        .send(json!({
            "jsonrpc": "2.0", "method": "notifications/cancelled",
            "params": {"requestId": 3, "reason": "enough"}
        }))
        .await;
    timeout(GRACE, client.script.ended.notified()).await.expect("the run ends");
    // The protocol lets the server leave the cancelled call without an answer.
    client.call(4, "codex_pool_status", json!({})).await;
    loop {
        let answer = client.next().await;
        if answer["id"] == 4 {
            break;
        }
        assert_eq!(answer["id"], 3);
    }
}

#[tokio::test]
async fn the_end_of_stdin_answers_the_call_in_flight_and_ends_the_server() {
    let mut client = Client::initialized().await;
    client.call(3, "codex_run", json!({"prompt": "wait"})).await;
    client.script.begun.notified().await;
    let began = Instant::now();
    client.close().await;
    let answer = client.next().await;
    assert_eq!(answer["result"]["structuredContent"]["status"], "cancelled");
    assert_eq!(answer["result"]["structuredContent"]["exit_code"], -2);
    timeout(GRACE, &mut client.server).await.expect("in time").unwrap().unwrap();
    assert!(client.shutdown.is_cancelled());
    assert!(began.elapsed() < GRACE);
}

#[tokio::test]
async fn a_signal_ends_the_server_in_the_same_way() {
    let mut client = Client::initialized().await;
    client.call(3, "codex_run", json!({"prompt": "wait"})).await;
    client.script.begun.notified().await;
    client.shutdown.cancel();
    assert_eq!(client.next().await["result"]["structuredContent"]["status"], "cancelled");
    timeout(GRACE, &mut client.server).await.expect("in time").unwrap().unwrap();
}

#[tokio::test]
async fn a_run_that_heeds_nothing_does_not_hold_up_the_end() {
    let mut client = Client::initialized().await;
    client.call(3, "codex_run", json!({"prompt": "deaf"})).await;
    client.script.begun.notified().await;
    client.close().await;
    timeout(GRACE * 2, &mut client.server).await.expect("in time").unwrap().unwrap();
}

#[tokio::test]
async fn the_end_of_stdin_before_any_request_is_no_error() {
    let mut client = Client::new();
    client.close().await;
    timeout(GRACE, &mut client.server).await.expect("in time").unwrap().unwrap();
}

#[tokio::test]
async fn notifications_before_initialize_do_not_end_the_server() {
    let mut client = Client::new();
    client
        .send(json!({
            "jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}
        }))
        .await;
    client.send(json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await;
    client.send(json!({"jsonrpc": "2.0", "id": 5, "method": "ping"})).await;
    assert_eq!(client.next().await["id"], 5);
    client.send(json!({"jsonrpc": "2.0", "id": 6, "method": "tools/list"})).await;
    assert_eq!(client.next().await["error"]["code"], -32602);
    client.send(json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await;
    assert_eq!(client.initialize().await["id"], 0);
    assert_eq!(client.called("codex_pool_status", json!({})).await["id"], 7);
}

#[tokio::test]
async fn lines_that_are_no_messages_do_not_end_the_server() {
    let mut client = Client::initialized().await;
    client.write(b"not json\n\n\xff\xfe\n").await;
    assert_eq!(client.called("codex_pool_status", json!({})).await["id"], 7);
}

#[tokio::test]
async fn the_newer_era_needs_no_initialize() {
    let mut client = Client::new();
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
        "progressToken": 1
    });
    client
        .send(json!({
            "jsonrpc": "2.0", "id": 1, "method": "server/discover", "params": {"_meta": meta}
        }))
        .await;
    let discovered = client.next().await["result"].clone();
    assert!(discovered["supportedVersions"].to_string().contains("2026-07-28"), "{discovered}");
    client
        .send(json!({
            "jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}
        }))
        .await;
    client
        .send(json!({
            "jsonrpc": "2.0", "id": 2, "method": "tools/call",
            "params": {"name": "codex_run", "arguments": {"prompt": "x"}, "_meta": meta}
        }))
        .await;
    let answer = loop {
        let message = client.next().await;
        if message["id"] == 2 {
            break message;
        }
        assert_eq!(message["method"], "notifications/progress");
    };
    assert_eq!(answer["result"]["resultType"], "complete");
    assert_eq!(answer["result"]["structuredContent"]["success"], true);
}

#[tokio::test]
async fn the_librarys_own_client_is_served() {
    use rmcp::ServiceExt;
    use rmcp::model::CallToolRequestParams;

    let script = Script::new();
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let (reader, writer) = tokio::io::split(theirs);
    let shutdown = CancellationToken::new();
    let server = tokio::spawn(server::run(script, GRACE, reader, writer, shutdown));
    let client = ().serve(ours).await.unwrap();
    assert_eq!(client.list_all_tools().await.unwrap().len(), 5);
    let mut request = CallToolRequestParams::new("codex_run");
    request.arguments = json!({"prompt": "x"}).as_object().cloned();
    let result = client.call_tool(request).await.unwrap();
    assert_eq!(result.is_error, Some(false));
    client.cancel().await.unwrap();
    timeout(GRACE, server).await.expect("in time").unwrap().unwrap();
}
