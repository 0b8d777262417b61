//! What the host refuses, path by path; and what is applied all the same.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use rustix::io::Errno;

use super::refusal::refusal;
use super::tests::{apply_as, apply_at};
use super::*;
use crate::workspace::change::{ChangeState, ContentHash, Stamp};
use crate::workspace::fixture::{Item, Place, Tree, file, path, tree};
use crate::workspace::host::{Features, stamp};

fn with(
    features: Features,
    on_conflict: OnConflict,
    place: &Place,
    to: &Tree,
) -> (ChangeSet, Applied) {
    let (mut set, archive) = place.changes(&place.snapshot(), &place.read(), to);
    let folder = archive.parent().unwrap();
    let parts = Parts { run: "run", folder, state: &folder.join("../state") };
    let order = Order::apply(&mut set, &[], on_conflict, &parts);
    let host = Host::with(&place.workspace, features);
    let workspace = &place.workspace;
    let applied = transact_at(&host, workspace, &mut set, &order, &mut |_| {}).unwrap();
    (set, applied)
}

fn state_of(set: &ChangeSet, name: &str) -> (ChangeState, String) {
    let change = set.changes.iter().find(|change| change.path == path(name)).unwrap();
    (change.state, change.reason.clone().unwrap_or_default())
}

fn refusing(refuse: fn(&RelPath) -> Option<Errno>) -> Features {
    Features { refuse: Some(refuse), ..Features::default() }
}

#[test]
fn each_path_is_told_why_it_was_refused_and_nothing_is_lost() {
    for (errno, part) in [
        (Errno::NOSPC, "the disk is full"),
        (Errno::ACCESS, "may not write there"),
        (Errno::ROFS, "read-only"),
        (Errno::NAMETOOLONG, "too long"),
        (Errno::ILSEQ, "does not take such a name"),
        (Errno::XDEV, "mounted"),
        (Errno::IO, "cannot be written"),
    ] {
        assert!(refusal("written", &errno.into()).contains(part), "{errno}");
    }
    let from = tree([
        ("a", file("1")),
        ("d", Item::Dir),
        ("d/x", file("1")),
        ("d/gone", file("1")),
        ("z", file("1")),
    ]);
    let to = tree([
        ("a", file("2")),
        ("d", Item::Dir),
        ("d/x", file("2")),
        ("d/new", Item::Dir),
        ("d/new/y", file("2")),
        ("z", file("2")),
    ]);
    // As where a directory may not be written.
    let features = refusing(|path| path.as_bytes().starts_with(b"d/").then_some(Errno::ACCESS));
    let place = Place::new(&from);
    let (set, applied) = with(features, OnConflict::HoldAll, &place, &to);
    assert_eq!(place.read(), from);
    assert!(set.changes.iter().all(|change| change.state == ChangeState::Held));
    assert!(applied.conflicts.iter().all(|c| c.reason.contains("may not write there")));
    assert!(!applied.conflicts.is_empty());
    assert_eq!(state_of(&set, "a").1, "held because other paths are in conflict");

    let place = Place::new(&from);
    let (_, applied) = with(features, OnConflict::HoldConflicting, &place, &to);
    let told: Vec<String> = applied.conflicts.iter().map(|c| c.path.to_string()).collect();
    assert_eq!(told, ["d/gone", "d/new", "d/new/y", "d/x"], "{applied:?}");
    let mut expected = from.clone();
    expected.extend([(path("a"), file("2")), (path("z"), file("2"))]);
    assert_eq!(place.read(), expected);
    assert_eq!(applied.applied, 2);
}

#[test]
fn what_lies_below_a_directory_that_cannot_be_made_is_held_with_it() {
    let from = tree([("a", file("1")), ("b", file("1"))]);
    let mut to = from.clone();
    to.extend([(path("a"), file("2")), (path("n"), Item::Dir), (path("n/y"), file("2"))]);
    let place = Place::new(&from);
    let features = refusing(|path| (path.as_bytes() == b"n").then_some(Errno::NOSPC));
    let (set, applied) = with(features, OnConflict::HoldConflicting, &place, &to);
    assert_eq!(applied.conflicts.len(), 1);
    let held = (ChangeState::Held, "held with n, which is above it".to_owned());
    assert_eq!(state_of(&set, "n/y"), held);
    let mut expected = from.clone();
    expected.insert(path("a"), file("2"));
    assert_eq!(place.read(), expected);
}

