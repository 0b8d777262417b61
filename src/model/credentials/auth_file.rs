//! `auth.json`, the file that `codex login` writes: read on the host, and replaced whole.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::CredentialError;
use super::api_key::present;
use super::jwt::Claims;

/// The largest file that is read, in bytes; Codex's own has about 5 kB.
pub(super) const MAX_BYTES: u64 = 1024 * 1024;

/// The file as it was read.
pub(super) struct AuthFile {
    /// The file itself, where `auth.json` may be a link to it.
    path: PathBuf,
    mode: u32,
    owner: (u32, u32),
    whole: Value,
    pub(super) form: Form,
}

/// What kind of login it holds.
pub(super) enum Form {
    ApiKey(String),
    ChatGpt(Stored),
}

/// The tokens of a ChatGPT login as they lie in the file.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) access: String,
    pub(super) refresh: Option<String>,
    pub(super) account: Option<String>,
    pub(super) id: Claims,
}

/// New tokens; what the token endpoint left out stays as it was.
pub(super) struct Rotated {
    pub(super) access: String,
    pub(super) refresh: Option<String>,
    pub(super) id: Option<String>,
    /// Seconds.
    pub(super) expires_in: Option<i64>,
}

impl fmt::Debug for AuthFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthFile").field("path", &self.path).finish_non_exhaustive()
    }
}

impl AuthFile {
    /// Reads the file at `path`; `None` if there is none.
    pub(super) fn read(path: &Path) -> Result<Option<Self>, CredentialError> {
        let unreadable = |source| CredentialError::Unreadable { path: path.to_owned(), source };
        let wrong = |what| CredentialError::AuthFile { path: path.to_owned(), what };
        let real = match path.canonicalize() {
            Ok(real) => real,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unreadable(error)),
        };
        // A named pipe must not hold us.
        let flags = (rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY).bits();
        let file = OpenOptions::new().read(true).custom_flags(flags.cast_signed()).open(&real);
        let mut file = file.map_err(unreadable)?;
        let metadata = file.metadata().map_err(unreadable)?;
        if !metadata.is_file() || metadata.len() > MAX_BYTES {
            return Err(wrong("is no file that codex login writes"));
        }
        let mut text = Vec::new();
        Read::by_ref(&mut file).take(MAX_BYTES).read_to_end(&mut text).map_err(unreadable)?;
        let (whole, form) = parse(&text).map_err(wrong)?;
        let owner = (metadata.uid(), metadata.gid());
        Ok(Some(Self { path: real, mode: metadata.mode() & 0o7777, owner, whole, form }))
    }

    /// One sentence if people other than the owner may read it.
    pub(super) fn warning(&self) -> Option<String> {
        let path = self.path.display();
        (self.mode & 0o077 != 0).then(|| {
            format!(
                "{path} can be read by other users of this machine (mode {:04o}); run: chmod 600 \
                 {path}",
                self.mode
            )
        })
    }

    /// Makes the file beside it that will take its place, empty so far, so that a directory that
    /// cannot be written is known before anything is asked of the token endpoint.
    pub(super) fn replacement(&self) -> std::io::Result<Replacement> {
        Replacement::beside(&self.path, self.mode, Some(self.owner))
    }

    /// The text with new tokens; everything else stays.
    pub(super) fn rotated(&self, new: &Rotated) -> String {
        let mut whole = self.whole.clone();
        whole["tokens"]["access_token"] = json!(new.access);
        if let Some(refresh) = &new.refresh {
            whole["tokens"]["refresh_token"] = json!(refresh);
        }
        if let Some(id) = &new.id {
            whole["tokens"]["id_token"] = json!(id);
        }
        whole["last_refresh"] = json!(jiff::Timestamp::now().to_string());
        format!("{whole:#}")
    }
}

/// A file that will take the place of `auth.json`; removed if it does not come to that.
pub(super) struct Replacement {
    temporary: PathBuf,
    target: PathBuf,
    file: File,
}

impl Replacement {
    /// Makes it beside `target`, empty so far, with this mode and, where that can be had, this
    /// owner.
    pub(super) fn beside(
        target: &Path,
        mode: u32,
        owner: Option<(u32, u32)>,
    ) -> std::io::Result<Self> {
        let name = format!(".auth.json.{}.tmp", uuid::Uuid::new_v4().simple());
        let temporary = target.with_file_name(name);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        let made = Self { temporary, target: target.to_owned(), file };
        let metadata = made.file.metadata()?;
        if let Some((user, group)) = owner.filter(|o| *o != (metadata.uid(), metadata.gid())) {
            // Only root can give a file away; for others the file becomes theirs, as with Codex.
            let _ = std::os::unix::fs::fchown(&made.file, Some(user), Some(group));
        }
        made.file.set_permissions(std::fs::Permissions::from_mode(mode))?;
        Ok(made)
    }

