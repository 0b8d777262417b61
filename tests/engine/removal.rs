//! What a removal promises.

use mcp_codex_orchestrator::engine::Engine;

use super::{engine, listed, owner, raw, spec, volumes};

#[tokio::test]
async fn what_was_removed_is_gone_also_if_the_engine_had_begun_to_remove_it_by_itself() {
    let Some((engine, image)) = engine().await else { return };
    let owner = owner("going");
    for _ in 0..5 {
        let spec = spec(&image, &owner, &["sleep", "60"]);
        let id = engine.start(&spec).await.unwrap();
        raw("POST", &format!("/v1.41/containers/{}/kill", id.0), "").await;
        engine.remove(&id).await.unwrap();
        assert_eq!(listed(&engine, &owner).await, []);
        assert_eq!(volumes(&owner).await, 0);
    }
}
