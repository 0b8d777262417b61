//! The host side of the model path: takes the requests that come out of a container, checks them,
//! adds the credential, and passes the answers back as they come.
//!
//! | method and path | what happens |
//! |---|---|
//! | `POST /v1/responses` | decoded, checked by [`request`], sent to `<model.base_url>/responses` |
//! | `GET /v1/responses` with an upgrade to WebSocket | 426, so that Codex falls back to HTTP at once |
//! | anything else | 403, recorded |
//! | anything without the secret of the run, where one is asked for | 403, recorded |
//!
//! A body that is refused, and a request over a limit of the run, is answered with 400, since Codex
//! does not try again then. The answer of the provider is passed on whatever its status, errors
//! without anything that looks like a credential; a success only if it is a stream of events.
//! Redirects are not followed; there are no cookies.
//!
//! Of a request only headers on a list pass, see [`headers`]; the provider's credential and what
//! `model.headers` and `model.query` say is added here and nowhere else. A ChatGPT login that the
//! provider refuses with 401 is refreshed and the request sent once more, see
//! [`crate::model::credentials`]; if it cannot be, the answer is 400 with a sentence that says what
//! to do. Where the requests of such a login go, the backend is asked first, see [`routing`]. The
//! proxy that the environment names is used, and the root certificates of the host, or those that
//! `SSL_CERT_FILE` and `SSL_CERT_DIR` name.
//!
//! ```text
//! request ─ route ─ limits of the run ─ body, decoded ─ check ─ provider ─ stream of events ─▶
//!            403          400             413 415 400    400   502 504 400    cut (silent, broken off)
//! ```

mod answer;
mod encoding;
mod headers;
mod limits;
mod probe;
mod provider;
mod refusal;
pub mod request;
mod routing;
mod traffic;
mod usage;
mod veil;

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, SemaphorePermit};

use self::answer::{Body, Counted};
use self::encoding::{Encoding, Undecoded};
pub use self::limits::Limits;
use self::provider::{Extras, checked_base, is_loopback};
use self::refusal::{Refusal, whole};
use self::routing::{Route, Routing};
pub use self::traffic::{Traffic, TrafficReport};
use self::veil::Veil;
use crate::config::ModelConfig;
use crate::config::model::ChatGpt;
use crate::model::credentials::{Access, Credential, LoginError};

/// How long making a connection to the provider may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of Codex's headers that are read at most.
const MAX_HEADER_BYTES: usize = 64 * 1024;

/// The code of an answer of ours that says that the login on the host cannot be used.
const NO_LOGIN: &str = "login_unusable";

/// How long the headers of one request may take to come out of a container.
const HEADERS_TIMEOUT: Duration = Duration::from_secs(30);

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
    extras: Extras,
    /// Asked as `model.chatgpt` says; unused with another credential.
    routing: Option<Routing>,
}

