//! Whether the branch may follow the commits of a run, and back.
//!
//! ```text
//!  HEAD is the branch that was sent, at the commit that was sent    ─┐
//!  the container's HEAD is that branch                               │
//!  no new commit is without a parent, if the history was cut         │
//!  no merge, rebase, cherry-pick, revert or bisect is under way      ├─ all ──> switch
//!  no path between the two commits is held; what the new one has     │
//!  is in the workspace, and what it has not is not                   │
//!  the index takes it: nothing else is staged at these paths        ─┘
//! ```
//!
//! The workspace need not have the very bytes of the commit: what Codex changed after it committed,
//! or the user meanwhile, is then a change that is not committed yet, as it was in the container.

use std::collections::BTreeMap;

use rustix::fs::FileType;
use rustix::io::Errno;

use super::super::super::Workspace;
use super::super::super::apply::Parts;
use super::super::super::change::{ChangeSet, ChangeState};
use super::super::super::host::Host;
use super::super::command::Limits;
use super::bundle::Home;
use super::switch::{self, Switch};
use super::{Moved, ObjectId, Tips, short_name};
use crate::path::RelPath;

/// What git keeps in its directory while something takes several commands.
const UNDER_WAY: [(&str, &str); 7] = [
    ("MERGE_HEAD", "a merge"),
    ("rebase-merge", "a rebase"),
    ("rebase-apply", "a rebase"),
    ("CHERRY_PICK_HEAD", "a cherry-pick"),
    ("REVERT_HEAD", "a revert"),
    ("BISECT_LOG", "a bisect"),
    ("sequencer", "a sequence of cherry-picks or reverts"),
];

/// What git may use to list the paths that differ, and how long the list may be: some hundred
/// thousand of them. A few hundred bytes of trees within trees can have more paths than there is
/// memory, and git has them all before it tells the first.
const DIFF: Limits = Limits { memory: 256 << 20, cpu: 20 };
const DIFF_BYTES: usize = 64 << 20;

/// Git's mode of a submodule.
const SUBMODULE: &[u8] = b"160000";

/// Why a branch does not move.
#[derive(Debug)]
pub(super) struct Stays {
    /// In words that follow "because".
    pub(super) reason: String,
}

impl Stays {
    pub(super) fn because(reason: impl Into<String>) -> Self {
        Self { reason: reason.into() }
    }
}

/// Moves the branch to `head`, if the rule allows it.
pub(super) fn advance(
    home: &Home<'_>,
    workspace: &Workspace,
    tips: &Tips,
    head: &ObjectId,
    set: &ChangeSet,
    parts: &Parts<'_>,
) -> Result<Moved, Stays> {
    let Some(branch) = &tips.base_branch else {
        return Err(Stays::because("no branch was checked out (HEAD was detached)"));
    };
    let name = short_name(branch);
    match &tips.branch {
        Some(there) if there == branch => {}
        Some(there) => {
            let reason = format!("HEAD in the container was {}", short_name(there));
            return Err(Stays::because(reason));
        }
        None => return Err(Stays::because("HEAD in the container was detached")),
    }
    let moved = Moved { branch: branch.clone(), from: tips.base_head.clone(), to: head.clone() };
    if home.head_branch().as_ref() != Some(branch) {
        return Err(Stays::because(format!("{name} is not checked out any more")));
    }
    let now = home.resolve(branch);
    // Brought home before, by a call whose result was lost.
    if now.as_deref() == Some(head.as_str()) {
        return Ok(moved);
    }
    if now.as_deref() != tips.base_head.as_ref().map(ObjectId::as_str) {
        return Err(Stays::because(format!("{name} was moved meanwhile")));
    }
    // What is amended or rebased where the history was cut has lost the commits before it.
    if tips.cut && home.has_new_root(head, tips.base_head.as_ref()) {
        return Err(Stays::because(
            "a commit in it has no parent, which may be because not all of the history was sent \
             (workspace.history_limit)",
        ));
    }
    check_quiet(home)?;
    check_paths(home, workspace, moved.from.as_ref(), Some(head), set)?;
    perform(home, workspace, parts, branch, moved.from.as_ref(), Some(head))?;
    Ok(moved)
}

