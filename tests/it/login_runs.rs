//! Whole runs on one ChatGPT login.

use mcp_codex_orchestrator::model::scripted::{Script, ScriptedModel, Step};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::need_engine;
use crate::support::issuer::{Issuer, token_for};
use crate::support::{Options, Server, await_answer, make_workspace};

const RUNS: usize = 50;

#[tokio::test]
async fn fifty_runs_at_once_through_an_expiry_refresh_once() {
    need_engine!();
    let script = Script::always(vec![Step::Say("Done.".into())]);
    let model = ScriptedModel::start(script).await.unwrap();
    let issuer = Issuer::start_at([127, 0, 0, 1].into()).await;
    let home = TempDir::new().unwrap();
    let workspace = home.path().join("project");
    make_workspace(&workspace);
    let path = home.path().join("codex/auth.json");
    std::fs::create_dir(path.parent().unwrap()).unwrap();
    let old = token_for("old", -5);
    let login = json!({
        "auth_mode": "chatgpt", "OPENAI_API_KEY": null, "last_refresh": "2026-01-01T00:00:00Z",
        "tokens": {"id_token": old, "access_token": old, "refresh_token": "refresh-secret-1",
                   "account_id": "acc-1"},
    });
    std::fs::write(&path, login.to_string()).unwrap();
    let options = Options::default()
        .no_model()
        .set("model", format!("base_url = {:?}\nauth = \"chatgpt\"", model.base_url()))
        .set("pool", "max_size = 4\nmin_idle = 4\nacquire_timeout = \"10m\"")
        .env("CODEX_HOME", path.parent().unwrap().to_str().unwrap())
        .env("CODEX_REFRESH_TOKEN_URL_OVERRIDE", format!("{}/oauth/token", issuer.url()));
    let mut server = Server::start_in(Script::builtin(), options, home, workspace).await;
    while server.ready().await["idle"] != 4 {}

    let mut answers = Vec::new();
    for number in 0..RUNS {
        let prompt = json!({"prompt": format!("run {number}"), "timeout": 300});
        answers.push(server.begin_call("codex_run", prompt).await.1);
    }
    for answer in answers {
        let answer = await_answer(answer, server.home.path()).await;
        let result = &answer["result"]["structuredContent"];
        assert_eq!(result["success"], true, "{answer}\n{}", server.log());
        assert!(!answer.to_string().contains("refresh-secret"));
    }
    let refreshes = issuer.state.refreshes.lock().clone();
    assert_eq!(refreshes.len(), 1, "{refreshes:?}");
    assert_eq!(refreshes[0]["refresh_token"], "refresh-secret-1");
    let written: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    assert_eq!(written["tokens"]["refresh_token"], "refresh-secret-2");
    let new = format!("Bearer {}", written["tokens"]["access_token"].as_str().unwrap());
    let requests = model.requests();
    assert_eq!(requests.len(), RUNS);
    for request in requests {
        let of = |name: &str| {
            let found = request.headers.iter().find(|(n, _)| n == name);
            found.map(|(_, value)| value.as_str())
        };
        assert_eq!((of("authorization"), of("chatgpt-account-id")), (Some(&*new), Some("acc-1")));
    }
    server.stop().await;
}
