//! A workspace, what Codex made of it, and where the parts of a run are.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use mcp_codex_orchestrator::config::workspace::Ignored;
use mcp_codex_orchestrator::path::RelPath;
use mcp_codex_orchestrator::workspace::apply::{Applied, ApplyError, OnConflict, Parts, apply};
use mcp_codex_orchestrator::workspace::change::{ChangeSet, ChangeState};
use mcp_codex_orchestrator::workspace::classify::{Policy, classify};
use mcp_codex_orchestrator::workspace::lock;
use mcp_codex_orchestrator::workspace::receive::{ReceiveLimits, receive};
use mcp_codex_orchestrator::workspace::root::open_unchecked;
use mcp_codex_orchestrator::workspace::send::{SendRules, send};
use mcp_codex_orchestrator::workspace::undo::{Undone, undo};
use mcp_codex_orchestrator::workspace::{NodeKind, Snapshot, Workspace};

/// How long a turn to write may take to come.
const TURN: Duration = Duration::from_secs(10);

/// One path as a test compares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) what: What,
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Directory,
    File(Vec<u8>),
    Link(PathBuf),
    Other,
}

pub(crate) type Tree = BTreeMap<String, Seen>;

/// Everything in a directory, by path. What is not UTF-8 is shown as such.
pub(crate) fn listing(root: &Path) -> Tree {
    let mut found = Tree::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.to_string_lossy().contains("/.ghost-ntfs-3g-") {
                // The driver's own name for what has none any more and is still open.
                continue;
            }
            let stat = fs::symlink_metadata(&path)
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let what = if stat.is_dir() {
                waiting.push(path.clone());
                What::Directory
            } else if stat.is_symlink() {
                What::Link(fs::read_link(&path).unwrap())
            } else if stat.is_file() {
                What::File(fs::read(&path).unwrap())
            } else {
                What::Other
            };
            let seen = Seen { what, mode: stat.mode(), owner: (stat.uid(), stat.gid()) };
            let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
            found.insert(name, seen);
        }
    }
    found
}

/// A workspace and where everything else of its runs is.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) workspace: Workspace,
    pub(crate) runs: PathBuf,
    pub(crate) state: PathBuf,
    containers: PathBuf,
    next: AtomicU32,
}

impl Place {
    /// The workspace `ws` in `on`, made if need be; all else in `beside`.
    pub(crate) fn new(on: &Path, beside: &Path) -> Self {
        let ws = on.join("ws");
        let _ = fs::create_dir(&ws);
        let [runs, state, containers] = ["runs", "state", "containers"].map(|name| {
            let path = beside.join(name);
            fs::create_dir_all(&path).unwrap();
            path
        });
        let workspace = open_unchecked(&ws).unwrap();
        Self { workspace, runs, state, containers, next: AtomicU32::new(0) }
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.workspace.path.join(name)
    }

    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) -> &Self {
        write(&self.workspace.path, name, text);
        self
    }

    pub(crate) fn text(&self, name: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.at(name)).unwrap()).into_owned()
    }

    pub(crate) fn tree(&self) -> Tree {
        listing(&self.workspace.path)
    }

    /// Sends the workspace, lets Codex work on a copy of it, and takes in what changed.
    pub(crate) fn codex(&self, work: impl FnOnce(&Path)) -> Run<'_> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let id = format!("01a2044e-0000-7000-8000-{number:012}");
        let rules = SendRules {
            exclude: Vec::new(),
            ignored: Ignored::Files,
            max_bytes: 1 << 40,
            max_files: 1_000_000,
            history: mcp_codex_orchestrator::workspace::git::HistoryRules::default(),
        };
        let mut tar = Vec::new();
        let sent = send(&self.workspace, &rules, &mut tar).unwrap();
        let app = self.containers.join(&id);
        let mut archive = tar::Archive::new(&*tar);
        archive.set_preserve_permissions(true);
        archive.unpack(&app).unwrap();
        work(&app);
        let folder = self.runs.join(&id);
        fs::create_dir(&folder).unwrap();
        let (limits, policy) = (ReceiveLimits::new(300_000, 2 << 30), Policy::new(&[]).unwrap());
        let stream = collected(&app, &sent);
        let received = receive(&stream[..], &sent, &limits, &folder.join("changes.tar")).unwrap();
        fs::remove_dir_all(&app).unwrap();
        let set = classify(received, &sent, &policy);
        fs::write(folder.join("changes.json"), serde_json::to_vec(&set).unwrap()).unwrap();
        Run { place: self, id, folder, set }
    }
}

