//! A login server that containers reach over the engine's bridge, as Codex's device login asks it.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use super::docker;

/// The code that the user enters.
pub(crate) const CODE: &str = "ABCD-EFGHI";

/// What a login server knows.
#[derive(Default)]
pub(crate) struct State {
    /// Whether the user has entered the code.
    pub(crate) approved: Mutex<bool>,
    /// Paths that were asked for.
    pub(crate) asked: Mutex<Vec<String>>,
    /// Questions for new tokens with a refresh token.
    pub(crate) refreshes: Mutex<Vec<Value>>,
    /// Headers of requests for a response.
    pub(crate) responses: Mutex<Vec<HeaderMap>>,
    /// Device codes are not offered.
    pub(crate) disabled: Mutex<bool>,
}

pub(crate) struct Issuer {
    pub(crate) state: Arc<State>,
    pub(crate) address: SocketAddr,
    _task: AbortOnDropHandle<()>,
}

impl Issuer {
    /// Listens at the address of this machine on the engine's bridge.
    pub(crate) async fn start() -> Self {
        Self::start_at(docker::bridge_gateway()).await
    }

    /// Listens at this address of this machine.
    pub(crate) async fn start_at(address: IpAddr) -> Self {
        let state = Arc::new(State::default());
        let listener = TcpListener::bind((address, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let state = Arc::clone(&shared);
                tokio::spawn(async move {
                    let service = hyper::service::service_fn(move |request| {
                        let state = Arc::clone(&state);
                        async move { Ok::<_, Infallible>(state.answer(request).await) }
                    });
                    let http = hyper::server::conn::http1::Builder::new();
                    let _ = http.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { state, address, _task: AbortOnDropHandle::new(task) }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

/// A token that says whose it is and that it is good for ten days.
pub(crate) fn token(secret: &str) -> String {
    token_for(secret, 864_000)
}

/// A token that is good for so many seconds from now.
pub(crate) fn token_for(secret: &str, seconds: i64) -> String {
    use base64::Engine as _;
    let claims = json!({
        "exp": jiff::Timestamp::now().as_second() + seconds,
        "email": "me@example.org",
        "n": secret,
        "https://api.openai.com/auth": {"chatgpt_account_id": "acc-1", "chatgpt_plan_type": "pro"},
    });
    let engine = base64::engine::general_purpose::URL_SAFE_NO_PAD;
    format!("eyJhbGciOiJSUzI1NiJ9.{}.c2ln", engine.encode(claims.to_string()))
}

/// A whole answer of the model.
const EVENTS: &str = concat!(
    "data: {\"type\":\"response.created\",\"response\":{\"id\":\"r\"}}\n\n",
    "data: {\"type\":\"response.output_item.done\",\"output_index\":0,\"item\":{\"type\":\"message\",",
    "\"id\":\"m\",\"role\":\"assistant\",\"content\":[{\"type\":\"output_text\",\"text\":\"Hi.\"}]}}\n\n",
    "data: {\"type\":\"response.completed\",\"response\":{\"id\":\"r\",\"output\":[],\"usage\":",
    "{\"input_tokens\":1,\"input_tokens_details\":null,\"output_tokens\":1,",
    "\"output_tokens_details\":null,\"total_tokens\":2}}}\n\n",
);

/// Whether this token was made for `secret`.
fn token_says(token: &str, secret: &str) -> bool {
    use base64::Engine as _;
    let engine = base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let claims = engine.decode(token.split('.').nth(1).unwrap_or_default()).unwrap_or_default();
    serde_json::from_slice::<Value>(&claims).is_ok_and(|claims| claims["n"] == secret)
}

impl State {
    /// The ChatGPT backend: takes only the token that was given last and the account, and from
    /// requests for a response the label of the account.
    fn backend(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let headers = request.headers();
        let of = |name: &str| headers.get(name).map(|value| value.to_str().unwrap());
        let bearer = of("authorization").and_then(|text| text.strip_prefix("Bearer "));
        let known = bearer.is_some_and(|token| token_says(token, "good"))
            && of("chatgpt-account-id") == Some("acc-1");
        let (status, answer) = match (request.method().as_str(), request.uri().path()) {
            _ if !known => (401, json!({"detail": "Unauthorized"}).to_string()),
            ("GET", "/backend-api/wham/accounts/check") => {
                let origin = format!("http://{}", of("host").unwrap());
                let entry = json!({"id": "acc-1", "name": "secret-name-of-the-account",
                    "workspace_backend_origin": origin, "account_routing_override": "eu"});
                (200, json!({"accounts": [entry], "default_account_id": "acc-1"}).to_string())
            }
            ("POST", "/backend-api/codex/responses")
                if of("x-openai-account-routing-override") == Some("eu") =>
            {
                self.responses.lock().push(headers.clone());
                (200, EVENTS.to_owned())
            }
            _ => (403, json!({"detail": "Forbidden"}).to_string()),
        };
        let mut response = Response::new(Full::from(answer));
        *response.status_mut() = status.try_into().unwrap();
        let kind = if status == 200 { "text/event-stream" } else { "application/json" };
        response.headers_mut().insert("content-type", kind.parse().unwrap());
        response
    }

    /// New tokens for the first who asks; the refresh token is used up then.
    fn refresh(&self, body: &[u8]) -> (u16, Value) {
        let mut refreshes = self.refreshes.lock();
        refreshes.push(serde_json::from_slice(body).unwrap());
        match refreshes.len() {
            1 => (200, json!({"access_token": token("new"), "refresh_token": "refresh-secret-2"})),
            _ => (401, json!({"error": {"code": "refresh_token_reused"}})),
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path().to_owned();
        if path.starts_with("/backend-api/") {
            return self.backend(&request);
        }
        let body = request.into_body().collect().await.unwrap().to_bytes();
        self.asked.lock().push(path.clone());
        let (status, answer): (u16, Value) = match path.as_str() {
            "/api/accounts/deviceauth/usercode" if !*self.disabled.lock() => {
                (200, json!({"device_auth_id": "d-1", "user_code": CODE, "interval": "1"}))
            }
            "/api/accounts/deviceauth/token" if *self.approved.lock() => (
                200,
                json!({"authorization_code": "ac", "code_challenge": "cc", "code_verifier": "cv"}),
            ),
            "/api/accounts/deviceauth/token" => (403, json!({})),
            "/oauth/token" if body.starts_with(b"{") => {
                let answer = self.refresh(&body);
                // So slow that every run that can begin meanwhile has come to wait for it; there is
                // nothing outside of the server that tells how many do.
                tokio::time::sleep(std::time::Duration::from_secs(2)).await;
                answer
            }
            "/oauth/token" => {
                assert!(String::from_utf8_lossy(&body).contains("code=ac"));
                let tokens = json!({"id_token": token("id"), "access_token": token("access"),
                                    "refresh_token": "refresh-secret-of-login"});
                (200, tokens)
            }
            _ => (404, json!({})),
        };
        let mut response = Response::new(Full::from(answer.to_string()));
        *response.status_mut() = status.try_into().unwrap();
        response
    }
}
