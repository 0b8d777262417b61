//! The host side of the model path: takes the requests that come out of a container, checks them,
//! adds the credential, and passes the answers back as they come.
//!
//! | method and path | what happens |
//! |---|---|
//! | `POST /v1/responses` | checked by [`request`], sent to `<model.base_url>/responses` |
//! | `GET /v1/responses` with an upgrade to WebSocket | 426, so that Codex falls back to HTTP at once |
//! | anything else | 403, recorded |
//!
//! A body that is refused is answered with 400, since Codex does not try again then. The answer of
//! the provider is passed on whatever its status, errors without anything that looks like a
//! credential. Redirects are not followed; there are no cookies.
//!
//! Of a request only headers on a list pass, see [`headers`]; the provider's credential is added
//! here and nowhere else. A ChatGPT login that the provider refuses with 401 is refreshed and the
//! request sent once more, see [`crate::model::credentials`]; if it cannot be, the answer is 400
//! with a sentence that says what to do.

mod headers;
pub mod request;
mod traffic;

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::Stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};

pub use self::traffic::{Traffic, TrafficReport};
use crate::config::ModelConfig;
use crate::model::credentials::{Credential, LoginError};

/// The largest body of a request, in KiB.
pub const MAX_BODY_KIB: u32 = 64 * 1024;

/// The largest body of an error that is passed on; the rest is cut.
const MAX_ERROR: usize = 1024 * 1024;

/// How long making a connection to the provider may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of Codex's headers that are read at most.
const MAX_HEADER_BYTES: usize = 64 * 1024;

/// The code of an answer of ours that says that the login on the host cannot be used.
const NO_LOGIN: &str = "login_unusable";

type Body = UnsyncBoxBody<Bytes, Cut>;

/// Passes requests from containers to one provider. Clones share connections to it.
#[derive(Clone)]
pub struct Gateway {
    inner: Arc<Inner>,
}

struct Inner {
    client: reqwest::Client,
    base_url: reqwest::Url,
    credential: Credential,
    hosted_tools: Vec<String>,
}

/// Why there is no gateway.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// `model.base_url` cannot be used. The value may hold a secret and is not shown.
    #[error("model.base_url {0}; write it like \"https://api.openai.com/v1\"")]
    Refused(&'static str),
    /// The client for HTTPS could not be made.
    #[error("no HTTPS client could be made")]
    Client(#[source] reqwest::Error),
}

/// Makes `ring` the process's provider of cryptography for TLS. Any number of calls is fine.
pub fn install_crypto() {
    // An error means that one is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

impl Gateway {
    /// A gateway to the provider of `config`. Makes no connection yet.
    ///
    /// # Errors
    ///
    /// A `base_url` that cannot be used, or no TLS.
    pub fn new(config: &ModelConfig, credential: Credential) -> Result<Self, GatewayError> {
        install_crypto();
        let base_url = checked_base(credential.base_url(&config.base_url))?;
        let mut client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true);
        if is_loopback(&base_url) {
            // A proxy's loopback is another machine's.
            client = client.no_proxy();
        }
        let client = client.build().map_err(GatewayError::Client)?;
        if base_url.scheme() == "http" && !is_loopback(&base_url) && !credential.is_none() {
            tracing::warn!(%base_url, "the credential goes over plain http to another machine");
        }
        let hosted_tools = config.hosted_tools.clone();
        Ok(Self { inner: Arc::new(Inner { client, base_url, credential, hosted_tools }) })
    }

    /// The credential that requests get.
    pub fn credential(&self) -> &Credential {
        &self.inner.credential
    }

    /// `text` without the provider's credential.
    pub fn redact(&self, text: &str) -> String {
        self.inner.credential.redact(text)
    }

    /// Serves one connection until the client closes it. What goes over is counted in `traffic`.
    ///
    /// Errors of the connection end it and are no one's concern: Codex tries again.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection and drops what is under way at the provider.
    pub async fn serve(
        &self,
        connection: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        traffic: Arc<Traffic>,
    ) {
        let service = hyper::service::service_fn(|request| {
            let (inner, traffic) = (self.inner.clone(), traffic.clone());
            async move { Ok::<_, Infallible>(inner.answer(request, &traffic).await) }
        });
        let served = hyper::server::conn::http1::Builder::new()
            .max_buf_size(MAX_HEADER_BYTES)
            .serve_connection(TokioIo::new(connection), service)
            .await;
        if let Err(error) = served {
            tracing::debug!(%error, "a connection to the gateway ended early");
        }
    }
}

impl fmt::Debug for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gateway")
            .field("base_url", &self.inner.base_url.as_str())
            .field("credential", &self.inner.credential)
            .finish_non_exhaustive()
    }
}

