//! Idle containers that go bad from outside: known before the next call, from the engine's events.

use std::time::{Duration, Instant};

use mcp_codex_orchestrator::model::scripted::Script;
use serde_json::{Value, json};

use crate::need_engine;
use crate::support::docker::{containers_of, docker};
use crate::support::{Options, Server};

/// Far less than the silence after which an idle container counts as lost (15 s).
const SOON: Duration = Duration::from_secs(5);

/// Waits for a status within [`SOON`].
async fn status(server: &mut Server, is: impl Fn(&Value) -> bool) -> Value {
    let began = Instant::now();
    loop {
        let status = server.call("codex_pool_status", json!({})).await;
        if is(&status) {
            return status;
        }
        assert!(began.elapsed() < SOON, "{status}\n{}", server.log());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn an_idle_container_that_goes_bad_is_known_at_once_and_the_next_one_taken() {
    need_engine!();
    for verb in ["pause", "kill", "stop"] {
        let options = Options::default().set("pool", "min_idle = 2\nmax_size = 2");
        let mut server = Server::start(Script::builtin(), options).await;
        while server.ready().await["idle"] != 2 {}
        // The older one is the one that a call would get.
        let oldest = containers_of(server.pid).pop().unwrap();
        let bad = oldest.split(' ').next().unwrap();
        let mut asked = vec![verb];
        if verb == "stop" {
            asked.extend(["-t", "0"]);
        }
        asked.push(bad);
        docker(&asked).unwrap();
        status(&mut server, |status| status["destroyed"]["lost"] == 1).await;
        let run = server.run("demo").await;
        assert_eq!(run["success"], true, "{verb}: {run}\n{}", server.log());
        assert_ne!(run["container_id"], bad, "{verb}");
        server.stop().await;
    }
}
