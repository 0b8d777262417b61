//! What the container's cgroup says: version 1, version 2, or both (hybrid).
//!
//! Where the files are is told by the mount table and `/proc/self/cgroup`. A mount may show the
//! whole hierarchy or, as engines do it, only the container's part of it; with a cgroup namespace
//! the path of this process begins at the container's own group, without one at the machine's.
//!
//! ```text
//!  mount point        root of the mount   path of this process   own group is at
//!  /sys/fs/cgroup     /                   /                      the mount point
//!  /sys/fs/cgroup     /                   /a/b                   the mount point + /a/b
//!  /sys/fs/cgroup/x   /docker/1           /docker/1/b            the mount point + /b
//!  /sys/fs/cgroup/x   /docker/1           anything else          the mount point
//! ```
//!
//! A limit that is in force is the smallest of the own group's and of those above it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use super::mounts;
use crate::keeper::wire::Limit;

/// Above this a limit of version 1 stands for none: it has no word for it, only a large number.
const NO_LIMIT: u64 = 1 << 62;

/// A CPU in the unit of [`cpus_max`].
const CPU: u64 = 1_000_000_000;

static OWN: LazyLock<Groups> = LazyLock::new(|| {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    Groups::parse(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup"))
});

/// The groups this process is in.
#[derive(Debug, PartialEq, Eq)]
struct Groups(Vec<Group>);

/// One of them.
#[derive(Debug, PartialEq, Eq)]
struct Group {
    /// Those of version 1 at this mount; `None` is version 2.
    controllers: Option<Vec<String>>,
    /// Its directory first, then those above it that the mount shows.
    levels: Vec<PathBuf>,
}

/// The names of a file in version 2 and, with its controller, in version 1.
struct Name {
    unified: &'static str,
    controller: &'static str,
    legacy: &'static str,
}

impl Groups {
    fn parse(mountinfo: &str, cgroup: &str) -> Self {
        let mut groups: Vec<Group> =
            mountinfo.lines().filter_map(|line| group(line, cgroup)).collect();
        if groups.is_empty() {
            // A sandbox may show the files and not how they come there.
            let base = PathBuf::from("/sys/fs/cgroup");
            for name in ["cpu", "memory", "pids"] {
                let controllers = Some(vec![name.to_owned()]);
                groups.push(Group { controllers, levels: vec![base.join(name)] });
            }
            groups.push(Group { controllers: None, levels: vec![base] });
        }
        Self(groups)
    }

    /// The contents of a file in the own group and in those above it, as far as they can be read.
    fn read(&self, name: &Name) -> Vec<String> {
        let of = |group: &Group| {
            let file = match &group.controllers {
                Some(controllers) if controllers.iter().any(|it| it == name.controller) => {
                    name.legacy
                }
                Some(_) => return Vec::new(),
                None => name.unified,
            };
            let texts = group.levels.iter().map(|level| fs::read_to_string(level.join(file)).ok());
            texts.flatten().collect()
        };
        // In hybrid mode a controller is in one of the versions, and only that one has the file.
        self.0.iter().map(of).find(|texts: &Vec<String>| !texts.is_empty()).unwrap_or_default()
    }

    fn smallest(&self, name: &Name, parse: impl Fn(&str) -> Limit) -> Limit {
        smallest(self.read(name).iter().map(|text| parse(text.trim())))
    }

    fn cpus_max(&self) -> Limit {
        // Version 1 has quota and period in two files.
        let quotas =
            self.read(&Name { unified: "cpu.max", controller: "cpu", legacy: "cpu.cfs_quota_us" });
        let periods =
            self.read(&Name { unified: "cpu.max", controller: "cpu", legacy: "cpu.cfs_period_us" });
        smallest(quotas.iter().zip(&periods).map(|(quota, period)| cpus(quota, period)))
    }
}

/// The group of this process at a mount; `None` if the line is of another file system.
fn group(line: &str, cgroup: &str) -> Option<Group> {
    let mount = mounts::parse(line.as_bytes())?;
    let root = String::from_utf8(mounts::unescape(line.split(' ').nth(3)?.as_bytes())).ok()?;
    let controllers: Option<Vec<String>> = match mount.kind.as_str() {
        "cgroup" => Some(mount.options.split(',').map(str::to_owned).collect()),
        "cgroup2" => None,
        _ => return None,
    };
    let path = cgroup.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (_, names, path) = (fields.next()?, fields.next()?, fields.next()?);
        let here = match &controllers {
            None => names.is_empty(),
            Some(controllers) => {
                names.split(',').any(|name| controllers.iter().any(|it| it == name))
            }
        };
        here.then_some(path)
    });
    let point = PathBuf::from(String::from_utf8(mount.path).ok()?);
    Some(Group { controllers, levels: levels(&point, &root, path.unwrap_or("/")) })
}

