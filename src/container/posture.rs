//! Whether what was asked for is in force.
//!
//! An engine may ignore a limit that it cannot enforce (a rootless one on cgroup v1 enforces none)
//! or give defaults of its own, so nothing is taken for granted. The keeper reads and tries, the
//! host compares. A difference is one of three things:
//!
//! ```text
//!  what keeps a program in: capabilities, no-new-privileges, seccomp, root, network, mounts ──> refused
//!  how much it may use: memory, processes, CPUs, sizes of tmpfs ──────────────────────────────> told
//!  what a reset is proved by ─────────────────────────────────────────> told, destroyed after a run
//! ```

use crate::engine::{ContainerSpec, Network, Tmpfs};
use crate::keeper::wire::{Attempt, Limit, Posture, Unread, WritableMount};
use crate::pool::source::Findings;

/// What is in force is not what was asked for, and a container is not to be used so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PostureError {
    /// Other capabilities than asked for can be had in the container.
    #[error("{}; see which capabilities the engine adds or takes away by itself", capabilities(*found, *asked))]
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
    #[error(
        "no-new-privileges is not in force, so a setuid program could become root; see what the \
         engine says of its security options, or name another container.runtime"
    )]
    NewPrivileges,
    /// No seccomp filter is in force.
    #[error(
        "no seccomp filter is in force (mode {found} instead of 2); the engine's runtime must be \
         built with seccomp, or name another container.runtime"
    )]
    Seccomp {
        /// The mode.
        found: u32,
    },
    /// uid 1000 tried what the seccomp profile denies, and was not denied it.
    #[error(
        "a program in it was not denied {}, so another seccomp profile than the one asked for is \
         in force; see which profile the engine puts in its place", names(.0)
    )]
    Allowed(Vec<Attempt>),
    /// uid 1000 may open a device that no container has by itself.
    #[error(
        "a program in it may open the device {0:.80}; see which devices the engine gives to every \
         container"
    )]
    Device(String),
    /// The root is writable.
    #[error(
        "its root file system is writable; the engine must know read-only containers, or set \
         container.read_only = false"
    )]
    WritableRoot,
    /// There is a network.
    #[error(
        "it has the network interface {0:.80} although network.mode is \"none\"; see which network \
         the engine gives to every container"
    )]
    Network(String),
    /// There is none, and there should be one.
    #[error(
        "it has no network interface besides lo although network.mode names a network; see whether \
         the engine has it"
    )]
    NoNetwork,
    /// A place is not mounted.
    #[error("{0:.200} is not mounted in it")]
    Missing(String),
    /// A place is not mounted as asked.
    #[error("{path:.200} is mounted as {found:.200} in it and lacks {asked}")]
    Mount {
        /// Which.
        path: String,
        /// How.
        found: String,
        /// What it lacks.
        asked: &'static str,
    },
    /// A place is writable that was not asked for.
    #[error(
        "{0:.200} is a writable mount that nobody asked for; see which volumes the engine or the \
         image adds to a container"
    )]
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

/// Compares what the keeper read with what was asked for. Gives what the user should know of a
/// container that can be used all the same.
///
/// # Errors
///
/// The first difference that makes it unusable.
pub fn check_posture(spec: &ContainerSpec, posture: &Posture) -> Result<Findings, PostureError> {
    check_confinement(spec, posture)?;
    let mut findings = Findings::default();
    for place in &spec.tmpfs {
        let found = find(posture, &place.path)?;
        check_tmpfs(place, found, posture.own_kernel)?;
        findings.unenforced.extend(sizes(place, found));
    }
    for path in &spec.volumes {
        find(posture, path)?;
    }
    if let Some(mount) = posture.writable.iter().find(|mount| !expected(spec, mount)) {
        return Err(PostureError::Unexpected(mount.path.clone()));
    }
    findings.unenforced.splice(0..0, limits(spec, posture));
    if posture.own_kernel {
        findings.unenforced.extend(own_kernel(posture));
        let shows = |place: &WritableMount| {
            ["nosuid", "nodev"].iter().all(|it| place.options.split(',').any(|has| has == *it))
        };
        let hidden = spec.tmpfs.iter().any(|it| find(posture, &it.path).is_ok_and(|it| !shows(it)));
        if hidden {
            let sentence =
                "whether tmpfs mounts are nosuid and nodev cannot be seen in a container";
            findings.unenforced.push(sentence.to_owned());
        }
    }
    findings.no_reset = no_reset(spec, posture);
    Ok(findings)
}