/// A refusal of ours, told to Codex as the provider would tell it.
struct Refusal {
    status: StatusCode,
    code: &'static str,
    sentence: String,
}

impl Refusal {
    fn new(status: StatusCode, code: &'static str, sentence: impl Into<String>) -> Self {
        Self { status, code, sentence: sentence.into() }
    }

    /// Whether something was asked for that may not be had.
    fn is_denial(&self) -> bool {
        self.code != NO_LOGIN
            && !matches!(self.status, StatusCode::UPGRADE_REQUIRED | StatusCode::BAD_GATEWAY)
    }

    fn response(&self) -> Response<Body> {
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

impl Inner {
    async fn answer(&self, request: Request<Incoming>, traffic: &Arc<Traffic>) -> Response<Body> {
        match self.pass(request, traffic).await {
            Ok(response) => response,
            Err(refusal) => {
                if refusal.is_denial() {
                    traffic.refused(&refusal.sentence);
                }
                refusal.response()
            }
        }
    }

    async fn pass(
        &self,
        request: Request<Incoming>,
        traffic: &Arc<Traffic>,
    ) -> Result<Response<Body>, Refusal> {
        let target = route(&request)?;
        let (parts, body) = request.into_parts();
        if let Some(encoding) = parts.headers.get(header::CONTENT_ENCODING)
            && encoding != "identity"
        {
            return Err(Refusal::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "encoding",
                format!("a request body encoded as {encoding:?} is refused; send it as it is"),
            ));
        }
        let size = parts.headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok());
        let size = size.and_then(|v| v.parse::<u64>().ok());
        let kib = size.map_or(u64::from(MAX_BODY_KIB), |bytes| bytes.div_ceil(1024));
        let too_large = || {
            Refusal::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "body_too_large",
                format!("a request body over {MAX_BODY_KIB} KiB is refused"),
            )
        };
        let kib = u32::try_from(kib).ok().filter(|k| *k <= MAX_BODY_KIB).ok_or_else(too_large)?;
        // Held until the provider has answered; it is never closed.
        let _held = traffic.bodies.acquire_many(kib).await.ok();
        let body = read_whole(body, kib as usize * 1024).await.ok_or_else(too_large)?;
        request::check(&body, &self.hosted_tools).map_err(|what| {
            Refusal::new(
                StatusCode::BAD_REQUEST,
                "request_refused",
                format!("the gateway refused a model request: {what}"),
            )
        })?;

