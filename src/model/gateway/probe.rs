//! One smallest real request, made as Codex makes it and passed by the same code, to see what the
//! provider says to the credential.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Gateway, Limits, Traffic};

/// Bytes of an answer that are read at most; a word takes some kB of events.
const MAX_ANSWER: u64 = 1024 * 1024;

/// Tokens of an answer at most; the least that providers take.
const MAX_TOKENS: u32 = 16;

/// Characters of the provider's own words that are told.
const MAX_WORDS: usize = 200;

/// What came back.
struct Answer {
    status: u16,
    body: String,
}

/// What an answer of the provider says went wrong.
struct Wrong {
    status: u16,
    code: String,
    message: String,
    /// Whether this program said so, and not the provider.
    ours: bool,
}

impl Gateway {
    /// Asks the provider for one word of `model`. Costs what such a request costs.
    ///
    /// # Errors
    ///
    /// What came back instead and what to do, one sentence without a secret.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future ends the request.
    pub async fn probe(&self, model: &str, limits: Limits) -> Result<String, String> {
        let traffic = Arc::new(Traffic::new(limits));
        let limit = limits.response_timeout;
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let asking = async {
            let body = self.smallest(model);
            let serving = self.serve(theirs, Arc::clone(&traffic));
            let (answer, ()) = tokio::join!(ask(ours, &body), serving);
            answer
        };
        let host = self.inner.host();
        let answer = tokio::time::timeout(limit, asking).await;
        // A login that is renewed just now must not be lost with this process.
        self.credential().settle().await;
        let answer = answer.map_err(|_| {
            let seconds = limit.as_secs();
            format!("{host} gave no whole answer within {seconds} s (model.response_timeout)")
        })?;
        match answer.as_ref().map(Answer::wrong) {
            Some(None) => Ok(format!("{host} answered with {model}")),
            Some(Some(wrong)) => Err(self.sentence(model, &wrong)),
            None => {
                let troubles = traffic.report().troubles;
                let trouble = troubles.last().cloned();
                Err(trouble.unwrap_or_else(|| format!("{host} sent no answer; call again")))
            }
        }
    }

    fn smallest(&self, model: &str) -> String {
        let mut body = json!({
            "model": model,
            "instructions": "Answer with one word.",
            "input": [{"type": "message", "role": "user", "content": [
                {"type": "input_text", "text": "Say ok."},
            ]}],
            "stream": true,
            "store": false,
        });
        // Codex sends no limit with a ChatGPT login, so it is not known whether one is taken.
        if self.credential().status().kind != "chatgpt" {
            body["max_output_tokens"] = MAX_TOKENS.into();
        }
        body.to_string()
    }

    fn sentence(&self, model: &str, wrong: &Wrong) -> String {
        let Wrong { status, code, message, ours } = wrong;
        let host = self.inner.host();
        // Both are the provider's, and go to a terminal.
        let plain = |text: &str| -> String {
            self.redact(text).chars().filter(|c| !c.is_control()).take(MAX_WORDS).collect()
        };
        let words = plain(message);
        if *ours {
            // These say themselves what to do.
            let network = code == "provider_unreachable" || code == "provider_broke_off";
            let advice = if network {
                "; check this machine's network, model.base_url, and HTTPS_PROXY"
            } else {
                ""
            };
            return words + advice;
        }
        let said = match (words.is_empty(), code.is_empty()) {
            (false, _) => format!("{status}: {}", words.trim_end_matches('.')),
            (true, false) => format!("{status}: {}", plain(code)),
            (true, true) => status.to_string(),
        };
        let quota = ["quota", "usage_limit", "billing"].iter().any(|part| code.contains(part));
        match status {
            _ if quota || *status == 402 => format!(
                "{host} takes the credential, and its quota is used up ({said}); see the plan and \
                 the billing of the account"
            ),
            _ if *status == 429 || code.contains("rate_limit") => {
                format!("{host} limits the rate ({said}); wait and call again")
            }
            401 => match self.credential().status().kind {
                "none" => format!(
                    "{host} wants a credential ({said}); set model.auth = \"auto\" and \
                     OPENAI_API_KEY, or a header in model.headers"
                ),
                "api-key" => format!(
                    "{host} refuses the API key ({said}); set OPENAI_API_KEY to one that is valid \
                     there"
                ),
                _ => format!(
                    "{host} refuses the ChatGPT login ({said}); run mcp-codex-orchestrator auth \
                     login, or use an API key"
                ),
            },
            403 => format!(
                "{host} does not allow it ({said}); check that the account may use {model}, and \
                 its region and workspace"
            ),
            404 => format!(
                "{host} knows no such path or no model {model} ({said}); check model.base_url and \
                 codex.model"
            ),
            300..=399 => {
                format!("{host} redirects ({said}), which is not followed; check model.base_url")
            }
            500.. => format!("{host} has a failure of its own ({said}); call again later"),
            _ => {
                format!("{host} refuses the request ({said}); check model.base_url and codex.model")
            }
        }
    }
}

/// One request over `connection`; `None` if there is no answer to it. As HTTP 1.0, so that the
/// answer's end is that of the connection.
async fn ask(mut connection: tokio::io::DuplexStream, body: &str) -> Option<Answer> {
    let head = format!(
        "POST /v1/responses HTTP/1.0\r\nhost: gateway\r\naccept: text/event-stream\r\n\
         content-type: application/json\r\ncontent-length: {}\r\noriginator: codex_exec\r\n\
         user-agent: mcp-codex-orchestrator/{} (doctor)\r\n\r\n",
        body.len(),
        env!("CARGO_PKG_VERSION"),
    );
    connection.write_all(head.as_bytes()).await.ok()?;
    connection.write_all(body.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    // What came before it was cut off is looked at all the same.
    let _ = connection.take(MAX_ANSWER).read_to_end(&mut answer).await;
    let text = String::from_utf8_lossy(&answer);
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Answer { status, body: body.to_owned() })
}

impl Answer {
    /// What is wrong with it; `None` if it is an answer of the model.
    fn wrong(&self) -> Option<Wrong> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let of = |error: &Value| Wrong {
            status: self.status,
            code: text(if error["code"].is_string() { &error["code"] } else { &error["type"] }),
            message: text(&error["message"]),
            ours: error["type"] == "gateway_error",
        };
        if self.status != 200 {
            let body: Value = serde_json::from_str(&self.body).unwrap_or_default();
            // The ChatGPT backend says {"detail": "..."}.
            return Some(match &body["detail"] {
                Value::String(detail) => Wrong { message: detail.clone(), ..of(&Value::Null) },
                _ => of(&body["error"]),
            });
        }
        for line in self.body.lines() {
            let Some(data) = line.strip_prefix("data:") else { continue };
            let Ok(event) = serde_json::from_str::<Value>(data) else { continue };
            match event["type"].as_str() {
                // Cut at our own limit of tokens is an answer, too.
                Some("response.completed" | "response.incomplete") => return None,
                Some("response.failed") => return Some(of(&event["response"]["error"])),
                Some("error") if event["error"].is_object() => return Some(of(&event["error"])),
                Some("error") => return Some(of(&event)),
                _ => {}
            }
        }
        let message = "its answer ended before it was whole".to_owned();
        Some(Wrong { status: 200, code: String::new(), message, ours: false })
    }
}
