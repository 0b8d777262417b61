//! `keep_thread` and `continue_run`: a thread that goes on in another run, and nowhere else.

use std::os::unix::fs::PermissionsExt;

use mcp_codex_orchestrator::model::scripted::{Fault, Script, Step};
use serde_json::{Value, json};

use crate::need_engine;
use crate::support::{Options, Server, make_workspace};

const WAYS: [&str; 2] = ["exec", "app-server"];

/// Tokens of one answer of the scripted model.
const INPUT: u64 = 1200;

fn options(way: &str) -> Options {
    Options::default()
        .set("codex", format!("start = \"{way}\""))
        .set("pool", "max_size = 1")
        .set("run", "min_timeout = \"1s\"")
}

fn script() -> Script {
    let look = "grep -rlE 'ALPHA|BRAVO' ~ /tmp /dev/shm 2> /dev/null > found.txt; \
                ls -A ~/.codex/sessions >> found.txt 2> /dev/null; true";
    Script::always(vec![Step::Say("Nothing.".into())])
        .with("look", vec![Step::run(look), Step::Say("Looked.".into())])
        .with("third", vec![Step::Say("Did CHARLIE.".into())])
        .with(
            "second",
            vec![
                Step::run("echo \"said $RUN_VAR\" | tr a-z A-Z > second.txt; pwd >> second.txt"),
                Step::Say("Did BRAVO.".into()),
            ],
        )
        .with(
            "first",
            vec![Step::run("echo output $((40 + 2))-of-ALPHA"), Step::Say("Did ALPHA.".into())],
        )
        .keeping_bodies()
}

async fn call(server: &mut Server, arguments: Value) -> Value {
    let result = server.call("codex_run", arguments).await;
    assert_eq!(result["success"], true, "{result:#}\n{}", server.log());
    result
}

fn id(result: &Value) -> &str {
    result["run_id"].as_str().unwrap()
}

/// What the model was last asked.
fn asked(server: &Server) -> String {
    server.model.as_ref().unwrap().requests().last().unwrap().body.clone().unwrap().to_string()
}

#[tokio::test]
async fn a_thread_goes_on_in_the_run_that_continues_it_and_in_no_other() {
    need_engine!();
    for way in WAYS {
        let mut server = Server::start(script(), options(way)).await;
        let first = call(
            &mut server,
            json!({"prompt": "first", "keep_thread": true, "env_vars": {"V": "hunter2-value"}}),
        )
        .await;
        assert_eq!(
            (&first["thread_kept"], &first["notes"]),
            (&json!(true), &Value::Null),
            "{first}"
        );
        assert_eq!(first["usage"]["input_tokens"], 2 * INPUT);
        let folder = server.runs().join(id(&first));
        for file in ["thread.jsonl", "thread.json"] {
            let path = folder.join(file);
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
            let text = std::fs::read_to_string(path).unwrap();
            assert!(!text.contains("hunter2-value"), "{text}");
        }

        let second = call(
            &mut server,
            json!({"prompt": "second", "continue_run": id(&first), "keep_thread": true,
                   "working_dir": "src", "env_vars": {"RUN_VAR": "so"}}),
        )
        .await;
        assert_eq!(second["thread_kept"], true, "{way} {second}");
        let text = asked(&server);
        for said in ["first", "output 42-of-ALPHA", "Did ALPHA.", "second"] {
            assert!(text.contains(said), "{way}: {said} is not in {text}");
        }
        assert_eq!(server.read("src/second.txt"), "SAID SO\n/app/src\n", "{way}");
        assert_eq!(second["usage"]["input_tokens"], 2 * INPUT, "{way}");
        assert_eq!(second["usage"]["output_tokens"], first["usage"]["output_tokens"], "{way}");

        // Once more from the first, and from the second.
        let branch =
            call(&mut server, json!({"prompt": "third", "continue_run": id(&first)})).await;
        let text = asked(&server);
        assert!(text.contains("Did ALPHA.") && !text.contains("BRAVO"), "{way}: {text}");
        assert_eq!(branch["thread_kept"], false);
        assert!(!server.runs().join(id(&branch)).join("thread.jsonl").exists());
        let third =
            call(&mut server, json!({"prompt": "third", "continue_run": id(&second)})).await;
        let text = asked(&server);
        assert!(text.contains("Did ALPHA.") && text.contains("Did BRAVO."), "{way}: {text}");
        assert_eq!(third["usage"]["input_tokens"], INPUT, "{way}");

        // Nothing of it is left in the container, which is the same one.
        let looked = call(&mut server, json!({"prompt": "look"})).await;
        assert_eq!(looked["container_id"], third["container_id"], "{way}");
        assert_eq!(server.read("found.txt"), "", "{way}");
        assert!(!asked(&server).contains("Did ALPHA."), "{way}");
        server.stop().await;
    }
}