/// A run whose change set waits.
#[derive(Debug)]
pub(crate) struct Run<'a> {
    place: &'a Place,
    pub(crate) id: String,
    pub(crate) folder: PathBuf,
    pub(crate) set: ChangeSet,
}

impl Run<'_> {
    /// As `codex_run_apply` does it: with the turn to write, and what the run folder says.
    pub(crate) fn apply(&mut self, on_conflict: OnConflict) -> Result<Applied, ApplyError> {
        let Place { workspace, state, .. } = self.place;
        let _turn = lock::write(state, workspace, TURN).unwrap();
        if let Ok(saved) = fs::read(self.folder.join("changes.json")) {
            self.set = serde_json::from_slice(&saved).unwrap();
        }
        let parts = Parts { run: &self.id, folder: &self.folder, state };
        apply(workspace, &mut self.set, &[], on_conflict, &parts)
    }

    /// As `codex_run_undo` does it.
    pub(crate) fn undo(&mut self) -> Undone {
        let Place { workspace, state, .. } = self.place;
        let _turn = lock::write(state, workspace, TURN).unwrap();
        let parts = Parts { run: &self.id, folder: &self.folder, state };
        undo(workspace, &mut self.set, &[], &parts).unwrap()
    }

    /// Paths that are held, with why.
    pub(crate) fn held(&self) -> BTreeMap<String, String> {
        let held = self.set.changes.iter().filter(|change| change.state == ChangeState::Held);
        held.map(|c| (c.path.to_string(), c.reason.clone().unwrap_or_default())).collect()
    }

    /// Paths that were applied.
    pub(crate) fn applied(&self) -> Vec<String> {
        let done = self.set.changes.iter().filter(|change| change.state == ChangeState::Applied);
        done.map(|change| change.path.to_string()).collect()
    }

    /// Whether what Codex made of a path is in the run folder, whole.
    pub(crate) fn has_codex_bytes(&self, name: &str) -> bool {
        use std::os::unix::fs::FileExt;

        let path: RelPath = serde_json::from_value(name.into()).unwrap();
        let Some(change) = self.set.changes.iter().find(|change| change.path == path) else {
            return false;
        };
        let Some(new) = &change.new else { return true };
        if new.kind != NodeKind::File {
            return true;
        }
        let mut bytes = vec![0; usize::try_from(new.size).unwrap()];
        let archive = File::open(self.folder.join("changes.tar")).unwrap();
        archive.read_exact_at(&mut bytes, new.offset).is_ok()
            && Some(blake3::hash(&bytes).into()) == new.hash.map(|hash| hash.0)
    }

    /// Whether `text` is somewhere in the run folder: in the pre-image or in `kept`.
    pub(crate) fn has_bytes(&self, text: &[u8]) -> bool {
        let files = listing(&self.folder);
        files.values().any(|seen| match &seen.what {
            What::File(bytes) => bytes.windows(text.len()).any(|window| window == text),
            _ => false,
        })
    }
}

