//! The main job: a change made by the real Codex arrives in the workspace.

use std::os::unix::fs::PermissionsExt;

use mcp_codex_orchestrator::model::scripted::{Script, Step};
use serde_json::{Value, json};

use crate::need_engine;
use crate::support::{Options, Server, git, tree};

#[tokio::test]
async fn codex_changes_the_workspace_in_a_container_that_was_waiting() {
    need_engine!();
    let mut server = Server::start(Script::builtin(), Options::default()).await;
    server.ready().await;
    let result = server.run("Create a hello.py file that prints 'Hello, World!'").await;
    assert_eq!(result["success"], true, "{result}\n{}", server.log());
    assert_eq!(result["exit_code"], 0);
    assert_eq!(result["status"], "completed");
    assert_eq!(result["changes_state"], "applied");
    assert_eq!(result["files_changed"], json!(["hello.py"]));
    assert_eq!(result["warm"], true);
    assert_eq!(result["container_id"].as_str().unwrap().len(), 12);
    assert!(result["usage"]["input_tokens"].as_u64() > Some(0));
    let timings = &result["timings_ms"];
    for phase in
        ["queue", "checkout", "send", "first_request", "codex", "collect", "apply", "total"]
    {
        assert!(timings[phase].is_number(), "{phase} is missing in {timings}");
    }
    let run = std::process::Command::new("python3")
        .arg(server.workspace.join("hello.py"))
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&run.stdout).trim(), "Hello, World!");

    // The run is on record, whole.
    let folder = server.runs().join(result["run_id"].as_str().unwrap());
    for name in [
        "request.json",
        "events.jsonl",
        "stderr.log",
        "changes.tar",
        "changes.json",
        "diff.patch",
        "result.json",
    ] {
        assert!(folder.join(name).exists(), "{name} is missing");
    }
    assert_eq!(std::fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(server.log().matches("codex_run_completed").count(), 1);

    // The next run on the same workspace gets the same container, clean.
    server.ready().await;
    let again = server.run("Create a hello.py file that prints 'Hello, World!'").await;
    assert_eq!(again["success"], true, "{again}");
    assert_eq!(again["changes_state"], "none");
    server.close();
    let took = server.ended().await;
    server.check_nothing_left().await;
    // The log tells of the pool what the tool does.
    let log = server.log();
    let told = log.lines().rev().find_map(|line| line.split_once("codex_pool_status "));
    let told: Value = serde_json::from_str(told.unwrap().1).unwrap();
    assert!(told["hits"].as_u64() >= Some(1), "{told}");
    assert_eq!(told["disk"]["budget"], json!(20_u64 << 30), "{told}");
    assert!(took.as_secs() < 2, "the server took {took:?} to end");
}

#[tokio::test]
async fn every_kind_of_change_arrives() {
    need_engine!();
    let script = Script::always(vec![
        Step::run(
            "rm README.md && mkdir -p deep/er empty && echo new > deep/er/file && \
             chmod +x src/lib.rs && ln -s src/lib.rs link && \
             printf 'x' > \"$(printf 'odd\\377name')\" && rm -r old && mkdir target && \
             head -c 100000 /dev/zero > target/big && rm swap && mkdir swap && echo in > swap/in",
        ),
        Step::Say("Done.".into()),
    ]);
    let home = tempfile::TempDir::new().unwrap();
    let workspace = home.path().join("project");
    crate::support::make_workspace(&workspace);
    std::fs::create_dir_all(workspace.join("old/er")).unwrap();
    std::fs::write(workspace.join("old/er/file"), "old").unwrap();
    std::fs::write(workspace.join("swap"), "a file").unwrap();
    let mut server = Server::start_in(script, Options::default(), home, workspace).await;
    let result = server.run("change everything").await;
    assert_eq!(result["changes_state"], "applied", "{result}\n{}", server.log());
    let tree = tree(&server.workspace);
    let has = |path: &str| tree.contains_key(std::path::Path::new(path));
    assert!(!has("README.md") && !has("old") && !has("old/er/file"));
    assert_eq!(tree[std::path::Path::new("deep/er/file")], b"new\n");
    assert_eq!(tree[std::path::Path::new("empty")], b"directory");
    assert_eq!(tree[std::path::Path::new("link")], b"src/lib.rs");
    assert_eq!(tree[std::path::Path::new("swap/in")], b"in\n");
    assert!(!has("target"), "what git ignores stays in the container");
    assert_eq!(result["ignored_new"], json!([{"path": "target/", "bytes": 100_000, "kept": true}]));
    let odd = std::os::unix::ffi::OsStrExt::as_bytes(std::ffi::OsStr::new("odd"));
    assert!(tree.keys().any(|path| path.as_os_str().as_encoded_bytes().starts_with(odd)));
    let mode = std::fs::metadata(server.workspace.join("src/lib.rs")).unwrap().permissions().mode();
    assert_eq!(mode & 0o111, 0o111);
    server.stop().await;
}

