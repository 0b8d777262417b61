//! The gateway between a client that is not Codex and providers that misbehave.

#![allow(missing_docs)]
// Helpers of tests, which clippy does not take for tests.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod encoded;
mod limits;
mod others;
mod probe;
mod secure;
mod support;
mod tokens;

use std::time::{Duration, Instant};

use mcp_codex_orchestrator::model::scripted::{Script, ScriptedModel, Step};
use mcp_codex_orchestrator::model::{Credential, Gateway, GatewayError};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use support::{KEY, Served, body, config, provider, variable};

#[tokio::test]
async fn only_the_path_that_codex_uses_passes() {
    let model = ScriptedModel::start(Script::builtin()).await.unwrap();
    let served = Served::to(&model.base_url()).await;
    let url = |path: &str| format!("http://{}{path}", served.address);
    for (method, path) in [
        ("GET", "/v1/responses"),
        ("GET", "/v1/models"),
        ("POST", "/v1/files"),
        ("POST", "/v1/responses/"),
        ("POST", "/v1/responses/../files"),
        ("POST", "/v1//responses"),
        ("POST", "/v1/responses?include=x"),
        ("POST", "/v1/responses/r/cancel"),
        ("DELETE", "/v1/responses"),
        ("POST", "/v1/chat/completions"),
    ] {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let request = served.client.request(method, url(path)).body(body().to_string());
        let (status, sentence) = served.refused(request).await;
        assert_eq!(status, 403, "{path}");
        assert!(sentence.contains("is refused"), "{sentence}");
    }
    let upgrade = served.client.get(url("/v1/responses")).header("upgrade", "websocket");
    assert_eq!(served.refused(upgrade.header("connection", "upgrade")).await.0, 426);
    let report = served.traffic.report();
    // Two of them are the same on the wire.
    assert_eq!((report.requests, report.denied_total, report.denied.len()), (0, 10, 9));
    assert!(model.requests().is_empty());
}

#[tokio::test]
async fn bodies_that_cannot_be_checked_or_may_not_pass_stay() {
    let model = ScriptedModel::start(Script::builtin()).await.unwrap();
    let served = Served::to(&model.base_url()).await;
    let packed = served.post(body().to_string()).header("content-encoding", "br");
    assert_eq!(served.refused(packed).await.0, 415);
    let (status, sentence) = served.refused(served.post("not json")).await;
    assert_eq!(status, 400);
    assert!(sentence.contains("the gateway refused"), "{sentence}");
    let mut hosted = body();
    hosted["tools"] = json!([{"type": "web_search"}]);
    let (status, sentence) = served.refused(served.post(hosted.to_string())).await;
    assert_eq!(status, 400);
    assert!(sentence.contains("model.hosted_tools"), "{sentence}");
    let mut raw = TcpStream::connect(served.address).await.unwrap();
    let head = format!(
        "POST /v1/responses HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n",
        1_u64 << 40
    );
    raw.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    raw.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
    assert!(model.requests().is_empty());
}

#[tokio::test]
async fn the_credential_is_ours_and_nothing_else_of_the_container_goes_along() {
    let model = ScriptedModel::start(Script::builtin()).await.unwrap();
    let served = Served::to(&model.base_url()).await;
    let request = served
        .post(body().to_string())
        .header("authorization", "Bearer from-inside")
        .header("cookie", "a=b")
        .header("openai-organization", "org")
        .header("x-codex-window-id", "w");
    let answer = request.send().await.unwrap();
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    assert!(answer.text().await.unwrap().contains("response.completed"));
    let seen = &model.requests()[0].headers;
    let value = |name: &str| seen.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
    assert_eq!(value("authorization"), Some(format!("Bearer {KEY}")));
    assert_eq!(value("x-codex-window-id").as_deref(), Some("w"));
    assert_eq!((value("cookie"), value("openai-organization")), (None, None));
}

