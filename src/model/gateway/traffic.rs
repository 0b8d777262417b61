//! What went over the gateway for one run.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use hyper::header::{HeaderMap, HeaderValue};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::limits::{Limits, Rate};
use crate::codex::command::RUN_HEADER;

/// Different refusals kept of one run; more are only counted.
const MAX_DENIED: usize = 100;

/// Requests in a row that the provider may leave without an answer.
const MAX_UNANSWERED: u32 = 2;

/// The traffic of one run; shared by its connections.
#[derive(Debug)]
pub struct Traffic {
    limits: Limits,
    /// What requests must show, if anything.
    secret: Option<String>,
    times: Mutex<Times>,
    denied: Mutex<Vec<String>>,
    denied_total: AtomicU32,
    troubles: Mutex<Vec<String>>,
    requests: AtomicU32,
    bytes_up: AtomicU64,
    bytes_down: AtomicU64,
    rate: Mutex<Rate>,
    tokens: AtomicU64,
    over_tokens: CancellationToken,
    silence: Mutex<Silence>,
    /// KiB of request bodies that may be held at once, so that many connections together cost no
    /// more than one body of full size.
    pub(super) bodies: Semaphore,
    concurrent: Arc<Semaphore>,
}

/// How often the provider did not answer.
#[derive(Debug, Default)]
struct Silence {
    /// Answers in a row that did not begin.
    unanswered: u32,
    /// What Codex is told from here on instead of an answer.
    last: Option<String>,
}

#[derive(Debug, Default)]
struct Times {
    first_request: Option<Instant>,
    last_response: Option<Instant>,
}

/// [`Traffic`] at one moment.
#[derive(Clone, Debug, Default)]
pub struct TrafficReport {
    /// When the first request that passed had arrived whole.
    pub first_request: Option<Instant>,
    /// When the last byte of the last response so far went out.
    pub last_response: Option<Instant>,
    /// Requests that passed.
    pub requests: u32,
    /// What was refused, each sentence once, the first hundred.
    pub denied: Vec<String>,
    /// How many were refused.
    pub denied_total: u32,
    /// What went wrong at the provider or on the way to it, one sentence each, the first hundred.
    pub troubles: Vec<String>,
    /// Tokens that the provider told, and estimates of what was broken off; only if they are
    /// limited, else 0.
    pub tokens: u64,
    /// Bytes of bodies that went to the provider.
    pub bytes_up: u64,
    /// Bytes of bodies that came from the provider.
    pub bytes_down: u64,
}

impl Traffic {
    /// The traffic of a run that begins.
    pub fn new(limits: Limits) -> Self {
        Self {
            times: Mutex::default(),
            denied: Mutex::default(),
            denied_total: AtomicU32::new(0),
            troubles: Mutex::default(),
            requests: AtomicU32::new(0),
            bytes_up: AtomicU64::new(0),
            bytes_down: AtomicU64::new(0),
            rate: Mutex::new(Rate::new(limits.per_minute)),
            tokens: AtomicU64::new(0),
            over_tokens: CancellationToken::new(),
            silence: Mutex::default(),
            bodies: Semaphore::new(limits.request_kib as usize),
            concurrent: Arc::new(Semaphore::new(limits.concurrent as usize)),
            limits,
            secret: None,
        }
    }

    /// The same, in which only requests pass that show `secret` in [`RUN_HEADER`].
    pub fn requiring(self, secret: String) -> Self {
        Self { secret: Some(secret), ..self }
    }

    /// Whether a request with these headers is one of the run.
    pub(super) fn is_ours(&self, headers: &HeaderMap) -> bool {
        let Some(secret) = &self.secret else { return true };
        let shown = headers.get(RUN_HEADER).map(HeaderValue::as_bytes).unwrap_or_default();
        // Takes as long wherever the two differ.
        let differ = shown.iter().zip(secret.as_bytes()).fold(0, |all, (a, b)| all | (a ^ b));
        shown.len() == secret.len() && differ == 0
    }

    /// Resolves when the run has used more than `run.max_tokens`.
    ///
    /// # Cancel safety
    ///
    /// Holds nothing.
    pub async fn over_tokens(&self) {
        self.over_tokens.cancelled().await;
    }

