//! What happens while the tree changes, or the stream breaks.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::sync::atomic::{AtomicBool, Ordering};

use mcp_codex_orchestrator::failure::ErrorKind;
use mcp_codex_orchestrator::path::RelPath;
use mcp_codex_orchestrator::workspace::conflict::HostNow;
use mcp_codex_orchestrator::workspace::host::{Host, Looking};
use mcp_codex_orchestrator::workspace::root::open_unchecked;
use mcp_codex_orchestrator::workspace::send::{SendError, send};
use mcp_codex_orchestrator::workspace::{Snapshot, StayReason, StayedHome};

use crate::{Stop, Tree, listing, rules, unpack};

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
        let unpacked = unpack(&out.0);
        let now = vec![b'b'; new_size];
        assert_eq!(fs::read(unpacked.path().join("big")).unwrap(), now);
        assert_eq!(fs::read(unpacked.path().join("z")).unwrap(), b"after");
        let node = &snapshot.nodes[&RelPath::new("big").unwrap()];
        assert_eq!(node.hash, Some(*blake3::hash(&now).as_bytes()));
        assert_eq!(node.size, new_size as u64);
    }
}

/// Writes to a file before every byte that is taken of the stream, and gives what came of it.
fn sent_while(tree: &Tree, meddle: impl FnMut()) -> (Result<Snapshot, SendError>, Vec<u8>) {
    let mut out = Meddler(Vec::new(), meddle);
    let workspace = open_unchecked(tree.path()).unwrap();
    let sent = send(&workspace, &rules(), &mut out);
    (sent, out.0)
}

#[test]
fn a_file_that_never_holds_still_stays_home_and_nothing_of_it_arrives() {
    let tree = Tree::new();
    tree.write("big", vec![b'a'; 3_000_000]).write("z", "after");
    let path = tree.path().join("big");
    let mut count = 0_u8;
    let (sent, tar) = sent_while(&tree, || {
        count = count.wrapping_add(1);
        fs::write(&path, vec![count; 3_000_000]).unwrap();
    });
    let snapshot = sent.unwrap();
    let stayed = [StayedHome { path: "big".into(), reason: StayReason::Changing }];
    assert_eq!((&*snapshot.stayed_home, snapshot.stayed_home_total), (&stayed[..], 1));
    assert!(snapshot.notes()[0].contains("big"), "{:?}", snapshot.notes());
    assert_eq!(snapshot.nodes.len(), 1);
    let seen = listing(unpack(&tar).path());
    assert_eq!(seen.keys().map(Vec::as_slice).collect::<Vec<_>>(), [b"z"]);
}

#[test]
fn a_tracked_file_that_never_holds_still_is_an_error_that_names_it() {
    let tree = Tree::repository();
    tree.write("big", vec![b'a'; 3_000_000]);
    tree.commit_all();
    let path = tree.path().join("big");
    let mut count = 0_u8;
    let (sent, _) = sent_while(&tree, || {
        count = count.wrapping_add(1);
        fs::write(&path, vec![count; 3_000_000]).unwrap();
    });
    let error = sent.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TransferFailed);
    assert!(error.to_string().starts_with("big in the workspace changes"), "{error}");
}

#[test]
fn a_log_that_only_grows_travels_as_far_as_it_was_read_twice() {
    let tree = Tree::new();
    let line = b"0123456789abcde\n";
    tree.write("log", line.repeat(200_000));
    let mut log = fs::OpenOptions::new().append(true).open(tree.path().join("log")).unwrap();
    let (sent, tar) = sent_while(&tree, || log.write_all(line).unwrap());
    let snapshot = sent.unwrap();
    let bytes = fs::read(unpack(&tar).path().join("log")).unwrap();
    let node = &snapshot.nodes[&RelPath::new("log").unwrap()];
    assert!(bytes.len() >= 200_000 * line.len());
    assert!(bytes.chunks(line.len()).all(|had| had == line));
    assert_eq!(node.size, bytes.len() as u64);
    assert_eq!(node.hash, Some(*blake3::hash(&bytes).as_bytes()));
    assert!(bytes.len() < fs::read(tree.path().join("log")).unwrap().len());
    assert!(snapshot.stayed_home.is_empty());
}

