//! The thread of a run that is to be continued, or continues another.

use super::{Job, Prepared};
use crate::codex::outcome::Usage;
use crate::job::thread;
use crate::keeper::client::Keeper;

impl Prepared {
    /// The tokens of this run alone: Codex counts all turns of a thread.
    pub(super) fn of_this_run(&self, usage: Option<Usage>) -> Option<Usage> {
        match &self.continues {
            Some(before) => usage.map(|usage| usage.since(before.usage)),
            None => usage,
        }
    }
}

impl Job<'_> {
    /// Keeps the thread. Without it the run is what it is; a note tells why.
    pub(super) async fn keep_thread(&mut self, keeper: &Keeper, prepared: &Prepared) {
        let kept = match &self.thread {
            None => Err("Codex had not begun one".to_owned()),
            Some(id) => {
                let gateway = prepared.gateway.clone();
                let redact = move |text: &str| gateway.redact(text);
                let limit = self.settings.config.run.transfer_timeout;
                let model = prepared.model.as_deref();
                thread::keep(keeper, &prepared.record, id, model, redact, limit).await
            }
        };
        self.result.thread_kept = kept.is_ok();
        let note = |why| format!("the thread was not kept, because {why}");
        self.result.notes.extend(kept.err().map(note));
    }
}
