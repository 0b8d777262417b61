use super::*;

/// A mount table and `/proc/self/cgroup`, as a machine has them whose `/sys` is `{at}`.
struct Machine {
    directory: tempfile::TempDir,
    mounts: String,
    cgroup: &'static str,
}

impl Machine {
    /// `mounts`: mount point, root, kind, options of the file system.
    fn new(mounts: &[(&str, &str, &str, &str)], cgroup: &'static str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path().display();
        let lines = mounts.iter().map(|(point, root, kind, options)| {
            format!("30 29 0:26 {root} {at}{point} ro,nosuid shared:9 - {kind} {kind} {options}\n")
        });
        let mounts = lines.collect();
        Self { directory, mounts, cgroup }
    }

    fn file(self, path: &str, text: &str) -> Self {
        let path = self.directory.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    fn groups(&self) -> Groups {
        Groups::parse(&self.mounts, self.cgroup)
    }

    /// Memory, processes, CPUs, processes now.
    fn all(&self) -> (Limit, Limit, Limit, Option<String>) {
        let groups = self.groups();
        (
            groups.smallest(&MEMORY, number),
            groups.smallest(&PIDS_MAX, number),
            groups.cpus_max(),
            groups.read(&PIDS).first().map(|text| text.trim().to_owned()),
        )
    }
}

const V1: [(&str, &str, &str, &str); 4] = [
    ("/sys/cpu,cpuacct", "/docker/1", "cgroup", "rw,cpu,cpuacct"),
    ("/sys/memory", "/docker/1", "cgroup", "rw,memory"),
    ("/sys/pids", "/docker/1", "cgroup", "rw,pids"),
    ("/sys/systemd", "/docker/1", "cgroup", "rw,xattr,name=systemd"),
];

const V1_PATHS: &str = "9:pids:/docker/1\n8:memory:/docker/1\n7:cpu,cpuacct:/docker/1\n\
    1:name=systemd:/docker/1\n";

fn with_v1(machine: Machine) -> Machine {
    machine
        .file("sys/memory/memory.limit_in_bytes", "536870912\n")
        .file("sys/pids/pids.max", "64\n")
        .file("sys/pids/pids.current", "7\n")
        .file("sys/cpu,cpuacct/cpu.cfs_quota_us", "50000\n")
        .file("sys/cpu,cpuacct/cpu.cfs_period_us", "100000\n")
}

fn limits() -> (Limit, Limit, Limit, Option<String>) {
    (Limit::At(512 << 20), Limit::At(64), Limit::At(CPU / 2), Some("7".into()))
}

fn with_v2(machine: Machine, group: &str) -> Machine {
    machine
        .file(&format!("sys/{group}memory.max"), "536870912\n")
        .file(&format!("sys/{group}pids.max"), "64\n")
        .file(&format!("sys/{group}pids.current"), "7\n")
        .file(&format!("sys/{group}cpu.max"), "50000 100000\n")
}

#[test]
fn version_1_is_read_where_the_mounts_show_only_the_containers_part() {
    assert_eq!(with_v1(Machine::new(&V1, V1_PATHS)).all(), limits());
}

#[test]
fn hybrid_is_read_from_the_version_that_has_the_controller() {
    let mut mounts = V1.to_vec();
    mounts.insert(0, ("/sys/unified", "/docker/1", "cgroup2", "rw,nsdelegate"));
    let machine = Machine::new(
        &mounts,
        concat!(
            "9:pids:/docker/1\n8:memory:/docker/1\n",
            "7:cpu,cpuacct:/docker/1\n0::/docker/1\n"
        ),
    );
    let machine = machine.file("sys/unified/cgroup.procs", "1\n");
    assert_eq!(with_v1(machine).all(), limits());
}

#[test]
fn version_2_is_read_with_and_without_a_namespace() {
    let mount = |root| [("/sys", root, "cgroup2", "rw,nsdelegate")];
    let private = Machine::new(&mount("/"), "0::/\n");
    assert_eq!(with_v2(private, "").all(), limits());
    let part = Machine::new(&mount("/docker/1"), "0::/docker/1\n");
    assert_eq!(with_v2(part, "").all(), limits());
    let whole = Machine::new(&mount("/"), "0::/system.slice/docker-1.scope\n");
    assert_eq!(with_v2(whole, "system.slice/docker-1.scope/").all(), limits());
    let moved = Machine::new(&mount("/"), "0::/../other\n");
    assert_eq!(with_v2(moved, "").all(), limits());
}

#[test]
fn the_smallest_limit_of_all_levels_is_the_one_in_force() {
    let mounts = [("/sys", "/", "cgroup2", "rw")];
    let machine = Machine::new(&mounts, "0::/scope/container\n");
    let machine = with_v2(machine, "scope/")
        .file("sys/scope/container/memory.max", "max\n")
        .file("sys/scope/container/pids.max", "100\n")
        .file("sys/scope/container/cpu.max", "max 100000\n")
        .file("sys/scope/container/pids.current", "7\n");
    assert_eq!(machine.all(), limits());
}

#[test]
fn no_limit_is_told_from_a_limit_that_cannot_be_read() {
    let v1 = Machine::new(&V1, V1_PATHS)
        .file("sys/memory/memory.limit_in_bytes", "9223372036854771712\n")
        .file("sys/pids/pids.max", "max\n")
        .file("sys/cpu,cpuacct/cpu.cfs_quota_us", "-1\n")
        .file("sys/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
    let none = (Limit::Unlimited, Limit::Unlimited, Limit::Unlimited, None);
    assert_eq!(v1.all(), none);
    let v2 = Machine::new(&[("/sys", "/", "cgroup2", "rw")], "0::/\n")
        .file("sys/memory.max", "max\n")
        .file("sys/pids.max", "max\n")
        .file("sys/cpu.max", "max 100000\n");
    assert_eq!(v2.all(), none);
    let empty = Machine::new(&V1, V1_PATHS);
    assert_eq!(empty.all(), (Limit::Unread, Limit::Unread, Limit::Unread, None));
}

#[test]
fn without_a_mount_the_usual_places_are_looked_at() {
    let groups = Groups::parse("", "0::/\n");
    let levels: Vec<_> = groups.0.iter().flat_map(|group| &group.levels).collect();
    assert!(levels.contains(&&PathBuf::from("/sys/fs/cgroup/pids")), "{levels:?}");
    assert!(levels.contains(&&PathBuf::from("/sys/fs/cgroup")), "{levels:?}");
}

#[test]
fn reads_the_counter_of_either_version() {
    let legacy = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n";
    let unified = "low 0\nhigh 0\nmax 7\noom 2\noom_kill 1\noom_group_kill 0\n";
    assert_eq!(counter(legacy, "oom_kill"), Some(3));
    assert_eq!(counter(unified, "oom_kill"), Some(1));
    assert_eq!(counter("", "oom_kill"), None);
}
