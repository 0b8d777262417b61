//! The credential for the model provider: found once at start, known to the gateway alone.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::config::Auth;
use crate::failure::{ErrorKind, Failure};
use crate::model::redact::{REDACTED, redact};

/// The variable that holds the key, in the environment and in `docker/.env`.
const KEY: &str = "OPENAI_API_KEY";

/// What the gateway adds to a request, or nothing. Its `Debug` shows only where it came from.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    secret: Option<String>,
    source: Source,
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
}

/// Why there is no credential.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// Nowhere one was found.
    #[error(
        "no credential for the model provider was found; set OPENAI_API_KEY in the environment \
         this server is started with (in your MCP client's configuration of it), or set \
         model.auth = \"none\" with model.base_url for a local server that needs none"
    )]
    Missing,
    /// The key has characters that no HTTP header may hold.
    #[error(
        "the OPENAI_API_KEY from {0} has characters that no HTTP header may hold; set it again \
         without line breaks or quotes"
    )]
    Malformed(String),
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

/// Finds the credential that `auth` asks for: `OPENAI_API_KEY` by `lookup` (the environment), else
/// from `docker_env`, the `docker/.env` of a checkout, which need not exist.
///
/// # Errors
///
/// [`CredentialError`]; each converts to a [`Failure`] of kind `auth_missing`.
pub fn find(
    auth: Auth,
    lookup: impl Fn(&str) -> Option<String>,
    docker_env: Option<&Path>,
) -> Result<Credential, CredentialError> {
    if auth == Auth::None {
        return Ok(Credential { secret: None, source: Source::Unneeded });
    }
    let present = |value: String| Some(value.trim().to_owned()).filter(|v| !v.is_empty());
    if let Some(key) = lookup(KEY).and_then(present) {
        return Credential::checked(key, Source::Environment);
    }
    if let Some(path) = docker_env {
        match std::fs::read_to_string(path) {
            Ok(text) => {
                if let Some(key) = env_file_value(&text, KEY).and_then(present) {
                    return Credential::checked(key, Source::File(path.to_owned()));
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => {
                return Err(CredentialError::Unreadable { path: path.to_owned(), source });
            }
        }
    }
    Err(CredentialError::Missing)
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

    /// No credential: for a local server of the Responses API.
    pub fn none() -> Self {
        Self { secret: None, source: Source::Unneeded }
    }

    /// Where it came from.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// The secret itself, for the `Authorization` header and nothing else.
    pub(super) fn secret(&self) -> Option<&str> {
        self.secret.as_deref()
    }

    /// `text` without this credential and without anything else that looks like one.
    pub fn redact(&self, text: &str) -> String {
        match self.secret() {
            Some(secret) => redact(&text.replace(secret, REDACTED)),
            None => redact(text),
        }
    }

    fn checked(key: String, source: Source) -> Result<Self, CredentialError> {
        if key.is_empty() || !key.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(CredentialError::Malformed(source.to_string()));
        }
        Ok(Self { secret: Some(key), source })
    }
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
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

/// The value of `name` in a file of `NAME=value` lines as Docker Compose reads them: `#` begins a
/// comment at the start of a line or after a blank, `export` is allowed, quotes around the value
/// go. The last line with the name wins.
fn env_file_value(text: &str, name: &str) -> Option<String> {
    let mut found = None;
    for line in text.lines() {
        let line = line.trim();
        let line = line.strip_prefix("export ").unwrap_or(line);
        let Some((key, value)) = line.split_once('=') else { continue };
        if key.trim_end() != name {
            continue;
        }
        let value = value.trim();
        let quoted = ['"', '\''].iter().find_map(|q| value.strip_prefix(*q)?.split_once(*q));
        found = Some(match quoted {
            Some((inner, _)) => inner.to_owned(),
            None => value.split(" #").next().unwrap_or_default().trim_end().to_owned(),
        });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(key: &'static str) -> impl Fn(&str) -> Option<String> {
        move |name| (name == KEY && !key.is_empty()).then(|| key.to_owned())
    }

    #[test]
    fn debug_shows_no_secret() {
        let found = find(Auth::Auto, with("sk-very-secret"), None).unwrap();
        assert_eq!(found.secret(), Some("sk-very-secret"));
        assert!(!format!("{found:?}").contains("secret\""));
        assert!(!format!("{found:?}").contains("sk-"));
    }

    #[test]
    fn the_environment_goes_before_the_file_and_an_empty_value_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(".env");
        std::fs::write(&file, "# c\nexport OPENAI_API_KEY=\"sk-file\" # c\nOTHER=1\n").unwrap();
        let from_file = find(Auth::ApiKey, with("  "), Some(&file)).unwrap();
        assert_eq!(from_file.secret(), Some("sk-file"));
        assert_eq!(from_file.source(), &Source::File(file.clone()));
        let from_env = find(Auth::ApiKey, with("sk-env\n"), Some(&file)).unwrap();
        assert_eq!(from_env.secret(), Some("sk-env"));
    }

    #[test]
    fn lines_are_read_as_compose_reads_them() {
        for (line, want) in [
            ("OPENAI_API_KEY=a", Some("a")),
            ("OPENAI_API_KEY = 'a b' # c", Some("a b")),
            ("OPENAI_API_KEY=a#b # c", Some("a#b")),
            ("#OPENAI_API_KEY=a", None),
            ("XOPENAI_API_KEY=a", None),
            ("OPENAI_API_KEY=", Some("")),
            ("OPENAI_API_KEY=\"open", Some("\"open")),
        ] {
            assert_eq!(env_file_value(line, KEY).as_deref(), want, "{line}");
        }
    }

    #[test]
    fn none_needs_nothing_and_nothing_found_says_what_to_do() {
        assert!(find(Auth::None, with("sk-x"), None).unwrap().secret().is_none());
        let missing = Path::new("/nonexistent/.env");
        let failure = Failure::from(find(Auth::Auto, with(""), Some(missing)).unwrap_err());
        assert_eq!(failure.kind, ErrorKind::AuthMissing);
        assert!(failure.sentence.contains("set OPENAI_API_KEY"), "{failure}");
        assert!(matches!(
            find(Auth::Auto, with("sk-a\nb"), None).unwrap_err(),
            CredentialError::Malformed(_)
        ));
    }
}
