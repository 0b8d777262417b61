//! Bad luck: the run's folder is gone or cannot be written when an apply is recovered, and
//! directories are moved about by the user while files in them are written.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::kill_tests::{killed, opened, place, recover_in, seen, states, undo_in};
use super::recover::notes;
use super::tests::apply_at;
use super::*;
use crate::workspace::change::ChangeState;
use crate::workspace::fixture::{Place, file, tree};
use crate::workspace::lock::{self, LockError};

/// The bytes of every file in a folder, however deep, by whether it has a temporary name.
fn bytes_in(folder: &Path) -> (BTreeSet<Vec<u8>>, BTreeSet<Vec<u8>>) {
    let all = if folder.is_dir() { seen(folder) } else { Default::default() };
    let temporary = |name: &[u8]| name.windows(7).any(|part| part == b".codex-");
    let (temps, rest): (Vec<_>, Vec<_>) = all.into_iter().partition(|(name, _)| temporary(name));
    let bytes = |(_, (_, bytes))| bytes;
    (temps.into_iter().map(bytes).collect(), rest.into_iter().map(bytes).collect())
}

fn journal(base: &Path) -> Option<String> {
    let found = fs::read_dir(base.join("state/applies")).ok()?.next()?;
    fs::read_to_string(found.unwrap().path()).ok()
}

/// Killed after its commit, and then somebody removes or cuts what has the pre-image.
#[test]
fn what_was_displaced_is_kept_where_the_runs_folder_lost_it() {
    for lost in ["", "before.tar", "cut"] {
        let mut tried = 0;
        for point in 0.. {
            let place = place();
            let base = place.dir.path();
            if !killed("apply", point, false, base) {
                break;
            }
            if !journal(base).is_some_and(|text| text.contains("\n{\"committed\"")) {
                continue;
            }
            tried += 1;
            let run = base.join("run-0");
            match lost {
                "" => fs::remove_dir_all(&run).unwrap(),
                "cut" => fs::write(run.join("before.tar"), "cut").unwrap(),
                name => fs::remove_file(run.join(name)).unwrap(),
            }
            let (mut displaced, _) = bytes_in(&place.workspace.path);
            if !lost.is_empty() {
                // A link, which is in `changes.json`.
                displaced.remove(&b"changed"[..]);
            }
            recover_in(base);
            let (left, mut found) = bytes_in(&place.workspace.path);
            assert!(left.is_subset(&[b"changed".to_vec()].into()), "a link at most: {left:?}");
            found.extend(bytes_in(&run.join("kept")).1);
            found.extend(left);
            assert!(displaced.is_subset(&found), "{lost} {point}: {displaced:?} {found:?}");
            let told = notes(&run).join("");
            let kept = displaced.contains(&b"old"[..]);
            assert!(!kept || told.contains("an earlier version of "), "{told}");
        }
        assert!(tried > 10, "{tried}");
    }
}

/// Makes a folder one that nobody can write, whoever asks; gives whether that could be done.
fn forbid(folder: &Path, yes: bool) -> bool {
    use std::os::unix::fs::PermissionsExt;
    let mode = if yes { 0o500 } else { 0o700 };
    let change = if yes { "+i" } else { "-i" };
    let attribute = Command::new("chattr").arg(change).arg(folder).output();
    let _ = fs::set_permissions(folder, fs::Permissions::from_mode(mode));
    let probe = folder.join("probe");
    let written = fs::write(&probe, "").is_ok();
    let _ = fs::remove_file(probe);
    drop(attribute);
    !written
}

/// Killed between the commit and `changes.json`, and then that cannot be written: the journal stays
/// until it can be, or nobody could take back what was applied.
#[test]
fn what_is_applied_can_be_taken_back_even_if_the_runs_folder_could_not_be_written() {
    let place = place();
    let base = place.dir.path();
    let before = seen(&place.workspace.path);
    let run = base.join("run-0");
    let state = base.join("state");
    let mut point = 0;
    loop {
        assert!(killed("apply", point, false, base));
        if journal(base).is_some_and(|text| text.contains("\n{\"committed\"")) {
            break;
        }
        recover_in(base);
        point += 1;
    }
    if !forbid(&run, true) {
        println!("left out: no folder can be kept from being written here");
        return;
    }
    for lock in [lock::write, lock::read, lock::write] {
        let error = lock(&state, &opened(base), Duration::ZERO).unwrap_err();
        assert!(matches!(error, LockError::Recovery(_)), "{error}");
        let text = error.to_string();
        assert!(text.contains(run.to_str().unwrap()) && text.contains("call again"), "{text}");
    }
    assert!(!forbid(&run, false));
    recover_in(base);
    assert!(states(base).changes.iter().all(|change| change.state == ChangeState::Applied));
    undo_in(base);
    assert_eq!(seen(&place.workspace.path), before);
}

