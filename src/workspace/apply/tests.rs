use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use super::*;
use crate::workspace::change::ChangeState;
use crate::workspace::fixture::{Item, Place, Tree, file, path, tree};

/// [`apply`] as a run does it, with something done at each point.
pub(super) fn apply_at(
    workspace: &Workspace,
    set: &mut ChangeSet,
    archive: &Path,
    run: &str,
    at: &mut dyn FnMut(Point),
) -> Result<Applied, ApplyError> {
    let folder = archive.parent().unwrap();
    let state = folder.join("../state");
    let parts = Parts { run, folder, state: &state };
    let order = Order::apply(set, &[], OnConflict::HoldAll, &parts);
    let applied = transact_at(&Host::of(workspace), workspace, set, &order, at);
    let left = fs::read_dir(state.join("applies")).map_or(0, Iterator::count);
    assert_eq!(left, 0, "a journal was left");
    applied
}

/// The same, with what the caller says about conflicts.
pub(super) fn apply_as(
    on_conflict: OnConflict,
    workspace: &Workspace,
    set: &mut ChangeSet,
    archive: &Path,
) -> Applied {
    let folder = archive.parent().unwrap();
    let state = folder.join("../state");
    let parts = Parts { run: "run", folder, state: &state };
    apply(workspace, set, &[], on_conflict, &parts).unwrap()
}

/// Applies the way from what is on the disk to `to`, with something done at each point.
fn go_at(
    place: &Place,
    to: &Tree,
    meanwhile: impl FnOnce(),
    at: &mut dyn FnMut(Point),
) -> (ChangeSet, Result<Applied, ApplyError>) {
    let from = place.read();
    let (mut set, archive) = place.changes(&place.snapshot(), &from, to);
    meanwhile();
    let applied = apply_at(&place.workspace, &mut set, &archive, "0190-abcd-ef", at);
    (set, applied)
}

pub(super) fn go(place: &Place, to: &Tree, meanwhile: impl FnOnce()) -> (ChangeSet, Applied) {
    let (set, applied) = go_at(place, to, meanwhile, &mut |_| {});
    (set, applied.unwrap())
}

fn reasons(set: &ChangeSet) -> Vec<String> {
    set.changes.iter().filter_map(|change| change.reason.clone()).collect()
}

#[test]
fn every_kind_of_change_is_applied() {
    let from = tree([
        ("changed", file("old")),
        ("run", file("same")),
        ("unrun", Item::File(b"same".into(), true)),
        ("gone", file("x")),
        ("link", Item::Link(b"changed".into())),
        ("gone-link", Item::Link(b"changed".into())),
        ("file-to-link", file("x")),
        ("link-to-file", Item::Link(b"changed".into())),
        ("file-to-dir", file("x")),
        ("link-to-dir", Item::Link(b"nowhere".into())),
        ("dir-to-file", Item::Dir),
        ("dir-to-file/in", Item::Dir),
        ("dir-to-file/in/x", file("x")),
        ("dir-to-link", Item::Dir),
        ("empty-gone", Item::Dir),
        ("nest", Item::Dir),
        ("nest/a", Item::Dir),
        ("nest/a/b", file("x")),
        ("nest.txt", file("stays")),
    ]);
    let to = tree([
        ("changed", file("new and longer")),
        ("run", Item::File(b"same".into(), true)),
        ("unrun", file("same")),
        ("link", Item::Link(b"run".into())),
        ("file-to-link", Item::Link(b"run".into())),
        ("link-to-file", file("y")),
        ("file-to-dir", Item::Dir),
        ("file-to-dir/deep", Item::Dir),
        ("file-to-dir/deep/x", file("z")),
        ("link-to-dir", Item::Dir),
        ("link-to-dir/x", file("z")),
        ("dir-to-file", file("f")),
        ("dir-to-link", Item::Link(b"run".into())),
        ("empty-new", Item::Dir),
        ("new", Item::File(b"#!".into(), true)),
        ("new-dir", Item::Dir),
        ("new-dir/a", Item::Link(b"../run".into())),
        ("nest.txt", file("stays")),
    ]);
    let place = Place::new(&from);
    let (set, applied) = go(&place, &to, || {});
    assert_eq!(applied.conflicts, []);
    assert_eq!(reasons(&set), Vec::<String>::new());
    assert_eq!(place.read(), to);
    assert_eq!(applied.applied, set.changes.len());
    assert_eq!(applied.notes, Vec::<String>::new());
}

#[test]
fn names_that_are_not_utf_8_are_applied() {
    let place = Place::new(&Tree::from([(path(b"a\xff"), file("1")), (path(b"d\xfe"), Item::Dir)]));
    let to = Tree::from([
        (path(b"a\xff"), file("2")),
        (path(b"d\xfe"), Item::Dir),
        (path(b"d\xfe/\xfd\n"), file("3")),
    ]);
    go(&place, &to, || {});
    assert_eq!(place.read(), to);
}

