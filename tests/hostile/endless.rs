//! Streams without an end: each is given up after a number of bytes that has a bound.

use std::io::{self, Read};

use mcp_codex_orchestrator::workspace::Snapshot;
use mcp_codex_orchestrator::workspace::receive::{ReceiveError, ReceiveLimits};

use super::place::Place;
use super::tar::{Header, Tar};

/// Gives what `next` makes, for ever, and counts.
struct Endless<F> {
    next: F,
    bytes: Vec<u8>,
    at: usize,
    count: u64,
    read: u64,
}

impl<F: FnMut(u64) -> Vec<u8>> Read for &mut Endless<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.bytes.len() {
            self.bytes = (self.next)(self.count);
            self.at = 0;
            self.count += 1;
        }
        let n = buffer.len().min(self.bytes.len() - self.at);
        buffer[..n].copy_from_slice(&self.bytes[self.at..self.at + n]);
        self.at += n;
        self.read += n as u64;
        assert!(self.read < 64 << 20, "it is read for ever");
        Ok(n)
    }
}

/// Plays it with room for 100 paths and 1 MiB; gives the error and how many bytes were read.
fn play(first: Vec<u8>, next: impl FnMut(u64) -> Vec<u8>) -> (ReceiveError, u64) {
    let mut place = Place::new();
    place.limits = ReceiveLimits::new(100, 1 << 20);
    let mut endless = Endless { next, bytes: first, at: 0, count: 0, read: 0 };
    let outcome = place.take(&mut endless, &Snapshot::default());
    let error = outcome.err().unwrap();
    place.nothing_escaped();
    (error, endless.read)
}

fn refused(first: Vec<u8>, next: impl FnMut(u64) -> Vec<u8>, most: u64, says: &str) {
    let (error, read) = play(first, next);
    assert!(read <= most, "{read} bytes were read of what says {says:?}");
    assert!(error.to_string().contains(says), "{error}");
}

#[test]
fn a_file_of_a_terabyte_is_refused_before_its_first_byte() {
    let header = Header::new(b"tree/big", b'0', 1 << 33);
    refused(header.bytes().to_vec(), |_| vec![7; 8192], 512, "workspace.max_bytes");
    let mut header = Header::new(b"tree/big", b'0', 0);
    header.size = [&[0x80, 0, 0, 0][..], &(1_u64 << 40).to_be_bytes()].concat();
    refused(header.bytes().to_vec(), |_| vec![7; 8192], 512, "workspace.max_bytes");
}

#[test]
fn many_files_that_are_too_large_together_are_refused() {
    let next = |n: u64| Tar::default().file(format!("f{n}"), vec![7; 100_000]).0;
    refused(Vec::new(), next, 12 * 101_000, "workspace.max_bytes");
}

#[test]
fn more_paths_than_there_may_be_are_refused() {
    let file = |n: u64| Tar::default().file(format!("f{n}"), b"").0;
    refused(Vec::new(), file, 110 * 512, "workspace.max_files");
    let special = |n: u64| Tar::default().node(format!("p{n}").as_bytes(), b'6', 0o644, b"", b"").0;
    refused(Vec::new(), special, 110 * 512, "workspace.max_files");
    let link = |n: u64| Tar::default().link(format!("l{n}"), vec![b'a'; 4095]).0;
    refused(Vec::new(), link, 110 * 8192, "workspace.max_files");
}

#[test]
fn long_paths_are_refused_by_what_they_take_together() {
    let mut place = Place::new();
    place.limits = ReceiveLimits::new(10_000, 1 << 20);
    let path = |n: u64| format!("{n}{}", "/long-name-of-a-directory".repeat(150));
    let next = |n: u64| Tar::default().file(path(n), b"").0;
    let mut endless = Endless { next, bytes: Vec::new(), at: 0, count: 0, read: 0 };
    let error = place.take(&mut endless, &Snapshot::default()).err().unwrap();
    assert!(error.to_string().contains("bytes of paths"), "{error}");
    assert!(endless.count < 500);
}

#[test]
fn directories_that_nobody_named_count_as_well() {
    let mut place = Place::new();
    place.limits = ReceiveLimits::new(100, 1 << 20);
    let deep = "d/".repeat(60);
    let two = Tar::default().file(format!("a/{deep}f"), b"").file(format!("b/{deep}f"), b"");
    let error = place.take(&two.end(&[])[..], &Snapshot::default()).err().unwrap();
    assert!(error.to_string().contains("workspace.max_files"), "{error}");
    let one = Tar::default().file(format!("a/{deep}f"), b"").file(format!("a/{deep}g"), b"");
    assert_eq!(place.take(&one.end(&[])[..], &Snapshot::default()).unwrap().set.changes.len(), 63);
}

#[test]
fn headers_that_go_on_for_ever_are_refused() {
    let pax = |_| Tar::default().pax(&[("mtime", b"1")]).0;
    refused(Vec::new(), pax, 8192, "twice");
    let long = |_| Tar::default().raw(&Header::new(b"L", b'L', 7), b"tree/a\0").0;
    refused(Vec::new(), long, 8192, "twice");
    let root = |_| Tar::default().raw(&Header::new(b"tree/", b'5', 0), b"").0;
    refused(Vec::new(), root, 8192, "root");
    let mut root = Header::new(b"tree/", b'5', 0);
    root.size = [&[0x80, 0, 0, 0][..], &u64::MAX.to_be_bytes()].concat();
    refused(root.bytes().to_vec(), |_| vec![0; 8192], 512, "root");
    let same = |_| Tar::default().directory("d").0;
    refused(Vec::new(), same, 8192, "twice the same path");
}

#[test]
fn names_of_megabytes_are_refused_before_they_are_read() {
    for flag in [b'L', b'K', b'x'] {
        let header = Header::new(b"long", flag, 8 << 20);
        refused(header.bytes().to_vec(), |_| vec![b'a'; 8192], 512, "too long");
    }
}

#[test]
fn zeros_after_the_end_have_an_end() {
    refused(Tar::default().end(&[]), |_| vec![0; 8192], (1 << 20) + 32_768, "after its end");
    refused(Tar::default().end(&[]), |_| vec![1; 512], 16_384, "after its end");
}

#[test]
fn a_list_of_deletions_longer_than_what_was_sent_is_refused() {
    let header = Header::new(b"meta/deleted", b'0', 1 << 30);
    refused(header.bytes().to_vec(), |_| b"a\0".to_vec(), 512, "longer than");
}
