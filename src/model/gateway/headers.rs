//! Which headers pass. Both lists name what passes, so that nothing new does by itself.

use hyper::StatusCode;
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName};

/// Request headers of Codex that go to the provider as they came.
const REQUEST: &[&str] = &[
    "accept",
    "content-type",
    "originator",
    "session-id",
    "session_id",
    "thread-id",
    "traceparent",
    "tracestate",
    "user-agent",
    "version",
    "x-client-request-id",
    "x-openai-internal-codex-responses-lite",
    "x-openai-subagent",
];

/// Response headers of the provider that go to Codex as they came.
const RESPONSE: &[&str] = &[
    "cache-control",
    "content-type",
    "date",
    "etag",
    "openai-model",
    "openai-processing-ms",
    "openai-version",
    "request-id",
    "retry-after",
    "retry-after-ms",
    "x-models-etag",
    "x-reasoning-included",
    "x-request-id",
    "x-should-retry",
];

/// Beginnings of names that pass in both directions.
const CODEX: &str = "x-codex-";
/// Beginnings of names that pass to Codex.
const LIMITS: &str = "x-ratelimit-";

/// What of `from` goes to the provider. No credential, cookie, host or hop-by-hop header does.
pub(super) fn to_provider(from: &HeaderMap) -> HeaderMap {
    filter(from, |name| REQUEST.contains(&name) || name.starts_with(CODEX))
}

/// What of `from` goes to Codex.
pub(super) fn to_codex(from: &HeaderMap) -> HeaderMap {
    filter(from, |name| {
        RESPONSE.contains(&name) || name.starts_with(CODEX) || name.starts_with(LIMITS)
    })
}

/// Whether an answer with `headers` can be passed on: nothing in it is hidden by an encoding that
/// nobody asked for, and a success is a stream of events.
///
/// # Errors
///
/// What it is instead.
pub(super) fn check(headers: &HeaderMap, status: StatusCode) -> Result<(), String> {
    let short = |value: &[u8]| {
        let text = String::from_utf8_lossy(value);
        text.chars().filter(|c| !c.is_control()).take(60).collect::<String>()
    };
    let encodings = headers.get_all(CONTENT_ENCODING).iter();
    if let Some(other) = encodings.map(|v| v.as_bytes()).find(|v| *v != b"identity") {
        return Err(format!("its answer is encoded as {:?}, unasked", short(other)));
    }
    if !status.is_success() {
        return Ok(());
    }
    let kind = headers.get(CONTENT_TYPE).map(|value| value.as_bytes()).unwrap_or_default();
    let essence = kind.split(|byte| *byte == b';').next().unwrap_or_default();
    if essence.trim_ascii().eq_ignore_ascii_case(b"text/event-stream") {
        return Ok(());
    }
    let what = match kind {
        b"" => "an answer without a content type".to_owned(),
        kind => format!("{:?}", short(kind)),
    };
    Err(format!(
        "it sent {what} instead of a stream of events; check model.base_url, and whether this \
         network asks for a login"
    ))
}

fn filter(from: &HeaderMap, passes: impl Fn(&str) -> bool) -> HeaderMap {
    let mut to = HeaderMap::new();
    for (name, value) in from {
        if passes(HeaderName::as_str(name)) {
            to.append(name.clone(), value.clone());
        }
    }
    to
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_cookies_and_hop_by_hop_headers_stay() {
        let mut from = HeaderMap::new();
        for name in [
            "authorization",
            "cookie",
            "host",
            "connection",
            "transfer-encoding",
            "content-length",
            "openai-organization",
            "proxy-authorization",
            "x-forwarded-for",
            "set-cookie",
        ] {
            from.insert(HeaderName::from_static(name), "x".parse().unwrap());
        }
        assert!(to_provider(&from).is_empty());
        assert!(to_codex(&from).is_empty());
        from.insert("x-codex-window-id", "1".parse().unwrap());
        from.insert("accept", "text/event-stream".parse().unwrap());
        assert_eq!(to_provider(&from).len(), 2);
    }
}
