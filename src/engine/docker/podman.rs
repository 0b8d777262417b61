//! What Podman wants otherwise than Docker, whose API it speaks on a socket of its own.
//!
//! - A seccomp profile is the path of a file that its service opens; Docker takes the profile.
//! - A tmpfs cannot have a number of inodes, and is filled from the image unless told not to be.
//! - A container with a read-only root gets tmpfs mounts without a size at `/run`, `/tmp` and
//!   `/var/tmp`, except where one was asked for. `/var/tmp` of our image is a link to `/tmp`, so
//!   that mount would hide the one that has a size.
//! - Limits of open files and processes are set whatever the service itself may; where it has less
//!   and may not raise it, no container would start.

use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use bollard::models::{ContainerCreateBody, ResourcesUlimits};
use rustix::process::{Resource, getrlimit};

use crate::engine::ContainerSpec;

/// Open files of one process unless it asks for more.
const FILES: u64 = 1024;

/// Open files of one process at most; build tools ask for many.
const FILES_MOST: u64 = 65_536;

/// Makes of Docker's request one that Podman understands. `profile` is where [`keep`] put the
/// seccomp profile.
pub(super) fn adapt(body: &mut ContainerCreateBody, spec: &ContainerSpec, profile: &Path) {
    let Some(host) = body.host_config.as_mut() else { return };
    for option in host.security_opt.iter_mut().flatten() {
        if option.starts_with("seccomp=") {
            *option = format!("seccomp={}", profile.display());
        }
    }
    host.ulimits = Some(ulimits());
    let mut tmpfs: std::collections::HashMap<String, String> =
        spec.tmpfs.iter().map(|mount| (mount.path.clone(), options(mount))).collect();
    if let Some(options) = tmpfs.get("/tmp").cloned()
        && spec.read_only
    {
        tmpfs.insert("/var/tmp".to_owned(), options);
    }
    host.tmpfs = Some(tmpfs);
}

fn options(mount: &crate::engine::Tmpfs) -> String {
    format!("rw,exec,nosuid,nodev,notmpcopyup,size={},mode={:04o}", mount.bytes, mount.mode)
}

/// Ours are what a service on the same machine may set, too.
fn ulimits() -> Vec<ResourcesUlimits> {
    let most = |resource| getrlimit(resource).maximum;
    let files = most(Resource::Nofile).unwrap_or(FILES_MOST).min(FILES_MOST);
    let mut limits = vec![limit("nofile", FILES.min(files), files)];
    // Of all of a user's processes on the machine together; the container's own is the cgroup's.
    if let Some(processes) = most(Resource::Nproc) {
        limits.push(limit("nproc", processes, processes));
    }
    limits
}

fn limit(name: &str, soft: u64, hard: u64) -> ResourcesUlimits {
    let number = |value| i64::try_from(value).unwrap_or(i64::MAX);
    ResourcesUlimits {
        name: Some(name.to_owned()),
        soft: Some(number(soft)),
        hard: Some(number(hard)),
    }
}

/// Sees to it that a file in `directory` holds the profile; gives its path. The file is named by
/// what it holds and stays: the service opens it whenever a container is created.
///
/// # Errors
///
/// The directory cannot be made or written to.
pub(super) fn keep(directory: &Path, profile: &str) -> io::Result<PathBuf> {
    let hash = blake3::hash(profile.as_bytes()).to_hex();
    let path = directory.join(format!("seccomp-{}.json", &hash[..16]));
    if std::fs::read(&path).is_ok_and(|kept| kept == profile.as_bytes()) {
        return Ok(path);
    }
    std::fs::create_dir_all(directory)?;
    let written = directory.join(format!("seccomp-{}.part", uuid::Uuid::new_v4().simple()));
    let put = || {
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o644).open(&written)?;
        file.write_all(profile.as_bytes())?;
        std::fs::rename(&written, &path)
    };
    put().inspect_err(|_| {
        let _ = std::fs::remove_file(&written);
    })?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::super::create::{body, tests::spec};
    use super::*;

    #[test]
    fn a_request_to_podman_names_a_file_and_has_no_option_that_it_refuses() {
        let spec = spec();
        let mut body = body(&spec);
        adapt(&mut body, &spec, Path::new("/state/seccomp.json"));
        let host = body.host_config.unwrap();
        assert_eq!(
            host.security_opt.unwrap(),
            ["no-new-privileges", "seccomp=/state/seccomp.json"]
        );
        let tmpfs = host.tmpfs.unwrap();
        let asked = "rw,exec,nosuid,nodev,notmpcopyup,size=4096,mode=1777";
        assert_eq!(tmpfs["/tmp"], asked);
        // Else one without a size would lie over it.
        assert_eq!(tmpfs["/var/tmp"], asked);
        let limits = host.ulimits.unwrap();
        let files = limits.iter().find(|limit| limit.name.as_deref() == Some("nofile")).unwrap();
        assert!(files.soft <= files.hard && files.hard <= Some(65_536));
    }

    #[test]
    fn the_file_holds_the_profile_whatever_was_there() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("state");
        let path = keep(&directory, "{}").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{}");
        std::fs::write(&path, "{\"defaultAction\":\"SCMP_ACT_ALLOW\"}").unwrap();
        assert_eq!(keep(&directory, "{}").unwrap(), path);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{}");
        assert_ne!(keep(&directory, "{ }").unwrap(), path);
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 2);
    }
}