/// What keeps a program in.
fn check_confinement(spec: &ContainerSpec, posture: &Posture) -> Result<(), PostureError> {
    let asked = mask(&spec.capabilities)?;
    if posture.capabilities != asked {
        return Err(PostureError::Capabilities { found: posture.capabilities, asked });
    }
    if !posture.no_new_privileges {
        return Err(PostureError::NewPrivileges);
    }
    // A kernel of its own is what a sandboxing runtime has in place of the filter.
    if !posture.own_kernel {
        if posture.seccomp != 2 {
            return Err(PostureError::Seccomp { found: posture.seccomp });
        }
        if !posture.allowed.is_empty() {
            return Err(PostureError::Allowed(posture.allowed.clone()));
        }
        if let Some(device) = posture.devices.first() {
            return Err(PostureError::Device(device.clone()));
        }
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
    Ok(())
}

/// The limits of the cgroup that are not as asked, each with a sentence.
fn limits(spec: &ContainerSpec, posture: &Posture) -> Vec<String> {
    let memory = limit("memory", "container.memory", posture.memory, spec.memory, 0, |bytes| {
        bytesize::ByteSize(bytes).to_string()
    });
    let pids = limit("processes", "container.pids", posture.pids, spec.pids.into(), 0, |number| {
        number.to_string()
    });
    let asked = billionths(spec.cpus);
    let cpus = (asked > 0).then(|| {
        // The kernel counts in microseconds of a tenth of a second.
        let step = CPU / 100_000;
        limit("CPUs", "container.cpus", posture.cpus, asked, step, |billionths| {
            format!("{:.2}", billionths as f64 / CPU as f64)
        })
    });
    [memory, pids, cpus.flatten()].into_iter().flatten().collect()
}

/// A CPU in billionths.
const CPU: u64 = 1_000_000_000;

fn billionths(cpus: f64) -> u64 {
    (cpus * CPU as f64).round() as u64
}

/// The sentence of a limit that differs by more than `slack`; `None` if it is as asked.
fn limit(
    what: &str,
    setting: &str,
    found: Limit,
    asked: u64,
    slack: u64,
    show: impl Fn(u64) -> String,
) -> Option<String> {
    let asked_for = format!("{setting} = {}", show(asked));
    match found {
        Limit::At(found) if found.abs_diff(asked) <= slack => None,
        Limit::At(found) => {
            Some(format!("the limit of {what} is {} and not as asked ({asked_for})", show(found)))
        }
        Limit::Unlimited => Some(format!("there is no limit of {what} ({asked_for})")),
        Limit::Unread => Some(format!(
            "whether there is a limit of {what} cannot be read in a container ({asked_for})"
        )),
    }
}

/// The sentence of a tmpfs whose size or number of files is not as asked.
fn sizes(asked: &Tmpfs, found: &WritableMount) -> Option<String> {
    let path = &asked.path;
    let size = |bytes: u64| bytesize::ByteSize(bytes);
    if found.bytes != asked.bytes {
        let (found, asked) = (size(found.bytes), size(asked.bytes));
        Some(format!("the size of {path} is {found} instead of {asked}"))
    } else if found.inodes == 0 {
        Some(format!("the number of files in {path} is not limited (to {})", asked.inodes))
    } else if found.inodes != asked.inodes {
        let (found, asked) = (found.inodes, asked.inodes);
        Some(format!("the number of files in {path} is limited to {found} instead of {asked}"))
    } else {
        None
    }
}

/// What a sandbox whose kernel is not the host's leaves open to the programs in it.
fn own_kernel(posture: &Posture) -> Option<String> {
    if posture.seccomp == 2 && posture.allowed.is_empty() {
        return None;
    }
    let mut sentence = String::from("the runtime's own kernel does not apply the seccomp profile");
    if !posture.allowed.is_empty() {
        sentence.push_str(" and allows ");
        sentence.push_str(&names(&posture.allowed));
    }
    Some(sentence)
}

/// Why a reset of it cannot be proved; empty if it can.
fn no_reset(spec: &ContainerSpec, posture: &Posture) -> Vec<String> {
    let mut reasons: Vec<String> = posture.unread.iter().map(|what| unread(*what).into()).collect();
    if !spec.read_only {
        reasons
            .push("with container.read_only = false a run can write where no reset looks".into());
    }
    if !posture.allowed.is_empty() {
        let names = names(&posture.allowed);
        reasons.push(format!("a run can hide what it leaves, since {names} are allowed"));
    }
    reasons
}

fn unread(what: Unread) -> &'static str {
    match what {
        Unread::Processes => "the processes in a container cannot be counted",
        Unread::SystemV => "System V IPC objects in a container cannot be listed",
        Unread::MessageQueues => "POSIX message queues in a container cannot be listed",
    }
}

/// The names of what was tried, in one list.
fn names(attempts: &[Attempt]) -> String {
    attempts.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// A difference of two sets of capabilities, in words.
fn capabilities(found: u64, asked: u64) -> String {
    let list = |mask: u64| {
        let name = |number: u32| match CAPABILITIES.get(number as usize) {
            Some(name) => (*name).to_owned(),
            None => format!("number {number}"),
        };
        let set = (0..u64::BITS).filter(|number| mask >> number & 1 == 1);
        set.map(name).collect::<Vec<_>>().join(", ")
    };
    match (list(found & !asked), list(asked & !found)) {
        (more, less) if less.is_empty() => format!("it can have the capabilities {more}"),
        (more, less) if more.is_empty() => format!("it lacks the capabilities {less}"),
        (more, less) => format!("it can have the capabilities {more} and lacks {less}"),
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

/// gVisor shows no `nosuid` and no `nodev`, whatever the mount was made with.
fn check_tmpfs(asked: &Tmpfs, found: &WritableMount, own_kernel: bool) -> Result<(), PostureError> {
    let has = |option: &str| found.options.split(',').any(|other| other == option);
    let lack = if found.kind != "tmpfs" {
        Some("tmpfs")
    } else if has("noexec") {
        Some("exec")
    } else if own_kernel {
        None
    } else {
        ["nosuid", "nodev"].into_iter().find(|option| !has(option))
    };
    match lack {
        None => Ok(()),
        Some(lack) => Err(PostureError::Mount {
            path: asked.path.clone(),
            found: format!("{}, {}", found.kind, found.options),
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
pub(crate) mod tests;
