//! Many rounds on one container: the host's tree is sent on what the container holds, a run edits
//! there, what it changed is applied, the container is reset, the user edits, and so on. After each
//! sending the container has what a full sending would have given it, byte for byte; after each
//! apply the host has what the container has.

mod container;
mod edit;
mod objects;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mcp_codex_orchestrator::workspace::apply::{OnConflict, Parts, apply};
use mcp_codex_orchestrator::workspace::classify::{Policy, classify};
use mcp_codex_orchestrator::workspace::held::Held;
use mcp_codex_orchestrator::workspace::receive::{ReceiveLimits, receive};
use mcp_codex_orchestrator::workspace::root::open_unchecked;
use mcp_codex_orchestrator::workspace::send::{Base, Delta, send_on};
use mcp_codex_orchestrator::workspace::{Snapshot, Workspace, lock};
use proptest::prelude::*;
use tempfile::TempDir;

use self::container::Container;
use self::edit::{At, edit, edits};
use crate::{Seen, Tree, git, listing, rules, try_git};

/// A workspace and a container that holds it.
struct Ground {
    tree: Tree,
    workspace: Workspace,
    container: Container,
    held: Option<Held>,
    latest: Option<Arc<Snapshot>>,
    beside: TempDir,
    runs: u32,
}

impl Ground {
    fn new(tree: Tree) -> Self {
        let workspace = open_unchecked(tree.path()).unwrap();
        let beside = tempfile::tempdir().unwrap();
        let container = Container::new();
        Self { tree, workspace, container, held: None, latest: None, beside, runs: 0 }
    }

    fn rounds(tree: Tree, rounds: &[Round]) {
        let mut ground = Self::new(tree);
        for round in rounds {
            ground.round(round);
        }
    }

    /// Sends what differs and sees that the container has what it would have of a full sending.
    fn send(&mut self) -> (Delta, usize) {
        let base = Base { held: self.held.as_ref(), latest: self.latest.as_deref() };
        let mut tar = Vec::new();
        let delta = send_on(&self.workspace, &rules(), base, &mut tar).unwrap();
        let entries = self.container.put(&tar);
        let whole = self.tree.send();
        assert_eq!(whole.snapshot.nodes, delta.snapshot.nodes);
        assert_eq!(whole.snapshot.git, delta.snapshot.git);
        assert_eq!(whole.snapshot.git_files, delta.snapshot.git_files);
        assert_eq!(whole.snapshot.git_base, delta.snapshot.git_base);
        assert_eq!(whole.snapshot.stayed_home, delta.snapshot.stayed_home);
        assert_same(&seen(listing(self.container.path())), &seen(listing(whole.path())));
        let snapshot = Arc::new(delta.snapshot.clone());
        let key = self.workspace.key;
        self.held = Some(Held::new(key, self.container.tree(), Arc::clone(&snapshot)));
        self.latest = Some(snapshot);
        (delta, entries)
    }

    /// Applies what the run changed, and sees that the host has it then, unless the user edits
    /// `meanwhile`.
    fn apply(&mut self, meanwhile: &[At]) {
        self.runs += 1;
        let id = format!("01a2044e-0000-7000-8000-{:012}", self.runs);
        let folder = self.beside.path().join(&id);
        fs::create_dir(&folder).unwrap();
        let state = self.beside.path().join("state");
        let held = self.held.as_ref().unwrap();
        let (stream, limits) = (self.container.collect(), ReceiveLimits::new(300_000, 2 << 30));
        let archive = folder.join("changes.tar");
        let received = receive(&stream[..], &held.snapshot, &limits, &archive).unwrap();
        let mut set = classify(received, &held.snapshot, &Policy::new(&[]).unwrap());
        fs::write(folder.join("changes.json"), serde_json::to_vec(&set).unwrap()).unwrap();
        for at in meanwhile {
            edit(self.tree.path(), at);
        }
        let _turn = lock::write(&state, &self.workspace, Duration::from_secs(10)).unwrap();
        let parts = Parts { run: &id, folder: &folder, state: &state };
        apply(&self.workspace, &mut set, &[], OnConflict::HoldAll, &parts).unwrap();
        if meanwhile.is_empty() && set.changes.iter().all(|change| !change.is_waiting()) {
            let shared = self.several_names();
            let [host, inside] = [self.tree.path(), self.container.path()].map(|root| {
                let mut tree = timeless(listing(root));
                // Git ignores the directories of this name, which stay where they are.
                let stays =
                    |path: &[u8]| path.split(|byte| *byte == b'/').any(|name| name == b"bx");
                tree.retain(|path, _| !path.starts_with(b".git") && !stays(path));
                for path in &shared {
                    tree.entry(path.clone()).and_modify(Seen::forget_mode);
                }
                tree
            });
            assert_same(&host, &inside);
        }
    }

