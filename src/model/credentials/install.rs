//! A new ChatGPT login takes the place of `auth.json`.

use std::fmt;
use std::fs::DirBuilder;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::LoginError;
use super::auth_file::{AuthFile, Form, MAX_BYTES, Replacement, parse};
use super::lock::Locks;
use super::owner;

/// Mode of an `auth.json` that was not there before, as Codex makes it.
const MODE: u32 = 0o600;

/// What `codex login` wrote, checked. Its `Debug` shows nothing of it.
pub struct NewLogin {
    text: Vec<u8>,
}

impl fmt::Debug for NewLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewLogin").finish_non_exhaustive()
    }
}

impl NewLogin {
    /// The largest that is taken, in bytes.
    pub const MAX_BYTES: u64 = MAX_BYTES;

    /// Takes the contents of an `auth.json` that can serve as a login: tokens of ChatGPT that can
    /// be refreshed.
    ///
    /// # Errors
    ///
    /// What is wrong, as the rest of a sentence; nothing of the contents.
    pub fn check(text: Vec<u8>) -> Result<Self, &'static str> {
        if text.len() as u64 > MAX_BYTES {
            return Err("is far larger than a login is");
        }
        match parse(&text)?.1 {
            Form::ChatGpt(stored) if stored.refresh.is_some() => Ok(Self { text }),
            Form::ChatGpt(_) => Err("holds no refresh token"),
            Form::ApiKey(_) => Err("holds an API key in place of a ChatGPT login"),
        }
    }

    /// Puts it in the place of `auth.json` in `codex_home`, byte for byte, under Codex's own locks.
    /// Mode and owner of a file that was there stay.
    ///
    /// # Errors
    ///
    /// [`InstallError`]; then the old file is as it was.
    ///
    /// # Cancel safety
    ///
    /// Dropped before the end, the file is the old one or the new one, whole.
    pub async fn install(self, codex_home: &Path) -> Result<(), InstallError> {
        let _locks = Locks::hold(codex_home).await.map_err(|error| match error {
            LoginError::Unwritable { path, cause } => InstallError::Unwritable { path, cause },
            other => InstallError::Locked(other.to_string()),
        })?;
        let path = codex_home.join("auth.json");
        let unwritable = |cause: String| InstallError::Unwritable { path: path.clone(), cause };
        let replacement = place(&path).map_err(|error| unwritable(error.to_string()))?;
        let written = tokio::task::spawn_blocking(move || replacement.commit(&self.text)).await;
        match written {
            Ok(outcome) => outcome.map_err(|error| unwritable(error.to_string())),
            Err(_) => Err(unwritable("a part of this program failed".to_owned())),
        }
    }
}

/// Why a login could not be kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InstallError {
    /// The directory or the file cannot be written.
    #[error("{path} cannot be written ({cause}); make it writable and log in again")]
    Unwritable {
        /// The directory or the file.
        path: PathBuf,
        /// Why.
        cause: String,
    },
    /// Another program holds the locks.
    #[error("{0}")]
    Locked(String),
}

/// Makes `codex_home`, which only its owner can read, if it is not there, and sees that `auth.json`
/// in it can be written: better known before somebody logs in than after.
///
/// # Errors
///
/// [`InstallError::Unwritable`].
pub fn make_ready(codex_home: &Path) -> Result<(), InstallError> {
    let unwritable = |path: &Path, error: std::io::Error| InstallError::Unwritable {
        path: path.to_owned(),
        cause: error.to_string(),
    };
    make_directory(codex_home).map_err(|error| unwritable(codex_home, error))?;
    let path = codex_home.join("auth.json");
    // Removed again as it is dropped.
    place(&path).map(drop).map_err(|error| unwritable(&path, error))
}

/// Makes `directory` and those above it that are not there, for the owner of the first that is.
fn make_directory(directory: &Path) -> std::io::Result<()> {
    let missing: Vec<_> = directory.ancestors().take_while(|made| !made.exists()).collect();
    let owner = missing.last().and_then(|made| made.parent()).and_then(owner::other);
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let Some((user, group)) = owner else { return Ok(()) };
    // The innermost first: once one is theirs, they can exchange what is in it.
    missing.iter().try_for_each(|made| std::os::unix::fs::lchown(made, Some(user), Some(group)))
}

/// What lies in `auth.json` of `codex_home`, in words that end a sentence; `None` if there is none.
pub fn present(codex_home: &Path) -> Option<String> {
    match AuthFile::read(&codex_home.join("auth.json")) {
        Ok(None) => None,
        Ok(Some(file)) => Some(match file.form {
            Form::ApiKey(_) => "an API key".to_owned(),
            Form::ChatGpt(stored) => match stored.id.email {
                Some(email) => format!("the ChatGPT login of {email}"),
                None => "a ChatGPT login".to_owned(),
            },
        }),
        Err(_) => Some("a file that cannot be used".to_owned()),
    }
}

