//! A disk that a job fills: the job is ended before the disk is full.

use std::path::PathBuf;
use std::process::Command;

use crate::harness::{Failure, engine_is_there, start};

/// A small file system on a loop device; gone when it is dropped.
struct Disk(PathBuf);

impl Disk {
    /// `None` where this user may not mount, which is told.
    fn make(megabytes: u64, inodes: u64) -> Option<Self> {
        // The name is the one that tests/leftovers.sh looks for.
        let base = std::env::temp_dir().join(format!("codex-host-fs-full-{}", std::process::id()));
        let disk = Self(base.clone());
        std::fs::create_dir_all(base.join("mounted")).unwrap();
        let image = base.join("image");
        std::fs::File::create(&image).unwrap().set_len(megabytes << 20).unwrap();
        let made = disk.did("mkfs.ext4", &["-q", "-m", "0", "-N", &inodes.to_string(), "image"])
            && disk.did("mount", &["-o", "loop", "image", "mounted"])
            && disk.did("chmod", &["777", "mounted"]);
        if made {
            return Some(disk);
        }
        let required = std::env::var("CODEX_TESTS_REQUIRE_ENGINE").is_ok_and(|value| value == "1");
        assert!(!required, "no file system can be mounted");
        println!("left out: no file system can be mounted");
        None
    }

    fn did(&self, program: &str, arguments: &[&str]) -> bool {
        let output = Command::new(program).args(arguments).current_dir(&self.0).output();
        output.is_ok_and(|output| output.status.success())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.did("umount", &["mounted"]);
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_fills_a_disk_is_ended_while_some_of_it_is_free() -> Result<(), Failure> {
    if !engine_is_there() {
        return Ok(());
    }
    let Some(disk) = Disk::make(128, 4096) else { return Ok(()) };
    let mount = format!("{}:/small", disk.0.join("mounted").display());
    let container = start(&["-v", &mount]).await;
    container.arm().await;
    container.run("true").await;
    // A place that nobody knows by name is root's; this one is to be filled.
    let open = |mode: &str| {
        let arguments = ["exec", "-u", "0", &container.name, "chmod", mode, "/small"];
        assert!(Command::new("docker").args(arguments).status().unwrap().success());
    };
    // Quickly to what is above the floor of 2 MiB and 64 files, then so slowly that a look each second
    // sees it before nothing is left.
    let slow_bytes =
        "head -c $(($(df --output=avail -B1 /small | tail -1) - 4000000)) /dev/zero > /small/first
        while :; do head -c 50K /dev/zero >> /small/fill || exit 3; sleep 0.05; done";
    let slow_names = "free=$(df --output=iavail /small | tail -1)
        for i in $(seq $((free - 80))); do echo > /small/first$i; done
        while :; do i=$((i + 1)); echo > /small/$i || exit 3; sleep 0.05; done";
    for script in [slow_bytes, slow_names] {
        open("777");
        let (exit, out, err) = container.run(script).await;
        assert_eq!(exit.disk_full.as_deref(), Some("/small"), "{exit:?} {out}{err}");
        assert_ne!(exit.code, Some(3), "it had been full before: {err}");
        container.keeper().reset().await?;
        let left = std::fs::read_dir(disk.0.join("mounted"))?.count();
        assert_eq!(left, 0);
    }
    drop(container);
    Ok(())
}