#[tokio::test]
async fn an_error_passes_with_its_status_and_without_secrets() {
    let text = format!("{{\"error\":{{\"message\":\"bad key {KEY} of sk-other-1234567\"}}}}");
    let base = provider(move |mut stream| {
        let head = format!(
            "HTTP/1.1 429 X\r\nretry-after: 7\r\nset-cookie: a=b\r\ncontent-length: {}\r\n\r\n",
            text.len()
        );
        let answer = head + &text;
        async move { stream.write_all(answer.as_bytes()).await.unwrap() }
    });
    let served = Served::to(&base.await).await;
    let answer = served.post(body().to_string()).send().await.unwrap();
    assert_eq!(answer.status(), 429);
    assert_eq!(answer.headers()["retry-after"], "7");
    assert!(!answer.headers().contains_key("set-cookie"));
    let text = answer.text().await.unwrap();
    assert_eq!(text, "{\"error\":{\"message\":\"bad key [redacted] of [redacted]\"}}");
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let model = ScriptedModel::start(Script::builtin()).await.unwrap();
    let to = format!("{}/responses", model.base_url());
    let base = provider(move |mut stream| {
        let answer = format!("HTTP/1.1 307 X\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n");
        async move { stream.write_all(answer.as_bytes()).await.unwrap() }
    });
    let served = Served::to(&base.await).await;
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
    let url = format!("http://{}/v1/responses", served.address);
    let answer = client.build().unwrap().post(url).body(body().to_string()).send().await.unwrap();
    assert_eq!(answer.status(), 307);
    assert!(!answer.headers().contains_key("location"));
    assert!(model.requests().is_empty());
}

#[tokio::test]
async fn the_answer_streams_as_it_comes_and_ends_where_the_client_ends() {
    let (go, went) = oneshot::channel::<()>();
    let (closed, was_closed) = oneshot::channel::<()>();
    let once = parking_lot::Mutex::new(Some((went, closed)));
    let base = provider(move |mut stream| {
        let once = once.lock().take();
        async move {
            let (went, closed) = once.unwrap();
            let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";
            stream.write_all(head.as_bytes()).await.unwrap();
            stream.write_all(b"one\n\n").await.unwrap();
            went.await.unwrap();
            stream.write_all(b"two\n\n").await.unwrap();
            // The request's body comes first; then the end, or a reset.
            while stream.read(&mut [0; 4096]).await.is_ok_and(|n| n > 0) {}
            closed.send(()).unwrap();
        }
    });
    let served = Served::to(&base.await).await;
    let mut answer = served.post(body().to_string()).send().await.unwrap();
    assert_eq!(answer.chunk().await.unwrap().unwrap(), "one\n\n");
    go.send(()).unwrap();
    assert_eq!(answer.chunk().await.unwrap().unwrap(), "two\n\n");
    drop(answer);
    tokio::time::timeout(Duration::from_secs(5), was_closed).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_provider_that_breaks_off_or_is_not_there_is_told_apart() {
    let base = provider(|stream| async move { drop(stream) }).await;
    let served = Served::to(&base).await;
    let (status, sentence) = served.refused(served.post(body().to_string())).await;
    assert_eq!(status, 502);
    assert!(sentence.contains("broke off"), "{sentence}");
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let served = Served::to(&format!("http://{free}/v1/")).await;
    let (status, sentence) = served.refused(served.post(body().to_string())).await;
    assert_eq!(status, 502);
    assert!(sentence.contains("cannot be reached"), "{sentence}");
    assert_eq!(served.traffic.report().denied_total, 0);
}

#[tokio::test]
async fn a_large_answer_streams_in_both_directions() {
    let model = ScriptedModel::start(Script::always(vec![Step::Flood(32 << 20)])).await.unwrap();
    let served = Served::to(&model.base_url()).await;
    let mut large = body();
    large["instructions"] = "x".repeat(20 << 20).into();
    let large = large.to_string();
    let begun = Instant::now();
    let mut answer = served.post(large).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let mut bytes = 0;
    while let Some(chunk) = answer.chunk().await.unwrap() {
        bytes += chunk.len();
    }
    println!("20 MiB up and {} MiB down in {:?}", bytes >> 20, begun.elapsed());
    assert!(bytes > 32 << 20);
    assert_eq!(served.traffic.report().bytes_down, bytes as u64);
}

#[tokio::test]
async fn a_base_url_must_be_one_and_hold_no_credential() {
    for url in [
        "",
        "api.openai.com/v1",
        "ftp://x/v1",
        "https://",
        "https://u:p@x/v1",
        "https://u:p@",
        "http://x/?k=s",
    ] {
        let error = Gateway::new(&config(url), Credential::none(), variable).unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("model.base_url"), "{text}");
        assert!(!text.contains("u:p") && !text.contains("k=s"), "{text}");
        assert!(!matches!(error, GatewayError::Client(_)));
    }
    let gateway =
        Gateway::new(&config("https://x/v1"), Credential::api_key(KEY).unwrap(), variable).unwrap();
    assert!(!format!("{gateway:?}").contains(KEY));
}
