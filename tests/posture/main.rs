//! What the host does with a container that is not as it asked: the real engine starts one from a
//! weaker spec than the host knows of, and arming must refuse it or tell what is weaker.
//!
//! Without an engine these tests print why they are skipped; with `CODEX_TESTS_REQUIRE_ENGINE=1`
//! they fail instead.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests")]

mod weakened;

use std::time::Duration;

use mcp_codex_orchestrator::config::{PoolConfig, Recycle};
use mcp_codex_orchestrator::engine::{ContainerSpec, Network};
use mcp_codex_orchestrator::pool::Pool;
use mcp_codex_orchestrator::pool::choice::WorkspaceKey;
use mcp_codex_orchestrator::pool::source::{Findings, Pooled, Source};
use mcp_codex_orchestrator::verdict::{DestroyReason, JobEnd, Verdict};

use crate::weakened::{Ground, Weakness};

/// Denies nothing.
const ALLOW_ALL: &str = r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#;

fn profile(change: impl Fn(&str) -> String) -> String {
    let ours = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docker/seccomp.json"));
    let ours = ours.unwrap();
    let changed = change(&ours);
    assert_ne!(changed, ours);
    changed
}

#[tokio::test]
async fn what_does_not_keep_a_program_in_is_refused_and_removed() {
    let Some(ground) = Ground::new().await else { return };
    let spec = |weaken: fn(&mut ContainerSpec)| Weakness::Spec(weaken);
    let table = [
        // Of every call on its own, that it is told where it alone is allowed, in the next test.
        (
            "not denied clone with a user namespace, clone with CLONE_PARENT, clone3, setns, mount",
            spec(|spec| spec.seccomp = ALLOW_ALL.into()),
        ),
        (
            "not denied clone with CLONE_PARENT, so another seccomp profile",
            spec(|spec| spec.seccomp = profile(|ours| ours.replace("2114093056", "2114060288"))),
        ),
        ("no seccomp filter is in force", spec(|spec| spec.seccomp = "unconfined".into())),
        ("capabilities NET_RAW; see", spec(|spec| spec.capabilities.push("NET_RAW".into()))),
        (
            "lacks the capabilities FOWNER; see",
            spec(|spec| {
                spec.capabilities.retain(|name| name != "FOWNER");
            }),
        ),
        ("set container.read_only = false", spec(|spec| spec.read_only = false)),
        ("interface eth0 although", spec(|spec| spec.network = Network::Bridge)),
        ("/mnt is a writable mount", spec(|spec| spec.volumes.push("/mnt".into()))),
        (
            "/dev/shm is mounted as",
            spec(|spec| {
                // The engine's own, which is noexec.
                spec.tmpfs.retain(|place| place.path != "/dev/shm");
            }),
        ),
        ("/cache is not mounted", spec(|spec| spec.volumes.retain(|path| path != "/cache"))),
        (
            "/tmp is mounted as",
            spec(|spec| {
                spec.tmpfs.retain(|place| place.path != "/tmp");
                spec.volumes.push("/tmp".into());
            }),
        ),
        ("may open the device /dev/kmsg", Weakness::Docker(&["--device=/dev/kmsg"])),
        (
            "no-new-privileges is not in force",
            Weakness::Docker(&["--security-opt=no-new-privileges=false"]),
        ),
    ];
    for (words, weakness) in table {
        let starter = ground.starter(weakness);
        let error = starter.start().await.unwrap_err().sentence;
        println!("{error}");
        assert!(error.starts_with("the engine did not confine a container as asked: "), "{error}");
        assert!(error.contains(words), "{words}: {error}");
        ground.until_nothing_is_left().await;
    }
}

/// What arming finds of a container from a spec that was changed so, without what is in it.
async fn found(ground: &Ground, weakness: Weakness) -> Findings {
    let starter = ground.starter(weakness);
    let armed = starter.start().await.unwrap();
    let findings = armed.findings().clone();
    starter.remove(armed.id()).await.unwrap();
    drop(armed);
    ground.until_nothing_is_left().await;
    findings
}

