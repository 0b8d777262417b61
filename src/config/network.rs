//! `[network]`: what a container can reach besides the model.

use serde::Deserialize;

use crate::engine::Network;

/// The section `[network]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkConfig {
    /// The network that containers are started in.
    #[serde(deserialize_with = "mode")]
    pub mode: Network,
    /// Hosts that programs in a container may reach through the proxy, as `NAME`, `NAME:PORT` or
    /// `*.NAME`.
    pub allow_hosts: Vec<String>,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self { mode: Network::None, allow_hosts: Vec::new() }
    }
}

/// Reads `none`, `bridge`, `host`, or the name of one of the engine's networks.
fn mode<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Network, D::Error> {
    Ok(match String::deserialize(deserializer)?.as_str() {
        "none" => Network::None,
        "bridge" => Network::Bridge,
        "host" => Network::Host,
        name => Network::Named(name.to_owned()),
    })
}
