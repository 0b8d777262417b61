//! What may be shown of a credential.

use serde::Serialize;

use super::{Credential, Kind, Source};

/// A credential without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// `api-key`, `chatgpt` or `none`.
    pub kind: &'static str,
    /// Where it comes from.
    pub source: String,
    /// Whose it is, as far as the login says: an e-mail address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// The plan, as the login says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
    /// Until when it is good without a refresh, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
    /// Whether that is over, so that the next request refreshes first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expired: Option<bool>,
    /// What should be mended.
    pub warnings: Vec<String>,
}

impl Credential {
    /// What may be shown of it.
    pub fn status(&self) -> Status {
        let mut status = Status {
            kind: "none",
            source: match &self.source {
                Source::Unneeded => self.source.to_string(),
                Source::Login(path) => path.display().to_string(),
                source => format!("OPENAI_API_KEY in {source}"),
            },
            account: None,
            plan: None,
            expires: None,
            expired: None,
            warnings: self.warnings.clone(),
        };
        match &self.kind {
            Kind::None => {}
            Kind::ApiKey(_) => status.kind = "api-key",
            Kind::ChatGpt(login) => {
                let tokens = login.current();
                let end = tokens.expires.and_then(|end| jiff::Timestamp::from_second(end).ok());
                status.kind = "chatgpt";
                status.account = tokens.stored.id.email.clone();
                status.plan = tokens.stored.id.plan.clone();
                status.expired = end.map(|end| end <= jiff::Timestamp::now());
                status.expires = end.map(|end| end.to_string());
            }
        }
        status
    }
}

impl Status {
    /// One line for people.
    pub fn line(&self) -> String {
        let mut line = match self.kind {
            "chatgpt" => format!("ChatGPT login in {}", self.source),
            "none" => format!("none needed ({})", self.source),
            _ => self.source.clone(),
        };
        if let Some(account) = &self.account {
            line.push_str(&format!(" of {account}"));
        }
        if let Some(plan) = &self.plan {
            line.push_str(&format!(", plan {plan}"));
        }
        match (&self.expires, self.expired) {
            (Some(end), Some(true)) => {
                line.push_str(&format!(", expired at {end}: the next request refreshes it"));
            }
            (Some(end), _) => {
                line.push_str(&format!(", good until {end}, refreshed ten minutes before"));
            }
            (None, _) if self.kind == "chatgpt" => {
                line.push_str(", which does not say until when it is good");
            }
            (None, _) => {}
        }
        line
    }
}
