//! Names that a file system takes for the same, or cannot hold.

use std::fs;

use mcp_codex_orchestrator::workspace::apply::OnConflict;

use crate::ground::{Ground, Mounted, alone};
use crate::need;
use crate::place::{Place, link, write};

/// What is said of a name that is another one for the host.
const SAME: &str = "differs only in case";

/// Runs on each file system that has no regard to case.
fn without_case(test: impl Fn(&Place) + Sync) {
    for ground in [Ground::Ntfs, Ground::Exfat] {
        need!(ground);
        alone(|dir| {
            let mount = Mounted::new(ground, &dir.join("m"));
            test(&Place::new(mount.path(), dir));
        });
    }
}

#[test]
fn a_new_file_is_no_other_spelling_of_one_that_is_there() {
    without_case(|place| {
        place.write("readme.md", "mine").write("a", "1");
        let mut run = place.codex(|app| {
            write(app, "README.md", "other");
            write(app, "a", "2");
        });
        run.is_refused(&[("README.md", SAME)]);
        assert_eq!(place.text("readme.md"), "mine");
        assert_eq!(place.text("a"), "2");
    });
}

/// Its bytes are what was asked for, and yet it is not what Codex made: two files.
#[test]
fn not_even_with_the_same_bytes() {
    without_case(|place| {
        place.write("readme.md", "mine");
        let mut run = place.codex(|app| write(app, "README.md", "mine"));
        run.is_refused(&[("README.md", SAME)]);
    });
}

#[test]
fn a_new_directory_is_no_other_spelling_of_one_that_is_there() {
    without_case(|place| {
        place.write("src/a.rs", "mine");
        let mut run = place.codex(|app| {
            write(app, "SRC/b.rs", "other");
            write(app, "SRC/a.rs", "other");
            write(app, "src/c.rs", "new");
        });
        run.is_refused(&[
            ("SRC", SAME),
            ("SRC/a.rs", "exists on the host"),
            ("SRC/b.rs", "above it"),
        ]);
        assert_eq!(place.text("src/a.rs"), "mine");
        assert_eq!(place.text("src/c.rs"), "new");
    });
}

/// Whichever comes first is there; the other one is held.
#[test]
fn of_two_new_names_that_are_one_only_one_is_applied() {
    need!(Ground::Exfat);
    alone(|dir| {
        let mount = Mounted::new(Ground::Exfat, &dir.join("m"));
        let place = Place::new(mount.path(), dir);
        place.write("a", "1");
        let mut run = place.codex(|app| {
            write(app, "two", "small");
            write(app, "Two", "large");
            write(app, "a", "2");
        });
        run.is_refused(&[("two", SAME)]);
        assert_eq!(place.text("Two"), "large");
        assert_eq!(place.text("a"), "2");
    });
}

/// On NTFS the kernel remembers for a second that there was no `two`, and the driver shows `Two` as
/// that. Only what was just added tells that they are one.
#[test]
fn of_two_new_names_the_second_is_known_by_the_first_that_was_added() {
    need!(Ground::Ntfs);
    alone(|dir| {
        let mount = Mounted::new(Ground::Ntfs, &dir.join("m"));
        let place = Place::new(mount.path(), dir);
        let mut run = place.codex(|app| {
            write(app, "two", "small");
            write(app, "Two", "large");
        });
        run.apply(OnConflict::HoldConflicting).unwrap();
        let held = run.held();
        assert_eq!(held.keys().collect::<Vec<_>>(), ["two"]);
        assert!(held["two"].contains(SAME), "{held:?}");
        assert_eq!(place.text("Two"), "large");
    });
}

#[test]
fn a_name_that_only_changes_its_case_keeps_its_file() {
    without_case(|place| {
        place.write("case", "mine").write("d/x", "mine too").write("edited", "old");
        let mut run = place.codex(|app| {
            fs::rename(app.join("case"), app.join("CASE")).unwrap();
            fs::rename(app.join("d"), app.join("D")).unwrap();
            fs::remove_file(app.join("edited")).unwrap();
            write(app, "Edited", "new");
        });
        run.is_applied();
        assert_eq!(place.text("case"), "mine");
        assert_eq!(place.text("d/x"), "mine too");
        assert_eq!(place.text("edited"), "new");
        assert_eq!(place.tree().len(), 4);
        let told = run.undo();
        assert_eq!(told.refused, [], "{told:?}");
        assert_eq!(place.text("case"), "mine");
        assert_eq!(place.text("d/x"), "mine too");
        assert_eq!(place.text("edited"), "old");
        assert_eq!(place.tree().len(), 4);
    });
}

#[test]
fn a_name_that_is_not_allowed_is_held_alone() {
    need!(Ground::Ntfs);
    alone(|dir| {
        let mount = Mounted::new(Ground::Ntfs, &dir.join("m"));
        let place = Place::new(mount.path(), dir);
        place.write("a", "1").write("old", "1").write("d/x", "1");
        let mut run = place.codex(|app| {
            write(app, "a", "2");
            for name in ["a:b", "con", "dot.", "new/lf\nin", "ques?", "space "] {
                write(app, name, "1");
            }
            fs::create_dir(app.join("dir|")).unwrap();
            write(app, "dir|/in", "1");
            fs::rename(app.join("old"), app.join("n*w")).unwrap();
            link(app, "l<nk", "a");
        });
        let reason = "does not take such a name";
        run.is_refused(&[
            ("\"new/lf\\012in\"", reason),
            ("a:b", reason),
            ("con", reason),
            ("dir|", reason),
            ("dir|/in", "above it"),
            ("dot.", reason),
            ("l<nk", reason),
            ("n*w", reason),
            ("ques?", reason),
            ("space ", reason),
        ]);
        assert_eq!(place.text("a"), "2");
    });
}

#[test]
fn where_there_are_no_links_they_are_held() {
    need!(Ground::Exfat);
    alone(|dir| {
        let mount = Mounted::new(Ground::Exfat, &dir.join("m"));
        let place = Place::new(mount.path(), dir);
        place.write("a", "1");
        let mut run = place.codex(|app| {
            write(app, "a", "2");
            write(app, "q:", "2");
            link(app, "link", "a");
        });
        run.is_refused(&[
            ("link", "does not hold symbolic links"),
            ("q:", "does not take such a name"),
        ]);
        assert_eq!(place.text("a"), "2");
    });
}