    /// Writes `text` and puts the file in its place.
    pub(super) fn commit(mut self, text: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.file.write_all(text.as_ref())?;
        self.file.sync_all()?;
        std::fs::rename(&self.temporary, &self.target)?;
        match self.target.parent() {
            Some(directory) => File::open(directory)?.sync_all(),
            None => Ok(()),
        }
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        // After a rename there is nothing of that name.
        let _ = std::fs::remove_file(&self.temporary);
    }
}

/// What a file with this text holds.
///
/// # Errors
///
/// What is wrong, as the rest of a sentence that begins with the file; nothing of its content.
pub(super) fn parse(text: &[u8]) -> Result<(Value, Form), &'static str> {
    if text.iter().all(u8::is_ascii_whitespace) {
        return Err("is empty");
    }
    // The error of the parser is not shown: it could repeat what it read.
    let whole: Value = serde_json::from_slice(text).map_err(|_| "is no JSON, perhaps cut off")?;
    let form = Form::of(&whole)?;
    Ok((whole, form))
}

impl Form {
    fn of(whole: &Value) -> Result<Self, &'static str> {
        let text = |value: &Value| value.as_str().map(str::to_owned).and_then(present);
        let key = text(&whole["OPENAI_API_KEY"]);
        let tokens = &whole["tokens"];
        let mode = whole["auth_mode"].as_str();
        // Files of older Codex have no mode; a key goes first there.
        match (mode, key) {
            (Some("apikey"), Some(key)) | (None, Some(key)) => Ok(Self::ApiKey(key)),
            (Some("apikey"), None) => Err("says that it holds an API key and holds none"),
            (Some("chatgpt") | None, _) if tokens.is_object() => {
                let access = text(&tokens["access_token"]).ok_or("holds no access token")?;
                let id = tokens["id_token"].as_str().map(Claims::of).unwrap_or_default();
                let account = text(&tokens["account_id"]).or_else(|| id.account.clone());
                let usable = |text: &String| text.bytes().all(|byte| byte.is_ascii_graphic());
                if !usable(&access) || !account.iter().all(usable) {
                    return Err("holds a token with characters that no HTTP header may hold");
                }
                let refresh = text(&tokens["refresh_token"]);
                Ok(Self::ChatGpt(Stored { access, refresh, account, id }))
            }
            (Some("chatgpt"), _) => Err("says that it holds a ChatGPT login and holds none"),
            _ => Err("has a form that is not known here"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_told_apart_and_wrong_ones_say_what_is_wrong() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("auth.json");
        assert!(AuthFile::read(&path).unwrap().is_none());
        for (text, want) in [
            ("", "is empty"),
            (" \n", "is empty"),
            ("{\"auth_mode\":\"chatgpt\",\"tok", "is no JSON"),
            ("[]", "a form that is not known"),
            ("{}", "a form that is not known"),
            ("{\"auth_mode\":\"agentIdentity\",\"OPENAI_API_KEY\":\"k\"}", "is not known"),
            ("{\"auth_mode\":\"apikey\",\"OPENAI_API_KEY\":\" \"}", "holds none"),
            ("{\"auth_mode\":\"chatgpt\",\"tokens\":null}", "holds none"),
            ("{\"tokens\":{\"refresh_token\":\"sk-secret\"}}", "no access token"),
            ("{\"tokens\":{\"access_token\":\"sk-sec\\nret\"}}", "no HTTP header"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = AuthFile::read(&path).unwrap_err().to_string();
            assert!(error.contains(want) && error.contains("codex login"), "{text}: {error}");
            assert!(!error.contains("sk-sec"), "{error}");
        }
        std::fs::write(&path, "{\"OPENAI_API_KEY\":\"k\",\"tokens\":{}}").unwrap();
        assert!(
            matches!(AuthFile::read(&path).unwrap().unwrap().form, Form::ApiKey(k) if k == "k")
        );
        let text = "{\"OPENAI_API_KEY\":\"k\",\"auth_mode\":\"chatgpt\",\"tokens\":{\"access_token\":\"a\"}}";
        std::fs::write(&path, text).unwrap();
        let file = AuthFile::read(&path).unwrap().unwrap();
        assert!(matches!(&file.form, Form::ChatGpt(s) if s.access == "a" && s.refresh.is_none()));
        rustix::fs::mknodat(
            rustix::fs::CWD,
            dir.path().join("pipe"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        assert!(AuthFile::read(&dir.path().join("pipe")).is_err());
    }
}
