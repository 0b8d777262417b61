//! Whether an engine runs in a virtual machine that a desktop program keeps for it. Such a machine
//! gives memory and processor back to its host only while nothing runs in it.

use std::path::Component;

use super::Address;

/// Where such programs have their socket, beneath the home directory.
const HOMES: [&str; 4] = [".colima", ".lima", ".orbstack", ".rd"];

/// Decides by what the engine tells of its `platform` (`Docker Desktop 4.38.0 (181591)`) and its
/// `kernel` (`6.10.14-linuxkit`), by the socket, and by whether the host is a Mac, where every
/// engine behind a socket runs in one.
pub(super) fn is_desktop(platform: &str, kernel: &str, address: &Address, mac: bool) -> bool {
    let socket_of_one = match address {
        Address::Unix(path) => path.components().any(
            |part| matches!(part, Component::Normal(name) if HOMES.iter().any(|home| name == *home)),
        ),
        Address::Tcp(_) => false,
    };
    platform.contains("Desktop")
        || kernel.contains("linuxkit")
        || kernel.contains("orbstack")
        || socket_of_one
        || (mac && matches!(address, Address::Unix(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn desktops_are_known_by_what_they_tell_or_by_where_they_are() {
        let unix = |path: &str| Address::Unix(path.into());
        let server = unix("/var/run/docker.sock");
        let community = "Docker Engine - Community";
        assert!(!is_desktop(community, "6.1.0-28-amd64", &server, false));
        assert!(!is_desktop("", "", &Address::Tcp("build.example:2375".into()), true));
        assert!(is_desktop("Docker Desktop 4.38.0 (181591)", "", &server, false));
        assert!(is_desktop(community, "6.10.14-linuxkit", &server, false));
        assert!(is_desktop(community, "6.11.3-orbstack-00279", &server, false));
        let colima = unix("/home/me/.colima/default/docker.sock");
        assert!(is_desktop(community, "6.8.0-39-generic", &colima, false));
        assert!(is_desktop(community, "6.8.0-39-generic", &server, true));
    }
}
