//! Commits that were made in a container, on their way to the user's repository.
//!
//! ```text
//!  Base ─────> (container: listing, pack) ──> Tips + commits.bundle, in the run's folder
//!  what was       nothing of it is trusted          │
//!  sent                                             │ bring_home, under the turn to write
//!                                                   ▼
//!                    check: index-pack --fsck-objects beside the repository, connectivity
//!                                                   │            └─ refused ──> Left
//!                    objects, then refs/codex/<run-id> ──> Arrived
//!                                                   │
//!                    the rule of [`branch`] ────────┴──> the branch and the index ──> Moved
//! ```
//!
//! The objects are looked at twice: first in the run's folder, with the user's objects as
//! alternates, so that whatever is refused was never in the user's repository; then they are
//! taken in. No file of the workspace is written here, no hook or filter runs, and of the user's
//! references only the branch of HEAD can move, only under the rule, and only together with the
//! index ([`switch`]).

mod branch;
mod bundle;
mod large;
mod names;
pub mod switch;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};

pub use self::bundle::write_header;
pub use self::large::{CONTENTS, archive as contents_archive};
pub use self::names::{Listing, ObjectId};
use super::super::Workspace;
use super::super::apply::Parts;
use super::super::change::{ChangeSet, ChangeState};
use crate::record::write_json;

/// The shell script that asks a container's git for its references, with [`Base::exclusions`] as
/// its input; the answer is read by [`Listing::parse`].
pub const LIST: &str = r#"
git symbolic-ref -q HEAD || echo
head=$(git rev-parse -q --verify 'HEAD^{commit}')
stash=$(git rev-parse -q --verify 'refs/stash^{commit}')
echo "$head"
git for-each-ref --format='%(objectname) %(refname)' refs/heads refs/tags refs/stash
echo .
exec git rev-list --boundary --ignore-missing --branches --tags $head $stash --stdin
"#;

/// The command that packs, in a container, what [`Tips::wanted`] and [`Base::exclusions`] say.
pub const PACK: [&str; 8] = [
    "git",
    "pack-objects",
    "-q",
    "--revs",
    "--stdout",
    "--thin",
    "--delta-base-offset",
    "--missing=allow-any",
];

/// Objects that are left out by name at most.
const MOST_EXCLUSIONS: usize = 100_000;

/// References besides HEAD that are taken over at most.
const MOST_REFS: usize = 200;

/// The references of a `.git` when it was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// The branch of HEAD, as `refs/heads/…`; none if it was detached.
    branch: Option<String>,
    /// The commit of HEAD; none before the first commit.
    head: Option<ObjectId>,
    refs: BTreeMap<String, ObjectId>,
    /// Every object that a reference named.
    objects: BTreeSet<ObjectId>,
    /// Digits of an object's name.
    digits: usize,
    /// Whether its history was cut.
    cut: bool,
}

impl Base {
    /// Takes what a snapshot says; `None` if an object's name in it is none.
    pub fn of(sent: &super::GitBase) -> Option<Self> {
        let digits = sent.hash_len * 2;
        let id = |text: &String| ObjectId::parse(text.as_bytes(), digits);
        let named = |(name, object): (&String, &String)| Some((name.clone(), id(object)?));
        let refs: BTreeMap<_, _> = sent.refs.iter().map(named).collect::<Option<_>>()?;
        let head = match &sent.commit {
            Some(commit) => Some(id(commit)?),
            None => None,
        };
        let objects = refs.values().cloned().collect();
        let (branch, cut) = (sent.branch.clone(), sent.cut);
        Some(Self { branch, head, refs, objects, digits, cut })
    }

    /// Digits of an object's name.
    pub fn digits(&self) -> usize {
        self.digits
    }

