//! Mode `ask`: Codex asks, the client answers by elicitation.

mod modern;
mod odd;

use std::time::Duration;

use mcp_codex_orchestrator::model::scripted::{Script, Step};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::need_engine;
use crate::support::{Options, PATIENCE, Server, await_answer, tree};

const PATCH: &str = "*** Begin Patch\n*** Update File: README.md\n@@\n-# A project\n+# Changed\n\
                     *** End Patch\n";

fn options() -> Options {
    Options::default().capabilities(json!({"elicitation": {}}))
}

/// A command, an edit, and a last word.
fn script() -> Script {
    Script::always(vec![
        Step::run("echo made > made.txt"),
        Step::Patch(PATCH.into()),
        Step::Say("All done.".into()),
    ])
}

impl Server {
    /// The next question: its id and its parameters.
    async fn asked(&mut self) -> (Value, Value) {
        loop {
            let message = tokio::time::timeout(PATIENCE, self.notifications.recv()).await;
            let Ok(Some(message)) = message else { panic!("no question\n{}", self.log()) };
            if message["method"] == "elicitation/create" {
                return (message["id"].clone(), message["params"].clone());
            }
        }
    }

    async fn reply(&mut self, id: &Value, result: Value) {
        self.send(&json!({"jsonrpc": "2.0", "id": id, "result": result})).await;
    }

    async fn decide(&mut self, id: &Value, decision: &str) {
        self.reply(id, json!({"action": "accept", "content": {"decision": decision}})).await;
    }

    async fn ask(&mut self) -> oneshot::Receiver<Value> {
        let arguments = json!({"prompt": "change it", "mode": "ask"});
        self.begin_call("codex_run", arguments).await.1
    }

    async fn result(&self, answer: oneshot::Receiver<Value>) -> Value {
        let answer = await_answer(answer, self.home.path()).await;
        answer["result"]["structuredContent"].clone()
    }

