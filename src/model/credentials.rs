//! The credential for the model provider: found on the host, known to the gateway alone.
//!
//! | `model.auth` | looked for, in this order |
//! |---|---|
//! | `auto` | `OPENAI_API_KEY` in the environment, in `docker/.env` of a checkout, `auth.json` in `CODEX_HOME` |
//! | `api-key` | the same, of `auth.json` only an API key |
//! | `chatgpt` | `auth.json`, only a ChatGPT login |
//! | `none` | nothing |
//!
//! A ChatGPT login goes to another `model.base_url` than the default only if `chatgpt` is asked
//! for by name. How it is refreshed: [`chatgpt`].

mod api_key;
mod auth_file;
mod chatgpt;
mod install;
mod jwt;
mod lock;
mod owner;
mod refresh;
mod status;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hyper::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};

use self::auth_file::{AuthFile, Form};
use self::chatgpt::{Login, Tokens};
use crate::config::{Auth, ModelConfig};
use crate::failure::{ErrorKind, Failure};
use crate::model::redact::{REDACTED, redact};

pub use self::chatgpt::LoginError;
pub use self::install::{InstallError, NewLogin, make_ready, present};
pub use self::refresh::TOKEN_ENDPOINT;
pub use self::status::Status;

/// The provider of API keys; the default of `model.base_url`.
const OPENAI: &str = "https://api.openai.com/v1";

/// The provider of ChatGPT logins, which the default stands for with one.
const CHATGPT: &str = "https://chatgpt.com/backend-api/codex";

/// Codex's own variable for another place where a ChatGPT login is refreshed.
const TOKEN_VARIABLE: &str = "CODEX_REFRESH_TOKEN_URL_OVERRIDE";

/// The header in which Codex names the account of a ChatGPT login.
const ACCOUNT: HeaderName = HeaderName::from_static("chatgpt-account-id");

/// What the gateway adds to a request, or nothing. Its `Debug` shows only where it came from.
/// Clones of a ChatGPT login share its tokens.
#[derive(Clone)]
pub struct Credential {
    kind: Kind,
    source: Source,
    warnings: Vec<String>,
}

#[derive(Clone)]
enum Kind {
    None,
    ApiKey(String),
    ChatGpt(Arc<Login>),
}

/// Where a credential came from; safe to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// `model.auth = "none"`: requests go without one.
    Unneeded,
    /// `OPENAI_API_KEY` in the environment.
    Environment,
    /// `OPENAI_API_KEY` in this file.
    File(PathBuf),
    /// The ChatGPT login in this file.
    Login(PathBuf),
}

/// The files that may hold a credential; none need exist.
#[derive(Clone, Copy, Debug)]
pub struct Files<'a> {
    /// `docker/.env` of a checkout.
    pub docker_env: Option<&'a Path>,
    /// `CODEX_HOME`, with `auth.json` in it.
    pub codex_home: &'a Path,
}

/// Why there is no credential.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// Nowhere one was found.
    #[error(
        "no credential for the model provider was found; set OPENAI_API_KEY in the environment \
         this server is started with (in your MCP client's configuration of it), or run codex \
         login on its machine, or set model.auth = \"none\" with model.base_url for a local \
         server that needs none"
    )]
    Missing,
    /// A ChatGPT login is asked for and there is none.
    #[error(
        "{path} holds no ChatGPT login; run codex login on the machine of this server, or set \
         model.auth = \"auto\" to use an API key"
    )]
    NoLogin {
        /// The file.
        path: PathBuf,
    },
    /// There is a ChatGPT login, and a provider that is not its own.
    #[error(
        "the ChatGPT login in {path} is not sent to the model.base_url that is set; set \
         model.auth = \"chatgpt\" to send it there, OPENAI_API_KEY for that provider's key, or \
         model.auth = \"none\" if it needs none"
    )]
    OtherProvider {
        /// The file.
        path: PathBuf,
    },
    /// The key has characters that no HTTP header may hold.
    #[error(
        "the OPENAI_API_KEY from {0} has characters that no HTTP header may hold; set it again \
         without line breaks or quotes"
    )]
    Malformed(String),
    /// `auth.json` is there and cannot be used.
    #[error("{path} {what}; run codex login again, or set OPENAI_API_KEY in the environment")]
    AuthFile {
        /// The file.
        path: PathBuf,
        /// What is wrong; nothing of its content.
        what: &'static str,
    },
    /// The variable that names another token server cannot be used.
    #[error(
        "{TOKEN_VARIABLE} must be a URL that begins with https:// (http:// only for a server on \
         this machine), since the ChatGPT login is sent there; mend it or unset it"
    )]
    TokenEndpoint,
    /// The file is there but cannot be read.
    #[error("{path} cannot be read: {source}; mend it or set OPENAI_API_KEY in the environment")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl From<CredentialError> for Failure {
    fn from(error: CredentialError) -> Self {
        Self::new(ErrorKind::AuthMissing, error.to_string())
    }
}

