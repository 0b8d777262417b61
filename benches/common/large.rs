//! Large files.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// Writes bytes that no two blocks share.
pub(crate) fn fill(path: &Path, bytes: u64, seed: u64) -> io::Result<()> {
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    for _ in 0..bytes / 8 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        file.write_all(&state.to_le_bytes())?;
    }
    file.flush()
}
