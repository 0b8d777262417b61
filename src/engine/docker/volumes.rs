//! Volumes that outlived their container.
//!
//! Docker removes a container that is to go by itself together with its volumes; but one that went
//! down with the engine is removed when the engine starts again, and then it has forgotten them
//! (Docker 20.10; tried).

use std::collections::HashMap;

use bollard::Docker;
use bollard::errors::Error;
use bollard::query_parameters::{ListVolumesOptions, RemoveVolumeOptions};

use super::failure::status;
use crate::engine::Leftover;

/// Volumes that carry the label key and that no container has.
pub(super) async fn left(docker: &Docker, label: &str) -> Result<Vec<Leftover>, Error> {
    let filters = HashMap::from([
        ("label".to_owned(), vec![label.to_owned()]),
        ("dangling".to_owned(), vec!["true".to_owned()]),
    ]);
    let listed = docker.list_volumes(Some(ListVolumesOptions { filters: Some(filters) })).await?;
    let volumes = listed.volumes.unwrap_or_default().into_iter();
    Ok(volumes
        .map(|volume| Leftover { name: volume.name, labels: volume.labels.into_iter().collect() })
        .collect())
}

/// Removes one. Gone, or taken by a container after all, is no error.
pub(super) async fn remove(docker: &Docker, name: &str) -> Result<(), Error> {
    match docker.remove_volume(name, None::<RemoveVolumeOptions>).await {
        Err(error) if matches!(status(&error), Some(404 | 409)) => Ok(()),
        done => done,
    }
}
