//! Whether what was asked for is in force.
//!
//! An engine may ignore a limit that it cannot enforce (a rootless one on cgroup v1 enforces none)
//! or give defaults of its own, so nothing is taken for granted. The keeper reads, the host
//! compares.

use crate::engine::{ContainerSpec, Network, Tmpfs};
use crate::keeper::wire::{Posture, WritableMount};

/// What is in force is not what was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PostureError {
    /// Other capabilities than asked for can be had in the container.
    #[error("capabilities are {found:#x} instead of {asked:#x}")]
    Capabilities {
        /// The bounding set.
        found: u64,
        /// What was to remain.
        asked: u64,
    },
    /// A capability was asked for that this program does not know.
    #[error("there is no capability {0}")]
    UnknownCapability(String),
    /// no-new-privileges is not set.
    #[error("no-new-privileges is not in force")]
    NewPrivileges,
    /// No seccomp filter is in force.
    #[error("the seccomp mode is {found} instead of 2")]
    Seccomp {
        /// The mode.
        found: u32,
    },
    /// The root is writable.
    #[error("the root file system is writable")]
    WritableRoot,
    /// There is a network.
    #[error("there is a network interface {0}")]
    Network(String),
    /// There is none, and there should be one.
    #[error("there is no network interface besides lo")]
    NoNetwork,
    /// A limit differs.
    #[error("the limit of {what} is {found} instead of {asked}")]
    Limit {
        /// Which.
        what: &'static str,
        /// In force.
        found: u64,
        /// Asked for.
        asked: u64,
    },
    /// A place is not mounted.
    #[error("{0:.200} is not mounted")]
    Missing(String),
    /// A place is not mounted as asked.
    #[error("{path:.200} is mounted {found:.200}; it was to be {asked}")]
    Mount {
        /// Which.
        path: String,
        /// How.
        found: String,
        /// What it lacks.
        asked: String,
    },
    /// A place is writable that was not asked for.
    #[error("{0:.200} is a writable mount that nobody asked for")]
    Unexpected(String),
}

/// The name of each capability at the place of its number.
const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// Mounts of the kernel and the engine itself, none of which uid 1000 can fill. What is in these
/// trees is listed, or it was asked for.
const ENGINES_OWN: [&str; 5] = ["/proc", "/sys", "/dev", "/dev/pts", "/dev/mqueue"];

/// Files that an engine mounts into a container whose root is writable.
const ENGINES_FILES: [&str; 4] =
    ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/run/.containerenv"];

/// Compares what the keeper read with what was asked for. Gives the names of the limits that could
/// not be read in the container and so were not compared.
///
/// # Errors
///
/// The first difference found.
pub fn check_posture(
    spec: &ContainerSpec,
    posture: &Posture,
) -> Result<Vec<&'static str>, PostureError> {
    let asked = mask(&spec.capabilities)?;
    if posture.capabilities != asked {
        return Err(PostureError::Capabilities { found: posture.capabilities, asked });
    }
    if !posture.no_new_privileges {
        return Err(PostureError::NewPrivileges);
    }
    if posture.seccomp != 2 {
        return Err(PostureError::Seccomp { found: posture.seccomp });
    }
    if spec.read_only && !posture.read_only_root {
        return Err(PostureError::WritableRoot);
    }
    let interface = posture.interfaces.iter().find(|name| *name != "lo");
    match (&spec.network, interface) {
        (Network::None, Some(interface)) => {
            return Err(PostureError::Network(interface.clone()));
        }
        (Network::Bridge | Network::Named(_), None) => return Err(PostureError::NoNetwork),
        // The host may have none itself.
        (Network::None, None) | (Network::Host, _) => {}
        (Network::Bridge | Network::Named(_), Some(_)) => {}
    }
    let mut unread = Vec::new();
    for (what, found, asked) in
        [("memory", posture.memory, spec.memory), ("processes", posture.pids, u64::from(spec.pids))]
    {
        if found == 0 {
            unread.push(what);
        } else if found != asked {
            return Err(PostureError::Limit { what, found, asked });
        }
    }
    for place in &spec.tmpfs {
        check_tmpfs(place, find(posture, &place.path)?)?;
    }
    for path in &spec.volumes {
        find(posture, path)?;
    }
    match posture.writable.iter().find(|mount| !expected(spec, mount)) {
        Some(mount) => Err(PostureError::Unexpected(mount.path.clone())),
        None => Ok(unread),
    }
}

/// The bit mask of capabilities by name.
fn mask(names: &[String]) -> Result<u64, PostureError> {
    names.iter().try_fold(0, |mask, name| {
        CAPABILITIES
            .iter()
            .position(|known| known == name)
            .map(|number| mask | 1 << number)
            .ok_or_else(|| PostureError::UnknownCapability(name.clone()))
    })
}

/// The mount at `path`; of several on top of each other the last is the one in use.
fn find<'a>(posture: &'a Posture, path: &str) -> Result<&'a WritableMount, PostureError> {
    posture
        .writable
        .iter()
        .rfind(|mount| mount.path == path)
        .ok_or_else(|| PostureError::Missing(path.to_owned()))
}

fn check_tmpfs(asked: &Tmpfs, found: &WritableMount) -> Result<(), PostureError> {
    let has = |option: &str| found.options.split(',').any(|other| other == option);
    let lack = if found.kind != "tmpfs" {
        Some("tmpfs".to_owned())
    } else if found.bytes != asked.bytes {
        Some(format!("{} bytes", asked.bytes))
    } else if has("noexec") {
        Some("exec".to_owned())
    } else {
        ["nosuid", "nodev"].into_iter().find(|option| !has(option)).map(str::to_owned)
    };
    match lack {
        None => Ok(()),
        Some(lack) => Err(PostureError::Mount {
            path: asked.path.clone(),
            found: format!("{} of {} bytes, {}", found.kind, found.bytes, found.options),
            asked: lack,
        }),
    }
}

