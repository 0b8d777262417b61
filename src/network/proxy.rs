//! The proxy: takes `CONNECT` requests that come out of a container and opens tunnels to hosts that
//! are allowed.
//!
//! A request is refused with a sentence as its body: 400 for what is no `CONNECT` to a name and a
//! port, 403 for what is not allowed, 502 for a host that is not there, 503 over [`MAX_TUNNELS`].
//! One request a connection; what a program sends behind it without waiting goes into the tunnel.

mod tunnel;

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::http::uri::Authority;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::address::is_public;
use super::decisions::{Asked, Decision, Decisions, Reason};
use super::name::{HostName, NameError};
use super::resolve::{HostResolver, Resolve, is_of_this_machine};
use super::rules::{self, RuleError, Rules};

/// How long a name may take to be resolved, and then a connection to its host to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the head of a request may take to come out of a container.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of the head of a request at most.
const MAX_HEAD: usize = 16 * 1024;

/// How long a tunnel may carry nothing either way.
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);

/// Connections of one run at once. The keeper lets fewer through.
const MAX_TUNNELS: usize = 64;

/// Addresses of one name that are tried at most.
const MAX_TRIED: usize = 4;

/// Opens tunnels to the hosts of `network.allow_hosts`. Clones share what is decided and counted,
/// so there is one for each run.
#[derive(Clone, Debug)]
pub struct Proxy {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    rules: Rules,
    resolver: Arc<dyn Resolve>,
    limits: Limits,
    decisions: Decisions,
    tunnels: Arc<Semaphore>,
}

/// How long things may take.
#[derive(Clone, Copy, Debug)]
struct Limits {
    head: Duration,
    connect: Duration,
    idle: Duration,
}

/// A connection that was made for a request, until the container's side is free to be copied.
type Opened = Arc<Mutex<Option<(OnUpgrade, TcpStream)>>>;

/// Why there is no tunnel.
struct Refused {
    status: StatusCode,
    asked: Asked,
    port: Option<u16>,
    decision: Decision,
    reason: Reason,
    sentence: String,
}

impl Proxy {
    /// A proxy for one run that allows what `entries` of `network.allow_hosts` do.
    ///
    /// # Errors
    ///
    /// An entry that cannot be used; settings that were loaded have none.
    pub fn new(entries: &[String]) -> Result<Self, RuleError> {
        Ok(Self::with(Rules::parse(entries)?, Arc::new(HostResolver)))
    }

    /// The same with another way to resolve names.
    pub fn with(rules: Rules, resolver: Arc<dyn Resolve>) -> Self {
        let limits = Limits { head: HEAD_TIMEOUT, connect: CONNECT_TIMEOUT, idle: IDLE_TIMEOUT };
        Self::limited(rules, resolver, limits)
    }

    fn limited(rules: Rules, resolver: Arc<dyn Resolve>, limits: Limits) -> Self {
        let tunnels = Arc::new(Semaphore::new(MAX_TUNNELS));
        let decisions = Decisions::new();
        Self { inner: Arc::new(Inner { rules, resolver, limits, decisions, tunnels }) }
    }

    /// What was decided so far.
    pub fn decisions(&self) -> &Decisions {
        &self.inner.decisions
    }

    /// Serves one connection until both of its ends have closed it, or it carried nothing for five
    /// minutes. Errors of the connection end it and are no one's concern: the program sees its end.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes both ends.
    pub async fn serve(&self, connection: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let Ok(permit) = Arc::clone(&self.inner.tunnels).try_acquire_owned() else {
            self.inner.decisions.add(Asked::Other, None, Decision::Denied, Reason::TooMany);
            return;
        };
        self.inner.serve(connection, permit).await;
    }
}

