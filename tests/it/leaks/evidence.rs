//! Everything about a server and its containers, gathered in one directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::search::Searcher;
use crate::support::Server;
use crate::support::docker::containers_of;

/// Environment, command line and memory of every process in a container that the user it runs as
/// may read, as a tar stream.
const PROCESSES: &str = r#"
import io, os, re, sys, tarfile
out = tarfile.open(fileobj=sys.stdout.buffer, mode="w|")
def add(name, data):
    info = tarfile.TarInfo(name); info.size = len(data); out.addfile(info, io.BytesIO(data))
for pid in os.listdir("/proc"):
    if not pid.isdigit() or int(pid) == os.getpid(): continue
    try:
        who = open(f"/proc/{pid}/comm").read().strip().replace("/", "_") + "-" + pid
        add("environ/" + who, open(f"/proc/{pid}/environ", "rb").read())
        add("argv/" + who, open(f"/proc/{pid}/cmdline", "rb").read())
        memory = open(f"/proc/{pid}/mem", "rb", 0)
        data = bytearray()
        for line in open(f"/proc/{pid}/maps"):
            match = re.match(r"([0-9a-f]+)-([0-9a-f]+) rw", line)
            if not match: continue
            at, end = (int(x, 16) for x in match.groups())
            while at < end and len(data) < 1 << 30:
                size = min(end - at, 1 << 20)
                try:
                    memory.seek(at); part = memory.read(size)
                    if part.count(0) != len(part): data += part
                except (OSError, ValueError): pass
                at += size
        add("memory/" + who, bytes(data))
    except (FileNotFoundError, ProcessLookupError, PermissionError): pass
out.close()
"#;

/// Whether a program may read the memory of another of the same user.
pub(super) fn memory_is_readable() -> bool {
    let scope = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope");
    scope.is_ok_and(|scope| scope.trim() == "0") || !Path::new("/proc/sys/kernel/yama").exists()
}

/// The writable places of a container.
const WRITABLE: &str = "app cache home tmp run dev/shm etc";

/// Gathers into `to` what there is now: what the server said and wrote, what can be seen of it on
/// this machine, and of its containers all that can be seen from outside and inside. What came with
/// the image is searched in place by the searcher `image`, and its findings are put there.
pub(super) fn gather(server: &Server, image: Option<&Searcher>, to: &Path) {
    write(to.join("mcp"), server.said.lock().join("\n").as_bytes());
    processes_of_the_host(server.pid, to);
    let state = server.home.path();
    for name in ["runs", "state", "server.log", "tmp", "git", "cli"] {
        copy(&state.join(name), &to.join(name));
    }
    for line in containers_of(server.pid) {
        let id = line.split(' ').next().unwrap();
        gather_container(id, image, &to.join("container"));
    }
}

fn gather_container(id: &str, image: Option<&Searcher>, to: &Path) {
    write(to.join(format!("inspect-{id}")), &docker(&["inspect", id], ""));
    write(to.join(format!("top-{id}")), &docker(&["top", id, "-eo", "pid,args"], ""));
    let filter = format!("container={id}");
    let events = ["events", "--since", "1h", "--until", "0s", "--filter", &filter];
    write(to.join(format!("events-{id}")), &docker(&events, ""));
    // Root here has no capability to read what is another's, so each reads its own.
    let root = ["exec", "-i", "-u", "0", id];
    for user in ["0", "1000"] {
        let read = ["exec", "-i", "-u", user, id, "python3", "-c", PROCESSES];
        unpack(&docker(&read, ""), &to.join("process"));
    }
    let tar = format!("cd / && tar -cf - {WRITABLE} 2>/dev/null; true");
    unpack(&docker(&[&root[..], &["sh", "-c", &tar]].concat(), ""), &to.join("file"));
    let Some(searcher) = image else { return };
    // The rest of the file system, where nothing is compressed but what came with the image.
    let grep = "LC_ALL=C grep -raoFHZ -D skip --exclude-dir=proc --exclude-dir=sys -f - /; \
                test $? -lt 2 || true";
    let found = docker(&[&root[..], &["sh", "-c", grep]].concat(), &searcher.lines());
    for (path, _) in searcher.told(&found) {
        let path = path.trim_start_matches('/');
        if !to.join("file").join(path).exists() {
            write(to.join("file").join(path), &found);
        }
    }
}

/// Command lines of all processes, which everybody may read, and the environment of the server's
/// children.
fn processes_of_the_host(server: u32, to: &Path) {
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let read = |name: &str| fs::read(entry.path().join(name)).unwrap_or_default();
        write(to.join(format!("host-argv/{pid}")), &read("cmdline"));
        let stat = String::from_utf8_lossy(&read("stat")).into_owned();
        let parent = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1));
        if parent == Some(&server.to_string()) {
            write(to.join(format!("child-environ/{pid}")), &read("environ"));
        }
    }
}

pub(super) fn docker(arguments: &[&str], stdin: &str) -> Vec<u8> {
    use std::io::Write;
    let mut child = Command::new("docker")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "docker {arguments:?}: {output:?}");
    output.stdout
}

fn unpack(tar: &[u8], to: &Path) {
    use std::io::Write;
    fs::create_dir_all(to).unwrap();
    let mut child = Command::new("tar")
        .args(["-xf", "-", "--no-same-owner", "--no-same-permissions"])
        .current_dir(to)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(tar).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

pub(super) fn write(path: PathBuf, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

fn copy(from: &Path, to: &Path) {
    if from.exists() {
        let status = Command::new("cp").arg("-a").args([from, to]).status().unwrap();
        assert!(status.success());
    }
}
