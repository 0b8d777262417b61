//! Lines out of a container: of any length, held in bounded memory.

use serde_json::Value;

/// The longest line that is read whole. Codex itself cuts a command's output at about 1 MiB, and
/// escaping makes that more.
pub const MAX_LINE: usize = 4 * 1024 * 1024;

/// What of the beginning of a longer line is looked at.
pub(super) const SKIMMED: usize = 64 * 1024;

/// What of the end of a longer line is looked at.
const TAIL: usize = 1024;

/// One line, without its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Line<'a> {
    /// All of it.
    Whole(&'a [u8]),
    /// It was over [`MAX_LINE`].
    Long {
        /// Its first [`SKIMMED`] bytes.
        head: &'a [u8],
        /// Its last bytes, 1 KiB at most.
        tail: &'a [u8],
        /// How long it was.
        bytes: u64,
    },
}

/// Takes bytes as they come and gives lines. A blank line is none.
#[derive(Debug, Default)]
pub(super) struct Lines {
    line: Vec<u8>,
    tail: Vec<u8>,
    /// Bytes of the current line that were not kept in `line`.
    skipped: u64,
}

impl Lines {
    /// Takes `bytes`, in any pieces; calls `each` for each line that they end.
    pub(super) fn feed(&mut self, bytes: &[u8], mut each: impl FnMut(Line<'_>)) {
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            self.keep(&rest[..end]);
            rest = &rest[end + 1..];
            self.give(&mut each);
        }
        self.keep(rest);
    }

    /// Takes what is left as the last line.
    pub(super) fn finish(&mut self, mut each: impl FnMut(Line<'_>)) {
        self.give(&mut each);
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.skipped == 0 && self.line.len() + bytes.len() <= MAX_LINE {
            self.line.extend_from_slice(bytes);
            return;
        }
        if self.skipped == 0 {
            let from = self.line.len().saturating_sub(TAIL);
            self.tail.extend_from_slice(&self.line[from..]);
        }
        self.tail.extend_from_slice(&bytes[bytes.len().saturating_sub(TAIL)..]);
        let over = self.tail.len().saturating_sub(TAIL);
        self.tail.drain(..over);
        let room = SKIMMED.saturating_sub(self.line.len()).min(bytes.len());
        self.line.extend_from_slice(&bytes[..room]);
        let held = self.line.len();
        self.line.truncate(SKIMMED);
        self.line.shrink_to(SKIMMED);
        self.skipped += (held - self.line.len() + bytes.len() - room) as u64;
    }

    fn give(&mut self, each: &mut impl FnMut(Line<'_>)) {
        let skipped = std::mem::take(&mut self.skipped);
        if skipped > 0 {
            let bytes = self.line.len() as u64 + skipped;
            each(Line::Long { head: &self.line, tail: &self.tail, bytes });
        } else if !self.line.trim_ascii().is_empty() {
            each(Line::Whole(&self.line));
        }
        self.line.clear();
        self.line.shrink_to(SKIMMED);
        self.tail.clear();
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.line.capacity()
    }
}

/// A line as JSON; what is no UTF-8 in it is replaced.
pub(super) fn json(line: &[u8]) -> Option<Value> {
    match serde_json::from_slice(line) {
        Ok(value) => Some(value),
        Err(_) => serde_json::from_str(&String::from_utf8_lossy(line)).ok(),
    }
}
