//! What happens while the tree changes, or cannot be read, or the stream breaks.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use mcp_codex_orchestrator::failure::ErrorKind;
use mcp_codex_orchestrator::path::RelPath;
use mcp_codex_orchestrator::workspace::root::open_unchecked;
use mcp_codex_orchestrator::workspace::send::send;

use crate::{Tree, rules};

/// Does something once, before the first byte is taken, and again whenever bytes come.
struct Meddler<F: FnMut()>(Vec<u8>, F);

impl<F: FnMut()> Write for Meddler<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (self.1)();
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_large_file_that_changes_once_is_sent_again_and_the_later_entry_counts() {
    for new_size in [1_500_000, 3_000_000, 4_000_000] {
        let tree = Tree::new();
        tree.write("big", vec![b'a'; 3_000_000]).write("z", "after");
        let path = tree.path().join("big");
        let mut changed = false;
        let mut out = Meddler(Vec::new(), || {
            if !changed {
                changed = true;
                fs::write(&path, vec![b'b'; new_size]).unwrap();
            }
        });
        let workspace = open_unchecked(tree.path()).unwrap();
        let snapshot = send(&workspace, &rules(), &mut out).unwrap();
        let unpacked = tempfile::tempdir().unwrap();
        tar::Archive::new(&*out.0).unpack(unpacked.path()).unwrap();
        let now = vec![b'b'; new_size];
        assert_eq!(fs::read(unpacked.path().join("big")).unwrap(), now);
        assert_eq!(fs::read(unpacked.path().join("z")).unwrap(), b"after");
        let node = &snapshot.nodes[&RelPath::new("big").unwrap()];
        assert_eq!(node.hash, Some(*blake3::hash(&now).as_bytes()));
        assert_eq!(node.size, new_size as u64);
    }
}

#[test]
fn a_file_that_never_holds_still_is_an_error_that_names_it() {
    let tree = Tree::new();
    tree.write("big", vec![b'a'; 3_000_000]);
    let path = tree.path().join("big");
    let mut count = 0_u8;
    let mut out = Meddler(Vec::new(), || {
        count = count.wrapping_add(1);
        fs::write(&path, vec![count; 3_000_000]).unwrap();
    });
    let workspace = open_unchecked(tree.path()).unwrap();
    let error = send(&workspace, &rules(), &mut out).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TransferFailed);
    assert!(error.to_string().starts_with("big in the workspace changes"), "{error}");
}

#[test]
fn a_large_file_of_which_half_was_sent_when_it_went_is_an_error() {
    let tree = Tree::new();
    tree.write("big", vec![b'a'; 3_000_000]);
    let path = tree.path().join("big");
    let mut out = Meddler(Vec::new(), || {
        let _ = fs::write(&path, "cut").and_then(|()| fs::remove_file(&path));
    });
    let workspace = open_unchecked(tree.path()).unwrap();
    let error = send(&workspace, &rules(), &mut out).unwrap_err();
    assert!(error.to_string().starts_with("big in the workspace changes"), "{error}");
}

#[test]
fn a_file_that_goes_meanwhile_is_left_out() {
    let tree = Tree::new();
    tree.write("big", vec![b'a'; 1 << 20]).write("gone", "g").write("stays", "s");
    let path = tree.path().join("gone");
    let mut out = Meddler(Vec::new(), || {
        let _ = fs::remove_file(&path);
    });
    let workspace = open_unchecked(tree.path()).unwrap();
    let snapshot = send(&workspace, &rules(), &mut out).unwrap();
    let names: Vec<String> = snapshot.nodes.keys().map(ToString::to_string).collect();
    assert_eq!(names, ["big", "stays"]);
    assert_eq!(snapshot.files, 2);
}

#[test]
fn a_link_put_in_the_place_of_a_file_or_directory_is_not_followed() {
    let secret = Tree::new();
    secret.write("f", "hunter2").write("d/f", "hunter2");
    let tree = Tree::new();
    tree.write("a-first", vec![0; 32 << 10]);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (file, directory) = (tree.path().join("f"), tree.path().join("d"));
            while !stop.load(Ordering::Relaxed) {
                let _ = fs::remove_file(&file);
                let _ = fs::write(&file, "harmless");
                let _ = fs::remove_file(&file);
                let _ = symlink(secret.path().join("f"), &file);
                let _ = fs::remove_file(&directory);
                let _ = fs::create_dir(&directory);
                let _ = fs::write(directory.join("f"), "harmless");
                let _ = fs::remove_dir_all(&directory);
                let _ = symlink(secret.path().join("d"), &directory);
            }
        });
        for _ in 0..300 {
            let workspace = open_unchecked(tree.path()).unwrap();
            let mut tar = Vec::new();
            // Too many changes may be an error; never another file's bytes.
            let _ = send(&workspace, &rules(), &mut tar);
            assert!(!tar.windows(7).any(|bytes| bytes == b"hunter2"));
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_broken_stream_is_an_error() {
    struct Broken;
    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let tree = Tree::new();
    tree.write("a", "a");
    let workspace = open_unchecked(tree.path()).unwrap();
    let error = send(&workspace, &rules(), Broken).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TransferFailed);
}

/// Set in the process that runs a test again without root's right to read everything.
const AGAIN: &str = "WORKSPACE_SEND_WITHOUT_PRIVILEGE";

#[test]
fn an_unreadable_file_or_directory_is_an_error_that_says_what_to_do() {
    if std::env::var_os(AGAIN).is_none() && rustix::process::geteuid().is_root() {
        let test = "faults::an_unreadable_file_or_directory_is_an_error_that_says_what_to_do";
        let mut again = Command::new("setpriv");
        again
            .args(["--bounding-set", "-dac_override,-dac_read_search", "--"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", test])
            .env(AGAIN, "1");
        match again.status() {
            Ok(status) => assert!(status.success()),
            Err(error) => eprintln!("skipped: root reads everything, and no setpriv ({error})"),
        }
        return;
    }
    let tree = Tree::new();
    tree.write("locked", "l").write("ok", "o");
    let close = |path: &str, mode| {
        fs::set_permissions(tree.path().join(path), fs::Permissions::from_mode(mode)).unwrap();
    };
    close("locked", 0);
    let error = tree.send_with(&rules()).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::TransferFailed);
    let text = error.to_string();
    assert!(text.starts_with("locked in the workspace cannot be read"), "{text}");
    assert!(text.contains("workspace.exclude"), "{text}");
    close("locked", 0o600);
    tree.write("dir/x", "");
    close("dir", 0);
    let error = tree.send_with(&rules()).err().unwrap();
    assert!(error.to_string().starts_with("dir in the workspace cannot be read"), "{error}");
    close("dir", 0o700);
}
