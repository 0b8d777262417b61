//! Refusals of ours, told to Codex as the provider would tell them.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::header::{self, HeaderValue};
use hyper::{Response, StatusCode};
use serde_json::json;

use super::answer::Body;

/// Why a request was not passed, or its answer not.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) code: &'static str,
    pub(super) sentence: String,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, code: &'static str, sentence: impl Into<String>) -> Self {
        Self { status, code, sentence: sentence.into() }
    }

    /// A request that is refused for what it is; Codex does not try again.
    pub(super) fn request(what: impl std::fmt::Display) -> Self {
        let sentence = format!("the gateway refused a model request: {what}");
        Self::new(StatusCode::BAD_REQUEST, "request_refused", sentence)
    }

    /// Whether something was asked for that may not be had.
    pub(super) fn is_denial(&self) -> bool {
        let denied = self.status.is_client_error() && self.status != StatusCode::UPGRADE_REQUIRED;
        denied && !matches!(self.code, super::NO_LOGIN | "provider_silent")
    }

    pub(super) fn response(&self) -> Response<Body> {
        let error = json!({"error": {
            "type": "gateway_error", "code": self.code, "message": self.sentence,
        }});
        let mut response = Response::new(whole(error.to_string().into()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if self.status == StatusCode::UPGRADE_REQUIRED {
            headers.insert(header::UPGRADE, HeaderValue::from_static("HTTP/1.1"));
        }
        response
    }
}

/// A body that is there already.
pub(super) fn whole(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}