/// As root, no mode keeps anybody out.
#[test]
fn a_directory_that_may_not_be_written_is_told_at_its_paths() {
    if rustix::process::geteuid().is_root() {
        println!("left out: root may write everywhere");
        return;
    }
    let from = tree([("a", file("1")), ("d", Item::Dir), ("d/x", file("1"))]);
    let to = tree([("a", file("2")), ("d", Item::Dir), ("d/x", file("2"))]);
    let place = Place::new(&from);
    let lock = |mode| fs::set_permissions(place.at("d"), fs::Permissions::from_mode(mode)).unwrap();
    lock(0o555);
    let (_, applied) = with(Features::default(), OnConflict::HoldAll, &place, &to);
    lock(0o755);
    assert_eq!(applied.conflicts.len(), 1);
    assert_eq!(applied.conflicts[0].path, path("d/x"));
    assert_eq!(place.read(), from);
}

#[test]
fn without_leases_what_would_be_replaced_is_held() {
    let from = tree([("a", file("1")), ("b", file("1"))]);
    let to = tree([("a", file("2")), ("c", file("3"))]);
    let features = Features { leases: false, ..Features::default() };
    let place = Place::new(&from);
    let (_, applied) = with(features, OnConflict::HoldAll, &place, &to);
    assert_eq!(place.read(), from);
    assert!(applied.conflicts[0].reason.contains("lease"), "{applied:?}");
    let place = Place::new(&from);
    let (set, applied) = with(features, OnConflict::HoldConflicting, &place, &to);
    let mut expected = from.clone();
    expected.insert(path("c"), file("3"));
    assert_eq!(place.read(), expected, "{applied:?}");
    assert_eq!(set.state(), crate::workspace::change::ChangesState::Partly);
}

#[test]
fn without_exchange_it_is_applied_and_said() {
    let from = tree([("a", file("1")), ("b", file("1"))]);
    let to = tree([("a", file("2")), ("c", file("3"))]);
    for links in [true, false] {
        let features = Features { exchange: false, no_replace: false, links, ..Default::default() };
        let place = Place::new(&from);
        let (_, applied) = with(features, OnConflict::HoldAll, &place, &to);
        assert_eq!(place.read(), to);
        assert!(applied.notes[0].contains("cannot exchange"), "{applied:?}");
    }
}

#[test]
fn a_bit_set_on_the_host_and_bytes_from_the_run_go_together() {
    for (before, after) in [(0o644, 0o755), (0o755, 0o640)] {
        let from = tree([("a", Item::File(b"1".into(), before == 0o755)), ("b", file("1"))]);
        let mut to = from.clone();
        to.insert(path("a"), Item::File(b"2".into(), before == 0o755));
        let place = Place::new(&from);
        let (mut set, archive) = place.changes(&place.snapshot(), &from, &to);
        fs::set_permissions(place.at("a"), fs::Permissions::from_mode(after)).unwrap();
        let applied = apply_as(OnConflict::HoldAll, &place.workspace, &mut set, &archive);
        assert_eq!(applied.conflicts, []);
        assert_eq!(fs::read(place.at("a")).unwrap(), b"2");
        assert_eq!(fs::metadata(place.at("a")).unwrap().mode() & 0o7777, after);
        // What is recorded is what is there, so that it can be undone.
        let change = &set.changes[0];
        assert_eq!(change.new.as_ref().unwrap().executable, after == 0o755);
        assert_eq!(change.before.as_ref().unwrap().mode, after);
    }
}

#[test]
fn a_file_with_its_old_stamp_is_not_read_and_compared_all_the_same() {
    let from = tree([("a", file("1")), ("b", file("1"))]);
    let to = tree([("a", file("2")), ("b", file("2"))]);
    let place = Place::new(&from);
    let (mut set, archive) = place.changes(&place.snapshot(), &from, &to);
    let stamps = |set: &mut ChangeSet, wrong: bool| {
        for change in &mut set.changes {
            let base = change.base.as_mut().unwrap();
            let host = Host::of(&place.workspace);
            base.stamp = Some(stamp(&host.stat(&change.path).unwrap()));
            if wrong {
                base.hash = Some(ContentHash([7; 32]));
            }
        }
    };
    stamps(&mut set, true);
    // A hash that was never read passes the first look, and is seen before anything is lost.
    let mut points = Vec::new();
    let applied = apply_at(&place.workspace, &mut set, &archive, "run", &mut |at| points.push(at));
    assert_eq!(applied.unwrap().conflicts.len(), 2);
    assert!(points.contains(&Point::Staged), "{points:?}");
    assert_eq!(place.read(), from);

    let (mut set, archive) = place.changes(&place.snapshot(), &from, &to);
    stamps(&mut set, false);
    let stale = |set: &mut ChangeSet| {
        let stamp = set.changes[0].base.as_mut().unwrap().stamp.as_mut().unwrap();
        *stamp = Stamp { ctime: (1, 1), ..*stamp };
    };
    stale(&mut set);
    apply_at(&place.workspace, &mut set, &archive, "run", &mut |_| {}).unwrap();
    assert_eq!(place.read(), to);
}

