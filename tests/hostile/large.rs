//! Many paths: what they take of memory, and that time grows with them and not with their square.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fmt::Write;
use std::io::{self, Read};
use std::time::Duration;

use mcp_codex_orchestrator::path::RelPath;
use mcp_codex_orchestrator::workspace::classify::classify;
use mcp_codex_orchestrator::workspace::receive::{ReceiveLimits, receive};
use mcp_codex_orchestrator::workspace::{Node, NodeKind, Snapshot, diff};
use rustix::time::{ClockId, clock_gettime};

use super::place::{Place, protect};
use super::tar::Tar;

/// Counts what each thread has allocated.
pub(crate) struct Counting;

thread_local! {
    static NOW: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    let _ = NOW.try_with(|now| {
        now.set(now.get() + bytes);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(now.get())));
    });
}

#[expect(unsafe_code, reason = "an allocator is unsafe by its trait")]
// SAFETY: it only counts, the system's allocator does the work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    // Large blocks grow in place or are mapped elsewhere; they are never there twice.
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as isize - layout.size() as isize);
        // SAFETY: as the caller promised.
        unsafe { System.realloc(at, layout, size) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(at, layout) }
    }
}

/// The most that was allocated at once while `work` ran, over what was before.
fn peak<T>(work: impl FnOnce() -> T) -> (isize, T) {
    let before = NOW.get();
    PEAK.set(before);
    let done = work();
    (PEAK.get() - before, done)
}

/// A stream that is made as it is read.
struct Made<F> {
    next: F,
    bytes: Vec<u8>,
    at: usize,
    count: u32,
    end: bool,
}

fn made(entries: u32, node: impl Fn(Tar, u32) -> Tar) -> impl Read {
    let next = move |n| (n < entries).then(|| node(Tar::default(), n).0);
    Made { next, bytes: Vec::new(), at: 0, count: 0, end: false }
}

