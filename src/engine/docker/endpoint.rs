//! Where the engine is: `DOCKER_HOST`, a Docker context, or one of the usual sockets.
//!
//! MCP clients often start a server with hardly any environment (`HOME`, `PATH`, `USER` and the
//! like), so neither `DOCKER_HOST` nor `XDG_RUNTIME_DIR` can be relied on. Without them the current
//! context of the Docker configuration decides, and then each socket that Docker is known to listen
//! on is tried in turn.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::engine::EngineError;

/// An address of an engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A Unix socket.
    Unix(PathBuf),
    /// Host and port, without TLS.
    Tcp(String),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Unix(path) => write!(f, "unix://{}", path.display()),
            Address::Tcp(authority) => write!(f, "tcp://{authority}"),
        }
    }
}

/// Where an endpoint was taken from; decides the advice when nothing answers there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// `DOCKER_HOST`.
    Variable,
    /// The Docker context of this name.
    Context(String),
    /// Neither was set: the usual sockets.
    Usual,
}

/// Addresses to try, in order; the first that answers is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Never empty.
    addresses: Vec<Address>,
    origin: Origin,
}

/// What this module needs to know of the machine besides the environment.
#[derive(Debug)]
struct Host {
    uid: u32,
}

impl Endpoint {
    /// Finds the endpoint as the Docker command does: `DOCKER_HOST`, then `DOCKER_CONTEXT`, then
    /// the current context of the Docker configuration, then the usual sockets. `lookup` gives the
    /// value of an environment variable.
    ///
    /// # Errors
    ///
    /// [`EngineError::Unsupported`] for ssh, TLS and whatever else is not a plain Unix or TCP
    /// socket, with a sentence of its own for each.
    pub fn from_environment(
        lookup: impl Fn(&str) -> Option<String>,
    ) -> Result<Endpoint, EngineError> {
        let host = Host { uid: rustix::process::getuid().as_raw() };
        Endpoint::find(&|name| lookup(name).filter(|value| !value.is_empty()), &host)
    }

    /// The endpoint at one address.
    pub fn at(address: Address) -> Endpoint {
        Endpoint { addresses: vec![address], origin: Origin::Variable }
    }

    /// The addresses to try, in order.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// Where the addresses were taken from.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    fn find(lookup: &dyn Fn(&str) -> Option<String>, host: &Host) -> Result<Endpoint, EngineError> {
        let tls = ["DOCKER_TLS_VERIFY", "DOCKER_TLS", "DOCKER_CERT_PATH"]
            .into_iter()
            .find(|name| lookup(name).is_some());
        if let Some(value) = lookup("DOCKER_HOST") {
            let address = parse(&value, tls, "DOCKER_HOST")?;
            return Ok(Endpoint { addresses: vec![address], origin: Origin::Variable });
        }
        let home = lookup("HOME").map(PathBuf::from);
        let configuration = lookup("DOCKER_CONFIG")
            .map(PathBuf::from)
            .or_else(|| home.as_ref().map(|home| home.join(".docker")));
        if let Some(name) = lookup("DOCKER_CONTEXT")
            .or_else(|| configuration.as_deref().and_then(current_context))
            .filter(|name| name != "default")
        {
            let address = context_address(&name, configuration.as_deref())?;
            return Ok(Endpoint { addresses: vec![address], origin: Origin::Context(name) });
        }
        let mut sockets = vec![PathBuf::from("/var/run/docker.sock")];
        if let Some(directory) = lookup("XDG_RUNTIME_DIR") {
            sockets.push(PathBuf::from(directory).join("docker.sock"));
        }
        if let Some(home) = &home {
            sockets.push(home.join(".docker/run/docker.sock"));
            sockets.push(home.join(".docker/desktop/docker.sock"));
        }
        sockets.push(PathBuf::from(format!("/run/user/{}/docker.sock", host.uid)));
        // Podman's last: where both are, Docker is what people mean by a container engine.
        let podman = "podman/podman.sock";
        if let Some(directory) = lookup("XDG_RUNTIME_DIR") {
            sockets.push(PathBuf::from(directory).join(podman));
        }
        sockets.push(PathBuf::from(format!("/run/user/{}", host.uid)).join(podman));
        sockets.push(PathBuf::from("/run").join(podman));
        let mut addresses: Vec<Address> = Vec::new();
        for address in sockets.into_iter().map(Address::Unix) {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        Ok(Endpoint { addresses, origin: Origin::Usual })
    }