/// Finds the credential that `model.auth` asks for, see the table above; `lookup` gives environment
/// variables. Asks no one over the network.
///
/// # Errors
///
/// [`CredentialError`]; each converts to a [`Failure`] of kind `auth_missing`.
pub fn find(
    model: &ModelConfig,
    lookup: impl Fn(&str) -> Option<String>,
    files: Files<'_>,
) -> Result<Credential, CredentialError> {
    let auth = model.auth;
    if auth == Auth::None {
        return Ok(Credential::none());
    }
    if auth != Auth::ChatGpt {
        if let Some(key) = api_key::in_environment(&lookup) {
            return Credential::checked(key, Source::Environment);
        }
        if let Some(path) = files.docker_env
            && let Some(key) = api_key::in_file(path)?
        {
            return Credential::checked(key, Source::File(path.to_owned()));
        }
    }
    let path = files.codex_home.join("auth.json");
    let file = AuthFile::read(&path)?;
    let warnings: Vec<String> = file.iter().filter_map(AuthFile::warning).collect();
    match (auth, file.map(|file| file.form)) {
        (Auth::Auto | Auth::ApiKey, Some(Form::ApiKey(key))) => {
            Ok(Credential { warnings, ..Credential::checked(key, Source::File(path))? })
        }
        (Auth::Auto, Some(Form::ChatGpt(_))) if !is_default(&model.base_url) => {
            Err(CredentialError::OtherProvider { path })
        }
        (Auth::Auto | Auth::ChatGpt, Some(Form::ChatGpt(stored))) => {
            let endpoint =
                refresh::endpoint(lookup(TOKEN_VARIABLE)).ok_or(CredentialError::TokenEndpoint)?;
            let login = Arc::new(Login::new(files.codex_home, &endpoint, stored));
            Ok(Credential { kind: Kind::ChatGpt(login), source: Source::Login(path), warnings })
        }
        (Auth::ChatGpt, _) => Err(CredentialError::NoLogin { path }),
        _ => Err(CredentialError::Missing),
    }
}

impl Credential {
    /// A key given by hand, as tests do.
    ///
    /// # Errors
    ///
    /// [`CredentialError::Malformed`].
    pub fn api_key(key: impl Into<String>) -> Result<Self, CredentialError> {
        Self::checked(key.into(), Source::Environment)
    }

    /// The ChatGPT login in `codex_home`, refreshed at `token_endpoint`, as tests do.
    ///
    /// # Errors
    ///
    /// There is none, or the file cannot be used.
    pub fn chatgpt(codex_home: &Path, token_endpoint: &str) -> Result<Self, CredentialError> {
        let path = codex_home.join("auth.json");
        match AuthFile::read(&path)?.map(|file| file.form) {
            Some(Form::ChatGpt(stored)) => {
                let login = Arc::new(Login::new(codex_home, token_endpoint, stored));
                let source = Source::Login(path);
                Ok(Self { kind: Kind::ChatGpt(login), source, warnings: Vec::new() })
            }
            _ => Err(CredentialError::NoLogin { path }),
        }
    }

    /// No credential: for a local server of the Responses API.
    pub fn none() -> Self {
        Self { kind: Kind::None, source: Source::Unneeded, warnings: Vec::new() }
    }

