//! A directory that becomes a link to outside and a directory again, as fast as a thread can swap
//! them, while a change set is applied below it.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;

use mcp_codex_orchestrator::workspace::change::ChangeState;
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::place::Place;
use super::tar::Tar;

const ROUNDS: u32 = 2000;
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

#[test]
fn no_round_of_thousands_leads_out() {
    let place = Place::new();
    reset(&place);
    let sent = place.snapshot();
    let stream = Tar::default()
        .file("d/f", b"new f")
        .file("d/deep/h", b"new h")
        .file("d/deep/added", b"added")
        .file("d/made/by/run", b"added")
        .node(b"d/link", b'2', 0o777, b"", b"f")
        .end(&["d/secret"]);
    let phase = AtomicU8::new(REST);
    let (mut applied, mut refused, mut round) = (0, 0, 0);
    thread::scope(|scope| {
        let (d, other) = (place.at("d"), place.at("other"));
        let phase = &phase;
        let _end = End(phase);
        scope.spawn(move || swap(&d, &other, phase));
        while round < ROUNDS || (round < MOST && (applied == 0 || refused == 0)) {
            while phase.load(Ordering::Acquire) != RESTING {
                thread::yield_now();
            }
            reset(&place);
            let mut run = place.take(&stream[..], &sent).unwrap();
            phase.store(SWAP, Ordering::Release);
            let outcome = place.apply(&mut run);
            phase.store(REST, Ordering::Release);
            match run.set.changes.iter().all(|change| change.state == ChangeState::Applied) {
                true => applied += 1,
                false => refused += 1,
            }
            drop(outcome);
            fs::remove_dir_all(&run.folder).unwrap();
            place.nothing_escaped();
            round += 1;
        }
    });
    eprintln!("{round} rounds: {applied} applied, {refused} refused");
    assert!(applied > 0 && refused > 0, "{applied} applied, {refused} refused: no race was run");
}
