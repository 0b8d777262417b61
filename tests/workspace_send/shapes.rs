//! Odd shapes of trees: very long, very deep, very wide, with odd names.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mcp_codex_orchestrator::workspace::root::open_unchecked;
use mcp_codex_orchestrator::workspace::send::{SendRules, send};
use mcp_codex_orchestrator::workspace::{DEEPEST, StayReason};
use rustix::fs::{AtFlags, Mode, OFlags, mkdirat, openat, unlinkat};

use crate::{Stop, Tree, listing, rules};

/// Directories within each other, with a file in each, made and removed without a path.
struct Deep {
    open: Vec<OwnedFd>,
    name: String,
}

impl Deep {
    fn new(tree: &Tree, name: &str, depth: usize) -> Self {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut open: Vec<OwnedFd> = vec![fs::File::open(tree.path()).unwrap().into()];
        for _ in 0..depth {
            let above = open.last().unwrap();
            mkdirat(above, name, Mode::from_raw_mode(0o755)).unwrap();
            let directory = openat(above, name, flags, Mode::empty()).unwrap();
            let create = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
            openat(&directory, "f", create, Mode::from_raw_mode(0o644)).unwrap();
            open.push(directory);
        }
        Self { open, name: name.into() }
    }
}

impl Drop for Deep {
    fn drop(&mut self) {
        while let Some(directory) = self.open.pop() {
            let _ = unlinkat(directory.as_fd(), "f", AtFlags::empty());
            if let Some(above) = self.open.last() {
                let _ = unlinkat(above, self.name.as_str(), AtFlags::REMOVEDIR);
            }
        }
    }
}

/// In memory where there is a place for it: making so many files takes a disk longer than the test.
fn in_memory() -> Tree {
    Tree(tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap())
}

#[test]
fn names_of_every_kind_arrive_as_they_are() {
    let tree = Tree::new();
    let long = "n".repeat(255);
    let names: [&[u8]; 12] = [
        long.as_bytes(),
        b"new\nline",
        b"back\\slash",
        b"colon:",
        b"tab\t",
        b"not utf-8 \xff\xfe",
        b"\x01control\x7f",
        b" space ",
        b"-dash",
        b"\"quoted\"",
        b"trailing.",
        "\u{202e}right to left".as_bytes(),
    ];
    for name in names {
        tree.write(OsStr::from_bytes(name), name);
        let inside: Vec<u8> = [b"d-", &name[..name.len().min(200)], b"/", name].concat();
        tree.write(OsStr::from_bytes(&inside), name);
    }
    let sent = tree.send();
    assert_eq!(sent.snapshot.files, 24);
    assert_eq!(listing(tree.path()), listing(sent.path()));
}

#[test]
fn a_path_over_what_a_system_call_takes_stays_home_and_the_rest_travels() {
    let tree = Tree::new();
    tree.write("a", "a");
    // 16 levels of 256 bytes: 4,095 is reached in the last.
    let _deep = Deep::new(&tree, &"d".repeat(255), 40);
    let workspace = open_unchecked(tree.path()).unwrap();
    let snapshot = send(&workspace, &rules(), std::io::sink()).unwrap();
    assert_eq!(snapshot.files, 16);
    // The file in the deepest directory whose path fits, and the directory in it.
    assert_eq!(snapshot.stayed_home.len(), 2);
    for stayed in &snapshot.stayed_home {
        assert_eq!(stayed.reason, StayReason::NameTooLong);
        assert!(stayed.path.starts_with("dddd") && stayed.path.len() < 300, "{}", stayed.path);
    }
    assert!(snapshot.notes()[0].contains("its path is too long"));
}

#[test]
fn directories_ten_thousand_deep_are_cut_at_the_limit_in_no_time() {
    let (soft, hard) = (20_000, 20_000);
    let limit = rustix::process::Rlimit { current: Some(soft), maximum: Some(hard) };
    let had = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let limit = rustix::process::Rlimit { maximum: had.maximum, ..limit };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
    let tree = in_memory();
    let _deep = Deep::new(&tree, "d", 10_000);
    let began = Instant::now();
    let workspace = open_unchecked(tree.path()).unwrap();
    let snapshot = send(&workspace, &rules(), std::io::sink()).unwrap();
    let took = began.elapsed();
    eprintln!("10,000 deep: {took:?}");
    assert!(took < Duration::from_secs(20), "{took:?}");
    assert_eq!(snapshot.files, DEEPEST as u64);
    assert_eq!(snapshot.stayed_home.len(), 1);
    assert_eq!(snapshot.stayed_home[0].reason, StayReason::TooDeep);
    assert_eq!(snapshot.stayed_home[0].path, "d/".repeat(DEEPEST + 1));
}

#[test]
fn a_hundred_thousand_names_in_one_directory_travel() {
    let tree = in_memory();
    fs::create_dir(tree.path().join("d")).unwrap();
    for number in 0..100_000 {
        fs::write(tree.path().join(format!("d/{number}")), "x").unwrap();
    }
    let workspace = open_unchecked(tree.path()).unwrap();
    let rules = SendRules { max_files: 200_000, ..rules() };
    let began = Instant::now();
    let snapshot = send(&workspace, &rules, std::io::sink()).unwrap();
    eprintln!("100,000 in one directory: {:?}", began.elapsed());
    assert_eq!(snapshot.files, 100_000);
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
}

#[test]
fn a_directory_that_is_renamed_during_the_walk_is_found_or_left_out_whole() {
    let tree = Tree::new();
    for number in 0..40 {
        tree.write(format!("before/{number}/x"), "x");
    }
    tree.write("a/x", "x");
    let stop = AtomicBool::new(false);
    let mut found = 0;
    std::thread::scope(|scope| {
        let _stop = Stop(&stop);
        scope.spawn(|| {
            let (one, other) = (tree.path().join("a"), tree.path().join("z"));
            while !stop.load(Ordering::Relaxed) {
                fs::rename(&one, &other).unwrap();
                fs::rename(&other, &one).unwrap();
            }
        });
        for _ in 0..200 {
            let workspace = open_unchecked(tree.path()).unwrap();
            let snapshot = send(&workspace, &rules(), std::io::sink()).unwrap();
            assert!(snapshot.files >= 40 && snapshot.stayed_home.is_empty());
            found += usize::from(snapshot.files == 41);
        }
    });
    assert!(found > 0);
}
