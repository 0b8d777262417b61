//! File systems that cannot exchange two names, link, or hold a mode: what is applied is right all
//! the same, and what was less than the best is said.

use std::fs;

use crate::ground::{Ground, Mounted, alone};
use crate::need;
use crate::place::{Place, Run, Tree, What, link, set_executable, write};

/// A workspace, and what Codex makes of it: every kind of change, links aside.
fn every_kind(place: &Place) -> Run<'_> {
    place
        .write("changed", "old")
        .write("gone", "old gone")
        .write("nest/deep/x", "old x")
        .write("file-to-dir", "old f")
        .write("dir-to-file/x", "old d")
        .write("stays", "stays");
    place.codex(|app| {
        write(app, "changed", "new and longer");
        fs::remove_file(app.join("gone")).unwrap();
        fs::remove_dir_all(app.join("nest")).unwrap();
        fs::remove_file(app.join("file-to-dir")).unwrap();
        write(app, "file-to-dir/y", "y");
        fs::remove_dir_all(app.join("dir-to-file")).unwrap();
        write(app, "dir-to-file", "f");
        write(app, "new/deep/z", "z");
        fs::create_dir(app.join("empty")).unwrap();
    })
}

fn texts(tree: &Tree) -> Vec<String> {
    tree.iter()
        .map(|(name, seen)| match &seen.what {
            What::File(bytes) => format!("{name}: {}", String::from_utf8_lossy(bytes)),
            What::Directory => format!("{name}/"),
            other => format!("{name}: {other:?}"),
        })
        .collect()
}

const AFTER: [&str; 9] = [
    "changed: new and longer",
    "dir-to-file: f",
    "empty/",
    "file-to-dir/",
    "file-to-dir/y: y",
    "new/",
    "new/deep/",
    "new/deep/z: z",
    "stays: stays",
];

/// Every file system that holds all kinds of changes, and whether names can be exchanged on it.
const GROUNDS: [(Ground, bool); 5] = [
    (Ground::Ext4 { size: 4 << 20 }, true),
    (Ground::Tmpfs { size: 4 << 20, inodes: 1000 }, true),
    (Ground::Overlay, true),
    (Ground::Ntfs, false),
    (Ground::Exfat, false),
];

/// What was displaced is in the run folder, whatever way it was displaced.
fn is_kept(run: &Run<'_>) {
    for text in ["old", "old gone", "old x", "old f", "old d"] {
        assert!(run.has_bytes(text.as_bytes()), "{text}");
    }
}

#[test]
fn every_kind_of_change_is_applied_and_only_what_was_less_than_the_best_is_noted() {
    for (ground, exchanges) in GROUNDS {
        need!(ground);
        alone(|dir| {
            let mount = Mounted::new(ground, &dir.join("m"));
            let place = Place::new(mount.path(), dir);
            let mut run = every_kind(&place);
            let told = run.is_applied();
            assert_eq!(texts(&place.tree()), AFTER, "{told:?}");
            is_kept(&run);
            let noted = told.notes.iter().any(|note| note.contains("cannot exchange"));
            assert_eq!(
                (told.notes.len(), noted),
                (usize::from(!exchanges), !exchanges),
                "{told:?}"
            );
        });
    }
}

#[test]
fn undo_brings_back_all_of_it() {
    for (ground, _) in GROUNDS {
        need!(ground);
        alone(|dir| {
            let mount = Mounted::new(ground, &dir.join("m"));
            let place = Place::new(mount.path(), dir);
            let mut run = every_kind(&place);
            let before = place.tree();
            run.is_applied();
            let told = run.undo();
            assert_eq!(told.refused, [], "{told:?}");
            assert_eq!(place.tree(), before, "{told:?}");
            run.is_tidy();
            // And an undo of the undo is an apply.
            run.is_applied();
            assert_eq!(texts(&place.tree()), AFTER);
        });
    }
}

