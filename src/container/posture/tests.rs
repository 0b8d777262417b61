use proptest::prelude::*;

use super::*;
use crate::container::spec::{spec, tests::config};

fn asked() -> ContainerSpec {
    spec(&config(), &Network::None, &Default::default(), "me", jiff::Timestamp::UNIX_EPOCH)
}

/// What a container that is as asked reports.
pub(crate) fn good() -> Posture {
    let spec = asked();
    let tmpfs = spec.tmpfs.iter().map(|place| WritableMount {
        path: place.path.clone(),
        kind: "tmpfs".into(),
        bytes: place.bytes,
        inodes: place.inodes,
        options: "rw,nosuid,nodev,relatime".into(),
    });
    let volumes = spec.volumes.iter().map(|path| WritableMount {
        path: path.clone(),
        kind: "ext4".into(),
        bytes: 1 << 40,
        inodes: 1 << 20,
        options: "rw,relatime".into(),
    });
    let own = ["/proc", "/dev", "/dev/pts", "/dev/mqueue"].into_iter().map(|path| WritableMount {
        path: path.into(),
        kind: "own".into(),
        ..Default::default()
    });
    Posture {
        // KILL CHOWN FOWNER DAC_OVERRIDE SETUID SETGID
        capabilities: 0b1110_1011,
        no_new_privileges: true,
        seccomp: 2,
        read_only_root: true,
        interfaces: vec!["lo".into()],
        memory: Limit::At(spec.memory),
        pids: Limit::At(spec.pids.into()),
        cpus: Limit::Unlimited,
        writable: tmpfs.chain(volumes).chain(own).collect(),
        ..Posture::default()
    }
}

fn mount<'a>(posture: &'a mut Posture, path: &str) -> &'a mut WritableMount {
    posture.writable.iter_mut().find(|mount| mount.path == path).unwrap()
}

type Spoil = fn(&mut Posture);

fn spoilt(spoil: Spoil) -> Posture {
    let mut posture = good();
    spoil(&mut posture);
    posture
}

#[test]
fn what_was_asked_for_passes() {
    assert_eq!(check_posture(&asked(), &good()), Ok(Findings::default()));
}

#[test]
fn what_does_not_keep_a_program_in_is_refused_with_a_word_on_what_to_do() {
    let table: &[(&str, Spoil)] = &[
        ("it can have the capabilities FSETID; see", |p| p.capabilities |= 1 << 4),
        ("it lacks the capabilities CHOWN; see", |p| p.capabilities &= !1),
        ("capabilities NET_RAW, number 63 and lacks KILL; see", |p| {
            p.capabilities ^= 1 << 13 | 1 << 63 | 1 << 5;
        }),
        ("no-new-privileges is not in force", |p| p.no_new_privileges = false),
        ("no seccomp filter is in force (mode 0 instead of 2)", |p| p.seccomp = 0),
        ("not denied keyctl, unshare, so another seccomp profile", |p| {
            p.allowed = vec![Attempt::Keyctl, Attempt::Unshare];
        }),
        ("may open the device /dev/kmsg; see", |p| p.devices.push("/dev/kmsg".into())),
        ("set container.read_only = false", |p| p.read_only_root = false),
        ("interface eth0 although network.mode", |p| p.interfaces.push("eth0".into())),
        ("/tmp is not mounted", |p| p.writable.retain(|mount| mount.path != "/tmp")),
        ("/app is not mounted", |p| p.writable.retain(|mount| mount.path != "/app")),
        ("/tmp is mounted as ext4, rw,nosuid,nodev,relatime in it and lacks tmpfs", |p| {
            mount(p, "/tmp").kind = "ext4".into();
        }),
        ("lacks exec", |p| mount(p, "/tmp").options.push_str(",noexec")),
        ("lacks nosuid", |p| mount(p, "/run").options = "rw,nodev".into()),
        ("lacks nodev", |p| mount(p, "/home/codex").options = "rw,nosuid".into()),
        ("/mnt is a writable mount that nobody asked for; see", |p| {
            p.writable.push(WritableMount { path: "/mnt".into(), ..Default::default() });
        }),
    ];
    for (words, spoil) in table {
        let error = check_posture(&asked(), &spoilt(*spoil)).unwrap_err().to_string();
        assert!(error.contains(words), "{words}: {error}");
    }
}

#[test]
fn a_limit_that_is_not_in_force_is_told_and_not_refused() {
    let table: &[(&str, Spoil)] = &[
        ("there is no limit of memory (container.memory = 4.0 GiB)", |p| {
            p.memory = Limit::Unlimited
        }),
        ("the limit of memory is 8.0 GiB and not as asked (container.memory = 4.0 GiB)", |p| {
            p.memory = Limit::At(8 << 30);
        }),
        ("whether there is a limit of memory cannot be read", |p| p.memory = Limit::Unread),
        ("there is no limit of processes (container.pids = 1024)", |p| p.pids = Limit::Unlimited),
        ("the limit of processes is 64 and not as asked", |p| p.pids = Limit::At(64)),
        ("whether there is a limit of processes cannot be read", |p| p.pids = Limit::Unread),
        ("there is no limit of CPUs (container.cpus = 1.50)", |p| p.cpus = Limit::Unlimited),
        ("the limit of CPUs is 1.00 and not as asked (container.cpus = 1.50)", |p| {
            p.cpus = Limit::At(CPU);
        }),
        ("whether there is a limit of CPUs cannot be read", |p| p.cpus = Limit::Unread),
        ("the size of /dev/shm is 384.0 MiB instead of 192.0 MiB", |p| {
            mount(p, "/dev/shm").bytes *= 2;
        }),
        ("the number of files in /tmp is not limited (to 65536)", |p| {
            mount(p, "/tmp").inodes = 0;
        }),
        ("the number of files in /tmp is limited to 7 instead of 65536", |p| {
            mount(p, "/tmp").inodes = 7;
        }),
    ];
    let mut spec = asked();
    spec.cpus = 1.5;
    for (words, spoil) in table {
        let mut posture = good();
        // As the kernel rounds it.
        posture.cpus = Limit::At(CPU * 3 / 2 - 9_999);
        assert_eq!(check_posture(&spec, &posture), Ok(Findings::default()));
        spoil(&mut posture);
        let findings = check_posture(&spec, &posture).unwrap();
        assert_eq!(findings.no_reset, Vec::<String>::new(), "{words}");
        assert_eq!(findings.unenforced.len(), 1, "{words}: {findings:?}");
        assert!(findings.unenforced[0].contains(words), "{words}: {findings:?}");
    }
}