    /// What was sent under a name, as revisions to leave out, one a line: HEAD first, and no more
    /// than a program in a container takes as its input. What is not named only makes a pack larger.
    pub fn exclusions(&self) -> String {
        let all = self.head.iter().chain(&self.objects).take(MOST_EXCLUSIONS);
        all.map(|object| format!("^{object}\n")).collect()
    }
}

/// What the container's repository had when the run ended and the user's had not when it began;
/// saved as `commits.json`, beside `commits.bundle`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tips {
    /// Digits of an object's name.
    digits: usize,
    base_branch: Option<String>,
    base_head: Option<ObjectId>,
    branch: Option<String>,
    /// HEAD's commit; none if it is the one that was sent.
    head: Option<ObjectId>,
    /// Other references that are new or point elsewhere.
    refs: BTreeMap<String, ObjectId>,
    /// References that are not taken over, for their names or because they are too many.
    left: usize,
    /// Whether the history was cut that was sent.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    cut: bool,
    /// Where the pack begins in the bundle.
    pack_at: u64,
    /// The branch that was moved, and where it was before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    moved: Option<Moved>,
}

/// A branch that was moved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Moved {
    branch: String,
    from: Option<ObjectId>,
    to: ObjectId,
}

impl Tips {
    /// What differs from what was sent; `None` if nothing does that could be taken over.
    pub fn new(base: &Base, listing: &Listing) -> Option<Self> {
        let changed = |(name, object): &(&String, &ObjectId)| base.refs.get(*name) != Some(*object);
        // HEAD's own branch comes as HEAD.
        let is_head =
            |name: &String| Some(name) == listing.branch.as_ref() && base.branch == listing.branch;
        let all = listing.refs.iter().filter(changed).filter(|(name, _)| !is_head(name));
        let mut refs: BTreeMap<_, _> =
            all.map(|(name, object)| (name.clone(), object.clone())).collect();
        let mut left = listing.odd;
        while refs.len() > MOST_REFS {
            refs.pop_last();
            left += 1;
        }
        let head = listing.head.clone().filter(|head| Some(head) != base.head.as_ref());
        (head.is_some() || !refs.is_empty()).then(|| Self {
            digits: base.digits,
            base_branch: base.branch.clone(),
            base_head: base.head.clone(),
            branch: listing.branch.clone(),
            head,
            refs,
            left,
            cut: base.cut,
            pack_at: 0,
            moved: None,
        })
    }

    /// The objects that are to come, as revisions, one a line.
    pub fn wanted(&self) -> String {
        self.objects().map(|object| format!("{object}\n")).collect()
    }

    fn objects(&self) -> impl Iterator<Item = &ObjectId> {
        self.head.iter().chain(self.refs.values())
    }

    /// Saves it in a run's folder, with where the pack begins in the bundle there.
    ///
    /// # Errors
    ///
    /// The folder cannot be written.
    pub fn save(&mut self, folder: &Path, pack_at: u64) -> Result<(), crate::record::RecordError> {
        self.pack_at = pack_at;
        self.write(folder)
    }

    fn write(&self, folder: &Path) -> Result<(), crate::record::RecordError> {
        write_json(&folder.join("commits.json"), self)
    }

    fn load(folder: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(folder.join("commits.json")).ok()?).ok()
    }

    /// What a caller is told while nothing of it is in the repository.
    pub fn told(&self, run: &str) -> Commits {
        Commits {
            state: CommitsState::Held,
            reference: self.head.as_ref().map(|_| reference(run)),
            commit: self.head.as_ref().map(ToString::to_string),
            count: 0,
            branch: self.base_branch.as_deref().map(short_name),
            refs: self.refs.keys().map(|name| inner_reference(run, name)).collect(),
            refs_left: self.left,
            reason: None,
            take_over: None,
            lfs: None,
        }
    }
}

/// What became of commits that were made in the container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CommitsState {
    /// The branch is at the new commit, and the index with it.
    Moved,
    /// They are in the repository under `refs/codex/`, and no branch moved.
    Arrived,
    /// They are in the run folder, and come when the run is applied.
    Held,
    /// They did not come.
    Left,
}

