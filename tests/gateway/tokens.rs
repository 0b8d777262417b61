//! `run.max_tokens`.

use std::time::Duration;

use mcp_codex_orchestrator::model::scripted::{Script, ScriptedModel, Step};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Served, body, config, provider};

const LONG: Duration = Duration::from_secs(10);

#[tokio::test]
async fn what_goes_over_it_is_told_and_nothing_passes_any_more() {
    // 1,234 tokens each.
    let model = ScriptedModel::start(Script::always(vec![Step::Say("a".into())])).await.unwrap();
    let served = Served::with(&config(&model.base_url()), 2468).await;
    for _ in 0..2 {
        served.post(body().to_string()).send().await.unwrap().text().await.unwrap();
    }
    let over = tokio::time::timeout(Duration::from_millis(50), served.traffic.over_tokens());
    over.await.unwrap_err();
    served.post(body().to_string()).send().await.unwrap().text().await.unwrap();
    tokio::time::timeout(LONG, served.traffic.over_tokens()).await.unwrap();
    assert_eq!(served.traffic.report().tokens, 3702);
    let (status, sentence) = served.refused(served.post(body().to_string())).await;
    assert_eq!(status, 400);
    assert!(sentence.contains("over its 2468 tokens (run.max_tokens)"), "{sentence}");
    assert_eq!(model.requests().len(), 3);
    // Codex asks again and again; the user is told once.
    for _ in 0..2 {
        served.refused(served.post(body().to_string())).await;
    }
    let report = served.traffic.report();
    let told = report.denied.iter().filter(|what| what.contains("run.max_tokens")).count();
    assert_eq!((told, report.denied_total), (1, 3), "{:?}", report.denied);
}

#[tokio::test]
async fn without_a_limit_nothing_is_counted() {
    let model = ScriptedModel::start(Script::always(vec![Step::Say("a".into())])).await.unwrap();
    let served = Served::to(&model.base_url()).await;
    served.post(body().to_string()).send().await.unwrap().text().await.unwrap();
    assert_eq!(served.traffic.report().tokens, 0);
}

#[tokio::test]
async fn who_leaves_before_the_end_pays_all_the_same() {
    let base = provider(|mut stream| async move {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: {}\n\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        while stream.read(&mut [0; 4096]).await.is_ok_and(|n| n > 0) {}
    });
    let served = Served::with(&config(&base.await), 1000).await;
    let large = body().to_string() + &" ".repeat(4000);
    let mut answer = served.post(large).send().await.unwrap();
    answer.chunk().await.unwrap();
    drop(answer);
    tokio::time::timeout(LONG, served.traffic.over_tokens()).await.unwrap();
    assert!(served.traffic.report().tokens > 1000);
}
