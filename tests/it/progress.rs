//! What real runs tell while they go on, both ways. `UPDATE_FIXTURES=1` writes their events down for
//! `tests/codex_fixtures.rs`, which tells what each of them says.

use std::path::Path;

use mcp_codex_orchestrator::model::scripted::{Fault, Script, Step};
use serde_json::{Value, json};

use crate::need_engine;
use crate::support::{Options, Server, await_answer};

fn scripts() -> Vec<(&'static str, Vec<Step>)> {
    let add = "*** Begin Patch\n*** Add File: src/a.rs\n+// a\n*** Update File: src/lib.rs\n@@\n\
               -pub fn one() -> u32 { 1 }\n+pub fn one() -> u32 { 2 }\n*** End Patch\n";
    let edit = "*** Begin Patch\n*** Update File: README.md\n@@\n-# A project\n+# The project\n\
                *** End Patch\n";
    let lost = || Step::Fault(Fault { drop: true, times: 1, ..Fault::default() });
    let refused = Fault {
        status: Some(400),
        message: Some("this model cannot do that".into()),
        ..Fault::default()
    };
    vec![
        (
            "worked",
            vec![
                Step::Reason("**Planning two files.** I look at what is there first.".into()),
                Step::Say("I look around.".into()),
                Step::run("cd /app && ls -A /app/src"),
                Step::Patch(add.into()),
                Step::run("grep -rn 'fn one' /app/src/lib.rs"),
                Step::Say("Two files are as they should be.".into()),
            ],
        ),
        (
            "failed",
            vec![
                Step::run("cat no-such-file"),
                Step::run("printf '\\033[31mred\\033[0m\\n'; exit 3"),
                Step::Fault(refused),
            ],
        ),
        (
            "long",
            vec![
                lost(),
                Step::Reason("**Reading** the project".into()),
                Step::run("for i in 1 2 3; do echo line $i; sleep 0.3; done"),
                lost(),
                Step::Reason("**Thinking again**".into()),
                Step::Patch(edit.into()),
                Step::run(
                    "cargo --version 2>&1 || echo there is no cargo here, which is a long story to tell in one line",
                ),
                Step::Say("It took a while.".into()),
            ],
        ),
    ]
}

#[tokio::test]
async fn a_run_tells_what_it_does_at_most_four_times_a_second() {
    need_engine!();
    let mut script = Script::always(Vec::new());
    for (name, steps) in scripts() {
        script = script.with(name, steps);
    }
    for way in ["exec", "app-server"] {
        let options = Options::default().set("codex", format!("start = \"{way}\""));
        let mut server = Server::start(script.clone(), options).await;
        for (name, _) in scripts() {
            let (_, answer) = server.begin_call("codex_run", json!({"prompt": name})).await;
            let answer = await_answer(answer, server.home.path()).await;
            let result = &answer["result"]["structuredContent"];
            assert_eq!(result["success"], name != "failed", "{result}\n{}", server.log());
            let told = told(&mut server);
            let shown: Vec<&str> =
                told.iter().map(|params| params["message"].as_str().unwrap()).collect();
            assert!(shown.iter().all(|line| line.chars().count() <= 100), "{shown:?}");
            assert!(shown.iter().all(|line| !line.contains(char::is_control)), "{shown:?}");
            assert!(!shown.iter().any(|line| line.contains("/app/")), "{shown:?}");
            let times = told.iter().map(|params| params["progress"].as_f64().unwrap());
            let times: Vec<f64> = times.collect();
            // But for the last one, which comes with the answer.
            let most = times[..times.len() - 1].windows(5).find(|five| five[4] - five[0] < 0.99);
            assert_eq!(most, None, "{shown:?}");
            if name == "long" {
                let tells = |what| shown.iter().any(|line: &&str| line.starts_with(what));
                assert!(tells("Reconnecting to the model") && tells("Running for i"), "{shown:?}");
            }
            if std::env::var_os("UPDATE_FIXTURES").is_some() {
                let run = server.runs().join(result["run_id"].as_str().unwrap());
                let fixtures =
                    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/progress");
                std::fs::create_dir_all(&fixtures).unwrap();
                let to = fixtures.join(format!("{name}.{way}.jsonl"));
                std::fs::copy(run.join("events.jsonl"), to).unwrap();
            }
        }
        server.stop().await;
    }
}

/// The parameters of the notifications until now.
fn told(server: &mut Server) -> Vec<Value> {
    let mut told = Vec::new();
    while let Ok(message) = server.notifications.try_recv() {
        if message["method"] == "notifications/progress" {
            told.push(message["params"].clone());
        }
    }
    told
}
