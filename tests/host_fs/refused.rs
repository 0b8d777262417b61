//! Places that cannot be written: each path has its reason, all else can be applied, and once the
//! cause is gone so can the rest.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use mcp_codex_orchestrator::workspace::apply::OnConflict;

use crate::ground::{Ground, Mounted, alone, as_user, read_only, run};
use crate::need;
use crate::place::{Place, write};

const DISK: Ground = Ground::Ext4 { size: 4 << 20 };

fn own(path: &Path, user: u32) {
    chown(path, Some(user), Some(user)).unwrap();
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            own(&entry.unwrap().path(), user);
        }
    }
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

#[test]
fn in_a_directory_that_may_not_be_written() {
    need!(DISK);
    alone(|dir| {
        own(dir, 1000);
        as_user(1000, || {
            let place = Place::new(dir, dir);
            for name in ["ro/changed", "ro/gone", "ro/mode", "rw/a"] {
                place.write(name, "old");
            }
            let mut run = place.codex(|app| {
                write(app, "ro/changed", "new");
                write(app, "ro/new", "new");
                write(app, "ro/sub/new", "new");
                write(app, "rw/a", "new");
                fs::remove_file(app.join("ro/gone")).unwrap();
            });
            mode(&place.at("ro"), 0o555);
            let reason = "may not write there";
            run.is_refused(&[
                ("ro/changed", reason),
                ("ro/gone", reason),
                ("ro/new", reason),
                ("ro/sub", reason),
                ("ro/sub/new", reason),
            ]);
            assert_eq!(place.text("rw/a"), "new");
            mode(&place.at("ro"), 0o755);
            run.is_applied();
            assert_eq!(place.text("ro/sub/new"), "new");
            assert!(!place.at("ro/gone").exists());
        });
    });
}

/// No word of the kernel can be had that nobody writes to it.
#[test]
fn a_file_of_somebody_else() {
    need!(DISK);
    alone(|dir| {
        own(dir, 1000);
        let place = as_user(1000, || {
            let place = Place::new(dir, dir);
            place.write("mine", "old").write("theirs", "old").write("theirs-gone", "old");
            place
        });
        for name in ["theirs", "theirs-gone"] {
            chown(place.at(name), Some(1001), Some(1001)).unwrap();
            mode(&place.at(name), 0o644);
        }
        as_user(1000, || {
            let mut run = place.codex(|app| {
                write(app, "mine", "new");
                write(app, "theirs", "new");
                fs::remove_file(app.join("theirs-gone")).unwrap();
            });
            let reason = "no lease can be had";
            run.is_refused(&[("theirs", reason), ("theirs-gone", reason)]);
            assert_eq!(place.text("mine"), "new");
        });
    });
}

#[test]
fn a_file_that_may_not_be_read_any_more() {
    need!(DISK);
    alone(|dir| {
        own(dir, 1000);
        as_user(1000, || {
            let place = Place::new(dir, dir);
            place.write("a", "old").write("b", "old");
            let mut run = place.codex(|app| {
                write(app, "a", "new");
                write(app, "b", "new");
            });
            mode(&place.at("a"), 0o000);
            let before = fs::metadata(place.at("a")).unwrap().len();
            let told = run.apply(OnConflict::HoldConflicting).unwrap();
            assert_eq!(run.held().keys().collect::<Vec<_>>(), ["a"], "{told:?}");
            assert!(run.held()["a"].contains("cannot be read"), "{told:?}");
            assert_eq!(fs::metadata(place.at("a")).unwrap().len(), before);
            mode(&place.at("a"), 0o644);
            assert_eq!((place.text("a"), place.text("b")), ("old".into(), "new".into()));
            run.is_applied();
            assert_eq!(place.text("a"), "new");
        });
    });
}

#[test]
fn a_file_that_is_immutable() {
    need!(DISK);
    alone(|dir| {
        let mount = Mounted::new(DISK, &dir.join("m"));
        let place = Place::new(mount.path(), dir);
        place.write("a", "old").write("b", "old").write("c", "old").write("d/x", "old");
        let mut codex = place.codex(|app| {
            write(app, "a", "new");
            write(app, "c", "new");
            write(app, "d/new", "new");
            fs::remove_file(app.join("b")).unwrap();
            fs::remove_file(app.join("d/x")).unwrap();
        });
        let names = ["a", "b", "d"].map(|name| place.at(name).to_str().unwrap().to_owned());
        let flag = |flag| names.iter().for_each(|name| drop(run("chattr", &[flag, name])));
        flag("+i");
        let reason = "may not write there";
        codex.is_refused(&[("a", reason), ("b", reason), ("d/new", reason), ("d/x", reason)]);
        assert_eq!(place.text("c"), "new");
        flag("-i");
        codex.is_applied();
    });
}

