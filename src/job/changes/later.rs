//! The calls that come back for the changes of a run after its end: look at them, apply them.

use std::collections::BTreeSet;
use std::path::Path;

use crate::failure::{ErrorKind, Failure};
use crate::job::call::{ApplyCall, Conflicts, DiffCall};
use crate::job::ended::{Ended, ended};
use crate::job::result::{ApplyReport, DiffPage, MAX_LISTED, ResultMerge};
use crate::job::{Orchestrator, Places, blocking};
use crate::path::RelPath;
use crate::workspace::apply::{OnConflict, Parts, apply};
use crate::workspace::change::{Change, ChangeSet, ChangeState, Hold};
use crate::workspace::git::commits::{Commits, bring_home};
use crate::workspace::root::Roots;
use crate::workspace::{diff, lock, merge};

use super::{
    Files, How, applied_paths, conflicts, locked, not_read, not_recorded, notes, parse_paths,
};

/// Bytes of a page of a diff; a client's limit for one answer is a few times that.
const PAGE_BYTES: u64 = 24 * 1024;

/// `codex_run_diff`: a page of the diff that was made when the run ended.
pub(in crate::job) async fn diff(
    orchestrator: &Orchestrator,
    call: DiffCall,
) -> Result<DiffPage, Failure> {
    let places = orchestrator.places.clone();
    let roots = orchestrator.settings().roots.clone();
    let how = How::of(&orchestrator.settings().config.workspace);
    blocking(move || {
        let Ended { record, .. } = ended(&places, &roots, how.lock_timeout, &call.run_id)?;
        let files = Files::of(&record);
        let set = files.load()?;
        let wanted = parse_paths(&call.paths)?;
        let number = call.page as u64;
        let mut page = if !files.diff_patch.exists() {
            diff::Page { text: String::new(), pages: 1 }
        } else if wanted.is_empty() {
            diff::page(&files.diff_patch, number - 1, PAGE_BYTES).map_err(|e| not_read(&e))?
        } else {
            diff::page_of(&files.diff_patch, &wanted, number - 1, PAGE_BYTES)
                .map_err(|e| not_read(&e))?
        };
        if number > page.pages {
            return Err(Failure::new(
                ErrorKind::InvalidArgument,
                format!("page {number} does not exist; the diff has {} pages", page.pages),
            ));
        }
        page.text
            .push_str(&cut_notice(&files.diff_patch, number == page.pages && wanted.is_empty())?);
        Ok(DiffPage {
            run_id: call.run_id,
            changes_state: set.state(),
            page: number,
            pages: page.pages,
            diff: page.text,
        })
    })
    .await
}

/// A line for a page of a diff that is cut. The last page of all of it has one already.
fn cut_notice(diff_patch: &Path, is_last: bool) -> Result<String, Failure> {
    let not_shown = match diff_patch.exists() && !is_last {
        true => diff::not_shown(diff_patch).map_err(|error| not_read(&error))?,
        false => None,
    };
    Ok(not_shown.map_or_else(String::new, |changes| {
        format!(
            "# the diff is cut: the last {changes} changes are not shown, and may be among what was \
             asked for; changes.json in the run's folder names them\n"
        )
    }))
}

/// `codex_run_apply`: applies what is held of a run.
pub(in crate::job) async fn apply_held(
    orchestrator: &Orchestrator,
    call: ApplyCall,
) -> Result<ApplyReport, Failure> {
    let places = orchestrator.places.clone();
    let roots = orchestrator.settings().roots.clone();
    let how = How::of(&orchestrator.settings().config.workspace);
    blocking(move || apply_now(&places, &roots, how, call)).await
}

