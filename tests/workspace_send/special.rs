//! Odd kinds of files: sparse, with several names, sockets, FIFOs, devices, links in a circle, file
//! systems mounted inside.

use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use mcp_codex_orchestrator::failure::ErrorKind;
use mcp_codex_orchestrator::path::RelPath;
use mcp_codex_orchestrator::workspace::StayReason::Special;
use mcp_codex_orchestrator::workspace::root::open_unchecked;
use mcp_codex_orchestrator::workspace::send::{SendRules, send};

use crate::{Seen, Stop, Tree, again, listing, rules};

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
}

#[test]
fn a_sparse_file_travels_with_its_full_size() {
    let tree = Tree::new();
    let file = File::create(tree.path().join("image")).unwrap();
    file.set_len(64 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"end", (64 << 20) - 3).unwrap();
    let sent = tree.send();
    let bytes = fs::read(sent.path().join("image")).unwrap();
    assert_eq!(bytes.len(), 64 << 20);
    assert!(bytes.ends_with(b"\0\0end") && bytes.iter().filter(|byte| **byte != 0).count() == 3);
    assert_eq!(sent.snapshot.bytes, 64 << 20);
}

#[test]
fn a_sparse_file_over_the_limit_is_named_before_a_byte_of_it_is_read() {
    let tree = Tree::new();
    for name in ["disk.img", "other.img"] {
        // As large as a file may be on this file system; two of them are more than 64 bits hold.
        let file = File::create(tree.path().join(name)).unwrap();
        let sizes = [i64::MAX as u64, 1 << 43];
        sizes.iter().find(|size| file.set_len(**size).is_ok()).unwrap();
    }
    tree.write("small", "s");
    let began = std::time::Instant::now();
    let error = tree.send_with(&SendRules { max_bytes: 1 << 20, ..rules() }).err().unwrap();
    assert!(began.elapsed().as_secs() < 5);
    assert_eq!(error.kind(), ErrorKind::WorkspaceTooLarge);
    let text = error.to_string();
    assert!(text.contains(".img is sparse and counts with its full size of "), "{text}");
    assert!(text.contains("workspace.max_bytes"), "{text}");
}

#[test]
fn every_name_of_a_file_with_several_travels_as_a_file() {
    let tree = Tree::new();
    tree.write("one", "same");
    fs::hard_link(tree.path().join("one"), tree.path().join("two")).unwrap();
    let sent = tree.send();
    assert_eq!(sent.files(), ["one", "two"]);
    let inode = |name| fs::metadata(sent.path().join(name)).unwrap().ino();
    assert_ne!(inode("one"), inode("two"));
    assert_eq!(sent.snapshot.bytes, 8);
}

#[test]
fn sockets_fifos_and_devices_stay_home_and_are_not_opened() {
    let tree = Tree::new();
    let _socket = std::os::unix::net::UnixListener::bind(tree.path().join("socket")).unwrap();
    let path = |name: &str| tree.path().join(name).display().to_string();
    run("mkfifo", &[&path("fifo")]);
    let mut expected = vec![("fifo", Special), ("socket", Special)];
    if rustix::process::geteuid().is_root() {
        // A device with no driver: opening it would be an error.
        run("mknod", &[&path("block"), "b", "240", "0"]);
        run("mknod", &[&path("char"), "c", "240", "0"]);
        expected.extend([("block", Special), ("char", Special)]);
        expected.sort_by_key(|(path, _)| *path);
    }
    assert_eq!(tree.send().stayed(), expected);
}

#[test]
fn a_fifo_in_the_place_of_a_file_never_blocks() {
    let tree = Tree::new();
    let name = tree.path().join("f");
    let (file, fifo) = (tree.path().join("file"), tree.path().join("fifo"));
    tree.write("file", "harmless").write("a-first", vec![0; 64 << 10]);
    run("mkfifo", &[&fifo.display().to_string()]);
    let stop = AtomicBool::new(false);
    let (mut files, mut fifos) = (0, 0);
    std::thread::scope(|scope| {
        let _stop = Stop(&stop);
        scope.spawn(|| {
            // Two links to each: renaming them over the name changes its kind at once.
            let spare = tree.path().join("spare");
            while !stop.load(Ordering::Relaxed) {
                for kind in [&file, &fifo] {
                    fs::hard_link(kind, &spare).unwrap();
                    fs::rename(&spare, &name).unwrap();
                }
            }
        });
        for _ in 0..300 {
            let workspace = open_unchecked(tree.path()).unwrap();
            let snapshot = send(&workspace, &rules(), std::io::sink()).unwrap();
            if snapshot.nodes.contains_key(RelPath::new("f").unwrap()) {
                files += 1
            } else {
                fifos += 1
            }
        }
    });
    assert!(files > 0 && fifos > 0, "{files} files, {fifos} FIFOs");
    assert!(fs::symlink_metadata(&fifo).unwrap().file_type().is_fifo());
}

#[test]
fn links_in_a_circle_travel_as_links() {
    let tree = Tree::new();
    tree.write("d/x", "x");
    for (target, name) in
        [("loop", "loop"), ("b", "a"), ("a", "b"), ("..", "d/up"), (".", "here"), ("/", "root")]
    {
        symlink(target, tree.path().join(name)).unwrap();
    }
    let sent = tree.send();
    assert_eq!(sent.files(), ["a", "b", "d/up", "d/x", "here", "loop", "root"]);
    assert_eq!(listing(tree.path()), listing(sent.path()));
    assert!(
        matches!(&listing(sent.path())[&b"root"[..]], Seen::Link(target) if target.as_os_str() == "/")
    );
}

#[test]
fn what_is_mounted_in_the_workspace_travels() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can mount");
        return;
    }
    // The mount is in a mount namespace that ends with the process.
    if !again("special::what_is_mounted_in_the_workspace_travels", &["unshare", "--mount", "--"]) {
        return;
    }
    let tree = Tree::new();
    tree.write("mounted/below", "").write("a", "a");
    let mounted = tree.path().join("mounted").display().to_string();
    run("mount", &["-t", "tmpfs", "-o", "size=1m", "none", &mounted]);
    tree.write("mounted/x", "x");
    let sent = tree.send();
    assert_eq!(sent.files(), ["a", "mounted/x"]);
    let device = |path: &str| sent.snapshot.nodes[&RelPath::new(path).unwrap()].dev;
    assert_ne!(device("a"), device("mounted/x"));
    run("umount", &[&mounted]);
}
