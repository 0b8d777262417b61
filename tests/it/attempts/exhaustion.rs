//! Exhaustion: processes, memory, tmpfs, inodes, descriptors, output. Each has a bound, the keeper
//! and the server outlive it, and the next run is as ever.

use std::time::{Duration, Instant};

use mcp_codex_orchestrator::model::scripted::Step;
use serde_json::{Value, json};

use super::{Then, in_python, next_is_as_ever, options, restore, script, stop, undisturbed};
use crate::need_engine;
use crate::support::{Options, Server};

/// What the server may hold at most, in KiB, whatever a container does.
const LIMIT_KIB: u64 = 60 * 1024;

/// What the server has held at most so far, in KiB.
fn peak_kib(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid)).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Runs `command` in a run of at most `timeout` seconds; `judge` gives what must have become of the
/// container. Then an ordinary run must be as ever, and the server small.
async fn exhaust(
    command: &str,
    options: Options,
    timeout: u32,
    judge: impl Fn(&Server, &Value) -> Then,
) {
    let steps = vec![Step::run(command), Step::Say("Tried.".into())];
    let mut server = Server::start(script(steps), options.clone()).await;
    server.ready().await;
    let as_ever = undisturbed(options).await;
    let began = Instant::now();
    let attacked = server.call("codex_run", json!({"prompt": "Try it", "timeout": timeout})).await;
    let limit = Duration::from_secs(u64::from(timeout) + 20);
    assert!(began.elapsed() < limit, "{:?}: {attacked}", began.elapsed());
    let then = judge(&server, &attacked);
    restore(&server);
    next_is_as_ever(&mut server, &attacked, then, &as_ever).await;
    let peak = peak_kib(&server);
    assert!(peak < LIMIT_KIB, "the server held {peak} KiB");
    stop(server).await;
}

fn ended_as(attacked: &Value, kind: &str, what: &str) {
    assert_eq!(attacked["error_kind"], kind, "{attacked}");
    assert!(attacked["error"].as_str().unwrap().contains(what), "{attacked}");
    assert_ne!(attacked["changes_state"], "applied", "{attacked}");
}

#[tokio::test]
async fn a_fork_bomb_ends_at_the_limit_and_with_its_run() {
    need_engine!();
    // First as many processes as there may be, which stay; then a bomb in a shell beside them.
    let bomb = "python3 - <<'PY'
import os, time
try:
    while os.fork():
        pass
    time.sleep(1000)
except OSError as error:
    open('said.txt', 'w').write(str(error))
PY
bomb() { bomb | bomb & }; bomb 2>/dev/null; sleep 1";
    // Codex may or may not get the processes it needs to go on; it ends either way.
    exhaust(bomb, options(), 8, |server, attacked| match attacked["status"].as_str() {
        Some("timed_out") => Then::Destroyed("timed_out"),
        Some("completed") => {
            let said = server.read("said.txt");
            assert!(said.contains("Resource temporarily unavailable"), "{said}");
            Then::Reset
        }
        Some("failed") => Then::Reset,
        other => panic!("{other:?}: {attacked}"),
    })
    .await;
}

#[tokio::test]
async fn memory_ends_at_the_limit_and_the_keeper_tells_it() {
    need_engine!();
    // Takes the memory, and lets the kernel choose Codex as well.
    let hog = in_python(
        "import os
for _ in range(8):
    if os.fork() == 0:
        held = []
        while True:
            held.append(bytearray(os.urandom(4096)) * 256)
os.wait()
for pid in os.listdir('/proc'):
    if pid.isdigit() and open(f'/proc/{pid}/comm').read().startswith('codex'):
        try:
            os.kill(int(pid), 9)
        except OSError:
            pass",
        "said.txt",
    );
    exhaust(&hog, options(), 30, |_, attacked| {
        ended_as(attacked, "out_of_memory", "over its container's memory");
        Then::Destroyed("out_of_memory")
    })
    .await;
}

#[tokio::test]
async fn shared_memory_that_nobody_holds_counts_and_is_removed() {
    need_engine!();
    let hog = in_python(
        "import ctypes
libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
while True:
    key = libc.shmget(0, ctypes.c_size_t(8 << 20), 0o1600)
    if key == -1:
        break
    at = libc.shmat(key, None, 0)
    ctypes.memset(at, 1, 8 << 20)
    libc.shmdt(ctypes.c_void_p(at))",
        "said.txt",
    );
    exhaust(&hog, options(), 30, |_, attacked| {
        // Which process the kernel ends is its choice: the program, or Codex as well.
        let seen = attacked["error_kind"] == "out_of_memory" || attacked["status"] == "completed";
        assert!(seen, "{attacked}");
        Then::Destroyed("out_of_memory")
    })
    .await;
}

