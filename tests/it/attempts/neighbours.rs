//! Other runs: those before in the same container, and those at the same time in another.

use std::time::{Duration, Instant};

use mcp_codex_orchestrator::model::scripted::{Script, Step};
use serde_json::json;

use super::{PRELUDE, in_python, options, restore, script, stop};
use crate::need_engine;
use crate::support::{PATIENCE, Server};

/// Puts a secret into each place where it could stay or be met.
const PLANT: &str = r#"
SECRET = 'secret-of-%s' % 'another-run'
for place in ('/app', '/app/target', '/cache', '/cache/pip', '/tmp', '/var/tmp', '/dev/shm', '/home/codex', '/home/codex/.codex', '/home/codex/.local/bin', '/dev/mqueue'):
    try:
        os.makedirs(place, exist_ok=True)
        open(place + '/secret', 'w').write(SECRET)
    except OSError as error:
        print(place, error)
for path in ('/home/codex/.bashrc', '/home/codex/.profile', '/home/codex/.gitconfig', '/home/codex/.codex/config.toml', '/home/codex/.codex/auth.json', '/home/codex/.ssh/config'):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    open(path, 'a').write('\n# ' + SECRET + '\n')
libc.shmat.restype = ctypes.c_void_p
shm = libc.shmget(0x5ec2e7, ctypes.c_size_t(4096), 0o1666)
ctypes.memmove(libc.shmat(shm, None, 0), SECRET.encode(), len(SECRET))
queue = libc.msgget(0x5ec2e7, 0o1666)
libc.semget(0x5ec2e7, 1, 0o1666)
abstract = socket.socket(socket.AF_UNIX)
abstract.bind('\0secret')
abstract.listen()
tcp = socket.socket()
tcp.bind(('127.0.0.1', 7777))
tcp.listen()
os.system('git -C /app config user.name ' + SECRET)
"#;

/// Looks for it everywhere.
const LOOK: &str = r#"
SECRET = ('secret-of-%s' % 'another-run').encode()
found = []
for top in ('/app', '/cache', '/home', '/tmp', '/var/tmp', '/run', '/dev', '/root', '/srv', '/opt/codex/home-template'):
    for directory, names, files in os.walk(top):
        for name in names + files:
            path = os.path.join(directory, name)
            if name == 'secret':
                found.append(path)
            try:
                if stat.S_ISREG(os.lstat(path).st_mode) and SECRET in open(path, 'rb').read():
                    found.append(path)
            except OSError:
                pass
for pid in os.listdir('/proc'):
    if pid.isdigit():
        for name in ('environ', 'cmdline'):
            try:
                if SECRET in open('/proc/%s/%s' % (pid, name), 'rb').read():
                    found.append((pid, name))
            except OSError:
                pass
for get in (lambda: libc.shmget(0x5ec2e7, ctypes.c_size_t(0), 0), lambda: libc.msgget(0x5ec2e7, 0), lambda: libc.semget(0x5ec2e7, 0, 0)):
    if get() != -1:
        found.append('System V')
for kind in ('shm', 'msg', 'sem'):
    found += open('/proc/sysvipc/' + kind).read().split('\n')[1:-1]
s = socket.socket(socket.AF_UNIX)
if s.connect_ex('\0secret') == 0:
    found.append('abstract socket')
if socket.socket().connect_ex(('127.0.0.1', 7777)) == 0:
    found.append('port')
print('uids', sorted({os.stat('/proc/' + p).st_uid for p in os.listdir('/proc') if p.isdigit()}))
print('sleepers', sum(1 for p in os.listdir('/proc') if p.isdigit() and open('/proc/%s/comm' % p).read() == 'sleep\n'))
print('found', found)
"#;

fn steps(then: &str) -> Script {
    let plant = in_python(&format!("{PRELUDE}\n{PLANT}\n{then}"), "said.txt");
    let look = in_python(&format!("{PRELUDE}\n{LOOK}"), "looked.txt");
    script(vec![Step::run(plant), Step::Say("Planted.".into())])
        .with("Look", vec![Step::run(look), Step::Say("Looked.".into())])
}

#[tokio::test]
async fn the_run_before_in_the_same_container_left_nothing() {
    need_engine!();
    let stays = "subprocess.Popen(['setsid', 'sleep', '1000'])";
    let mut server = Server::start(steps(stays), options()).await;
    server.ready().await;
    let planted = server.run("Plant it").await;
    assert_eq!(planted["status"], "completed", "{planted}");
    assert_eq!(server.read("secret"), "secret-of-another-run");
    restore(&server);
    server.ready().await;
    let looked = server.run("Look for it").await;
    // What it built in an ignored directory is there for the same workspace, as is promised.
    let found = server.read("looked.txt");
    assert_eq!(looked["container_id"], planted["container_id"], "{}", server.log());
    let kept = "found ['/app/target/secret', '/app/target/secret']\n";
    assert_eq!(found, format!("uids [0, 1000]\nsleepers 0\n{kept}"));
    stop(server).await;
}

#[tokio::test]
async fn a_run_at_the_same_time_in_another_container_is_out_of_reach() {
    need_engine!();
    let stays = "open('/app/planted', 'w')\nsubprocess.Popen(['sleep', '1000']).wait()";
    let script = steps(stays);
    let options = options().set("container", "cpus = 0.0");
    let options = crate::support::Options {
        config: options
            .config
            .into_iter()
            .filter(|(section, _)| *section != "pool")
            .chain([("pool", "max_size = 2\nmin_idle = 2".to_owned())])
            .collect(),
        ..options
    };
    let mut server = Server::start(script, options).await;
    let began = Instant::now();
    while server.call("codex_pool_status", json!({})).await["idle"] != 2 {
        assert!(began.elapsed() < PATIENCE, "{}", server.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (id, planting) = server.begin_call("codex_run", json!({"prompt": "Plant it"})).await;
    // It has planted once its program sleeps.
    let sleeps = || {
        let all = crate::support::docker::containers_of(server.pid);
        all.iter().any(|container| {
            let id = container.split_whitespace().next().unwrap();
            let top = std::process::Command::new("docker").args(["top", id]).output().unwrap();
            String::from_utf8_lossy(&top.stdout).contains("sleep 1000")
        })
    };
    while !sleeps() {
        assert!(began.elapsed() < PATIENCE, "{}", server.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let looked = server.run("Look for it").await;
    assert_eq!(looked["status"], "completed", "{looked}");
    assert_eq!(server.read("looked.txt"), "uids [0, 1000]\nsleepers 0\nfound []\n");
    server
        .send(&json!({"jsonrpc": "2.0", "method": "notifications/cancelled",
                      "params": {"requestId": id}}))
        .await;
    drop(planting);
    stop(server).await;
}