/// Commits that were made in the container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Commits {
    /// What became of them.
    pub state: CommitsState,
    /// `refs/codex/<run-id>`: the reference for what was HEAD. Left out if HEAD did not change.
    #[serde(rename = "ref", default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// The commit that was HEAD.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// How many commits HEAD is ahead of where it was; 0 until they are in the repository.
    #[serde(default)]
    pub count: u64,
    /// The branch that was checked out when the run began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// References for other branches, tags and the stash that are new or changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refs: Vec<String>,
    /// How many more references were not taken over: beyond the first 200, or with names that are
    /// not taken over.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub refs_left: usize,
    /// Why the branch did not move, or why they did not come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The command that takes them over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub take_over: Option<String>,
    /// What of the contents of large files (git LFS) did not come, and why. Left out if nothing is
    /// missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lfs: Option<String>,
}

impl Commits {
    /// They did not come.
    pub fn left(reason: impl Into<String>) -> Self {
        Self {
            state: CommitsState::Left,
            reference: None,
            commit: None,
            count: 0,
            branch: None,
            refs: Vec::new(),
            refs_left: 0,
            reason: Some(reason.into()),
            take_over: None,
            lfs: None,
        }
    }

    /// Whether they wait in the run folder to be brought home.
    pub fn wait(&self) -> bool {
        self.state == CommitsState::Held
    }

