//! What a container is started from.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{HostPaths, KEEPER, label};
use crate::config::ContainerConfig;
use crate::engine::{ContainerSpec, Network, Tmpfs};
use crate::keeper::wire;

/// Home of uid 1000 in a container; `CODEX_HOME` is in it.
pub const HOME: &str = "/home/codex";

/// How long `init` waits for a keeper at most. It is opened right after the start; whoever is killed
/// between the two must not leave a container that runs for longer than half a minute.
const KEEPER_WITHIN: Duration = Duration::from_secs(25);

/// The least memory, in bytes, with which the sizes below make sense.
pub const MIN_MEMORY: u64 = 64 << 20;

/// One profile for every engine, so that what a container may do does not depend on the engine's
/// default.
const SECCOMP: &str = include_str!("../../docker/seccomp.json");

/// What the keeper needs as root to serve uid 1000: kill its processes, give it files, write and
/// empty its directories whatever their modes, and become it. uid 1000 itself has none.
const CAPABILITIES: [&str; 6] = ["KILL", "CHOWN", "FOWNER", "DAC_OVERRIDE", "SETUID", "SETGID"];

/// Where volumes are: the workspace, and what programs cache.
const VOLUMES: [&str; 2] = [wire::WORKSPACE, "/cache"];

/// The tmpfs places: path, share of a quarter of the memory in sixteenths, mode. A page of tmpfs is
/// memory of the container that no kill frees, so all of them together must leave the keeper room.
const PLACES: [(&str, u64, u32); 4] =
    [(HOME, 4, 0o755), ("/tmp", 8, 0o1777), ("/run", 1, 0o755), ("/dev/shm", 3, 0o1777)];

/// Bytes of tmpfs per inode that it may have. An inode costs about 1 KiB of memory that the size
/// of the mount does not count.
const BYTES_PER_INODE: u64 = 8 * 1024;

/// Bounds of inodes of one place.
const INODES: (u64, u64) = (1024, 131_072);

/// The sizes of tmpfs mounts are whole pages; the kernel would round them up.
const PAGE: u64 = 4096;

/// What a container of the only profile is started from. `owner` is the label of the orchestrator
/// (see [`crate::pool::owner`]) and `started` the time of the request.
pub fn spec(
    config: &ContainerConfig,
    network: &Network,
    host_paths: &HostPaths,
    owner: &str,
    started: jiff::Timestamp,
) -> ContainerSpec {
    let seconds = config.start_timeout.min(KEEPER_WITHIN).as_secs().max(1);
    ContainerSpec {
        image: config.image.clone(),
        labels: BTreeMap::from([
            (label::OWNER.to_owned(), owner.to_owned()),
            (label::STARTED.to_owned(), started.to_string()),
            (label::PROTOCOL.to_owned(), wire::PROTOCOL.to_string()),
            (label::PROFILE.to_owned(), "default".to_owned()),
        ]),
        argv: vec![KEEPER.to_owned(), "init".to_owned(), seconds.to_string()],
        memory: config.memory,
        cpus: config.cpus,
        pids: config.pids,
        read_only: config.read_only,
        runtime: Some(config.runtime.clone()).filter(|runtime| !runtime.is_empty()),
        tmpfs: places(config.memory, host_paths),
        volumes: VOLUMES.map(str::to_owned).to_vec(),
        capabilities: CAPABILITIES.map(str::to_owned).to_vec(),
        seccomp: SECCOMP.to_owned(),
        network: network.clone(),
    }
}

fn places(memory: u64, host_paths: &HostPaths) -> Vec<Tmpfs> {
    let quarter = memory / 4 - host_paths.bytes();
    let named = PLACES.into_iter().map(|(path, sixteenths, mode)| {
        let bytes = (quarter / 16 * sixteenths / PAGE * PAGE).max(PAGE);
        let inodes = (bytes / BYTES_PER_INODE).clamp(INODES.0, INODES.1);
        Tmpfs { path: path.to_owned(), bytes, inodes, mode }
    });
    named.chain(host_paths.mounts()).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn config() -> ContainerConfig {
        ContainerConfig {
            image: "codex-runner:latest".into(),
            memory: 4 << 30,
            cpus: 0.0,
            pids: 1024,
            read_only: true,
            runtime: String::new(),
            start_timeout: Duration::from_secs(30),
            heartbeat: Duration::from_secs(5),
        }
    }

    #[test]
    fn a_spec_carries_every_label_and_names_no_runtime_by_default() {
        let none = HostPaths::default();
        let spec = spec(&config(), &Network::None, &none, "me", jiff::Timestamp::UNIX_EPOCH);
        assert_eq!(spec.labels[label::OWNER], "me");
        assert_eq!(spec.labels[label::STARTED], "1970-01-01T00:00:00Z");
        assert_eq!(spec.labels[label::PROTOCOL], wire::PROTOCOL.to_string());
        assert_eq!(spec.argv, [KEEPER, "init", "25"]);
        assert_eq!(spec.runtime, None);
    }

    #[test]
    fn the_seccomp_profile_is_json_with_a_default() {
        let profile: serde_json::Value = serde_json::from_str(SECCOMP).unwrap();
        assert!(profile["defaultAction"].is_string());
    }

    proptest! {
        #[test]
        fn tmpfs_places_take_at_most_a_quarter_of_the_memory(
            memory in MIN_MEMORY..=(1_u64 << 45), parents in 0..20,
        ) {
            let workspaces: Vec<_> = (0..parents).map(|n| format!("/srv/{n}/x").into()).collect();
            let places = places(memory, &HostPaths::of(&workspaces));
            let total: u64 = places.iter().map(|place| place.bytes).sum();
            prop_assert!(total <= memory / 4);
            for place in places {
                prop_assert!(place.bytes > 0 && place.bytes % PAGE == 0);
                prop_assert!(place.inodes >= INODES.0 && place.inodes <= INODES.1);
            }
        }
    }
}