pub(super) fn apply_now(
    places: &Places,
    roots: &Roots,
    how: How,
    call: ApplyCall,
) -> Result<ApplyReport, Failure> {
    let Ended { record, .. } = ended(places, roots, how.lock_timeout, &call.run_id)?;
    let _stays = record.share()?;
    let files = Files::of(&record);
    let workspace = roots.resolve(record.request()?.workspace.to_str(), None)?;
    // Held before reading, so that two calls for one run cannot both apply it.
    let _turn = lock::write(&places.state, &workspace, how.lock_timeout).map_err(locked)?;
    let mut set = files.load()?;
    let wanted = parse_paths(&call.paths)?;
    let commits_wait = wanted.is_empty()
        && record.result()?.is_some_and(|r| r.commits.as_ref().is_some_and(Commits::wait));
    if !commits_wait {
        check_wanted(&set, &wanted)?;
    }
    let before: BTreeSet<RelPath> = applied_paths(&set).cloned().collect();
    let ignored: BTreeSet<RelPath> = with_hold(&set, Hold::Ignored);
    set.allow(&wanted);
    let on_conflict = match call.on_conflict {
        Some(Conflicts::HoldAll) => OnConflict::HoldAll,
        Some(Conflicts::HoldConflicting | Conflicts::Markers) => OnConflict::HoldConflicting,
        None => how.on_conflict,
    };
    let merges = match call.on_conflict {
        Some(Conflicts::Markers) => {
            merge::merge(&workspace, &mut set, &wanted, record.folder(), &call.run_id)
                .map_err(|error| not_recorded(&error))?
        }
        _ => merge::Merges::default(),
    };
    let parts = Parts { run: &call.run_id, folder: record.folder(), state: &places.state };
    let applied = apply(&workspace, &mut set, &wanted, on_conflict, &parts);
    // What was asked for and not had is as it was: held, unmerged, and ignored.
    let mut put_back = merges.put_back(&mut set);
    for change in &mut set.changes {
        if change.is_waiting() && ignored.contains(&change.path) {
            change.hold = Some(Hold::Ignored);
            put_back = true;
        }
    }
    let saved = if put_back { files.save(&set) } else { Ok(()) };
    let applied = applied?;
    saved?;
    let files_changed: BTreeSet<RelPath> =
        applied_paths(&set).filter(|path| !before.contains(*path)).cloned().collect();
    let mut conflicts = conflicts(&applied, &set);
    for conflict in &mut conflicts {
        if let Some(why) = merges.refused.get(&conflict.path) {
            conflict.reason = format!("{}; not merged: {why}", conflict.reason);
        }
    }
    let merged: Vec<ResultMerge> = merges
        .merged
        .iter()
        .filter(|merged| files_changed.contains(&merged.path))
        .map(|merged| ResultMerge { path: merged.path.to_string(), conflicts: merged.conflicts })
        .collect();
    let notes = notes(&applied.notes, &applied.kept);
    let commits = if wanted.is_empty() { bring_home(&workspace, &parts) } else { None };
    let shown = super::shown_all(&set);
    // Read again: another call may have changed it before this one had its turn.
    if let Some(mut result) = record.result()? {
        super::tell_state(&mut result, &set);
        let settled: BTreeSet<String> = files_changed.iter().map(ToString::to_string).collect();
        let told: BTreeSet<&String> = conflicts.iter().map(|conflict| &conflict.path).collect();
        result
            .conflicts
            .retain(|known| !settled.contains(&known.path) && !told.contains(&known.path));
        result.conflicts.extend(conflicts.iter().cloned());
        result.ignored_new.retain(|ignored| !(ignored.held && settled.contains(&ignored.path)));
        result.notes.extend(notes.iter().cloned());
        result.notes.truncate(MAX_LISTED);
        if commits.is_some() {
            result.commits.clone_from(&commits);
        }
        record.replace_result(&result)?;
    }
    Ok(ApplyReport {
        run_id: call.run_id,
        changes_state: set.state(),
        files_changed: files_changed.iter().map(ToString::to_string).collect(),
        merged,
        changes: shown,
        conflicts,
        notes,
        commits,
        truncated: false,
    }
    .cut())
}

/// Refuses paths that the run did not change, and what is applied already.
fn check_wanted(set: &ChangeSet, wanted: &[RelPath]) -> Result<(), Failure> {
    let invalid = |sentence: String| Err(Failure::new(ErrorKind::InvalidArgument, sentence));
    let chosen = super::chosen(set, wanted)?;
    if chosen.is_empty() && set.changes.is_empty() {
        return invalid("this run changed nothing; there is nothing to apply".into());
    }
    if chosen.iter().all(|change| change.state == ChangeState::Applied) {
        let is_ignored = |change: &Change| change.hold == Some(Hold::Ignored);
        return invalid(match wanted {
            [] if set.changes.iter().any(is_ignored) => {
                "every change of this run is applied already; new files that git ignores are held \
                 until you name them in paths"
                    .into()
            }
            [] => "every change of this run is applied already; there is nothing left to apply \
                   (codex_run_undo takes them back)"
                .into(),
            [path, ..] => format!(
                "{path} is applied already; there is nothing left to apply at it \
                 (codex_run_undo takes it back)"
            ),
        });
    }
    Ok(())
}

fn with_hold(set: &ChangeSet, hold: Hold) -> BTreeSet<RelPath> {
    let held = set.changes.iter().filter(|change| change.hold == Some(hold));
    held.map(|change| change.path.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_page_of_a_diff_that_is_cut_tells_so_once() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("diff.patch");
        assert_eq!(cut_notice(&file, false).unwrap(), "", "nothing changed");
        std::fs::write(&file, "diff --git a/x b/x\n+x\n").unwrap();
        assert_eq!(cut_notice(&file, false).unwrap(), "");
        std::fs::write(&file, "+x\n# diff cut: 12 more changes are not shown\n").unwrap();
        assert!(cut_notice(&file, false).unwrap().contains("the last 12 changes are not shown"));
        assert_eq!(cut_notice(&file, true).unwrap(), "", "the patch says it there itself");
    }
}