#[test]
fn mode_owner_and_attributes_of_the_old_file_stay() {
    let place = Place::new(&tree([("a", file("1")), ("b", file("1"))]));
    fs::set_permissions(place.at("a"), fs::Permissions::from_mode(0o640)).unwrap();
    let old = fs::File::open(place.at("a")).unwrap();
    let set = rustix::fs::fsetxattr(&old, "user.note", b"mine", rustix::fs::XattrFlags::empty());
    let is_root = rustix::process::geteuid().is_root();
    if is_root {
        std::os::unix::fs::chown(place.at("a"), Some(1234), Some(1235)).unwrap();
    }
    let to = tree([("a", Item::File(b"2".into(), true)), ("b", file("2"))]);
    let (set_after, _) = go(&place, &to, || {});
    assert_eq!(reasons(&set_after), Vec::<String>::new());
    let meta = fs::metadata(place.at("a")).unwrap();
    assert_eq!(meta.mode() & 0o7777, 0o750);
    if is_root {
        assert_eq!((meta.uid(), meta.gid()), (1234, 1235));
    }
    if set.is_ok() {
        let new = fs::File::open(place.at("a")).unwrap();
        let mut value = [0; 16];
        let len = rustix::fs::fgetxattr(&new, "user.note", &mut value[..]).unwrap();
        assert_eq!(&value[..len], b"mine");
    }
}

#[test]
fn one_conflict_holds_everything_and_nothing_is_touched() {
    let from = tree([("a", file("1")), ("b", file("1")), ("c", file("1")), ("d", Item::Dir)]);
    let to = tree([("a", file("2")), ("c", file("1")), ("new", file("n")), ("z", file("2"))]);
    for (name, reason) in [
        ("a", "changed on the host since it was sent"),
        ("b", "changed on the host since it was sent"),
        ("z", "exists on the host, where nothing was sent from"),
    ] {
        let place = Place::new(&from);
        let (set, applied) = go(&place, &to, || fs::write(place.at(name), "user").unwrap());
        assert_eq!(
            applied.conflicts,
            [Conflict { path: path(name), reason: reason.into() }],
            "{name}"
        );
        let mut expected = from.clone();
        expected.insert(path(name), file("user"));
        assert_eq!(place.read(), expected);
        assert!(set.changes.iter().all(|c| c.state == ChangeState::Held && c.reason.is_some()));
        assert_eq!(applied.applied, 0);
    }
}

#[test]
fn what_the_host_has_already_counts_as_applied() {
    let from = tree([("a", file("1")), ("b", file("1")), ("d", Item::Dir)]);
    let to = tree([("a", file("2")), ("c", file("3")), ("e", Item::Dir)]);
    let place = Place::new(&from);
    let (set, applied) = go(&place, &to, || {
        fs::write(place.at("a"), "2").unwrap();
        fs::write(place.at("c"), "3").unwrap();
        fs::remove_file(place.at("b")).unwrap();
        fs::create_dir(place.at("e")).unwrap();
    });
    assert_eq!(applied.conflicts, []);
    assert!(set.changes.iter().all(|c| c.state == ChangeState::Applied));
    assert_eq!(place.read(), to);
}

#[test]
fn a_held_change_set_is_applied_later_from_the_run_folder_alone() {
    let from = tree([("a", file("1"))]);
    let to = tree([("a", file("2")), ("b", file("3"))]);
    let place = Place::new(&from);
    let (set, archive) = place.changes(&place.snapshot(), &from, &to);
    let text = serde_json::to_string(&set).unwrap();
    let mut later: ChangeSet = serde_json::from_str(&text).unwrap();
    apply_at(&place.workspace, &mut later, &archive, "run", &mut |_| {}).unwrap();
    assert_eq!(place.read(), to);
    // Once more is nothing.
    let again = apply_at(&place.workspace, &mut later, &archive, "run", &mut |_| {}).unwrap();
    assert_eq!(again.applied, 0);
}

#[test]
fn before_tar_has_the_base_of_what_was_replaced_or_deleted() {
    let place = Place::new(&tree([("a", file("old a")), ("b", file("old b")), ("c", file("c"))]));
    let to = tree([("a", file("new")), ("c", file("c"))]);
    go(&place, &to, || {});
    let before = fs::File::open(place.dir.path().join("run-0/before.tar")).unwrap();
    let mut found = BTreeMap::new();
    for entry in tar::Archive::new(before).entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut content = String::new();
        io::Read::read_to_string(&mut entry, &mut content).unwrap();
        found.insert(String::from_utf8(entry.path_bytes().into_owned()).unwrap(), content);
    }
    let expected = [("a", "old a"), ("b", "old b")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    assert_eq!(found, BTreeMap::from(expected));
}

