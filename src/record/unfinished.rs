//! Files that come into a run's folder bit by bit: whole in the end, or not there.

use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

/// A file that is removed unless it is kept.
#[derive(Debug)]
pub struct Unfinished(Option<PathBuf>);

/// A new file, readable by its owner alone.
///
/// # Errors
///
/// It is there already, or cannot be made.
pub fn create(path: PathBuf) -> io::Result<(BufWriter<File>, Unfinished)> {
    let file = File::options().write(true).create_new(true).mode(0o600).open(&path)?;
    Ok((BufWriter::new(file), Unfinished(Some(path))))
}

impl Unfinished {
    /// It is whole, and stays.
    pub fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(path) = self.0.take()
            && let Err(error) = fs::remove_file(path)
        {
            tracing::warn!(%error, "a file that is no use was left in the run's folder");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_file_is_there_only_if_it_was_kept() {
        let folder = tempfile::tempdir().unwrap();
        for keep in [false, true] {
            let path = folder.path().join("file");
            let (mut file, unfinished) = create(path.clone()).unwrap();
            file.write_all(b"x").unwrap();
            assert!(create(path.clone()).is_err() && path.exists());
            if keep {
                unfinished.keep();
            } else {
                drop(unfinished);
            }
            assert_eq!(path.exists(), keep);
        }
    }
}
