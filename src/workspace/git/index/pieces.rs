//! Bytes that are parsed while they come.

use std::io::{self, Read};

/// Bytes that are read at once, at least.
const PIECE: usize = 256 << 10;

/// A reader of which no more is in memory than what is not parsed yet, and a piece.
pub(super) struct Pieces<R> {
    reader: R,
    bytes: Vec<u8>,
    /// Where in `bytes` begins what is not parsed yet.
    at: usize,
    hasher: blake3::Hasher,
    /// Whether all was read.
    ended: bool,
    /// Whether the reader failed: then nothing of it is to be believed.
    failed: bool,
}

impl<R: Read> Pieces<R> {
    pub(super) fn new(reader: R) -> Self {
        let hasher = blake3::Hasher::new();
        Self { reader, bytes: Vec::new(), at: 0, hasher, ended: false, failed: false }
    }

    /// What `parse` takes from the front, which is asked again with more as long as it says `None`.
    /// `None` if it does so at the end, too.
    pub(super) fn parse<T>(&mut self, mut parse: impl FnMut(&mut &[u8]) -> Option<T>) -> Option<T> {
        loop {
            let mut rest = self.rest();
            if let Some(parsed) = parse(&mut rest) {
                let left = rest.len();
                self.at = self.bytes.len() - left;
                return Some(parsed);
            }
            if !self.more() {
                return None;
            }
        }
    }

    /// Whether more than `count` bytes are left.
    pub(super) fn has_more_than(&mut self, count: usize) -> bool {
        while self.rest().len() <= count {
            if !self.more() {
                return false;
            }
        }
        true
    }

    /// Leaves out `count` bytes; `None` if there are not so many.
    pub(super) fn skip(&mut self, count: usize) -> Option<()> {
        let mut left = count;
        loop {
            let here = self.rest().len().min(left);
            self.at += here;
            left -= here;
            if left == 0 {
                return Some(());
            }
            if !self.more() {
                return None;
            }
        }
    }

    /// The BLAKE3 of all bytes, what was not parsed included; `None` if they could not be read.
    pub(super) fn hash(mut self) -> Option<[u8; 32]> {
        self.at = self.bytes.len();
        while self.more() {
            self.at = self.bytes.len();
        }
        (!self.failed).then(|| *self.hasher.finalize().as_bytes())
    }

    fn rest(&self) -> &[u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    /// Reads on, and as much as is there already, so that what is long is not looked at too often.
    /// Whether anything came.
    fn more(&mut self) -> bool {
        if self.ended {
            return false;
        }
        self.bytes.drain(..self.at);
        self.at = 0;
        let (had, want) = (self.bytes.len(), self.bytes.len().max(PIECE));
        self.bytes.reserve(want);
        // As much as is asked for, or the end.
        let read: io::Result<usize> =
            self.reader.by_ref().take(want as u64).read_to_end(&mut self.bytes);
        self.failed = read.is_err();
        self.ended = self.failed || self.bytes.len() < had + want;
        let new = self.bytes.get(had..).unwrap_or_default();
        self.hasher.update(new);
        !self.failed && !new.is_empty()
    }
}