        let mut url = self.base_url.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(target);
        }
        let mut headers = headers::to_provider(&parts.headers);
        let access = self.credential.access().await.map_err(no_login)?;
        access.add_to(&mut headers);
        traffic.passed(body.len());
        let request = self.client.request(parts.method, url).headers(headers).body(body);
        let again = request.try_clone();
        let mut answer = request.send().await.map_err(|error| self.unreachable(&error))?;
        if answer.status() == StatusCode::UNAUTHORIZED
            && let Some(again) = again
            && let Some(access) = self.credential.after_refusal(access).await.map_err(no_login)?
        {
            let mut renewed = HeaderMap::new();
            access.add_to(&mut renewed);
            // Replaces the headers of the same names.
            let again = again.headers(renewed).send().await;
            answer = again.map_err(|error| self.unreachable(&error))?;
        }
        Ok(self.pass_back(answer, traffic).await)
    }

    async fn pass_back(
        &self,
        mut answer: reqwest::Response,
        traffic: &Arc<Traffic>,
    ) -> Response<Body> {
        let status = answer.status();
        let headers = headers::to_codex(answer.headers());
        let body = if status.is_client_error() || status.is_server_error() {
            let mut text = Vec::new();
            while let Ok(Some(chunk)) = answer.chunk().await {
                text.extend_from_slice(&chunk);
                if text.len() >= MAX_ERROR {
                    text.truncate(MAX_ERROR);
                    break;
                }
            }
            let text = self.credential.redact(&String::from_utf8_lossy(&text));
            traffic.came_back(text.len());
            whole(text.into())
        } else {
            let stream =
                Counted { stream: Box::pin(answer.bytes_stream()), traffic: traffic.clone() };
            BodyExt::boxed_unsync(StreamBody::new(stream))
        };
        let mut response = Response::new(body);
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        response
    }

    fn unreachable(&self, error: &reqwest::Error) -> Refusal {
        let mut cause: &dyn std::error::Error = error;
        while let Some(deeper) = cause.source() {
            cause = deeper;
        }
        let host = self.base_url.host_str().unwrap_or_default();
        let cause = self.credential.redact(&cause.to_string());
        let (code, sentence) = if error.is_timeout() {
            let seconds = CONNECT_TIMEOUT.as_secs();
            let what = format!("no connection within {seconds} s");
            (
                "provider_unreachable",
                format!("the model provider at {host} cannot be reached: {what}"),
            )
        } else if error.is_connect() {
            (
                "provider_unreachable",
                format!("the model provider at {host} cannot be reached: {cause}"),
            )
        } else {
            ("provider_broke_off", format!("the model provider at {host} broke off: {cause}"))
        };
        Refusal::new(StatusCode::BAD_GATEWAY, code, sentence)
    }
}

/// The login on the host cannot be used. As 400, since Codex does not try again then.
fn no_login(error: LoginError) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, NO_LOGIN, error.to_string())
}

/// The path under the provider's base URL that `request` goes to.
fn route(request: &Request<Incoming>) -> Result<&'static [&'static str], Refusal> {
    let path = request.uri().path();
    let upgrade = request.headers().get(header::UPGRADE);
    match (request.method(), path) {
        (&Method::POST, "/v1/responses") if request.uri().query().is_none() => Ok(&["responses"]),
        (&Method::GET, "/v1/responses")
            if upgrade.is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket")) =>
        {
            Err(Refusal::new(
                StatusCode::UPGRADE_REQUIRED,
                "websocket",
                "WebSockets are not offered here; use HTTP",
            ))
        }
        (method, path) => Err(Refusal::new(
            StatusCode::FORBIDDEN,
            "path_refused",
            format!(
                "{} {} is refused; only POST /v1/responses goes to the model provider",
                method.as_str().chars().take(20).collect::<String>(),
                path.chars().take(200).collect::<String>()
            ),
        )),
    }
}

/// The whole body; `None` if it is longer than `limit` or breaks off.
async fn read_whole(mut body: Incoming, limit: usize) -> Option<Bytes> {
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.ok()?.into_data() else { continue };
        if whole.len() + data.len() > limit {
            return None;
        }
        whole.extend_from_slice(&data);
    }
    Some(whole.freeze())
}

fn checked_base(text: &str) -> Result<reqwest::Url, GatewayError> {
    let url = reqwest::Url::parse(text.trim()).map_err(|_| GatewayError::Refused("is no URL"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return Err(GatewayError::Refused("must begin with https:// or http:// and name a host"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(GatewayError::Refused("must hold no credential"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(GatewayError::Refused("must have no query and no fragment"));
    }
    Ok(url)
}

fn is_loopback(url: &reqwest::Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn whole(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

/// The provider's answer broke off; the connection to Codex is cut so that it notices.
#[derive(Debug, thiserror::Error)]
#[error("the model provider's answer broke off")]
struct Cut(#[source] reqwest::Error);

/// A provider's answer on its way back, counted.
struct Counted {
    stream: Pin<Box<dyn Stream<Item = reqwest::Result<Bytes>> + Send>>,
    traffic: Arc<Traffic>,
}

impl Stream for Counted {
    type Item = Result<Frame<Bytes>, Cut>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.stream.as_mut().poll_next(cx).map(|next| {
            let frame = next.map(|chunk| chunk.map(Frame::data).map_err(Cut));
            let bytes = match &frame {
                Some(Ok(frame)) => frame.data_ref().map_or(0, Bytes::len),
                _ => 0,
            };
            self.traffic.came_back(bytes);
            frame
        })
    }
}
