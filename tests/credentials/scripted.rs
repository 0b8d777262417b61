//! A token server that is as strict as the real one, a provider that takes only its last token, and
//! a gateway between a client and both.

use std::convert::Infallible;
use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use mcp_codex_orchestrator::config::{Auth, ModelConfig};
use mcp_codex_orchestrator::model::{Credential, Gateway, Traffic};
use parking_lot::Mutex;
use rustix::fs::FlockOperation;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

pub(crate) fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// An access token of this generation; `None`: one that does not say when it ends.
pub(crate) fn token(generation: u32, expires: Option<i64>) -> String {
    let mut claims = json!({"n": generation, "email": "me@example.org"});
    if let Some(expires) = expires {
        claims["exp"] = expires.into();
    }
    let payload = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(claims.to_string());
    format!("eyJhbGciOiJSUzI1NiJ9.{payload}.c2ln")
}

pub(crate) fn refresh_token(generation: u32) -> String {
    format!("refresh-secret-{generation}")
}

type Hook = Box<dyn Fn() + Send + Sync>;

/// What the token server and the provider know.
pub(crate) struct State {
    /// The generation of tokens that is good.
    pub(crate) generation: Mutex<u32>,
    /// Seconds from now to the end of new tokens.
    pub(crate) life: Mutex<i64>,
    /// Bodies of questions to the token server.
    pub(crate) asked: Mutex<Vec<Value>>,
    /// Authorization and account of requests to the provider, and the status they got.
    pub(crate) requests: Mutex<Vec<(String, String, u16)>>,
    /// Called when the token server is asked, before it answers.
    pub(crate) on_ask: Mutex<Option<Hook>>,
    /// The provider refuses everything.
    pub(crate) refuse_all: Mutex<bool>,
    /// What the token server answers instead, if anything.
    pub(crate) answer: Mutex<Option<(u16, String)>>,
    /// Passes once for each answer of the token server, if it is closed to begin with.
    pub(crate) gate: Arc<tokio::sync::Semaphore>,
    /// Codex and the gateway ask at the same moment.
    pub(crate) race: Mutex<Option<Arc<Race>>>,
}

/// Two who ask with the same refresh token, of whom one is answered first.
pub(crate) struct Race {
    codex_first: bool,
    begun: AtomicUsize,
    both: tokio::sync::Barrier,
    first_answered: tokio::sync::Semaphore,
}

impl Race {
    pub(crate) fn new(codex_first: bool) -> Arc<Self> {
        Arc::new(Self {
            codex_first,
            begun: AtomicUsize::new(0),
            both: tokio::sync::Barrier::new(2),
            first_answered: tokio::sync::Semaphore::new(0),
        })
    }

    /// How many have asked.
    pub(crate) fn asked(&self) -> usize {
        self.begun.load(Ordering::SeqCst)
    }
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

pub(crate) struct Servers {
    pub(crate) state: Arc<State>,
    pub(crate) address: SocketAddr,
    _task: AbortOnDropHandle<()>,
}

impl Servers {
    pub(crate) async fn start() -> Self {
        let state = Arc::new(State {
            generation: Mutex::new(1),
            life: Mutex::new(864_000),
            asked: Mutex::default(),
            requests: Mutex::default(),
            on_ask: Mutex::default(),
            refuse_all: Mutex::default(),
            answer: Mutex::default(),
            gate: Arc::new(tokio::sync::Semaphore::new(1000)),
            race: Mutex::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
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

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}/oauth/token", self.address)
    }

    pub(crate) fn asked(&self) -> usize {
        self.state.asked.lock().len()
    }

    /// A login of generation 1 in `home` that ends in `life` seconds.
    pub(crate) fn login(&self, home: &Path, expires: Option<i64>) {
        write_login(home, 1, expires);
    }
}

impl State {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path().to_owned();
        let from_codex = request.uri().query() == Some("codex");
        let header = |name: &str| {
            let value = request.headers().get(name);
            value.map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
        };
        let (authorization, account) = (header("authorization"), header("chatgpt-account-id"));
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let (status, text) = if path == "/oauth/token" {
            self.rotate(serde_json::from_slice(&body).unwrap(), from_codex).await
        } else if path != "/backend-api/codex/responses" {
            (404, "{}".to_owned())
        } else {
            let good = {
                let generation = *self.generation.lock();
                let payload = authorization.split('.').nth(1).unwrap_or_default();
                let engine = base64::engine::general_purpose::URL_SAFE_NO_PAD;
                let claims: Value =
                    serde_json::from_slice(&engine.decode(payload).unwrap()).unwrap_or_default();
                claims["n"] == generation && !*self.refuse_all.lock()
            };
            let status = if good { 200 } else { 401 };
            self.requests.lock().push((authorization, account, status));
            (status, EVENTS.to_owned())
        };
        let mut response = Response::new(Full::from(text));
        let events = hyper::header::HeaderValue::from_static("text/event-stream");
        response.headers_mut().insert(hyper::header::CONTENT_TYPE, events);
        *response.status_mut() = status.try_into().unwrap();
        response
    }

