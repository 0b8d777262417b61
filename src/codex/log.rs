//! A log with a limit.

use std::io::{self, Write};

/// Writes the first `limit` bytes and counts the rest; the cut is marked.
///
/// An error of the file below does not end a run: nothing more is written and
/// [`finish`](Self::finish) tells it.
#[derive(Debug)]
pub struct LimitedLog<W> {
    file: W,
    left: u64,
    limit: u64,
    cut: u64,
    error: Option<io::Error>,
}

impl<W: Write> LimitedLog<W> {
    /// A log of at most `limit` bytes, the mark of the cut apart.
    pub fn new(file: W, limit: u64) -> Self {
        Self { file, left: limit, limit, cut: 0, error: None }
    }

    /// Takes `bytes`, or counts them where they are over the limit.
    pub fn append(&mut self, bytes: &[u8]) {
        let fits = usize::try_from(self.left).map_or(bytes.len(), |left| left.min(bytes.len()));
        if self.error.is_some() {
            self.cut += bytes.len() as u64;
            return;
        }
        if let Err(error) = self.file.write_all(&bytes[..fits]) {
            self.error = Some(error);
        }
        self.left -= fits as u64;
        self.cut += (bytes.len() - fits) as u64;
    }

    /// Marks the cut, if there is one, and flushes. Returns the bytes that were cut.
    ///
    /// # Errors
    ///
    /// The first error of the file below.
    pub fn finish(&mut self) -> io::Result<u64> {
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        let cut = std::mem::take(&mut self.cut);
        if cut > 0 {
            let mark = format!("\n[cut here at {} bytes; {cut} bytes more]\n", self.limit);
            self.file.write_all(mark.as_bytes())?;
        }
        self.file.flush()?;
        Ok(cut)
    }
}

/// The last bytes of a stream.
#[derive(Clone, Debug)]
pub struct Tail {
    bytes: Vec<u8>,
    limit: usize,
}

impl Tail {
    /// Keeps at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { bytes: Vec::new(), limit }
    }

    /// Adds `bytes` at the end.
    pub fn append(&mut self, bytes: &[u8]) {
        let new = &bytes[bytes.len().saturating_sub(self.limit)..];
        self.bytes.extend_from_slice(new);
        // Only now and then, so that small pieces do not move the whole each time.
        if self.bytes.len() > self.limit.saturating_mul(2) {
            self.bytes.drain(..self.bytes.len() - self.limit);
        }
    }

    /// What is kept, as text.
    pub fn text(&self) -> String {
        let start = self.bytes.len().saturating_sub(self.limit);
        String::from_utf8_lossy(&self.bytes[start..]).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cut_is_marked_and_counted() {
        let mut file = Vec::new();
        let mut log = LimitedLog::new(&mut file, 5);
        log.append(b"abc");
        log.append(b"defg");
        log.append(b"h");
        assert_eq!(log.finish().unwrap(), 3);
        assert_eq!(file, b"abcde\n[cut here at 5 bytes; 3 bytes more]\n");
    }

    #[test]
    fn a_full_disk_is_told_at_the_end() {
        let mut room = [0_u8; 2];
        let mut log = LimitedLog::new(&mut room[..], 100);
        log.append(b"abc");
        log.append(b"d");
        assert!(log.finish().is_err());
    }

    #[test]
    fn a_tail_keeps_the_last_bytes_of_any_pieces() {
        let mut tail = Tail::new(4);
        for piece in ["a", "bcdefgh", "", "ij", "k"] {
            tail.append(piece.as_bytes());
        }
        assert_eq!(tail.text(), "hijk");
    }
}
