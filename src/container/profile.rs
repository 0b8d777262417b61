//! What containers are started from.

use std::path::PathBuf;

use super::HostPaths;
use crate::config::{Config, ContainerConfig, NetworkConfig};

/// What containers are started from, as the settings say it.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// `[container]`
    pub container: ContainerConfig,
    /// `[network]`
    pub network: NetworkConfig,
    /// Where workspaces are on the host.
    pub host_paths: HostPaths,
}

impl Profile {
    /// What the settings say, for workspaces that are, or lie in, `workspaces`. Which hosts may be
    /// reached is decided for each run, and not in it.
    pub fn of(config: &Config, workspaces: &[PathBuf]) -> Self {
        Self {
            container: config.container.clone(),
            network: NetworkConfig { allow_hosts: Vec::new(), ..config.network.clone() },
            host_paths: match config.workspace.host_paths {
                true => HostPaths::of(workspaces),
                false => HostPaths::default(),
            },
        }
    }
}

#[cfg(test)]
impl Profile {
    pub(crate) fn harmless() -> Self {
        let container = super::spec::tests::config();
        Self { container, network: NetworkConfig::default(), host_paths: HostPaths::default() }
    }
}
