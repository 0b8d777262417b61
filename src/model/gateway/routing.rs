//! Where the requests of a ChatGPT login go, asked as Codex's built-in provider asks it: the
//! backend names for each account an origin, and a label that goes along as a header.
//!
//! ```text
//!  GET <backend>/wham/accounts/check ─> entry of our account ─> origin, routing label ─> requests
//!                   │ no answer, or none that is understood
//!                   └──> the base URL as it is, no label; asked again after a minute
//! ```
//!
//! Codex 0.169.0 itself refuses to work without an answer. Here requests go on without one, so that
//! a backend that changes its form is not the end of every run.

use std::time::{Duration, Instant};

use bytes::BytesMut;
use hyper::header::{HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use parking_lot::Mutex;
use serde_json::Value;

use super::provider::is_loopback;
use crate::model::credentials::Access;

/// How long the question may take; `model.response_timeout` if that is shorter.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The largest answer, in bytes.
const MAX_ANSWER: usize = 1024 * 1024;

/// How long an answer holds.
const FRESH: Duration = Duration::from_secs(3600);

/// How long after a question that failed none is asked.
const BACKOFF: Duration = Duration::from_secs(60);

/// The routing label, under Codex's own name for it.
const LABEL: HeaderName = HeaderName::from_static("x-openai-account-routing-override");

/// Codex's own version, which its built-in provider sends.
const VERSION: HeaderName = HeaderName::from_static("version");

/// What the backend said, and when it is asked again.
#[derive(Default)]
pub(super) struct Routing {
    known: Mutex<Option<Known>>,
}

struct Known {
    account: String,
    route: Route,
    until: Instant,
}

/// Where requests go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Route {
    /// In place of the base URL.
    base: Option<reqwest::Url>,
    label: Option<HeaderValue>,
}

impl Route {
    pub(super) fn base<'a>(&'a self, configured: &'a reqwest::Url) -> &'a reqwest::Url {
        self.base.as_ref().unwrap_or(configured)
    }

    /// Adds what Codex's built-in provider sends to such a backend besides.
    pub(super) fn add_to(&self, headers: &mut HeaderMap) {
        if let Some(label) = &self.label {
            headers.insert(LABEL, label.clone());
        }
    }
}

impl Routing {
    /// The route for `access`, whose requests would go to `base`; asked for if it is not known.
    /// The default for anything else than a ChatGPT login at a ChatGPT backend.
    ///
    /// # Cancel safety
    ///
    /// Dropped, nothing is known more than before.
    pub(super) async fn of(
        &self,
        client: &reqwest::Client,
        base: &reqwest::Url,
        access: &Access,
        limit: Duration,
        from_codex: &HeaderMap,
    ) -> Route {
        let Some((url, account)) = question(base).zip(access.account()) else {
            return Route::default();
        };
        let fresh = |known: &&Known| known.account == account && Instant::now() < known.until;
        if let Some(known) = self.known.lock().as_ref().filter(fresh) {
            return known.route.clone();
        }
        let mut headers = HeaderMap::new();
        headers.extend(from_codex.get(USER_AGENT).map(|agent| (USER_AGENT, agent.clone())));
        access.add_to(&mut headers);
        let asking = ask(client.get(url).headers(headers));
        let answer = tokio::time::timeout(limit.min(TIMEOUT), asking).await.ok().flatten();
        let found = answer.as_ref().ok_or("did not answer").and_then(|a| route(a, account, base));
        let hold = if found.is_ok() { FRESH } else { BACKOFF };
        let route = found.unwrap_or_else(|what| {
            tracing::warn!(
                "the ChatGPT backend was asked where requests of this account go, and {what}; they \
                 go to {base}"
            );
            Route::default()
        });
        let (account, until) = (account.to_owned(), Instant::now() + hold);
        *self.known.lock() = Some(Known { account, route: route.clone(), until });
        route
    }
}

/// The version of Codex from its `user-agent`, `codex_exec/0.169.0 (...)`.
pub(super) fn add_version(headers: &mut HeaderMap) {
    let agent = headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok());
    let version = agent.and_then(|agent| agent.strip_prefix("codex_exec/"));
    let version = version.and_then(|rest| rest.split(' ').next()).map(HeaderValue::from_str);
    if let Some(Ok(version)) = version {
        headers.insert(VERSION, version);
    }
}

/// Whether `base` is of a ChatGPT backend.
pub(super) fn is_backend(base: &reqwest::Url) -> bool {
    question(base).is_some()
}

/// Where a backend is asked whose requests go to `base`; `None` if `base` is of another provider.
fn question(base: &reqwest::Url) -> Option<reqwest::Url> {
    let root = base.path().trim_end_matches('/').strip_suffix("/backend-api/codex")?;
    let mut url = base.clone();
    url.set_path(&format!("{root}/backend-api/wham/accounts/check"));
    Some(url)
}

