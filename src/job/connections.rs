//! What becomes of the connections that programs in a container make, while a run is under way.

use std::convert::Infallible;
use std::sync::Arc;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;

use crate::config::NetworkConfig;
use crate::failure::{ErrorKind, Failure};
use crate::keeper::client::Incoming;
use crate::keeper::wire::{GATEWAY_PORT, PROXY_PORT};
use crate::model::gateway::{Gateway, Traffic};
use crate::network;
use crate::network::proxy::Proxy;
use crate::record::{Record, write_json};

use super::blocking;
use super::result::RunResult;

/// What a run's connections go to.
pub(super) struct Ways<'a> {
    pub(super) gateway: &'a Gateway,
    pub(super) traffic: Arc<Traffic>,
    /// `None` in a mode without one.
    pub(super) proxy: Option<Proxy>,
}

/// The proxy of a run with these settings, if it has one.
pub(super) fn proxy(config: &NetworkConfig) -> Result<Option<Proxy>, Failure> {
    if !network::has_proxy(config) {
        return Ok(None);
    }
    Proxy::new(&config.allow_hosts).map(Some).map_err(|error| {
        Failure::new(ErrorKind::InvalidArgument, format!("network.allow_hosts {error}"))
    })
}

impl Ways<'_> {
    /// Serves the connections until it is dropped.
    pub(super) async fn serve(&self, incoming: &mut Incoming) -> Infallible {
        let mut open: FuturesUnordered<BoxFuture<'_, ()>> = FuturesUnordered::new();
        loop {
            tokio::select! {
                connection = incoming.accept() => match connection {
                    Some(connection) => match (connection.port(), &self.proxy) {
                        (GATEWAY_PORT, _) => {
                            let traffic = Arc::clone(&self.traffic);
                            open.push(Box::pin(self.gateway.serve(connection, traffic)));
                        }
                        (PROXY_PORT, Some(proxy)) => {
                            open.push(Box::pin(proxy.serve(connection)));
                        }
                        // Nobody asked the keeper to listen there.
                        (port, _) => tracing::warn!(port, "a connection to nothing was dropped"),
                    },
                    // The loss is told by the program's stream.
                    None => std::future::pending().await,
                },
                Some(()) = open.next() => {}
            }
        }
    }

    /// Puts what the proxy decided into the result and the record.
    pub(super) async fn tell(&self, result: &mut RunResult, record: &Record, allowed: &[String]) {
        let report = self.proxy.as_ref().map(|proxy| proxy.decisions().report());
        let Some(report) = report.filter(|report| !report.is_empty()) else { return };
        result.denied_hosts = report.denied_hosts();
        result.notes.extend(report.notes(allowed));
        for host in &result.denied_hosts {
            tracing::warn!(%host, "the proxy refused a host (network.allow_hosts)");
        }
        let path = record.network_json();
        // The run is not lost for it: the result has what matters.
        if let Err(failure) = blocking(move || write_json(&path, &report)).await {
            tracing::error!(%failure, "what the proxy decided could not be recorded");
        }
    }
}
