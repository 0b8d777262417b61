//! Why Codex is not running any more.

use crate::keeper::client::KeeperError;

/// Why it is not.
#[derive(Debug)]
pub(super) enum Stop {
    /// It ended by itself.
    Ended,
    /// The call's timeout ran out.
    TimedOut,
    /// The caller cancelled.
    Cancelled,
    /// The user answered a question of Codex so.
    ByAnswer,
    /// It used more than so many tokens.
    OverTokens(u64),
    /// The container was lost.
    Lost(KeeperError),
    /// It did not begin.
    NotStarted(KeeperError),
    /// It is a version that cannot be asked for what the call wants.
    Untested(String),
}

impl Stop {
    /// Whether we ended it, so that the caller is also told what became of the changes.
    pub(super) fn is_by_us(&self) -> bool {
        matches!(self, Self::TimedOut | Self::Cancelled | Self::ByAnswer | Self::OverTokens(_))
    }
}
