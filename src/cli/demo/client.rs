//! The smallest MCP client: one request at a time, JSON-RPC messages as lines over the stdio of a
//! program that it starts. The demo's own, so that what it shows is the protocol and no library's.

use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(120);

/// How long the server may take to end after its stdin was closed.
const END: Duration = Duration::from_secs(10);

/// Why a request has no result.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    /// The server cannot be started, or its streams cannot be used.
    #[error("the server cannot be talked to: {0}")]
    Io(#[from] io::Error),
    /// The server wrote something that is no message.
    #[error("the server wrote a line that is no JSON-RPC message: {0:.200}")]
    NoMessage(String),
    /// The server ended.
    #[error("the server ended before it answered {0}")]
    Ended(String),
    /// The server says that the request is wrong.
    #[error("the server refused {method}: {message}")]
    Refused {
        /// What was asked.
        method: String,
        /// What it says.
        message: String,
    },
    /// No answer.
    #[error("the server did not answer {0} within {limit} s", limit = ANSWER.as_secs())]
    Silent(String),
    /// The server goes on after its stdin was closed.
    #[error("the server did not end within {} s after its stdin was closed", END.as_secs())]
    DoesNotEnd,
}

/// A client and the server that it started. Dropped, it kills the server.
#[derive(Debug)]
pub(super) struct Client {
    child: Child,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    next: u64,
}

impl Client {
    /// Starts the server.
    pub(super) fn start(command: &mut Command) -> Result<Self, ClientError> {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::Error::other("it has no stdio").into());
        };
        Ok(Self { child, stdin, lines: BufReader::new(stdout).lines(), next: 1 })
    }

    /// The server's process.
    pub(super) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Sends a notification.
    pub(super) async fn notify(&mut self, method: &str) -> Result<(), ClientError> {
        self.send(&json!({"jsonrpc": "2.0", "method": method})).await
    }

    /// Sends a request and waits for its result; the messages of progress notifications that come
    /// meanwhile go to `progress`.
    pub(super) async fn request(
        &mut self,
        method: &str,
        params: Value,
        progress: impl FnMut(&str),
    ) -> Result<Value, ClientError> {
        let id = self.next;
        self.next += 1;
        let message = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        self.send(&message).await?;
        tokio::time::timeout(ANSWER, self.answer(id, method, progress))
            .await
            .unwrap_or_else(|_| Err(ClientError::Silent(method.to_owned())))
    }

    /// Calls a tool; gives its structured result.
    pub(super) async fn call(
        &mut self,
        tool: &str,
        arguments: Value,
        progress: impl FnMut(&str),
    ) -> Result<Value, ClientError> {
        let params = json!({
            "name": tool, "arguments": arguments, "_meta": {"progressToken": tool},
        });
        let mut result = self.request("tools/call", params, progress).await?;
        Ok(result["structuredContent"].take())
    }

    /// Closes the server's stdin, as a client does, and waits for its end.
    pub(super) async fn close(self) -> Result<ExitStatus, ClientError> {
        let Self { mut child, stdin, lines, .. } = self;
        drop(stdin);
        let ended = tokio::time::timeout(END, child.wait()).await;
        drop(lines);
        Ok(ended.map_err(|_| ClientError::DoesNotEnd)??)
    }

    async fn send(&mut self, message: &Value) -> Result<(), ClientError> {
        let line = format!("{message}\n");
        Ok(self.stdin.write_all(line.as_bytes()).await?)
    }

    async fn answer(
        &mut self,
        id: u64,
        method: &str,
        mut progress: impl FnMut(&str),
    ) -> Result<Value, ClientError> {
        loop {
            let Some(line) = self.lines.next_line().await? else {
                return Err(ClientError::Ended(method.to_owned()));
            };
            let Ok(mut message) = serde_json::from_str::<Value>(&line) else {
                return Err(ClientError::NoMessage(line));
            };
            if message["method"] == "notifications/progress" {
                progress(message["params"]["message"].as_str().unwrap_or_default());
            }
            if message["id"] != id || !message["method"].is_null() {
                continue;
            }
            if let Some(error) = message.get("error") {
                let message = error["message"].as_str().unwrap_or("it does not say why").to_owned();
                return Err(ClientError::Refused { method: method.to_owned(), message });
            }
            return Ok(message["result"].take());
        }
    }
}