#[tokio::test]
async fn a_thread_goes_on_the_other_way_and_with_the_model_that_it_had() {
    need_engine!();
    for (from, to) in [("exec", "app-server"), ("app-server", "exec")] {
        let mut server = Server::start(script(), options(from)).await;
        let first =
            call(&mut server, json!({"prompt": "first", "keep_thread": true, "model": "gpt-5.5"}))
                .await;
        server.close();
        server.ended().await;
        server.check_nothing_left().await;
        let (home, workspace) = (server.home, server.workspace);
        let mut server = Server::start_in(script(), options(to), home, workspace).await;
        let second =
            call(&mut server, json!({"prompt": "second", "continue_run": id(&first)})).await;
        let text = asked(&server);
        assert!(text.contains("Did ALPHA.") && text.contains("\"model\":\"gpt-5.5\""), "{text}");
        assert_eq!(second["usage"]["input_tokens"], 2 * INPUT, "{from} {to}: {second}");
        server.stop().await;
    }
}

#[tokio::test]
async fn the_thread_of_a_run_that_failed_or_ran_out_of_time_can_be_continued() {
    need_engine!();
    let fault = Fault {
        status: Some(401),
        message: Some("Incorrect API key provided: sk-abcdefgh12345678".into()),
        ..Fault::default()
    };
    for way in WAYS {
        let script = script()
            .with("slow", vec![Step::run("echo ALPHA-began"), Step::run("sleep 600")])
            .with("bad", vec![Step::run("echo ALPHA-began"), Step::Fault(fault.clone())]);
        let mut server = Server::start(script, options(way)).await;
        for (prompt, status) in [("slow", "timed_out"), ("bad", "failed")] {
            let arguments = json!({"prompt": prompt, "keep_thread": true, "timeout": 8});
            let broken = server.call("codex_run", arguments).await;
            assert_eq!(broken["status"], status, "{broken}");
            assert_eq!(broken["thread_kept"], true, "{way} {broken}");
            let thread = server.runs().join(id(&broken)).join("thread.jsonl");
            let thread = std::fs::read_to_string(thread).unwrap();
            assert!(!thread.contains("sk-abcdefgh"), "{thread}");
            let went_on =
                call(&mut server, json!({"prompt": "third", "continue_run": id(&broken)})).await;
            let text = asked(&server);
            assert!(text.contains("ALPHA-began") && text.contains(prompt), "{way}: {text}");
            assert_eq!(went_on["usage"]["input_tokens"], INPUT, "{way} {went_on}");
        }
        server.stop().await;
    }
}