#[test]
fn a_file_changed_just_before_it_is_sent_has_no_stamp() {
    let place = Place::new(&tree([("old", file("1")), ("new", file("1"))]));
    let host = Host::of(&place.workspace);
    let mut snapshot = place.snapshot();
    let changed = stamp(&host.stat(&path("new")).unwrap()).ctime;
    let stamped = snapshot.nodes.iter().map(|(path, node)| {
        let Stamp { dev, ino, mtime, mut ctime } = stamp(&host.stat(path).unwrap());
        ctime.0 -= i64::from(path.as_bytes() == b"old");
        (path.clone(), crate::workspace::Node { dev, ino, mtime, ctime, ..node.clone() })
    });
    snapshot.nodes = stamped.collect();
    snapshot.taken = changed;
    snapshot.local = Some(host.stat(&path("old")).unwrap().st_dev);
    let base = |name: &str| snapshot.base(&path(name)).unwrap().stamp;
    assert!(base("old").is_some());
    assert_eq!(base("new"), None);
    // On another device, or one whose times are not of this clock.
    for local in [snapshot.local.map(|device| device + 1), None] {
        let snapshot = crate::workspace::Snapshot { local, ..snapshot.clone() };
        assert_eq!(snapshot.base(&path("old")).unwrap().stamp, None);
    }
    // The clock is that of the files, and one tick behind.
    let now = crate::workspace::before_this_tick();
    fs::write(place.at("later"), "1").unwrap();
    assert!(stamp(&host.stat(&path("later")).unwrap()).ctime > now);
    assert_eq!(
        crate::workspace::fixture::snapshot(&place.read()).base(&path("old")).unwrap().stamp,
        None
    );
}

/// Access lists travel as attributes; `setfacl` is asked for one, where there is such a program.
#[test]
fn an_access_list_stays_with_its_file() {
    let from = tree([("a", file("1")), ("b", file("1"))]);
    let place = Place::new(&from);
    let file_a = fs::File::open(place.at("a")).unwrap();
    // Version 2: user rw-, user 1234 r-x, group r--, mask r-x, other ---.
    let mut list = 2u32.to_le_bytes().to_vec();
    for (tag, perm, id) in [
        (1u16, 6u16, u32::MAX),
        (2, 5, 1234),
        (4, 4, u32::MAX),
        (16, 5, u32::MAX),
        (32, 0, u32::MAX),
    ] {
        list.extend([&tag.to_le_bytes()[..], &perm.to_le_bytes(), &id.to_le_bytes()].concat());
    }
    let name = c"system.posix_acl_access";
    if let Err(error) = rustix::fs::fsetxattr(&file_a, name, &list, rustix::fs::XattrFlags::empty())
    {
        println!("left out: no access lists here ({error})");
        return;
    }
    let mut to = from.clone();
    to.insert(path("a"), file("2"));
    let (mut set, archive) = place.changes(&place.snapshot(), &from, &to);
    let applied = apply_as(OnConflict::HoldAll, &place.workspace, &mut set, &archive);
    assert_eq!(applied.conflicts, []);
    let mut value = [0; 128];
    let now = fs::File::open(place.at("a")).unwrap();
    let len = rustix::fs::fgetxattr(&now, name, &mut value[..]).unwrap();
    assert_eq!(&value[..len], list);
    let before = set.changes[0].before.clone().unwrap();
    assert!(before.attributes.iter().any(|(_, value)| value.starts_with("02000000")));
}

#[test]
fn an_archive_that_is_damaged_holds_everything() {
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
fn a_state_directory_that_cannot_be_written_stops_it_before_anything_is_done() {
    let from = tree([("a", file("1"))]);
    let place = Place::new(&from);
    let (mut set, archive) = place.changes(&place.snapshot(), &from, &tree([("a", file("2"))]));
    let folder = archive.parent().unwrap();
    let parts = Parts { run: "run", folder, state: Path::new("/proc/none") };
    let error = apply(&place.workspace, &mut set, &[], OnConflict::HoldAll, &parts).unwrap_err();
    assert!(error.to_string().contains("journal"), "{error}");
    assert_eq!(place.read(), from);
}
