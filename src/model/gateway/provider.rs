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

/// Bytes of the shortest part of a value that is kept as a secret of its own.
const BARE: usize = 8;

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

    /// Keeps a secret in the forms in which a provider may repeat it: whole, without the scheme of
    /// an `Authorization` in front, and as it is in a URL. The longest goes first, so that none
    /// leaves a rest of another.
    fn keep(&mut self, secret: &str) {
        let mut forms = vec![secret.to_owned()];
        let bare = secret.split_once(' ').map(|(_, bare)| bare.trim());
        forms.extend(bare.filter(|bare| bare.len() >= BARE).map(str::to_owned));
        if let Ok(url) = reqwest::Url::parse_with_params("http://h", [("", secret)]) {
            let in_url = url.query().and_then(|query| query.strip_prefix('='));
            forms.extend(in_url.filter(|form| *form != secret).map(str::to_owned));
        }
        self.secrets.extend(forms);
        self.secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        self.secrets.dedup();
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
                    self.keep(&secret);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_from_variables_is_known_in_every_form_it_goes_in() {
        let variable = |text: &str| format!("env:{text}");
        let defaults: crate::config::Config = toml::from_str(crate::config::DEFAULT_TOML).unwrap();
        let config = ModelConfig {
            headers: BTreeMap::from([
                ("authorization".to_owned(), variable("SCHEME")),
                ("x-a".to_owned(), variable("SHORT")),
                ("x-b".to_owned(), variable("LONG")),
            ]),
            query: BTreeMap::from([("key".to_owned(), variable("QUERY"))]),
            ..defaults.model
        };
        let extras = Extras::new(&config, |name| {
            let value = match name {
                "SCHEME" => "Basic dXNlcjpwYXNz",
                "SHORT" => "kq-12345",
                "LONG" => "kq-12345-longer",
                _ => "a/b+c=d&12345",
            };
            Some(value.to_owned())
        })
        .unwrap();
        for (text, want) in [
            ("you sent dXNlcjpwYXNz", "you sent [redacted]"),
            ("you sent Basic dXNlcjpwYXNz", "you sent [redacted]"),
            ("kq-12345-longer kq-12345", "[redacted] [redacted]"),
            ("/v1?key=a%2Fb%2Bc%3Dd%2612345", "/v1?key=[redacted]"),
            ("a/b+c=d&12345", "[redacted]"),
        ] {
            assert_eq!(extras.redact(text.to_owned()), want);
        }
    }
}