#[tokio::test]
async fn a_container_as_asked_has_nothing_to_tell() {
    let Some(ground) = Ground::new().await else { return };
    assert_eq!(found(&ground, Weakness::Spec(|_| {})).await, Findings::default());
}

#[tokio::test]
async fn a_limit_of_another_size_is_told_and_the_container_is_fit_for_use() {
    let Some(ground) = Ground::new().await else { return };
    let findings = found(
        &ground,
        Weakness::Spec(|spec| {
            spec.memory *= 2;
            spec.pids = 99;
            spec.cpus = 0.0;
            spec.tmpfs[1].bytes *= 2;
            spec.tmpfs[2].inodes *= 2;
        }),
    );
    let findings = findings.await;
    println!("{findings:#?}");
    assert_eq!(findings.no_reset, Vec::<String>::new());
    for (sentence, words) in findings.unenforced.iter().zip([
        "the limit of memory is 1.0 GiB and not as asked (container.memory = 512.0 MiB)",
        "the limit of processes is 99 and not as asked (container.pids = 64)",
        "there is no limit of CPUs (container.cpus = 0.50)",
        "the size of /tmp is 128.0 MiB instead of 64.0 MiB",
        "the number of files in /run is limited to 2048 instead of 1024",
    ]) {
        assert_eq!(sentence, words);
    }
    assert_eq!(findings.unenforced.len(), 5);
}

#[tokio::test]
async fn where_no_reset_can_be_proved_a_container_goes_after_its_first_job() {
    let Some(ground) = Ground::new().await else { return };
    let starter = ground.starter_of(Weakness::Spec(|_| {}), |config| config.read_only = false);
    let pool = Pool::start(
        starter,
        PoolConfig {
            min_idle: 0,
            max_size: 1,
            acquire_timeout: Duration::from_secs(60),
            max_queue: 1,
            max_uses: 50,
            max_age: Duration::from_secs(3600),
            refill_concurrency: 1,
            recycle: Recycle::Reset,
        },
    );
    let lease = pool.acquire(WorkspaceKey { dev: 1, ino: 1 }).await.unwrap();
    assert_eq!(lease.settle(JobEnd::Completed), Verdict::Destroy(DestroyReason::NoProof));
    let status = pool.status();
    pool.drain().await;
    assert_eq!(status.destroyed["no_proof"], 1);
    assert!(status.no_reset[0].contains("container.read_only = false"), "{status:?}");
    assert!(
        status.text().contains("Destroyed after each run, not reset: with container.read_only")
    );
    ground.until_nothing_is_left().await;
}

/// Each call that is tried is told when our profile allows it and nothing else.
#[tokio::test]
async fn every_call_is_told_where_it_alone_is_allowed() {
    let Some(ground) = Ground::new().await else { return };
    let table: [(&str, &str); 10] = [
        ("unshare", "unshare"),
        ("clone3", "clone3"),
        ("setns", "setns"),
        ("mount", "mount"),
        ("chroot", "chroot"),
        ("keyctl", "keyctl"),
        ("add_key", "add_key"),
        ("io_uring_setup", "io_uring_setup"),
        ("ptrace", "ptrace"),
        ("process_vm_readv", "process_vm_readv"),
    ];
    for (call, name) in table {
        let allow = format!(r#""syscalls": [{{"names": ["{call}"], "action": "SCMP_ACT_ALLOW"}},"#);
        let allowing = profile(|ours| {
            // A rule that denies the call by another number would come first.
            let ours = ours.replace(&format!("\"{call}\"]"), "\"acct\"]");
            let ours = ours.replace(&format!(", \"{call}\""), "");
            ours.replacen("\"syscalls\": [", &allow, 1)
        });
        let starter = ground.starter(Weakness::Profile(allowing));
        let error = starter.start().await.unwrap_err().sentence;
        assert!(error.contains(&format!("was not denied {name}, so another")), "{call}: {error}");
        ground.until_nothing_is_left().await;
    }
}
