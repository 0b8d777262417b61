//! `doctor --live`: what is told of each answer of a provider.

use mcp_codex_orchestrator::model::scripted::{Script, ScriptedModel};
use mcp_codex_orchestrator::model::{Credential, Gateway, Limits};

use crate::support::{KEY, answering, config, variable};

async fn probe(base_url: &str, credential: Credential) -> Result<String, String> {
    let mut settings = config(base_url);
    settings.response_timeout = std::time::Duration::from_secs(5);
    let gateway = Gateway::new(&settings, credential, variable).unwrap();
    gateway.probe("m-1", Limits::new(&settings, 0)).await
}

fn key() -> Credential {
    Credential::api_key(KEY).unwrap()
}

#[tokio::test]
async fn a_provider_that_answers_is_asked_once_as_codex_asks() {
    let model = ScriptedModel::start(Script::builtin().keeping_bodies()).await.unwrap();
    for (credential, authorization) in
        [(key(), Some(format!("Bearer {KEY}"))), (Credential::none(), None)]
    {
        let before = model.requests().len();
        let said = probe(&model.base_url(), credential).await.unwrap();
        assert_eq!(said, "127.0.0.1 answered with m-1");
        let requests = model.requests();
        assert_eq!(requests.len(), before + 1);
        let request = requests.last().unwrap();
        assert_eq!(request.path, "/v1/responses");
        let of = |name: &str| {
            let found = request.headers.iter().find(|(n, _)| n == name);
            found.map(|(_, value)| value.clone())
        };
        assert_eq!(of("authorization"), authorization);
        assert_eq!(of("originator").as_deref(), Some("codex_exec"));
    }
}

#[tokio::test]
async fn each_answer_has_its_sentence_and_no_secret() {
    let json = |status: u16, body: &str| format!("HTTP/1.1 {status} X\r\n\r\n{body}");
    let events = |body: &str| {
        format!("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: {body}\n\n")
    };
    let quota = r#"{"error":{"message":"You exceeded.","code":"insufficient_quota"}}"#;
    let failed = r#"{"type":"response.failed","response":{"error":{"code":"rate_limit_exceeded","message":"Slow."}}}"#;
    for (answer, want) in [
        (
            json(401, &format!("{{\"error\":{{\"message\":\"Bad key {KEY}.\"}}}}")),
            "refuses the API key (401: Bad key [redacted]); set OPENAI_API_KEY",
        ),
        (
            json(403, r#"{"detail":"Not your workspace"}"#),
            "does not allow it (403: Not your workspace)",
        ),
        (
            json(400, r#"{"error":{"code":"odd\u001b]0;title\u0007"}}"#),
            "refuses the request (400: odd]0;title)",
        ),
        (json(404, "<html>"), "no such path or no model m-1 (404); check model.base_url"),
        (json(429, quota), "its quota is used up (429: You exceeded)"),
        (json(429, "{}"), "limits the rate (429); wait"),
        (json(400, r#"{"detail":"Unsupported"}"#), "refuses the request (400: Unsupported)"),
        (json(302, ""), "redirects (302), which is not followed"),
        (json(503, "{}"), "a failure of its own (503); call again later"),
        (events(failed), "limits the rate (200: Slow)"),
        (events("{}"), "ended before it was whole"),
        (
            "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\n\r\n<html>".to_owned(),
            "instead of a stream",
        ),
        ("nothing".to_owned(), "broke off"),
    ] {
        let said = probe(&answering(answer.clone()).await, key()).await.unwrap_err();
        assert!(said.contains(want), "{answer}: {said}");
        assert!(said.contains("127.0.0.1") && !said.contains(KEY), "{said}");
        assert!(!said.contains('\n'), "{said}");
    }
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let said = probe(&format!("http://{free}/v1"), key()).await.unwrap_err();
    assert!(said.contains("cannot be reached") && said.contains("HTTPS_PROXY"), "{said}");
    let unasked = answering("HTTP/1.1 401 X\r\n\r\n".into()).await;
    let said = probe(&unasked, Credential::none()).await.unwrap_err();
    assert!(said.contains("wants a credential (401)"), "{said}");
}