#[test]
fn what_a_proof_needs_and_cannot_be_read_ends_the_resets() {
    let table: &[(&str, Spoil)] = &[
        ("the processes in a container cannot be counted", |p| p.unread = vec![Unread::Processes]),
        ("System V IPC objects", |p| p.unread = vec![Unread::SystemV]),
        ("POSIX message queues", |p| p.unread = vec![Unread::MessageQueues]),
    ];
    for (words, spoil) in table {
        let findings = check_posture(&asked(), &spoilt(*spoil)).unwrap();
        assert_eq!(findings.unenforced, Vec::<String>::new());
        assert!(findings.no_reset.len() == 1 && findings.no_reset[0].contains(words), "{words}");
    }
}

#[test]
fn a_kernel_of_the_sandboxs_own_stands_in_for_seccomp_and_is_not_reset() {
    let posture = spoilt(|p| {
        p.own_kernel = true;
        p.seccomp = 0;
        p.allowed = vec![Attempt::Clone, Attempt::Unshare];
        p.devices = vec!["/dev/fuse".into()];
    });
    let findings = check_posture(&asked(), &posture).unwrap();
    let words = "own kernel does not apply the seccomp profile and allows clone with a user \
        namespace, unshare";
    assert!(findings.unenforced[0].contains(words), "{findings:?}");
    assert!(findings.no_reset[0].contains("unshare are allowed"), "{findings:?}");
    let mut bare = posture.clone();
    mount(&mut bare, "/tmp").options = "rw".into();
    let told = check_posture(&asked(), &bare).unwrap().unenforced;
    assert!(told[1].contains("nosuid and nodev cannot be seen"), "{told:?}");
    mount(&mut bare, "/tmp").options = "rw,noexec".into();
    check_posture(&asked(), &bare).unwrap_err();
    // Nothing else is forgiven.
    let root = Posture { read_only_root: false, ..posture.clone() };
    assert_eq!(check_posture(&asked(), &root), Err(PostureError::WritableRoot));
    // One that applies the profile is as good as the host's.
    let posture = Posture { seccomp: 2, allowed: vec![], ..posture };
    assert_eq!(check_posture(&asked(), &posture), Ok(Findings::default()));
}

#[test]
fn a_writable_root_that_was_asked_for_passes_and_is_not_reset() {
    let mut spec = asked();
    spec.read_only = false;
    let mut posture = good();
    posture.read_only_root = false;
    posture.writable.push(WritableMount { path: "/".into(), ..Default::default() });
    posture.writable.push(WritableMount { path: "/etc/hosts".into(), ..Default::default() });
    let findings = check_posture(&spec, &posture).unwrap();
    assert!(findings.no_reset[0].contains("container.read_only = false"), "{findings:?}");
    assert_eq!(findings.unenforced, Vec::<String>::new());
}

#[test]
fn other_networks_than_none_may_have_interfaces() {
    let mut spec = asked();
    spec.network = Network::Bridge;
    let posture = spoilt(|p| p.interfaces.push("eth0".into()));
    assert_eq!(check_posture(&spec, &posture), Ok(Findings::default()));
}

fn limits_of(value: u64) -> impl Strategy<Value = Limit> {
    prop_oneof![
        Just(Limit::Unread),
        Just(Limit::Unlimited),
        Just(Limit::At(value)),
        any::<u64>().prop_map(Limit::At)
    ]
}

proptest! {
    /// Whatever the limits are, they never refuse, and each that differs has a sentence.
    #[test]
    fn limits_are_never_refused_and_never_passed_over(
        memory in limits_of(4 << 30), pids in limits_of(1024), inodes in 0_u64..3,
    ) {
        let mut posture = Posture { memory, pids, ..good() };
        let asked_inodes = mount(&mut posture, "/tmp").inodes;
        mount(&mut posture, "/tmp").inodes = asked_inodes * inodes;
        let findings = check_posture(&asked(), &posture).unwrap();
        let differing = usize::from(memory != Limit::At(4 << 30))
            + usize::from(pids != Limit::At(1024))
            + usize::from(inodes != 1);
        prop_assert_eq!(findings.unenforced.len(), differing);
        prop_assert!(findings.no_reset.is_empty());
    }
}

#[test]
fn a_container_has_the_network_that_was_asked_for() {
    let with = |network| ContainerSpec { network, ..asked() };
    let mut posture = good();
    for network in [Network::Bridge, Network::Named("n".into())] {
        assert_eq!(check_posture(&with(network), &posture), Err(PostureError::NoNetwork));
    }
    assert_eq!(check_posture(&with(Network::Host), &posture), Ok(Findings::default()));
    posture.interfaces.push("eth0".into());
    for network in [Network::Bridge, Network::Named("n".into()), Network::Host] {
        assert_eq!(check_posture(&with(network), &posture), Ok(Findings::default()));
    }
}