/// The directories of a group and of those above it, as the table above says.
fn levels(point: &Path, root: &str, path: &str) -> Vec<PathBuf> {
    let below = match path.strip_prefix(root.trim_end_matches('/')) {
        Some(below) if below.is_empty() || below.starts_with('/') => below.trim_matches('/'),
        _ => "",
    };
    // Of a process that was moved out of its namespace the path leads upwards.
    let below = if below.split('/').any(|part| part == "..") { "" } else { below };
    let own = point.join(below);
    own.ancestors().take_while(|level| level.starts_with(point)).map(Path::to_path_buf).collect()
}

fn smallest(limits: impl Iterator<Item = Limit>) -> Limit {
    limits.fold(Limit::Unread, |least, limit| match (least, limit) {
        (Limit::At(one), Limit::At(other)) => Limit::At(one.min(other)),
        (Limit::At(one), _) | (_, Limit::At(one)) => Limit::At(one),
        (Limit::Unlimited, _) | (_, Limit::Unlimited) => Limit::Unlimited,
        (Limit::Unread, Limit::Unread) => Limit::Unread,
    })
}

/// `max`, or a number.
fn number(text: &str) -> Limit {
    match text.parse() {
        _ if text == "max" => Limit::Unlimited,
        Ok(number) if number >= NO_LIMIT => Limit::Unlimited,
        Ok(number) => Limit::At(number),
        Err(_) => Limit::Unread,
    }
}

/// `quota period` of version 2 in both, or the two numbers of version 1.
fn cpus(quota: &str, period: &str) -> Limit {
    let (quota, period) = match quota.trim().split_once(' ') {
        Some((quota, period)) => (quota, period),
        None => (quota.trim(), period.trim()),
    };
    match (quota.parse::<i64>(), period.parse::<u64>()) {
        _ if quota == "max" => Limit::Unlimited,
        (Ok(quota), _) if quota < 0 => Limit::Unlimited,
        (Ok(quota), Ok(period)) if period > 0 => {
            Limit::At(quota.unsigned_abs().saturating_mul(CPU) / period)
        }
        _ => Limit::Unread,
    }
}

const PIDS_MAX: Name = Name { unified: "pids.max", controller: "pids", legacy: "pids.max" };
const PIDS: Name = Name { unified: "pids.current", controller: "pids", legacy: "pids.current" };
const MEMORY: Name =
    Name { unified: "memory.max", controller: "memory", legacy: "memory.limit_in_bytes" };
const EVENTS: Name =
    Name { unified: "memory.events", controller: "memory", legacy: "memory.oom_control" };

/// Processes and threads now; `None` if it cannot be read.
pub(super) fn pids_current() -> Option<u32> {
    OWN.read(&PIDS).first()?.trim().parse().ok()
}

/// Processes and threads at most.
pub(super) fn pids_max() -> Limit {
    OWN.smallest(&PIDS_MAX, number)
}

/// Bytes of memory at most.
pub(super) fn memory_max() -> Limit {
    OWN.smallest(&MEMORY, number)
}

/// CPUs at most, in billionths of one.
pub(super) fn cpus_max() -> Limit {
    OWN.cpus_max()
}

/// How often the memory limit made the kernel kill a process; `None` if it cannot be read.
pub(super) fn oom_kills() -> Option<u64> {
    counter(OWN.read(&EVENTS).first()?, "oom_kill")
}

/// The value in a file of `name value` lines.
fn counter(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(' ')?;
        if key == name { value.trim().parse().ok() } else { None }
    })
}

#[cfg(test)]
mod tests;
