//! An editor saves in a tight loop while change sets are applied: no save may be lost. A save
//! counts as lost if it is in neither the workspace, nor `before.tar`, nor what was kept.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use super::tests::apply_at;
use super::{Applied, Point};
use crate::workspace::change::ChangeState;
use crate::workspace::fixture::{Item, Place, file, path, tree};

/// Applies in all, of eight ways of saving; `CODEX_SOAK` has another number.
const APPLIES: u64 = 5_000;

fn applies() -> u64 {
    let applies = std::env::var("CODEX_SOAK").ok().and_then(|n| n.parse().ok());
    applies.unwrap_or(APPLIES).div_ceil(8)
}

type Save = fn(&Path, &Path, u64);

/// Saves as long as it is told to, and says which save was the last when it is told to stop.
fn editor(
    target: &Path,
    temp: &Path,
    save: Save,
    go: &AtomicBool,
    started: &Receiver<u64>,
    stopped: &Sender<u64>,
    saves: &AtomicU64,
) {
    while let Ok(burst) = started.recv() {
        let mut last = saves.load(Ordering::Relaxed);
        let end = last.saturating_add(burst);
        while go.load(Ordering::Acquire) && last < end {
            last += 1;
            save(target, temp, last);
        }
        saves.store(last, Ordering::Relaxed);
        stopped.send(last).unwrap();
    }
}

/// All lines that are somewhere a person finds them.
fn found(place: &Place, folder: &Path, applied: &Applied, lines: &mut BTreeSet<String>) {
    let mut texts = vec![fs::read_to_string(place.at("doc")).unwrap_or_default()];
    texts.extend(applied.kept.iter().map(|kept| fs::read_to_string(&kept.file).unwrap()));
    let before = fs::File::open(folder.join("before.tar")).unwrap();
    for entry in tar::Archive::new(before).entries().unwrap() {
        let mut text = String::new();
        entry.unwrap().read_to_string(&mut text).unwrap();
        texts.push(text);
    }
    for entry in fs::read_dir(&place.workspace.path).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name().to_string_lossy().ends_with(".tmp") {
            assert!(!applied.notes.is_empty(), "a temporary file was left and nobody told");
            texts.push(fs::read_to_string(entry.path()).unwrap());
        }
    }
    lines.extend(texts.iter().flat_map(|text| text.lines().map(str::to_owned)));
}

/// `all`: every single save must be found, not only the last before each pause.
fn no_save_is_lost(save: Save, all: bool, delete: bool) {
    let place =
        Place::in_memory(&tree([("a", file("0")), ("doc", file("start\n")), ("z", file("0"))]));
    let (target, temp) = (place.at("doc"), place.dir.path().join("editor"));
    let (go, saves) = (AtomicBool::new(false), AtomicU64::new(0));
    let (start, started) = channel();
    let (stop, stopped) = channel();
    let mut lines = BTreeSet::new();
    let mut outcomes = [0; 3];
    thread::scope(|scope| {
        let (target, temp, go, saves) = (&target, &temp, &go, &saves);
        scope.spawn(move || editor(target, temp, save, go, &started, &stop, saves));
        for n in 0..applies() {
            if !target.exists() {
                fs::write(target, format!("again {n}\n")).unwrap();
            }
            let from = place.read();
            let mut to = from.clone();
            for name in ["a", "z"] {
                to.insert(path(name), file(&format!("codex {n}")));
            }
            if delete {
                to.remove(&path("doc"));
            } else {
                to.insert(path("doc"), Item::File(format!("codex {n}\n").into(), false));
            }
            let (mut set, archive) = place.changes(&place.snapshot(), &from, &to);
            // The editor begins at another point each time: before the exchange, between the
            // steps, before the check, before the commit.
            let begin = usize::try_from(n % 6).unwrap();
            let mut point = 0;
            let applied = apply_at(&place.workspace, &mut set, &archive, "run", &mut |at| {
                if point == begin && at != Point::Undoing {
                    go.store(true, Ordering::Release);
                    // Half of the time it saves a few times only, so that its last save falls into
                    // the steps and not behind them.
                    start.send(if n / 6 % 2 == 0 { u64::MAX } else { 1 + n % 3 }).unwrap();
                    if n % 2 == 0 {
                        thread::yield_now();
                    }
                }
                point += 1;
            })
            .unwrap();
            let mut last = None;
            if go.swap(false, Ordering::AcqRel) {
                last = Some(stopped.recv().unwrap());
            }
            found(&place, archive.parent().unwrap(), &applied, &mut lines);
            if let Some(last) = last.filter(|last| *last > 0) {
                assert!(lines.contains(&format!("save {last}")), "{n}: {last} {applied:?}");
            }
            let held = set.changes.iter().filter(|c| c.state == ChangeState::Held).count();
            outcomes[match held {
                0 => 0,
                n if n == set.changes.len() => 1,
                _ => 2,
            }] += 1;
            if held == set.changes.len() {
                let now = place.read();
                assert_eq!(now.get(&path("a")), from.get(&path("a")));
                assert_eq!(now.get(&path("z")), from.get(&path("z")));
            }
            fs::remove_dir_all(archive.parent().unwrap()).unwrap();
        }
        drop(start);
    });
    let saves = saves.load(Ordering::Relaxed);
    println!("{saves} saves; applied, held, partly: {outcomes:?}");
    if all {
        for n in 1..=saves {
            assert!(lines.contains(&format!("save {n}")), "save {n} of {saves} is lost");
        }
    }
}

fn by_rename(target: &Path, temp: &Path, n: u64) {
    fs::write(temp, format!("save {n}\n")).unwrap();
    fs::rename(temp, target).unwrap();
}

fn in_place(target: &Path, _: &Path, n: u64) {
    fs::write(target, format!("save {n}\n")).unwrap();
}

fn by_appending(target: &Path, _: &Path, n: u64) {
    let mut file = OpenOptions::new().append(true).create(true).open(target).unwrap();
    file.write_all(format!("save {n}\n").as_bytes()).unwrap();
}

fn by_removing(target: &Path, _: &Path, n: u64) {
    let _ = fs::remove_file(target);
    fs::write(target, format!("save {n}\n")).unwrap();
}

#[test]
fn no_save_by_rename_is_lost() {
    no_save_is_lost(by_rename, false, false);
    no_save_is_lost(by_rename, false, true);
}

#[test]
fn no_save_in_place_is_lost() {
    no_save_is_lost(in_place, false, false);
    no_save_is_lost(in_place, false, true);
}

#[test]
fn no_line_that_is_appended_is_lost() {
    no_save_is_lost(by_appending, true, false);
    no_save_is_lost(by_appending, true, true);
}

#[test]
fn no_save_that_removes_first_is_lost() {
    no_save_is_lost(by_removing, false, false);
    no_save_is_lost(by_removing, false, true);
}