    /// Files of the host that have several names there. The executable bit is one for all of them,
    /// and inside each name is a file of its own.
    fn several_names(&self) -> Vec<Vec<u8>> {
        let paths = listing(self.tree.path()).into_keys();
        let is_shared = |path: &Vec<u8>| {
            let path = self.tree.path().join(std::ffi::OsStr::from_bytes(path));
            fs::symlink_metadata(path).is_ok_and(|stat| stat.is_file() && stat.nlink() > 1)
        };
        paths.filter(is_shared).collect()
    }

    fn reset(&mut self, doubted: impl Fn(usize) -> bool) {
        let kept = self.container.reset(doubted);
        self.held = self.held.take().map(|held| held.after_reset(kept, Vec::new()));
    }

    fn round(&mut self, round: &Round) {
        for at in &round.before {
            edit(self.tree.path(), at);
        }
        if let Some(command) = round.host_git.filter(|_| self.tree.path().join(".git").is_dir()) {
            run_git(self.tree.path(), command);
        }
        self.send();
        let inside = self.container.path().to_owned();
        for at in &round.inside {
            edit(&inside, at);
        }
        if let Some(command) = round.inside_git.filter(|_| inside.join(".git").is_dir()) {
            run_git(&inside, command);
        }
        self.apply(&round.meanwhile);
        let seed = round.doubt;
        self.reset(|at| seed > 0 && (at + usize::from(seed)) % 11 == 0);
    }
}

/// What happens from one sending to the next.
#[derive(Clone, Debug)]
struct Round {
    before: Vec<At>,
    host_git: Option<usize>,
    inside: Vec<At>,
    inside_git: Option<usize>,
    /// By the user, while the run's changes wait.
    meanwhile: Vec<At>,
    /// Which of what is left cannot be told to be what it was.
    doubt: u8,
}

fn round() -> impl Strategy<Value = Round> {
    let meanwhile = prop_oneof![3 => Just(Vec::new()), 1 => edits()];
    let command = || proptest::option::of(0..GIT.len());
    (edits(), command(), edits(), command(), meanwhile, any::<u8>()).prop_map(
        |(before, host_git, inside, inside_git, meanwhile, doubt)| Round {
            before,
            host_git,
            inside,
            inside_git,
            meanwhile,
            doubt,
        },
    )
}

/// What git is told, each with an identity; some of it has nothing to do at times.
const GIT: [&[&str]; 9] = [
    &["add", "-A"],
    &["commit", "-q", "--allow-empty", "-am", "more"],
    &["gc", "-q", "--prune=now"],
    &["checkout", "-q", "-b", "other"],
    &["tag", "-f", "mark"],
    &["branch", "-q", "-D", "other"],
    &["status", "--porcelain"],
    &["pack-refs", "--all"],
    &["symbolic-ref", "refs/heads/alias/of", "refs/heads/main"],
];

fn run_git(root: &std::path::Path, command: usize) {
    let identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "gc.auto=0"];
    // Refused where there is nothing to do.
    try_git(root, &[&identity[..], GIT[command]].concat());
}

type Listing = BTreeMap<Vec<u8>, Seen>;