impl<F: Fn(u32) -> Option<Vec<u8>>> Read for Made<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.bytes.len() && !self.end {
            self.bytes = (self.next)(self.count).unwrap_or_else(|| {
                self.end = true;
                Tar::default().end(&[])
            });
            self.at = 0;
            self.count += 1;
        }
        let n = buffer.len().min(self.bytes.len() - self.at);
        buffer[..n].copy_from_slice(&self.bytes[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

fn take(stream: impl Read, sent: &Snapshot, limits: &ReceiveLimits) -> usize {
    let folder = tempfile::tempdir().unwrap();
    let received = receive(stream, sent, limits, &folder.path().join("changes.tar")).unwrap();
    classify(received, sent, &protect()).changes.len()
}

/// 150 MB for the 300,000 paths that may come by default.
const EACH: isize = 500;

#[test]
fn a_path_takes_no_more_memory_than_was_said() {
    let (files, all) = (49_500_u32, 50_000_u32);
    let limits = ReceiveLimits::new(u64::from(all), 2 << 30);
    let path = |n: u32| format!("src/module-{}/file-{n}.rs", n % 499);
    let stream = made(files, |tar, n| tar.file(path(n), b""));
    let (most, changes) = peak(|| take(stream, &Snapshot::default(), &limits));
    assert_eq!(changes, all as usize, "500 directories among them");
    eprintln!("{changes} changes: {} bytes each at most", most / changes as isize);
    assert!(most < EACH * changes as isize, "{most}");
}

#[test]
fn of_a_million_empty_files_no_more_are_taken_than_may_come() {
    let stream = made(1_000_000, |tar, n| tar.file(format!("f{n}"), b""));
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("changes.tar");
    let limits = ReceiveLimits::new(50_000, 2 << 30);
    let (most, outcome) = peak(|| receive(stream, &Snapshot::default(), &limits, &archive));
    assert!(outcome.unwrap_err().to_string().contains("workspace.max_files"));
    assert!(most < EACH * 50_000, "{most}");
}

/// How much a million takes where the settings allow it; not in CI, for its time without
/// optimization.
#[test]
fn a_million_empty_files_are_taken_where_they_may_come() {
    if std::env::var_os("CODEX_TESTS_SOAK").is_none() {
        eprintln!("skipped: set CODEX_TESTS_SOAK to take in a million files");
        return;
    }
    let million = 1_000_000_u32;
    let limits = ReceiveLimits::new(million.into(), 2 << 30);
    let stream = made(million, |tar, n| tar.file(format!("f{n}"), b""));
    let (most, changes) = peak(|| take(stream, &Snapshot::default(), &limits));
    eprintln!("{changes} changes: {} MB at most", most / 1_000_000);
    assert!(changes == 1_000_000 && most < EACH * 1_000_000, "{most}");
}

#[test]
fn a_diff_of_the_worst_files_takes_no_more_memory_than_was_said() {
    // Nothing in common; as many lines as may be, and then one more.
    for (lines, compared) in [(100_000, true), (100_001, false)] {
        let place = Place::new();
        let text = |word| (0..lines).map(|n| format!("{word}{n}\n")).collect::<String>();
        place.write("a", &text("x")).write("b", &text("x"));
        let tar = Tar::default().file("a", text("y")).file("b", text("y"));
        let run = place.take(&tar.end(&[])[..], &place.snapshot()).unwrap();
        let archive = run.folder.join("changes.tar");
        let file = run.folder.join("diff.patch");
        let out = std::fs::File::create(&file).unwrap();
        let (most, done) = peak(|| diff::patch(&place.workspace, &run.set, &archive, out));
        done.unwrap();
        eprintln!("{lines} lines each: {} MB at most", most / 1_000_000);
        assert!(most < 64 << 20, "{most}");
        let shown = std::fs::read_to_string(&file).unwrap();
        assert_eq!(shown.contains("+y7\n"), compared);
        assert_eq!(shown.contains("Binary files"), !compared);
    }
}

/// Time of this thread alone, whatever else the machine does.
fn cpu(work: impl FnOnce()) -> Duration {
    let now = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    };
    let before = now();
    work();
    now() - before
}

/// A tree of `n` of something is taken in, and one of four times as many; what grows with the
/// square takes sixteen times as long.
fn grows_with(
    what: &str,
    n: u32,
    node: impl Fn(Tar, u32) -> Tar + Copy,
    sent: impl Fn(u32) -> Snapshot,
) {
    let limits = ReceiveLimits {
        entries: 1_000_000,
        path_bytes: 1 << 30,
        ..ReceiveLimits::new(1_000_000, 1 << 30)
    };
    let time = |n: u32| {
        let sent = sent(n);
        cpu(|| assert!(take(made(n, node), &sent, &limits) > 0))
    };
    let (one, four) = (time(n), time(4 * n));
    eprintln!("{what}: {n} in {one:?}, {} in {four:?}", 4 * n);
    assert!(four < one * 9 + Duration::from_millis(50), "{what}: {one:?}, then {four:?}");
}

fn nothing(_: u32) -> Snapshot {
    Snapshot::default()
}

#[test]
fn time_grows_with_the_paths_and_not_with_their_square() {
    grows_with("empty directories", 3000, |tar, n| tar.directory(format!("d{n}")), nothing);
    grows_with("new repositories", 1500, |tar, n| tar.file(format!("r{n}/.git/x"), b""), nothing);
    grows_with("held", 3000, |tar, n| tar.file(format!("{n}/.envrc"), b""), nothing);
    grows_with("links", 2000, |tar, n| tar.link(format!("l{n}"), format!("l{}/x", n + 1)), nothing);
    grows_with("repository parts", 1000, |tar, n| tar.file(format!("{n}/refs/HEAD"), b""), nothing);
    let deep = "d/".repeat(500);
    grows_with("files in a deep nest", 300, |tar, n| tar.file(format!("{deep}{n}"), b""), nothing);
    grows_with("deep nests", 20, |tar, n| tar.file(format!("{n}/{deep}f"), b""), nothing);
}

#[test]
fn what_replaces_a_large_tree_takes_time_in_proportion_to_it() {
    let node = |kind| Node {
        kind,
        mode: 0o644,
        size: 0,
        mtime: (0, 0),
        ctime: (0, 0),
        dev: 0,
        ino: 0,
        hash: (kind == NodeKind::File).then(|| *blake3::hash(b"").as_bytes()),
        target: None,
    };
    let sent = |n: u32| {
        let mut nodes = std::collections::BTreeMap::new();
        for directory in 0..n {
            let mut path = format!("d{directory}");
            nodes.insert(RelPath::new(path.clone()).unwrap(), node(NodeKind::Directory));
            for level in 0..4 {
                write!(path, "/{level}").unwrap();
                nodes.insert(RelPath::new(path.clone()).unwrap(), node(NodeKind::Directory));
            }
            nodes.insert(RelPath::new(format!("{path}/.envrc")).unwrap(), node(NodeKind::File));
        }
        Snapshot { nodes: nodes.into(), ..Snapshot::default() }
    };
    let replace = |tar: Tar, n| tar.file(format!("d{n}"), b"now a file");
    grows_with("directories with something held, replaced", 1000, replace, sent);
}