/// The files lie in the layer below, which is never written. Directories of it cannot be moved.
#[test]
fn files_of_a_layer_below_are_replaced_and_deleted() {
    need!(Ground::Overlay);
    alone(|dir| {
        let lower = dir.join("m.lower/ws");
        for (name, text) in [("changed", "old"), ("gone", "old gone"), ("d/x", "old x")] {
            write(&lower, name, text);
        }
        let mount = Mounted::new(Ground::Overlay, &dir.join("m"));
        let place = Place::new(mount.path(), dir);
        let mut run = place.codex(|app| {
            write(app, "changed", "new");
            fs::remove_file(app.join("gone")).unwrap();
            fs::remove_dir_all(app.join("d")).unwrap();
        });
        run.is_refused(&[("d", "in a lower layer")]);
        assert_eq!(texts(&place.tree()), ["changed: new", "d/"]);
        assert_eq!(fs::read(lower.join("changed")).unwrap(), b"old");
        assert_eq!(fs::read(lower.join("d/x")).unwrap(), b"old x");
    });
}

#[test]
fn links_and_modes_come_where_they_can_be() {
    need!(Ground::Ntfs);
    alone(|dir| {
        let mount = Mounted::new(Ground::Ntfs, &dir.join("m"));
        let place = Place::new(mount.path(), dir);
        place.write("a", "a").write("b", "b");
        link(&place.workspace.path, "moves", "a");
        let mut run = place.codex(|app| {
            fs::remove_file(app.join("moves")).unwrap();
            link(app, "moves", "b");
            link(app, "new-link", "a");
            set_executable(&app.join("a"), true);
        });
        run.is_applied();
        let tree = place.tree();
        assert_eq!(tree["moves"].what, What::Link("b".into()));
        assert_eq!(tree["new-link"].what, What::Link("a".into()));
        assert_eq!((tree["a"].mode & 0o777, tree["b"].mode & 0o777), (0o755, 0o644));
    });
}

/// On exFAT every file is executable, whatever is asked for.
#[test]
fn a_mode_that_cannot_be_held_is_said_and_nothing_else_suffers() {
    need!(Ground::Exfat);
    alone(|dir| {
        let mount = Mounted::new(Ground::Exfat, &dir.join("m"));
        let place = Place::new(mount.path(), dir);
        place.write("a", "a").write("b", "b");
        let mut run = place.codex(|app| {
            set_executable(&app.join("a"), false);
            write(app, "b", "new b");
        });
        run.is_refused(&[("a", "does not hold the executable bit")]);
        assert_eq!(place.text("b"), "new b");
    });
}

/// Some steps are taken before one is refused; the way back has to work here as well.
#[test]
fn the_way_back_works_without_exchange() {
    for ground in [Ground::Ntfs, Ground::Exfat] {
        need!(ground);
        alone(|dir| {
            let mount = Mounted::new(ground, &dir.join("m"));
            let place = Place::new(mount.path(), dir);
            place.write("a", "old").write("d/x", "old").write("gone", "old").write("m", "old");
            let mut run = place.codex(|app| {
                write(app, "a", "new");
                write(app, "d/x", "new");
                write(app, "new/y", "new");
                fs::remove_file(app.join("gone")).unwrap();
                set_executable(&app.join("m"), true);
                // The last in the order of the steps, and found only when it is taken.
                write(app, "z:", "new");
            });
            run.is_refused(&[("z:", "does not take such a name")]);
            assert_eq!((place.text("a"), place.text("new/y")), ("new".into(), "new".into()));
        });
    }
}

/// What the user made meanwhile, where a directory should come.
#[test]
fn a_file_where_a_directory_should_go() {
    for ground in [Ground::Ntfs, Ground::Exfat] {
        need!(ground);
        alone(|dir| {
            let mount = Mounted::new(ground, &dir.join("m"));
            let place = Place::new(mount.path(), dir);
            let mut run = every_kind(&place);
            place.write("new", "user");
            run.is_refused(&[
                ("new", "exists on the host"),
                ("new/deep", "above it"),
                ("new/deep/z", "above it"),
            ]);
        });
    }
}