/// Moves it back, if the mirrored rule allows it.
pub(super) fn retreat(
    home: &Home<'_>,
    workspace: &Workspace,
    moved: &Moved,
    parts: &Parts<'_>,
) -> Result<(), Stays> {
    let name = short_name(&moved.branch);
    if home.head_branch().as_ref() != Some(&moved.branch) {
        return Err(Stays::because(format!("{name} is not checked out any more")));
    }
    if home.resolve(&moved.branch).as_deref() != Some(moved.to.as_str()) {
        return Err(Stays::because(format!("{name} was moved meanwhile")));
    }
    check_quiet(home)?;
    let (from, to) = (Some(&moved.to), moved.from.as_ref());
    check_paths(home, workspace, from, to, &ChangeSet::default())?;
    perform(home, workspace, parts, &moved.branch, from, to)
}

fn perform(
    home: &Home<'_>,
    workspace: &Workspace,
    parts: &Parts<'_>,
    branch: &str,
    from: Option<&ObjectId>,
    to: Option<&ObjectId>,
) -> Result<(), Stays> {
    let switch = Switch { branch, from, to, run: parts.run, state: parts.state };
    switch::perform(home, workspace, &switch, &mut |_| {})
        .map_err(|error| Stays::because(error.to_string()))
}

/// Nothing that takes several commands may be under way.
fn check_quiet(home: &Home<'_>) -> Result<(), Stays> {
    let found =
        UNDER_WAY.iter().find(|(name, _)| home.git_dir.join(name).symlink_metadata().is_ok());
    match found {
        Some((_, what)) => Err(Stays::because(format!("{what} is under way"))),
        None => Ok(()),
    }
}

/// Every path that differs between the two commits must be in the workspace as far as it is in the
/// new one, and held by nothing.
fn check_paths(
    home: &Home<'_>,
    workspace: &Workspace,
    from: Option<&ObjectId>,
    to: Option<&ObjectId>,
    set: &ChangeSet,
) -> Result<(), Stays> {
    let unreadable = |error| Stays::because(format!("the commits cannot be compared ({error})"));
    let tree = |commit| switch::tree_of(home, commit).map_err(unreadable);
    let asked = ["diff-tree", "-r", "-z", "--raw", "--no-renames", "--no-abbrev", "--no-ext-diff"];
    let (from, to) = (tree(from)?, tree(to)?);
    let asked = [&asked[..], &[&*from, &*to, "--"]].concat();
    let listing = home.git().limit(DIFF).most(DIFF_BYTES).run(&asked).map_err(unreadable)?;
    let host = Host::of(workspace);
    let held = set.changes.iter().filter(|change| change.state == ChangeState::Held);
    let held: Held<'_> = held.map(|change| (change.path.as_bytes(), &change.path)).collect();
    let mut fields = listing.split(|byte| *byte == 0);
    while let (Some(modes), Some(path)) = (fields.next(), fields.next()) {
        let path = RelPath::new(path)
            .map_err(|error| Stays::because(format!("a path in the commits is none ({error})")))?;
        if let Some(held) = held_at(&held, path.as_bytes()) {
            return Err(Stays::because(format!("{held} is held")));
        }
        let new_mode = modes.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
        let is_directory = match host.stat(&path) {
            Ok(stat) => Some(FileType::from_raw_mode(stat.st_mode).is_dir()),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => None,
            Err(error) => {
                return Err(Stays::because(format!("{path} cannot be looked at ({error})")));
            }
        };
        let gone = modes.ends_with(b" D");
        let is_submodule = new_mode == SUBMODULE;
        match is_directory {
            // Its files are another repository's; it need not be checked out.
            None | Some(true) if is_submodule => {}
            Some(false) if is_submodule => {
                let reason = format!("{path} is a submodule in the commits and a file here");
                return Err(Stays::because(reason));
            }
            Some(false) if gone => {
                let reason = format!("{path} is not in the commits and still in the workspace");
                return Err(Stays::because(reason));
            }
            None | Some(true) if !gone => {
                let reason = format!("{path} is in the commits and not in the workspace");
                return Err(Stays::because(reason));
            }
            _ => {}
        }
    }
    Ok(())
}

/// What is held, by the bytes of its path.
type Held<'a> = BTreeMap<&'a [u8], &'a RelPath>;

/// What of `held` is at the path, above it or below it.
fn held_at<'a>(held: &Held<'a>, path: &[u8]) -> Option<&'a RelPath> {
    let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
    let mut above = slashes.map(|(at, _)| &path[..at]).chain([path]);
    let below = [path, b"/"].concat();
    above.find_map(|above| held.get(above).copied()).or_else(|| {
        let (next, found) = held.range(&below[..]..).next()?;
        next.starts_with(&below).then_some(*found)
    })
}
