//! A gateway that listens, and providers that do as they are told.

use std::net::SocketAddr;
use std::sync::Arc;

use mcp_codex_orchestrator::config::{Auth, Config, DEFAULT_TOML, ModelConfig};
use mcp_codex_orchestrator::model::{Credential, Gateway, Limits, Traffic};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

pub(crate) const KEY: &str = "sk-gateway-0123456789";
pub(crate) const AZURE_KEY: &str = "azure-0123456789";

/// The defaults, for a provider at `base_url`.
pub(crate) fn config(base_url: &str) -> ModelConfig {
    let defaults: Config = toml::from_str(DEFAULT_TOML).unwrap();
    ModelConfig { base_url: base_url.into(), ..defaults.model }
}

pub(crate) fn body() -> Value {
    json!({"model": "m", "stream": true, "store": false, "input": [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]}]})
}

/// The environment of the gateway.
pub(crate) fn variable(name: &str) -> Option<String> {
    (name == "AZURE_KEY").then(|| AZURE_KEY.to_owned())
}

/// A gateway that listens on loopback, and a client for it.
pub(crate) struct Served {
    pub(crate) address: SocketAddr,
    pub(crate) traffic: Arc<Traffic>,
    pub(crate) client: reqwest::Client,
    _task: AbortOnDropHandle<()>,
}

impl Served {
    pub(crate) async fn to(base_url: &str) -> Self {
        Self::with(&config(base_url), 0).await
    }

    /// With settings, and `run.max_tokens`.
    pub(crate) async fn with(config: &ModelConfig, max_tokens: u64) -> Self {
        let credential = match config.auth {
            Auth::None => Credential::none(),
            _ => Credential::api_key(KEY).unwrap(),
        };
        let gateway = Gateway::new(config, credential, variable).unwrap();
        let traffic = Arc::new(Traffic::new(Limits::new(config, max_tokens)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn({
            let traffic = traffic.clone();
            async move {
                let mut connections = tokio::task::JoinSet::new();
                while let Ok((stream, _)) = listener.accept().await {
                    let (gateway, traffic) = (gateway.clone(), traffic.clone());
                    connections.spawn(async move { gateway.serve(stream, traffic).await });
                }
            }
        });
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { address, traffic, client, _task: AbortOnDropHandle::new(task) }
    }

    pub(crate) fn post(&self, body: impl Into<reqwest::Body>) -> reqwest::RequestBuilder {
        self.client.post(format!("http://{}/v1/responses", self.address)).body(body)
    }

    pub(crate) async fn refused(&self, request: reqwest::RequestBuilder) -> (u16, String) {
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        let body: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
        (status, body["error"]["message"].as_str().unwrap().to_owned())
    }
}

/// A provider that takes one connection after the other, reads a head, and does as it is told.
pub(crate) async fn provider<F>(then: impl Fn(TcpStream) -> F + Send + 'static) -> String
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if stream.read(&mut byte).await.unwrap() == 0 {
                    break;
                }
                head.push(byte[0]);
            }
            tokio::spawn(then(stream));
        }
    });
    format!("http://{address}/v1")
}

/// A provider that answers every request with `answer`, and closes.
pub(crate) async fn answering(answer: String) -> String {
    provider(move |mut stream| {
        let answer = answer.clone();
        async move {
            stream.write_all(answer.as_bytes()).await.unwrap();
            // Until the gateway has read what it wants, lest a reset overtakes it.
            stream.shutdown().await.unwrap();
            while stream.read(&mut [0; 4096]).await.is_ok_and(|n| n > 0) {}
        }
    })
    .await
}
