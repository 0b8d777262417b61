//! From names to addresses, on the host.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use futures::future::BoxFuture;

use super::name::HostName;

/// Gives the addresses of a name.
pub trait Resolve: fmt::Debug + Send + Sync {
    /// All addresses, in the order to try them.
    ///
    /// # Errors
    ///
    /// The name is not known, or nobody could be asked.
    fn resolve<'a>(&'a self, name: &'a HostName) -> BoxFuture<'a, io::Result<Vec<IpAddr>>>;
}

/// Asks as every program of the host does: `/etc/hosts`, DNS, and what else it is set up with.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostResolver;

impl Resolve for HostResolver {
    fn resolve<'a>(&'a self, name: &'a HostName) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            Ok(found.map(|address| address.ip()).collect())
        })
    }
}

/// Whether a connection to `address` would not leave this machine: it is an address of its own, and
/// a firewall in front of it would not see the connection. Sends nothing.
pub(super) fn is_of_this_machine(address: IpAddr) -> bool {
    let any: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // A datagram socket that is connected only asks for the route. What has none cannot be
    // connected to either.
    let local = UdpSocket::bind(SocketAddr::new(any, 0))
        .and_then(|socket| socket.connect((address, 9)).and_then(|()| socket.local_addr()));
    local.is_ok_and(|local| local.ip() == address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_address_is_of_this_machine() {
        assert!(is_of_this_machine(Ipv4Addr::LOCALHOST.into()));
        assert!(!is_of_this_machine(Ipv4Addr::new(192, 0, 2, 1).into()));
    }
}
