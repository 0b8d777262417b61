//! Whole runs on one ChatGPT login.

use mcp_codex_orchestrator::model::scripted::{Script, ScriptedModel, Step};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::need_engine;
use crate::support::issuer::{Issuer, token_for};
use crate::support::{Options, Server, await_answer, cli_with, make_workspace};

const RUNS: usize = 50;

fn write_login(path: &std::path::Path, token: &str) {
    let login = json!({
        "auth_mode": "chatgpt", "OPENAI_API_KEY": null, "last_refresh": "2026-01-01T00:00:00Z",
        "tokens": {"id_token": token, "access_token": token, "refresh_token": "refresh-secret-1",
                   "account_id": "acc-1"},
    });
    std::fs::write(path, login.to_string()).unwrap();
}

/// The headers that Codex 0.169.0 itself sends with a ChatGPT login and its built-in provider, to
/// a backend that named the label "eu"; but for `x-codex-routing-hint`, which repeats the model, and
/// the encoding of the body.
const CODEX_SENDS: [&str; 15] = [
    "accept",
    "authorization",
    "chatgpt-account-id",
    "content-type",
    "originator",
    "session-id",
    "thread-id",
    "user-agent",
    "version",
    "x-client-request-id",
    "x-codex-beta-features",
    "x-codex-turn-metadata",
    "x-codex-window-id",
    "x-openai-account-routing-override",
    "x-openai-internal-codex-responses-lite",
];

#[tokio::test]
async fn a_chatgpt_backend_gets_what_codex_itself_would_send() {
    need_engine!();
    let backend = Issuer::start_at([127, 0, 0, 1].into()).await;
    let home = TempDir::new().unwrap();
    let workspace = home.path().join("project");
    make_workspace(&workspace);
    let codex_home = home.path().join("codex");
    std::fs::create_dir(&codex_home).unwrap();
    write_login(&codex_home.join("auth.json"), &token_for("good", 86_400));
    let base_url = format!("{}/backend-api/codex", backend.url());
    let options = Options::default()
        .no_model()
        .set("model", format!("base_url = {base_url:?}\nauth = \"chatgpt\""))
        .env("CODEX_HOME", codex_home.to_str().unwrap());
    let mut server = Server::start_in(Script::builtin(), options, home, workspace).await;
    server.ready().await;
    let result = server.run("Say hi.").await;
    assert_eq!(result["success"], true, "{result}\n{}", server.log());
    assert!(result["notes"].is_null(), "{result}");
    assert!(!format!("{result}{}", server.log()).contains("secret"));
    let responses = backend.state.responses.lock().clone();
    assert_eq!(responses.len(), 1);
    let of_connection = ["host", "content-length", "accept-encoding"];
    let mut sent: Vec<&str> = responses[0].keys().map(hyper::http::HeaderName::as_str).collect();
    sent.retain(|name| !of_connection.contains(name));
    sent.sort_unstable();
    assert_eq!(sent, CODEX_SENDS);
    let version = responses[0]["version"].to_str().unwrap();
    assert!(
        responses[0]["user-agent"].to_str().unwrap().starts_with(&format!("codex_exec/{version} "))
    );
    // The doctor goes the same way.
    let home = server.home.path().to_owned();
    let doctor = tokio::task::spawn_blocking(move || {
        let codex_home = codex_home.to_str().unwrap();
        cli_with(&home, &["doctor", "--live"], &[("CODEX_HOME", codex_home)])
    });
    let doctor = doctor.await.unwrap();
    let told = String::from_utf8(doctor.stdout).unwrap();
    assert!(told.contains("127.0.0.1 answered with"), "{told}");
    server.stop().await;
}

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
    write_login(&path, &token_for("old", -5));
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