    /// What to do when nothing answers, by what was tried and why it failed.
    pub(super) fn advice(&self, failure: &std::io::Error) -> String {
        use std::io::ErrorKind;
        if failure.kind() == ErrorKind::PermissionDenied {
            return "add your user to the group that owns the socket (usually `sudo usermod -aG \
                    docker $USER`, then log in again), or use rootless Docker"
                .into();
        }
        match &self.origin {
            Origin::Variable => {
                "start Docker, or correct DOCKER_HOST in the environment of this server".into()
            }
            Origin::Context(name) => format!(
                "start Docker, or choose another context than {name} with `docker context use`"
            ),
            Origin::Usual => "start Docker, or Podman's socket (`systemctl --user enable --now \
                              podman.socket`); if it listens elsewhere, set DOCKER_HOST in the `env` \
                              of this server in your MCP client's settings, since clients do not \
                              pass on the variables of your shell"
                .into(),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, address) in self.addresses.iter().enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{address}")?;
        }
        Ok(())
    }
}

/// Reads one address. `tls` names the variable that asks for TLS, if any; `source` is what the
/// value was read from.
fn parse(value: &str, tls: Option<&str>, source: &str) -> Result<Address, EngineError> {
    let unsupported = |sentence: String| Err(EngineError::Unsupported(sentence));
    let Some((scheme, rest)) = value.split_once("://") else {
        return unsupported(format!(
            "{source} is {value:?}, which is no address; use unix:///path/to/docker.sock or \
             tcp://host:port"
        ));
    };
    match scheme {
        "unix" if rest.starts_with('/') => Ok(Address::Unix(PathBuf::from(rest))),
        "unix" => unsupported(format!(
            "{source} is {value:?}, but the path of a Unix socket must be absolute; use \
             unix:///path/to/docker.sock"
        )),
        "tcp" | "http" => {
            if let Some(variable) = tls {
                return unsupported(format!(
                    "{source} is {value:?} and {variable} is set, but TLS to the engine is not \
                     supported yet; use a Unix socket, or forward one with `ssh -L`"
                ));
            }
            authority(rest).map(Address::Tcp).map_or_else(
                || unsupported(format!("{source} is {value:?}; use tcp://host:port")),
                Ok,
            )
        }
        "https" => unsupported(format!(
            "{source} is {value:?}, but TLS to the engine is not supported yet; use a Unix \
             socket, or forward one with `ssh -L`"
        )),
        "ssh" => unsupported(format!(
            "{source} is {value:?}, but engines over ssh are not supported yet; forward the \
             socket with `ssh -L /tmp/docker.sock:/var/run/docker.sock {rest}` and set \
             DOCKER_HOST=unix:///tmp/docker.sock"
        )),
        other => unsupported(format!(
            "{source} is {value:?}, but an address that begins with {other}:// is not supported; \
             use unix:///path/to/docker.sock or tcp://host:port"
        )),
    }
}

/// `host:port` of what stands after the scheme; Docker's own port if there is none.
fn authority(rest: &str) -> Option<String> {
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.contains('/') || rest.chars().any(|c| c.is_whitespace() || c == '@' || c == '?') {
        return None;
    }
    let after_address = rest.rsplit_once(']').map_or(rest, |(_, after)| after);
    match after_address.rsplit_once(':') {
        Some((host, port)) => {
            let named = !host.is_empty() || rest.contains(']');
            (named && port.parse::<u16>().is_ok()).then(|| rest.to_owned())
        }
        None => (!rest.is_empty()).then(|| format!("{rest}:2375")),
    }
}

fn current_context(configuration: &Path) -> Option<String> {
    #[derive(Deserialize)]
    struct Configuration {
        #[serde(rename = "currentContext", default)]
        current_context: String,
    }
    let text = std::fs::read(configuration.join("config.json")).ok()?;
    let configuration: Configuration = serde_json::from_slice(&text).ok()?;
    Some(configuration.current_context).filter(|name| !name.is_empty())
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ContextMeta {
    name: String,
    #[serde(default)]
    endpoints: std::collections::BTreeMap<String, ContextEndpoint>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ContextEndpoint {
    #[serde(default)]
    host: String,
}

/// The address that a context names. Docker keeps one folder a context, named by a hash of the
/// context's name; the name itself is in the file, so no hash is needed to find it.
fn context_address(name: &str, configuration: Option<&Path>) -> Result<Address, EngineError> {
    let missing = || {
        EngineError::Unsupported(format!(
            "the Docker context {name} is chosen but cannot be read; run `docker context use \
             default`, or set DOCKER_HOST"
        ))
    };
    let contexts = configuration.ok_or_else(missing)?.join("contexts");
    let folders = std::fs::read_dir(contexts.join("meta")).map_err(|_| missing())?;
    let (folder, meta) = folders
        .flatten()
        .find_map(|folder| {
            let text = std::fs::read(folder.path().join("meta.json")).ok()?;
            let meta: ContextMeta = serde_json::from_slice(&text).ok()?;
            (meta.name == name).then(|| (folder.file_name(), meta))
        })
        .ok_or_else(missing)?;
    let endpoint = meta.endpoints.get("docker").ok_or_else(missing)?;
    let has_keys = contexts.join("tls").join(folder).join("docker").exists();
    let tls = has_keys.then_some("its TLS material");
    parse(&endpoint.host, tls, &format!("the address of the Docker context {name}"))
}

#[cfg(test)]
mod tests;
