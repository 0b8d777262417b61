//! What programs in a container reach besides the model.
//!
//! With `network.mode = "none"` a container has no network. Its environment names a proxy on its
//! loopback interface; the keeper hands each connection to this program, which opens a tunnel to a
//! host of `network.allow_hosts` and to no other:
//!
//! ```text
//!  program ─ CONNECT name:port ─ keeper ═ stream ═ proxy ─ name ─ rules ─ resolve ─ addresses ─ connect ─▶ 200, bytes
//!                                                   400   403     403      502       403         502
//! ```
//!
//! | step | what it refuses |
//! |---|---|
//! | name | anything but a host name: addresses, user names, names that DNS does not know |
//! | rules | names and ports that no entry of `network.allow_hosts` has; nothing is resolved |
//! | addresses | names of which any address is not one of the public internet, or is this machine's |
//! | connect | nothing; it goes to the very address that was checked |
//!
//! Every decision is counted for the run, see [`decisions`].

pub mod address;
pub mod decisions;
pub mod name;
pub mod proxy;
pub mod resolve;
pub mod rules;

use crate::config::NetworkConfig;
use crate::engine::Network;
use crate::keeper::wire::{GATEWAY_PORT, PROXY_PORT};

/// Variables by which programs in a container find the proxy; both cases, since some programs read
/// only one. What has no name to resolve there is its own loopback interface.
pub const PROXY_ENVIRONMENT: [(&str, &str); 9] = [
    ("HTTPS_PROXY", "http://127.0.0.1:8788"),
    ("https_proxy", "http://127.0.0.1:8788"),
    ("HTTP_PROXY", "http://127.0.0.1:8788"),
    ("http_proxy", "http://127.0.0.1:8788"),
    ("ALL_PROXY", "http://127.0.0.1:8788"),
    ("all_proxy", "http://127.0.0.1:8788"),
    ("NO_PROXY", "localhost,127.0.0.1,::1,.localhost"),
    ("no_proxy", "localhost,127.0.0.1,::1,.localhost"),
    // Node's own fetch reads the others only with this; older ones ignore it.
    ("NODE_USE_ENV_PROXY", "1"),
];

/// Whether containers with these settings are served by the proxy. It is there also when no host is
/// allowed, so that a run can tell which ones were asked for.
pub fn has_proxy(config: &NetworkConfig) -> bool {
    config.mode == Network::None
}

/// Whether what listens in a container listens on the host itself, where ports may be taken and
/// other programs can connect.
pub fn is_shared(config: &NetworkConfig) -> bool {
    config.mode == Network::Host
}

/// The ports whose connections a keeper hands on.
pub fn forwarded(config: &NetworkConfig) -> Vec<u16> {
    let mut ports = vec![GATEWAY_PORT];
    ports.extend(has_proxy(config).then_some(PROXY_PORT));
    ports
}

/// What must be known of a mode that confines less than "none"; `None` for that one.
pub fn warning(config: &NetworkConfig) -> Option<String> {
    let named = |name: &str| {
        format!(
            "network.mode is {name:?}: whatever runs in a container can send your files anywhere \
             that network reaches; \"none\" with allow_hosts opens single hosts"
        )
    };
    match &config.mode {
        Network::None => None,
        Network::Bridge => Some(named("bridge")),
        Network::Named(name) => Some(named(name)),
        Network::Host => Some(
            "network.mode is \"host\": whatever runs in a container can send your files anywhere, \
             and reaches everything that listens on this machine, on its loopback interface and in \
             abstract Unix sockets too; use it only for code that you would run without a container"
                .to_owned(),
        ),
    }
}

/// One line about what containers reach.
pub fn describe(config: &NetworkConfig) -> String {
    match (warning(config), config.allow_hosts.as_slice()) {
        (Some(warning), _) => warning,
        (None, []) => "none but the model".to_owned(),
        (None, hosts) => format!("none but the model and {}", hosts.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_names_the_port_that_is_forwarded() {
        let config = NetworkConfig { mode: Network::None, allow_hosts: Vec::new() };
        assert_eq!(forwarded(&config), [GATEWAY_PORT, PROXY_PORT]);
        let url = format!("http://127.0.0.1:{PROXY_PORT}");
        for (name, value) in PROXY_ENVIRONMENT {
            let is_url = name.to_ascii_lowercase().ends_with("s_proxy")
                || name.to_ascii_lowercase().ends_with("http_proxy")
                || name.to_ascii_lowercase().ends_with("all_proxy");
            assert_eq!(is_url, value == url, "{name}");
        }
    }

    #[test]
    fn only_none_has_a_proxy_and_no_warning() {
        for (mode, proxy) in [
            (Network::None, true),
            (Network::Bridge, false),
            (Network::Named("n".into()), false),
            (Network::Host, false),
        ] {
            let config = NetworkConfig { mode, allow_hosts: Vec::new() };
            assert_eq!(has_proxy(&config), proxy);
            assert_eq!(warning(&config).is_none(), proxy);
        }
    }
}