pub(crate) fn write(root: &Path, name: &str, text: impl AsRef<[u8]>) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// What the keeper would send of a tree.
fn collected(app: &Path, sent: &Snapshot) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut seen = std::collections::BTreeSet::new();
    let mut waiting = vec![app.to_owned()];
    while let Some(directory) = waiting.pop() {
        let mut entries: Vec<_> =
            fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
        entries.sort();
        for path in entries {
            let inside = RelPath::new(path.strip_prefix(app).unwrap().as_os_str().as_bytes());
            let inside = inside.unwrap();
            let stat = fs::symlink_metadata(&path).unwrap();
            let name = Path::new("tree").join(inside.as_path());
            seen.insert(inside);
            let mut header = tar::Header::new_gnu();
            header.set_mode(stat.mode() & 0o7777);
            header.set_size(0);
            if stat.is_dir() {
                header.set_entry_type(tar::EntryType::Directory);
                tar.append_data(&mut header, name, io::empty()).unwrap();
                waiting.push(path);
            } else if stat.is_symlink() {
                header.set_entry_type(tar::EntryType::Symlink);
                tar.append_link(&mut header, name, fs::read_link(path).unwrap()).unwrap();
            } else {
                header.set_size(stat.len());
                tar.append_data(&mut header, name, File::open(path).unwrap()).unwrap();
            }
        }
    }
    let gone: Vec<&[u8]> =
        sent.nodes.keys().filter(|path| !seen.contains(*path)).map(RelPath::as_bytes).collect();
    let gone = gone.join(&b"\0"[..]);
    let mut header = tar::Header::new_gnu();
    header.set_size(gone.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, "meta/deleted", &gone[..]).unwrap();
    tar.into_inner().unwrap()
}

/// Makes a file executable, or not.
pub(crate) fn set_executable(path: &Path, executable: bool) {
    let mode = if executable { 0o755 } else { 0o644 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A symbolic link.
pub(crate) fn link(root: &Path, name: &str, target: &str) {
    symlink(target, root.join(name)).unwrap();
}

/// A path that must be refused, and a part of the reason.
pub(crate) type Refused<'a> = (&'a str, &'a str);

impl Run<'_> {
    /// Sees that exactly `refused` cannot be applied. With all held the tree is untouched, and what
    /// is told is some of them, since a path that is refused can hide others. With the others
    /// applied, the refused ones are untouched and each has its reason. Either way the run folder has
    /// what Codex made.
    pub(crate) fn is_refused(&mut self, refused: &[Refused<'_>]) {
        let before = self.place.tree();
        let told = self.apply(OnConflict::HoldAll).unwrap();
        assert_eq!(self.place.tree(), before, "{told:?}");
        assert_eq!(self.applied(), Vec::<String>::new(), "{told:?}");
        self.told(&told, refused);

        let told = self.apply(OnConflict::HoldConflicting).unwrap();
        self.told(&told, refused);
        let held = self.held();
        let after = self.place.tree();
        for (name, reason) in refused {
            assert!(
                held.get(*name).is_some_and(|held| held.contains(reason)),
                "{name}: {held:#?}\n{told:#?}"
            );
            assert_eq!(after.get(*name), before.get(*name), "{name}");
            assert!(self.has_codex_bytes(name), "{name}");
        }
        assert_eq!(held.len(), refused.len(), "{held:#?}\n{told:#?}");
        self.is_tidy();
    }

    /// Sees that all of it is applied.
    pub(crate) fn is_applied(&mut self) -> Applied {
        let told = self.apply(OnConflict::HoldAll).unwrap();
        assert_eq!(self.held(), BTreeMap::new(), "{told:?}");
        assert_eq!(told.conflicts, [], "{told:?}");
        assert_eq!(told.kept, [], "{told:?}");
        self.is_tidy();
        told
    }

    fn told(&self, told: &Applied, refused: &[Refused<'_>]) {
        assert_ne!(told.conflicts, [], "{told:?}");
        for conflict in &told.conflicts {
            let known = refused.iter().find(|(name, _)| *name == conflict.path.to_string());
            let (_, reason) = known.unwrap_or_else(|| panic!("{}: {told:#?}", conflict.path));
            assert!(conflict.reason.contains(reason), "{reason}: {conflict:#?}");
        }
        assert_eq!(told.kept, [], "{told:?}");
        let left = |note: &&String| !note.contains("cannot exchange");
        assert_eq!(told.notes.iter().find(left), None, "{told:?}");
    }

    /// Sees that no temporary file is left, and that `changes.json` says what the set says.
    pub(crate) fn is_tidy(&self) {
        let tree = self.place.tree();
        let left: Vec<_> = tree.keys().filter(|name| name.contains(".codex-")).collect();
        assert!(left.is_empty(), "{left:?}");
        let saved = fs::read(self.folder.join("changes.json")).unwrap();
        assert_eq!(serde_json::from_slice::<ChangeSet>(&saved).unwrap(), self.set);
    }
}