/// The empty file that will take the place of `path`, or of what it is a link to.
fn place(path: &Path) -> std::io::Result<Replacement> {
    let real = match path.canonicalize() {
        Ok(real) => real,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Replacement::beside(path, MODE, path.parent().and_then(owner::other));
        }
        Err(error) => return Err(error),
    };
    let metadata = real.symlink_metadata()?;
    if !metadata.is_file() {
        return Err(std::io::Error::other("it is no file"));
    }
    // Root does not replace what a user could only point at.
    let other = path.parent().and_then(owner::other);
    if path.is_symlink() && other.is_some_and(|(user, _)| user != metadata.uid()) {
        return Err(std::io::Error::other("it is a link to a file of another user"));
    }
    Replacement::beside(&real, metadata.mode() & 0o7777, Some((metadata.uid(), metadata.gid())))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    const LOGIN: &str = r#"{"auth_mode":"chatgpt", "tokens":{"access_token":"a",
        "refresh_token":"r-secret","new":[1]},"later":{"kept":1.0}}"#;

    fn login() -> NewLogin {
        NewLogin::check(LOGIN.into()).unwrap()
    }

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[tokio::test]
    async fn a_login_takes_its_place_byte_for_byte_and_only_its_owner_can_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("deep/codex");
        make_ready(&home).unwrap();
        assert_eq!(mode(&home), 0o700);
        assert_eq!(std::fs::read_dir(&home).unwrap().count(), 0);
        assert_eq!(present(&home), None);
        login().install(&home).await.unwrap();
        assert_eq!(std::fs::read_to_string(home.join("auth.json")).unwrap(), LOGIN);
        assert_eq!(mode(&home.join("auth.json")), 0o600);
        // Beside it only Codex's locks.
        assert_eq!(std::fs::read_dir(&home).unwrap().count(), 3);
        assert_eq!(present(&home).unwrap(), "a ChatGPT login");
        assert!(!format!("{:?}", login()).contains("secret"));
    }

    #[tokio::test]
    async fn mode_and_link_of_a_file_that_was_there_stay() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().join("elsewhere.json");
        std::fs::write(&real, "{broken").unwrap();
        std::fs::set_permissions(&real, PermissionsExt::from_mode(0o640)).unwrap();
        let home = dir.path().join("home");
        std::fs::create_dir(&home).unwrap();
        symlink(&real, home.join("auth.json")).unwrap();
        assert_eq!(present(&home).unwrap(), "a file that cannot be used");
        make_ready(&home).unwrap();
        login().install(&home).await.unwrap();
        assert!(home.join("auth.json").is_symlink());
        assert_eq!((std::fs::read_to_string(&real).unwrap().as_str(), mode(&real)), (LOGIN, 0o640));
    }

    /// Root can give files away; without it there is nothing to see here.
    #[tokio::test]
    async fn what_root_makes_in_the_home_of_a_user_is_the_users() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::chown(dir.path(), Some(4711), Some(4712)).unwrap();
        let home = dir.path().join("deep/codex");
        make_ready(&home).unwrap();
        login().install(&home).await.unwrap();
        for made in ["deep", "deep/codex", "auth.json", "auth.lock", "auth.json.lock"] {
            let made = if made.contains("deep") { dir.path().join(made) } else { home.join(made) };
            let metadata = made.symlink_metadata().unwrap();
            assert_eq!((metadata.uid(), metadata.gid()), (4711, 4712), "{made:?}");
        }
        // A link of the user's does not make root write elsewhere.
        let roots = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(roots.path(), "root's").unwrap();
        std::fs::remove_file(home.join("auth.json")).unwrap();
        symlink(roots.path(), home.join("auth.json")).unwrap();
        let error = login().install(&home).await.unwrap_err().to_string();
        assert!(error.contains("another user"), "{error}");
        assert!(make_ready(&home).is_err());
        assert_eq!(std::fs::read_to_string(roots.path()).unwrap(), "root's");
    }

    #[tokio::test]
    async fn a_lock_is_not_made_at_the_end_of_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let elsewhere = dir.path().join("elsewhere");
        symlink(&elsewhere, dir.path().join("auth.lock")).unwrap();
        let installing = login();
        let waited = std::time::Duration::from_millis(300);
        assert!(tokio::time::timeout(waited, installing.install(dir.path())).await.is_err());
        assert!(!elsewhere.exists());
    }

    #[tokio::test]
    async fn what_cannot_be_written_is_told_before_and_after() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let error = make_ready(&file.join("codex")).unwrap_err().to_string();
        assert!(error.contains("make it writable and log in again"), "{error}");
        std::fs::create_dir(dir.path().join("auth.json")).unwrap();
        assert!(make_ready(dir.path()).unwrap_err().to_string().contains("no file"));
        assert!(login().install(dir.path()).await.is_err());
        assert!(dir.path().join("auth.json").is_dir());
    }

    #[test]
    fn what_is_no_login_is_refused_without_showing_it() {
        let huge = format!("{LOGIN}{}", " ".repeat(1 << 20));
        for (text, want) in [
            ("", "is empty"),
            ("{\"tokens\":{\"access_token\":\"secret", "no JSON"),
            ("[\"secret\"]", "a form that is not known"),
            ("{\"tokens\":{\"access_token\":\"secret\"}}", "no refresh token"),
            ("{\"OPENAI_API_KEY\":\"secret\"}", "an API key"),
            (&huge, "far larger"),
        ] {
            let error = NewLogin::check(text.into()).unwrap_err();
            assert!(error.contains(want) && !error.contains("secret"), "{error}");
        }
    }
}
