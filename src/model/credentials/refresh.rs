//! One question to the token endpoint.

use std::time::Duration;

use serde_json::{Value, json};

use super::auth_file::Rotated;

/// Where Codex refreshes a ChatGPT login.
pub const TOKEN_ENDPOINT: &str = "https://auth.openai.com/oauth/token";

/// Codex's own identity there, to which the login was given.
const CLIENT_ID: &str = "app_EMoamEEZ73f0CkXaXp7hrann";

/// How long an answer may take. Short would be wrong: an answer that is not waited for is a login
/// that is lost.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The largest answer, in bytes.
const MAX_ANSWER: usize = 1024 * 1024;

/// Why it is asked; Codex says the same words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    Expiry,
    Unauthorized,
}

/// Why there are no new tokens. Nothing in it is a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// Somebody else used the refresh token before.
    Reused,
    /// The login is over for another reason.
    Ended(String),
    /// The endpoint was not reached, or has a failure of its own.
    Failing(String),
}

/// Where a login is refreshed: at `named`, which Codex's own variable names so that both ask the same
/// server, if it is there. `None` if a login must not be sent there.
pub(super) fn endpoint(named: Option<String>) -> Option<String> {
    let Some(named) = named.filter(|named| !named.trim().is_empty()) else {
        return Some(TOKEN_ENDPOINT.to_owned());
    };
    let url = reqwest::Url::parse(named.trim()).ok()?;
    let here = match url.host_str().unwrap_or_default() {
        "localhost" | "[::1]" => true,
        host => host.parse::<std::net::Ipv4Addr>().is_ok_and(|address| address.is_loopback()),
    };
    (url.scheme() == "https" || (url.scheme() == "http" && here)).then(|| url.into())
}

/// Gives `refresh_token` for new tokens.
///
/// # Cancel safety
///
/// None: dropped after the request is sent, the new refresh token is lost and the old one void.
pub(super) async fn refresh(
    endpoint: &str,
    refresh_token: &str,
    reason: Reason,
) -> Result<Rotated, Refused> {
    crate::model::gateway::install_crypto();
    let failing = |error: &reqwest::Error| Refused::Failing(cause(error));
    let mut client = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .connect_timeout(Duration::from_secs(10))
        .timeout(TIMEOUT);
    if endpoint.starts_with("http://127.0.0.1:") {
        client = client.no_proxy();
    }
    let client = client.build().map_err(|error| failing(&error))?;
    let body = json!({
        "client_id": CLIENT_ID,
        "grant_type": "refresh_token",
        "refresh_reason": match reason {
            Reason::Expiry => "proactive_expiry",
            Reason::Unauthorized => "unauthorized_recovery",
        },
        "refresh_token": refresh_token,
    });
    let request = client.post(endpoint).header("content-type", "application/json");
    let mut answer =
        request.body(body.to_string()).send().await.map_err(|error| failing(&error))?;
    let status = answer.status();
    let mut text = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|error| failing(&error))? {
        text.extend_from_slice(&chunk);
        if text.len() > MAX_ANSWER {
            return Err(Refused::Failing("its answer is too long".to_owned()));
        }
    }
    let answer: Value = serde_json::from_slice(&text).unwrap_or_default();
    if !status.is_success() {
        let code = code(&answer);
        return Err(match code.as_str() {
            "refresh_token_reused" => Refused::Reused,
            _ if matches!(status.as_u16(), 400 | 401 | 403) => Refused::Ended(code),
            _ => Refused::Failing(format!("it answered {} ({code})", status.as_u16())),
        });
    }
    let text = |name: &str| {
        let value = answer[name].as_str().filter(|value| !value.is_empty());
        value.map(str::to_owned)
    };
    let access = text("access_token")
        .filter(|token| token.bytes().all(|byte| byte.is_ascii_graphic()))
        .ok_or_else(|| Refused::Failing("its answer has no access token".to_owned()))?;
    Ok(Rotated {
        access,
        refresh: text("refresh_token"),
        id: text("id_token"),
        expires_in: answer["expires_in"].as_i64(),
    })
}

/// The code of an error, which alone is shown of an answer, and only if it looks like one.
fn code(answer: &Value) -> String {
    let error = &answer["error"];
    let code =
        error["code"].as_str().or_else(|| error.as_str()).or_else(|| answer["code"].as_str());
    let plain = |code: &&str| {
        (1..=64).contains(&code.len())
            && code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
    };
    code.filter(plain).unwrap_or("no reason given").to_owned()
}

fn cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    crate::model::redact::redact(&cause.to_string())
}
