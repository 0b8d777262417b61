//! What one run leaves in its container is not there for the next.

use mcp_codex_orchestrator::model::scripted::{Script, Step};

use crate::need_engine;
use crate::support::{Options, Server};

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
