//! `[model]`: the provider behind the gateway.

use serde::Deserialize;

/// The section `[model]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// Base URL of the Responses API, such as `https://api.openai.com/v1`.
    pub base_url: String,
    /// Where the credential comes from.
    pub auth: Auth,
    /// Tool kinds that may run at the provider, such as `web_search`; none by default.
    pub hosted_tools: Vec<String>,
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
