//! Saves that no time tells: on a file system of whole seconds, of files of the same size.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::{Duration, SystemTime};

use mcp_codex_orchestrator::workspace::apply::OnConflict;

use crate::ground::{Ground, Mounted, alone};
use crate::need;
use crate::place::{Place, Run, set_executable, write};

/// What tells one version of a file from another, if anything does.
fn stamp(place: &Place, name: &str) -> (u64, i64, i64, i64, i64) {
    let stat = fs::metadata(place.at(name)).unwrap();
    (stat.ino(), stat.ctime(), stat.ctime_nsec(), stat.mtime(), stat.mtime_nsec())
}

/// A run of which the workspace was sent in a second in which the user then saved each of its files once
/// more, in place and with as many bytes.
fn saved_in_the_second_of_the_sending(place: &Place) -> Run<'_> {
    let names = ["edited", "deleted", "made-executable"];
    for _ in 0..50 {
        // From the beginning of a second on.
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        std::thread::sleep(Duration::from_millis(1000 - u64::from(now.subsec_millis()) + 20));
        for name in names {
            write(&place.workspace.path, name, "first");
        }
        let before = names.map(|name| stamp(place, name));
        let run = place.codex(|app| {
            write(app, "edited", "codex");
            fs::remove_file(app.join("deleted")).unwrap();
            set_executable(&app.join("made-executable"), true);
        });
        for name in names {
            fs::write(place.at(name), "saved").unwrap();
        }
        if names.map(|name| stamp(place, name)) == before {
            return run;
        }
        // It took too long, and the times tell.
        fs::remove_dir_all(&run.folder).unwrap();
    }
    panic!("no second was long enough");
}

#[test]
fn a_save_in_the_second_of_the_sending_is_seen_and_stays() {
    need!(Ground::Ext4OfSeconds);
    alone(|dir| {
        let mount = Mounted::new(Ground::Ext4OfSeconds, &dir.join("m"));
        let place = Place::new(mount.path(), dir);
        let mut run = saved_in_the_second_of_the_sending(&place);
        run.apply(OnConflict::HoldConflicting).unwrap();
        for name in ["edited", "deleted", "made-executable"] {
            assert_eq!(place.text(name), "saved", "{name}: {:?}", run.held());
        }
        // Nor is a bit set on what Codex never saw.
        let mode = fs::metadata(place.at("made-executable")).unwrap().permissions().mode();
        assert_eq!(mode & 0o111, 0, "{:?}", run.held());
        let held = run.held();
        assert_eq!(held.len(), 3, "{held:?}");
        for reason in held.values() {
            assert!(reason.contains("changed on the host since it was sent"), "{held:?}");
        }
    });
}
