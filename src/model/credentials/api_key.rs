//! `OPENAI_API_KEY`: in the environment, or in a file of `NAME=value` lines.

use std::io::ErrorKind;
use std::path::Path;

use super::CredentialError;

/// The variable that holds the key, in the environment and in `docker/.env`.
pub(super) const KEY: &str = "OPENAI_API_KEY";

/// The key of the environment, if there is one that is not blank.
pub(super) fn in_environment(lookup: impl Fn(&str) -> Option<String>) -> Option<String> {
    lookup(KEY).and_then(present)
}

/// The key in the file at `path`, which need not exist.
pub(super) fn in_file(path: &Path) -> Result<Option<String>, CredentialError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(env_file_value(&text, KEY).and_then(present)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(CredentialError::Unreadable { path: path.to_owned(), source }),
    }
}

pub(super) fn present(value: String) -> Option<String> {
    Some(value.trim().to_owned()).filter(|value| !value.is_empty())
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
}
