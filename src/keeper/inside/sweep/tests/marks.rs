//! What is told by a node's owner, its times and its attributes alone: its contents are what was put.

use std::os::unix::fs::{chown, lchown};
use std::time::{Duration, SystemTime};

use super::*;

/// All that lies in `d`, and itself.
const ALL_OF_D: [&str; 5] = ["d", "d/a", "d/b", "d/sub", "d/sub/c"];

#[test]
fn what_is_somebody_elses_is_dropped_and_no_build_state() {
    if !rustix::process::geteuid().is_root() {
        assert!(std::env::var_os("CODEX_TESTS_REQUIRE_ENGINE").is_none());
        return println!("skipped: only root can give a file away");
    }
    for (user, group) in [(Some(1), None), (None, Some(1))] {
        for certifies in [true, false] {
            let given = |path: &'static str| {
                dropped_after(move |top| lchown(top.join(path), user, group).unwrap(), certifies)
            };
            assert_eq!(given("d"), ALL_OF_D);
            assert_eq!(given("f"), ["f"]);
            assert_eq!(given("l"), ["l"]);
        }
        let mut workspace = Workspace::usual();
        let certified = workspace.certified();
        for path in ["target/own", "d/target/given"] {
            std::fs::create_dir_all(workspace.path(path)).unwrap();
            std::fs::write(workspace.path(path).join("o"), "built").unwrap();
        }
        chown(workspace.path("d/target/given/o"), user, group).unwrap();
        assert_eq!(workspace.sweep(BOTH, certified).unwrap(), [""; 0]);
        assert_eq!(workspace.kept(), ["target/"], "one file that is another's, and none of it");
        assert!(!workspace.path("d/target").exists());
    }
}

/// Tools tell by it what they built it from: with another time it is not what was put.
#[test]
fn a_file_with_another_time_is_dropped_whatever_is_in_it() {
    let put = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    for (time, dropped) in [
        (put, &[][..]),
        (put + Duration::from_secs(5), &["f"][..]),
        (put - Duration::from_secs(5), &["f"][..]),
        (put + Duration::from_nanos(7), &["f"][..]),
    ] {
        for certifies in [true, false] {
            let touch = |top: &Path| {
                let file = std::fs::File::options().write(true).open(top.join("f")).unwrap();
                file.set_times(std::fs::FileTimes::new().set_modified(time)).unwrap();
            };
            assert_eq!(dropped_after(touch, certifies), dropped, "{time:?} {certifies}");
        }
    }
}

#[test]
fn the_second_look_sees_an_attribute_on_a_directory() {
    let workspace = Workspace::usual();
    let owner = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let held = || holds(workspace.root().as_fd(), &workspace.manifest, None, owner).unwrap();
    assert!(held());
    let opened = std::fs::File::open(workspace.path("d/sub")).unwrap();
    match rustix::fs::fsetxattr(opened, c"user.left", b"x", rustix::fs::XattrFlags::empty()) {
        Ok(()) => assert!(!held()),
        Err(error) => {
            assert_eq!(error, rustix::io::Errno::NOTSUP);
            assert!(std::env::var_os("CODEX_TESTS_REQUIRE_ENGINE").is_none());
            println!("skipped: this file system has no attributes");
        }
    }
}

/// Build state is what was made of the tree: nothing is in it through which something else is reached.
#[test]
fn special_files_in_build_state_go_and_the_rest_stays() {
    let mut workspace = Workspace::usual();
    let certified = workspace.certified();
    std::fs::create_dir_all(workspace.path("target/deep")).unwrap();
    std::fs::write(workspace.path("target/deep/o"), "built").unwrap();
    let fifo = workspace.path("target/deep/fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, Mode::RWXU, 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(workspace.path("target/socket")).unwrap();
    workspace.sweep(BOTH, certified).unwrap();
    assert_eq!(workspace.kept(), ["target/"]);
    let aside = workspace.aside.as_ref().unwrap().name().to_str().unwrap().to_owned();
    let kept = workspace.path(&aside).join("0");
    let names = |path: &Path| -> Vec<String> {
        let entries = std::fs::read_dir(path).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    };
    assert_eq!(names(&kept), ["deep"]);
    assert_eq!(names(&kept.join("deep")), ["o"]);
}
