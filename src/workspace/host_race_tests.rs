//! Directories are opened while one of them is swapped for a link to outside, with and without the
//! system call that resolves a path at once.

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
