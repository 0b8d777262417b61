//! The server: connections, what was asked and when, and the counts of faults.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

use super::reply::{Piece, Plan, Turn, plan};
use super::script::{Scenario, Script};

/// The largest body of a request.
const MAX_BODY: usize = 128 * 1024 * 1024;
/// Requests remembered; the oldest go.
const MAX_RECORDED: usize = 20_000;
/// Faults with a count that are remembered.
const MAX_FAULTS: usize = 10_000;

type Body = UnsyncBoxBody<Bytes, io::Error>;

/// A scripted model that runs until it is dropped.
#[derive(Debug)]
pub struct ScriptedModel {
    address: SocketAddr,
    shared: Arc<Shared>,
    _task: AbortOnDropHandle<()>,
}

/// One request as it came.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// Counts requests from 0.
    pub id: u64,
    /// HTTP method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Headers; values that are no text are left out.
    pub headers: Vec<(String, String)>,
    /// Codex's session.
    pub session: String,
    /// The last message of the user.
    pub prompt: String,
    /// Bytes of the body.
    pub bytes: usize,
    /// The body, if [`Script::keep_bodies`].
    pub body: Option<Value>,
    /// When it had arrived whole.
    pub at: Instant,
    /// When the answer had been handed over whole; `None` while it has not.
    pub answered: Option<Instant>,
    /// Status of the answer; 0 while there is none.
    pub status: u16,
}

#[derive(Debug)]
struct Shared {
    script: Script,
    done: Scenario,
    next: AtomicU64,
    recorded: Mutex<Vec<Recorded>>,
    faults: Mutex<HashMap<(String, usize), u32>>,
}

impl ScriptedModel {
    /// Starts one on a free port of the loopback interface.
    ///
    /// # Errors
    ///
    /// No port can be had.
    pub async fn start(script: Script) -> io::Result<Self> {
        Self::start_at((Ipv4Addr::LOCALHOST, 0).into(), script).await
    }

    /// Starts one at `address`.
    ///
    /// # Errors
    ///
    /// The address is in use or not ours.
    pub async fn start_at(address: SocketAddr, script: Script) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            script,
            done: Scenario::default(),
            next: AtomicU64::new(0),
            recorded: Mutex::default(),
            faults: Mutex::default(),
        });
        let task = AbortOnDropHandle::new(tokio::spawn(accept(listener, shared.clone())));
        Ok(Self { address, shared, _task: task })
    }

    /// What `model.base_url` must be to use it.
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The requests so far.
    pub fn requests(&self) -> Vec<Recorded> {
        self.shared.recorded.lock().clone()
    }

    /// The requests so far, which are then forgotten; for benchmarks, between two runs.
    pub fn take_requests(&self) -> Vec<Recorded> {
        std::mem::take(&mut *self.shared.recorded.lock())
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => drop(connections.spawn(serve(stream, shared.clone()))),
                // Too many open files, most likely: it passes when a connection ends.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    // Without it small answers wait for an acknowledgement; a failure costs only that.
    let _ = stream.set_nodelay(true);
    let service = hyper::service::service_fn(|request| {
        let shared = shared.clone();
        async move { Ok::<_, Infallible>(shared.answer(request).await) }
    });
    // A client that goes away is no concern of a model.
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

impl Shared {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let body = Limited::new(body, MAX_BODY).collect().await.map(|b| b.to_bytes());
        let body = body.unwrap_or_default();
        let json: Value = serde_json::from_slice(&body).unwrap_or_default();
        let turn = Turn::read(&json);
        let text = |v: &HeaderValue| v.to_str().ok().map(str::to_owned);
        let id = self.record(Recorded {
            id: self.next.fetch_add(1, Ordering::Relaxed),
            method: parts.method.to_string(),
            path: parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
            headers: parts
                .headers
                .iter()
                .filter_map(|(name, value)| Some((name.to_string(), text(value)?)))
                .collect(),
            session: turn.session.clone(),
            prompt: turn.prompt.clone(),
            bytes: body.len(),
            body: self.script.keep_bodies.then_some(json),
            at: Instant::now(),
            answered: None,
            status: 0,
        });
        if parts.method != Method::POST || !parts.uri.path().ends_with("/responses") {
            return self.whole(id, 404, "{\"error\":{\"message\":\"not found\"}}".into());
        }
        if self.script.think_ms > 0 {
            tokio::time::sleep(Duration::from_millis(self.script.think_ms)).await;
        }
        let scenario = self.script.scenario(&turn.prompt).map_or(&self.done, |(_, found)| found);
        match plan(scenario, &turn, |step, times| self.is_over(&turn.session, step, times)) {
            Plan::Stall => std::future::pending().await,
            Plan::Error { status, retry_after, body } => {
                let mut response = self.whole(id, status, body);
                if let Some(seconds) = retry_after {
                    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
                }
                response
            }
            Plan::Stream(pieces) => self.clone().stream(id, pieces),
        }
    }

    fn whole(&self, id: u64, status: u16, body: String) -> Response<Body> {
        self.answered(id, status, true);
        let mut response =
            Response::new(Full::new(body.into()).map_err(|never| match never {}).boxed_unsync());
        *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert(CONTENT_TYPE, json);
        response
    }

    fn stream(
        self: Arc<Self>,
        id: u64,
        pieces: std::collections::VecDeque<Piece>,
    ) -> Response<Body> {
        self.answered(id, 200, false);
        let body =
            futures::stream::unfold((self, pieces), move |(shared, mut pieces)| async move {
                loop {
                    let frame = match pieces.pop_front() {
                        Some(Piece::Bytes(bytes)) => Ok(Frame::data(bytes)),
                        Some(Piece::Pause(pause)) => {
                            tokio::time::sleep(pause).await;
                            continue;
                        }
                        Some(Piece::Cut) => Err(io::Error::other("cut by script")),
                        Some(Piece::Hang) => std::future::pending().await,
                        None => return None,
                    };
                    if pieces.is_empty() {
                        shared.answered(id, 200, true);
                    }
                    return Some((frame, (shared, pieces)));
                }
            });
        let mut response = Response::new(BodyExt::boxed_unsync(StreamBody::new(body)));
        let events = HeaderValue::from_static("text/event-stream");
        response.headers_mut().insert(CONTENT_TYPE, events);
        response
    }

    fn record(&self, request: Recorded) -> u64 {
        let id = request.id;
        let mut recorded = self.recorded.lock();
        if recorded.len() >= MAX_RECORDED {
            recorded.drain(..MAX_RECORDED / 2);
        }
        recorded.push(request);
        id
    }

    fn answered(&self, id: u64, status: u16, whole: bool) {
        let mut recorded = self.recorded.lock();
        if let Some(request) = recorded.iter_mut().rev().find(|request| request.id == id) {
            request.status = status;
            request.answered = whole.then(Instant::now);
        }
    }

    /// Counts one more request of `session` at the fault of `step`, and tells whether it is over.
    fn is_over(&self, session: &str, step: usize, times: u32) -> bool {
        let mut faults = self.faults.lock();
        if faults.len() >= MAX_FAULTS {
            faults.clear();
        }
        let count = faults.entry((session.to_owned(), step)).or_default();
        *count = count.saturating_add(1);
        *count > times
    }
}
