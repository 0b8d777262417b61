//! Random trees on both sides.

use proptest::prelude::*;

use std::collections::{BTreeMap, BTreeSet};

use super::plan::Wanted;
use super::tests::{apply_as, apply_at, go};
use super::*;
use crate::workspace::change::{ChangeState, Hold};
use crate::workspace::fixture::{Item, Place, Tree, path};

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
        let mut tree = Tree::new();
        for (name, item) in items {
            let name = path(name);
            for above in std::iter::successors(name.parent(), RelPath::parent) {
                tree.insert(above, Item::Dir);
            }
            tree.insert(name, item);
        }
        let directories: BTreeSet<RelPath> = tree.keys().filter_map(RelPath::parent).collect();
        for path in directories {
            tree.insert(path, Item::Dir);
        }
        tree
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn any_tree_becomes_any_other(from in any_tree(), to in any_tree()) {
        let place = Place::in_memory(&from);
        let (set, applied) = go(&place, &to, || {});
        prop_assert_eq!(applied.conflicts, []);
        prop_assert!(set.changes.iter().all(|c| c.state == ChangeState::Applied));
        prop_assert_eq!(place.read(), to);
    }

    #[test]
    fn what_is_held_is_never_written(
        from in any_tree(), to in any_tree(), held in proptest::collection::vec(any::<bool>(), 20),
    ) {
        let place = Place::in_memory(&from);
        let (mut set, archive) = place.changes(&place.snapshot(), &from, &to);
        for (change, held) in set.changes.iter_mut().zip(held) {
            change.hold = held.then_some(Hold::Person);
        }
        let applied = apply_at(&place.workspace, &mut set, &archive, "run", &mut |_| {}).unwrap();
        let now = place.read();
        for change in &set.changes {
            let expected =
                if change.state == ChangeState::Applied { to.get(&change.path) } else { from.get(&change.path) };
            prop_assert_eq!(now.get(&change.path), expected, "{:?} {:?}", change, applied);
            prop_assert!(change.hold.is_none() || change.state == ChangeState::Held);
        }
    }

    #[test]
    fn with_edits_on_the_host_the_rest_is_applied_if_asked_for(
        from in any_tree(), to in any_tree(), host in any_tree(),
    ) {
        let place = Place::in_memory(&host);
        let sent = crate::workspace::fixture::snapshot(&from);
        let (mut set, archive) = place.changes(&sent, &from, &to);
        let applied = apply_as(OnConflict::HoldConflicting, &place.workspace, &mut set, &archive);
        let now = place.read();
        for change in &set.changes {
            let path = &change.path;
            let expected = match change.state {
                ChangeState::Applied => to.get(path),
                ChangeState::Held => host.get(path),
            };
            // A bit that was changed on the host only stays as it is there.
            let kept_bit = match (expected, now.get(path)) {
                (Some(Item::File(one, _)), Some(Item::File(other, _))) => one == other,
                (one, other) => one == other,
            };
            prop_assert!(kept_bit, "{:?} {:?}", change, applied);
            prop_assert!(change.reason.is_some() == (change.state == ChangeState::Held));
        }
        for (path, item) in &host {
            if set.changes.iter().all(|change| change.path != *path) {
                prop_assert_eq!(now.get(path), Some(item));
            }
        }
        let held = set.changes.iter().filter(|c| c.state == ChangeState::Held).count();
        prop_assert!(applied.conflicts.is_empty() == (held == 0) || held > 0);
    }

    /// Whatever is refused, the rest can be written without it.
    #[test]
    fn what_is_held_with_others_is_enough_and_not_more_than_asked_for(
        from in any_tree(), to in any_tree(), refuse in proptest::collection::vec(any::<bool>(), 20),
    ) {
        let place = Place::in_memory(&from);
        let (set, _) = place.changes(&place.snapshot(), &from, &to);
        let wanted = Wanted::new(&set.changes);
        let refused: BTreeMap<RelPath, String> = set
            .changes
            .iter()
            .zip(refuse)
            .filter(|(_, refuse)| *refuse)
            .map(|(change, _)| (change.path.clone(), "refused".into()))
            .collect();
        let held = wanted.closure(&refused);
        prop_assert!(refused.iter().all(|(path, why)| held.get(path) == Some(why)));
        prop_assert_eq!(wanted.closure(&held), held.clone());
        if refused.is_empty() {
            prop_assert!(held.is_empty());
        }
        let mut tree = from.clone();
        for change in set.changes.iter().filter(|change| !held.contains_key(&change.path)) {
            match to.get(&change.path) {
                Some(item) => tree.insert(change.path.clone(), item.clone()),
                None => tree.remove(&change.path),
            };
        }
        for path in tree.keys() {
            let parent = path.parent().map(|parent| tree.get(&parent));
            prop_assert!(parent.is_none_or(|parent| parent == Some(&Item::Dir)), "{} {:?}", path, held);
        }
    }

    #[test]
    fn with_edits_on_the_host_it_is_all_or_nothing(
        from in any_tree(), to in any_tree(), host in any_tree(),
    ) {
        let place = Place::in_memory(&host);
        let sent = crate::workspace::fixture::snapshot(&from);
        let (mut set, archive) = place.changes(&sent, &from, &to);
        let applied = apply_at(&place.workspace, &mut set, &archive, "run", &mut |_| {}).unwrap();
        let now = place.read();
        if applied.conflicts.is_empty() {
            for change in &set.changes {
                let stays = change.state == ChangeState::Held;
                let same = match (now.get(&change.path), to.get(&change.path)) {
                    (Some(Item::File(one, _)), Some(Item::File(other, _))) => one == other,
                    (one, other) => one == other,
                };
                prop_assert!(stays || same);
            }
            // What was no part of the change is as the user has it.
            for (path, item) in &host {
                if set.changes.iter().all(|change| change.path != *path) {
                    prop_assert_eq!(now.get(path), Some(item));
                }
            }
        } else {
            prop_assert_eq!(now, host);
            prop_assert!(set.changes.iter().all(|c| c.state == ChangeState::Held));
        }
    }
}
