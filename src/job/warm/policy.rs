//! What is done next ahead of the calls: a pure function.
//!
//! ```text
//!  nothing   while a call waits in line, something is being prepared, or a run has just begun
//!  refresh   an idle container that holds an older state of its workspace, once that is at rest
//!  fill      one that belongs to no workspace:
//!             1. each workspace that was used lately in one, the one used last first
//!             2. the one used last in as many as the pool keeps idle
//!            a large one in two containers at most; the last empty one only if it can be emptied
//!            again or nobody else was here
//! ```

use std::time::Duration;

use crate::workspace::WorkspaceKey;

/// Containers at most that hold the same large tree.
const LARGE_COPIES: usize = 2;

/// What there is to decide on.
#[derive(Clone, Debug)]
pub(super) struct Scene<'a> {
    /// The workspaces used lately, the one used last first.
    pub(super) trees: &'a [Tree],
    /// The idle containers.
    pub(super) idle: &'a [Copy],
    /// The workspaces of containers that are leased, being reset or being prepared.
    pub(super) engaged: &'a [WorkspaceKey],
    /// How many of them are being prepared.
    pub(super) preparing: usize,
    /// Calls in line.
    pub(super) waiting: usize,
    /// Idle containers that the pool tries to keep.
    pub(super) target: usize,
    /// So much time must go by after a call before anything begins: what is left of it.
    pub(super) hush: Duration,
}

/// A workspace that was used.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tree {
    pub(super) key: WorkspaceKey,
    /// Whether it is so large that few containers hold it.
    pub(super) large: bool,
    /// Whether it is left alone, since it could not be sent.
    pub(super) left_alone: bool,
    /// In what time it has been at rest for long enough; zero if it has.
    pub(super) rests_in: Duration,
}

/// An idle container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Copy {
    /// The only workspace it may serve.
    pub(super) workspace: Option<WorkspaceKey>,
    /// Whether it holds that workspace as it is now, as far as is known.
    pub(super) fresh: bool,
    /// Whether it can be emptied for another workspace.
    pub(super) cleanable: bool,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Send the workspace of this key to the idle container at this place.
    Send(usize, WorkspaceKey),
    /// Nothing for so long, or until something changes.
    Rest(Option<Duration>),
}

/// Decides.
pub(super) fn next(scene: &Scene<'_>) -> Next {
    if scene.waiting > 0 || scene.preparing > 0 {
        return Next::Rest(None);
    }
    let mut soonest = None;
    let mut send = None;
    for tree in scene.trees.iter().filter(|tree| !tree.left_alone) {
        let stale = |copy: &Copy| copy.workspace == Some(tree.key) && !copy.fresh;
        let Some(place) = scene.idle.iter().position(stale) else { continue };
        if tree.rests_in.is_zero() {
            send = Some((place, tree.key));
            break;
        }
        soonest =
            Some(soonest.map_or(tree.rests_in, |soonest: Duration| soonest.min(tree.rests_in)));
    }
    match send.or_else(|| fill(scene)) {
        Some(_) if !scene.hush.is_zero() => Next::Rest(Some(scene.hush)),
        Some((place, key)) => Next::Send(place, key),
        None => Next::Rest(soonest),
    }
}