async fn ask(request: reqwest::RequestBuilder) -> Option<Value> {
    let mut answer = request.send().await.ok()?;
    if !answer.status().is_success() {
        return None;
    }
    let mut text = BytesMut::new();
    while let Some(chunk) = answer.chunk().await.ok()? {
        text.extend_from_slice(&chunk);
        if text.len() > MAX_ANSWER {
            return None;
        }
    }
    serde_json::from_slice(&text).ok()
}

/// What `answer` says of `account`.
fn route(answer: &Value, account: &str, base: &reqwest::Url) -> Result<Route, &'static str> {
    let entries = answer["accounts"].as_array().ok_or("its answer is not understood")?;
    let entry = entries.iter().find(|entry| entry["id"] == account);
    let entry = entry.ok_or("it does not name the account of the login")?;
    let origin = match &entry["workspace_backend_origin"] {
        Value::Null => None,
        Value::String(origin) => {
            Some(checked(origin, base).ok_or("names a place that is not its own")?)
        }
        _ => return Err("its answer is not understood"),
    };
    let plain = |label: &&str| {
        (1..=32).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    let label = entry["account_routing_override"].as_str().filter(plain);
    let label = label.and_then(|label| HeaderValue::from_str(label).ok());
    Ok(Route { base: origin, label })
}

/// `base` at `origin`, if a login may go there: where `base` is, or from one host of the provider of
/// ChatGPT logins to another, over https. From a host of the user's own it does not go on to the
/// provider: that host was named to be passed, and what `model.headers` has is meant for it.
fn checked(origin: &str, base: &reqwest::Url) -> Option<reqwest::Url> {
    let url = reqwest::Url::parse(origin).ok()?;
    let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
    if !bare || !url.username().is_empty() || url.password().is_some() {
        return None;
    }
    let its_own = is_of_openai(&url) && is_of_openai(base);
    let same = url.origin() == base.origin() || (is_loopback(&url) && is_loopback(base));
    (its_own || same).then(|| {
        let mut there = url;
        there.set_path(base.path());
        there
    })
}

/// Whether `url` is of the provider of ChatGPT logins, over https at its usual port.
fn is_of_openai(url: &reqwest::Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let under = |own: &str| host.strip_suffix(own).is_some_and(|rest| rest.ends_with('.'));
    url.scheme() == "https"
        && url.port().is_none()
        && ["chatgpt.com", "openai.com"].iter().any(|own| host == *own || under(own))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn base() -> reqwest::Url {
        "https://chatgpt.com/backend-api/codex".parse().unwrap()
    }

    fn answer(origin: &Value, label: &Value) -> Value {
        json!({"accounts": [{"id": "other", "workspace_backend_origin": "https://evil.example"},
            {"id": "a", "workspace_backend_origin": origin, "account_routing_override": label}]})
    }

    #[test]
    fn only_a_chatgpt_backend_is_asked() {
        let asked = question(&base()).unwrap();
        assert_eq!(asked.as_str(), "https://chatgpt.com/backend-api/wham/accounts/check");
        for other in
            ["https://api.openai.com/v1", "https://chatgpt.com/codex", "http://h/backend-api"]
        {
            assert_eq!(question(&other.parse().unwrap()), None);
        }
    }

    #[test]
    fn a_login_goes_where_its_account_is_and_to_no_stranger() {
        let found = route(&answer(&json!("https://eu.chatgpt.com"), &json!("eu")), "a", &base());
        let found = found.unwrap();
        assert_eq!(found.base(&base()).as_str(), "https://eu.chatgpt.com/backend-api/codex");
        let mut headers = HeaderMap::new();
        found.add_to(&mut headers);
        assert_eq!(headers[LABEL], "eu");
        for stranger in [
            "http://chatgpt.com",
            "https://evil.example",
            "https://evilchatgpt.com",
            "https://chatgpt.com.evil.example",
            "https://u:p@chatgpt.com",
            "https://chatgpt.com/path",
            "https://chatgpt.com:8443",
            "https://evil.example#.chatgpt.com",
            "https://evil.example\\.chatgpt.com",
            "http://127.0.0.1",
            "",
        ] {
            let answer = answer(&json!(stranger), &json!("eu"));
            assert!(route(&answer, "a", &base()).is_err(), "{stranger}");
        }
        // What the user put in between is not passed by.
        let between = "https://llm.corp.example/backend-api/codex".parse().unwrap();
        for origin in ["https://eu.chatgpt.com", "https://chatgpt.com"] {
            assert!(route(&answer(&json!(origin), &json!("eu")), "a", &between).is_err());
        }
        let stays = answer(&json!("https://llm.corp.example"), &Value::Null);
        assert_eq!(route(&stays, "a", &between).unwrap().base(&base()), &between);
        let plain = route(&answer(&Value::Null, &json!("a b\n")), "a", &base()).unwrap();
        assert_eq!(plain, Route::default());
        for odd in
            [json!({}), json!({"accounts": {}}), json!({"accounts": [{"id": "b"}]}), Value::Null]
        {
            assert!(route(&odd, "a", &base()).is_err());
        }
    }
}
