//! A directory that becomes a link to outside and a directory again, as fast as a thread can swap
//! them, while a change set is shown, applied and undone below it. The kernel tells of every file
//! outside that is opened meanwhile, so that reading is seen as well as writing.

use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::{self, ScopedJoinHandle};

use mcp_codex_orchestrator::workspace::change::ChangeState;
use mcp_codex_orchestrator::workspace::diff;
use rustix::fs::{CWD, RenameFlags, inotify, renameat_with};

use super::place::{Place, Run};
use super::tar::Tar;

const ROUNDS: u32 = 500;
/// Rounds after which it is given up that both outcomes are seen.
const MOST: u32 = 50_000;

const SWAP: u8 = 0;
const REST: u8 = 1;
const RESTING: u8 = 2;
const END: u8 = 3;

fn swap(directory: &Path, link: &Path, phase: &AtomicU8) {
    loop {
        match phase.load(Ordering::Acquire) {
            SWAP => renameat_with(CWD, directory, CWD, link, RenameFlags::EXCHANGE).unwrap(),
            // Not if it is the end meanwhile.
            REST => {
                let _ = phase.compare_exchange(REST, RESTING, Ordering::AcqRel, Ordering::Relaxed);
            }
            RESTING => thread::yield_now(),
            _ => return,
        }
    }
}

/// Ends the thread, also where the test fails.
struct End<'a>(&'a AtomicU8);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(END, Ordering::Release);
    }
}

/// The tree as it was sent, whatever is there now.
fn reset(place: &Place) {
    for entry in fs::read_dir(&place.workspace.path).unwrap() {
        let path = entry.unwrap().path();
        match fs::symlink_metadata(&path).unwrap().is_dir() {
            true => fs::remove_dir_all(&path).unwrap(),
            false => fs::remove_file(&path).unwrap(),
        }
    }
    place.write("d/f", "old f").write("d/secret", "old secret").write("d/deep/h", "old h");
    place.link("other", place.outside());
}

/// Hears of everything outside that is opened.
struct Watch(OwnedFd);

impl Watch {
    fn over(place: &Place) -> Self {
        let watch = inotify::init(inotify::CreateFlags::NONBLOCK).unwrap();
        for directory in [place.outside(), place.outside().join("deep")] {
            inotify::add_watch(&watch, &directory, inotify::WatchFlags::OPEN).unwrap();
        }
        Self(watch)
    }

    /// Whether anything was since this was asked last.
    fn opened(&self) -> bool {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&self.0, &mut buffer);
        let mut any = false;
        while events.next().is_ok() {
            any = true;
        }
        any
    }
}

/// Runs rounds until there were enough of them and both outcomes were seen. `ready` makes what
/// `race` works on while the directory is swapped; `race` tells whether all of it was done.
fn rounds(mut ready: impl FnMut(&Place) -> Run, mut race: impl FnMut(&Place, &mut Run) -> bool) {
    let place = Place::new();
    place.write("../outside/deep/h", "outside h");
    let place = place.with_all_outside();
    reset(&place);
    let watch = Watch::over(&place);
    fs::read(place.outside().join("f")).unwrap();
    assert!(watch.opened(), "the kernel does not tell what is opened");
    let phase = AtomicU8::new(REST);
    let (mut whole, mut partly, mut round) = (0, 0, 0);
    thread::scope(|scope| {
        let (d, other) = (place.at("d"), place.at("other"));
        let phase = &phase;
        let _end = End(phase);
        let swapping: ScopedJoinHandle<'_, ()> = scope.spawn(move || swap(&d, &other, phase));
        while round < ROUNDS || (round < MOST && (whole == 0 || partly == 0)) {
            while phase.load(Ordering::Acquire) != RESTING {
                // Its names are gone if what is tested moved them.
                assert!(!swapping.is_finished(), "round {round}: there is nothing to swap");
                thread::yield_now();
            }
            reset(&place);
            let mut run = ready(&place);
            watch.opened();
            phase.store(SWAP, Ordering::Release);
            let done = race(&place, &mut run);
            phase.store(REST, Ordering::Release);
            assert!(!watch.opened(), "round {round}: something outside was opened");
            match done {
                true => whole += 1,
                false => partly += 1,
            }
            fs::remove_dir_all(&run.folder).unwrap();
            place.nothing_escaped();
            round += 1;
        }
    });
    eprintln!("{round} rounds: {whole} wholly done, {partly} not");
    assert!(whole > 0 && partly > 0, "{whole} wholly done, {partly} not: no race was run");
}

fn taken(place: &Place) -> Run {
    let stream = Tar::default()
        .file("d/f", b"new f")
        .file("d/deep/h", b"new h")
        .file("d/deep/added", b"added")
        .file("d/made/by/run", b"added")
        .node(b"d/link", b'2', 0o777, b"", b"f")
        .end(&["d/secret"]);
    place.take(&stream[..], &place.snapshot()).unwrap()
}

fn all_are(run: &Run, state: ChangeState) -> bool {
    run.set.changes.iter().all(|change| change.state == state)
}

#[test]
fn no_apply_of_thousands_leads_out() {
    rounds(taken, |place, run| {
        // It may refuse; what counts is what became of the tree.
        let _ = place.apply(run);
        all_are(run, ChangeState::Applied)
    });
}

#[test]
fn no_undo_of_thousands_leads_out() {
    let applied = |place: &Place| {
        let mut run = taken(place);
        place.apply(&mut run).unwrap();
        assert!(all_are(&run, ChangeState::Applied));
        run
    };
    rounds(applied, |place, run| {
        let _ = place.undo(run);
        all_are(run, ChangeState::Held)
    });
}

#[test]
fn no_diff_of_thousands_reads_what_is_outside() {
    rounds(taken, |place, run| {
        let mut patch = Vec::new();
        let archive = run.folder.join("changes.tar");
        diff::patch(&place.workspace, &run.set, &archive, &mut patch).unwrap();
        let patch = String::from_utf8(patch).unwrap();
        assert!(!patch.contains("outside") && !patch.contains("not to be read"), "{patch}");
        !patch.contains("no longer on the host")
    });
}
