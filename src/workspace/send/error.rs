//! Why a workspace was not sent.

use std::io;

use crate::failure::{ErrorKind, Failure};
use crate::path::RelPath;
use crate::workspace::limits::{Largest, Sparse};

/// Why a workspace was not sent.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// Over `workspace.max_files`.
    #[error(
        "the workspace has more than {limit} files, directories and links ({largest}); exclude \
         some with workspace.exclude or .codexignore, or raise workspace.max_files"
    )]
    TooManyFiles {
        /// The limit.
        limit: u64,
        /// Where they are.
        largest: Largest,
    },
    /// Over `workspace.max_bytes`.
    #[error(
        "the workspace has {}, more than the limit of {} ({largest}{sparse}); exclude some with \
         workspace.exclude or .codexignore, or raise workspace.max_bytes",
        bytesize::ByteSize(*bytes),
        bytesize::ByteSize(*limit)
    )]
    TooManyBytes {
        /// What it has.
        bytes: u64,
        /// The limit.
        limit: u64,
        /// Where they are.
        largest: Largest,
        /// The largest hole among them.
        sparse: Sparse,
    },
    /// What must be read cannot be: the top, the working directory, or anything because this
    /// process may open nothing more.
    #[error(
        "{path} in the workspace cannot be read ({source}); make it readable for this user, or \
         exclude it with workspace.exclude or .codexignore"
    )]
    Unreadable {
        /// Its path; the quoting of [`RelPath`].
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A file of patterns cannot be read, so what it keeps home is not known.
    #[error(
        "{path} in the workspace cannot be read ({source}), and what it names must not travel; \
         make it readable for this user"
    )]
    RulesUnreadable {
        /// Its path; the quoting of [`RelPath`].
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A file that git tracks never held still.
    #[error(
        "{path} in the workspace changes faster than it can be read, and git tracks it; end what \
         writes it, or exclude it with workspace.exclude or .codexignore"
    )]
    Changing {
        /// Its path.
        path: RelPath,
    },
    /// Git's objects went away faster than they could be read.
    #[error("git is repacking the workspace's objects; call again when it is done ({0})")]
    Repacking(String),
    /// `working_dir` is among what stays home.
    #[error(
        "working_dir {0} stays home, because git ignores it, a setting excludes it or it lies too \
         deep; give another one"
    )]
    WorkingDirStaysHome(RelPath),
    /// The stream did not take it.
    #[error("the workspace could not be written to the container ({0})")]
    Write(#[source] io::Error),
}

impl SendError {
    /// The stable kind that callers see.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::TooManyFiles { .. } | Self::TooManyBytes { .. } => ErrorKind::WorkspaceTooLarge,
            Self::WorkingDirStaysHome(_) => ErrorKind::InvalidArgument,
            Self::Unreadable { .. }
            | Self::RulesUnreadable { .. }
            | Self::Changing { .. }
            | Self::Repacking(_)
            | Self::Write(_) => ErrorKind::TransferFailed,
        }
    }

    pub(in crate::workspace) fn unreadable(path: &[u8], source: io::Error) -> Self {
        Self::Unreadable { path: told(path), source }
    }

    pub(in crate::workspace) fn rules_unreadable(path: &[u8], source: io::Error) -> Self {
        Self::RulesUnreadable { path: told(path), source }
    }
}

impl From<SendError> for Failure {
    fn from(error: SendError) -> Self {
        Self::new(error.kind(), error.to_string())
    }
}

fn told(path: &[u8]) -> String {
    match RelPath::new(path) {
        Ok(path) => path.to_string(),
        Err(_) if path.is_empty() => "the top directory".into(),
        Err(_) => "a directory".into(),
    }
}
