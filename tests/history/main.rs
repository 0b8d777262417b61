//! A history over the limit: git works inside with what went, and finds nothing broken.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test fails by panicking")]

mod cut;
mod kinds;
mod large;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use mcp_codex_orchestrator::config::workspace::Ignored;
use mcp_codex_orchestrator::workspace::git::{CutHistory, HistoryRules};
use mcp_codex_orchestrator::workspace::root::open_unchecked;
use mcp_codex_orchestrator::workspace::send::{SendRules, send};
use mcp_codex_orchestrator::workspace::{GitSent, Snapshot};
use tempfile::TempDir;

/// The limit of most tests; a large blob is well over it.
const LIMIT: u64 = 256 << 10;

/// A repository, and the state directory of who sends it.
struct Host {
    home: TempDir,
}

impl Host {
    /// A repository with one commit, made with further arguments of `git init`.
    fn new(arguments: &[&str]) -> Self {
        let host = Self { home: tempfile::tempdir().unwrap() };
        fs::create_dir(host.path()).unwrap();
        host.git(&[&["init", "-q", "-b", "main"], arguments].concat());
        host.commit("first", "first\n");
        host
    }

    fn path(&self) -> PathBuf {
        self.home.path().join("tree")
    }

    fn state(&self) -> PathBuf {
        self.home.path().join("state")
    }

    fn write(&self, path: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.path().join(path), bytes).unwrap();
    }

    fn git(&self, arguments: &[&str]) -> String {
        git(&self.path(), arguments)
    }

    /// Commits a file, named as its message.
    fn commit(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        self.write(name, bytes);
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "-m", name]);
        self.git(&["rev-parse", "HEAD"]).trim().to_owned()
    }

    /// A large blob comes and goes, and then there are `count` commits.
    fn grow(&self, count: usize) {
        self.import(1, 2 * LIMIT as usize, count);
    }

    /// So many large blobs come and go, and then there are `count` commits.
    fn import(&self, blobs: usize, bytes: usize, count: usize) {
        let began = self.git(&["log", "-1", "--format=%ct"]).trim().parse::<u64>().unwrap();
        let mut git = Command::new("git")
            .current_dir(self.path())
            .args(["-c", "core.compression=0", "-c", "fastimport.unpackLimit=1000"])
            // Nothing is to be found alike in noise.
            .args(["-c", "core.bigFileThreshold=1m"])
            .args(["fast-import", "--quiet"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut out = git.stdin.take().unwrap();
        for number in 0..=blobs + count {
            let (message, change) = match number {
                at if at < blobs => ("large", Some(("large", noise(bytes)))),
                at if at == blobs => ("no large", None),
                at => ("counter", Some(("counter", format!("{at}\n").into_bytes()))),
            };
            let (time, length) = (began + number as u64, message.len());
            write!(out, "commit refs/heads/main\ncommitter t <t@t> {time} +0000\n").unwrap();
            writeln!(out, "data {length}\n{message}").unwrap();
            if number == 0 {
                writeln!(out, "from refs/heads/main^0").unwrap();
            }
            match change {
                Some((name, bytes)) => {
                    writeln!(out, "M 100644 inline {name}\ndata {}", bytes.len()).unwrap();
                    out.write_all(&bytes).unwrap();
                    writeln!(out).unwrap();
                }
                None => writeln!(out, "D large").unwrap(),
            }
        }
        drop(out);
        assert!(git.wait().unwrap().success());
        self.git(&["reset", "-q", "--hard"]);
    }

    fn send(&self) -> Sent {
        self.send_below(LIMIT)
    }

    fn send_below(&self, limit: u64) -> Sent {
        send_at(&self.path(), &self.state(), limit)
    }
}

fn send_at(path: &Path, state: &Path, limit: u64) -> Sent {
    let rules = SendRules {
        exclude: Vec::new(),
        ignored: Ignored::Files,
        max_bytes: 1 << 33,
        max_files: 100_000,
        history: HistoryRules { limit, state: Some(state.to_owned()) },
    };
    let workspace = open_unchecked(path).unwrap();
    let mut tar = Vec::new();
    let snapshot = send(&workspace, &rules, &mut tar).unwrap();
    let unpacked = tempfile::tempdir().unwrap();
    let mut archive = tar::Archive::new(&*tar);
    archive.set_preserve_mtime(true);
    archive.unpack(unpacked.path()).unwrap();
    Sent { snapshot, unpacked }
}

/// What came.
struct Sent {
    snapshot: Snapshot,
    unpacked: TempDir,
}

impl Sent {
    fn path(&self) -> &Path {
        self.unpacked.path()
    }

    fn git(&self, arguments: &[&str]) -> String {
        git(self.path(), arguments)
    }

    fn cut(&self) -> Option<CutHistory> {
        match self.snapshot.git {
            GitSent::Made { history, .. } => history,
            ref other => panic!("{other:?}"),
        }
    }

    /// Nothing that git can reach is missing, and so many commits can be.
    fn is_sound(&self, commits: usize) {
        let said = try_git(self.path(), &["fsck", "--strict", "--no-dangling"]);
        assert!(said.status.success() && said.stdout.is_empty(), "{said:?}");
        let listed = self.git(&["log", "--format=%H"]);
        assert_eq!(listed.lines().count(), commits, "{listed}");
        assert_eq!(self.cut().unwrap().commits, commits as u64);
        // All of each commit, and all that the index names.
        let objects = ["rev-list", "--objects", "--all", "HEAD", "--indexed-objects"];
        self.git(&objects);
    }

    /// Packs and loose objects, with what tells whether they are the same.
    fn packs(&self) -> Vec<String> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.path().join(".git/objects/pack")).unwrap() {
            found.push(entry.unwrap().file_name().into_string().unwrap());
        }
        found.retain(|name| name.ends_with(".pack"));
        found.sort();
        found
    }
}

/// The files in a state directory that hold packs, with their inodes and sizes.
fn kept(state: &Path) -> BTreeMap<PathBuf, (u64, u64)> {
    let mut found = BTreeMap::new();
    for folder in fs::read_dir(state.join("history")).unwrap() {
        let packs = folder.unwrap().path().join("pack");
        for entry in fs::read_dir(packs).into_iter().flatten() {
            let entry = entry.unwrap();
            let stat = entry.metadata().unwrap();
            found.insert(entry.path(), (stat.ino(), stat.size()));
        }
    }
    found
}

/// Bytes that cannot be compressed, other ones each time.
fn noise(count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    fs::File::open("/dev/urandom")
        .and_then(|mut file| io::Read::read_exact(&mut file, &mut bytes))
        .unwrap();
    bytes
}

fn git(directory: &Path, arguments: &[&str]) -> String {
    let output = try_git(directory, arguments);
    assert!(output.status.success(), "git {arguments:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn try_git(directory: &Path, arguments: &[&str]) -> Output {
    Command::new("git")
        .current_dir(directory)
        .args(["-c", "protocol.file.allow=always", "-c", "user.name=t", "-c", "user.email=t@t"])
        .args(arguments)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .output()
        .unwrap()
}
