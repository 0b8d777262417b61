//! What goes wrong with questions.

use super::*;

#[tokio::test]
async fn an_answer_that_makes_no_sense_is_none_and_the_run_goes_on() {
    need_engine!();
    let answers = [
        json!({"result": {"action": "accept", "content": {"decision": "acceptForSession"}}}),
        json!({"result": {"action": "accept", "content": {"decision": true}}}),
        json!({"result": {"action": "accept"}}),
        json!({"result": {"action": 7}}),
        json!({"result": {}}),
        json!({"error": {"code": -32603, "message": "the window was lost, sk-abcdefgh12345678"}}),
    ];
    let mut steps: Vec<Step> =
        (0..answers.len()).map(|n| Step::run(format!("echo x > {n}.txt"))).collect();
    steps.push(Step::Say("Done.".into()));
    let mut server = Server::start(Script::always(steps), options()).await;
    let before = tree(&server.workspace);
    let answer = server.ask().await;
    for nonsense in &answers {
        let (id, _) = server.asked().await;
        let mut message = nonsense.clone();
        message["jsonrpc"] = "2.0".into();
        message["id"] = id;
        server.send(&message).await;
    }
    let result = server.result(answer).await;
    assert_eq!(result["success"], true, "{result}\n{}", server.log());
    let all = answers.len();
    assert_eq!(counts(&result), json!({"asked": all, "invalid": all}), "{result}");
    assert_eq!(tree(&server.workspace), before);
    let lines = server.approvals(&result);
    let whys = lines.iter().filter(|line| line["why"].is_string()).count();
    assert_eq!(whys, all, "{lines:?}");
    assert!(!format!("{lines:?}").contains("sk-abcdefgh"), "{lines:?}");
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_cannot_be_asked_is_told_before_anything_starts() {
    need_engine!();
    for capabilities in [json!({}), json!({"elicitation": {"url": {}}})] {
        let options = Options::default().capabilities(capabilities);
        let mut server = Server::start(script(), options).await;
        let answer = server.ask().await;
        let result = server.result(answer).await;
        assert_eq!(result["error_kind"], "invalid_argument", "{result}");
        let error = result["error"].as_str().unwrap();
        assert!(error.contains("elicitation") && error.contains("\"suggest\""), "{error}");
        assert_eq!(result["run_id"], json!(null));
        let runs = std::fs::read_dir(server.runs()).into_iter().flatten().count();
        assert_eq!((runs, server.model.as_ref().unwrap().requests().len()), (0, 0));
        server.stop().await;
    }
}

#[tokio::test]
async fn a_cancel_withdraws_the_question_that_is_open() {
    need_engine!();
    let mut server = Server::start(script(), options()).await;
    let arguments = json!({"prompt": "change it", "mode": "ask"});
    let (call, _answer) = server.begin_call("codex_run", arguments).await;
    let (id, _) = server.asked().await;
    let cancel = json!({"jsonrpc": "2.0", "method": "notifications/cancelled",
                        "params": {"requestId": call}});
    server.send(&cancel).await;
    let withdrawn = loop {
        let message = tokio::time::timeout(PATIENCE, server.notifications.recv()).await;
        let message = message.unwrap().unwrap();
        if message["method"] == "notifications/cancelled" {
            break message;
        }
    };
    assert_eq!(withdrawn["params"]["requestId"], id, "{withdrawn}");
    let began = std::time::Instant::now();
    let result = loop {
        let runs = std::fs::read_dir(server.runs()).unwrap().flatten();
        let done = runs.map(|run| run.path().join("result.json")).find(|path| path.exists());
        if let Some(done) = done {
            break serde_json::from_str::<Value>(&std::fs::read_to_string(done).unwrap()).unwrap();
        }
        assert!(began.elapsed() < PATIENCE, "{}", server.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(result["status"], "cancelled", "{result}");
    assert_eq!(counts(&result), json!({"asked": 1, "ended": 1}));
    assert_eq!(server.approvals(&result)[1]["answer"], "withdrawn");
    server.stop().await;
}

#[tokio::test]
async fn a_question_hides_neither_what_steers_a_terminal_nor_tells_a_secret() {
    need_engine!();
    let command = "echo \u{1b}[2Kx \u{202e}y sk-abcdefgh12345678 hunter-two-22\necho two";
    let steps = vec![Step::run(command), Step::Say("Done.".into())];
    let mut server = Server::start(Script::always(steps), options()).await;
    let call = json!({"prompt": "change it", "mode": "ask", "env_vars": {"PASS": "hunter-two-22"}});
    let (_, answer) = server.begin_call("codex_run", call).await;
    let (id, asked) = server.asked().await;
    let message = asked["message"].as_str().unwrap();
    for part in ["\\u{1b}[2Kx", "\\u{202e}y", "\n    echo two\n"] {
        assert!(message.contains(part), "{part}: {message}");
    }
    for secret in ["sk-abcdefgh", "hunter", "\u{1b}", "\u{202e}"] {
        assert!(!message.contains(secret), "{secret:?}: {message}");
    }
    server.decide(&id, "decline").await;
    let result = server.result(answer).await;
    assert!(!format!("{:?}", server.approvals(&result)).contains("hunter"));
    server.stop().await;
}

#[tokio::test]
async fn questions_that_come_together_are_put_one_after_another() {
    need_engine!();
    // The model's script is `text(await tools.TOOL(ARGUMENTS))`.
    let together = "exec_command && await Promise.allSettled([1, 2, 3].map(n => \
                    tools.exec_command({cmd: `echo ${n} > ${n}.txt`}))) && String";
    let steps = vec![
        Step::Call { tool: together.into(), arguments: json!("done") },
        Step::Say("Done.".into()),
    ];
    let mut server = Server::start(Script::always(steps), options()).await;
    let answer = server.ask().await;
    // Codex sends them in any order.
    for _ in 0..3 {
        let (id, asked) = server.asked().await;
        let message = asked["message"].as_str().unwrap();
        let more = server.notifications.try_recv().ok();
        let another = more.is_some_and(|more| more["method"] == "elicitation/create");
        assert!(!another, "two at once");
        server.decide(&id, if message.contains("2.txt") { "decline" } else { "accept" }).await;
    }
    let result = server.result(answer).await;
    assert_eq!(result["files_changed"], json!(["1.txt", "3.txt"]), "{result}");
    assert_eq!(counts(&result), json!({"asked": 3, "accepted": 2, "declined": 1}));
    server.stop().await;
}

#[tokio::test]
async fn what_only_looks_is_asked_about_too() {
    need_engine!();
    let commands = ["ls", "cat README.md", "git status", "git commit -q --allow-empty -m x"];
    let steps = commands.map(Step::run).into_iter().chain([Step::Say("Done.".into())]);
    let mut server = Server::start(Script::always(steps.collect()), options()).await;
    let answer = server.ask().await;
    for command in commands {
        let (id, asked) = server.asked().await;
        let message = asked["message"].as_str().unwrap();
        assert!(message.contains(command), "{message}");
        server.decide(&id, "decline").await;
    }
    let result = server.result(answer).await;
    assert_eq!(counts(&result), json!({"asked": 4, "declined": 4}), "{result}");
    server.stop().await;
}
