//! When a client is to be told that `tools/list` would say something else.
//!
//! ```text
//!  new settings ─> the list now ─┬─> as the client knows it: nothing
//!                                └─> another one: told
//! ```
//!
//! Most settings are in no text of a tool, and a client that is told asks for the whole list and may
//! show its user that the server has changed.

use std::sync::Arc;

use rmcp::model::Tool;
use tokio::sync::watch;

/// The list that a client knows, and word of new settings.
#[derive(Debug)]
pub(super) struct ListChanges {
    settings: watch::Receiver<()>,
    known: Arc<[Tool]>,
}

impl ListChanges {
    /// Of a client that knows the list as it is now, or will ask for it.
    pub(super) fn new(settings: watch::Receiver<()>, now: Arc<[Tool]>) -> Self {
        Self { settings, known: now }
    }

    /// Resolves when the list is another one than the client knows, which it is then taken to know.
    /// Never where settings do not change. Cancel safe.
    pub(super) async fn next(&mut self, list: impl Fn() -> Arc<[Tool]>) {
        loop {
            if self.settings.changed().await.is_err() {
                return std::future::pending().await;
            }
            let now = list();
            if *now != *self.known {
                self.known = now;
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn list(description: &'static str) -> Arc<[Tool]> {
        let schema = Arc::<serde_json::Map<_, _>>::default();
        Arc::new([Tool::new("t", description, schema)])
    }

    #[tokio::test]
    async fn only_another_list_is_told_and_once() {
        let (settings, receiver) = watch::channel(());
        let mut changes = ListChanges::new(receiver, list("a"));
        assert!(changes.next(|| list("b")).now_or_never().is_none(), "no new settings");
        settings.send_replace(());
        assert!(changes.next(|| list("a")).now_or_never().is_none(), "the same list");
        settings.send_replace(());
        assert!(changes.next(|| list("b")).now_or_never().is_some());
        assert!(changes.next(|| list("b")).now_or_never().is_none(), "told already");
        settings.send_replace(());
        assert!(changes.next(|| list("a")).now_or_never().is_some(), "as it was at first");
        drop(settings);
        assert!(changes.next(|| list("b")).now_or_never().is_none());
    }
}
