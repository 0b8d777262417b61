//! `[model]`: the provider behind the gateway.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use crate::model::redact::redact;

/// The section `[model]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// Base URL of the Responses API, such as `https://api.openai.com/v1`.
    pub base_url: String,
    /// Where the credential comes from.
    pub auth: Auth,
    /// How requests go to the backend of a ChatGPT login.
    pub chatgpt: ChatGpt,
    /// Headers that go with each request; a value `env:NAME` is that environment variable's.
    pub headers: BTreeMap<String, String>,
    /// Parameters of the URL, with values like those of `headers`.
    pub query: BTreeMap<String, String>,
    /// Bytes of the largest request body, decoded.
    #[serde(deserialize_with = "super::size")]
    pub request_limit: u64,
    /// Requests of one run at the same time.
    pub max_concurrent: u32,
    /// Requests of one run in a minute.
    pub max_per_minute: u32,
    /// How long the provider may take to begin its answer.
    #[serde(deserialize_with = "super::duration")]
    pub response_timeout: Duration,
    /// How long the provider may send nothing in the middle of an answer.
    #[serde(deserialize_with = "super::duration")]
    pub idle_timeout: Duration,
    /// Tool kinds that may run at the provider, such as `web_search`; none by default.
    pub hosted_tools: Vec<String>,
}

/// How requests go to the backend of a ChatGPT login.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChatGpt {
    /// As Codex's built-in provider sends them: where the backend says that the account is, with
    /// its routing label and the version of Codex.
    Codex,
    /// To `base_url`, with token and account alone.
    Plain,
}

/// Where the credential for the provider comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Auth {
    /// The first of the known places that has one.
    Auto,
    /// An API key: `OPENAI_API_KEY` in the environment or `docker/.env` of a checkout, or
    /// `auth.json`.
    ApiKey,
    /// The ChatGPT login in `auth.json`.
    #[serde(rename = "chatgpt")]
    ChatGpt,
    /// None: for a local server of the Responses API.
    None,
}

/// The beginning of a value that stands in an environment variable.
const VARIABLE: &str = "env:";

/// What a value of `headers` or `query` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Given<'a> {
    /// This text.
    Text(&'a str),
    /// What this environment variable holds.
    Variable(&'a str),
}

impl<'a> Given<'a> {
    /// Reads a value of the settings.
    pub fn of(value: &'a str) -> Self {
        value.strip_prefix(VARIABLE).map_or(Self::Text(value), Self::Variable)
    }
}

/// What is wrong with the entries of `headers` or `query`, as the rest of a sentence that begins
/// with the key. Shows names and never a value.
pub(super) fn wrong_entries(entries: &BTreeMap<String, String>, headers: bool) -> Option<String> {
    entries.iter().find_map(|(name, value)| {
        let token = |c: u8| c.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&c);
        let lower = name.to_ascii_lowercase();
        if name.is_empty() || (headers && !name.bytes().all(token)) {
            return Some(format!("has a name that no header may have: {name:?}"));
        }
        let ours = ["host", "content-length", "content-encoding", "transfer-encoding"];
        if headers && (ours.contains(&&*lower) || HOP_BY_HOP.contains(&&*lower)) {
            return Some(format!("must not set {name:?}, which belongs to the connection"));
        }
        match Given::of(value) {
            Given::Variable("") => Some(format!("has no variable after \"env:\" for {name:?}")),
            Given::Variable(_) => None,
            Given::Text(text) if looks_secret(&lower, text) => Some(format!(
                "has a value for {name:?} that looks like a secret; put it into an environment \
                 variable NAME and write \"env:NAME\""
            )),
            Given::Text(text) if text.chars().any(char::is_control) => {
                Some(format!("has a value for {name:?} with line breaks or the like"))
            }
            Given::Text(_) => None,
        }
    })
}

fn looks_secret(name: &str, value: &str) -> bool {
    SECRET.iter().any(|part| name.contains(part)) || redact(value) != value
}

/// Headers of a connection, not of a request.
const HOP_BY_HOP: &[&str] =
    &["connection", "keep-alive", "proxy-connection", "te", "trailer", "upgrade"];

/// Parts of names whose values are secrets.
const SECRET: &[&str] =
    &["key", "token", "secret", "auth", "password", "cookie", "credential", "signature"];
