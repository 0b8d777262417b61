//! The process is killed at every point at which it changes the disk, and again while it recovers.
//! Each killed process is this test binary, started again for [`child`] alone.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use super::kill::armed;
use super::step::as_base;
use super::*;
use crate::workspace::change::{ChangeState, NewNode};
use crate::workspace::fixture::{Item, Place, Tree, file, tree};
use crate::workspace::host::Features;
use crate::workspace::{WorkspaceKey, lock};

const RUN: &str = "0190-kill";

/// All of a tree that a person can see, modes included.
pub(super) type Seen = BTreeMap<Vec<u8>, (u32, Vec<u8>)>;

pub(super) fn seen(root: &Path) -> Seen {
    fn walk(root: &Path, at: &Path, seen: &mut Seen) {
        for entry in fs::read_dir(at).unwrap() {
            let at = entry.unwrap().path();
            let meta = fs::symlink_metadata(&at).unwrap();
            let content = if meta.is_dir() {
                walk(root, &at, seen);
                Vec::new()
            } else if meta.is_symlink() {
                fs::read_link(&at).unwrap().as_os_str().as_bytes().to_vec()
            } else {
                fs::read(&at).unwrap()
            };
            let name = at.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec();
            seen.insert(name, (meta.mode(), content));
        }
    }
    let mut found = Seen::new();
    walk(root, root, &mut found);
    found
}

pub(super) fn from() -> Tree {
    tree([
        ("changed", file("old")),
        ("run", file("same")),
        ("gone", file("x")),
        ("link", Item::Link(b"changed".into())),
        ("gone-link", Item::Link(b"changed".into())),
        ("file-to-link", file("x")),
        ("link-to-file", Item::Link(b"changed".into())),
        ("file-to-dir", file("x")),
        ("dir-to-file", Item::Dir),
        ("dir-to-file/in", Item::Dir),
        ("dir-to-file/in/x", file("x")),
        ("nest", Item::Dir),
        ("nest/a", Item::Dir),
        ("nest/a/b", file("old")),
        ("empty-gone", Item::Dir),
    ])
}

pub(super) fn to() -> Tree {
    tree([
        ("changed", file("new and longer")),
        ("run", Item::File(b"same".into(), true)),
        ("link", Item::Link(b"run".into())),
        ("file-to-link", Item::Link(b"run".into())),
        ("link-to-file", file("y")),
        ("file-to-dir", Item::Dir),
        ("file-to-dir/x", file("z")),
        ("dir-to-file", file("f")),
        ("nest", Item::Dir),
        ("nest/a", Item::Dir),
        ("nest/a/b", file("new")),
        ("new", Item::File(b"#!".into(), true)),
        ("new-dir", Item::Dir),
        ("new-dir/a", Item::Link(b"../run".into())),
    ])
}

/// What a child is told to do, as one variable of its environment: what, where, after how many
/// points it is killed, and with which features.
const TOLD: &str = "CODEX_TEST_KILL";

pub(super) fn opened(base: &Path) -> Workspace {
    let root = base.join("ws");
    let meta = fs::metadata(&root).unwrap();
    Workspace {
        root: Arc::new(fs::File::open(&root).unwrap().into()),
        path: root,
        working_dir: None,
        key: WorkspaceKey { dev: meta.dev(), ino: meta.ino() },
        exclude: Vec::new(),
    }
}

fn features(plain: bool) -> Features {
    Features { exchange: !plain, no_replace: !plain, ..Features::default() }
}

pub(super) fn apply_in(
    base: &Path,
    plain: bool,
    at: &mut dyn FnMut(Point),
) -> (ChangeSet, Applied) {
    let workspace = opened(base);
    let folder = base.join("run-0");
    let mut set: ChangeSet =
        serde_json::from_slice(&fs::read(folder.join("changes.json")).unwrap()).unwrap();
    let state = base.join("state");
    let parts = Parts { run: RUN, folder: &folder, state: &state };
    let order = Order::apply(&mut set, &[], OnConflict::HoldAll, &parts);
    let _turn = lock::write(&state, &workspace, Duration::from_secs(20)).unwrap();
    let host = Host::with(&workspace, features(plain));
    let applied = transact_at(&host, &workspace, &mut set, &order, at).unwrap();
    (set, applied)
}

/// Takes out again what is applied.
pub(super) fn undo_in(base: &Path) -> (ChangeSet, Applied) {
    let (workspace, folder, state) = (opened(base), base.join("run-0"), base.join("state"));
    let mut set = states(base);
    let applied = set.changes.iter().filter(|change| change.state == ChangeState::Applied);
    let wanted = applied.map(|change| Change {
        base: change.new.as_ref().map(as_base),
        new: change.base.as_ref().map(|base| NewNode {
            kind: base.kind,
            executable: base.executable(),
            size: base.size,
            hash: base.hash,
            offset: change.before.as_ref().map_or(0, |before| before.offset),
            target: base.target.clone(),
        }),
        ..change.clone()
    });
    let order = Order {
        direction: Direction::Undo,
        wanted: wanted.collect(),
        archive: folder.join("before.tar"),
        on_conflict: OnConflict::HoldAll,
        parts: Parts { run: RUN, folder: &folder, state: &state },
    };
    let _turn = lock::write(&state, &workspace, Duration::from_secs(20)).unwrap();
    let applied = transact(&workspace, &mut set, &order).unwrap();
    (set, applied)
}

