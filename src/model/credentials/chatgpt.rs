//! The ChatGPT login of this machine, refreshed here for every container.
//!
//! ```text
//!              ten minutes before expiry, or 401
//!   current ──────────────────────────────────────> locks ──> read again
//!      ^                                                        │      │
//!      │                another program refreshed: take its own │      │ the same still
//!      ├────────────────────────────────────────────────────────┘      v
//!      │                                                      token endpoint
//!      │                       temp file, rename                  │      │
//!      ├──────────────────────────────────────────────────────────┘      │ refresh_token_reused
//!      │      locks off, read again until another program has            v
//!      └─────────────────────────────────────────────────── written, or: run codex login
//! ```
//!
//! One refresh at a time in this process ([`Login::renew`]), and one among all processes that take
//! Codex's locks. Codex itself (0.169) asks the token endpoint before it takes them, so that both
//! may ask at the same moment; the one that loses is told `refresh_token_reused` and takes what
//! the other writes.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::CredentialError;
use super::auth_file::{AuthFile, Form, Rotated, Stored};
use super::lock::Locks;
use super::refresh::{Reason, Refused, refresh};

/// So long before its end a token is renewed.
const AHEAD: i64 = 10 * 60;

/// So long after a failure that may pass the token endpoint is not asked again.
const BACKOFF: Duration = Duration::from_secs(10);

/// A token of this age that the provider refuses is not renewed: a new one would be no better.
const NEW: Duration = Duration::from_secs(60);

/// So long the program that used our refresh token first may take to write what it got.
const OTHERS_WRITE: Duration = Duration::from_secs(3);

/// Why the ChatGPT login cannot be used. No secret is in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    /// It is over.
    #[error(
        "the ChatGPT login in {path} is over ({why}); run codex login on the machine of this \
         server, then call again"
    )]
    Ended {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The token endpoint cannot be asked.
    #[error(
        "the ChatGPT login in {path} has to be refreshed and the login server cannot be asked \
         ({why}); check this machine's network and call again"
    )]
    Failing {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// Another program holds the locks.
    #[error("another program holds {path} and does not let go; end it and call again")]
    Locked {
        /// The lock.
        path: PathBuf,
    },
    /// New tokens could not be kept, so none were asked for.
    #[error(
        "the ChatGPT login has to be refreshed and {path} cannot be written ({cause}); make it \
         writable and call again, or the login would be lost"
    )]
    Unwritable {
        /// The directory or the file.
        path: PathBuf,
        /// Why.
        cause: String,
    },
    /// The file holds no ChatGPT login any more.
    #[error("{0}")]
    File(String),
}

/// The tokens in use.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Tokens {
    pub(super) stored: Stored,
    /// Unix seconds, by the token itself.
    pub(super) expires: Option<i64>,
    due: Due,
    /// When this process got them from the token endpoint.
    obtained: Option<Instant>,
}

/// When tokens are to be renewed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Due {
    /// They do not say; once the provider refuses them.
    Unknown,
    /// At these Unix seconds, by the clock of this machine.
    At(i64),
    /// At this moment, whatever the clock says: it may go wrong by hours.
    After(Instant),
}

/// The login, shared by every gateway and task of this process.
pub(super) struct Login {
    codex_home: PathBuf,
    endpoint: String,
    current: Mutex<Arc<Tokens>>,
    /// Held by the one task that renews.
    flight: Arc<tokio::sync::Mutex<()>>,
    failed: Mutex<Option<Failed>>,
}

struct Failed {
    /// The access token that could not be renewed.
    of: Stored,
    at: Instant,
    error: LoginError,
}

impl Tokens {
    fn from_file(stored: Stored) -> Self {
        let expires = super::jwt::Claims::of(&stored.access).expires;
        let due = expires.map_or(Due::Unknown, |end| Due::At(end.saturating_sub(AHEAD)));
        Self { stored, expires, due, obtained: None }
    }

    fn from_endpoint(stored: Stored, expires_in: Option<i64>) -> Self {
        let claims = super::jwt::Claims::of(&stored.access);
        let by_claims = claims.expires.zip(claims.issued).map(|(end, begin)| end - begin);
        let life = expires_in.or(by_claims).or_else(|| claims.expires.map(|end| end - now()));
        let due = match life {
            Some(life) => {
                // One that lives shorter than twice the margin is renewed after half its life.
                let ahead = AHEAD.min(life / 2);
                let seconds = life.saturating_sub(ahead).clamp(30, 400 * 24 * 3600);
                Due::After(Instant::now() + Duration::from_secs(seconds.unsigned_abs()))
            }
            None => Due::Unknown,
        };
        Self { stored, expires: claims.expires, due, obtained: Some(Instant::now()) }
    }

