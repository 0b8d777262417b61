//! `output_schema`: an answer in the form that the caller asked for.

use mcp_codex_orchestrator::model::scripted::{Script, Step};
use serde_json::json;

use crate::need_engine;
use crate::support::{Options, Server};

#[tokio::test]
async fn an_answer_has_the_form_that_was_asked_for_or_the_run_fails_and_keeps_it() {
    need_engine!();
    let change = || Step::run("echo new > new.txt");
    let script = Script::always(vec![Step::Say("Nothing.".into())])
        .with("good", vec![change(), Step::Say("{\"sum\": 3}".into())])
        .with("wrong", vec![change(), Step::Say("{\"sum\": \"three\"}".into())])
        .with("free", vec![change(), Step::Say("The sum is 3.".into())])
        .keeping_bodies();
    let schema = json!({"type": "object", "properties": {"sum": {"type": "integer"}},
                        "required": ["sum"], "additionalProperties": false});
    for way in ["exec", "app-server"] {
        let options = Options::default().set("codex", format!("start = \"{way}\""));
        let mut server = Server::start(script.clone(), options).await;
        for prompt in ["wrong", "free"] {
            let call = json!({"prompt": prompt, "output_schema": schema});
            let result = server.call("codex_run", call).await;
            assert_eq!(result["success"], false, "{way} {prompt}: {result}");
            assert_eq!(result["error_kind"], "codex_failed", "{way}: {result}");
            assert_eq!(result["retryable"], true, "{way}: {result}");
            assert!(result["error"].as_str().unwrap().contains("Codex's answer "), "{result}");
            assert!(result["output"].as_str().unwrap().contains("sum"), "{way}: {result}");
            assert!(result["output_json"].is_null(), "{way}: {result}");
            assert_eq!(result["changes_state"], "held", "{way}: {result}");
        }
        assert!(!server.workspace.join("new.txt").exists(), "{way}");
        let call = json!({"prompt": "good", "output_schema": schema});
        let result = server.call("codex_run", call).await;
        assert_eq!(result["output_json"], json!({"sum": 3}), "{way}: {result}\n{}", server.log());
        assert_eq!((&result["success"], server.read("new.txt").as_str()), (&json!(true), "new\n"));
        let requests = server.model.as_ref().unwrap().requests();
        let asked = requests.last().unwrap().body.clone().unwrap();
        assert_eq!(asked["text"]["format"]["schema"], schema, "{way}: {asked}");
        let call = json!({"prompt": "good", "output_schema": {"type": "nothing"}});
        let result = server.call("codex_run", call).await;
        assert_eq!(result["error_kind"], "invalid_argument", "{way}: {result}");
        server.stop().await;
    }
}
