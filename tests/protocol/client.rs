//! A client that writes its lines by hand, and a server whose jobs do what their prompt says.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use mcp_codex_orchestrator::config::{NetworkConfig, RunConfig};
use mcp_codex_orchestrator::failure::{ErrorKind, Failure};
use mcp_codex_orchestrator::job::Jobs;
use mcp_codex_orchestrator::job::ask::Asker;
use mcp_codex_orchestrator::job::call::{ApplyCall, DiffCall, RunCall, UndoCall};
use mcp_codex_orchestrator::job::progress::ProgressSender;
use mcp_codex_orchestrator::job::result::{ApplyReport, DiffPage, RunResult, UndoReport};
use mcp_codex_orchestrator::pool::status::PoolStatus;
use mcp_codex_orchestrator::server;
use mcp_codex_orchestrator::workspace::change::ChangesState;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::{Barrier, Notify};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

pub(crate) const GRACE: Duration = Duration::from_millis(1500);

/// Does what the prompt says.
pub(crate) struct Script {
    pub(crate) begun: Notify,
    pub(crate) ended: Notify,
    pub(crate) both: Barrier,
}

impl Script {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { begun: Notify::new(), ended: Notify::new(), both: Barrier::new(2) })
    }
}

impl Jobs for Script {
    fn run(
        &self,
        call: RunCall,
        progress: ProgressSender,
        _asker: Arc<dyn Asker>,
        cancel: CancellationToken,
    ) -> BoxFuture<'_, RunResult> {
        async move {
            self.begun.notify_one();
            let mut result = RunResult::completed("run-1");
            match call.prompt.as_str() {
                "wait" => {
                    progress.say("running Codex");
                    cancel.cancelled().await;
                    result.fail(&Failure::new(ErrorKind::Cancelled, "cancelled; call again"));
                    self.ended.notify_one();
                }
                "stages" => {
                    for stage in ["a", "a", "b", "c"] {
                        progress.say(stage);
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                }
                "many" => {
                    for stage in 0..1000 {
                        progress.say(format!("stage {stage}"));
                        tokio::time::sleep(Duration::from_millis(3)).await;
                    }
                }
                "long" => tokio::time::sleep(Duration::from_secs(60)).await,
                "deaf" => std::future::pending().await,
                "panic" => panic!("as asked"),
                "both" => {
                    self.both.wait().await;
                }
                _ => result.output = "done".to_owned(),
            }
            result
        }
        .boxed()
    }

    fn diff(&self, call: DiffCall) -> BoxFuture<'_, Result<DiffPage, Failure>> {
        async move {
            if call.run_id != "run-1" {
                let sentence = format!("no run is called {}", call.run_id);
                return Err(Failure::new(ErrorKind::InvalidArgument, sentence));
            }
            Ok(DiffPage {
                run_id: call.run_id,
                changes_state: ChangesState::Held,
                page: 1,
                pages: 1,
                diff: "--- a\n+++ b\n".to_owned(),
            })
        }
        .boxed()
    }

    fn apply(&self, _call: ApplyCall) -> BoxFuture<'_, Result<ApplyReport, Failure>> {
        async move { panic!("as asked") }.boxed()
    }

    fn undo(&self, _call: UndoCall) -> BoxFuture<'_, Result<UndoReport, Failure>> {
        async move { panic!("as asked") }.boxed()
    }

    fn limits(&self) -> RunConfig {
        limits()
    }

    fn network(&self) -> NetworkConfig {
        NetworkConfig::default()
    }

    fn pool_status(&self) -> PoolStatus {
        PoolStatus { idle: 1, ..PoolStatus::default() }
    }
}

fn limits() -> RunConfig {
    RunConfig {
        timeout: Duration::from_secs(300),
        min_timeout: Duration::from_secs(10),
        max_timeout: Duration::from_secs(3600),
        end_timeout: Duration::from_secs(5),
        transfer_timeout: Duration::from_secs(300),
        output_limit: 65536,
        max_tokens: 0,
    }
}

pub(crate) struct Client {
    lines: tokio::io::Lines<BufReader<ReadHalf<DuplexStream>>>,
    writer: WriteHalf<DuplexStream>,
    pub(crate) server: JoinHandle<Result<(), server::ServerError>>,
    pub(crate) shutdown: CancellationToken,
    pub(crate) script: Arc<Script>,
}

impl Client {
    pub(crate) fn new() -> Self {
        let script = Script::new();
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let (reader, writer) = tokio::io::split(theirs);
        let shutdown = CancellationToken::new();
        let server =
            tokio::spawn(server::run(script.clone(), GRACE, reader, writer, shutdown.clone()));
        let (read, writer) = tokio::io::split(ours);
        Self { lines: BufReader::new(read).lines(), writer, server, shutdown, script }
    }

    pub(crate) async fn initialized() -> Self {
        let mut client = Self::new();
        client.initialize().await;
        client
    }

    pub(crate) async fn initialize(&mut self) -> Value {
        self.send(json!({
            "jsonrpc": "2.0", "id": 0, "method": "initialize",
            "params": {
                "protocolVersion": "2025-11-25", "capabilities": {},
                "clientInfo": {"name": "test", "version": "0"}
            }
        }))
        .await;
        let answer = self.next().await;
        self.send(json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await;
        answer
    }

    pub(crate) async fn send(&mut self, message: Value) {
        self.write(format!("{message}\n").as_bytes()).await;
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        self.writer.write_all(bytes).await.unwrap();
    }

    pub(crate) async fn call(&mut self, id: u32, tool: &str, arguments: Value) {
        self.send(json!({
            "jsonrpc": "2.0", "id": id, "method": "tools/call",
            "params": {"name": tool, "arguments": arguments}
        }))
        .await;
    }

    /// The next line, which must be a JSON-RPC message.
    pub(crate) async fn next(&mut self) -> Value {
        let line = timeout(Duration::from_secs(120), self.lines.next_line()).await;
        let line = line.expect("an answer in time").unwrap().expect("an open stream");
        let message: Value = serde_json::from_str(&line).expect("a JSON line");
        assert_eq!(message["jsonrpc"], "2.0", "{message}");
        message
    }

    pub(crate) async fn called(&mut self, tool: &str, arguments: Value) -> Value {
        self.call(7, tool, arguments).await;
        let answer = self.next().await;
        assert_eq!(answer["id"], 7, "{answer}");
        answer
    }

    /// Closes the server's stdin.
    pub(crate) async fn close(&mut self) {
        self.writer.shutdown().await.unwrap();
    }
}