    fn is_due(&self) -> bool {
        match self.due {
            Due::Unknown => false,
            Due::At(moment) => now() >= moment,
            Due::After(moment) => Instant::now() >= moment,
        }
    }

    fn is_over(&self) -> bool {
        self.expires.is_some_and(|end| now() >= end)
    }
}

impl Login {
    pub(super) fn new(codex_home: &Path, endpoint: &str, stored: Stored) -> Self {
        Self {
            codex_home: codex_home.to_owned(),
            endpoint: endpoint.to_owned(),
            current: Mutex::new(Arc::new(Tokens::from_file(stored))),
            flight: Arc::default(),
            failed: Mutex::new(None),
        }
    }

    pub(super) fn path(&self) -> PathBuf {
        self.codex_home.join("auth.json")
    }

    pub(super) fn current(&self) -> Arc<Tokens> {
        Arc::clone(&self.current.lock())
    }

    /// Whether both are the same person's login, so that one may go on for the other.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let (ours, theirs) = (self.current(), other.current());
        self.codex_home == other.codex_home && ours.stored.account == theirs.stored.account
    }

    /// Tokens that are good for a request now; renewed before, if it is time.
    pub(super) async fn tokens(self: &Arc<Self>) -> Result<Arc<Tokens>, LoginError> {
        let seen = self.current();
        if !seen.is_due() {
            return Ok(seen);
        }
        match self.renew(Reason::Expiry, Arc::clone(&seen)).await {
            // What is refused before its time is still good.
            Err(error) if !seen.is_over() => {
                tracing::debug!(%error, "the ChatGPT login could not be refreshed ahead of time");
                Ok(seen)
            }
            outcome => outcome,
        }
    }

    /// Other tokens than `seen`, which the provider refused; `None` if there are none better.
    pub(super) async fn after_refusal(
        self: &Arc<Self>,
        seen: Arc<Tokens>,
    ) -> Result<Option<Arc<Tokens>>, LoginError> {
        if seen.obtained.is_some_and(|at| at.elapsed() < NEW) {
            return Ok(None);
        }
        self.renew(Reason::Unauthorized, seen).await.map(Some)
    }

    /// Waits for a refresh that is under way.
    pub(super) async fn settle(&self) {
        drop(self.flight.lock().await);
    }

    /// Tokens newer than `seen`. The work is a task of its own: a caller that goes away must not
    /// end it between the answer of the token endpoint and the file.
    async fn renew(
        self: &Arc<Self>,
        reason: Reason,
        seen: Arc<Tokens>,
    ) -> Result<Arc<Tokens>, LoginError> {
        let login = Arc::clone(self);
        let task = tokio::spawn(async move {
            let _flight = login.flight.lock().await;
            let current = login.current();
            if current.stored.access != seen.stored.access && !current.is_due() {
                return Ok(current);
            }
            let outcome = login.renew_alone(reason, &current).await;
            match &outcome {
                Ok(tokens) => *login.current.lock() = Arc::clone(tokens),
                Err(error) => login.remember(&current, error),
            }
            outcome
        });
        let failed = |error: tokio::task::JoinError| {
            let why = if error.is_cancelled() { "the server ends" } else { "a part of it failed" };
            LoginError::Failing { path: self.path(), why: why.to_owned() }
        };
        task.await.map_err(failed)?
    }

    async fn renew_alone(
        &self,
        reason: Reason,
        current: &Tokens,
    ) -> Result<Arc<Tokens>, LoginError> {
        if let Some(error) = self.failed_just_now(current) {
            return Err(error);
        }
        let locks = Locks::hold(&self.codex_home).await?;
        let (file, stored) = self.read()?;
        if stored.access != current.stored.access {
            let theirs = Tokens::from_file(stored.clone());
            if !theirs.is_due() {
                tracing::debug!("another program has refreshed the ChatGPT login");
                return Ok(Arc::new(theirs));
            }
        }
        if let Some(error) = self.ended(&stored) {
            return Err(error);
        }
        let path = self.path();
        let Some(token) = &stored.refresh else {
            let why = "it has no refresh token".to_owned();
            return Err(LoginError::Ended { path, why });
        };
        // Made before the token is used: what could not be written would be lost.
        let unwritable = |error: std::io::Error| LoginError::Unwritable {
            path: self.path(),
            cause: error.to_string(),
        };
        let replacement = file.replacement().map_err(unwritable)?;
        match refresh(&self.endpoint, token, reason).await {
            Ok(rotated) => {
                // Somebody who takes no locks, as an editor, may have come before us.
                if let Ok((_, now)) = self.read()
                    && now.refresh != stored.refresh
                {
                    return Ok(Arc::new(Tokens::from_file(now)));
                }
                let text = file.rotated(&rotated);
                let written = tokio::task::spawn_blocking(move || replacement.commit(&text)).await;
                if !matches!(written, Ok(Ok(()))) {
                    let path = path.display();
                    tracing::error!(
                        "the refreshed ChatGPT login could not be written to {path}: it serves \
                         until this server ends; then run codex login"
                    );
                }
                Ok(Arc::new(joined(stored, rotated)))
            }
            Err(Refused::Reused) => {
                drop((locks, replacement));
                self.written_by_another(&stored).await.ok_or_else(|| LoginError::Ended {
                    path,
                    why: "its refresh token was already used".to_owned(),
                })
            }
            Err(Refused::Ended(why)) => Err(LoginError::Ended { path, why }),
            Err(Refused::Failing(why)) => Err(LoginError::Failing { path, why }),
        }
    }

    /// What the program that used our refresh token before us writes. It waits for the locks that
    /// we gave back, and there is no event that tells when it has written.
    async fn written_by_another(&self, stored: &Stored) -> Option<Arc<Tokens>> {
        let until = Instant::now() + OTHERS_WRITE;
        loop {
            if let Ok((_, now)) = self.read()
                && now.refresh != stored.refresh
            {
                return Some(Arc::new(Tokens::from_file(now)));
            }
            if Instant::now() >= until {
                return None;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn read(&self) -> Result<(AuthFile, Stored), LoginError> {
        let path = self.path();
        let file = AuthFile::read(&path)
            .and_then(|file| file.ok_or(CredentialError::NoLogin { path: path.clone() }))
            .map_err(|error| LoginError::File(error.to_string()))?;
        match &file.form {
            Form::ChatGpt(stored) => {
                let stored = stored.clone();
                Ok((file, stored))
            }
            Form::ApiKey(_) => Err(LoginError::File(CredentialError::NoLogin { path }.to_string())),
        }
    }

    fn remember(&self, current: &Tokens, error: &LoginError) {
        let mut failed = self.failed.lock();
        if failed.as_ref().is_none_or(|before| before.error != *error) {
            tracing::warn!("{error}");
        }
        // An end is of the tokens in the file, which may be others than those in use.
        let of = self.read().map_or_else(|_| current.stored.clone(), |(_, stored)| stored);
        *failed = Some(Failed { of, at: Instant::now(), error: error.clone() });
    }

    /// A failure of a moment ago that may pass. One that does not is looked up once the file is
    /// read again, see [`Login::ended`].
    fn failed_just_now(&self, current: &Tokens) -> Option<LoginError> {
        let failed = self.failed.lock();
        let failed = failed.as_ref()?;
        let passing = matches!(
            failed.error,
            LoginError::Failing { .. } | LoginError::Locked { .. } | LoginError::Unwritable { .. }
        );
        let same = failed.of == current.stored && failed.at.elapsed() < BACKOFF;
        (passing && same).then(|| failed.error.clone())
    }

    /// The end of just these tokens, so that a void one is not sent again and again.
    fn ended(&self, stored: &Stored) -> Option<LoginError> {
        let failed = self.failed.lock();
        let failed = failed.as_ref()?;
        let ended = matches!(failed.error, LoginError::Ended { .. });
        (ended && failed.of.refresh == stored.refresh).then(|| failed.error.clone())
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("codex_home", &self.codex_home).finish_non_exhaustive()
    }
}

fn joined(stored: Stored, rotated: Rotated) -> Tokens {
    let Rotated { access, refresh, id, expires_in } = rotated;
    let id = id.map_or(stored.id, |id| super::jwt::Claims::of(&id));
    let stored =
        Stored { access, refresh: refresh.or(stored.refresh), account: stored.account, id };
    Tokens::from_endpoint(stored, expires_in)
}

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}
