//! Questions, honest and forged.

use super::*;
use crate::codex::app_server::approval::{Answer, Approval, Wanted, desk};

fn request(id: Value, method: &str, params: Value) -> Value {
    let mut all = json!({"threadId": "T", "turnId": "U", "itemId": "I"});
    all.as_object_mut().unwrap().extend(params.as_object().unwrap().clone());
    json!({"id": id, "method": method, "params": all})
}

fn command(id: Value, more: Value) -> Value {
    let mut params = json!({"kind": "command", "command": "/bin/bash -lc 'a b'", "cwd": "/app"});
    params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    request(id, "item/commandExecution/requestApproval", params)
}

fn announced(diff: &str) -> Value {
    let changes = json!([{"path": "/app/x", "kind": {"type": "add"}, "diff": diff}]);
    let item = json!({"type": "fileChange", "id": "I", "changes": changes});
    json!({"method": "item/started", "params": {"threadId": "T", "turnId": "U", "item": item}})
}

fn edit(id: Value, more: Value) -> Value {
    request(id, "item/fileChange/requestApproval", more)
}

/// Each question with what is answered to it: yes, unless it is marked.
async fn asked(lines: Vec<Value>) -> (Vec<Approval>, CodexOutcome, String) {
    let mut all = begun();
    all.extend(lines);
    // Each answer is heard before the turn ends.
    let log = || LimitedLog::new(std::io::sink(), 1 << 20);
    let mut run = CodexRun::new("n", log(), log());
    let mut codex = Waiting::open(Scripted::saying(&all).then(exit(0)), &thread()).await.unwrap();
    let (ours, mut counter) = desk();
    run.asking(ours);
    run.turn(&mut codex, task(), |_| {}).await.unwrap();
    let mut questions = Vec::new();
    while let Ok(question) = counter.questions.try_recv() {
        codex.answer(&Answer { id: question.id.clone(), accept: question.refused.is_none() });
        // A second answer to one question is none.
        codex.answer(&Answer { id: question.id.clone(), accept: true });
        questions.push(question);
    }
    let heard = String::from_utf8(codex.into_peer().heard).unwrap();
    (questions, run.outcome(), heard)
}

#[tokio::test]
async fn a_question_is_answered_once_for_what_was_announced() {
    let (questions, _, heard) = asked(vec![
        command(json!(7), json!({})),
        announced("+1\n"),
        // The same name again puts nothing else in its place.
        announced("+2\n"),
        edit(json!("e"), json!({})),
    ])
    .await;
    assert_eq!(questions.len(), 2, "{questions:?}");
    let want = Wanted::Command { command: "a b".to_owned(), cwd: "/app".to_owned(), cut: 0 };
    assert_eq!(questions[0].what, want);
    let Wanted::Edit(edit) = &questions[1].what else { panic!("{questions:?}") };
    assert_eq!(edit.files[0].diff, "+1\n");
    for line in [
        r#"{"id":7,"result":{"decision":"accept"}}"#,
        r#"{"id":"e","result":{"decision":"accept"}}"#,
    ] {
        assert_eq!(heard.matches(line).count(), 1, "{heard}");
    }
}

#[tokio::test]
async fn what_is_for_more_than_is_shown_is_never_granted() {
    for more in [
        json!({"kind": "writeStdin"}),
        json!({"kind": null}),
        json!({"command": null}),
        json!({"command": "  "}),
        json!({"command": "x".repeat(20_000)}),
        json!({"networkApprovalContext": {"host": "x"}}),
        json!({"additionalPermissions": {"network": true}}),
    ] {
        let (questions, _, heard) = asked(vec![command(json!(0), more.clone())]).await;
        assert!(questions[0].refused.is_some(), "{more}");
        assert!(
            heard.contains(r#"{"decision":"decline"}"#) && !heard.contains("accept"),
            "{heard}"
        );
    }
    let root = json!({"grantRoot": "/"});
    for lines in [vec![edit(json!(0), json!({}))], vec![announced("+"), edit(json!(0), root)]] {
        let (questions, _, heard) = asked(lines).await;
        assert!(questions[0].refused.is_some(), "{questions:?}");
        assert!(!heard.contains("accept"), "{heard}");
    }
}

#[tokio::test]
async fn what_is_forged_is_refused() {
    let other = |name: &str| {
        let mut line = command(json!(0), json!({}));
        line["params"][name] = "X".into();
        line
    };
    for line in [
        other("threadId"),
        other("turnId"),
        request(json!(0), "item/permissions/requestApproval", json!({})),
        request(json!(0), "execCommandApproval", json!({"command": ["ls"]})),
        request(json!(0), "applyPatchApproval", json!({})),
    ] {
        let (questions, _, heard) = asked(vec![line.clone()]).await;
        assert!(questions.is_empty(), "{line}");
        assert!(heard.contains("not supported") && !heard.contains("decision"), "{heard}");
    }
}

#[tokio::test]
async fn one_id_for_two_questions_or_a_flood_of_them_ends_the_run() {
    let twice = vec![command(json!(0), json!({})), command(json!(0), json!({"command": "other"}))];
    let flood = (0..1000).map(|id| command(json!(id), json!({}))).collect();
    for lines in [twice, flood] {
        let (questions, outcome, heard) = asked(lines).await;
        assert!(questions.len() <= 32);
        assert_eq!(outcome.turn, Turn::Failed, "{outcome:?}");
        assert!(!heard.contains("accept"), "{heard}");
    }
}