impl Inner {
    async fn serve(
        self: &Arc<Self>,
        connection: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        _permit: OwnedSemaphorePermit,
    ) {
        let opened = Opened::default();
        let service = hyper::service::service_fn(|mut request: Request<Incoming>| {
            let (inner, opened) = (Arc::clone(self), Arc::clone(&opened));
            async move {
                Ok::<_, Infallible>(match inner.open(&request).await {
                    Ok(host) => {
                        *opened.lock() = Some((hyper::upgrade::on(&mut request), host));
                        Response::new(Full::default())
                    }
                    Err(refused) => inner.refuse(refused),
                })
            }
        });
        let served = hyper::server::conn::http1::Builder::new()
            .half_close(true)
            .max_buf_size(MAX_HEAD)
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.head)
            .serve_connection(TokioIo::new(connection), service)
            .with_upgrades()
            .await;
        if let Err(error) = served {
            tracing::debug!(%error, "a connection to the proxy ended early");
            return;
        }
        let Some((container, host)) = opened.lock().take() else { return };
        let Ok(container) = container.await else { return };
        tunnel::carry(TokioIo::new(container), host, self.limits.idle).await;
    }

    fn refuse(&self, refused: Refused) -> Response<Full<Bytes>> {
        let Refused { status, asked, port, decision, reason, sentence } = refused;
        tracing::debug!(?asked, ?port, ?decision, ?reason, "the proxy refused a connection");
        self.decisions.add(asked, port, decision, reason);
        let mut response = Response::new(Full::from(sentence + "\n"));
        *response.status_mut() = status;
        let text = HeaderValue::from_static("text/plain; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, text);
        // Only here: in front of a tunnel some programs would take it at its word.
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
        response
    }

    /// The connection that `request` asks for, if it is allowed.
    async fn open(&self, request: &Request<Incoming>) -> Result<TcpStream, Refused> {
        let (name, port) = target(request)?;
        let refused = |decision, reason, sentence: String| {
            let status = match decision {
                Decision::Failed => StatusCode::BAD_GATEWAY,
                _ => StatusCode::FORBIDDEN,
            };
            let asked = Asked::Name(name.clone());
            Refused { status, asked, port: Some(port), decision, reason, sentence }
        };
        if !self.rules.allow(&name, port) {
            let entry = rules::entry(name.as_str(), port);
            let sentence = format!(
                "{entry} is not allowed; \"{entry}\" in network.allow_hosts of \
                 mcp-codex-orchestrator would allow it"
            );
            return Err(refused(Decision::Denied, Reason::NotListed, sentence));
        }
        let limit = self.limits.connect;
        let found = tokio::time::timeout(limit, self.resolver.resolve(&name)).await;
        let addresses = match found {
            Ok(Ok(addresses)) if !addresses.is_empty() => addresses,
            _ => {
                let sentence = format!("{name} has no address");
                return Err(refused(Decision::Failed, Reason::Unresolved, sentence));
            }
        };
        // One that may not be had spoils the name: whoever answers for it chose to mix them.
        if !addresses.iter().copied().all(is_public) {
            let sentence = format!("{name} has an address that is not of the public internet");
            return Err(refused(Decision::Denied, Reason::NotPublic, sentence));
        }
        if addresses.iter().copied().any(is_of_this_machine) {
            let sentence = format!("{name} has an address of this machine");
            return Err(refused(Decision::Denied, Reason::ThisMachine, sentence));
        }
        match tokio::time::timeout(limit, connect(&addresses, port)).await {
            Ok(Some(host)) => {
                tracing::debug!(%name, port, "the proxy opened a tunnel");
                let asked = Asked::Name(name);
                self.decisions.add(asked, Some(port), Decision::Allowed, Reason::Listed);
                Ok(host)
            }
            Ok(None) | Err(_) => {
                let sentence = format!("{name} does not answer on port {port}");
                Err(refused(Decision::Failed, Reason::Unreachable, sentence))
            }
        }
    }
}

/// Connects to the first address that answers: to the very ones that were checked, so that no
/// second answer of DNS counts.
async fn connect(addresses: &[IpAddr], port: u16) -> Option<TcpStream> {
    for address in addresses.iter().take(MAX_TRIED) {
        if let Ok(host) = TcpStream::connect(SocketAddr::new(*address, port)).await {
            // It only matters for speed.
            let _ = host.set_nodelay(true);
            return Some(host);
        }
    }
    None
}

/// The name and port that a request asks for.
fn target(request: &Request<Incoming>) -> Result<(HostName, u16), Refused> {
    let uri = request.uri();
    if request.method() != Method::CONNECT {
        return Err(plain(uri));
    }
    let refused = |status, asked, port, reason, sentence: String| Refused {
        status,
        asked,
        port,
        decision: Decision::Denied,
        reason,
        sentence,
    };
    let bare = uri.scheme().is_none() && uri.path_and_query().is_none();
    let good = |authority: &&Authority| bare && !authority.as_str().contains('@');
    let authority = uri.authority().filter(good);
    let Some((authority, port)) = authority.and_then(|a| Some((a, a.port_u16()?))) else {
        let sentence = "CONNECT needs a host name and a port".to_owned();
        return Err(refused(StatusCode::BAD_REQUEST, Asked::Other, None, Reason::NoName, sentence));
    };
    HostName::parse(authority.host()).map(|name| (name, port)).map_err(|error| match error {
        NameError::Address => refused(
            StatusCode::FORBIDDEN,
            asked(authority),
            Some(port),
            Reason::Address,
            "the proxy connects to names, not to addresses".to_owned(),
        ),
        error => refused(
            StatusCode::BAD_REQUEST,
            Asked::Other,
            Some(port),
            Reason::NoName,
            format!("the host of CONNECT {error}"),
        ),
    })
}

/// A request in the form of plain http.
fn plain(uri: &Uri) -> Refused {
    Refused {
        status: StatusCode::FORBIDDEN,
        asked: uri.authority().map_or(Asked::Other, asked),
        port: uri.authority().map(|authority| authority.port_u16().unwrap_or(80)),
        decision: Decision::Denied,
        reason: Reason::PlainHttp,
        sentence: "only https passes this proxy; plain http is refused".to_owned(),
    }
}

fn asked(authority: &Authority) -> Asked {
    let host = authority.host();
    match HostName::parse(host) {
        Ok(name) => Asked::Name(name),
        Err(_) => {
            let address = host.trim_start_matches('[').trim_end_matches(']').parse();
            address.map_or(Asked::Other, Asked::Address)
        }
    }
}

#[cfg(test)]
mod attack_tests;
#[cfg(test)]
mod tests;