/// Which empty container is filled with what.
fn fill(scene: &Scene<'_>) -> Option<(usize, WorkspaceKey)> {
    let Scene { trees, idle, engaged, target, .. } = *scene;
    let is_empty = |copy: &&Copy| copy.workspace.is_none();
    let place = idle.iter().position(|copy| is_empty(&copy))?;
    let last = idle.iter().filter(is_empty).count() == 1;
    // Whoever comes from another workspace would wait for a new container.
    if last && !idle[place].cleanable && trees.len() > 1 {
        return None;
    }
    let waiting = |key| idle.iter().filter(|copy| copy.workspace == Some(key)).count();
    let copies = |key| waiting(key) + engaged.iter().filter(|engaged| **engaged == key).count();
    let may = |tree: &&Tree| !tree.left_alone && (!tree.large || copies(tree.key) < LARGE_COPIES);
    let missing = trees.iter().filter(may).find(|tree| waiting(tree.key) == 0);
    let first = trees.first().filter(may).filter(|tree| waiting(tree.key) < target);
    missing.or(first).map(|tree| (place, tree.key))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(ino: u64) -> WorkspaceKey {
        WorkspaceKey { dev: 1, ino }
    }

    fn tree(ino: u64) -> Tree {
        Tree { key: key(ino), large: false, left_alone: false, rests_in: Duration::ZERO }
    }

    const EMPTY: Copy = Copy { workspace: None, fresh: false, cleanable: true };

    fn copy(ino: u64, fresh: bool) -> Copy {
        Copy { workspace: Some(key(ino)), fresh, cleanable: true }
    }

    fn scene<'a>(trees: &'a [Tree], idle: &'a [Copy], engaged: &'a [WorkspaceKey]) -> Scene<'a> {
        let (preparing, waiting, target) = (0, 0, 1);
        Scene { trees, idle, engaged, preparing, waiting, target, hush: Duration::ZERO }
    }

    const REST: Next = Next::Rest(None);

    #[test]
    fn who_has_one_window_finds_a_second_container_filled_while_the_first_works() {
        let trees = [tree(1)];
        assert_eq!(next(&scene(&trees, &[EMPTY], &[key(1)])), Next::Send(0, key(1)));
        // Back from its job it is brought up to date, and another one that is empty stays so.
        assert_eq!(next(&scene(&trees, &[EMPTY, copy(1, false)], &[])), Next::Send(1, key(1)));
        assert_eq!(next(&scene(&trees, &[EMPTY, copy(1, true)], &[])), REST);
        let idle = [EMPTY, copy(1, true)];
        let more = Scene { target: 2, ..scene(&trees, &idle, &[]) };
        assert_eq!(next(&more), Next::Send(0, key(1)));
    }

    #[test]
    fn who_has_several_windows_finds_one_for_each_first() {
        let trees = [tree(1), tree(2), tree(3)];
        let idle = [copy(1, true), EMPTY, EMPTY];
        let three = Scene { target: 3, ..scene(&trees, &idle, &[]) };
        assert_eq!(next(&three), Next::Send(1, key(2)));
        let idle = [copy(1, true), copy(2, true), EMPTY];
        assert_eq!(next(&scene(&trees, &idle, &[])), Next::Send(2, key(3)));
        // One that nothing can empty again is left to who comes from elsewhere.
        let idle = [copy(1, true), Copy { cleanable: false, ..EMPTY }];
        assert_eq!(next(&scene(&trees, &idle, &[])), REST);
        assert_eq!(next(&scene(&trees[..1], &idle[1..], &[])), Next::Send(0, key(1)));
    }

    #[test]
    fn a_tree_that_changes_is_waited_for_and_a_job_that_begins_is_left_in_peace() {
        let soon = Duration::from_millis(300);
        let trees = [Tree { rests_in: soon, ..tree(1) }];
        let idle = [copy(1, false)];
        assert_eq!(next(&scene(&trees, &idle, &[])), Next::Rest(Some(soon)));
        let hush = Duration::from_millis(200);
        let trees = [tree(1)];
        assert_eq!(next(&Scene { hush, ..scene(&trees, &idle, &[]) }), Next::Rest(Some(hush)));
        assert_eq!(next(&Scene { hush, ..scene(&trees, &[copy(1, true)], &[]) }), REST);
    }

    prop_compose! {
        fn trees()(
            given in prop::collection::vec((any::<bool>(), any::<bool>(), 0u64..3), 0..4),
        ) -> Vec<Tree> {
            given.into_iter().enumerate().map(|(ino, (large, left_alone, rests_in))| Tree {
                key: key(ino as u64),
                large,
                left_alone,
                rests_in: Duration::from_secs(rests_in),
            }).collect()
        }
    }

    fn copies() -> impl Strategy<Value = Vec<Copy>> {
        let one = (prop::option::of(0u64..4), any::<bool>(), any::<bool>());
        prop::collection::vec(one, 0..6).prop_map(|all| {
            let copy = |(ino, fresh, cleanable): (Option<u64>, _, _)| Copy {
                workspace: ino.map(key),
                fresh: fresh && ino.is_some(),
                cleanable,
            };
            all.into_iter().map(copy).collect()
        })
    }

    proptest! {
        #[test]
        fn what_is_sent_is_allowed_and_what_is_done_comes_to_an_end(
            trees in trees(), mut idle in copies(), engaged in prop::collection::vec(0u64..4, 0..4),
            waiting in 0usize..2, preparing in 0usize..2, target in 0usize..5, hush in 0u64..2,
        ) {
            let engaged: Vec<_> = engaged.into_iter().map(key).collect();
            let hush = Duration::from_secs(hush);
            let mut sent = 0;
            loop {
                let before = Scene {
                    trees: &trees, idle: &idle, engaged: &engaged, preparing, waiting, target, hush,
                };
                let Next::Send(place, key) = next(&before) else { break };
                prop_assert!(waiting == 0 && preparing == 0 && hush.is_zero());
                let tree = trees.iter().find(|tree| tree.key == key).unwrap();
                let taken = idle[place];
                prop_assert!(!tree.left_alone && !taken.fresh);
                prop_assert!(taken.workspace.is_none_or(|bound| bound == key));
                if taken.workspace.is_none() {
                    let of = idle.iter().filter(|copy| copy.workspace == Some(key)).count();
                    let all = of + engaged.iter().filter(|engaged| **engaged == key).count();
                    prop_assert!(!tree.large || all < LARGE_COPIES);
                    prop_assert!(of < target.max(1));
                    let empty = idle.iter().filter(|copy| copy.workspace.is_none()).count();
                    prop_assert!(empty > 1 || taken.cleanable || trees.len() == 1);
                } else {
                    prop_assert!(tree.rests_in.is_zero());
                }
                idle[place] = Copy { workspace: Some(key), fresh: true, ..taken };
                sent += 1;
                prop_assert!(sent <= idle.len());
            }
        }
    }
}
