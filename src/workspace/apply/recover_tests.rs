//! What recovery finds besides its own: what the user saved meanwhile, a disk that lost its last
//! writes, journals of other workspaces, journals that are damaged.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::kill_tests::{apply_in, from, killed, opened, place, recover_in, seen, states, undo_in};
use super::recover::{notes, recover_all};
use crate::workspace::WorkspaceKey;
use crate::workspace::change::ChangeState;
use crate::workspace::fixture::{file, path};
use crate::workspace::lock::{self, LockError};

/// Everything in the workspace, the pre-image and the folder `kept`.
fn bytes_somewhere(base: &Path) -> Vec<Vec<u8>> {
    let mut found: Vec<Vec<u8>> =
        seen(&base.join("ws")).into_values().map(|(_, bytes)| bytes).collect();
    found.extend(fs::read(base.join("run-0/before.tar")));
    let kept = fs::read_dir(base.join("run-0/kept"));
    found.extend(kept.into_iter().flatten().map(|e| fs::read(e.unwrap().path()).unwrap()));
    found
}

fn has(bytes: &[Vec<u8>], text: &[u8]) -> bool {
    bytes.iter().any(|bytes| bytes.windows(text.len()).any(|window| window == text))
}

#[test]
fn what_is_saved_while_the_server_is_down_stays_in_its_place() {
    for by_rename in [true, false] {
        for point in (0..).step_by(3) {
            let place = place();
            let base = place.dir.path();
            let was_killed = killed("apply", point, false, base);
            for name in ["changed", "nest/a/b", "new"] {
                let to = place.at(name);
                if by_rename {
                    fs::write(base.join("editor"), format!("saved {name}")).unwrap();
                    fs::rename(base.join("editor"), to).unwrap();
                } else {
                    fs::write(to, format!("saved {name}")).unwrap();
                }
            }
            let displaced = seen(&place.workspace.path).into_iter().filter_map(|(name, what)| {
                name.windows(7).any(|part| part == b".codex-").then_some(what.1)
            });
            let displaced: Vec<Vec<u8>> = displaced.filter(|bytes| !bytes.is_empty()).collect();
            recover_in(base);
            let context = format!("killed at {point}, by rename {by_rename}");
            for name in ["changed", "nest/a/b", "new"] {
                let now = fs::read_to_string(place.at(name)).unwrap();
                assert_eq!(now, format!("saved {name}"), "{context}");
            }
            let somewhere = bytes_somewhere(base);
            for bytes in displaced.iter().filter(|bytes| bytes.starts_with(b"old")) {
                assert!(has(&somewhere, bytes), "{context}: {:?} is lost", bytes);
            }
            for name in seen(&place.workspace.path).into_keys() {
                assert!(!name.windows(7).any(|part| part == b".codex-"), "{context}");
            }
            if !was_killed {
                break;
            }
        }
    }
}

/// The mark of the commit is on the disk of the state directory, and the renames are not on the
/// one of the workspace: after a power failure the staged files are there and nothing else.
#[test]
fn what_did_not_get_to_the_disk_is_done_again() {
    let done = place();
    apply_in(done.dir.path(), false, &mut |_| {});
    let after = seen(&done.workspace.path);
    let mut tried = 0;
    for point in 0.. {
        let place = place();
        let base = place.dir.path();
        let was_killed = killed("copy", point, false, base);
        let journal = fs::read_dir(base.join("state/applies")).unwrap().next();
        let journal = journal.map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap());
        if journal.is_some_and(|text| text.contains("{\"committed\"")) {
            tried += 1;
            let sh = format!(
                "cd {} && find ws -mindepth 1 -delete && cp -a staged/. ws/",
                base.display()
            );
            assert!(Command::new("sh").args(["-c", &sh]).status().unwrap().success());
            recover_in(base);
            assert_eq!(seen(&place.workspace.path), after, "{point}");
            let set = states(base);
            assert!(set.changes.iter().all(|change| change.state == ChangeState::Applied));
        }
        if !was_killed || tried == 3 {
            break;
        }
    }
    assert_eq!(tried, 3);
}

#[test]
fn a_recovery_is_told_in_the_runs_folder() {
    let place = place();
    let base = place.dir.path();
    assert!(killed("apply", 30, false, base));
    recover_in(base);
    let told = notes(&base.join("run-0"));
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("run 0190-kill"), "{told:?}");
    assert!(told[0].contains("are held"), "{told:?}");
    let reasons: Vec<_> = states(base).changes.into_iter().filter_map(|c| c.reason).collect();
    assert!(reasons.iter().any(|reason| reason.contains("server was ended")), "{reasons:?}");
}

