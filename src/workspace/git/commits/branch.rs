//! Whether the branch may follow the commits of a run, and back.
//!
//! ```text
//!  HEAD is the branch that was sent, at the commit that was sent    ─┐
//!  the container's HEAD is that branch                               │
//!  no merge, rebase, cherry-pick, revert or bisect is under way      ├─ all ──> switch
//!  no path between the two commits is held; what the new one has     │
//!  is in the workspace, and what it has not is not                   │
//!  the index takes it: nothing else is staged at these paths        ─┘
//! ```
//!
//! The workspace need not have the very bytes of the commit: what Codex changed after it committed,
//! or the user meanwhile, is then a change that is not committed yet, as it was in the container.

use rustix::fs::FileType;
use rustix::io::Errno;

use super::super::super::Workspace;
use super::super::super::apply::Parts;
use super::super::super::change::{ChangeSet, ChangeState};
use super::super::super::host::Host;
use super::bundle::Home;
use super::switch::{self, Switch, SwitchError};
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

/// Git's mode of a submodule.
const SUBMODULE: &[u8] = b"160000";

/// Why a branch does not move.
#[derive(Debug)]
pub(super) struct Stays {
    /// In words that follow "because".
    pub(super) reason: String,
    /// The command that takes the commits over, but for their reference.
    pub(super) command: &'static str,
}

impl Stays {
    fn merge(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), command: "git merge" }
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
        return Err(Stays::merge("no branch was checked out (HEAD was detached)"));
    };
    let name = short_name(branch);
    match &tips.branch {
        Some(there) if there == branch => {}
        Some(there) => {
            let reason = format!("HEAD in the container was {}", short_name(there));
            return Err(Stays::merge(reason));
        }
        None => return Err(Stays::merge("HEAD in the container was detached")),
    }
    let moved = Moved { branch: branch.clone(), from: tips.base_head.clone(), to: head.clone() };
    if home.head_branch().as_ref() != Some(branch) {
        return Err(Stays::merge(format!("{name} is not checked out any more")));
    }
    let now = home.resolve(branch);
    // Brought home before, by a call whose result was lost.
    if now.as_deref() == Some(head.as_str()) {
        return Ok(moved);
    }
    if now.as_deref() != tips.base_head.as_ref().map(ObjectId::as_str) {
        return Err(Stays::merge(format!("{name} was moved meanwhile")));
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
        return Err(Stays::merge(format!("{name} is not checked out any more")));
    }
    if home.resolve(&moved.branch).as_deref() != Some(moved.to.as_str()) {
        return Err(Stays::merge(format!("{name} was moved meanwhile")));
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
    switch::perform(home, workspace, &switch, &mut |_| {}).map_err(|error| match error {
        SwitchError::Index(_) => Stays { reason: error.to_string(), command: "git reset" },
        _ => Stays::merge(error.to_string()),
    })
}

/// Nothing that takes several commands may be under way.
fn check_quiet(home: &Home<'_>) -> Result<(), Stays> {
    let found =
        UNDER_WAY.iter().find(|(name, _)| home.git_dir.join(name).symlink_metadata().is_ok());
    match found {
        Some((_, what)) => Err(Stays::merge(format!("{what} is under way"))),
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
    let unreadable = |error| Stays::merge(format!("the commits cannot be compared ({error})"));
    let tree = |commit| switch::tree_of(home, commit).map_err(unreadable);
    let asked = ["diff-tree", "-r", "-z", "--raw", "--no-renames", "--no-abbrev", "--no-ext-diff"];
    let (from, to) = (tree(from)?, tree(to)?);
    let asked = [&asked[..], &[&*from, &*to, "--"]].concat();
    let listing = home.git().run(&asked).map_err(unreadable)?;
    let host = Host::of(workspace);
    let mut fields = listing.split(|byte| *byte == 0);
    while let (Some(modes), Some(path)) = (fields.next(), fields.next()) {
        let path = RelPath::new(path)
            .map_err(|error| Stays::merge(format!("a path in the commits is none ({error})")))?;
        let held = set.changes.iter().find(|change| {
            change.state == ChangeState::Held
                && (path.is_within(&change.path) || change.path.is_within(&path))
        });
        if let Some(held) = held {
            return Err(Stays::merge(format!("{} is held", held.path)));
        }
        let new_mode = modes.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
        if new_mode == SUBMODULE {
            continue;
        }
        let is_directory = match host.stat(&path) {
            Ok(stat) => Some(FileType::from_raw_mode(stat.st_mode).is_dir()),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => None,
            Err(error) => {
                return Err(Stays::merge(format!("{path} cannot be looked at ({error})")));
            }
        };
        let gone = modes.ends_with(b" D");
        match is_directory {
            Some(false) if gone => {
                let reason = format!("{path} is not in the commits and still in the workspace");
                return Err(Stays::merge(reason));
            }
            None | Some(true) if !gone => {
                let reason = format!("{path} is in the commits and not in the workspace");
                return Err(Stays::merge(reason));
            }
            _ => {}
        }
    }
    Ok(())
}