#[tokio::test]
async fn git_works_in_the_container_and_is_as_it_was_on_the_host() {
    need_engine!();
    let script = Script::always(vec![
        Step::run("git status --short > status.txt; git log --oneline | wc -l >> status.txt"),
        Step::Say("Done.".into()),
    ]);
    let mut server = Server::start(script, Options::default()).await;
    let before = git(&server.workspace, &["rev-parse", "HEAD"]);
    let result = server.run("look at the history").await;
    assert_eq!(result["success"], true, "{result}\n{}", server.log());
    // Only the file that the shell itself had just made is new.
    assert_eq!(server.read("status.txt"), "?? status.txt\n1\n");
    assert_eq!(git(&server.workspace, &["rev-parse", "HEAD"]), before);
    server.stop().await;
}

#[tokio::test]
async fn env_vars_reach_the_commands_and_a_working_dir_is_where_they_run() {
    need_engine!();
    let script = Script::always(vec![
        Step::run("echo \"$GREETING from $(pwd)\" > said.txt"),
        Step::Say("Done.".into()),
    ]);
    let mut server = Server::start(script, Options::default()).await;
    let result = server
        .call(
            "codex_run",
            json!({"prompt": "greet", "working_dir": "src",
                   "env_vars": {"GREETING": "it's \"me\" $HOME"}}),
        )
        .await;
    assert_eq!(result["success"], true, "{result}\n{}", server.log());
    assert_eq!(server.read("src/said.txt"), "it's \"me\" $HOME from /app/src\n");
    // The values may be secrets, so the record has the names alone.
    let folder = server.runs().join(result["run_id"].as_str().unwrap());
    let request = std::fs::read_to_string(folder.join("request.json")).unwrap();
    assert!(request.contains("GREETING") && !request.contains("it's"), "{request}");
    server.stop().await;
}

#[tokio::test]
async fn the_container_has_no_network_no_credential_and_no_privilege() {
    need_engine!();
    let secret = "sk-test-0123456789abcdef0123456789abcdef";
    let script = Script::always(vec![
        Step::run(
            "env > env.txt; cat /proc/*/environ 2>/dev/null | tr '\\0' '\\n' >> env.txt; \
             grep -rs sk-test ~/.codex >> env.txt; id -u > id.txt; \
             grep -E 'CapEff|CapPrm|NoNewPrivs|Seccomp:' /proc/self/status >> id.txt; \
             ls /sys/class/net > net.txt; (curl --noproxy '*' -m 2 -s http://1.1.1.1 && echo out) >> net.txt; \
             (touch /usr/x 2>/dev/null && echo writable) >> net.txt; \
             (unshare -Ur true 2>/dev/null && echo unshared) >> net.txt; true",
        ),
        Step::Say("Done.".into()),
    ]);
    let options =
        Options::default().env("OPENAI_API_KEY", secret).set("model", "hosted_tools = []");
    let mut server = Server::start(script, options).await;
    let result = server.run("look around").await;
    assert_eq!(result["success"], true, "{result}\n{}", server.log());
    assert!(!server.read("env.txt").contains("sk-test"), "{}", server.read("env.txt"));
    let id = server.read("id.txt");
    assert!(id.starts_with("1000\n"), "{id}");
    assert!(id.contains("CapEff:\t0000000000000000") && id.contains("NoNewPrivs:\t1"), "{id}");
    assert!(id.contains("Seccomp:\t2"), "{id}");
    assert_eq!(server.read("net.txt"), "lo\n");
    server.stop().await;
}
