use super::*;
use crate::config::workspace::Ignored;
use crate::workspace::WorkspaceKey;
use crate::workspace::git::HistoryRules;
use crate::workspace::root::open_unchecked;

/// A number of a tree that the keeper of these tests refuses.
const REFUSED: u64 = 13;

struct Place {
    directory: tempfile::TempDir,
    manifests: Manifests,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("ws")).unwrap();
        std::fs::write(directory.path().join("ws/f"), "one").unwrap();
        Self { directory, manifests: Manifests::default() }
    }

    fn sending(&self) -> Sending {
        self.sending_of(&self.directory.path().join("ws"))
    }

    fn sending_of(&self, path: &std::path::Path) -> Sending {
        Sending {
            workspace: open_unchecked(path).unwrap(),
            links: Vec::new(),
            rules: SendRules {
                exclude: Vec::new(),
                ignored: Ignored::Files,
                max_bytes: 1 << 20,
                max_files: 100,
                history: HistoryRules::default(),
            },
            state_dir: self.directory.path().join("state"),
            lock_timeout: Duration::from_secs(5),
            limit: Duration::from_secs(30),
            manifests: self.manifests.clone(),
            ahead: false,
        }
    }
}

#[tokio::test]
async fn what_is_held_decides_what_travels_and_a_refused_tree_travels_whole_in_the_same_call() {
    let place = Place::new();
    let mut container = ArmedContainer::in_process().await;
    let first = place.sending().send(&mut container).await.unwrap();
    assert_eq!((first.files, first.bytes, first.full), (1, 3, true));
    assert_eq!(container.held().map(|held| held.tree), Some(1));

    // Nothing is certain so soon after the file was written; what is the same does not travel.
    let second = place.sending().send(&mut container).await.unwrap();
    assert_eq!((second.files, second.full), (0, false));
    assert_eq!(container.held().map(|held| held.tree), Some(2));
    assert_eq!(second.snapshot.nodes, first.snapshot.nodes);

    let held = container.held().cloned().unwrap();
    container.set_held(Some(Held { tree: REFUSED, ..held.clone() }));
    let third = place.sending().send(&mut container).await.unwrap();
    assert_eq!((third.files, third.full), (1, true));
    assert_eq!(container.held().map(|held| held.tree), Some(1));

    let workspace = WorkspaceKey { dev: 0, ino: 0 };
    container.set_held(Some(Held { workspace, ..held }));
    let other = place.sending().send(&mut container).await.unwrap();
    assert!(other.full, "on the tree of another workspace nothing is put");
}

#[tokio::test]
async fn a_sending_that_fails_leaves_nothing_that_is_known() {
    let place = Place::new();
    let mut container = ArmedContainer::in_process().await;
    place.sending().send(&mut container).await.unwrap();
    let mut sending = place.sending();
    sending.rules.max_files = 0;
    let failure = sending.send(&mut container).await.unwrap_err();
    assert_eq!(failure.kind, ErrorKind::WorkspaceTooLarge);
    assert!(container.held().is_none());
}

#[tokio::test]
async fn what_was_sent_last_is_kept_as_long_as_somebody_holds_it() {
    let place = Place::new();
    let mut one = ArmedContainer::in_process().await;
    let mut other = ArmedContainer::in_process().await;
    let first = place.sending().send(&mut one).await.unwrap();
    let second = place.sending().send(&mut other).await.unwrap();
    let shared = second.snapshot.nodes.shared_with(&first.snapshot.nodes);
    assert_eq!((second.full, shared), (true, 1), "two containers share what is the same");
    let key = place.sending().workspace.key;
    assert!(place.manifests.latest(key).is_some());
    drop((one, other, first, second));
    assert!(place.manifests.latest(key).is_none());
}

#[tokio::test]
async fn a_directory_that_got_the_inode_number_of_a_deleted_one_finds_nothing_of_it() {
    let place = Place::new();
    let mut container = ArmedContainer::in_process().await;
    place.sending().send(&mut container).await.unwrap();
    let key = place.sending().workspace.key;
    let (ws, moved) = (place.directory.path().join("ws"), place.directory.path().join("moved"));
    std::fs::rename(&ws, &moved).unwrap();
    let same = place.sending_of(&moved).send(&mut container).await.unwrap();
    assert!(!same.full, "one that was moved is still the same");

    std::fs::create_dir(&ws).unwrap();
    std::fs::write(ws.join("f"), "one").unwrap();
    let mut sending = place.sending();
    sending.workspace.key = key;
    let other = sending.send(&mut container).await.unwrap();
    assert!(other.full, "what was built in the deleted one would be there");
}

#[tokio::test]
async fn a_workspace_that_others_write_is_in_use_and_nothing_is_wrong_with_it() {
    let place = Place::new();
    let mut container = ArmedContainer::in_process().await;
    let key = place.sending().workspace.key;
    let state = place.directory.path().join("state");
    let others = lock::exclusive(&state, key, Duration::ZERO).unwrap();
    let soon = || Sending { lock_timeout: Duration::from_millis(5), ..place.sending() };
    let error = soon().try_send(&mut container).await.unwrap_err();
    assert!(matches!(error, SendingError::InUse(_)), "{error:?}");
    drop(others);
    let mut sending = soon();
    sending.rules.max_files = 0;
    let error = sending.try_send(&mut container).await.unwrap_err();
    assert!(matches!(error, SendingError::Failed(_)), "{error:?}");
}
