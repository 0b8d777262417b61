//! The list of containers, read by ourselves where the client library cannot.
//!
//! Podman has states that Docker has not, such as `stopped` for a container that ended and is not
//! taken down yet. The library refuses the whole list for one word it does not know, and the list
//! is what leftovers are found by.

use std::collections::BTreeMap;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::{TcpStream, UnixStream};

use super::endpoint::Address;
use crate::engine::{ByteStream, ContainerId, Listed};

/// Bytes of a list that are read at most: some ten thousand containers.
const MOST: usize = 64 << 20;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Container {
    id: String,
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
    #[serde(default)]
    state: Option<String>,
}

/// All containers in any state that carry the label key. The error is a reason for people.
pub(super) async fn list(
    address: &Address,
    version: &str,
    label: &str,
) -> Result<Vec<Listed>, String> {
    let filters = serde_json::json!({ "label": [label] }).to_string();
    let filters: String = filters.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let path = format!("/v{version}/containers/json?all=true&filters={filters}");
    parse(&get(address, &path).await?)
}

fn parse(body: &[u8]) -> Result<Vec<Listed>, String> {
    let containers: Vec<Container> =
        serde_json::from_slice(body).map_err(|error| format!("its list is unreadable: {error}"))?;
    let listed = containers.into_iter().map(|container| Listed {
        id: ContainerId(container.id),
        labels: container.labels.unwrap_or_default(),
        state: container.state.unwrap_or_default(),
    });
    Ok(listed.collect())
}

async fn get(address: &Address, path: &str) -> Result<Bytes, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let stream: ByteStream = match address {
        Address::Unix(path) => Box::new(UnixStream::connect(path).await.map_err(|e| text(&e))?),
        Address::Tcp(authority) => {
            Box::new(TcpStream::connect(authority).await.map_err(|e| text(&e))?)
        }
    };
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| text(&e))?;
    let request = hyper::Request::get(path)
        .header("Host", "engine")
        .body(Empty::<Bytes>::new())
        .map_err(|e| text(&e))?;
    let answer = async move {
        let answer = sender.send_request(request).await.map_err(|e| text(&e))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MOST)
            .collect()
            .await
            .map_err(|e| text(&e))?
            .to_bytes();
        if status.is_success() {
            Ok(body)
        } else {
            let start = String::from_utf8_lossy(&body[..body.len().min(500)]).into_owned();
            Err(format!("status {status}: {start}"))
        }
    };
    tokio::pin!(answer);
    // Dropped, and with it closed, as soon as the answer is there.
    tokio::select! {
        answer = &mut answer => answer,
        _ = connection => answer.await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_that_docker_has_not_and_missing_labels_are_no_error() {
        let listed = parse(
            br#"[{"Id": "a", "State": "stopped", "Labels": {"k": "v"}, "More": 1},
                 {"Id": "b", "State": "configured", "Labels": null}, {"Id": "c"}]"#,
        )
        .unwrap();
        let states: Vec<&str> = listed.iter().map(|container| container.state.as_str()).collect();
        assert_eq!(states, ["stopped", "configured", ""]);
        assert_eq!(listed[0].labels["k"], "v");
        assert!(parse(b"<html>").unwrap_err().contains("unreadable"));
    }
}
