//! The era in which a server sends no requests: the answer comes with the call, made again.

use super::*;

const ARGUMENTS: &str = r#"{"prompt": "change it", "mode": "ask"}"#;

fn params(more: Value) -> Value {
    let arguments: Value = serde_json::from_str(ARGUMENTS).unwrap();
    let mut params = json!({"name": "codex_run", "arguments": arguments, "_meta": {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {"elicitation": {"form": {}}},
        "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
    }});
    params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    params
}

fn answered(input: &Value, answer: Value) -> Value {
    let requests = input["inputRequests"].as_object().unwrap();
    let (key, request) = requests.iter().next().unwrap();
    assert_eq!((requests.len(), &request["method"]), (1, &json!("elicitation/create")), "{input}");
    params(json!({"requestState": input["requestState"], "inputResponses": {key: answer}}))
}

fn decided(input: &Value, decision: &str) -> Value {
    answered(input, json!({"action": "accept", "content": {"decision": decision}}))
}

fn message(input: &Value) -> String {
    assert_eq!(input["resultType"], "input_required", "{input}");
    let requests = input["inputRequests"].as_object().unwrap();
    requests.values().next().unwrap()["params"]["message"].as_str().unwrap().to_owned()
}

impl Server {
    async fn modern_call(&mut self, params: Value) -> Value {
        let answer = self.request("tools/call", params).await;
        assert!(answer["error"].is_null(), "{answer}\n{}", self.log());
        answer["result"].clone()
    }
}

#[tokio::test]
async fn the_same_call_comes_back_with_each_answer() {
    need_engine!();
    let mut server = Server::start_modern(script(), Options::default()).await;
    let before = tree(&server.workspace);
    let first = server.modern_call(params(json!({}))).await;
    assert!(message(&first).contains("echo made > made.txt"), "{first}");
    // No answer yet: it is put again. The state was good for one call.
    let state = json!({"requestState": first["requestState"]});
    let again = server.modern_call(params(state.clone())).await;
    assert_eq!(message(&again), message(&first));
    assert_ne!(again["requestState"], first["requestState"]);
    for (wrong, says) in [
        (params(state), "names no run"),
        (params(json!({"requestState": "guessed"})), "names no run"),
        (
            params(json!({"requestState": again["requestState"],
                          "arguments": {"prompt": "something else", "mode": "ask"}})),
            "other arguments",
        ),
    ] {
        let refused = server.modern_call(wrong).await;
        assert_eq!(refused["isError"], true, "{refused}");
        let error = refused["structuredContent"]["error"].as_str().unwrap();
        assert!(error.contains(says), "{error}");
    }
    let second = server.modern_call(decided(&again, "accept")).await;
    assert!(message(&second).contains("update /app/README.md"), "{second}");
    assert_eq!(tree(&server.workspace), before);
    let last = server.modern_call(decided(&second, "decline")).await;
    let result = &last["structuredContent"];
    assert_eq!(result["success"], true, "{last}\n{}", server.log());
    assert_eq!(counts(result), json!({"asked": 2, "accepted": 1, "declined": 1}));
    assert_eq!(result["files_changed"], json!(["made.txt"]), "{result}");
    let requests = server
        .said
        .lock()
        .iter()
        .filter(|line| line.contains("\"elicitation/create\""))
        .filter(|line| !line.contains("input_required"))
        .count();
    assert_eq!(requests, 0);
    server.stop().await;
}

#[tokio::test]
async fn whoever_comes_back_late_gets_the_result_and_nonsense_is_no_leave() {
    need_engine!();
    let options = Options::default().set("codex", "approval_timeout = \"1s\"");
    let mut server = Server::start_modern(script(), options).await;
    let before = tree(&server.workspace);
    let first = server.modern_call(params(json!({}))).await;
    let began = std::time::Instant::now();
    loop {
        let runs = std::fs::read_dir(server.runs()).unwrap().flatten();
        if runs.map(|run| run.path().join("result.json")).any(|path| path.exists()) {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{}", server.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let last = server.modern_call(decided(&first, "accept")).await;
    let result = &last["structuredContent"];
    assert_eq!(result["success"], true, "{last}\n{}", server.log());
    assert_eq!(counts(result), json!({"asked": 2, "expired": 2}));
    assert_eq!(tree(&server.workspace), before);

    let first = server.modern_call(params(json!({}))).await;
    let second = server.modern_call(answered(&first, json!("accept"))).await;
    let last = server.modern_call(decided(&second, "stop")).await;
    let result = &last["structuredContent"];
    assert_eq!(result["status"], "cancelled", "{last}");
    assert_eq!(counts(result), json!({"asked": 2, "invalid": 1, "ended": 1}));
    server.stop().await;
}

#[tokio::test]
async fn a_client_of_this_era_that_cannot_be_asked_is_told() {
    need_engine!();
    let mut server = Server::start_modern(script(), Options::default()).await;
    let mut call = params(json!({}));
    call["_meta"]["io.modelcontextprotocol/clientCapabilities"] = json!({});
    let refused = server.modern_call(call).await;
    let error = refused["structuredContent"]["error"].as_str().unwrap();
    assert!(error.contains("elicitation") && error.contains("\"suggest\""), "{error}");
    server.stop().await;
}
