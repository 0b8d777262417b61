//! What the gateway costs against a direct connection to the same provider on loopback, the two
//! taking turns:
//!
//! - a small streamed request, from its first byte to the last of the answer;
//! - an answer of 64 MiB, and a request of 16 MiB, which the gateway reads and checks.
//!
//! `BENCH_ROUNDS` sets the rounds (300 small, a tenth of it large); it exits with 1 if a figure is
//! over its limit. A build without optimization says so and judges nothing.

#[allow(dead_code, reason = "shared with what uses other parts of it")]
#[path = "../common/figures.rs"]
mod figures;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mcp_codex_orchestrator::config::{Config, DEFAULT_TOML, ModelConfig};
use mcp_codex_orchestrator::model::scripted::{Script, ScriptedModel, Step};
use mcp_codex_orchestrator::model::{Credential, Gateway, Limits, Traffic};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use figures::{gate, ms, percentile, say, table};

type Failed = Box<dyn std::error::Error + Send + Sync>;

const ROUNDS: usize = 300;
const WARM_UP: usize = 5;
const DOWN: u64 = 64 << 20;
const UP: usize = 16 << 20;
/// Milliseconds that the gateway may add at the median.
const ADDED_LIMIT: f64 = 2.0;
/// MB of a million bytes that it must pass in a second.
const RATE_LIMIT: f64 = 100.0;

#[tokio::main]
async fn main() -> ExitCode {
    figures::exit(measure().await)
}

/// A gateway to `base_url` that listens on loopback, without limits that a benchmark meets.
async fn gateway(
    base_url: String,
    max_tokens: u64,
) -> Result<(SocketAddr, AbortOnDropHandle<()>), Failed> {
    let defaults: Config = toml::from_str(DEFAULT_TOML)?;
    let config = ModelConfig { base_url, max_per_minute: 100_000, ..defaults.model };
    let gateway = Gateway::new(&config, Credential::api_key("sk-bench-0123456789")?, |_| None)?;
    let traffic = Arc::new(Traffic::new(Limits::new(&config, max_tokens)));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // Without it small answers wait for an acknowledgement; a failure costs only that.
            let _ = stream.set_nodelay(true);
            let (gateway, traffic) = (gateway.clone(), traffic.clone());
            tokio::spawn(async move { gateway.serve(stream, traffic).await });
        }
    });
    Ok((address, AbortOnDropHandle::new(task)))
}

fn body(prompt: &str, padding: usize) -> String {
    serde_json::json!({
        "model": "m", "stream": true, "store": false, "instructions": "x".repeat(padding),
        "input": [{"type": "message", "role": "user",
                   "content": [{"type": "input_text", "text": prompt}]}],
    })
    .to_string()
}

/// The time until the last byte of the answer, and its bytes.
async fn ask(
    client: &reqwest::Client,
    base: &str,
    body: &bytes::Bytes,
) -> Result<(Duration, u64), Failed> {
    let begun = Instant::now();
    let url = format!("{base}/responses");
    let mut answer = client.post(url).body(body.clone()).send().await?.error_for_status()?;
    let mut bytes = 0;
    while let Some(chunk) = answer.chunk().await? {
        bytes += chunk.len() as u64;
    }
    Ok((begun.elapsed(), bytes))
}

async fn measure() -> Result<bool, Failed> {
    let rounds: usize = match std::env::var("BENCH_ROUNDS") {
        Ok(rounds) => rounds.parse()?,
        Err(_) => ROUNDS,
    };
    let script = Script::always(vec![Step::Say("Done.".into())]);
    let model = ScriptedModel::start(script.with("flood", vec![Step::Flood(DOWN)])).await?;
    let (plain, _plain) = gateway(model.base_url(), 0).await?;
    let (counting, _counting) = gateway(model.base_url(), u64::MAX).await?;
    let arms = [
        ("direct", model.base_url()),
        ("gateway", format!("http://{plain}/v1")),
        ("gateway, run.max_tokens set", format!("http://{counting}/v1")),
    ];
    let client = reqwest::Client::builder().no_proxy().build()?;
    let loads = [
        ("small", bytes::Bytes::from(body("hi", 0)), rounds),
        ("64 MiB down", body("flood", 0).into(), rounds.div_ceil(10)),
        ("16 MiB up", body("hi", UP).into(), rounds.div_ceil(10)),
    ];
    let mut rows = Vec::new();
    let mut medians = Vec::new();
    for (load, body, rounds) in &loads {
        let mut took = vec![Vec::new(); arms.len()];
        let mut moved = 0;
        for round in 0..WARM_UP.min(*rounds) + rounds {
            for (arm, (_, base)) in arms.iter().enumerate() {
                let (time, bytes) = ask(&client, base, body).await?;
                moved = bytes.max(body.len() as u64);
                if round >= WARM_UP.min(*rounds) {
                    took[arm].push(ms(time));
                }
            }
            model.take_requests();
        }
        let direct = percentile(&took[0], 50);
        for (arm, (name, _)) in arms.iter().enumerate() {
            let p50 = percentile(&took[arm], 50);
            let rate = moved as f64 / 1e3 / p50;
            rows.push(vec![
                format!("{load}: {name}"),
                format!("{:.2}", p50 / direct),
                format!("{p50:.3}"),
                format!("{:.3}", percentile(&took[arm], 95)),
                format!("{rate:.0}"),
            ]);
            medians.push((p50 - direct, rate));
        }
    }
    table(&["load and arm", "ratio", "p50 ms", "p95 ms", "MB/s"], &rows);
    if cfg!(debug_assertions) {
        say("built without optimization: nothing is judged");
        return Ok(true);
    }
    let mut pass = true;
    for (arm, (name, _)) in arms.iter().enumerate().skip(1) {
        let at = |load: usize| medians[load * arms.len() + arm];
        pass &= gate(&format!("{name} adds"), at(0).0, ADDED_LIMIT, " ms");
        for (load, what) in [(1, "down"), (2, "up")] {
            // As time per MB, so that less is better.
            let what = format!("{name}, {what}, ms per MB");
            pass &= gate(&what, 1e3 / at(load).1, 1e3 / RATE_LIMIT, "");
        }
    }
    Ok(pass)
}
