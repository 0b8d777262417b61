//! A workspace with something outside of it that nobody may touch.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use mcp_codex_orchestrator::config::workspace::Ignored;
use mcp_codex_orchestrator::config::{Overrides, load};
use mcp_codex_orchestrator::path::RelPath;
use mcp_codex_orchestrator::workspace::apply::{Applied, ApplyError, OnConflict, Parts, apply};
use mcp_codex_orchestrator::workspace::change::{Change, ChangeSet};
use mcp_codex_orchestrator::workspace::classify::{Policy, classify};
use mcp_codex_orchestrator::workspace::receive::{ReceiveError, ReceiveLimits, receive};
use mcp_codex_orchestrator::workspace::root::open_unchecked;
use mcp_codex_orchestrator::workspace::send::{SendRules, send};
use mcp_codex_orchestrator::workspace::undo::{Undone, undo};
use mcp_codex_orchestrator::workspace::{Snapshot, Workspace, diff};
use tempfile::TempDir;

pub(crate) struct Place {
    dir: TempDir,
    pub(crate) workspace: Workspace,
    pub(crate) limits: ReceiveLimits,
    runs: std::cell::Cell<u32>,
    outside: BTreeMap<PathBuf, Vec<u8>>,
}

/// A change set with its run folder.
pub(crate) struct Run {
    pub(crate) set: ChangeSet,
    pub(crate) folder: PathBuf,
}

impl Run {
    pub(crate) fn change(&self, path: &str) -> &Change {
        let path = RelPath::new(path).unwrap();
        self.set.changes.iter().find(|change| change.path == path).unwrap()
    }

    pub(crate) fn held(&self) -> Vec<String> {
        let held = self.set.changes.iter().filter(|change| change.hold.is_some());
        held.map(|change| change.path.to_string()).collect()
    }

    pub(crate) fn waiting(&self) -> Vec<String> {
        let waiting = self.set.changes.iter().filter(|change| change.is_waiting());
        waiting.map(|change| change.path.to_string()).collect()
    }
}

pub(crate) fn protect() -> Policy {
    let loaded = load(&Overrides::default(), |_| None).unwrap();
    Policy::new(&loaded.config.workspace.protect).unwrap()
}

impl Place {
    /// In memory where there is such a file system: what is tested here is not the disk.
    pub(crate) fn new() -> Self {
        let shared = Path::new("/dev/shm");
        let dir = match shared.is_dir() {
            true => tempfile::tempdir_in(shared).unwrap(),
            false => tempfile::tempdir().unwrap(),
        };
        for name in ["ws", "outside", "outside/deep", "runs", "state"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        fs::write(dir.path().join("outside/secret"), "not to be read").unwrap();
        fs::write(dir.path().join("outside/f"), "outside f").unwrap();
        let workspace = open_unchecked(&dir.path().join("ws")).unwrap();
        let limits = ReceiveLimits::new(10_000, 16 << 20);
        let outside = listing(&dir.path().join("outside"));
        Self { dir, workspace, limits, runs: std::cell::Cell::new(0), outside }
    }

    pub(crate) fn at(&self, path: impl AsRef<[u8]>) -> PathBuf {
        self.workspace.path.join(std::ffi::OsStr::from_bytes(path.as_ref()))
    }

    pub(crate) fn outside(&self) -> PathBuf {
        self.dir.path().join("outside")
    }

    pub(crate) fn write(&self, path: &str, text: &str) -> &Self {
        fs::create_dir_all(self.at(path).parent().unwrap()).unwrap();
        fs::write(self.at(path), text).unwrap();
        self
    }

    pub(crate) fn link(&self, path: &str, target: impl AsRef<Path>) -> &Self {
        symlink(target, self.at(path)).unwrap();
        self
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let rules = SendRules {
            exclude: Vec::new(),
            ignored: Ignored::Files,
            max_bytes: 1 << 30,
            max_files: 100_000,
            history: mcp_codex_orchestrator::workspace::git::HistoryRules::default(),
        };
        send(&self.workspace, &rules, &mut io::sink()).unwrap()
    }

    pub(crate) fn take(&self, stream: impl Read, sent: &Snapshot) -> Result<Run, ReceiveError> {
        self.runs.set(self.runs.get() + 1);
        let folder = self.dir.path().join(format!("runs/{}", self.runs.get()));
        fs::create_dir(&folder).unwrap();
        let archive = folder.join("changes.tar");
        let received = receive(stream, sent, &self.limits, &archive);
        assert_eq!(received.is_ok(), archive.exists(), "half an archive was left");
        Ok(Run { set: classify(received?, sent, &protect()), folder })
    }

    pub(crate) fn apply(&self, run: &mut Run) -> Result<Applied, ApplyError> {
        let name = run.folder.file_name().unwrap().to_string_lossy().into_owned();
        let state = self.dir.path().join("state");
        let parts = Parts { run: &name, folder: &run.folder, state: &state };
        apply(&self.workspace, &mut run.set, &[], OnConflict::HoldAll, &parts)
    }

    pub(crate) fn undo(&self, run: &mut Run) -> Result<Undone, ApplyError> {
        let name = run.folder.file_name().unwrap().to_string_lossy().into_owned();
        let state = self.dir.path().join("state");
        let parts = Parts { run: &name, folder: &run.folder, state: &state };
        undo(&self.workspace, &mut run.set, &[], &parts)
    }

    /// With what lies outside now taken for what must stay there.
    pub(crate) fn with_all_outside(mut self) -> Self {
        self.outside = listing(&self.outside());
        self
    }

    /// Everything that a run goes through, the diff among it; and nothing outside is touched.
    pub(crate) fn play(&self, stream: &[u8]) -> Result<Run, ReceiveError> {
        let sent = self.snapshot();
        self.play_on(stream, &sent)
    }

    pub(crate) fn play_on(&self, stream: &[u8], sent: &Snapshot) -> Result<Run, ReceiveError> {
        let outcome = self.take(stream, sent).map(|mut run| {
            let mut patch = Vec::new();
            let archive = run.folder.join("changes.tar");
            diff::patch(&self.workspace, &run.set, &archive, &mut patch).unwrap();
            assert!(!String::from_utf8_lossy(&patch).contains("not to be read"));
            self.apply(&mut run).unwrap();
            run
        });
        self.nothing_escaped();
        outcome
    }

    pub(crate) fn nothing_escaped(&self) {
        assert_eq!(listing(&self.outside()), self.outside, "something outside was touched");
        let mut names: Vec<_> =
            fs::read_dir(self.dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["outside", "runs", "state", "ws"]);
    }

    /// Every path of the workspace.
    pub(crate) fn tree(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        listing(&self.workspace.path)
    }
}

fn listing(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut todo = vec![root.to_owned()];
    while let Some(directory) = todo.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let what = if meta.is_symlink() {
                fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec()
            } else if meta.is_dir() {
                todo.push(path.clone());
                Vec::new()
            } else {
                fs::read(&path).unwrap()
            };
            let mode = format!(" {:o}", meta.mode()).into_bytes();
            found.insert(path.strip_prefix(root).unwrap().to_owned(), [what, mode].concat());
        }
    }
    found
}
