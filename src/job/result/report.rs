//! What the calls answer that come back for the changes of a run.

use serde::{Deserialize, Serialize};

use super::{
    ChangesState, ResultChange, ResultConflict, cut_list, push_notes, push_paragraph, push_paths,
};

/// A file of the user's into which the changes of Codex were merged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ResultMerge {
    /// Relative to the workspace; quoted as git quotes names if it is no plain text.
    pub path: String,
    /// How many places both sides changed; each has markers in the file. 0: the file has both
    /// sides' changes and no marker.
    pub conflicts: u32,
}

/// What `codex_run_apply` did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ApplyReport {
    /// The run.
    pub run_id: String,
    /// What has become of the run's changes as a whole.
    pub changes_state: ChangesState,
    /// The paths that this call applied.
    pub files_changed: Vec<String>,
    /// Those of them that were merged with what the user had changed; only with on_conflict
    /// "markers".
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub merged: Vec<ResultMerge>,
    /// Every change of the run.
    pub changes: Vec<ResultChange>,
    /// Paths that could not be applied and stay as they are. With on_conflict "hold_all" nothing
    /// was applied if there is one.
    pub conflicts: Vec<ResultConflict>,
    /// As in the result of a run, of this call.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Whether a list was cut at 500 entries; the run folder has it whole.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
}

impl ApplyReport {
    /// The report as it goes to a caller: every list at most [`MAX_LISTED`](super::MAX_LISTED)
    /// long.
    pub fn cut(mut self) -> Self {
        let mut cut = false;
        cut |= cut_list(&mut self.files_changed);
        cut |= cut_list(&mut self.merged);
        cut |= cut_list(&mut self.changes);
        cut |= cut_list(&mut self.conflicts);
        cut |= cut_list(&mut self.notes);
        self.truncated |= cut;
        self
    }

    /// The essentials.
    pub fn text(&self) -> String {
        let mut text = String::new();
        if !self.files_changed.is_empty() {
            text.push_str("Applied to the workspace:");
            push_paths(&mut text, self.files_changed.iter().map(|path| self.with_merge(path)));
        } else if self.conflicts.is_empty() {
            text.push_str(
                "Nothing was applied: what is still held waits for a decision; name it in paths.",
            );
        } else {
            text.push_str("Nothing was applied; the workspace is unchanged.");
        }
        if self.merged.iter().any(|merged| merged.conflicts > 0) {
            text.push_str(
                "\nWhere the same lines were changed on both sides, the file has markers \
                 (<<<<<<< ======= >>>>>>>): settle them by hand. codex_run_undo brings back what \
                 was there before.",
            );
        }
        push_paragraph(&mut text, &super::conflicts_text(&self.conflicts, &self.run_id));
        push_notes(&mut text, &self.notes);
        push_paragraph(&mut text, &format!("Run {}", self.run_id));
        text
    }

    fn with_merge(&self, path: &String) -> String {
        match self.merged.iter().find(|merged| merged.path == *path).map(|m| m.conflicts) {
            None => path.clone(),
            Some(0) => format!("{path} (merged with your changes, no conflict)"),
            Some(1) => format!("{path} (merged with your changes, 1 conflict is marked in it)"),
            Some(n) => format!("{path} (merged with your changes, {n} conflicts are marked in it)"),
        }
    }
}

/// What `codex_run_undo` did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct UndoReport {
    /// The run.
    pub run_id: String,
    /// What has become of the run's changes as a whole; those that were taken back are held again.
    pub changes_state: ChangesState,
    /// The paths that this call took back.
    pub files_changed: Vec<String>,
    /// Paths that were not taken back, since they are no longer as the run left them. They stay as
    /// they are.
    pub refused: Vec<ResultConflict>,
    /// Every change of the run.
    pub changes: Vec<ResultChange>,
    /// As in the result of a run, of this call.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Whether a list was cut at 500 entries; the run folder has it whole.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
}

impl UndoReport {
    /// The report as it goes to a caller: every list at most [`MAX_LISTED`](super::MAX_LISTED)
    /// long.
    pub fn cut(mut self) -> Self {
        let mut cut = false;
        cut |= cut_list(&mut self.files_changed);
        cut |= cut_list(&mut self.refused);
        cut |= cut_list(&mut self.changes);
        cut |= cut_list(&mut self.notes);
        self.truncated |= cut;
        self
    }

    /// The essentials.
    pub fn text(&self) -> String {
        let mut text = String::new();
        if self.files_changed.is_empty() {
            text.push_str("Nothing was taken back; the workspace is unchanged.");
        } else {
            text.push_str("Taken back; in the workspace these are as before the run:");
            push_paths(&mut text, self.files_changed.iter().cloned());
            text.push_str(&format!(
                "\nThe changes are held: codex_run_apply with run_id \"{}\" applies them again.",
                self.run_id
            ));
        }
        if !self.refused.is_empty() {
            text.push_str("\n\nNot taken back; these stay as they are now:");
            let refused = self.refused.iter();
            push_paths(&mut text, refused.map(|r| format!("{} ({})", r.path, r.reason)));
            text.push_str(
                "\nNothing of yours was overwritten. What these were before the run is in \
                 before.tar in the run folder; to take one back, put it as the run left it \
                 (codex_run_diff shows that) and call codex_run_undo with it in paths.",
            );
        }
        push_notes(&mut text, &self.notes);
        push_paragraph(&mut text, &format!("Run {}", self.run_id));
        text
    }
}
