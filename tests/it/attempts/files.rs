//! Files: what is not writable, and what a change set brings to the host.

use serde_json::Value;

use mcp_codex_orchestrator::model::scripted::Step;

use super::{
    Attempt, Then, attempt, check, command, group, next_is_as_ever, options, restore, script, stop,
    undisturbed,
};
use crate::need_engine;
use crate::support::{Server, tree};

const OUTSIDE: &[Attempt] = &[
    attempt("the root file system", "places = ['/', '/etc', '/usr', '/usr/local/bin', '/opt/codex', '/opt/codex/bin', '/var', '/var/lib', '/lib', '/root', '/home', '/srv', '/mnt', '/boot', '/bin', '/usr/share/codex-runner']
return each(lambda p=p: open(p + '/planted', 'w') for p in places)", "EROFS|EACCES|ENOENT"),
    attempt("what the next run starts from", "paths = ['/usr/local/bin/codex-keeper', '/usr/local/bin/codex', '/opt/codex/bin/codex', '/usr/bin/python3', '/bin/bash', '/etc/passwd', '/etc/ld.so.preload', '/etc/ld.so.cache', '/etc/profile', '/etc/gitconfig', '/etc/resolv.conf', '/etc/hosts', '/etc/hostname', '/opt/codex/home-template/config.toml']
return each(lambda p=p: os.open(p, os.O_WRONLY | os.O_CREAT) for p in paths)", "EROFS|EACCES|ENOENT"),
    attempt("remove and rename there", "return each([lambda: os.unlink('/usr/local/bin/codex'), lambda: os.rename('/usr/bin/git', '/usr/bin/got'), lambda: os.rmdir('/srv'), lambda: os.rename('/app', '/app2'), lambda: os.rename('/tmp', '/tmp2'), lambda: os.rmdir('/cache')])", "EROFS|EBUSY|EACCES"),
    attempt("/run and /dev", "return each(lambda p=p: open(p, 'w') for p in ('/run/planted', '/dev/planted', '/run/lock/planted', '/dev/pts/planted'))", "EACCES|ENOENT|EPERM"),
    attempt("modes and owners of root's places", "return each([lambda: os.chmod('/run', 0o777), lambda: os.chmod('/dev', 0o777), lambda: os.chmod('/home', 0o777), lambda: os.chown('/app', 0, 0), lambda: os.chown('/app/README.md', 1001, 1001), lambda: os.chmod('/tmp', 0o777), lambda: os.chmod('/dev/shm', 0o777), lambda: os.utime('/run')])", "EROFS|EPERM|EACCES"),
    attempt("hard links to root's files", "paths = ['/etc/shadow', '/etc/passwd', '/proc/1/environ', '/usr/bin/su', '/dev/null', '/opt/codex/bin/codex']
return each(lambda p=p, d=d: os.link(p, d + '/linked') for p in paths for d in ('/app', '/tmp', '/dev/shm', '/cache'))", "EXDEV|EPERM|EACCES"),
    attempt("a link followed for writing", "os.symlink('/etc/passwd', '/tmp/follow')
return each([lambda: open('/tmp/follow', 'a'), lambda: os.truncate('/tmp/follow', 0)])", "EROFS|EACCES"),
    attempt("root's secrets", "return each(lambda p=p: read(p) for p in ('/etc/shadow', '/etc/gshadow', '/root/.bashrc', '/proc/1/environ'))", "EACCES"),
    attempt("out by the parents of a directory", "fd = os.open('/app', os.O_RDONLY)
os.chdir('/')
for _ in range(100):
    os.chdir('..')
return 'the same root' if os.stat('.').st_ino == os.stat('/').st_ino and os.stat('.').st_dev == os.stat('/').st_dev else 'out'", "the same root"),
    attempt("out by the descriptors of others", "found = []
for pid in os.listdir('/proc'):
    if pid.isdigit():
        for name in ('root', 'cwd'):
            try:
                at = os.stat('/proc/%s/%s/' % (pid, name))
                if at.st_dev not in [os.stat(p).st_dev for p in ('/', '/app', '/tmp', '/proc', '/cache', '/home/codex', '/dev/shm')]:
                    found.append((pid, name))
            except OSError:
                pass
return 'none leads out' if not found else found", "none leads out"),
    attempt("the engine's files", "return each(lambda p=p: os.listdir(p) for p in ('/var/lib/docker', '/var/lib/containerd', '/run/docker', '/var/run/secrets', '/run/secrets'))", "ENOENT|EACCES"),
];

/// Links into /proc and what else a change set may not bring, all in the workspace at its end.
const LEFT: &[Attempt] = &[
    attempt("links into /proc", "keeper = keepers()[1]
targets = {'root': '/proc/1/root', 'shadow': '/proc/1/root/etc/shadow', 'self': '/proc/self/root/etc/shadow', 'fd': '/proc/self/fd/0', 'keeper': '/proc/%d/root' % keeper, 'stdin': '/proc/%d/fd/0' % keeper, 'environ': '/proc/self/environ', 'sys': '/sys', 'dev': '/dev/stdin'}
os.mkdir('links')
for name, target in targets.items():
    os.symlink(target, 'links/' + name)
return 'made'", "made"),
    attempt("links that lead out", "for name, target in {'up': '../../../etc/shadow', 'home': os.path.expanduser('~root'), 'abs': '/etc/shadow', 'loop': 'links/loop', 'app': '/app/../etc/shadow'}.items():
    os.symlink(target, 'links/' + name)
return 'made'", "made"),
    attempt("a directory that became a link", "os.rename('src', 'moved')
os.symlink('/proc/self/cwd', 'src')
return 'made'", "made"),
    attempt("a file that became a link", "os.unlink('README.md')
os.symlink('/proc/1/root/etc/passwd', 'README.md')
return 'made'", "made"),
    attempt("git's own directory", "os.makedirs('.git/hooks', exist_ok=True)
for path in ('.git/hooks/pre-commit', '.git/hooks/post-checkout'):
    with open(path, 'w') as file:
        file.write('#!/bin/sh\\ntouch /tmp/executed-on-the-host\\n')
    os.chmod(path, 0o755)
with open('.git/config', 'a') as file:
    file.write('[core]\\n\\tfsmonitor = touch /tmp/executed-on-the-host\\n')
os.makedirs('deep/.GIT/hooks')
os.makedirs('deep/git~1')
open('deep/.GIT/config', 'w').write('x')
open('deep/git~1/config', 'w').write('x')
return 'made'", "made"),
    attempt("what editors and shells execute", "for path in ('.vscode/tasks.json', '.envrc', '.mcp.json', '.claude/settings.json', '.husky/pre-commit', 'sub/.cursor/mcp.json'):
    os.makedirs(os.path.dirname('./' + path), exist_ok=True)
    open(path, 'w').write('{}')
return 'made'", "made"),
    attempt("a setuid program", "subprocess.run(['cp', '/usr/bin/id', 'root-shell'])
os.chmod('root-shell', 0o6755)
return 'made'", "made"),
    attempt("pipes and sockets", "os.mkfifo('pipe')
s = socket.socket(socket.AF_UNIX)
s.bind('socket')
return 'made'", "made"),
    attempt("a link of a file to itself and others", "open('one', 'w').write('one')
os.link('one', 'two')
os.link('two', 'three')
return 'made'", "made"),
];

#[tokio::test]
async fn nothing_outside_the_writable_places_can_be_written_or_read() {
    need_engine!();
    group(OUTSIDE, "").await;
}

fn change<'a>(result: &'a Value, path: &str) -> Option<&'a Value> {
    result["changes"].as_array().unwrap().iter().find(|change| change["path"] == path)
}

#[tokio::test]
async fn what_is_left_in_the_workspace_leads_nowhere_on_the_host() {
    need_engine!();
    let steps = vec![Step::run(command(LEFT, "")), Step::Say("Tried.".into())];
    let mut server = Server::start(script(steps), options()).await;
    server.ready().await;
    let executed = std::path::Path::new("/tmp/executed-on-the-host");
    let as_ever = undisturbed(options()).await;
    let shadow = std::fs::read("/etc/shadow").unwrap_or_default();
    let hooks = server.workspace.join(".git/hooks/pre-commit");
    let config = server.read(".git/config");
    let attacked = server.run("Try it").await;
    assert_eq!(attacked["status"], "completed", "{attacked}\n{}", server.log());
    check(&server, LEFT);
    // What leads out is held for a person, and nothing of it is on the host.
    for path in [
        "links/root",
        "links/shadow",
        "links/self",
        "links/fd",
        "links/keeper",
        "links/stdin",
        "links/environ",
        "links/sys",
        "links/dev",
        "links/up",
        "links/abs",
        "README.md",
        ".vscode/tasks.json",
        ".envrc",
        ".mcp.json",
        ".claude/settings.json",
        ".husky/pre-commit",
        "sub/.cursor/mcp.json",
        "root-shell",
        "pipe",
        "socket",
    ] {
        let change = change(&attacked, path);
        assert!(change.is_some_and(|c| c["state"] == "held"), "{path}: {change:?} {attacked}");
        let there = server.workspace.join(path).symlink_metadata();
        let as_before = path == "README.md" && there.as_ref().is_ok_and(|m| m.is_file());
        assert!(there.is_err() || as_before, "{path} is on the host");
    }
    assert_eq!(server.read("README.md"), "# A project\n");
    for (path, bytes) in tree(&server.workspace) {
        let text = path.to_string_lossy().into_owned();
        if text.starts_with(".git") {
            continue;
        }
        assert!(!text.to_lowercase().contains(".git/"), "{text}");
        assert!(shadow.is_empty() || bytes != shadow, "{text} has what is the host's");
        let found = server.workspace.join(&path).symlink_metadata().unwrap();
        if found.is_symlink() {
            let to = std::fs::read_link(server.workspace.join(&path)).unwrap();
            assert!(to.is_relative() && !to.starts_with(".."), "{text} -> {}", to.display());
        }
    }
    assert!(!hooks.exists() && !executed.exists());
    assert_eq!(server.read(".git/config"), config);
    restore(&server);
    next_is_as_ever(&mut server, &attacked, Then::Reset, &as_ever).await;
    stop(server).await;
}