#[tokio::test]
async fn a_run_that_cannot_be_continued_is_named_before_anything_starts() {
    need_engine!();
    let home = tempfile::TempDir::new().unwrap();
    let (one, two) = (home.path().join("one"), home.path().join("two"));
    make_workspace(&one);
    make_workspace(&two);
    let script = script().with("long", vec![Step::run("sleep 600")]);
    let options = options("exec")
        .set("workspace", format!("path = {one:?}"))
        .set("workspace", format!("allowed = [{one:?}, {two:?}]"));
    let mut server = Server::start_in(script, options, home, one).await;
    let kept = call(&mut server, json!({"prompt": "first", "keep_thread": true})).await;
    let other = call(&mut server, json!({"prompt": "third"})).await;
    let gone = call(&mut server, json!({"prompt": "first", "keep_thread": true})).await;
    std::fs::remove_dir_all(server.runs().join(id(&gone))).unwrap();
    let slim = call(&mut server, json!({"prompt": "first", "keep_thread": true})).await;
    for file in ["thread.json", "thread.jsonl"] {
        std::fs::remove_file(server.runs().join(id(&slim)).join(file)).unwrap();
    }
    let (running, answer) = server.begin_call("codex_run", json!({"prompt": "long"})).await;
    server.stage("Running sleep 600").await;
    let known = |entry: &std::fs::DirEntry| {
        let ids = [&kept, &other, &slim].map(id);
        !ids.contains(&entry.file_name().to_str().unwrap())
    };
    let runs = || std::fs::read_dir(server.runs()).unwrap().flatten();
    let long = runs().find(known).unwrap().file_name().into_string().unwrap();
    let folders = runs().count();
    let asked_before = server.model.as_ref().unwrap().requests().len();
    for (run, repo, want) in [
        ("../../etc", None, "is no run id"),
        (id(&gone), None, "or no more"),
        (id(&slim), None, "is no longer kept"),
        (id(&other), None, "was not kept"),
        (&*long, None, "has not ended"),
        (id(&kept), Some(two.to_str().unwrap()), "was on the workspace"),
    ] {
        let arguments = json!({"prompt": "second", "continue_run": run, "repo": repo});
        let refused = server.call("codex_run", arguments).await;
        assert_eq!(refused["error_kind"], "invalid_argument", "{refused}");
        assert_eq!(refused["run_id"], Value::Null, "{refused}");
        let error = refused["error"].as_str().unwrap();
        assert!(error.contains(want), "{error}");
    }
    assert_eq!(std::fs::read_dir(server.runs()).unwrap().count(), folders);
    assert_eq!(server.model.as_ref().unwrap().requests().len(), asked_before);
    server
        .send(&json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": running}}))
        .await;
    drop(answer);
    server.stop().await;
}

#[tokio::test]
async fn a_run_that_tampers_with_its_thread_loses_the_thread_alone() {
    need_engine!();
    let find = "f=$(find ~/.codex/sessions -name 'rollout-*.jsonl'); test -f \"$f\"";
    let done = || Step::Say("Done.".into());
    let script = script()
        .with("link", vec![Step::run(format!("{find}; rm $f; ln -s /etc/passwd $f")), done()])
        .with("pipe", vec![Step::run(format!("{find}; rm $f; mkfifo $f")), done()])
        .with("huge", vec![Step::run(format!("{find}; truncate -s 1T $f")), done()])
        .with(
            "other",
            vec![
                Step::run(format!("{find}; sed -i s/$(basename $f .jsonl | tail -c 37)/x/g $f")),
                done(),
            ],
        );
    let mut server = Server::start(script, options("app-server")).await;
    for prompt in ["link", "pipe", "huge", "other"] {
        // Codex itself waits at the pipe, and for what is huge.
        let arguments = json!({"prompt": prompt, "keep_thread": true, "timeout": 8});
        let result = server.call("codex_run", arguments).await;
        if ["link", "other"].contains(&prompt) {
            assert_eq!(result["success"], true, "{prompt} {result}");
        }
        assert_eq!(result["thread_kept"], false, "{prompt} {result}");
        let notes = result["notes"].to_string();
        assert!(notes.contains("the thread was not kept, because"), "{prompt} {result}");
        let folder = server.runs().join(id(&result));
        assert!(!folder.join("thread.jsonl").exists() && !folder.join("thread.json").exists());
    }
    server.stop().await;
}
