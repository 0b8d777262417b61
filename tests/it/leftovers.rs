//! What one run leaves in its container is not there for the next.

use mcp_codex_orchestrator::model::scripted::{Script, Step};
use serde_json::{Value, json};

use crate::need_engine;
use crate::support::{Options, Server, make_workspace};

/// Leaves something in every place that a run can write to, and processes that try to stay.
const PLANT: &str = "\
    mkdir -p ~/planted ~/.codex/planted /tmp/planted/deep /dev/shm/planted /cache/planted && \
    echo secret | tee ~/planted/x /tmp/planted/deep/x /dev/shm/planted/x /cache/planted/x \
        /app/planted.tmp /dev/mqueue/planted > /dev/null 2>&1; \
    chmod 000 /tmp/planted; mkfifo /tmp/fifo; ipcmk -M 4096 -Q -S 1; \
    python3 -c 'import socket; s = socket.socket(socket.AF_UNIX); s.bind(\"/tmp/planted.sock\")'; \
    (setsid sh -c 'trap \"\" TERM INT HUP; exec -a planted sleep 600' > /dev/null 2>&1 &); \
    (setsid sh -c 'exec 9> /tmp/held; rm /tmp/held; exec sleep 600' > /dev/null 2>&1 &); true";

const LOOK: &str = "\
    (find ~ /tmp /dev/shm /cache /app /run /var/tmp /dev/mqueue -name '*plant*' -o -name fifo; \
     ps -eo args | grep -E 'planted|sleep 600' | grep -v grep; \
     tail -q -n +2 /proc/sysvipc/shm /proc/sysvipc/msg /proc/sysvipc/sem) \
    2> /dev/null > found.txt; true";

#[tokio::test]
async fn the_next_run_finds_nothing_of_the_last_one() {
    need_engine!();
    let done = || Step::Say("Done.".into());
    let script = Script::always(vec![done()])
        .with("plant", vec![Step::run(PLANT), done()])
        .with("look", vec![Step::run(LOOK), done()]);
    let mut server = Server::start(script, Options::default().set("pool", "max_size = 1")).await;
    server.write(".gitignore", "planted.tmp\n");
    let planted = server.run("plant").await;
    assert_eq!(planted["success"], true, "{planted}\n{}", server.log());
    let looked = server.run("look").await;
    assert_eq!(looked["success"], true, "{looked}\n{}", server.log());
    assert_eq!(server.read("found.txt"), "");
    // It was the same container, reset; not a new one.
    assert_eq!(looked["container_id"], planted["container_id"], "{}", server.log());
    server.stop().await;
}

/// A server with two workspaces that plants and looks, and the second workspace.
async fn two_workspaces(options: Options) -> (Server, String) {
    let done = || Step::Say("Done.".into());
    let build = "mkdir -p target && echo built > target/planted && mkdir -p /tmp/planted";
    let fill = "head -c 1G /dev/zero > /dev/shm/planted; sleep 600";
    let mark = "python3 -c 'import os; os.setxattr(\"/app\", \"user.planted\", b\"x\")'";
    let script = Script::always(vec![done()])
        .with("plant", vec![Step::run(format!("{PLANT}; {build}")), done()])
        .with("fill", vec![Step::run(fill), done()])
        .with("mark", vec![Step::run(mark), done()])
        .with("look", vec![Step::run(LOOK), done()]);
    let home = tempfile::TempDir::new().unwrap();
    let (one, two) = (home.path().join("one"), home.path().join("two"));
    for workspace in [&one, &two] {
        make_workspace(workspace);
        std::fs::write(workspace.join(".gitignore"), "planted.tmp\ntarget/\n").unwrap();
    }
    let two = two.display().to_string();
    let options = options
        .set("workspace", format!("path = {one:?}"))
        .set("workspace", format!("allowed = [{one:?}, {two:?}]"));
    (Server::start_in(script, options, home, one).await, two)
}

async fn run_in(server: &mut Server, prompt: &str, repo: &str) -> Value {
    let result = server.call("codex_run", json!({"prompt": prompt, "repo": repo})).await;
    assert_eq!(result["success"], true, "{result}\n{}", server.log());
    result
}

fn found(server: &Server, repo: &str) -> String {
    let path = std::path::Path::new(repo).join("found.txt");
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{error}\n{}", server.log()))
}

#[tokio::test]
async fn another_workspace_finds_nothing_and_the_same_one_its_build_state() {
    need_engine!();
    let (mut server, two) = two_workspaces(Options::default().set("pool", "max_size = 1")).await;
    let one = server.workspace.display().to_string();
    let planted = run_in(&mut server, "plant", &one).await;
    let again = run_in(&mut server, "look", &one).await;
    assert_eq!(again["container_id"], planted["container_id"], "{}", server.log());
    assert_eq!(found(&server, &one), "/app/target/planted\n");
    run_in(&mut server, "look", &two).await;
    assert_eq!(found(&server, &two), "");
    server.stop().await;
}

#[tokio::test]
async fn with_recycle_destroy_every_run_has_a_fresh_container() {
    need_engine!();
    let options = Options::default().set("pool", "max_size = 2\nrecycle = \"destroy\"");
    let (mut server, two) = two_workspaces(options).await;
    let one = server.workspace.display().to_string();
    let mut containers = std::collections::BTreeSet::new();
    for repo in [&one, &two, &one] {
        let planted = run_in(&mut server, "plant", repo).await;
        let looked = run_in(&mut server, "look", repo).await;
        assert_eq!(found(&server, repo), "");
        for result in [planted, looked] {
            containers.insert(result["container_id"].as_str().unwrap().to_owned());
        }
    }
    assert_eq!(containers.len(), 6);
    let status = server.call("codex_pool_status", json!({})).await;
    assert_eq!(status["destroyed"], json!({"policy": 6}), "{status}");
    server.stop().await;
}

#[tokio::test]
async fn what_cannot_be_proved_clean_is_destroyed_and_counted() {
    need_engine!();
    let (mut server, _) = two_workspaces(Options::default().set("pool", "max_size = 1")).await;
    let one = server.workspace.display().to_string();
    let marked = run_in(&mut server, "mark", &one).await;
    let looked = run_in(&mut server, "look", &one).await;
    assert_ne!(looked["container_id"], marked["container_id"]);
    let filled = server.run("fill").await;
    assert_eq!(filled["error_kind"], "disk_full", "{filled}\n{}", server.log());
    run_in(&mut server, "look", &one).await;
    let status = server.call("codex_pool_status", json!({})).await;
    assert_eq!(status["destroyed"], json!({"reset_not_proved": 1, "disk_full": 1}), "{status}");
    server.stop().await;
}