pub(super) fn recover_in(base: &Path) {
    let (state, workspace) = (base.join("state"), opened(base));
    drop(lock::read(&state, &workspace, Duration::from_secs(20)).unwrap());
    drop(lock::write(&state, &workspace, Duration::from_secs(20)).unwrap());
}

/// Does nothing unless it is the process that is to be killed.
#[test]
fn child() {
    let Ok(told) = std::env::var(TOLD) else { return };
    let words: Vec<&str> = told.splitn(4, ' ').collect();
    let [what, kill_at, plain, base] = words[..] else { panic!("{told}") };
    let (plain, base) = (plain == "true", Path::new(base));
    armed::arm(kill_at.parse().unwrap());
    match what {
        "apply" => drop(apply_in(base, plain, &mut |_| {})),
        "copy" => drop(apply_in(base, plain, &mut |at| {
            if at == Point::Staged {
                let copy = ["-a", "ws", "staged"];
                assert!(
                    Command::new("cp").args(copy).current_dir(base).status().unwrap().success()
                );
            }
        })),
        "undo" => drop(undo_in(base)),
        "hold" => drop(apply_in(base, plain, &mut |at| {
            if at == Point::Checked {
                return;
            }
            // A save in the middle, so that all is undone.
            if at == Point::Staged {
                fs::write(base.join("saved"), "user").unwrap();
                fs::rename(base.join("saved"), base.join("ws/nest/a/b")).unwrap();
            }
        })),
        "recover" => recover_in(base),
        _ => panic!("{told}"),
    }
}

/// Whether it was killed; otherwise it was done before.
pub(super) fn killed(what: &str, kill_at: u64, plain: bool, base: &Path) -> bool {
    let name = format!("{}::child", module_path!().split_once("::").unwrap().1);
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &name, "--nocapture", "--test-threads=1"])
        .env(TOLD, format!("{what} {kill_at} {plain} {}", base.display()))
        .output()
        .unwrap();
    match (output.status.signal(), output.status.success()) {
        (Some(9), _) => true,
        (None, true) => false,
        _ => panic!("{what} {kill_at}: {output:?}"),
    }
}

pub(super) fn place() -> Place {
    let place = Place::in_memory(&from());
    fs::set_permissions(place.at("changed"), fs::Permissions::from_mode(0o640)).unwrap();
    let (set, archive) = place.changes(&place.snapshot(), &from(), &to());
    crate::record::write_json(&archive.with_file_name("changes.json"), &set).unwrap();
    place
}

pub(super) fn states(base: &Path) -> ChangeSet {
    serde_json::from_slice(&fs::read(base.join("run-0/changes.json")).unwrap()).unwrap()
}

/// Kills at each point there is, `stride` apart, and recovers, and kills the recovery too, each time
/// a little later. Gives how often it ended before and after.
fn at_every_point(what: &str, plain: bool, stride: usize, user: Option<&str>) -> [u32; 2] {
    let done = place();
    apply_in(done.dir.path(), plain, &mut |_| {});
    let mut after = seen(&done.workspace.path);
    if what == "undo" {
        after = seen(&place().workspace.path);
    }
    let mut ends = [0; 2];
    for point in (0..).step_by(stride) {
        let place = place();
        let base = place.dir.path();
        if what == "undo" {
            apply_in(base, plain, &mut |_| {});
        }
        let untouched = if what == "undo" { ChangeState::Applied } else { ChangeState::Held };
        let before = seen(&place.workspace.path);
        let was_killed = killed(what, point, plain, base);
        let mut again = point % 5;
        while was_killed && killed("recover", again, plain, base) {
            // Each time it comes further, so it ends.
            again += 9 + point % 7;
        }
        recover_in(base);
        let mut now = seen(&place.workspace.path);
        if let Some(user) = user {
            let saved = now.insert(user.into(), before[user.as_bytes()].clone());
            let was = &before[user.as_bytes()].1;
            assert!(saved.is_some_and(|s| s.1 == b"user" || s.1 == *was), "{what} {point}");
        }
        let set = states(base);
        let moved = set.changes.iter().filter(|c| c.state != untouched).count();
        let context = format!("{what} killed at {point}, plain {plain}");
        if now == after {
            assert_eq!(moved, set.changes.len(), "{context}");
            ends[1] += 1;
        } else {
            assert_eq!(now, before, "{context}");
            assert_eq!(moved, 0, "{context}");
            ends[0] += 1;
        }
        let left = base.join("state/applies");
        let left: Vec<_> =
            fs::read_dir(left).into_iter().flatten().map(|e| e.unwrap().path()).collect();
        assert_eq!(left, Vec::<std::path::PathBuf>::new(), "{context}");
        if !was_killed {
            return ends;
        }
    }
    unreachable!()
}

#[test]
fn killed_anywhere_the_tree_is_the_one_before_or_the_one_after() {
    let [before, after] = at_every_point("apply", false, 1, None);
    println!("killed at {} points: {before} before, {after} after", before + after);
    assert!(before > 20 && after > 5);
}

#[test]
fn killed_anywhere_while_undoing() {
    let [before, after] = at_every_point("undo", false, 2, None);
    assert!(before > 10 && after > 3);
}

#[test]
fn killed_anywhere_without_exchange() {
    let [before, after] = at_every_point("apply", true, 2, None);
    assert!(before > 10 && after > 3);
}

#[test]
fn killed_while_it_is_undone_for_a_save_in_the_middle() {
    let [before, after] = at_every_point("hold", false, 2, Some("nest/a/b"));
    assert!(before > 10 && after == 0);
}