#[test]
fn a_start_recovers_what_nobody_uses_and_leaves_the_rest() {
    let [free, used, gone] = [place(), place(), place()];
    let state = free.dir.path().join("state");
    let journals = || fs::read_dir(state.join("applies")).unwrap().count();
    for place in [&free, &used, &gone] {
        let own = place.dir.path().join("state");
        if own != state {
            std::os::unix::fs::symlink(&state, own).unwrap();
        }
        assert!(killed("apply", 40, false, place.dir.path()));
    }
    assert_eq!(journals(), 3);
    fs::rename(gone.dir.path().join("ws"), gone.dir.path().join("moved")).unwrap();
    let turn = lock::exclusive(&state, used.workspace.key, Duration::ZERO).unwrap();
    recover_all(&state);
    assert_eq!(free.read(), from());
    assert_ne!(used.read(), from());
    assert_eq!(journals(), 2);
    // Whoever uses it next does it; one that is gone stays, and blocks nobody.
    drop(turn);
    recover_in(used.dir.path());
    assert_eq!(used.read(), from());
    assert_eq!(journals(), 1);
    // It comes back under another name, and is known by what it is.
    fs::rename(gone.dir.path().join("moved"), gone.dir.path().join("ws")).unwrap();
    recover_all(&state);
    assert_eq!(gone.read(), from());
    assert_eq!(journals(), 0);
}

#[test]
fn a_journal_that_was_not_finished_goes_unless_it_is_being_written() {
    let [left, written] = [place(), place()];
    let state = left.dir.path().join("state");
    let new = |key: WorkspaceKey| state.join(format!("applies/{}-{}.new", key.dev, key.ino));
    fs::create_dir_all(state.join("applies")).unwrap();
    for place in [&left, &written] {
        fs::write(new(place.workspace.key), "{\"version\"").unwrap();
    }
    let _turn = lock::exclusive(&state, written.workspace.key, Duration::ZERO).unwrap();
    recover_all(&state);
    assert!(!new(left.workspace.key).exists());
    assert!(new(written.workspace.key).exists());
}

#[test]
fn a_damaged_journal_is_named_and_nothing_is_touched() {
    let place = place();
    let base = place.dir.path();
    assert!(killed("apply", 40, false, base));
    let before = seen(&place.workspace.path);
    let journal = fs::read_dir(base.join("state/applies")).unwrap().next().unwrap().unwrap().path();
    let whole = fs::read(&journal).unwrap();
    for damage in [&b"{}\n"[..], b"", &whole[..whole.len() / 2], b"{\"version\": 1}\n"] {
        fs::write(&journal, damage).unwrap();
        for exclusive in [false, true] {
            let lock = if exclusive { lock::write } else { lock::read };
            // A child that another test forks holds what is open here for a moment.
            let patience = Duration::from_secs(10);
            let error = lock(&base.join("state"), &opened(base), patience).unwrap_err();
            assert!(matches!(error, LockError::Recovery(_)));
            let text = error.to_string();
            assert!(text.contains(journal.to_str().unwrap()), "{text}");
            assert_eq!(seen(&place.workspace.path), before);
        }
    }
    // A mark that was not finished announces what has not begun.
    fs::write(&journal, [&whole[..], b"{\"committed\":[{\"pa"].concat()).unwrap();
    recover_in(base);
    assert_eq!(place.read(), from());
}

#[test]
fn another_directory_with_the_same_inode_is_not_touched() {
    let place = place();
    let base = place.dir.path();
    assert!(killed("apply", 40, false, base));
    let before = seen(&place.workspace.path);
    let journal = fs::read_dir(base.join("state/applies")).unwrap().next().unwrap().unwrap().path();
    let text = fs::read_to_string(&journal).unwrap();
    let Some(at) = text.find("\"born\":[") else {
        println!("left out: this file system does not know when a directory was made");
        return;
    };
    let text = format!("{}\"born\":[1{}", &text[..at], &text[at + 8..]);
    fs::write(&journal, text).unwrap();
    recover_in(base);
    assert_eq!(seen(&place.workspace.path), before);
    assert!(!journal.exists());
    assert!(journal.with_extension("gone-0").exists());
}

#[test]
fn what_was_displaced_comes_back_with_owner_mode_time_and_attributes() {
    use std::os::unix::fs::MetadataExt;
    let place = place();
    let base = place.dir.path();
    let old = fs::File::open(place.at("changed")).unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    let note = rustix::fs::fsetxattr(&old, "user.note", b"mine", flags);
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(place.at("gone"), Some(1234), Some(1235)).unwrap();
    }
    let about = |name: &str| {
        let meta = fs::metadata(place.at(name)).unwrap();
        (meta.mode(), meta.uid(), meta.gid(), meta.mtime(), meta.mtime_nsec())
    };
    let (before, changed, gone) = (seen(&place.workspace.path), about("changed"), about("gone"));
    apply_in(base, false, &mut |_| {});
    assert_ne!(seen(&place.workspace.path), before);
    let (set, applied) = undo_in(base);
    assert_eq!(applied.conflicts, []);
    assert!(set.changes.iter().all(|change| change.state == ChangeState::Held));
    assert_eq!(seen(&place.workspace.path), before);
    assert_eq!((about("changed"), about("gone")), (changed, gone));
    if note.is_ok() {
        let file = fs::File::open(place.at("changed")).unwrap();
        let mut value = [0; 16];
        let len = rustix::fs::fgetxattr(&file, "user.note", &mut value[..]).unwrap();
        assert_eq!(&value[..len], b"mine");
    }
    // And in again.
    apply_in(base, false, &mut |_| {});
    assert_eq!(place.read().get(&path("changed")), Some(&file("new and longer")));
}
