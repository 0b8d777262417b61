//! What goes into a container: sent trees are unpacked again and looked at, with git where there
//! is a repository.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test fails by panicking")]

mod faults;
mod files;
mod git;
mod kinds;
mod random;
mod refused;
mod rounds;
mod shapes;
mod special;
mod unreadable;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use mcp_codex_orchestrator::config::workspace::Ignored;
use mcp_codex_orchestrator::keeper::wire::WITHDRAWN;
use mcp_codex_orchestrator::workspace::root::open_unchecked;
use mcp_codex_orchestrator::workspace::send::{SendError, SendRules, send};
use mcp_codex_orchestrator::workspace::{Snapshot, StayReason};
use tar::EntryType;
use tempfile::TempDir;

fn rules() -> SendRules {
    SendRules {
        exclude: Vec::new(),
        ignored: Ignored::Files,
        max_bytes: 1 << 30,
        max_files: 100_000,
        history: mcp_codex_orchestrator::workspace::git::HistoryRules::default(),
    }
}

/// A tree on the host.
struct Tree(TempDir);

impl Tree {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn repository() -> Self {
        let tree = Self::new();
        tree.git(&["init", "-q", "-b", "main"]);
        tree
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, path: impl AsRef<Path>, text: impl AsRef<[u8]>) -> &Self {
        let path = self.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    fn git(&self, arguments: &[&str]) -> String {
        git(self.path(), arguments)
    }

    fn commit_all(&self) {
        self.git(&["add", "-A"]);
        let identity = ["-c", "user.name=tester", "-c", "user.email=tester@example.org"];
        self.git(&[&identity[..], &["commit", "-q", "-m", "all"]].concat());
    }

    fn send(&self) -> Sent {
        self.send_with(&rules()).unwrap()
    }

    fn send_with(&self, rules: &SendRules) -> Result<Sent, SendError> {
        send_at(self.path(), rules)
    }
}

/// Sends the tree at `path`, and unpacks what came.
fn send_at(path: &Path, rules: &SendRules) -> Result<Sent, SendError> {
    let workspace = open_unchecked(path).unwrap();
    let mut tar = Vec::new();
    let snapshot = send(&workspace, rules, &mut tar)?;
    let unpacked = unpack(&tar);
    Ok(Sent { snapshot, unpacked, tar })
}

/// What came out of the stream.
struct Sent {
    snapshot: Snapshot,
    unpacked: TempDir,
    tar: Vec<u8>,
}

impl Sent {
    fn path(&self) -> &Path {
        self.unpacked.path()
    }

    fn git(&self, arguments: &[&str]) -> String {
        git(self.path(), arguments)
    }

    /// Paths of files and links that arrived, `.git` left out.
    fn files(&self) -> Vec<String> {
        let mut found = Vec::new();
        for (path, node) in listing(self.path()) {
            if !path.starts_with(b".git/") && !matches!(node, Seen::Directory) {
                found.push(String::from_utf8_lossy(&path).into_owned());
            }
        }
        found
    }

    fn stayed(&self) -> Vec<(&str, StayReason)> {
        self.snapshot.stayed_home.iter().map(|home| (&*home.path, home.reason)).collect()
    }
}

/// Ends what runs beside a test, also when the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Unpacks a stream as a container does.
fn unpack(tar: &[u8]) -> TempDir {
    let unpacked = tempfile::tempdir().unwrap();
    let mut archive = tar::Archive::new(tar);
    archive.set_preserve_mtime(true);
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        if entry.header().entry_type() == EntryType::new(WITHDRAWN) {
            fs::remove_file(unpacked.path().join(entry.path().unwrap())).unwrap();
        } else {
            entry.unpack_in(unpacked.path()).unwrap();
        }
    }
    unpacked
}

/// Runs a test again in a process of its own, by `command`, which ends with the program to run;
/// `true` in that process. Prints why where `command` is not there.
fn again(test: &str, command: &[&str]) -> bool {
    const AGAIN: &str = "WORKSPACE_SEND_AGAIN";
    if std::env::var_os(AGAIN).is_some() {
        return true;
    }
    let mut again = Command::new(command[0]);
    again.args(&command[1..]).arg(std::env::current_exe().unwrap());
    match again.args(["--exact", test, "--nocapture"]).env(AGAIN, "1").output() {
        Ok(output) => assert!(output.status.success(), "{output:?}"),
        Err(error) => {
            assert!(std::env::var_os("CODEX_TESTS_REQUIRE_ENGINE").is_none(), "{error}");
            eprintln!("skipped {test}: no {} ({error})", command[0]);
        }
    }
    false
}

fn git(directory: &Path, arguments: &[&str]) -> String {
    let output = try_git(directory, arguments);
    assert!(output.status.success(), "git {arguments:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn try_git(directory: &Path, arguments: &[&str]) -> std::process::Output {
    Command::new("git")
        .current_dir(directory)
        .args(["-c", "protocol.file.allow=always"])
        .args(arguments)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .output()
        .unwrap()
}

#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Directory,
    File { executable: bool, bytes: Vec<u8>, mtime: i64 },
    Link(PathBuf),
}

impl Seen {
    /// Whether it is the same, but for its time.
    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::File { executable, bytes, .. },
                Self::File { executable: other, bytes: others, .. },
            ) => executable == other && bytes == others,
            _ => self == other,
        }
    }

    fn forget_mode(&mut self) {
        if let Self::File { executable, .. } = self {
            *executable = false;
        }
    }

    fn forget_time(&mut self) {
        if let Self::File { mtime, .. } = self {
            *mtime = 0;
        }
    }
}

/// Everything in a directory, by path.
fn listing(root: &Path) -> BTreeMap<Vec<u8>, Seen> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let stat = fs::symlink_metadata(&path).unwrap();
            let seen = if stat.is_dir() {
                waiting.push(path.clone());
                Seen::Directory
            } else if stat.is_symlink() {
                Seen::Link(fs::read_link(&path).unwrap())
            } else {
                let executable = stat.mode() & 0o100 != 0;
                Seen::File { executable, bytes: fs::read(&path).unwrap(), mtime: stat.mtime() }
            };
            found.insert(path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec(), seen);
        }
    }
    found
}