#[test]
fn a_link_planted_above_a_path_is_refused() {
    let from = tree([("d", Item::Dir), ("d/a", file("1")), ("e", Item::Dir), ("e/x", file("1"))]);
    for to in [
        tree([("d", Item::Dir), ("d/a", file("2")), ("e", Item::Dir), ("e/x", file("1"))]),
        tree([("d", Item::Dir), ("e", Item::Dir), ("e/x", file("1"))]),
        tree([
            ("d", Item::Dir),
            ("d/a", file("1")),
            ("d/n", file("2")),
            ("e", Item::Dir),
            ("e/x", file("1")),
        ]),
    ] {
        for point in [None, Some(Point::Looked), Some(Point::Staged)] {
            let place = Place::new(&from);
            let outside = place.dir.path().join("outside");
            fs::create_dir(&outside).unwrap();
            fs::write(outside.join("a"), "1").unwrap();
            let plant = || {
                fs::rename(place.at("d"), place.at("e/moved")).unwrap();
                symlink(&outside, place.at("d")).unwrap();
            };
            let (set, applied) = go_at(
                &place,
                &to,
                || {
                    if point.is_none() {
                        plant();
                    }
                },
                &mut |at| {
                    if Some(at) == point {
                        plant();
                    }
                },
            );
            assert_eq!(applied.unwrap().conflicts.len(), 1, "{point:?}");
            assert!(set.changes.iter().all(|c| c.state == ChangeState::Held));
            let left: Vec<_> =
                fs::read_dir(&outside).unwrap().map(|e| e.unwrap().file_name()).collect();
            assert_eq!(left, ["a"]);
            assert_eq!(fs::read(outside.join("a")).unwrap(), b"1");
            assert_eq!(fs::read(place.at("e/moved/a")).unwrap(), b"1");
        }
    }
}

#[test]
fn a_directory_with_files_that_stayed_home_stays() {
    let from = tree([("d", Item::Dir), ("d/a", file("1")), ("b", file("1"))]);
    let place = Place::new(&from);
    let sent = place.snapshot();
    fs::write(place.at("d/ignored"), "mine").unwrap();
    let to = tree([("b", file("2"))]);
    let (mut set, archive) = place.changes(&sent, &from, &to);
    let applied = apply_at(&place.workspace, &mut set, &archive, "run", &mut |_| {}).unwrap();
    assert_eq!(applied.conflicts, []);
    assert_eq!(
        place.read(),
        tree([("b", file("2")), ("d", Item::Dir), ("d/ignored", file("mine"))])
    );
    assert_eq!(set.state(), crate::workspace::change::ChangesState::Partly);
    assert_eq!(reasons(&set), ["still has files that are no part of the change"]);

    // Where a file must take its place there is no room for both.
    let place = Place::new(&from);
    let sent = place.snapshot();
    fs::write(place.at("d/ignored"), "mine").unwrap();
    let before = place.read();
    let (mut set, archive) =
        place.changes(&sent, &from, &tree([("b", file("2")), ("d", file("x"))]));
    let applied = apply_at(&place.workspace, &mut set, &archive, "run", &mut |_| {}).unwrap();
    assert_eq!(applied.conflicts.len(), 1);
    assert_eq!(place.read(), before);
}

#[test]
fn a_hard_link_elsewhere_keeps_the_old_bytes() {
    let place = Place::new(&tree([("a", file("1"))]));
    let other = place.dir.path().join("other");
    fs::hard_link(place.at("a"), &other).unwrap();
    go(&place, &tree([("a", file("2"))]), || {});
    assert_eq!(fs::read(place.at("a")).unwrap(), b"2");
    assert_eq!(fs::read(&other).unwrap(), b"1");
}

