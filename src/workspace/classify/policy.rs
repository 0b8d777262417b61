//! `workspace.protect`.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use ignore::gitignore::{Gitignore, GitignoreBuilder};

use super::names::plainest;

/// What is held besides what can never be applied.
#[derive(Clone, Debug)]
pub struct Policy {
    protect: Gitignore,
    /// The directories that lead to what is protected: a link in the place of one of them would put
    /// anything in the place of what is protected.
    gates: Gitignore,
}

/// A pattern of `workspace.protect` that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("workspace.protect has a pattern that cannot be read, {pattern:?}: {why}")]
pub struct PolicyError {
    /// The pattern.
    pub pattern: String,
    /// What is wrong with it.
    pub why: String,
}

impl Policy {
    /// Takes `workspace.protect`: patterns in the syntax of `.gitignore`, read without regard to
    /// case, since the file system of the host may have none.
    ///
    /// # Errors
    ///
    /// The first pattern that cannot be read.
    pub fn new(protect: &[String]) -> Result<Self, PolicyError> {
        let gates: Vec<String> = protect.iter().flat_map(|pattern| gates(pattern)).collect();
        Ok(Self { protect: matcher(protect)?, gates: matcher(&gates)? })
    }

    /// Whether a path is protected for itself, and not only because of a directory above it; `None`
    /// where no pattern says anything. `is_link`: a link may stand for a directory.
    pub(super) fn protects(&self, path: &[u8], is_directory: bool, is_link: bool) -> Option<bool> {
        let plain = plainest(path);
        let spelled = |path: &[u8]| {
            let path = Path::new(OsStr::from_bytes(path));
            let says = |matcher: &Gitignore, is_directory| match matcher.matched(path, is_directory)
            {
                ignore::Match::None => None,
                ignore::Match::Ignore(_) => Some(true),
                ignore::Match::Whitelist(_) => Some(false),
            };
            if is_link && says(&self.gates, true) == Some(true) {
                return Some(true);
            }
            let says = [says(&self.protect, is_directory), says(&self.protect, is_link)];
            says.into_iter().flatten().max()
        };
        let odd = match &plain {
            Cow::Owned(plain) if plain[..] != *path && !plain.is_empty() => spelled(plain),
            _ => None,
        };
        odd.max(spelled(path))
    }
}

fn matcher(patterns: &[String]) -> Result<Gitignore, PolicyError> {
    let wrong = |pattern: &str, why: ignore::Error| PolicyError {
        pattern: pattern.to_owned(),
        why: why.to_string(),
    };
    let mut builder = GitignoreBuilder::new("");
    builder.case_insensitive(true).map_err(|e| wrong("", e))?;
    for pattern in patterns {
        builder.add_line(None, pattern).map_err(|e| wrong(pattern, e))?;
    }
    builder.build().map_err(|e| wrong("", e))
}

/// Patterns for the directories above what `pattern` names.
fn gates(pattern: &str) -> Vec<String> {
    if pattern.starts_with(['!', '#']) {
        return Vec::new();
    }
    let whole = pattern.strip_prefix('/').unwrap_or(pattern).trim_end_matches('/');
    let above = whole.match_indices('/').map(|(at, _)| &whole[..at]);
    // A leading slash, since a pattern without any would be for every depth.
    above
        .filter(|above| !matches!(above.rsplit('/').next(), Some("**")))
        .map(|above| format!("/{above}"))
        .collect()
}