/// Why there is no gateway.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// An entry of `model.headers` or `model.query` cannot be used. The value is not shown.
    #[error("{key}: {name:?} {problem}")]
    Extra {
        /// Which of the two.
        key: &'static str,
        /// The name of the entry.
        name: String,
        /// The rest of the sentence.
        problem: String,
    },
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
    /// A `base_url` that cannot be used, a variable that `model.headers` or `model.query` names and
    /// `lookup` does not give, or no TLS.
    pub fn new(
        config: &ModelConfig,
        credential: Credential,
        lookup: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, GatewayError> {
        install_crypto();
        let extras = Extras::new(config, lookup)?;
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
        let secret = !credential.is_none() || extras.has_secrets();
        if base_url.scheme() == "http" && !is_loopback(&base_url) && secret {
            tracing::warn!(%base_url, "the credential goes over plain http to another machine");
        }
        let hosted_tools = config.hosted_tools.clone();
        let routing = (config.chatgpt == ChatGpt::Codex).then(Routing::default);
        let inner = Inner { client, base_url, credential, hosted_tools, extras, routing };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The credential that requests get.
    pub fn credential(&self) -> &Credential {
        &self.inner.credential
    }

    /// `text` without the provider's credential and what else goes to it from the environment.
    pub fn redact(&self, text: &str) -> String {
        self.inner.redact(text)
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
            .timer(TokioTimer::new())
            .header_read_timeout(HEADERS_TIMEOUT)
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
        if !traffic.is_ours(request.headers()) {
            return Err(Refusal::new(
                StatusCode::FORBIDDEN,
                "not_of_the_run",
                "a request without the secret of the run was refused; it came from another program",
            ));
        }
        let target = route(&request)?;
        let (parts, body) = request.into_parts();
        let permit = traffic.enter().map_err(Refusal::request)?;
        let (body, _held) = receive(&parts.headers, body, traffic).await?;
        request::check(&body, &self.hosted_tools).map_err(Refusal::request)?;
        if let Some(sentence) = traffic.silenced() {
            return Err(Refusal::new(StatusCode::BAD_REQUEST, "provider_silent", sentence));
        }

        let mut headers = headers::to_provider(&parts.headers);
        let access = self.credential.access().await.map_err(no_login)?;
        access.add_to(&mut headers);
        let route = self.route(&access, &mut headers, traffic).await;
        let mut url = route.base(&self.base_url).clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(target);
        }
        if !self.extras.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&self.extras.query);
        }
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        for (name, value) in &self.extras.headers {
            headers.insert(name.clone(), value.clone());
        }
        let asked = body.len();
        traffic.passed(asked);
        let request = self.client.request(parts.method, url).headers(headers).body(body);
        let again = request.try_clone();
        let mut answer = self.send(request, traffic).await?;
        if answer.status() == StatusCode::UNAUTHORIZED
            && let Some(again) = again
            && let Some(access) = self.credential.after_refusal(access).await.map_err(no_login)?
        {
            let mut renewed = HeaderMap::new();
            access.add_to(&mut renewed);
            for name in self.extras.headers.keys() {
                renewed.remove(name);
            }
            // Replaces the headers of the same names.
            answer = self.send(again.headers(renewed), traffic).await?;
        }
        traffic.answered();
        self.pass_back(answer, traffic, asked, permit).await
    }

    /// Where a request with `access` goes; adds to `headers` what Codex's built-in provider would.
    async fn route(&self, access: &Access, headers: &mut HeaderMap, traffic: &Traffic) -> Route {
        let Some(routing) = &self.routing else { return Route::default() };
        let limit = traffic.limits().response_timeout;
        let route = routing.of(&self.client, &self.base_url, access, limit, headers).await;
        if access.account().is_some() && routing::is_backend(&self.base_url) {
            routing::add_version(headers);
            route.add_to(headers);
        }
        route
    }

    /// Until the provider's answer begins, within `model.response_timeout`.
    async fn send(
        &self,
        request: reqwest::RequestBuilder,
        traffic: &Traffic,
    ) -> Result<reqwest::Response, Refusal> {
        let limit = traffic.limits().response_timeout;
        match tokio::time::timeout(limit, request.send()).await {
            Ok(answer) => answer.map_err(|error| self.unreachable(&error, traffic)),
            Err(_) => Err(self.unanswered(limit, traffic)),
        }
    }

    async fn pass_back(
        &self,
        answer: reqwest::Response,
        traffic: &Arc<Traffic>,
        asked: usize,
        permit: OwnedSemaphorePermit,
    ) -> Result<Response<Body>, Refusal> {
        let status = answer.status();
        headers::check(answer.headers(), status).map_err(|what| {
            let host = self.host();
            let sentence = format!("the model provider at {host} cannot be understood: {what}");
            traffic.trouble(&sentence);
            Refusal::new(StatusCode::BAD_GATEWAY, "provider_not_understood", sentence)
        })?;
        let headers = headers::to_codex(answer.headers());
        let body = if status.is_success() {
            let host = self.host().to_owned();
            let secrets = self.credential.secrets().into_iter().chain(self.extras.secrets());
            let veil = Veil::new(secrets);
            let stream = Counted::new(answer, traffic.clone(), host, asked, Some(permit), veil);
            BodyExt::boxed_unsync(StreamBody::new(stream))
        } else {
            let text = answer::error_text(answer, traffic.limits().idle_timeout).await;
            let text = self.redact(&text);
            traffic.came_back(text.len());
            whole(text.into())
        };
        let mut response = Response::new(body);
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        Ok(response)
    }

    fn host(&self) -> &str {
        self.base_url.host_str().unwrap_or_default()
    }

    fn redact(&self, text: &str) -> String {
        self.extras.redact(self.credential.redact(text))
    }

    fn unanswered(&self, limit: Duration, traffic: &Traffic) -> Refusal {
        let sentence = format!(
            "the model provider at {} did not answer within {} s (model.response_timeout)",
            self.host(),
            limit.as_secs()
        );
        // Codex tries again after the first of these two, and not after the second.
        let status = match traffic.unanswered(&sentence) {
            false => StatusCode::GATEWAY_TIMEOUT,
            true => StatusCode::BAD_REQUEST,
        };
        Refusal::new(status, "provider_silent", sentence)
    }

    fn unreachable(&self, error: &reqwest::Error, traffic: &Traffic) -> Refusal {
        let host = self.host();
        let cause = self.redact(&answer::innermost(error).to_string());
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
        traffic.trouble(&sentence);
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

/// The body, decoded, and what is held for it until the provider has answered.
async fn receive<'a>(
    headers: &HeaderMap,
    body: Incoming,
    traffic: &'a Traffic,
) -> Result<(Bytes, Option<SemaphorePermit<'a>>), Refusal> {
    let encoding = Encoding::of(headers).map_err(|encoding| {
        let sentence = format!(
            "a request body encoded as {encoding:?} is refused; send it as it is, or as zstd or gzip"
        );
        Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "encoding", sentence)
    })?;
    let limit_kib = traffic.limits().request_kib;
    let too_large = || {
        let sentence =
            format!("a request body over {limit_kib} KiB is refused (model.request_limit)");
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", sentence)
    };
    let size = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok());
    let size = size.and_then(|v| v.parse::<u64>().ok());
    let kib = size.map_or(u64::from(limit_kib), |bytes| bytes.div_ceil(1024));
    let mut kib = u32::try_from(kib).ok().filter(|k| *k <= limit_kib).ok_or_else(too_large)?;
    if encoding != Encoding::Identity {
        // Nobody knows what comes out of it.
        kib = limit_kib;
    }
    // It is never closed.
    let mut held = traffic.bodies.acquire_many(kib).await.ok();
    let limit = kib as usize * 1024;
    let mut body = read_whole(body, limit).await.ok_or_else(too_large)?;
    if encoding != Encoding::Identity {
        let decoding = tokio::task::spawn_blocking(move || encoding.decode(&body, limit));
        body = match decoding.await {
            Ok(Ok(decoded)) => decoded.into(),
            Ok(Err(Undecoded::TooLarge)) => return Err(too_large()),
            Ok(Err(Undecoded::Broken)) | Err(_) => {
                return Err(Refusal::request("the body is not encoded as its header says"));
            }
        };
    }
    let needed = body.len().div_ceil(1024);
    if let Some(held) = &mut held {
        drop(held.split(held.num_permits().saturating_sub(needed)));
    }
    Ok((body, held))
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
