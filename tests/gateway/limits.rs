//! Each limit breaks once, and says its name.

use std::time::Duration;

use mcp_codex_orchestrator::model::scripted::{Fault, Script, ScriptedModel, Step};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Served, answering, body, config, provider};

const EVENTS: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";

#[tokio::test]
async fn a_body_over_the_limit_in_pieces_of_unknown_length() {
    let model = ScriptedModel::start(Script::builtin()).await.unwrap();
    let mut settings = config(&model.base_url());
    settings.request_limit = 1 << 20;
    let served = Served::with(&settings, 0).await;
    let pieces = futures::stream::repeat_with(|| {
        Ok::<_, std::io::Error>(bytes::Bytes::from_static(&[b' '; 65536]))
    });
    let (status, sentence) = served.refused(served.post(reqwest::Body::wrap_stream(pieces))).await;
    assert_eq!(status, 413);
    assert!(sentence.contains("1024 KiB is refused (model.request_limit)"), "{sentence}");
    assert!(model.requests().is_empty());
}

#[tokio::test]
async fn requests_at_the_same_time() {
    let hang = Step::Fault(Fault { hang: true, ..Fault::default() });
    let model = ScriptedModel::start(Script::always(vec![hang])).await.unwrap();
    let mut settings = config(&model.base_url());
    settings.max_concurrent = 2;
    let served = Served::with(&settings, 0).await;
    let first = served.post(body().to_string()).send().await.unwrap();
    let second = served.post(body().to_string()).send().await.unwrap();
    for _ in 0..3 {
        let (status, sentence) = served.refused(served.post(body().to_string())).await;
        assert_eq!(status, 400);
        let want = "more than 2 at the same time (model.max_concurrent)";
        assert!(sentence.contains(want), "{sentence}");
    }
    let report = served.traffic.report();
    assert_eq!((report.denied_total, report.denied.len()), (3, 1), "each sentence once");
    drop((first, second));
    // The places are free when the gateway has seen that nobody reads.
    while served.post(body().to_string()).send().await.unwrap().status() != 200 {}
}

#[tokio::test]
async fn requests_in_a_minute() {
    let model = ScriptedModel::start(Script::builtin()).await.unwrap();
    let mut settings = config(&model.base_url());
    settings.max_per_minute = 3;
    let served = Served::with(&settings, 0).await;
    for _ in 0..3 {
        assert_eq!(served.post(body().to_string()).send().await.unwrap().status(), 200);
    }
    let (status, sentence) = served.refused(served.post(body().to_string())).await;
    assert_eq!(status, 400);
    assert!(sentence.contains("more than 3 in a minute (model.max_per_minute)"), "{sentence}");
    assert_eq!(model.requests().len(), 3);
}

#[tokio::test]
async fn a_provider_that_does_not_answer_is_asked_twice_and_then_no_more() {
    let silent = provider(|mut stream| async move {
        while stream.read(&mut [0; 4096]).await.is_ok_and(|n| n > 0) {}
    });
    let mut settings = config(&silent.await);
    settings.response_timeout = Duration::from_secs(1);
    let served = Served::with(&settings, 0).await;
    for status in [504, 400, 400] {
        let (is, sentence) = served.refused(served.post(body().to_string())).await;
        assert_eq!(is, status);
        let want = "the model provider at 127.0.0.1 did not answer within 1 s \
                    (model.response_timeout)";
        assert_eq!(sentence, want);
    }
    let report = served.traffic.report();
    assert_eq!((report.requests, report.troubles.len()), (2, 1));
}

#[tokio::test]
async fn a_provider_that_falls_silent_is_cut_off_and_named() {
    let stalling = provider(|mut stream| async move {
        stream.write_all(EVENTS.as_bytes()).await.unwrap();
        stream.write_all(b"data: {}\n\n").await.unwrap();
        while stream.read(&mut [0; 4096]).await.is_ok_and(|n| n > 0) {}
    });
    let mut settings = config(&stalling.await);
    settings.idle_timeout = Duration::from_secs(1);
    let served = Served::with(&settings, 0).await;
    let mut answer = served.post(body().to_string()).send().await.unwrap();
    assert_eq!(answer.chunk().await.unwrap().unwrap(), "data: {}\n\n");
    answer.chunk().await.unwrap_err();
    let (status, sentence) = served.refused(served.post(body().to_string())).await;
    assert_eq!(status, 400);
    assert!(sentence.ends_with("in the middle of an answer (model.idle_timeout)"), "{sentence}");
    assert_eq!(served.traffic.report().troubles, [sentence]);
}

#[tokio::test]
async fn a_reader_that_waits_is_no_silence_of_the_provider() {
    let model = ScriptedModel::start(Script::always(vec![Step::Flood(32 << 20)])).await.unwrap();
    let mut settings = config(&model.base_url());
    settings.idle_timeout = Duration::from_secs(1);
    let served = Served::with(&settings, 0).await;
    let mut answer = served.post(body().to_string()).send().await.unwrap();
    // Longer than the limit: what is waited for here is that nothing happens.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let mut bytes = 0;
    while let Some(chunk) = answer.chunk().await.unwrap() {
        bytes += chunk.len();
    }
    assert!(bytes > 32 << 20);
    assert!(served.traffic.report().troubles.is_empty());
}

#[tokio::test]
async fn answers_that_are_none_are_told_as_such() {
    for (head, want) in [
        (
            "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\n\r\n<html>",
            "it sent \"text/html\" instead",
        ),
        ("HTTP/1.1 200 OK\r\n\r\nhello", "an answer without a content type"),
        (
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-encoding: gzip\r\n\r\nx",
            "encoded as \"gzip\", unasked",
        ),
        ("hello, I am no server\r\n\r\n", "broke off"),
    ] {
        let served = Served::to(&answering(head.into()).await).await;
        let (status, sentence) = served.refused(served.post(body().to_string())).await;
        assert_eq!(status, 502, "{sentence}");
        assert!(sentence.contains(want), "{sentence}");
        assert_eq!(served.traffic.report().troubles, [sentence]);
    }
}

#[tokio::test]
async fn huge_headers_and_an_error_without_an_end_are_bounded() {
    let huge = format!("HTTP/1.1 200 OK\r\nx-a: {}\r\n\r\n", "a".repeat(4 << 20));
    let served = Served::to(&answering(huge).await).await;
    let (status, sentence) = served.refused(served.post(body().to_string())).await;
    assert_eq!(status, 502);
    assert!(sentence.len() < 300, "{sentence}");
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "x-a: b\r\n".repeat(10_000));
    let served = Served::to(&answering(many).await).await;
    assert_eq!(served.refused(served.post(body().to_string())).await.0, 502);
    let endless = provider(|mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 500 X\r\n\r\n").await;
        while stream.write_all(&[b'x'; 64 << 10]).await.is_ok() {}
    });
    let served = Served::to(&endless.await).await;
    let answer = served.post(body().to_string()).send().await.unwrap();
    assert_eq!(answer.status(), 500);
    assert_eq!(answer.text().await.unwrap().len(), 1 << 20);
}

#[tokio::test]
async fn an_answer_that_closes_early_is_cut_and_recorded() {
    let early = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 100\r\n\r\n\
                 data: {}\n\n";
    let served = Served::to(&answering(early.into()).await).await;
    let answer = served.post(body().to_string()).send().await.unwrap();
    answer.text().await.unwrap_err();
    let troubles = served.traffic.report().troubles;
    assert!(troubles[0].contains("broke off"), "{troubles:?}");
}
