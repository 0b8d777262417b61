//! A login server that containers reach over the engine's bridge, as Codex's device login asks it.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response};
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

impl State {
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
            "/oauth/token" if body.starts_with(b"{") => self.refresh(&body),
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
