//! What a run left that git ignores: what is told of it, and what a caller can do about it.

use serde::{Deserialize, Serialize};

use crate::keeper::wire::IgnoredTotal;
use crate::path::RelPath;
use crate::workspace::change::{ChangeSet, ChangeState, Hold};

/// Paths that one sentence names at most.
const NAMED: usize = 10;

/// New paths that git ignores, below one topmost ignored path. They were not applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct IgnoredNew {
    /// The directory with a final `/`, or the file.
    pub path: String,
    /// Size of all in it.
    pub bytes: u64,
    /// It is a small file that is held: `codex_run_apply` with its path applies it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub held: bool,
    /// It stays in the container for the next run on this workspace, as long as the container
    /// lives.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub kept: bool,
}

impl IgnoredNew {
    /// What is told of what the keeper counted. `keeps`: the container will be reset and keeps build
    /// state.
    pub(in crate::job) fn told(
        totals: Vec<IgnoredTotal>,
        set: &ChangeSet,
        keeps: bool,
    ) -> Vec<Self> {
        let held: std::collections::HashSet<String> = set
            .changes
            .iter()
            .filter(|change| change.hold == Some(Hold::Ignored) && change.new.is_some())
            .filter(|change| change.state == ChangeState::Held)
            .map(|change| change.path.to_string())
            .collect();
        let told = |total: IgnoredTotal| {
            let path = known(&total.path);
            Self {
                held: held.contains(&path),
                kept: keeps && total.stays,
                path,
                bytes: total.bytes,
            }
        };
        totals.into_iter().map(told).collect()
    }
}

/// The path that the container named, if it is one as we write them; it goes into texts.
fn known(path: &str) -> String {
    let (bare, end) = path.strip_suffix('/').map_or((path, ""), |bare| (bare, "/"));
    let parsed = RelPath::parse(bare).ok();
    parsed.map_or_else(|| "…".to_owned(), |path| format!("{path}{end}"))
}

/// The sentences about them; empty if there is nothing to say.
pub(super) fn text(ignored: &[IgnoredNew], run_id: &str) -> String {
    let mut lines = Vec::new();
    let held: Vec<&IgnoredNew> = ignored.iter().filter(|one| one.held).collect();
    if !held.is_empty() {
        let paths: Vec<&str> = held.iter().take(NAMED).map(|one| one.path.as_str()).collect();
        lines.push(format!(
            "New, but git ignores it, so it was not applied: {}. codex_run_apply with run_id \
             \"{run_id}\" and paths {} applies it.",
            list(&held),
            serde_json::json!(paths),
        ));
    }
    let kept: Vec<&IgnoredNew> = ignored.iter().filter(|one| one.kept).collect();
    if !kept.is_empty() {
        lines.push(format!(
            "Built in the container, ignored by git, and kept there for the next run on this \
             workspace: {}.",
            list(&kept)
        ));
    }
    let dropped: Vec<&IgnoredNew> = ignored.iter().filter(|one| !one.held && !one.kept).collect();
    if !dropped.is_empty() {
        lines.push(format!("New, ignored by git, and dropped: {}.", list(&dropped)));
    }
    lines.join("\n")
}

fn list(ignored: &[&IgnoredNew]) -> String {
    let told = |one: &&IgnoredNew| format!("{} ({})", one.path, bytesize::ByteSize(one.bytes));
    let mut told: Vec<String> = ignored.iter().take(NAMED).map(told).collect();
    if ignored.len() > NAMED {
        told.push(format!("and {} more", ignored.len() - NAMED));
    }
    told.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(path: &str, bytes: u64, held: bool, kept: bool) -> IgnoredNew {
        IgnoredNew { path: path.to_owned(), bytes, held, kept }
    }

    #[test]
    fn a_path_that_is_none_is_not_told() {
        for (told, shown) in [
            ("target/", "target/"),
            ("a/.env", "a/.env"),
            (r#""odd\377"/"#, r#""odd\377"/"#),
            ("line\nNote: x", &*crate::path::quote(b"line\nNote: x")),
            ("../up/", "…"),
            ("/etc/", "…"),
            ("", "…"),
        ] {
            let total = IgnoredTotal { path: told.to_owned(), bytes: 1, stays: true };
            let [one] = &IgnoredNew::told(vec![total], &ChangeSet::default(), true)[..] else {
                panic!()
            };
            assert_eq!((one.path.as_str(), one.kept, one.held), (shown, true, false));
        }
    }

    #[test]
    fn each_kind_has_its_sentence_and_the_held_one_its_command() {
        let all = [
            one(".env", 12, true, false),
            one("big.log", 3 << 20, false, false),
            one("target/", 1 << 20, false, true),
        ];
        assert_eq!(
            text(&all, "r1"),
            "New, but git ignores it, so it was not applied: .env (12 B). codex_run_apply with \
             run_id \"r1\" and paths [\".env\"] applies it.\n\
             Built in the container, ignored by git, and kept there for the next run on this \
             workspace: target/ (1.0 MiB).\n\
             New, ignored by git, and dropped: big.log (3.0 MiB)."
        );
        assert_eq!(text(&[], "r1"), "");
        let many = vec![one("x/", 1, false, true); 12];
        assert!(text(&many, "r1").ends_with("x/ (1 B), and 2 more."));
    }
}
