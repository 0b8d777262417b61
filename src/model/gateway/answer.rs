//! The provider's answer on its way back.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Frame;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep};

use super::traffic::Traffic;
use super::usage::UsageReader;
use super::veil::Veil;

pub(super) type Body = UnsyncBoxBody<Bytes, Cut>;

/// The largest body of an error that is passed on; the rest is cut.
const MAX_ERROR: usize = 1024 * 1024;

/// The answer ended early; the connection to Codex is cut so that it notices.
#[derive(Debug, thiserror::Error)]
pub(super) enum Cut {
    /// The connection to the provider failed.
    #[error("the model provider's answer broke off")]
    BrokeOff(#[source] reqwest::Error),
    /// `model.idle_timeout` ran out.
    #[error("the model provider sent nothing for too long")]
    Silent,
}

/// A stream of events as it comes, counted. Nothing of it is kept.
pub(super) struct Counted {
    stream: Pin<Box<dyn Stream<Item = reqwest::Result<Bytes>> + Send>>,
    traffic: Arc<Traffic>,
    veil: Veil,
    /// What is told if the answer ends early.
    host: String,
    idle_timeout: Duration,
    /// Runs while the provider is waited for; not while Codex does not take what is there.
    silence: Pin<Box<Sleep>>,
    waiting: bool,
    ended: bool,
    /// Reads the tokens, if they are limited.
    usage: Option<UsageReader>,
    /// Bytes of the request, from which its tokens are estimated if none are told.
    asked: usize,
    _one_of_concurrent: Option<OwnedSemaphorePermit>,
}

impl Counted {
    pub(super) fn new(
        answer: reqwest::Response,
        traffic: Arc<Traffic>,
        host: String,
        asked: usize,
        permit: Option<OwnedSemaphorePermit>,
        veil: Veil,
    ) -> Self {
        let limits = traffic.limits();
        Self {
            stream: Box::pin(answer.bytes_stream()),
            veil,
            host,
            idle_timeout: limits.idle_timeout,
            silence: Box::pin(tokio::time::sleep(limits.idle_timeout)),
            waiting: false,
            ended: false,
            usage: (limits.tokens > 0).then(UsageReader::default),
            asked,
            traffic,
            _one_of_concurrent: permit,
        }
    }
}

impl Stream for Counted {
    type Item = Result<Frame<Bytes>, Cut>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.ended {
            return Poll::Ready(None);
        }
        let next = match this.stream.as_mut().poll_next(cx) {
            Poll::Ready(next) => next,
            Poll::Pending => {
                if !this.waiting {
                    this.waiting = true;
                    this.silence.as_mut().reset(Instant::now() + this.idle_timeout);
                }
                return this.silence.as_mut().poll(cx).map(|()| {
                    this.ended = true;
                    this.traffic.fell_silent(format!(
                        "the model provider at {} sent nothing for {} s in the middle of an answer \
                         (model.idle_timeout)",
                        this.host,
                        this.idle_timeout.as_secs()
                    ));
                    Some(Err(Cut::Silent))
                });
            }
        };
        this.waiting = false;
        Poll::Ready(match next {
            Some(Ok(chunk)) => {
                if let Some(usage) = &mut this.usage {
                    usage.read(&chunk);
                }
                this.traffic.came_back(chunk.len());
                // An empty piece is left out by the connection.
                Some(Ok(Frame::data(this.veil.pass(chunk))))
            }
            Some(Err(error)) => {
                this.ended = true;
                let cause = innermost(&error).to_string();
                this.traffic.trouble(format!(
                    "an answer of the model provider at {} broke off: {}",
                    this.host,
                    crate::model::redact::redact(&cause)
                ));
                Some(Err(Cut::BrokeOff(error.without_url())))
            }
            None => {
                this.ended = true;
                Some(this.veil.rest()).filter(|rest| !rest.is_empty()).map(|r| Ok(Frame::data(r)))
            }
        })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(usage) = &self.usage {
            // An answer that nobody heard to its end was paid for all the same: four bytes of a
            // request are about a token, and each event of an answer is at least one.
            let estimate = || (self.asked as u64 / 4).saturating_add(usage.events());
            self.traffic.used(usage.tokens().unwrap_or_else(estimate));
        }
    }
}

/// The body of an error, as text, cut at 1 MiB and at whatever has come when `limit` is over.
pub(super) async fn error_text(mut answer: reqwest::Response, limit: Duration) -> String {
    let mut text = Vec::new();
    let reading = async {
        while let Ok(Some(chunk)) = answer.chunk().await {
            text.extend_from_slice(&chunk);
            if text.len() >= MAX_ERROR {
                text.truncate(MAX_ERROR);
                break;
            }
        }
    };
    // What there is is told in either case.
    let _ = tokio::time::timeout(limit, reading).await;
    String::from_utf8_lossy(&text).into_owned()
}

/// The last of the causes of `error`, which alone says what happened.
pub(super) fn innermost(error: &reqwest::Error) -> &dyn std::error::Error {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause
}