/// Grows a file until so many bytes of the stream were taken, and then lets it rest.
struct Grower<'a>(Vec<u8>, &'a mut fs::File, usize);

impl Write for Grower<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() < self.2 {
            self.1.write_all(b"more\n")?;
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The last reading is of a part of a file that holds still by then, so its times would say that
/// what was sent is what is there.
#[test]
fn a_log_of_which_a_part_was_sent_is_never_taken_for_unchanged() {
    const SIZE: usize = 2_000_000;
    let tree = Tree::new();
    tree.write("log", vec![b'x'; SIZE]);
    let mut log = fs::OpenOptions::new().append(true).open(tree.path().join("log")).unwrap();
    let workspace = open_unchecked(tree.path()).unwrap();
    // It grows through four readings of six and a half.
    let mut out = Grower(Vec::new(), &mut log, 4 * SIZE + SIZE / 2);
    let mut snapshot = send(&workspace, &rules(), &mut out).unwrap();
    assert!(out.0.len() > 6 * SIZE, "it was read less than six times");
    let path = RelPath::new("log").unwrap();
    let now = fs::metadata(tree.path().join("log")).unwrap();
    let node = &snapshot.nodes[&path];
    assert!((SIZE as u64..now.len()).contains(&node.size), "{} of {}", node.size, now.len());
    assert_ne!(node.mtime, (now.mtime(), u32::try_from(now.mtime_nsec()).unwrap()));
    assert_ne!(node.ctime, (now.ctime(), u32::try_from(now.ctime_nsec()).unwrap()));
    // Not even if its times were from long before.
    snapshot.taken = (i64::MAX, 0);
    let base = snapshot.base(&path).unwrap();
    assert!(base.stamp.is_some());
    let host = Host::of(&workspace);
    let HostNow::Node(found) = Looking::at(&host).look(&path, Some(&base)).unwrap() else {
        panic!("the log is there");
    };
    assert_eq!(found.size, now.len());
    assert_ne!(found.hash, base.hash);
}

#[test]
fn a_large_file_of_which_half_was_sent_when_it_went_is_left_out() {
    let tree = Tree::new();
    tree.write("big", vec![b'a'; 3_000_000]);
    let path = tree.path().join("big");
    let (sent, tar) = sent_while(&tree, || {
        let _ = fs::write(&path, "cut").and_then(|()| fs::remove_file(&path));
    });
    let snapshot = sent.unwrap();
    assert!(snapshot.nodes.is_empty() && snapshot.stayed_home.is_empty());
    assert!(listing(unpack(&tar).path()).is_empty());
}

/// A writer changes the first byte and then the last one, again and again: a file whose last byte
/// is newer than its first was never there.
#[test]
fn a_small_file_is_never_torn() {
    const LAST: usize = 499_999;
    let tree = Tree::new();
    tree.write("f", vec![0; LAST + 1]);
    let path = tree.path().join("f");
    let stop = AtomicBool::new(false);
    let (mut came, mut stayed) = (0, 0);
    std::thread::scope(|scope| {
        let _stop = Stop(&stop);
        scope.spawn(|| {
            let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
            for number in (0..=250_u8).cycle() {
                file.write_all_at(&[number], 0).unwrap();
                file.write_all_at(&[number], LAST as u64).unwrap();
                if number == 0 {
                    std::thread::sleep(std::time::Duration::from_millis(2));
                }
                if stop.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        for _ in 0..40 {
            let workspace = open_unchecked(tree.path()).unwrap();
            let mut tar = Vec::new();
            let snapshot = send(&workspace, &rules(), &mut tar).unwrap();
            if snapshot.nodes.is_empty() {
                assert_eq!(snapshot.stayed_home[0].reason, StayReason::Changing);
                stayed += 1;
                continue;
            }
            let bytes = fs::read(unpack(&tar).path().join("f")).unwrap();
            let lead = (251 + u16::from(bytes[0]) - u16::from(bytes[LAST])) % 251;
            assert!(lead <= 1, "torn: {} and {}", bytes[0], bytes[LAST]);
            came += 1;
        }
    });
    eprintln!("{came} came, {stayed} stayed home");
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
        let _stop = Stop(&stop);
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
