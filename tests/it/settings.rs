//! Settings that change while the server runs.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use mcp_codex_orchestrator::model::scripted::{Script, Step};
use serde_json::{Value, json};

use crate::need_engine;
use crate::support::{Options, PATIENCE, Server, await_answer, requests};

fn file(server: &Server) -> PathBuf {
    server.home.path().join("config.toml")
}

/// Adds a section to the settings, as an editor saves: by rename. None of `write_config`'s may be
/// named twice.
fn add(server: &Server, section: &str) {
    let text = fs::read_to_string(file(server)).unwrap();
    let new = file(server).with_extension("new");
    fs::write(&new, format!("{text}\n{section}\n")).unwrap();
    fs::rename(new, file(server)).unwrap();
}

async fn until(server: &mut Server, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let began = Instant::now();
    loop {
        let status = server.call("codex_pool_status", json!({})).await;
        if holds(&status) {
            return status;
        }
        assert!(began.elapsed() < PATIENCE, "never {what}: {status}\n{}", server.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn sizes_and_times_are_in_force_at_once() {
    need_engine!();
    let options = Options::default().set("server", "log = \"info\"");
    let mut server = Server::start(Script::builtin(), options).await;
    server.ready().await;
    let long = json!({"prompt": "p", "timeout": 7200});
    let refused = server.call("codex_run", long.clone()).await;
    assert_eq!(refused["error_kind"], "invalid_argument", "{refused}");
    add(&server, "[pool]\nmin_idle = 2\nmax_size = 3\n[run]\nmax_timeout = \"3h\"");
    let status = until(&mut server, "two idle", |s| s["idle"] == 2).await;
    assert_eq!((&status["max_size"], &status["destroyed"]), (&json!(3), &json!({})), "{status}");
    let run = server.call("codex_run", long).await;
    assert_eq!(run["success"], true, "{run}");
    let listed = server.request("tools/list", json!({})).await;
    let schema = &listed["result"]["tools"][0]["inputSchema"]["properties"]["timeout"];
    assert_eq!(schema["maximum"], 10_800, "{schema}");
    server.stop().await;
}

#[tokio::test]
async fn a_smaller_pool_gives_up_what_waits_and_no_run() {
    need_engine!();
    let script =
        Script::always(vec![Step::run("echo x > x"), Step::Wait(1500), Step::Say("Done.".into())]);
    let options = Options::default().set("pool", "min_idle = 2\nmax_size = 3");
    let mut server = Server::start(script, options).await;
    until(&mut server, "two idle", |s| s["idle"] == 2).await;
    let (_, answer) = server.begin_call("codex_run", json!({"prompt": "p"})).await;
    requests(&server, 2).await;
    let text = fs::read_to_string(file(&server)).unwrap();
    let text = text.replace("min_idle = 2\nmax_size = 3", "min_idle = 1\nmax_size = 1");
    fs::write(file(&server), text).unwrap();
    let status = until(&mut server, "one in all", |s| {
        s["max_size"] == 1 && s["idle"] == 0 && s["starting"] == 0
    })
    .await;
    assert_eq!(status["leased"], 1, "{status}");
    let answer = await_answer(answer, server.home.path()).await;
    assert_eq!(answer["result"]["structuredContent"]["changes_state"], "applied", "{answer}");
    until(&mut server, "idle again", |s| s["idle"] == 1 && s["resetting"] == 0).await;
    server.stop().await;
}

#[tokio::test]
async fn other_limits_replace_what_waits_and_leases_end_in_peace() {
    need_engine!();
    let script =
        Script::always(vec![Step::run("echo x > x"), Step::Wait(1500), Step::Say("Done.".into())]);
    let mut server = Server::start(script, Options::default().set("pool", "max_size = 2")).await;
    let first = server.ready().await;
    assert_eq!(first["idle"], 1);
    let (_, answer) = server.begin_call("codex_run", json!({"prompt": "p"})).await;
    requests(&server, 2).await;
    until(&mut server, "another idle", |s| s["idle"] == 1).await;
    add(&server, "[container]\npids = 321");
    // The idle one at once, the leased one when its run has ended.
    until(&mut server, "replaced", |s| {
        s["destroyed"]["outdated"].as_u64() >= Some(1) && s["idle"] == 1
    })
    .await;
    let answer = await_answer(answer, server.home.path()).await;
    let run = &answer["result"]["structuredContent"];
    assert_eq!(
        (&run["success"], &run["changes_state"]),
        (&json!(true), &json!("applied")),
        "{run}"
    );
    until(&mut server, "both replaced", |s| s["destroyed"]["outdated"] == 2).await;
    server.ready().await;
    let limit = server.call("codex_run", json!({"prompt": "p"})).await;
    assert_eq!(limit["success"], true, "{limit}");
    let format = "{{.HostConfig.PidsLimit}}";
    for container in crate::support::docker::containers_of(server.pid) {
        let id = container.split(' ').next().unwrap();
        let inspected = std::process::Command::new("docker")
            .args(["inspect", "--format", format, id])
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&inspected.stdout).trim(), "321");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_bad_file_changes_nothing_and_says_why() {
    need_engine!();
    let mut server = Server::start(Script::builtin(), Options::default()).await;
    server.ready().await;
    let good = fs::read_to_string(file(&server)).unwrap();
    add(&server, "[pool]\nmax_sice = 3");
    let status = until(&mut server, "refused", |s| !s["settings_error"].is_null()).await;
    let error = status["settings_error"].as_str().unwrap();
    assert!(
        error.contains("max_sice") && error.contains("did you mean \"pool.max_size\""),
        "{error}"
    );
    assert_eq!((&status["max_size"], &status["destroyed"]), (&json!(4), &json!({})), "{status}");
    let run = server.run("hello.py").await;
    assert_eq!(run["success"], true, "{run}");
    // Half a file, as while it is written.
    fs::write(file(&server), &good[..good.len() / 2]).unwrap();
    until(&mut server, "refused again", |s| s["settings_error"] != status["settings_error"]).await;
    // SIGHUP reads a file that is right again, too.
    fs::write(file(&server), good).unwrap();
    let pid = rustix::process::Pid::from_raw(i32::try_from(server.pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    let status = until(&mut server, "taken", |s| s["settings_error"].is_null()).await;
    assert_eq!(status["max_size"], 4);
    server.stop().await;
}
