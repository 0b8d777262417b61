//! The provider as the settings describe it: where it is, and what goes along to it.

use std::collections::BTreeMap;

use hyper::header::{HeaderMap, HeaderName, HeaderValue};

use super::GatewayError;
use crate::config::ModelConfig;
use crate::config::model::Given;
use crate::model::redact::REDACTED;

/// What goes with each request besides the credential.
#[derive(Default)]
pub(super) struct Extras {
    /// Replace what Codex sends under the same name.
    pub(super) headers: HeaderMap,
    pub(super) query: Vec<(String, String)>,
    secrets: Vec<String>,
}

impl Extras {
    /// Those of `config`, with the environment that `lookup` gives.
    ///
    /// # Errors
    ///
    /// A variable that is not set, or a value that no header may have.
    pub(super) fn new(
        config: &ModelConfig,
        lookup: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, GatewayError> {
        let mut extras = Self::default();
        for (name, value) in extras.values("model.headers", &config.headers, &lookup)? {
            let refused = || GatewayError::Extra {
                key: "model.headers",
                name: name.clone(),
                problem: "has characters that no HTTP header may hold".into(),
            };
            let mut value = HeaderValue::from_str(&value).map_err(|_| refused())?;
            value.set_sensitive(true);
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| refused())?;
            extras.headers.insert(name, value);
        }
        extras.query = extras.values("model.query", &config.query, &lookup)?;
        Ok(extras)
    }

    /// Whether something goes along that came from a variable.
    pub(super) fn has_secrets(&self) -> bool {
        !self.secrets.is_empty()
    }

    /// What came from variables.
    pub(super) fn secrets(&self) -> impl Iterator<Item = String> {
        self.secrets.iter().cloned()
    }

    /// `text` without what came from variables.
    pub(super) fn redact(&self, text: String) -> String {
        self.secrets.iter().fold(text, |text, secret| text.replace(secret, REDACTED))
    }

    fn values(
        &mut self,
        key: &'static str,
        entries: &BTreeMap<String, String>,
        lookup: &impl Fn(&str) -> Option<String>,
    ) -> Result<Vec<(String, String)>, GatewayError> {
        let mut values = Vec::new();
        for (name, value) in entries {
            let value = match Given::of(value) {
                Given::Text(text) => text.to_owned(),
                Given::Variable(variable) => {
                    let found = lookup(variable).map(|value| value.trim().to_owned());
                    let found = found.filter(|value| !value.is_empty());
                    let secret = found.ok_or_else(|| GatewayError::Extra {
                        key,
                        name: name.clone(),
                        problem: format!(
                            "is in the environment variable {variable}, which is not set; set it \
                             where this server is started"
                        ),
                    })?;
                    self.secrets.push(secret.clone());
                    secret
                }
            };
            values.push((name.clone(), value));
        }
        Ok(values)
    }
}

/// The base URL, if it can be used.
pub(super) fn checked_base(text: &str) -> Result<reqwest::Url, GatewayError> {
    let url = reqwest::Url::parse(text.trim()).map_err(|_| GatewayError::Refused("is no URL"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return Err(GatewayError::Refused("must begin with https:// or http:// and name a host"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(GatewayError::Refused("must hold no credential"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(GatewayError::Refused(
            "must have no query and no fragment (parameters go into model.query)",
        ));
    }
    Ok(url)
}

/// Whether the host is this machine.
pub(super) fn is_loopback(url: &reqwest::Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}