/// At every single step, a user's save anywhere undoes all and stays.
#[test]
fn a_save_at_any_step_is_kept_and_all_else_is_as_before() {
    let from = tree([
        ("a", file("1")),
        ("b", file("1")),
        ("c", Item::Dir),
        ("c/d", file("1")),
        ("e", Item::Dir),
        ("f", file("1")),
    ]);
    let to = tree([
        ("a", file("2")),
        ("c", file("2")),
        ("e", Item::Dir),
        ("e/new", file("2")),
        ("f", Item::File(b"1".into(), true)),
        ("g", Item::Dir),
        ("g/h", file("2")),
    ]);
    for by_rename in [false, true] {
        for name in ["a", "b", "c/d", "e/new", "g/h"] {
            for step in 0.. {
                let place = Place::new(&from);
                let mut seen = 0;
                let mut saved = false;
                let (set, applied) = go_at(&place, &to, || {}, &mut |_| {
                    if seen == step {
                        let target = place.at(name);
                        if by_rename {
                            let temp = place.dir.path().join("editor");
                            fs::write(&temp, "user").unwrap();
                            saved = fs::rename(&temp, target).is_ok();
                        } else {
                            // Without waiting for a lease that this very thread holds.
                            let flags = rustix::fs::OFlags::WRONLY
                                | rustix::fs::OFlags::CREATE
                                | rustix::fs::OFlags::NONBLOCK
                                | rustix::fs::OFlags::TRUNC;
                            let mode = rustix::fs::Mode::from_raw_mode(0o644);
                            if let Ok(fd) = rustix::fs::open(&target, flags, mode) {
                                rustix::io::write(&fd, b"user").unwrap();
                                saved = true;
                            }
                        }
                    }
                    seen += 1;
                });
                let applied = applied.unwrap();
                let mut now = place.read();
                if seen <= step {
                    break;
                }
                let context = format!("{name} at {step}, by rename {by_rename}: {applied:?}");
                assert_eq!(applied.notes, Vec::<String>::new(), "{context}");
                if saved {
                    assert_eq!(now.remove(&path(name)), Some(file("user")), "{context}");
                }
                let mut expected = if applied.conflicts.is_empty() { &to } else { &from }.clone();
                assert_eq!(
                    applied.conflicts.is_empty(),
                    set.changes.iter().all(|c| c.state == ChangeState::Applied),
                    "{context}"
                );
                if saved {
                    expected.remove(&path(name));
                    // Directories that the save needs stay with it.
                    for above in std::iter::successors(path(name).parent(), RelPath::parent) {
                        expected.remove(&above);
                        now.remove(&above);
                    }
                }
                assert_eq!(now, expected, "{context}");
            }
        }
    }
}

#[test]
fn what_the_host_refuses_undoes_everything() {
    let from = tree([("a", file("1")), ("b", file("1"))]);
    let place = Place::new(&from);
    let to = tree([("a", file("2")), ("c", file("3"))]);
    let (mut set, archive) = place.changes(&place.snapshot(), &from, &to);
    fs::write(&archive, b"short").unwrap();
    let error = apply_at(&place.workspace, &mut set, &archive, "run", &mut |_| {}).unwrap_err();
    assert!(matches!(error, ApplyError::Archive { .. }), "{error}");
    assert_eq!(place.read(), from);
    assert!(set.changes.iter().all(|c| c.state == ChangeState::Held));
}

#[test]
fn many_small_files_are_applied_at_once() {
    let many = |content: &str| -> Tree {
        let dirs = (0..10).map(|n| (path(format!("d{n}")), Item::Dir));
        let files = (0..1000).map(|n| (path(format!("d{}/f{n}", n % 10)), file(content)));
        dirs.chain(files).collect()
    };
    let place = Place::new(&many("old"));
    let from = place.read();
    let to = many("new");
    let (mut set, archive) = place.changes(&place.snapshot(), &from, &to);
    let start = std::time::Instant::now();
    let applied = apply_at(&place.workspace, &mut set, &archive, "run", &mut |_| {}).unwrap();
    println!("1,000 files replaced in {:?}", start.elapsed());
    assert_eq!(applied.applied, 1000);
    assert_eq!(place.read(), to);
}

#[test]
fn what_fails_in_the_middle_is_undone_whichever_step_it_is() {
    let from = tree([
        ("a", file("1")),
        ("b", Item::Dir),
        ("b/x", file("1")),
        ("c", file("1")),
        ("d", file("1")),
    ]);
    let to = tree([
        ("a", file("2")),
        ("b", file("2")),
        ("c", Item::Dir),
        ("c/y", file("2")),
        ("d", Item::File(b"1".into(), true)),
        ("z", file("2")),
    ]);
    // Three steps make room, six more write; after the last there is nothing left to fail.
    for step in 0..10 {
        let place = Place::new(&from);
        let mut seen = 0;
        let (set, applied) = go_at(&place, &to, || {}, &mut |at| {
            seen += u32::from(at == Point::Stepped);
            if seen == step && matches!(at, Point::Staged | Point::Stepped) {
                // Whatever is staged and not yet used is gone.
                for entry in fs::read_dir(&place.workspace.path).unwrap() {
                    let entry = entry.unwrap();
                    let content = fs::read(entry.path()).unwrap_or_default();
                    if entry.file_name().to_string_lossy().ends_with(".tmp") && content == b"2" {
                        fs::remove_file(entry.path()).unwrap();
                    }
                }
            }
        });
        let applied = applied.unwrap();
        let undone = !applied.conflicts.is_empty();
        assert_eq!(undone, step < 9, "{step} {applied:?}");
        assert_eq!(place.read(), if undone { &from } else { &to }.clone(), "{step} {applied:?}");
        let state = if undone { ChangeState::Held } else { ChangeState::Applied };
        assert!(set.changes.iter().all(|c| c.state == state));
    }
}