/// Without the times of what is made anew for each `.git`; only that of its index says something.
fn seen(mut tree: Listing) -> Listing {
    for (path, node) in &mut tree {
        if path.starts_with(b".git/") && path != b".git/index" {
            node.forget_time();
        }
    }
    tree
}

fn timeless(mut tree: Listing) -> Listing {
    tree.values_mut().for_each(Seen::forget_time);
    tree
}

/// As `assert_eq`, and names only what differs.
fn assert_same(one: &Listing, other: &Listing) {
    let differs: Vec<_> = one
        .keys()
        .chain(other.keys())
        .filter(|path| one.get(*path) != other.get(*path))
        .map(|path| path.escape_ascii().to_string())
        .collect();
    assert!(differs.is_empty(), "{differs:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]
    #[test]
    fn after_every_round_both_sides_have_the_same_tree(
        rounds in proptest::collection::vec(round(), 2..7),
    ) {
        Ground::rounds(Tree::new(), &rounds);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]
    #[test]
    fn a_repository_stays_one_over_many_rounds(
        rounds in proptest::collection::vec(round(), 2..6),
    ) {
        let tree = Tree::repository();
        tree.write("a/x", "first").write(".gitignore", "*.log\nbx/\n");
        tree.commit_all();
        let mut ground = Ground::new(tree);
        for round in &rounds {
            ground.round(round);
            ground.send();
            let inside = ground.container.path();
            git(inside, &["fsck", "--strict", "--no-dangling"]);
            let status = ["-c", "core.excludesFile=/dev/null", "status", "--porcelain"];
            prop_assert_eq!(git(inside, &status), git(ground.tree.path(), &status));
            ground.reset(|_| false);
        }
    }
}

#[test]
fn an_unchanged_tree_costs_nothing_and_one_change_costs_one_file() {
    let tree = Tree::repository();
    for file in 0..300 {
        tree.write(format!("d{}/f{file}", file % 7), format!("{file}"));
    }
    tree.commit_all();
    let mut ground = Ground::new(tree);
    settle();
    let (full, _) = ground.send();
    assert_eq!(full.files, 300);
    assert!(full.git_files > 300, "{full:?}");
    let first = ground.latest.clone().unwrap();

    let (delta, entries) = ground.send();
    assert_eq!((delta.files, delta.bytes, delta.git_files, entries), (0, 0, 0, 0));
    assert_eq!(delta.snapshot.nodes.shared_with(&first.nodes), first.nodes.len());
    assert_eq!((delta.snapshot.files, delta.snapshot.git), (300, first.git.clone()));

    ground.tree.write("d1/f1", "another");
    let (delta, entries) = ground.send();
    assert_eq!((delta.files, delta.bytes, entries), (1, 7, 1));
    // The file, and nothing else: a directory's time is no part of what is shared.
    assert!(first.nodes.len() - delta.snapshot.nodes.shared_with(&first.nodes) <= 2);

    ground.tree.commit_all();
    let (delta, _) = ground.send();
    // The index, the branch, and three objects.
    assert_eq!((delta.files, delta.git_files), (0, 6), "{delta:?}");
}

/// Until what was written lies in a tick of the clock that is over, as it does for a person.
fn settle() {
    std::thread::sleep(Duration::from_millis(30));
}

#[test]
fn a_file_that_was_changed_in_the_tick_in_which_it_was_sent_is_read_again() {
    let tree = Tree::new();
    tree.write("f", "one");
    let mut ground = Ground::new(tree);
    ground.send();
    // A ctime before the time of the sending would be believed. So the time is set back, to what it
    // is for a file that changes again in the same tick.
    let held = ground.held.as_mut().unwrap();
    let mut snapshot = (*held.snapshot).clone();
    let stat = fs::metadata(ground.tree.path().join("f")).unwrap();
    use std::os::unix::fs::MetadataExt;
    snapshot.taken = (stat.ctime(), u32::try_from(stat.ctime_nsec()).unwrap());
    held.snapshot = Arc::new(snapshot);
    // The container has other bytes than the host, which only reading tells.
    let inside = ground.container.path().join("f");
    fs::write(&inside, "two").unwrap();
    let lie = |node: &mcp_codex_orchestrator::workspace::Node| {
        let hash = Some(*blake3::hash(b"two").as_bytes());
        mcp_codex_orchestrator::workspace::Node { hash, ..node.clone() }
    };
    let mut snapshot = (*held.snapshot).clone();
    snapshot.nodes = snapshot.nodes.iter().map(|(p, n)| (p.clone(), lie(n))).collect();
    held.snapshot = Arc::new(snapshot);
    let (delta, _) = ground.send();
    assert_eq!(delta.files, 1);
}

#[test]
fn a_clock_that_was_set_back_makes_every_file_be_read_and_none_that_is_there_be_sent() {
    let tree = Tree::new();
    tree.write("f", "one").write("g", "two");
    settle();
    let mut ground = Ground::new(tree);
    ground.send();
    let held = ground.held.as_mut().unwrap();
    let mut snapshot = (*held.snapshot).clone();
    // The system is up an hour longer, and the clock shows the same time.
    snapshot.uptime = snapshot.uptime.saturating_sub(Duration::from_secs(3600));
    let lie = |node: &mcp_codex_orchestrator::workspace::Node| {
        let hash = Some(*blake3::hash(b"one").as_bytes());
        mcp_codex_orchestrator::workspace::Node { hash, ..node.clone() }
    };
    snapshot.nodes = snapshot.nodes.iter().map(|(p, n)| (p.clone(), lie(n))).collect();
    held.snapshot = Arc::new(snapshot);
    let (delta, _) = ground.send();
    assert_eq!(delta.files, 1, "only g is not what it is said to be");
}

#[test]
fn what_a_container_lost_travels_again_and_what_it_never_had_is_not_removed() {
    let tree = Tree::repository();
    tree.write("d/e/f", "1").write("d/g", "2").write("h", "3");
    tree.commit_all();
    let mut ground = Ground::new(tree);
    settle();
    ground.send();
    fs::remove_dir_all(ground.container.path().join("d/e")).unwrap();
    fs::write(ground.container.path().join(".git/HEAD"), "ref: refs/heads/x\n").unwrap();
    fs::write(ground.container.path().join("h"), "other").unwrap();
    ground.reset(|_| false);
    // Gone on both sides: nothing is left to remove.
    fs::remove_file(ground.tree.path().join("h")).unwrap();
    let (delta, entries) = ground.send();
    // d/e, d/e/f and HEAD.
    assert_eq!((delta.files, delta.git_files, entries), (1, 1, 3));
}

/// The paths of a tree that was sent whole, for one that is sent to a second container.
#[test]
fn a_second_container_shares_the_memory_of_the_first() {
    let tree = Tree::new();
    for file in 0..50 {
        tree.write(format!("f{file}"), format!("{file}"));
    }
    let first = tree.send().snapshot;
    tree.write("f7", "new");
    let workspace = open_unchecked(tree.path()).unwrap();
    let base = Base { held: None, latest: Some(&first) };
    let delta = send_on(&workspace, &rules(), base, std::io::sink()).unwrap();
    assert_eq!((delta.files, delta.snapshot.nodes.shared_with(&first.nodes)), (50, 49));
}

/// A link to the tree that was sent is not followed when it takes the place of a directory.
#[test]
fn kinds_change_both_ways() {
    let tree = Tree::new();
    tree.write("d/inner/f", "1").write("e", "2").write("g/f", "3");
    let mut ground = Ground::new(tree);
    ground.send();
    let at = |name: &str| -> PathBuf { ground.tree.path().join(name) };
    fs::remove_dir_all(at("d")).unwrap();
    std::os::unix::fs::symlink("g", at("d")).unwrap();
    fs::remove_file(at("e")).unwrap();
    fs::create_dir(at("e")).unwrap();
    fs::remove_dir_all(at("g")).unwrap();
    fs::write(at("g"), "file").unwrap();
    let (_, entries) = ground.send();
    // Each is removed and comes; what was in a directory is not named.
    assert_eq!(entries, 6);
}
