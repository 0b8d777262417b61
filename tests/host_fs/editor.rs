//! An editor saves in a tight loop while change sets are applied, where names cannot be exchanged:
//! no save may be lost.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use mcp_codex_orchestrator::workspace::apply::OnConflict;

use crate::ground::{Ground, Mounted, alone};
use crate::need;
use crate::place::{Place, What, write};

/// Applies for each way of saving.
const APPLIES: u32 = 60;

fn by_rename(doc: &Path, text: &str) {
    let temp = doc.with_file_name("editor");
    fs::write(&temp, text).unwrap();
    fs::rename(&temp, doc).unwrap();
}

fn in_place(doc: &Path, text: &str) {
    fs::write(doc, text).unwrap();
}

fn no_save_is_lost(ground: Ground, save: fn(&Path, &str), delete: bool) {
    need!(ground);
    alone(|dir| {
        let mount = Mounted::new(ground, &dir.join("m"));
        let place = Place::new(mount.path(), dir);
        let doc = place.at("doc");
        let mut held = 0;
        for n in 0..APPLIES {
            place.write("doc", format!("base {n}")).write("a", format!("base {n}"));
            let mut run = place.codex(|app| {
                write(app, "a", format!("codex {n}"));
                match delete {
                    true => fs::remove_file(app.join("doc")).unwrap(),
                    false => write(app, "doc", format!("codex {n}")),
                }
            });
            let go = AtomicBool::new(true);
            let (told, last) = thread::scope(|scope| {
                let editor = scope.spawn(|| {
                    let mut saves = 0;
                    // A few saves, or as many as fit, so that the last one falls anywhere.
                    while go.load(Ordering::Acquire) && saves < [1, 3, u32::MAX][n as usize % 3] {
                        saves += 1;
                        save(&doc, &format!("save {n}.{saves}\n"));
                    }
                    saves
                });
                let told = run.apply(OnConflict::HoldAll).unwrap();
                go.store(false, Ordering::Release);
                (told, editor.join().unwrap())
            });
            held += u32::from(!run.held().is_empty());
            let wanted = format!("save {n}.{last}\n");
            let here = place.tree().into_iter().any(|(name, seen)| {
                // Beside its place counts if it is told.
                seen.what == What::File(wanted.clone().into())
                    && (name == "doc" || told.notes.iter().any(|note| note.contains(&name)))
            });
            assert!(last == 0 || here || run.has_bytes(wanted.as_bytes()), "{wanted} {told:?}");
        }
        eprintln!("{ground:?}, delete {delete}: {held} of {APPLIES} held");
    });
}

#[test]
fn by_rename_on_ntfs() {
    no_save_is_lost(Ground::Ntfs, by_rename, false);
    no_save_is_lost(Ground::Ntfs, by_rename, true);
}

#[test]
fn in_place_on_ntfs() {
    no_save_is_lost(Ground::Ntfs, in_place, false);
    no_save_is_lost(Ground::Ntfs, in_place, true);
}

#[test]
fn by_rename_on_exfat() {
    no_save_is_lost(Ground::Exfat, by_rename, false);
    no_save_is_lost(Ground::Exfat, by_rename, true);
}

#[test]
fn in_place_on_exfat() {
    no_save_is_lost(Ground::Exfat, in_place, false);
    no_save_is_lost(Ground::Exfat, in_place, true);
}
