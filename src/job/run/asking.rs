//! What a run that asks needs.

use std::fs::File;

use super::{Job, Prepared};
use crate::codex::app_server::approval::desk;
use crate::codex::exec::CodexRun;
use crate::codex::log::LimitedLog;
use crate::job::ask::Asking;
use crate::model::redact::REDACTED;

/// Values of `env_vars` that are shorter are no secrets, and would be found in every text.
const SHORTEST: usize = 6;

impl<'a> Job<'a> {
    /// Lets Codex ask in `run`. Neither a credential of ours nor a value of `env_vars` is told in a
    /// question.
    pub(super) fn asking<'b>(
        &self,
        run: &mut CodexRun<File>,
        prepared: &'b Prepared,
        log: LimitedLog<File>,
    ) -> Asking<'b>
    where
        'a: 'b,
    {
        let (ours, counter) = desk();
        run.asking(ours);
        let (gateway, call) = (&prepared.gateway, self.call);
        let redact = move |text: &str| {
            let values = call.env_vars.iter().map(|(_, value)| value);
            let values = values.filter(|value| value.len() >= SHORTEST);
            let text = values.fold(text.to_owned(), |text, value| text.replace(value, REDACTED));
            gateway.redact(&text)
        };
        let limit = self.settings.config.codex.approval_timeout;
        Asking::new(self.asker, counter, Box::new(redact), limit, log, self.progress.clone())
    }
}