#[test]
fn on_a_file_system_that_is_mounted_read_only_inside() {
    need!(DISK);
    alone(|dir| {
        let place = Place::new(dir, dir);
        place.write("ro/a", "old").write("ro/gone", "old").write("b", "old");
        let mut run = place.codex(|app| {
            write(app, "ro/a", "new");
            write(app, "ro/new", "new");
            write(app, "b", "new");
            fs::remove_file(app.join("ro/gone")).unwrap();
        });
        read_only(&place.at("ro"));
        let reason = "read-only";
        run.is_refused(&[("ro/a", reason), ("ro/gone", reason), ("ro/new", reason)]);
        assert_eq!(place.text("b"), "new");
    });
}

#[test]
fn where_something_is_mounted() {
    need!(Ground::Tmpfs { size: 1 << 20, inodes: 100 });
    alone(|dir| {
        let place = Place::new(dir, dir);
        place.write("file", "old").write("m/x", "below").write("empty/.keep", "").write("b", "old");
        fs::remove_file(place.at("empty/.keep")).unwrap();
        fs::write(dir.join("other"), "old").unwrap();
        let (file, other) = (place.at("file"), dir.join("other"));
        run("mount", &["-n", "--bind", other.to_str().unwrap(), file.to_str().unwrap()]);
        let ground = Ground::Tmpfs { size: 1 << 20, inodes: 100 };
        let inner = Mounted::new(ground, &place.at("m"));
        let empty = Mounted::new(ground, &place.at("empty"));
        place.write("m/in", "old").write("m/gone", "old");
        let mut run = place.codex(|app| {
            write(app, "file", "new");
            write(app, "m/in", "new");
            write(app, "m/new", "new");
            write(app, "b", "new");
            fs::remove_file(app.join("m/gone")).unwrap();
            fs::remove_dir(app.join("empty")).unwrap();
        });
        run.is_refused(&[("empty", "something is mounted"), ("file", "something is mounted")]);
        assert_eq!((place.text("m/in"), place.text("m/new")), ("new".into(), "new".into()));
        assert!(!place.at("m/gone").exists());
        drop((inner, empty));
        assert_eq!(place.text("m/x"), "below");
    });
}

/// What is mounted below goes for a file, or comes for one: nothing can be moved across.
#[test]
fn a_directory_that_is_a_mount_becomes_a_file() {
    let ground = Ground::Tmpfs { size: 1 << 20, inodes: 100 };
    need!(ground);
    alone(|dir| {
        let place = Place::new(dir, dir);
        place.write("b", "old").write("m/x", "below");
        let _mount = Mounted::new(ground, &place.at("m"));
        place.write("m/in", "old");
        let mut run = place.codex(|app| {
            fs::remove_dir_all(app.join("m")).unwrap();
            write(app, "m", "file");
            write(app, "b", "new");
        });
        let before = place.tree();
        let told = run.apply(OnConflict::HoldAll).unwrap();
        assert_eq!(place.tree(), before, "{told:?}");
        assert_ne!(told.conflicts, [], "{told:?}");
        assert!(run.has_codex_bytes("m"));
    });
}

#[test]
fn a_directory_where_a_file_should_go() {
    need!(DISK);
    for ground in [DISK, Ground::Ntfs] {
        need!(ground);
        alone(|dir| {
            let mount = Mounted::new(ground, &dir.join("m"));
            let place = Place::new(mount.path(), dir);
            place.write("b", "old").write("c", "old").write("d", "old");
            let mut run = place.codex(|app| {
                write(app, "a", "new");
                write(app, "b", "new");
                write(app, "d", "new");
                fs::remove_file(app.join("c")).unwrap();
            });
            place.write("a/user", "user");
            for name in ["b", "c"] {
                fs::remove_file(place.at(name)).unwrap();
                place.write(&format!("{name}/user"), "user");
            }
            run.is_refused(&[
                ("a", "there is a directory"),
                ("b", "there is a directory"),
                ("c", "there is a directory"),
            ]);
            assert_eq!(place.text("d"), "new");
            for name in ["a", "b", "c"] {
                assert_eq!(place.text(&format!("{name}/user")), "user");
            }
        });
    }
}