    async fn rotate(&self, body: Value, from_codex: bool) -> (u16, String) {
        self.asked.lock().push(body.clone());
        let race = self.race.lock().clone();
        if let Some(race) = race
            && race.begun.fetch_add(1, Ordering::SeqCst) < 2
        {
            // Both have asked before either is answered.
            race.both.wait().await;
            if from_codex == race.codex_first {
                let answer = self.exchange(&body);
                race.first_answered.add_permits(1);
                return answer;
            }
            race.first_answered.acquire().await.unwrap().forget();
        }
        if let Some(hook) = &*self.on_ask.lock() {
            hook();
        }
        self.gate.acquire().await.unwrap().forget();
        if let Some(answer) = self.answer.lock().clone() {
            return answer;
        }
        self.exchange(&body)
    }

    fn exchange(&self, body: &Value) -> (u16, String) {
        let mut generation = self.generation.lock();
        if body["refresh_token"] != refresh_token(*generation) {
            let error =
                json!({"error": {"code": "refresh_token_reused", "message": "secret-text"}});
            return (401, error.to_string());
        }
        *generation += 1;
        let access = token(*generation, Some(now() + *self.life.lock()));
        let new = json!({"access_token": access, "refresh_token": refresh_token(*generation)});
        (200, new.to_string())
    }
}

/// Writes a login as Codex does, by temp file and rename.
pub(crate) fn write_login(home: &Path, generation: u32, expires: Option<i64>) {
    let text = json!({
        "auth_mode": "chatgpt",
        "OPENAI_API_KEY": null,
        "tokens": {
            "id_token": token(generation, expires),
            "access_token": token(generation, expires),
            "refresh_token": refresh_token(generation),
            "account_id": "acc-1",
            "of_a_later_codex": [1],
        },
        "last_refresh": "2026-01-01T00:00:00Z",
        "unknown": {"kept": true},
    });
    std::fs::write(home.join("new"), text.to_string()).unwrap();
    std::fs::set_permissions(home.join("new"), PermissionsExt::from_mode(0o600)).unwrap();
    std::fs::rename(home.join("new"), home.join("auth.json")).unwrap();
}

/// Codex's locks, waited for on the calling thread.
pub(crate) fn locks(home: &Path) -> [File; 2] {
    ["auth.lock", "auth.json.lock"].map(|name| {
        let file = File::options().create(true).append(true).open(home.join(name)).unwrap();
        rustix::fs::flock(&file, FlockOperation::LockExclusive).unwrap();
        file
    })
}

/// A gateway that listens on loopback.
pub(crate) struct Served {
    pub(crate) gateway: Gateway,
    address: SocketAddr,
    client: reqwest::Client,
    _task: AbortOnDropHandle<()>,
}

impl Served {
    pub(crate) async fn new(servers: &Servers, home: &Path) -> Self {
        let credential = Credential::chatgpt(home, &servers.endpoint()).unwrap();
        let defaults: mcp_codex_orchestrator::config::Config =
            toml::from_str(mcp_codex_orchestrator::config::DEFAULT_TOML).unwrap();
        let config = ModelConfig {
            base_url: format!("http://{}/backend-api/codex", servers.address),
            auth: Auth::ChatGpt,
            ..defaults.model
        };
        let limits = mcp_codex_orchestrator::model::Limits::new(&config, 0);
        let gateway = Gateway::new(&config, credential, |_| None).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = gateway.clone();
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let gateway = serving.clone();
                connections.spawn(async move {
                    gateway.serve(stream, Arc::new(Traffic::new(limits))).await;
                });
            }
        });
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { gateway, address, client, _task: AbortOnDropHandle::new(task) }
    }

    pub(crate) fn request(&self) -> reqwest::RequestBuilder {
        let body = json!({"model": "m", "stream": true, "store": false, "input": [
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]}]});
        let request = self.client.post(format!("http://{}/v1/responses", self.address));
        // What the container says of itself does not go along.
        let request = request.header("authorization", "Bearer from-inside");
        request.header("chatgpt-account-id", "from-inside").body(body.to_string())
    }

    /// Status and text of one request.
    pub(crate) async fn ask(&self) -> (u16, String) {
        let answer = self.request().send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    /// Statuses of `n` requests at once.
    pub(crate) async fn ask_at_once(&self, n: usize) -> Vec<u16> {
        let all = futures::future::join_all((0..n).map(|_| self.ask())).await;
        all.into_iter().map(|(status, _)| status).collect()
    }
}