#[tokio::test]
async fn a_full_tmpfs_ends_the_run() {
    need_engine!();
    for place in ["/tmp", "/home/codex", "/dev/shm"] {
        let fill = format!("head -c 1G /dev/zero > {place}/fill; sleep 20");
        exhaust(&fill, options(), 30, |_, attacked| {
            ended_as(attacked, "disk_full", place);
            Then::Destroyed("disk_full")
        })
        .await;
    }
}

#[tokio::test]
async fn inodes_that_are_used_up_end_the_run() {
    need_engine!();
    let fill = "cd /tmp; python3 -c \"\nimport os\nfor i in range(1000000):\n    os.mknod(f'f{i}')\n\"; sleep 20";
    exhaust(fill, options(), 30, |_, attacked| {
        ended_as(attacked, "disk_full", "/tmp");
        Then::Destroyed("disk_full")
    })
    .await;
}

#[tokio::test]
async fn more_than_may_come_back_does_not() {
    need_engine!();
    // A file of which nothing is on the disk, and one that is.
    let sparse = "truncate -s 1T sparse; head -c 3M /dev/urandom > large";
    let options = options().set("workspace", "max_bytes = \"2MiB\"");
    exhaust(sparse, options, 30, |server, attacked| {
        ended_as(attacked, "transfer_failed", "max_bytes");
        assert!(!server.workspace.join("large").exists());
        Then::Destroyed("transfer_failed")
    })
    .await;
}

#[tokio::test]
async fn more_names_than_may_come_back_do_not() {
    need_engine!();
    let many = "python3 -c \"\nimport os\nfor i in range(5000):\n    os.mknod('n' * 200 + str(i))\nfor i in range(3000):\n    os.mkdir('d'); os.chdir('d')\n\"";
    let options = options().set("workspace", "max_files = 1000");
    exhaust(many, options, 30, |server, attacked| {
        ended_as(attacked, "transfer_failed", "");
        assert!(!server.workspace.join("d").exists());
        Then::Destroyed("transfer_failed")
    })
    .await;
}

#[tokio::test]
async fn what_the_kernel_counts_besides_is_gone_with_the_run() {
    need_engine!();
    let take = in_python(
        "import ctypes, mmap, os, resource, select, socket, subprocess, sys
libc = ctypes.CDLL(None, use_errno=True)
def until_refused(make):
    kept = []
    try:
        while len(kept) < 20000:
            kept.append(make())
    except OSError as error:
        print(error)
    print(len(kept))
    return kept
keep = [
    until_refused(lambda: socket.socketpair()),
]
for made in keep[0]:
    made[0].close(); made[1].close()
until_refused(lambda: os.openpty())
os.closerange(3, 100000)
def check(answer):
    if answer == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return answer
until_refused(lambda: check(libc.msgget(0, 0o1777)))
until_refused(lambda: check(libc.semget(0, 100, 0o1777)))
until_refused(lambda: check(libc.inotify_init()))
for i in range(300):
    try:
        fd = os.open(f'/dev/mqueue/q{i}', os.O_CREAT | os.O_RDWR, 0o666)
    except OSError as error:
        print(error)
        break
subprocess.Popen(['sh', '-c', 'exec -a abandoned setsid sleep 1000'], start_new_session=True)
os.umask(0)",
        "said.txt",
    );
    exhaust(&take, options(), 30, |_, attacked| {
        assert_eq!(attacked["status"], "completed", "{attacked}");
        Then::Reset
    })
    .await;
}

#[tokio::test]
async fn a_flood_of_output_and_a_line_of_a_gibibyte_leave_the_server_small() {
    need_engine!();
    let flood = "head -c 1073741824 /dev/zero | tr '\\0' x; yes 'a line of a log' | head -c 104857600; \
                 yes error | head -c 104857600 >&2";
    exhaust(flood, options(), 60, |server, attacked| {
        assert_eq!(attacked["status"], "completed", "{attacked}");
        let folder = server.runs().join(attacked["run_id"].as_str().unwrap());
        for log in ["events.jsonl", "stderr.log"] {
            let bytes = std::fs::metadata(folder.join(log)).unwrap().len();
            assert!(bytes <= (1 << 20) + 4096, "{log} has {bytes} bytes");
        }
        Then::Reset
    })
    .await;
}
