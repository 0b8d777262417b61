//! The list of containers: asked for with the client library, or read by ourselves where it cannot.
//!
//! A Docker that was killed with containers in it removes them when it starts again, and may go on to
//! list one as dead that it does not have any more, until it is started once more (20.10; tried).
//! There is nothing that could be removed then.
//!
//! Podman has states that Docker has not, such as `stopped` for a container that ended and is not
//! taken down yet. The library refuses the whole list for one word it does not know, and the list
//! is what leftovers are found by.

use std::collections::{BTreeMap, HashMap};

use bollard::Docker;
use bollard::errors::Error;
use bollard::query_parameters::{InspectContainerOptions, ListContainersOptions};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::{TcpStream, UnixStream};

use super::endpoint::Address;
use super::failure::is_gone;
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

/// All containers in any state that carry the label key, and that the engine has.
pub(super) async fn ask(docker: &Docker, label: &str) -> Result<Vec<Listed>, Error> {
    let filters = HashMap::from([("label".to_owned(), vec![label.to_owned()])]);
    let options = ListContainersOptions { all: true, filters: Some(filters), ..Default::default() };
    let mut listed = Vec::new();
    for container in docker.list_containers(Some(options)).await? {
        let Some(id) = container.id else { continue };
        let state = container.state.map(|state| state.to_string()).unwrap_or_default();
        if state == "dead" && !has(docker, &id).await? {
            continue;
        }
        let labels = container.labels.unwrap_or_default().into_iter().collect();
        listed.push(Listed { id: ContainerId(id), labels, state });
    }
    Ok(listed)
}

async fn has(docker: &Docker, id: &str) -> Result<bool, Error> {
    match docker.inspect_container(id, None::<InspectContainerOptions>).await {
        Ok(_) => Ok(true),
        Err(error) if is_gone(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The same without the library. The error is a reason for people.
pub(super) async fn read(
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