    /// What went over so far.
    pub fn report(&self) -> TrafficReport {
        let (first_request, last_response) = {
            let times = self.times.lock();
            (times.first_request, times.last_response)
        };
        TrafficReport {
            first_request,
            last_response,
            requests: self.requests.load(Ordering::Relaxed),
            denied: self.denied.lock().clone(),
            denied_total: self.denied_total.load(Ordering::Relaxed),
            troubles: self.troubles.lock().clone(),
            tokens: self.tokens.load(Ordering::Relaxed),
            bytes_up: self.bytes_up.load(Ordering::Relaxed),
            bytes_down: self.bytes_down.load(Ordering::Relaxed),
        }
    }

    pub(super) fn passed(&self, body: usize) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.bytes_up.fetch_add(body as u64, Ordering::Relaxed);
        self.times.lock().first_request.get_or_insert_with(Instant::now);
    }

    pub(super) fn refused(&self, what: &str) {
        self.denied_total.fetch_add(1, Ordering::Relaxed);
        keep(&mut self.denied.lock(), what);
    }

    pub(super) fn trouble(&self, what: impl AsRef<str>) {
        keep(&mut self.troubles.lock(), what.as_ref());
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// A place among the requests that may run now, or which limit is in the way.
    pub(super) fn enter(&self) -> Result<OwnedSemaphorePermit, String> {
        if self.over_tokens.is_cancelled() {
            return Err(format!(
                "the run is over its {} tokens (run.max_tokens)",
                self.limits.tokens
            ));
        }
        if !self.rate.lock().take(Instant::now()) {
            return Err(format!(
                "more than {} in a minute (model.max_per_minute)",
                self.limits.per_minute
            ));
        }
        self.concurrent.clone().try_acquire_owned().map_err(|_| {
            format!("more than {} at the same time (model.max_concurrent)", self.limits.concurrent)
        })
    }

    /// What is told instead of asking a provider that does not answer.
    pub(super) fn silenced(&self) -> Option<String> {
        self.silence.lock().last.clone()
    }

    /// The provider began to answer.
    pub(super) fn answered(&self) {
        self.silence.lock().unanswered = 0;
    }

    /// The provider did not answer. Whether it was asked often enough.
    pub(super) fn unanswered(&self, sentence: &str) -> bool {
        self.trouble(sentence);
        let mut silence = self.silence.lock();
        silence.unanswered += 1;
        let enough = silence.unanswered >= MAX_UNANSWERED;
        if enough {
            silence.last.get_or_insert_with(|| sentence.to_owned());
        }
        enough
    }

    /// The provider fell silent in the middle of an answer, for so long that a run has no time to
    /// wait for the same again.
    pub(super) fn fell_silent(&self, sentence: String) {
        self.trouble(&sentence);
        self.silence.lock().last.get_or_insert(sentence);
    }

    pub(super) fn used(&self, tokens: u64) {
        let before = self.tokens.fetch_add(tokens, Ordering::Relaxed);
        if self.limits.tokens > 0 && before.saturating_add(tokens) > self.limits.tokens {
            self.over_tokens.cancel();
        }
    }

    pub(super) fn came_back(&self, bytes: usize) {
        self.bytes_down.fetch_add(bytes as u64, Ordering::Relaxed);
        self.times.lock().last_response = Some(Instant::now());
    }
}

/// Keeps `what` once, and the first hundred of its kind.
fn keep(list: &mut Vec<String>, what: &str) {
    if list.len() < MAX_DENIED && !list.iter().any(|kept| kept == what) {
        list.push(what.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DEFAULT_TOML;

    #[test]
    fn only_the_whole_secret_is_that_of_the_run() {
        let config: crate::config::Config = toml::from_str(DEFAULT_TOML).unwrap();
        let limits = Limits::new(&config.model, 0);
        let headers = |shown: &str| {
            HeaderMap::from_iter([(RUN_HEADER.parse().unwrap(), shown.parse().unwrap())])
        };
        assert!(Traffic::new(limits).is_ours(&HeaderMap::new()));
        let traffic = Traffic::new(limits).requiring("abc".to_owned());
        assert!(traffic.is_ours(&headers("abc")));
        for shown in ["", "ab", "abcd", "abd", "ABC"] {
            assert!(!traffic.is_ours(&headers(shown)), "{shown}");
        }
        assert!(!traffic.is_ours(&HeaderMap::new()));
        assert!(super::super::headers::to_provider(&headers("abc")).is_empty());
    }
}
