//! Full disks: whatever does not fit leaves the workspace as it was, and once there is room the
//! same change set is applied.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use mcp_codex_orchestrator::workspace::apply::{ApplyError, OnConflict};

use crate::ground::{Ground, Mounted, alone};
use crate::need;
use crate::place::{Place, Run, write};

const SMALL: Ground = Ground::Tmpfs { size: 1 << 20, inodes: 200 };

/// Takes all the room that is left, but for so many bytes.
fn fill(on: &Path, but: u64) -> PathBuf {
    let path = on.join("filler");
    let mut file = File::create(&path).unwrap();
    let block = [0x5a; 4096];
    while file.write_all(&block).is_ok() {}
    let len = file.metadata().unwrap().len();
    file.set_len(len.saturating_sub(but)).unwrap();
    path
}

/// Gives the room back. A process that another test is just starting may hold the file open for a
/// moment, and so it is emptied first.
fn free(filler: &Path) {
    File::options().write(true).open(filler).unwrap().set_len(0).unwrap();
    fs::remove_file(filler).unwrap();
}

fn is_full(error: &ApplyError) -> bool {
    let text = error.to_string();
    text.contains("No space left on device")
}

/// A change set with something of each kind that takes room.
fn change_set(place: &Place) -> Run<'_> {
    place.write("a", "old a").write("b", "old b".repeat(4000)).write("c", "old c");
    place.codex(|app| {
        write(app, "a", "new a");
        write(app, "b", "new b".repeat(8000));
        write(app, "n/deep/new", "new n".repeat(4000));
        fs::remove_file(app.join("c")).unwrap();
    })
}

/// Applies with less room than it takes: nothing, then what fits; and all of it once there is room.
fn fails_and_then_goes(place: &Place, mut run: Run<'_>, make_room: impl FnOnce()) {
    let before = place.tree();
    let told = run.apply(OnConflict::HoldAll).unwrap();
    assert_eq!(place.tree(), before, "{told:?}");
    assert_eq!(run.applied(), Vec::<String>::new(), "{told:?}");
    assert!(told.conflicts.iter().all(|c| c.reason.contains("the disk is full")), "{told:?}");
    assert_ne!(told.conflicts, [], "{told:?}");
    assert_eq!(told.notes, Vec::<String>::new());

    let told = run.apply(OnConflict::HoldConflicting).unwrap();
    let held = run.held();
    assert!(held.contains_key("b"), "{told:?}");
    for name in ["a", "b", "c"] {
        let untouched = before.get(name) == place.tree().get(name);
        assert_eq!(untouched, held.contains_key(name), "{name} {told:?}");
        assert!(run.has_codex_bytes(name), "{name}");
    }
    run.is_tidy();

    make_room();
    run.is_applied();
    assert_eq!(place.text("a"), "new a");
    assert!(run.has_bytes(b"old c"));
}

#[test]
fn the_workspace_is_full() {
    for ground in [SMALL, Ground::Ext4 { size: 2 << 20 }] {
        need!(ground);
        alone(|dir| {
            let mount = Mounted::new(ground, &dir.join("m"));
            let place = Place::new(mount.path(), dir);
            let run = change_set(&place);
            let filler = fill(mount.path(), 8192);
            fails_and_then_goes(&place, run, || free(&filler));
        });
    }
}

#[test]
fn the_workspace_has_no_inode_left() {
    need!(SMALL);
    alone(|dir| {
        let mount = Mounted::new(SMALL, &dir.join("m"));
        let place = Place::new(mount.path(), dir);
        let run = change_set(&place);
        let fillers = mount.path().join("fillers");
        fs::create_dir(&fillers).unwrap();
        let mut n = 0;
        while File::create(fillers.join(n.to_string())).is_ok() {
            n += 1;
        }
        // One is not enough: four are needed at once.
        fs::remove_file(fillers.join("0")).unwrap();
        fails_and_then_goes(&place, run, || fs::remove_dir_all(fillers).unwrap());
    });
}

/// With every amount of room from none to enough, so that each thing that is written there is the
/// first that does not fit once.
fn at_every_amount(runs: bool, state: bool) {
    need!(SMALL);
    alone(|dir| {
        let mount = Mounted::new(SMALL, &dir.join("m"));
        let mut outcomes = [0; 2];
        for pages in 0..40 {
            let mut place = Place::new(dir, &dir.join(format!("beside-{pages}")));
            let small = mount.path().join(pages.to_string());
            fs::create_dir(&small).unwrap();
            if runs {
                place.runs = small.join("runs");
                fs::create_dir(&place.runs).unwrap();
            }
            if state {
                place.state = small.join("state");
                fs::create_dir(&place.state).unwrap();
            }
            let mut run = change_set(&place);
            let filler = fill(mount.path(), pages * 4096);
            let before = place.tree();
            let done = run.apply(OnConflict::HoldAll);
            free(&filler);
            match done {
                Ok(told) => {
                    assert_eq!(told.conflicts, [], "{pages} {told:?}");
                    outcomes[1] += 1;
                }
                Err(error) => {
                    assert!(is_full(&error), "{pages}: {error}");
                    // It is written or it is not, whether or not it could be noted down.
                    if place.text("a") == "old a" {
                        assert_eq!(place.tree(), before, "{pages}: {error}");
                    }
                    outcomes[0] += 1;
                }
            }
            // Whoever has the next turn settles what was left half way.
            run.is_applied();
            run.is_tidy();
            assert_eq!(place.text("a"), "new a");
            assert!(run.has_bytes(b"old c"), "{pages}");
            drop(run);
            fs::remove_dir_all(small).unwrap();
            fs::remove_dir_all(dir.join("ws")).unwrap();
        }
        assert!(outcomes[1] > 0 && (outcomes[0] > 0 || !runs), "{outcomes:?}");
    });
}

#[test]
fn the_disk_of_the_run_folders_is_full() {
    at_every_amount(true, false);
}

#[test]
fn the_disk_of_the_journal_is_full() {
    at_every_amount(false, true);
}

#[test]
fn all_of_ours_is_on_one_full_disk() {
    at_every_amount(true, true);
}
