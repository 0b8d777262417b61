//! An apply that was killed midway is recovered while a directory of it is swapped for a link to a
//! copy of itself outside, so that whatever is done by a name that leads out changes the copy.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::kill_tests::{killed, place, seen};
use super::recover::recover;
use crate::workspace::fixture::Place;

/// Rounds at each point at which the apply was killed.
const ROUNDS: u32 = 100;

/// Ends the swapping, also where the test fails.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").args([from, to]).status().unwrap();
    assert!(copied.success());
}

/// Puts everything back as the killed process left it; the workspace stays the directory it is.
fn put_back(place: &Place, left: &Path) {
    let base = place.dir.path();
    for entry in fs::read_dir(base.join("ws")).unwrap() {
        let path = entry.unwrap().path();
        match fs::symlink_metadata(&path).unwrap().is_dir() {
            true => fs::remove_dir_all(&path).unwrap(),
            false => fs::remove_file(&path).unwrap(),
        }
    }
    for name in ["state", "run-0"] {
        fs::remove_dir_all(base.join(name)).unwrap();
    }
    for name in ["ws", "state", "run-0"] {
        copy(&left.join(name), base);
    }
}

#[test]
fn no_recovery_leads_out() {
    let mut changed = 0;
    for point in (25..75).step_by(5) {
        let place = place();
        let base = place.dir.path();
        if !killed("apply", point, false, base) {
            break;
        }
        let nest = base.join("ws/nest");
        std::os::unix::fs::symlink(base.join("outside"), base.join("ws/other")).unwrap();
        copy(&nest, &base.join("outside"));
        let left = tempfile::tempdir_in(base).unwrap();
        for name in ["ws", "state", "run-0"] {
            copy(&base.join(name), left.path());
        }
        let outside = seen(&base.join("outside"));
        let killed_tree = seen(&base.join("ws"));
        for round in 0..ROUNDS {
            put_back(&place, left.path());
            let end = AtomicBool::new(false);
            std::thread::scope(|scope| {
                let _end = End(&end);
                scope.spawn(|| {
                    let other = base.join("ws/other");
                    while !end.load(Ordering::Acquire) {
                        let _ = renameat_with(CWD, &nest, CWD, &other, RenameFlags::EXCHANGE);
                    }
                });
                recover(&base.join("state"), &place.workspace).unwrap();
            });
            let now = seen(&base.join("outside"));
            assert_eq!(now, outside, "killed at {point}, round {round}: it led out");
            changed += u32::from(seen(&base.join("ws")) != killed_tree);
        }
    }
    assert!(changed > 100, "only {changed} recoveries did anything: is this test right?");
}
