//! Directories are opened while one of them is swapped for a link to outside, with and without the
//! system call that resolves a path at once; a file is set aside while another is renamed to its
//! name, with and without a rename that replaces nothing.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::CWD;

use super::*;
use crate::workspace::fixture::{Item, Place, path, tree};

const ROUNDS: u32 = 20_000;

/// Ends the swapping, also where the test fails.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

fn never_leads_out(open: impl Fn(&Host, &RelPath, OFlags) -> Result<OwnedFd, Errno>) {
    let place = Place::in_memory(&tree([("d", Item::Dir), ("d/in", Item::Dir)]));
    let outside = place.dir.path().join("outside/in");
    fs::create_dir_all(&outside).unwrap();
    symlink(place.dir.path().join("outside"), place.at("other")).unwrap();
    let inside = fstat(File::open(place.at("d/in")).unwrap()).unwrap().st_ino;
    let host = Host::of(&place.workspace);
    let wanted = path("d/in");
    let end = AtomicBool::new(false);
    let (mut opened, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        let _end = End(&end);
        let (d, other) = (place.at("d"), place.at("other"));
        let end = &end;
        scope.spawn(move || {
            while !end.load(Ordering::Acquire) {
                let _ = renameat_with(CWD, &d, CWD, &other, RenameFlags::EXCHANGE);
            }
        });
        let mut round = 0;
        while round < ROUNDS || (round < 100 * ROUNDS && (opened == 0 || refused == 0)) {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            match open(&host, &wanted, flags) {
                Ok(directory) => {
                    let found = fstat(&directory).unwrap().st_ino;
                    assert_eq!(found, inside, "round {round} led out");
                    opened += 1;
                }
                Err(Errno::LOOP | Errno::NOTDIR) => refused += 1,
                Err(error) => panic!("{error}"),
            }
            round += 1;
        }
    });
    assert!(opened > 0 && refused > 0, "{opened} opened, {refused} refused: no race was run");
}

#[test]
fn a_path_that_is_resolved_at_once_never_leads_out() {
    never_leads_out(|host, path, _| host.directory(Some(path)));
}

#[test]
fn a_path_that_is_walked_never_leads_out() {
    never_leads_out(Host::walk);
}

/// Whatever is set aside, the last save is there or in its place.
fn no_save_is_removed(no_replace: bool) {
    let place = Place::in_memory(&tree([]));
    let features = Features { exchange: no_replace, no_replace, ..Features::default() };
    let host = Host::with(&place.workspace, features);
    let (doc, temp) = (place.at("doc"), place.at("editor"));
    let (mut aside, mut in_place) = (0, 0);
    let barrier = std::sync::Barrier::new(2);
    std::thread::scope(|scope| {
        let barrier = &barrier;
        scope.spawn(move || {
            for round in 0..ROUNDS {
                fs::write(&doc, "base").unwrap();
                fs::write(&temp, round.to_string()).unwrap();
                barrier.wait();
                fs::rename(&temp, &doc).unwrap();
                barrier.wait();
                // It is looked for.
                barrier.wait();
            }
        });
        let mut lost = None;
        for round in 0..ROUNDS {
            barrier.wait();
            let set_aside = host.set_aside(&path("doc"), &path("aside"));
            barrier.wait();
            let read = |name: &str| fs::read_to_string(place.at(name)).unwrap_or_default();
            match (set_aside, round.to_string()) {
                (Ok(()), last) if read("aside") == last => aside += 1,
                (Ok(()), last) if read("doc") == last => in_place += 1,
                _ => lost = lost.or(Some(round)),
            }
            let _ = fs::remove_file(place.at("aside"));
            barrier.wait();
        }
        assert_eq!(lost, None, "a save was lost");
    });
    assert!(aside > 0 && in_place > 0, "{aside} and {in_place}: no race was run");
}

#[test]
fn a_save_is_not_removed_with_what_is_set_aside() {
    no_save_is_removed(true);
}

#[test]
fn a_save_is_not_removed_where_a_rename_may_replace() {
    no_save_is_removed(false);
}
