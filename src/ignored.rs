//! Which paths of a tree git ignores; used by the host when it sends and by the keeper when it
//! collects.
//!
//! The rules are git's own (`gitignore(5)` and `wildmatch.c`), over bytes: deeper files win over
//! higher ones, later lines over earlier ones, and nothing in an ignored directory can be taken
//! back. That last rule is the walk's: whoever walks asks for a directory first and does not enter
//! it when it is ignored. A matcher of our own, because patterns in a container are hostile: it
//! compiles nothing, its memory is that of the pattern files, and a match has a bounded number of
//! steps.
//!
//! ```text
//!  Rules::new(excludes) ─ enter("", .gitignore) ─ enter("src", None) ─ enter("src/a", .gitignore)
//!                              each shares what is above it; asked deepest first
//! ```

mod above;
mod pattern;

pub use above::Above;

/// The file that says that a directory is a cache, which nobody needs a copy of
/// (<https://bford.info/cachedir/>).
pub const CACHE_TAG: &str = "CACHEDIR.TAG";

/// How the contents of a [`CACHE_TAG`] begin; without this it is none.
pub const CACHE_SIGNATURE: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55";

use std::sync::Arc;

use pattern::Pattern;

/// The rules in force in one directory. Cheap to clone: the rules above are shared.
#[derive(Clone, Debug, Default)]
pub struct Rules(Option<Arc<Level>>);

/// One pattern file.
#[derive(Debug)]
struct Level {
    /// The directory of the file, without a trailing `/`; empty for the top of the tree.
    base: Vec<u8>,
    patterns: Vec<Pattern>,
    above: Option<Arc<Level>>,
}

impl Rules {
    /// The largest pattern file in bytes; what is beyond is not read.
    pub const MAX_FILE_BYTES: usize = 1 << 20;

    /// Rules from pattern files that hold for the whole tree (`core.excludesFile`,
    /// `.git/info/exclude`, settings), the weakest first.
    pub fn new<B: AsRef<[u8]>>(excludes: &[B]) -> Self {
        excludes.iter().fold(Self::default(), |rules, bytes| rules.enter(b"", Some(bytes.as_ref())))
    }

    /// The rules inside `directory` (relative to the top of the tree, empty for the top itself),
    /// given the bytes of its `.gitignore`, if it has one.
    pub fn enter(&self, directory: &[u8], gitignore: Option<&[u8]>) -> Self {
        let Some(bytes) = gitignore else { return self.clone() };
        let patterns = pattern::parse(&bytes[..bytes.len().min(Self::MAX_FILE_BYTES)]);
        if patterns.is_empty() {
            return self.clone();
        }
        Self(Some(Arc::new(Level { base: directory.to_vec(), patterns, above: self.0.clone() })))
    }

    /// Whether a pattern ignores `path` (relative to the top of the tree); its parents are taken
    /// not to be ignored.
    pub fn is_ignored(&self, path: &[u8], is_directory: bool) -> bool {
        let mut level = self.0.as_deref();
        while let Some(here) = level {
            if let Some(ignored) = here.decide(path, is_directory) {
                return ignored;
            }
            level = here.above.as_deref();
        }
        false
    }

    /// Whether there is no pattern at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

impl Level {
    /// `None` where no pattern of this file says anything.
    fn decide(&self, path: &[u8], is_directory: bool) -> Option<bool> {
        let relative = if self.base.is_empty() {
            path
        } else {
            path.strip_prefix(&*self.base)?.strip_prefix(b"/")?
        };
        let name = relative.rsplit(|byte| *byte == b'/').next().unwrap_or(relative);
        self.patterns
            .iter()
            .rev()
            .find(|pattern| pattern.matches(relative, name, is_directory))
            .map(|pattern| !pattern.negated)
    }
}

#[cfg(test)]
mod tests;