fn expected(spec: &ContainerSpec, mount: &WritableMount) -> bool {
    let path = mount.path.as_str();
    spec.tmpfs.iter().any(|place| place.path == path)
        || spec.volumes.iter().any(|volume| volume == path)
        || ENGINES_OWN.contains(&path)
        || path.starts_with("/proc/")
        || path.starts_with("/sys/")
        || ENGINES_FILES.contains(&path)
        || (path == "/" && !spec.read_only)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::spec::{spec, tests::config};

    fn asked() -> ContainerSpec {
        spec(&config(), &Network::None, "me", jiff::Timestamp::UNIX_EPOCH)
    }

    /// What a container that is as asked reports.
    fn good() -> Posture {
        let spec = asked();
        let tmpfs = spec.tmpfs.iter().map(|place| WritableMount {
            path: place.path.clone(),
            kind: "tmpfs".into(),
            bytes: place.bytes,
            options: "rw,nosuid,nodev,relatime".into(),
        });
        let volumes = spec.volumes.iter().map(|path| WritableMount {
            path: path.clone(),
            kind: "ext4".into(),
            bytes: 1 << 40,
            options: "rw,relatime".into(),
        });
        let own = ["/proc", "/dev", "/dev/pts", "/dev/mqueue"].into_iter().map(|path| {
            WritableMount { path: path.into(), kind: "own".into(), ..Default::default() }
        });
        Posture {
            // KILL CHOWN FOWNER DAC_OVERRIDE SETUID SETGID
            capabilities: 0b1110_1011,
            no_new_privileges: true,
            seccomp: 2,
            read_only_root: true,
            interfaces: vec!["lo".into()],
            memory: spec.memory,
            pids: u64::from(spec.pids),
            writable: tmpfs.chain(volumes).chain(own).collect(),
        }
    }

    fn mount<'a>(posture: &'a mut Posture, path: &str) -> &'a mut WritableMount {
        posture.writable.iter_mut().find(|mount| mount.path == path).unwrap()
    }

    #[test]
    fn what_was_asked_for_passes() {
        assert_eq!(check_posture(&asked(), &good()), Ok(vec![]));
    }

    #[test]
    fn limits_that_cannot_be_read_are_tolerated_and_named() {
        let posture = Posture { memory: 0, pids: 0, ..good() };
        assert_eq!(check_posture(&asked(), &posture), Ok(vec!["memory", "processes"]));
    }

    #[test]
    fn every_difference_is_found() {
        type Spoil = fn(&mut Posture);
        let table: &[(&str, Spoil)] = &[
            ("capabilities are 0xfb", |p| p.capabilities |= 1 << 4),
            ("capabilities are 0xea", |p| p.capabilities &= !1),
            ("no-new-privileges", |p| p.no_new_privileges = false),
            ("seccomp mode is 0", |p| p.seccomp = 0),
            ("root file system is writable", |p| p.read_only_root = false),
            ("interface eth0", |p| p.interfaces.push("eth0".into())),
            ("limit of memory", |p| p.memory += 1),
            ("limit of processes", |p| p.pids = u64::MAX),
            ("/tmp is not mounted", |p| p.writable.retain(|mount| mount.path != "/tmp")),
            ("/app is not mounted", |p| p.writable.retain(|mount| mount.path != "/app")),
            ("it was to be tmpfs", |p| mount(p, "/tmp").kind = "ext4".into()),
            ("bytes", |p| mount(p, "/dev/shm").bytes *= 2),
            ("it was to be exec", |p| mount(p, "/tmp").options.push_str(",noexec")),
            ("it was to be nosuid", |p| mount(p, "/run").options = "rw,nodev".into()),
            ("it was to be nodev", |p| mount(p, "/home/codex").options = "rw,nosuid".into()),
            ("/mnt is a writable mount", |p| {
                p.writable.push(WritableMount { path: "/mnt".into(), ..Default::default() });
            }),
        ];
        for (words, spoil) in table {
            let mut posture = good();
            spoil(&mut posture);
            let error = check_posture(&asked(), &posture).unwrap_err().to_string();
            assert!(error.contains(words), "{words}: {error}");
        }
    }

    #[test]
    fn a_container_has_the_network_that_was_asked_for() {
        let with = |network| ContainerSpec { network, ..asked() };
        let mut posture = good();
        for network in [Network::Bridge, Network::Named("n".into())] {
            assert_eq!(check_posture(&with(network), &posture), Err(PostureError::NoNetwork));
        }
        assert_eq!(check_posture(&with(Network::Host), &posture), Ok(vec![]));
        posture.interfaces.push("eth0".into());
        for network in [Network::Bridge, Network::Named("n".into()), Network::Host] {
            assert_eq!(check_posture(&with(network), &posture), Ok(vec![]));
        }
    }

    #[test]
    fn a_writable_root_passes_where_it_was_asked_for() {
        let mut spec = asked();
        spec.read_only = false;
        let mut posture = good();
        posture.read_only_root = false;
        posture.writable.push(WritableMount { path: "/".into(), ..Default::default() });
        posture.writable.push(WritableMount { path: "/etc/hosts".into(), ..Default::default() });
        assert_eq!(check_posture(&spec, &posture), Ok(vec![]));
    }
}
