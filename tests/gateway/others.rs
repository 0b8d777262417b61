//! Providers of other forms: by base URL, headers and query.

use mcp_codex_orchestrator::config::Auth;
use mcp_codex_orchestrator::model::scripted::{Script, ScriptedModel};
use mcp_codex_orchestrator::model::{Credential, Gateway};

use crate::support::{AZURE_KEY, KEY, Served, answering, body, config, variable};

#[tokio::test]
async fn azure_gets_its_key_and_its_version() {
    let model = ScriptedModel::start(Script::builtin()).await.unwrap();
    let mut settings = config(&model.base_url().replace("/v1", "/openai/v1"));
    settings.auth = Auth::None;
    settings.headers.insert("api-key".into(), "env:AZURE_KEY".into());
    settings.headers.insert("User-Agent".into(), "ours".into());
    settings.query.insert("api-version".into(), "2025-04-01 &x=".into());
    let served = Served::with(&settings, 0).await;
    let from_inside = served.post(body().to_string()).header("api-key", "from-inside");
    let answer = from_inside.header("user-agent", "codex").send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let seen = &model.requests()[0];
    assert_eq!(seen.path, "/openai/v1/responses?api-version=2025-04-01+%26x%3D");
    let values = |name: &str| {
        let headers = seen.headers.iter().filter(|(n, _)| n == name);
        headers.map(|(_, value)| value.clone()).collect::<Vec<_>>()
    };
    assert_eq!(values("api-key"), [AZURE_KEY]);
    assert_eq!(values("user-agent"), ["ours"]);
    assert!(values("authorization").is_empty());
}

#[tokio::test]
async fn a_local_server_needs_nothing() {
    let model = ScriptedModel::start(Script::builtin()).await.unwrap();
    let mut settings = config(&model.base_url());
    settings.auth = Auth::None;
    let served = Served::with(&settings, 0).await;
    assert_eq!(served.post(body().to_string()).send().await.unwrap().status(), 200);
    assert!(model.requests()[0].headers.iter().all(|(name, _)| name != "authorization"));
}

#[tokio::test]
async fn a_variable_that_is_not_set_is_named_and_no_value_is_shown() {
    let mut settings = config("http://127.0.0.1:9/v1");
    settings.query.insert("key".into(), "env:NOT_SET".into());
    let error = Gateway::new(&settings, Credential::none(), variable).unwrap_err().to_string();
    assert!(
        error.starts_with("model.query: \"key\" is in the environment variable NOT_SET"),
        "{error}"
    );
    settings.query.clear();
    settings.headers.insert("api-key".into(), "env:BAD".into());
    let bad = |_: &str| Some("va\nlue".to_owned());
    let error = Gateway::new(&settings, Credential::none(), bad).unwrap_err().to_string();
    assert!(error.contains("characters that no HTTP header may hold"), "{error}");
    assert!(!error.contains("lue\"") && !error.contains("va\n"), "{error}");
}

#[tokio::test]
async fn neither_secret_is_in_any_error() {
    let echo = format!("HTTP/1.1 401 X\r\n\r\n{{\"error\":{{\"message\":\"{KEY} {AZURE_KEY}\"}}}}");
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for base in [answering(echo).await, format!("http://{free}/v1"), answering("x".into()).await] {
        let mut settings = config(&base);
        settings.headers.insert("api-key".into(), "env:AZURE_KEY".into());
        settings.query.insert("sig".into(), "env:AZURE_KEY".into());
        let served = Served::with(&settings, 0).await;
        let answer = served.post(body().to_string()).send().await.unwrap();
        assert!(answer.status().as_u16() > 400);
        let told = answer.text().await.unwrap() + &format!("{:?}", served.traffic.report());
        assert!(!told.contains(KEY) && !told.contains(AZURE_KEY), "{told}");
    }
}
