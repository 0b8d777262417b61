//! The gateway: its other paths, what the provider could be made to do, bodies and headers.

use mcp_codex_orchestrator::model::scripted::Step;
use serde_json::Value;

use super::{attempted, finish, options, script, stop};
use crate::need_engine;
use crate::support::Server;

const PATHS: &str = include_str!("paths.py");

const BODIES: &str = include_str!("bodies.py");

const HEADERS: &str = include_str!("headers.py");

/// What reached the provider: only what Codex sends, as it sends it.
fn only_responses(server: &Server) {
    let requests = server.model.as_ref().unwrap().requests();
    assert!(requests.len() > 2);
    for request in &requests {
        assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", "/v1/responses"));
        let address = server.model.as_ref().unwrap().address().to_string();
        for (name, value) in &request.headers {
            assert!(!value.contains("stolen") && !value.contains("evil"), "{name}: {value}");
            let credential = ["authorization", "cookie", "api-key", "x-api-key"];
            assert!(!credential.contains(&name.as_str()), "{name}");
            assert!(name != "host" || *value == address, "{value}");
        }
        let body = request.body.as_ref().unwrap();
        assert_eq!((&body["store"], &body["stream"]), (&Value::Bool(false), &Value::Bool(true)));
        let kinds = body["tools"].as_array().map(Vec::as_slice).unwrap_or_default();
        for kind in kinds {
            let kind = kind["type"].as_str().unwrap();
            assert!(["function", "custom", "namespace", "local_shell"].contains(&kind), "{kind}");
        }
    }
}

/// Makes the attempts, and looks at what the provider got and what the caller is told.
async fn through_the_gateway(attempts: &'static str, told: &str) {
    let mut server = attempted(attempts, "").await;
    let attacked = finish(&mut server, attempts).await;
    only_responses(&server);
    let notes = attacked["notes"].to_string();
    assert!(notes.contains(told), "{notes}");
    stop(server).await;
}

#[tokio::test]
async fn only_what_codex_sends_passes_the_gateway() {
    need_engine!();
    through_the_gateway(PATHS, "model access: POST /v1/files is refused").await;
}

#[tokio::test]
async fn the_provider_cannot_be_made_to_reach_out_or_to_keep_anything() {
    need_engine!();
    through_the_gateway(BODIES, "runs at the provider").await;
}

#[tokio::test]
async fn headers_bring_nothing_past_the_gateway() {
    need_engine!();
    through_the_gateway(HEADERS, "is refused").await;
}

#[tokio::test]
async fn requests_beyond_a_runs_rate_end_and_the_next_run_has_its_own() {
    need_engine!();
    let program = format!("{}\nprint([post(body()) for _ in range(30)])", super::PRELUDE);
    let steps = vec![Step::run(super::in_python(&program, "said.txt")), Step::Say("Tried.".into())];
    let options = || options().set("model", "max_per_minute = 20");
    let mut server = Server::start(script(steps), options()).await;
    server.ready().await;
    let as_ever = super::undisturbed(options()).await;
    let attacked = server.run("Try it").await;
    let notes = attacked["notes"].to_string();
    assert!(notes.contains("more than 20 in a minute (model.max_per_minute)"), "{attacked}");
    super::restore(&server);
    let asked = server.model.as_ref().unwrap().requests().len();
    assert!(asked < 28, "the provider was asked {asked} times");
    super::next_is_as_ever(&mut server, &attacked, super::Then::Reset, &as_ever).await;
    stop(server).await;
}