    /// What is recorded of the questions of a run.
    fn approvals(&self, result: &Value) -> Vec<Value> {
        let folder = self.runs().join(result["run_id"].as_str().unwrap());
        let text = std::fs::read_to_string(folder.join("approvals.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// The counts that are not 0.
fn counts(result: &Value) -> Value {
    let mut counts = result["approvals"].as_object().unwrap().clone();
    counts.retain(|name, count| name != "waited_ms" && *count != 0);
    Value::Object(counts)
}

#[tokio::test]
async fn what_is_accepted_is_done_and_nothing_before() {
    need_engine!();
    let mut server = Server::start(script(), options()).await;
    let before = tree(&server.workspace);
    let answer = server.ask().await;

    let (id, asked) = server.asked().await;
    let message = asked["message"].as_str().unwrap();
    assert!(message.contains("run a command in /app:\n\n    echo made > made.txt\n"), "{message}");
    assert_eq!(
        asked["requestedSchema"]["properties"]["decision"]["enum"],
        json!(["accept", "decline", "stop"]),
        "{asked}"
    );
    assert_eq!(tree(&server.workspace), before);
    server.decide(&id, "accept").await;

    let (id, asked) = server.asked().await;
    let message = asked["message"].as_str().unwrap();
    for part in ["change files:", "update /app/README.md", "    -# A project\n    +# Changed"] {
        assert!(message.contains(part), "{part}: {message}");
    }
    assert_eq!(tree(&server.workspace), before);
    server.decide(&id, "accept").await;

    let result = server.result(answer).await;
    assert_eq!(result["success"], true, "{result}\n{}", server.log());
    assert_eq!(result["output"], "All done.");
    assert_eq!(result["files_changed"], json!(["README.md", "made.txt"]), "{result}");
    assert_eq!(counts(&result), json!({"asked": 2, "accepted": 2}), "{result}");
    assert_eq!(server.read("README.md"), "# Changed\n");
    assert_eq!(server.read("made.txt"), "made\n");
    let lines = server.approvals(&result);
    let said: Vec<_> = lines.iter().map(|line| (&line["question"], &line["answer"])).collect();
    assert_eq!(
        said,
        [
            (&json!(1), &json!(null)),
            (&json!(1), &json!("accept")),
            (&json!(2), &json!(null)),
            (&json!(2), &json!("accept"))
        ]
    );
    assert_eq!(lines[0]["wanted"]["command"], "echo made > made.txt");
    assert_eq!(lines[2]["wanted"]["files"][0]["path"], "/app/README.md");
    server.ready().await;
    server.stop().await;
}

#[tokio::test]
async fn what_is_declined_is_not_done_and_codex_is_told() {
    need_engine!();
    let mut script = script();
    script.keep_bodies = true;
    let mut server = Server::start(script, options()).await;
    let before = tree(&server.workspace);
    let answer = server.ask().await;
    let (id, _) = server.asked().await;
    server.decide(&id, "decline").await;
    let (id, _) = server.asked().await;
    // The button of the client itself.
    server.reply(&id, json!({"action": "decline"})).await;
    let result = server.result(answer).await;
    assert_eq!(result["success"], true, "{result}\n{}", server.log());
    assert_eq!(result["files_changed"], json!([]), "{result}");
    assert_eq!(counts(&result), json!({"asked": 2, "declined": 2}));
    assert_eq!(tree(&server.workspace), before);
    let requests = server.model.as_ref().unwrap().requests();
    let told = format!("{:?}", requests.last().unwrap());
    assert!(told.contains("rejected by user"), "{told}");
    server.stop().await;
}

#[tokio::test]
async fn stop_ends_the_run_and_holds_what_had_changed() {
    need_engine!();
    let mut server = Server::start(script(), options()).await;
    let before = tree(&server.workspace);
    let answer = server.ask().await;
    let (id, _) = server.asked().await;
    server.decide(&id, "accept").await;
    let (id, _) = server.asked().await;
    server.decide(&id, "stop").await;
    let result = server.result(answer).await;
    assert_eq!(result["status"], "cancelled", "{result}");
    assert_eq!(result["exit_code"], -2);
    assert_eq!(result["success"], false);
    let error = result["error"].as_str().unwrap();
    assert!(error.contains("stopped by the answer"), "{error}");
    assert_eq!(result["changes_state"], "held");
    assert_eq!(result["changes"][0]["path"], "made.txt", "{result}");
    assert_eq!(counts(&result), json!({"asked": 2, "accepted": 1, "ended": 1}));
    assert_eq!(tree(&server.workspace), before);
    server.ready().await;
    server.stop().await;
}

#[tokio::test]
async fn a_question_that_nobody_answers_is_declined_and_withdrawn() {
    need_engine!();
    let options = options().set("codex", "approval_timeout = \"1s\"");
    let mut server = Server::start(script(), options).await;
    let answer = server.ask().await;
    let (first, _) = server.asked().await;
    let withdrawn = loop {
        let message = server.notifications.recv().await.unwrap();
        if message["method"] == "notifications/cancelled" {
            break message;
        }
    };
    assert_eq!(withdrawn["params"]["requestId"], first, "{withdrawn}");
    let (id, _) = server.asked().await;
    // Too late for the first.
    server.decide(&first, "accept").await;
    server.decide(&id, "accept").await;
    let result = server.result(answer).await;
    assert_eq!(result["success"], true, "{result}\n{}", server.log());
    assert_eq!(counts(&result), json!({"asked": 2, "accepted": 1, "expired": 1}));
    assert_eq!(result["files_changed"], json!(["README.md"]), "{result}");
    server.stop().await;
}

#[tokio::test]
async fn the_clock_of_the_run_stands_while_a_question_is_open() {
    need_engine!();
    let options = options().set("run", "min_timeout = \"1s\"").set("pool", "max_size = 1");
    let mut server = Server::start(script(), options).await;
    server.ready().await;
    let call = json!({"prompt": "change it", "mode": "ask", "timeout": 3});
    let (_, answer) = server.begin_call("codex_run", call).await;
    let (id, _) = server.asked().await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let status = server.call("codex_pool_status", json!({})).await;
    assert_eq!(status["leased"], 1, "{status}");
    server.decide(&id, "accept").await;
    let (id, _) = server.asked().await;
    server.decide(&id, "accept").await;
    let result = server.result(answer).await;
    assert_eq!(result["success"], true, "{result}\n{}", server.log());
    assert!(result["approvals"]["waited_ms"].as_u64() >= Some(4000), "{result}");
    server.stop().await;
}

#[tokio::test]
async fn the_clock_runs_while_none_is() {
    need_engine!();
    let steps = vec![Step::run("sleep 600"), Step::Say("never".into())];
    let options = options().set("run", "min_timeout = \"1s\"");
    let mut server = Server::start(Script::always(steps), options).await;
    let call = json!({"prompt": "change it", "mode": "ask", "timeout": 3});
    let (_, answer) = server.begin_call("codex_run", call).await;
    let (id, _) = server.asked().await;
    server.decide(&id, "accept").await;
    let result = server.result(answer).await;
    assert_eq!(result["status"], "timed_out", "{result}");
    assert_eq!(counts(&result), json!({"asked": 1, "accepted": 1}));
    server.stop().await;
}
