use std::collections::BTreeMap;

use super::*;
use crate::container::label;
use crate::engine::fake::{FakeEngine, Manner, Verb};
use crate::keeper::wire;

#[test]
fn a_full_disk_of_the_engine_is_told_at_once_and_as_what_it_is() {
    let error = |reason: &str| {
        let reason = reason.to_owned();
        engine_error(EngineError::Failed { verb: "start a container", container: None, reason })
    };
    let full = error("write /var/lib/docker/tmp: No space left on device");
    assert_eq!((full.kind, full.is_permanent()), (ErrorKind::DiskFull, true));
    assert!(full.sentence.contains("make room"), "{full}");
    let other = error("runtime crashed");
    assert_eq!((other.kind, other.is_permanent()), (ErrorKind::ContainerLost, false));
}

#[tokio::test]
async fn a_reset_that_leaves_anything_else_than_at_arming_is_refused() {
    let (keeper, incoming, _served) = crate::keeper::loopback::harmless().await;
    let id = ContainerId("c".to_owned());
    let fingerprint = keeper.reset().await.unwrap();
    let mark = Arc::default();
    let mut container = ArmedContainer::harmless(id, keeper, incoming, mark);
    container.fingerprint = fingerprint;
    container.reset().await.unwrap();
    container.fingerprint.processes += 1;
    assert!(container.reset().await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_container_that_is_not_ready_in_time_is_removed_before_its_place_is_free() {
    let state = tempfile::tempdir().unwrap();
    let owner = Arc::new(Owner::claim(state.path()).unwrap());
    let engine = FakeEngine::silent();
    engine.set_image_labels(BTreeMap::from([
        (label::PROTOCOL.to_owned(), wire::PROTOCOL.to_string()),
        (label::CODEX.to_owned(), "1".to_owned()),
    ]));
    let starter = Starter::new(Arc::new(engine.clone()), Profile::harmless(), owner);
    for manner in [Manner::Ok, Manner::Never, Manner::Err] {
        engine.set(Verb::Open, manner);
        let error = starter.start().await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::ContainerLost);
        let named = error.sentence.contains("container.start_timeout");
        assert_eq!(named, manner != Manner::Err, "{error}");
        assert_eq!(engine.counts().alive, 0, "{manner:?}");
    }
    assert_eq!(engine.counts().created, 3);
}
