//! A spec in Docker's words.

use std::collections::HashMap;

use bollard::models::{
    ContainerCreateBody, HealthConfig, HostConfig, HostConfigLogConfig, Mount, MountType,
    MountVolumeOptions,
};

use crate::engine::{ContainerSpec, Network, Tmpfs};

/// Name of the machine inside; shown in prompts and build logs.
const HOSTNAME: &str = "codex";

/// The body of the request that creates a container.
pub(super) fn body(spec: &ContainerSpec) -> ContainerCreateBody {
    let mut argv = spec.argv.iter().cloned();
    ContainerCreateBody {
        hostname: Some(HOSTNAME.into()),
        image: Some(spec.image.clone()),
        // An entrypoint of ours so that the image's own does not come before it.
        entrypoint: Some(argv.by_ref().take(1).collect()),
        cmd: Some(argv.collect()),
        user: Some("0".into()),
        working_dir: Some("/".into()),
        labels: Some(labels(spec)),
        // An image's health check would start a program in the container every few seconds.
        healthcheck: Some(HealthConfig {
            test: Some(vec!["NONE".to_owned()]),
            ..Default::default()
        }),
        host_config: Some(host_config(spec)),
        ..Default::default()
    }
}

fn host_config(spec: &ContainerSpec) -> HostConfig {
    let memory = i64::try_from(spec.memory).unwrap_or(i64::MAX);
    let tmpfs: HashMap<String, String> =
        spec.tmpfs.iter().map(|mount| (mount.path.clone(), options(mount))).collect();
    HostConfig {
        memory: Some(memory),
        // Equal to the memory limit: no swap.
        memory_swap: Some(memory),
        nano_cpus: (spec.cpus > 0.0).then(|| nano(spec.cpus)),
        pids_limit: Some(i64::from(spec.pids)),
        readonly_rootfs: Some(spec.read_only),
        network_mode: Some(network(&spec.network).to_owned()),
        ipc_mode: Some("private".into()),
        auto_remove: Some(true),
        // Ours is pid 1.
        init: Some(false),
        privileged: Some(false),
        cap_drop: Some(vec!["ALL".into()]),
        cap_add: Some(spec.capabilities.clone()),
        security_opt: Some(vec!["no-new-privileges".into(), format!("seccomp={}", spec.seccomp)]),
        log_config: Some(HostConfigLogConfig {
            typ: Some("none".into()),
            config: Some(HashMap::new()),
        }),
        mounts: Some(spec.volumes.iter().map(|path| volume(spec, path)).collect()),
        tmpfs: Some(tmpfs),
        runtime: spec.runtime.clone(),
        ..Default::default()
    }
}

fn network(network: &Network) -> &str {
    match network {
        Network::None => "none",
        Network::Bridge => "bridge",
        Network::Named(name) => name,
        Network::Host => "host",
    }
}

/// A volume without a name, which the engine removes together with its container.
fn volume(spec: &ContainerSpec, path: &str) -> Mount {
    Mount {
        target: Some(path.to_owned()),
        typ: Some(MountType::VOLUME),
        volume_options: Some(MountVolumeOptions {
            // What the image has there is not wanted; copying it costs time at every creation.
            no_copy: Some(true),
            labels: Some(labels(spec)),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn labels(spec: &ContainerSpec) -> HashMap<String, String> {
    spec.labels.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// Mount options. `exec` is said because the engine's default is `noexec`.
fn options(mount: &Tmpfs) -> String {
    format!(
        "rw,exec,nosuid,nodev,size={},nr_inodes={},mode={:04o}",
        mount.bytes, mount.inodes, mount.mode
    )
}

#[expect(clippy::cast_possible_truncation, reason = "a whole number of billionths, saturating")]
fn nano(cpus: f64) -> i64 {
    (cpus * 1e9).round() as i64
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn spec() -> ContainerSpec {
        ContainerSpec {
            image: "i".into(),
            labels: [("k".to_owned(), "v".to_owned())].into(),
            argv: vec!["init".into(), "30".into()],
            memory: 1 << 30,
            cpus: 1.5,
            pids: 64,
            read_only: true,
            runtime: None,
            tmpfs: vec![Tmpfs { path: "/tmp".into(), bytes: 4096, inodes: 10, mode: 0o1777 }],
            volumes: vec!["/app".into()],
            capabilities: vec!["KILL".into()],
            seccomp: "{}".into(),
            network: Network::None,
        }
    }

    #[test]
    fn a_spec_becomes_a_request_with_every_restriction_in_it() {
        let body = body(&spec());
        assert_eq!(body.entrypoint, Some(vec!["init".to_owned()]));
        assert_eq!(body.cmd, Some(vec!["30".to_owned()]));
        assert_eq!(body.env, None);
        let host = body.host_config.unwrap();
        assert_eq!(host.network_mode.as_deref(), Some("none"));
        assert_eq!(host.memory, host.memory_swap);
        assert_eq!(host.nano_cpus, Some(1_500_000_000));
        assert_eq!(host.cap_drop, Some(vec!["ALL".to_owned()]));
        assert_eq!(
            host.security_opt,
            Some(vec!["no-new-privileges".to_owned(), "seccomp={}".to_owned()])
        );
        assert_eq!(
            host.tmpfs.unwrap()["/tmp"],
            "rw,exec,nosuid,nodev,size=4096,nr_inodes=10,mode=1777"
        );
        assert_eq!(host.mounts.unwrap()[0].source, None);
    }
}