#[test]
fn an_apply_that_cannot_be_recorded_says_that_it_is_done() {
    let place = place();
    let base = place.dir.path();
    let run = base.join("run-0");
    let mut set = states(base);
    let bytes = fs::read(run.join("changes.json")).unwrap();
    fs::remove_file(run.join("changes.json")).unwrap();
    fs::create_dir_all(run.join("changes.json/full")).unwrap();
    let state = base.join("state");
    let parts = Parts { run: "0190-kill", folder: &run, state: &state };
    let workspace = opened(base);
    let error = apply(&workspace, &mut set, &[], OnConflict::HoldAll, &parts).unwrap_err();
    let text = Failure::from(error).to_string();
    assert!(text.contains("the changes are applied, but "), "{text}");
    assert!(!text.contains("held"), "{text}");
    // The next who comes records it.
    fs::remove_dir_all(run.join("changes.json")).unwrap();
    fs::write(run.join("changes.json"), bytes).unwrap();
    recover_in(base);
    assert!(states(base).changes.iter().all(|change| change.state == ChangeState::Applied));
}

/// While the server is down the user moves a directory in which something was displaced.
#[test]
fn a_directory_that_was_moved_while_the_server_was_down_is_named() {
    let mut told_of_it = 0;
    for link in [false, true] {
        for point in (0..).step_by(2) {
            let place = place();
            let base = place.dir.path();
            let was_killed = killed("apply", point, false, base);
            if place.at("nest").exists() {
                fs::rename(place.at("nest"), place.at("moved")).unwrap();
                if link {
                    std::os::unix::fs::symlink("moved", place.at("nest")).unwrap();
                }
            }
            recover_in(base);
            let (left, found) = bytes_in(&place.at("moved"));
            let old = b"old".to_vec();
            let before = fs::read(base.join("run-0/before.tar")).unwrap_or_default();
            assert!(
                left.contains(&old)
                    || found.contains(&old)
                    || before.windows(3).any(|window| window == b"old"),
                "{point}: lost"
            );
            if !left.is_empty() {
                let told = notes(&base.join("run-0")).join("");
                assert!(told.contains("nest/a was moved") && told.contains(".codex-"), "{told}");
                told_of_it += 1;
            }
            if !was_killed {
                break;
            }
        }
    }
    assert!(told_of_it > 10);
}

/// While changes are applied the user moves their directory away, makes another in its place or not,
/// and brings it back or not. Nothing is lost, and what is left is told of.
#[test]
fn directories_that_move_while_files_in_them_are_written() {
    let from = tree([
        ("d/changed", file("old changed")),
        ("d/gone", file("old gone")),
        ("d/in/deep", file("old deep")),
        ("other", file("old other")),
    ]);
    let to = tree([
        ("d/changed", file("new changed")),
        ("d/in/deep", file("new deep")),
        ("d/new", file("new")),
        ("other", file("new other")),
    ]);
    let mut outcomes = BTreeSet::new();
    for which in ["d", "d/in"] {
        for in_its_place in [false, true] {
            for away in 0..12 {
                for back in away + 1..14 {
                    let place = Place::in_memory(&from);
                    let (mut set, archive) = place.changes(&place.snapshot(), &from, &to);
                    let (here, there) = (place.at(which), place.at("there"));
                    let mut n = 0;
                    let told = apply_at(&place.workspace, &mut set, &archive, "run", &mut |_| {
                        if n == away {
                            fs::rename(&here, &there).unwrap();
                            if in_its_place {
                                fs::create_dir(&here).unwrap();
                                fs::write(here.join("changed"), "mine").unwrap();
                            }
                        }
                        if n == back {
                            let _ = fs::rename(&here, place.at("second"));
                            fs::rename(&there, &here).unwrap();
                        }
                        n += 1;
                    });
                    let context = format!("{which} {in_its_place} {away} {back} {told:?}");
                    let told = match told {
                        Ok(applied) => {
                            outcomes.insert(applied.conflicts.is_empty());
                            applied.notes.join("; ")
                        }
                        Err(error) => error.to_string(),
                    };
                    let run = archive.parent().unwrap();
                    let (left, mut found) = bytes_in(&place.workspace.path);
                    found.extend(bytes_in(&run.join("kept")).1);
                    let before = fs::read(run.join("before.tar")).unwrap_or_default();
                    for name in ["changed", "gone", "deep", "other"] {
                        let old = format!("old {name}").into_bytes();
                        let kept = found.contains(&old)
                            || before.windows(old.len()).any(|window| window == old);
                        let left = left.contains(&old);
                        assert!(kept || left, "{context}: {name} is lost");
                        assert!(kept || told.contains(".codex-"), "{context}: {name} untold");
                    }
                    assert!(
                        n <= away || !in_its_place || found.contains(&b"mine"[..]),
                        "{context}"
                    );
                    assert!(left.is_empty() || told.contains(".codex-"), "{context}: untold");
                }
            }
        }
    }
    assert_eq!(outcomes, [false, true].into());
}
