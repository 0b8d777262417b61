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

#[tokio::test]
async fn a_network_that_is_opened_is_warned_of_each_time_and_only_then() {
    need_engine!();
    let warned = |server: &Server| server.log().matches("network.mode is \"bridge\"").count();
    let mut server = Server::start(Script::builtin(), Options::default()).await;
    let first = server.ready().await;
    assert!(first["warning"].is_null() && warned(&server) == 0, "{first}\n{}", server.log());
    let plain = fs::read_to_string(file(&server)).unwrap();
    add(&server, "[network]\nmode = \"bridge\"");
    until(&mut server, "the warning", |s| s["warning"].is_string()).await;
    assert_eq!(warned(&server), 1, "{}", server.log());
    // Other settings say nothing of it again.
    add(&server, "[pool]\nmax_size = 3");
    until(&mut server, "another size", |s| s["max_size"] == 3).await;
    assert_eq!(warned(&server), 1, "{}", server.log());
    fs::write(file(&server), &plain).unwrap();
    until(&mut server, "no warning", |s| s["warning"].is_null()).await;
    add(&server, "[network]\nmode = \"bridge\"");
    until(&mut server, "the warning again", |s| s["warning"].is_string()).await;
    assert_eq!(warned(&server), 2, "{}", server.log());
    server.stop().await;
}

#[tokio::test]
async fn what_a_repository_builds_is_kept_or_not_from_the_next_run_on_and_no_container_is_lost() {
    need_engine!();
    let build = "cat target/x > found.txt 2>/dev/null || echo none > found.txt; mkdir -p target; \
                 date +%N >> target/x";
    let script = Script::always(vec![Step::run(build), Step::Say("Built.".into())]);
    let server_options = "log = \"info\"\nshutdown_grace = \"30s\"";
    let options = Options::default().set("pool", "max_size = 1").set("server", server_options);
    let mut server = Server::start(script, options).await;
    server.write(".gitignore", "target/\n");
    let first = server.run("build").await;
    assert_eq!(first["ignored_new"][0]["kept"], true, "{first}\n{}", server.log());
    let status =
        until(&mut server, "what was built", |s| s["copies"][0]["kept"][0]["path"] == "target/")
            .await;
    let copies = &status["copies"][0];
    let path = server.workspace.canonicalize().unwrap();
    assert_eq!(copies["path"], path.to_str().unwrap(), "{status}");
    assert!(copies["last_used"].is_string() && copies["containers"] == 1, "{status}");
    assert!(status["disk"]["used"].as_u64() >= copies["kept"][0]["bytes"].as_u64(), "{status}");
    assert_eq!(status["disk"]["budget"], 20_u64 << 30, "{status}");
    let seen = server.log().matches("settings").count();
    // A link to the workspace is as good as its path.
    let link = server.home.path().join("link");
    std::os::unix::fs::symlink(&server.workspace, &link).unwrap();
    add(&server, &format!("[repo.{link:?}]\nkeep_ignored = false"));
    let began = Instant::now();
    while server.log().matches("settings").count() == seen {
        assert!(began.elapsed() < PATIENCE, "{}", server.log());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let second = server.run("build").await;
    assert!(second["ignored_new"][0]["kept"].is_null(), "{second}\n{}", server.log());
    assert_ne!(server.read("found.txt"), "none\n");
    let status = until(&mut server, "nothing of it", |s| s["copies"][0]["kept"].is_null()).await;
    assert_eq!(status["destroyed"], json!({}), "{status}");
    let third = server.run("build").await;
    assert_eq!(third["container_id"], first["container_id"], "{third}");
    assert_eq!(server.read("found.txt"), "none\n");
    server.stop().await;
}

#[tokio::test]
async fn what_the_user_drops_goes_from_the_containers_of_every_server() {
    need_engine!();
    let build = "cat target/x > found.txt 2>/dev/null || echo none > found.txt; mkdir -p target; \
                 date +%N >> target/x";
    let script = Script::always(vec![Step::run(build), Step::Say("Built.".into())]);
    let options = || {
        let server = "log = \"info\"\nshutdown_grace = \"30s\"";
        Options::default().set("pool", "max_size = 1").set("server", server)
    };
    let mut one = Server::start(script.clone(), options()).await;
    // The same state directory and the same workspace.
    let state = one.home.path().join("state");
    let shared = options().env("XDG_STATE_HOME", state.to_str().unwrap());
    let home = tempfile::TempDir::new().unwrap();
    let mut two = Server::start_in(script, shared, home, one.workspace.clone()).await;
    one.write(".gitignore", "target/\n");
    for server in [&mut one, &mut two] {
        let result = server.run("build").await;
        assert_eq!(result["success"], true, "{result}\n{}", server.log());
        until(server, "what was built", |s| s["copies"][0]["kept"][0]["path"] == "target/").await;
    }
    let drop_copies = |repo: PathBuf| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_mcp-codex-orchestrator"));
        command.env("XDG_STATE_HOME", &state).env("HOME", one.home.path());
        let output = command.args(["copies", "drop"]).arg(repo).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let elsewhere = one.home.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let nothing = format!("No container holds anything of {}.\n", elsewhere.display());
    assert_eq!(drop_copies(elsewhere), nothing);
    let workspace = one.workspace.clone();
    let said = drop_copies(workspace.clone());
    assert_eq!(said, format!("Dropped what 2 containers held of {}.\n", workspace.display()));
    assert_eq!(fs::read_dir(state.join("mcp-codex-orchestrator/drops")).unwrap().count(), 0);
    for server in [&mut one, &mut two] {
        let result = server.run("build").await;
        assert_eq!(result["success"], true, "{result}\n{}", server.log());
        assert_eq!(fs::read_to_string(workspace.join("found.txt")).unwrap(), "none\n");
    }
    one.stop().await;
    two.stop().await;
}
