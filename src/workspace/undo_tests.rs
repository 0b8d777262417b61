use std::fs;
use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::workspace::apply::apply;
use crate::workspace::change::ChangesState;
use crate::workspace::fixture::{Item, Place, Tree, file, path, tree};

/// Does something with the parts of a run.
fn with_parts<T>(place: &Place, archive: &Path, work: impl FnOnce(&Parts<'_>) -> T) -> T {
    let state = place.dir.path().join("state");
    work(&Parts { run: "run", folder: archive.parent().unwrap(), state: &state })
}

fn apply_all(place: &Place, set: &mut ChangeSet, archive: &Path) {
    with_parts(place, archive, |parts| {
        let applied =
            apply(&place.workspace, set, &[], OnConflict::HoldConflicting, parts).unwrap();
        assert_eq!(applied.conflicts, []);
    });
}

fn undo_at(place: &Place, set: &mut ChangeSet, archive: &Path, only: &[&str]) -> Undone {
    let only: Vec<RelPath> = only.iter().map(path).collect();
    with_parts(place, archive, |parts| undo(&place.workspace, set, &only, parts).unwrap())
}

fn names(paths: &[RelPath]) -> Vec<String> {
    paths.iter().map(ToString::to_string).collect()
}

fn refused(undone: &Undone) -> Vec<(String, &str)> {
    undone.refused.iter().map(|c| (c.path.to_string(), c.reason.as_str())).collect()
}

fn item() -> impl Strategy<Value = Item> {
    prop_oneof![
        3 => ("[xy]{0,2}", any::<bool>()).prop_map(|(c, x)| Item::File(c.into_bytes(), x)),
        2 => Just(Item::Dir),
        1 => "[ab]".prop_map(|t| Item::Link(t.into_bytes())),
    ]
}

/// A tree in which every parent is a directory.
fn any_tree() -> impl Strategy<Value = Tree> {
    proptest::collection::btree_map("[abc](/[abc]){0,2}", item(), 0..10).prop_map(|items| {
        let mut tree: Tree = items.into_iter().map(|(name, item)| (path(name), item)).collect();
        let above: Vec<RelPath> = tree
            .keys()
            .flat_map(|name| std::iter::successors(name.parent(), RelPath::parent))
            .collect();
        tree.extend(above.into_iter().map(|above| (above, Item::Dir)));
        tree
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn any_apply_is_undone_and_its_undo_too(from in any_tree(), to in any_tree()) {
        let place = Place::new(&from);
        let (mut set, archive) = place.changes(&place.snapshot(), &from, &to);
        for _ in 0..2 {
            apply_all(&place, &mut set, &archive);
            prop_assert_eq!(place.read(), to.clone());
            let undone = undo_at(&place, &mut set, &archive, &[]);
            prop_assert_eq!(undone.refused, []);
            prop_assert_eq!(undone.paths.len(), set.changes.len());
            let undone = |c: &Change| c.is_waiting() && c.reason.as_deref() == Some("undone");
            prop_assert!(set.changes.iter().all(undone), "{:?}", set);
            prop_assert_eq!(place.read(), from.clone());
        }
    }

    #[test]
    fn what_was_edited_since_is_never_touched(
        from in any_tree(), to in any_tree(), edits in proptest::collection::vec(0..4, 30),
    ) {
        let place = Place::new(&from);
        let (mut set, archive) = place.changes(&place.snapshot(), &from, &to);
        apply_all(&place, &mut set, &archive);
        // Of everything that is there now some is edited, some replaced, some new beside it.
        for ((name, item), edit) in place.read().into_iter().zip(edits) {
            let at = place.workspace.path.join(name.as_path());
            match (item, edit) {
                (Item::File(..), 1) => fs::write(&at, "edited").unwrap(),
                (Item::File(..) | Item::Link(_), 2) => {
                    fs::remove_file(&at).unwrap();
                    fs::create_dir(&at).unwrap();
                }
                (Item::Dir, 1) => fs::write(at.join("mine"), "mine").unwrap(),
                _ => {}
            }
        }
        let edited = place.read();
        let undone = undo_at(&place, &mut set, &archive, &[]);
        let now = place.read();
        for change in &set.changes {
            let expected = match change.state {
                ChangeState::Held => from.get(&change.path),
                ChangeState::Applied => edited.get(&change.path),
            };
            prop_assert_eq!(now.get(&change.path), expected, "{:?} {:?}", change, undone);
            // What nobody touched, nor anything in it or above it, is taken back. What was made
            // where something else was counts as one with all that is in it.
            let one = |above: &RelPath| {
                let mut found = set.changes.iter().filter(|c| c.path == *above);
                found.any(|c| c.base.is_some() && c.new.is_some())
            };
            let whole = std::iter::successors(change.path.parent(), RelPath::parent)
                .filter(|above| one(above)).last().unwrap_or_else(|| change.path.clone());
            let touched = edited.iter().filter(|(name, item)| to.get(*name) != Some(*item))
                .any(|(name, _)| name.is_within(&whole) || change.path.is_within(name));
            prop_assert!(touched || change.state == ChangeState::Held, "{:?} {:?}", change, undone);
        }
        for (name, item) in edited.iter().filter(|(name, item)| to.get(*name) != Some(*item)) {
            prop_assert_eq!(now.get(name), Some(item));
        }
    }
}

#[test]
fn by_path_the_directories_above_come_and_go_too() {
    let from = tree([("gone/a", file("a")), ("gone/b", file("b")), ("x", file("x"))]);
    let to = tree([("made/m", file("m")), ("made/n", file("n")), ("x", file("y"))]);
    let place = Place::new(&from);
    let from = place.read();
    let mut to = to;
    to.insert(path("made"), Item::Dir);
    let (mut set, archive) = place.changes(&place.snapshot(), &from, &to);
    apply_all(&place, &mut set, &archive);
    let undone = undo_at(&place, &mut set, &archive, &["gone/a", "made/m"]);
    assert_eq!(names(&undone.paths), ["gone", "gone/a", "made/m"]);
    assert_eq!(undone.refused, []);
    assert_eq!(set.state(), ChangesState::Partly);
    let undone = undo_at(&place, &mut set, &archive, &["made/n"]);
    assert_eq!(names(&undone.paths), ["made", "made/n"]);
    assert!(!place.at("gone/b").exists() && !place.at("made").exists());
    undo_at(&place, &mut set, &archive, &[]);
    assert_eq!(place.read(), from);
}

#[test]
fn what_stays_is_told_with_a_reason_of_an_undo() {
    let from = tree([("a", file("a")), ("b", file("b")), ("c", file("c"))]);
    let mut to = tree([("a", file("A")), ("c", file("C")), ("d/n", file("n"))]);
    to.insert(path("d"), Item::Dir);
    let place = Place::new(&from);
    let (mut set, archive) = place.changes(&place.snapshot(), &from, &to);
    apply_all(&place, &mut set, &archive);
    fs::write(place.at("a"), "mine").unwrap();
    fs::write(place.at("b"), "mine").unwrap();
    fs::write(place.at("d/mine"), "mine").unwrap();
    let undone = undo_at(&place, &mut set, &archive, &[]);
    assert_eq!(names(&undone.paths), ["c", "d/n"]);
    assert_eq!(
        refused(&undone),
        [
            ("a".to_owned(), "changed on the host since the run changed it"),
            ("b".to_owned(), "made on the host since"),
            ("d".to_owned(), "still has files that are no part of the change"),
        ]
    );
    assert!(set.changes.iter().all(|c| c.state == ChangeState::Held || c.reason.is_none()));
}

#[test]
fn what_the_host_had_already_is_not_taken_away() {
    let from = tree([("gone", file("g"))]);
    let to = tree([("new", file("n"))]);
    let place = Place::new(&from);
    let (mut set, archive) = place.changes(&place.snapshot(), &from, &to);
    // The user did the same.
    place.fill(&to);
    fs::remove_file(place.at("gone")).unwrap();
    apply_all(&place, &mut set, &archive);
    undo_at(&place, &mut set, &archive, &[]);
    assert_eq!(place.read(), to);
}

#[test]
fn modes_come_back_and_the_times_of_what_was_deleted() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let from = tree([("changed", file("a")), ("deleted", file("b")), ("mode", file("c"))]);
    let mut to = tree([("changed", file("A")), ("mode", file("c"))]);
    to.insert(path("mode"), Item::File(b"c".to_vec(), true));
    let place = Place::new(&from);
    for name in ["changed", "deleted", "mode"] {
        fs::set_permissions(place.at(name), fs::Permissions::from_mode(0o640)).unwrap();
    }
    let time = |name| fs::metadata(place.at(name)).unwrap().modified().unwrap();
    let (changed, deleted) = (time("changed"), time("deleted"));
    let (mut set, archive) = place.changes(&place.snapshot(), &from, &to);
    apply_all(&place, &mut set, &archive);
    let applied = time("changed");
    undo_at(&place, &mut set, &archive, &[]);
    for name in ["changed", "deleted", "mode"] {
        assert_eq!(fs::metadata(place.at(name)).unwrap().mode() & 0o7777, 0o640, "{name}");
    }
    assert_eq!(time("deleted"), deleted);
    // Or a program that builds would not see that it changed once more.
    assert!(time("changed") >= applied && applied >= changed);
}

#[test]
fn what_before_tar_lost_stays_and_the_rest_is_taken_back() {
    let (from, to) = (
        tree([("a", file("a")), ("b", file("b")), ("c", file("c"))]),
        tree([("a", file("from codex")), ("b", file("from codex too")), ("d", file("new"))]),
    );
    let place = Place::new(&from);
    let (mut set, archive) = place.changes(&place.snapshot(), &from, &to);
    apply_all(&place, &mut set, &archive);
    let before = archive.with_file_name("before.tar");
    let mut bytes = fs::read(&before).unwrap();
    let offset = set.at(&path("b")).unwrap().before.as_ref().unwrap().offset;
    bytes[usize::try_from(offset).unwrap()] ^= 1;
    fs::write(&before, bytes).unwrap();
    let undone = undo_at(&place, &mut set, &archive, &[]);
    assert_eq!(names(&undone.paths), ["a", "c", "d"]);
    let [(name, reason)] = &refused(&undone)[..] else { panic!("{undone:?}") };
    assert!(name == "b" && reason.starts_with("before.tar of the run no longer has"), "{reason}");
    let mut left = from.clone();
    left.insert(path("b"), to[&path("b")].clone());
    assert_eq!(place.read(), left);
}

#[test]
fn what_nobody_else_has_is_not_taken_away() {
    let (from, to) = (tree([("a", file("a"))]), tree([("a", file("from codex"))]));
    let place = Place::new(&from);
    let (mut set, archive) = place.changes(&place.snapshot(), &from, &to);
    apply_all(&place, &mut set, &archive);
    fs::write(&archive, "short").unwrap();
    let undone = with_parts(&place, &archive, |p| undo(&place.workspace, &mut set, &[], p));
    assert!(matches!(undone, Err(ApplyError::Archive { .. })), "{undone:?}");
    fs::remove_file(&archive).unwrap();
    let undone = with_parts(&place, &archive, |p| undo(&place.workspace, &mut set, &[], p));
    assert!(matches!(undone, Err(ApplyError::Archive { .. })), "{undone:?}");
    assert_eq!(place.read(), to);
}
