//! Where the host's own paths of workspaces may lead to them in a container.
//!
//! A link can only be where something can be written. So the directory that holds a workspace on the
//! host is a small place of root's in the container, and the link is made in it when the workspace is
//! put. What the image itself needs is never covered; a workspace whose path would need that has none.

use std::path::{Path, PathBuf};

use super::{HOME, KEEPER};
use crate::engine::Tmpfs;
use crate::keeper::wire::{HOME_TEMPLATE, WORKSPACE};

/// Bytes and files of a place; a link takes neither of note.
const SIZE: (u64, u64) = (1 << 20, 1024);

/// Places at most; what is over is left out.
const MOST: usize = 8;

/// Places that a container has anyway, in which a link may be.
const THERE: [&str; 2] = [HOME, "/tmp"];

/// First components of paths that belong to the image or to the kernel.
const SYSTEM: [&str; 12] =
    ["bin", "boot", "cache", "dev", "etc", "lib", "lib32", "lib64", "proc", "run", "sbin", "sys"];

/// What the image needs besides; no place may be one of these, or hold one.
const NEEDED: [&str; 9] = [
    WORKSPACE,
    HOME_TEMPLATE,
    KEEPER,
    "/usr/bin",
    "/usr/lib",
    "/usr/share",
    "/var/lib/dpkg",
    "/var/tmp",
    "/var/run",
];

/// The places of one profile.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostPaths {
    /// What has to be mounted.
    mounts: Vec<String>,
    /// Those, and what is there anyway and is used.
    places: Vec<String>,
}

impl HostPaths {
    /// Places for workspaces that are, or lie in, the absolute paths `workspaces`.
    pub fn of(workspaces: &[PathBuf]) -> Self {
        let mut mounts: Vec<String> = Vec::new();
        let mut places: Vec<String> = Vec::new();
        for parent in workspaces.iter().filter_map(|path| path.parent()) {
            if let Some(there) = THERE.iter().find(|there| parent.starts_with(there)) {
                places.push((*there).to_owned());
            } else if let Some(parent) = usable(parent) {
                mounts.push(parent.to_owned());
            }
        }
        mounts.sort();
        mounts.dedup();
        let all = mounts.clone();
        // One in another would hide it.
        mounts.retain(|one| {
            !all.iter().any(|other| one != other && Path::new(one).starts_with(other))
        });
        mounts.truncate(MOST);
        places.extend(mounts.iter().cloned());
        places.sort();
        places.dedup();
        Self { mounts, places }
    }

    /// The mounts that are needed for them.
    pub(super) fn mounts(&self) -> impl Iterator<Item = Tmpfs> {
        let (bytes, inodes) = SIZE;
        self.mounts.iter().map(move |path| Tmpfs { path: path.clone(), bytes, inodes, mode: 0o755 })
    }

    /// Bytes that the mounts may hold.
    pub(super) fn bytes(&self) -> u64 {
        self.mounts.len() as u64 * SIZE.0
    }

    /// The directories in which links may be.
    pub(super) fn places(&self) -> &[String] {
        &self.places
    }
}

/// The directory as text, if a mount there covers nothing that is needed and means the same directory
/// in every image.
fn usable(directory: &Path) -> Option<&str> {
    let text = directory.to_str().filter(|text| !text.contains(char::is_control))?;
    let mut components = text.strip_prefix('/')?.split('/');
    let plain = text.split('/').skip(1).all(|name| !matches!(name, "" | "." | ".."));
    let system = components.next().is_none_or(|first| SYSTEM.contains(&first));
    let covers = |needed: &str| Path::new(needed).starts_with(directory);
    let within = |needed: &str| directory.starts_with(needed);
    let taken = NEEDED.iter().any(|needed| covers(needed) || within(needed));
    (plain && !system && !taken).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(workspaces: &[&str]) -> HostPaths {
        HostPaths::of(&workspaces.iter().map(PathBuf::from).collect::<Vec<_>>())
    }

    #[test]
    fn the_directories_that_hold_workspaces_are_mounted_once_and_none_in_another() {
        let found = of(&["/home/ann/src/a", "/home/ann/src/b", "/home/ann/x", "/workspaces/c"]);
        assert_eq!(found.mounts, ["/home/ann", "/workspaces"]);
        assert_eq!(found.places(), ["/home/ann", "/workspaces"]);
        assert_eq!(found.bytes(), 2 << 20);
    }

    #[test]
    fn what_is_writable_anyway_is_used_as_it_is() {
        let found = of(&["/tmp/a/b", "/home/codex/project"]);
        assert!(found.mounts.is_empty());
        assert_eq!(found.places(), ["/home/codex", "/tmp"]);
    }

    #[test]
    fn nothing_that_the_image_needs_is_covered() {
        let refused = [
            "/project",
            "/usr/x",
            "/usr/local/x",
            "/opt/x",
            "/opt/codex/x",
            "/var/x",
            "/var/lib/x",
            "/etc/x/y",
            "/proc/1/x",
            "/app/x",
            "/app/x/y",
            "/run/user/1000/x",
            "/usr/bin/x/y",
            "/usr/local/bin/codex-keeper/x",
            "relative/x",
            "/var/run/x/y",
            "/dev/shm/x/y",
            "/lib64/x/y",
        ];
        for path in refused {
            assert_eq!(of(&[path]), HostPaths::default(), "{path}");
        }
        let used = ["/opt/work/x", "/var/www/x", "/root/x", "/srv/x", "/Users/ann/x", "/home/x"];
        for path in used {
            assert_eq!(of(&[path]).mounts.len(), 1, "{path}");
        }
    }

    #[test]
    fn no_more_than_a_few() {
        let many: Vec<PathBuf> = (0..100).map(|n| format!("/srv/{n}/x").into()).collect();
        assert_eq!(HostPaths::of(&many).mounts.len(), MOST);
    }
}