    /// A line for a person.
    pub fn text(&self) -> String {
        let reason = self.reason.as_deref().unwrap_or_default();
        let branch = self.branch.as_deref().unwrap_or("HEAD");
        let commits = match self.count {
            1 => "1 commit".to_owned(),
            count => format!("{count} commits"),
        };
        let mut text = match (self.state, &self.reference) {
            // Only an undo has a reason here.
            (CommitsState::Moved, _) if self.reason.is_some() => format!(
                "{branch} still has the {commits} of this run, because {reason}; a commit of the \
                 files as they are now takes them back."
            ),
            (CommitsState::Moved, _) => {
                let at = self.commit.as_deref().unwrap_or_default();
                format!("Committed: {commits}, {branch} is now at {}.", at.get(..10).unwrap_or(at))
            }
            (CommitsState::Arrived, Some(reference)) => format!(
                "Committed: {commits}, in {reference}; {branch} does not have them, because {reason}."
            ),
            (CommitsState::Arrived, None) => String::new(),
            (CommitsState::Held, _) if self.reason.is_some() => format!(
                "Commits were made and could not come, because {reason}; they come when the whole \
                 run is applied with codex_run_apply."
            ),
            (CommitsState::Held, _) => {
                "Commits were made; they come when the whole run is applied \
                                        with codex_run_apply."
                    .to_owned()
            }
            (CommitsState::Left, _) => {
                return format!(
                    "Commits that were made in the container did not come, because {reason}."
                );
            }
        };
        if let Some(command) = &self.take_over {
            text.push_str(&format!(" `{command}` takes them over."));
        }
        if !self.refs.is_empty() && self.state != CommitsState::Held {
            let separator = if text.is_empty() { "" } else { "\n" };
            text.push_str(&format!("{separator}Other new references: {}.", self.refs.join(", ")));
            if self.refs_left > 0 {
                text.push_str(&format!(" {} more were not taken over.", self.refs_left));
            }
        }
        if let Some(lfs) = &self.lfs {
            let separator = if text.is_empty() { "" } else { "\n" };
            text.push_str(&format!("{separator}Large files: {lfs}."));
        }
        text
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// `main` for `refs/heads/main`.
fn short_name(name: &str) -> String {
    name.strip_prefix("refs/heads/").unwrap_or(name).to_owned()
}

fn reference(run: &str) -> String {
    format!("refs/codex/{run}")
}

/// Where another reference goes: `refs/codex/<run-id>` cannot be a directory as well.
fn inner_reference(run: &str, name: &str) -> String {
    format!("refs/codex/{run}-{name}")
}

/// The command that takes the commits over. Git refuses to merge what it would overwrite, and that
/// is what the files are that were applied, the very same ones; so these are taken back first.
fn take_over(run: &str, set: &ChangeSet) -> String {
    let merge = format!("git merge {}", reference(run));
    match set.changes.iter().any(|change| change.state == ChangeState::Applied) {
        true => format!("mcp-codex-orchestrator runs undo {run} && {merge}"),
        false => merge,
    }
}

/// Takes the commits of a run into the workspace's repository, and moves the branch if the rule
/// allows it; `None` if the run made none. What was applied of the run's changes is read from its
/// folder. Never fails: why something was not done is in what it gives. May be called again.
/// Blocks; the caller has the workspace's [turn to write](crate::workspace::lock::write).
pub fn bring_home(workspace: &Workspace, parts: &Parts<'_>) -> Option<Commits> {
    let mut tips = Tips::load(parts.folder)?;
    switch::recover(parts.state, workspace.key);
    let home = match bundle::Home::open(workspace, tips.digits) {
        Ok(home) => home,
        Err(reason) => return Some(Commits::left(reason)),
    };
    let mut told = tips.told(parts.run);
    match bundle::take_in(&home, &tips, parts) {
        Ok(count) => (told.state, told.count) = (CommitsState::Arrived, count),
        Err(reason) => return Some(Commits::left(reason)),
    }
    told.lfs = large::bring(&home, workspace, &tips, parts);
    let set: ChangeSet = std::fs::read(parts.folder.join("changes.json"))
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default();
    let Some(head) = tips.head.clone() else { return Some(told) };
    match branch::advance(&home, workspace, &tips, &head, &set, parts) {
        Ok(moved) => {
            told.state = CommitsState::Moved;
            tips.moved = Some(moved);
            if let Err(error) = tips.write(parts.folder) {
                tracing::warn!(%error, "the run's folder does not know that a branch was moved");
            }
        }
        Err(branch::Stays { reason }) => {
            told.reason = Some(reason);
            told.take_over = Some(take_over(parts.run, &set));
        }
    }
    Some(told)
}

/// What is told of the commits of a run that could not be brought home now, for a reason that
/// passes; `None` if it made none.
pub fn not_yet(folder: &Path, run: &str, reason: &str) -> Option<Commits> {
    let told = Tips::load(folder)?.told(run);
    Some(Commits { reason: Some(reason.to_owned()), ..told })
}

/// Moves the branch back that [`bring_home`] moved, under the mirrored rule; `None` if it moved
/// none. The references below `refs/codex/` stay. For a run that was undone as a whole, and after
/// its files were put back. Never fails and blocks, as [`bring_home`].
pub fn take_back(workspace: &Workspace, parts: &Parts<'_>) -> Option<Commits> {
    let mut tips = Tips::load(parts.folder)?;
    let moved = tips.moved.clone()?;
    switch::recover(parts.state, workspace.key);
    let mut told = tips.told(parts.run);
    let done = bundle::Home::open(workspace, tips.digits).map_err(branch::Stays::because).and_then(
        |home| {
            told.count = home.count(&moved.to, moved.from.as_ref());
            branch::retreat(&home, workspace, &moved, parts)
        },
    );
    match done {
        Ok(()) => {
            told.state = CommitsState::Arrived;
            told.reason = Some("the run was undone".to_owned());
            tips.moved = None;
            if let Err(error) = tips.write(parts.folder) {
                tracing::warn!(%error, "the run's folder does not know that a branch was moved back");
            }
        }
        Err(branch::Stays { reason }) => {
            told.state = CommitsState::Moved;
            told.reason = Some(reason);
        }
    }
    Some(told)
}
