//! What the engine tells of a container as it happens.

use futures::StreamExt;
use mcp_codex_orchestrator::engine::{Engine, Event, Happened};

use super::{Duration, engine, owner, raw, spec, until_gone};

#[tokio::test]
async fn an_end_and_a_removal_are_told_as_they_happen() {
    let Some((engine, image)) = engine().await else { return };
    let owner = owner("events");
    let mut events = engine.events(super::label::OWNER, &owner).await.unwrap();
    let id = engine.start(&spec(&image, &owner, &["sleep", "60"])).await.unwrap();
    let container = format!("/containers/{}", id.0);
    let steps = [("kill", Happened::Ended), ("", Happened::Removed)];
    for (verb, what) in steps {
        if verb.is_empty() {
            engine.remove(&id).await.unwrap();
        } else {
            raw("POST", &format!("{container}/{verb}"), "").await;
        }
        let wanted = Event { id: id.clone(), what };
        let told = async {
            while let Some(event) = events.next().await {
                assert_eq!(event.id, id);
                if event == wanted {
                    return;
                }
            }
            panic!("the events ended before {what:?}");
        };
        let limit = Duration::from_secs(10);
        tokio::time::timeout(limit, told).await.unwrap_or_else(|_| panic!("{what:?} not told"));
    }
    until_gone(&engine, &owner).await;
}