    /// Where it came from.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// What should be mended, a sentence each.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Whether this one, in use, is as good as `found`, which was found later: the same key, or the
    /// login of the same account, whose tokens this one may know better.
    pub fn serves_for(&self, found: &Self) -> bool {
        let same = match (&self.kind, &found.kind) {
            (Kind::None, Kind::None) => true,
            (Kind::ApiKey(one), Kind::ApiKey(other)) => one == other,
            (Kind::ChatGpt(one), Kind::ChatGpt(other)) => one.is_same(other),
            _ => false,
        };
        same && self.source == found.source
    }

    /// Waits for a refresh that is under way, at most about a minute: a process that ends in the
    /// middle of one loses the login.
    pub async fn settle(&self) {
        if let Kind::ChatGpt(login) = &self.kind {
            login.settle().await;
        }
    }

    /// What of it must go nowhere but to the provider.
    pub(super) fn secrets(&self) -> Vec<String> {
        match &self.kind {
            Kind::None => Vec::new(),
            Kind::ApiKey(key) => vec![key.clone()],
            Kind::ChatGpt(login) => {
                let stored = &login.current().stored;
                [Some(stored.access.clone()), stored.refresh.clone()]
                    .into_iter()
                    .flatten()
                    .collect()
            }
        }
    }

    /// `text` without this credential and without anything else that looks like one.
    pub fn redact(&self, text: &str) -> String {
        let without = |text: String, secret: &String| text.replace(secret, REDACTED);
        redact(&self.secrets().iter().fold(text.to_owned(), without))
    }

    /// Whether requests go without one.
    pub(super) fn is_none(&self) -> bool {
        matches!(self.kind, Kind::None)
    }

    /// The base URL that `configured` stands for.
    pub(super) fn base_url<'a>(&self, configured: &'a str) -> &'a str {
        match &self.kind {
            Kind::ChatGpt(_) if is_default(configured) => CHATGPT,
            _ => configured,
        }
    }

    /// What one request takes along; a ChatGPT login is refreshed before, if it is time.
    pub(super) async fn access(&self) -> Result<Access, LoginError> {
        Ok(match &self.kind {
            Kind::None => Access { bearer: None, tokens: None },
            Kind::ApiKey(key) => Access { bearer: Some(key.clone()), tokens: None },
            Kind::ChatGpt(login) => Access::of(login.tokens().await?),
        })
    }

    /// What to try again with after the provider refused `access` with 401, if there is something.
    pub(super) async fn after_refusal(&self, access: Access) -> Result<Option<Access>, LoginError> {
        match (&self.kind, access.tokens) {
            (Kind::ChatGpt(login), Some(tokens)) => {
                Ok(login.after_refusal(tokens).await?.map(Access::of))
            }
            _ => Ok(None),
        }
    }

    fn checked(key: String, source: Source) -> Result<Self, CredentialError> {
        if key.is_empty() || !key.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(CredentialError::Malformed(source.to_string()));
        }
        Ok(Self { kind: Kind::ApiKey(key), source, warnings: Vec::new() })
    }
}

/// What one request takes along.
pub(super) struct Access {
    bearer: Option<String>,
    tokens: Option<Arc<Tokens>>,
}

impl Access {
    fn of(tokens: Arc<Tokens>) -> Self {
        Self { bearer: Some(tokens.stored.access.clone()), tokens: Some(tokens) }
    }

    /// The account of a ChatGPT login, if it names one.
    pub(super) fn account(&self) -> Option<&str> {
        self.tokens.as_ref()?.stored.account.as_deref()
    }

    /// Writes it into `headers`.
    pub(super) fn add_to(&self, headers: &mut HeaderMap) {
        let mut add = |name: HeaderName, text: &str| {
            if let Ok(mut value) = HeaderValue::from_str(text) {
                value.set_sensitive(true);
                headers.insert(name, value);
            }
        };
        if let Some(bearer) = &self.bearer {
            add(AUTHORIZATION, &format!("Bearer {bearer}"));
        }
        if let Some(account) = self.tokens.as_ref().and_then(|t| t.stored.account.as_deref()) {
            add(ACCOUNT, account);
        }
    }
}

fn is_default(base_url: &str) -> bool {
    base_url.trim().trim_end_matches('/') == OPENAI
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential").field("source", &self.source).finish_non_exhaustive()
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unneeded => f.write_str("model.auth = \"none\""),
            Self::Environment => f.write_str("the environment"),
            Self::File(path) | Self::Login(path) => write!(f, "{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests;
