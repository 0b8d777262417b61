//! Bodies that come encoded.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use mcp_codex_orchestrator::model::scripted::{Script, ScriptedModel};
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use serde_json::json;

use crate::support::{Served, body};

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

fn zstd(text: &[u8]) -> Vec<u8> {
    compress_to_vec(text, CompressionLevel::Fastest)
}

#[tokio::test]
async fn they_are_checked_as_what_they_are_and_go_on_decoded() {
    let model = ScriptedModel::start(Script::builtin().keeping_bodies()).await.unwrap();
    let served = Served::to(&model.base_url()).await;
    let text = body().to_string();
    let (front, back) = text.split_at(30);
    for (encoding, packed) in [
        ("zstd", zstd(text.as_bytes())),
        ("gzip", gzip(text.as_bytes())),
        ("gzip", [gzip(front.as_bytes()), gzip(back.as_bytes())].concat()),
    ] {
        let answer = served.post(packed).header("content-encoding", encoding).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        let seen = model.take_requests().pop().unwrap();
        assert_eq!(seen.body, Some(body()));
        assert!(seen.headers.iter().all(|(name, _)| name != "content-encoding"));
    }
    let mut hosted = body();
    hosted["tools"] = json!([{"type": "web_search"}]);
    let hidden =
        served.post(zstd(hosted.to_string().as_bytes())).header("content-encoding", "zstd");
    let (status, sentence) = served.refused(hidden).await;
    assert_eq!(status, 400);
    assert!(sentence.contains("model.hosted_tools"), "{sentence}");
    assert!(model.requests().is_empty());
}

#[tokio::test]
async fn bombs_nests_and_lies_are_refused() {
    let model = ScriptedModel::start(Script::builtin()).await.unwrap();
    let served = Served::to(&model.base_url()).await;
    let bomb = vec![b' '; (64 << 20) + 1];
    let text = body().to_string();
    for (encoding, packed, status) in [
        ("zstd", zstd(&bomb), 413),
        ("gzip", gzip(&bomb), 413),
        ("zstd, gzip", gzip(&zstd(text.as_bytes())), 415),
        ("gzip", gzip(&gzip(text.as_bytes())), 400),
        ("zstd", gzip(text.as_bytes()), 400),
        ("gzip", text.clone().into_bytes(), 400),
        ("identity", zstd(text.as_bytes()), 400),
    ] {
        let request = served.post(packed).header("content-encoding", encoding);
        let (is, sentence) = served.refused(request).await;
        assert_eq!(is, status, "{encoding}: {sentence}");
    }
    assert!(model.requests().is_empty());
    // What they held is free again.
    let large = body().to_string() + &" ".repeat(60 << 20);
    assert_eq!(served.post(large).send().await.unwrap().status(), 200);
}
