//! Moves a branch and the index together, as one step that a kill can leave half done and the next
//! start repairs.
//!
//! ```text
//!  journal ─> new index beside ─> index.lock ─> ref locked ─> rename ─> ref moved ─> tidy
//!             (read-tree -i -m)    (a link)     (prepared)  index.lock   (commit)
//!                                                            to index
//!  killed here: ─────────── nothing happened ──────────────┤ index new, │ all
//!                                                            ref old     happened
//! ```
//!
//! Both locks are git's own, so that no other git sees or disturbs what is between. The new index is
//! the lock file itself, and stays linked beside it until all is done: that is how [`recover`] knows
//! what is ours. A git whose input ends lets go of the locked reference by itself.

use std::fs::FileTimes;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::super::super::{Workspace, WorkspaceKey};
use super::super::command::{Git, GitCommandError};
use super::ObjectId;
use super::bundle::Home;

/// What is to be done.
#[derive(Clone, Copy, Debug)]
pub(super) struct Switch<'a> {
    /// As `refs/heads/…`.
    pub(super) branch: &'a str,
    /// Where it is; none before the first commit.
    pub(super) from: Option<&'a ObjectId>,
    /// Where it goes; none to undo the first commit.
    pub(super) to: Option<&'a ObjectId>,
    /// The run id.
    pub(super) run: &'a str,
    /// The state directory.
    pub(super) state: &'a Path,
}

/// Where it stands; tests end it there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Point {
    Journaled,
    Made,
    Locked,
    Prepared,
    Renamed,
    Committed,
}

/// Why nothing was moved.
#[derive(Debug, thiserror::Error)]
pub(super) enum SwitchError {
    /// Git said no to the new index.
    #[error("something else is staged at the same paths ({0})")]
    Index(#[source] GitCommandError),
    /// Another git has the index, or had it meanwhile.
    #[error("another git is at work in the repository")]
    Busy,
    /// The branch was moved meanwhile, or another git has it.
    #[error("the branch cannot be moved ({0})")]
    Branch(#[source] GitCommandError),
    /// Git cannot be asked.
    #[error("the repository cannot be read ({0})")]
    Git(#[from] GitCommandError),
    /// The file system refuses.
    #[error("the index cannot be written ({0})")]
    Io(#[from] io::Error),
    /// The state directory refuses.
    #[error("{0}")]
    Journal(#[from] crate::record::RecordError),
}

/// What [`recover`] needs.
#[derive(Debug, Serialize, Deserialize)]
struct Journal {
    workspace: PathBuf,
    key: WorkspaceKey,
    branch: String,
    from: Option<ObjectId>,
    to: Option<ObjectId>,
    run: String,
    index: PathBuf,
    /// The new index.
    beside: PathBuf,
}

impl Journal {
    fn path(state: &Path, key: WorkspaceKey) -> PathBuf {
        state.join("git").join(format!("{}-{}.json", key.dev, key.ino))
    }

    fn lock(&self) -> PathBuf {
        lock_of(&self.index)
    }
}

fn lock_of(index: &Path) -> PathBuf {
    let mut name = index.as_os_str().to_owned();
    name.push(".lock");
    name.into()
}

/// What names the tree of a commit; of none it is the tree without anything in it, which git knows
/// in every repository.
pub(super) fn tree_of(
    home: &Home<'_>,
    commit: Option<&ObjectId>,
) -> Result<String, GitCommandError> {
    if let Some(commit) = commit {
        return Ok(commit.as_str().to_owned());
    }
    let name = home.git().run(&["hash-object", "-t", "tree", "--stdin"])?;
    Ok(String::from_utf8_lossy(name.trim_ascii()).into_owned())
}

/// Does it, or leaves everything as it was.
pub(super) fn perform(
    home: &Home<'_>,
    workspace: &Workspace,
    switch: &Switch<'_>,
    at: &mut dyn FnMut(Point),
) -> Result<(), SwitchError> {
    let journal = Journal {
        workspace: workspace.path.clone(),
        key: workspace.key,
        branch: switch.branch.to_owned(),
        from: switch.from.cloned(),
        to: switch.to.cloned(),
        run: switch.run.to_owned(),
        index: home.index.clone(),
        beside: home.git_dir.join(format!("codex-{}.index", switch.run)),
    };
    let file = Journal::path(switch.state, workspace.key);
    std::fs::create_dir_all(file.parent().unwrap_or(switch.state))?;
    crate::record::write_json(&file, &journal)?;
    at(Point::Journaled);
    let done = under_journal(home, &journal, at);
    let tidied = remove(&journal.beside).and_then(|()| remove(&file));
    if let Err(error) = tidied {
        tracing::warn!(%error, "a file of a branch's move was left behind");
    }
    done
}

fn under_journal(
    home: &Home<'_>,
    journal: &Journal,
    at: &mut dyn FnMut(Point),
) -> Result<(), SwitchError> {
    let old = tree_of(home, journal.from.as_ref())?;
    let new = tree_of(home, journal.to.as_ref())?;
    if journal.to.is_none() {
        // Git knows it without having it, but its check of an index that names it does not.
        home.git().run(&["hash-object", "-w", "-t", "tree", "--stdin"])?;
    }
    let before = version(&journal.index)?;
    remove(&journal.beside)?;
    if before.is_some() {
        std::fs::copy(&journal.index, &journal.beside)?;
        set_mtime(&journal.beside, SystemTime::UNIX_EPOCH)?;
    }
    home.git()
        .with("GIT_INDEX_FILE", &journal.beside)
        .set("core.splitIndex=false")
        .run(&["read-tree", "-i", "-m", &old, &new])
        .map_err(SwitchError::Index)?;
    if before.is_some() {
        set_mtime(&journal.beside, journal.index.metadata()?.modified()?)?;
    }
    std::fs::File::open(&journal.beside)?.sync_all()?;
    at(Point::Made);
    let lock = journal.lock();
    match std::fs::hard_link(&journal.beside, &lock) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(SwitchError::Busy);
        }
        linked => linked?,
    }
    at(Point::Locked);
    let done = under_lock(home, journal, before.as_ref(), &lock, at);
    if done.is_err() {
        remove_ours(&lock, &journal.beside)?;
    }
    done
}

fn under_lock(
    home: &Home<'_>,
    journal: &Journal,
    before: Option<&Version>,
    lock: &Path,
    at: &mut dyn FnMut(Point),
) -> Result<(), SwitchError> {
    let same = version(&journal.index)?.as_ref() == before;
    if !same || home.head_branch().as_ref() != Some(&journal.branch) {
        return Err(SwitchError::Busy);
    }
    let message = format!("codex run {}", journal.run);
    let mut talk = home.git().talk(&["update-ref", "-m", &message, "--stdin", "-z"])?;
    let Journal { branch, from, to, .. } = journal;
    let order = match (from, to) {
        (Some(from), Some(to)) => format!("update {branch}\0{to}\0{from}\0"),
        (None, Some(to)) => format!("create {branch}\0{to}\0"),
        (Some(from), None) => format!("delete {branch}\0{from}\0"),
        (None, None) => return Ok(()),
    };
    talk.ask(b"start\0", "start: ok\n").map_err(SwitchError::Branch)?;
    let prepare = [order.as_bytes(), b"prepare\0"].concat();
    talk.ask(&prepare, "prepare: ok\n").map_err(SwitchError::Branch)?;
    at(Point::Prepared);
    // The old index stays within reach until the branch has moved.
    let kept = journal.beside.with_extension("old");
    remove(&kept)?;
    if before.is_some() {
        std::fs::hard_link(&journal.index, &kept)?;
    }
    std::fs::rename(lock, &journal.index)?;
    at(Point::Renamed);
    let committed = talk.ask(b"commit\0", "commit: ok\n").and_then(|()| talk.close());
    if committed.is_err() && home.resolve(branch).as_deref() == from.as_ref().map(ObjectId::as_str)
    {
        put_back(journal, &kept, before.is_some())?;
        return committed.map_err(SwitchError::Branch);
    }
    at(Point::Committed);
    remove(&kept)?;
    Ok(())
}

/// Sets when an index was last written. A file that is not older than its index may have changed
/// since, and git then reads it, through the filters of the repository, even when it only writes
/// the index. An index of the epoch has no such files; and the new one must be as old as the one
/// that it replaces, so that those files are still found out when the user's own git looks.
fn set_mtime(index: &Path, time: SystemTime) -> io::Result<()> {
    let file = std::fs::File::options().write(true).open(index)?;
    file.set_times(FileTimes::new().set_modified(time))
}

/// Puts the old index back, unless another git has written one meanwhile.
fn put_back(journal: &Journal, kept: &Path, was: bool) -> io::Result<()> {
    if !same_file(&journal.index, &journal.beside) {
        return remove(kept);
    }
    match was {
        true => std::fs::rename(kept, &journal.index),
        false => remove(&journal.index),
    }
}

/// Repairs what a kill left half done in a workspace's repository, if anything. Blocks; the caller
/// has a turn of that workspace.
pub fn recover(state: &Path, key: WorkspaceKey) {
    let file = Journal::path(state, key);
    let Ok(bytes) = std::fs::read(&file) else { return };
    let done = match serde_json::from_slice::<Journal>(&bytes) {
        Ok(journal) => repair(&journal).map(|what| tracing::warn!(branch = journal.branch, what)),
        // Never written half: it is not ours.
        Err(error) => Err(SwitchError::Io(error.into())),
    };
    match done.and_then(|()| Ok(remove(&file)?)) {
        Ok(()) => {}
        Err(error) => tracing::warn!(%error, "the move of a branch could not be repaired yet"),
    }
}

/// Repairs whatever a killed server left half done in any repository. Blocks for as long as git
/// takes; a workspace that another run has its turn on is left to that run.
pub fn recover_all(state: &Path) {
    for entry in std::fs::read_dir(state.join("git")).into_iter().flatten().flatten() {
        let Ok(bytes) = std::fs::read(entry.path()) else { continue };
        let Ok(journal) = serde_json::from_slice::<Journal>(&bytes) else { continue };
        let turn =
            super::super::super::lock::exclusive(state, journal.key, std::time::Duration::ZERO);
        if turn.is_ok() {
            recover(state, journal.key);
        }
    }
}

fn repair(journal: &Journal) -> Result<&'static str, SwitchError> {
    use std::os::fd::AsFd;
    remove_ours(&journal.lock(), &journal.beside)?;
    let kept = journal.beside.with_extension("old");
    let tidy = || remove(&kept).and_then(|()| remove(&journal.beside));
    let Ok(root) = std::fs::File::open(&journal.workspace) else {
        tidy()?;
        return Ok("the workspace of a branch that was being moved is gone");
    };
    if version(&journal.beside)?.is_none() {
        tidy()?;
        return Ok("a branch was about to be moved when the server was killed");
    }
    let git = Git::new(root.as_fd()).below(journal.workspace.parent());
    let listing = |index: &Path| {
        git.clone().with("GIT_INDEX_FILE", index).run(&["ls-files", "-z", "--stage", "-t"])
    };
    let replaced = listing(&journal.index)? == listing(&journal.beside)?;
    let line = |arguments: &[&str]| git.clone().accept(&[0, 1]).run(arguments);
    let head = line(&["symbolic-ref", "-q", "HEAD"])?;
    let is_head = head.trim_ascii() == journal.branch.as_bytes();
    let now = line(&["rev-parse", "-q", "--verify", "--end-of-options", &journal.branch])?;
    let is_from = now.trim_ascii() == journal.from.as_ref().map_or("", ObjectId::as_str).as_bytes();
    if replaced && is_head && is_from {
        let order = match (&journal.from, &journal.to) {
            (from, Some(to)) => {
                let zeros = "0".repeat(to.as_str().len());
                let from = from.as_ref().map_or(&*zeros, ObjectId::as_str);
                format!("update {}\0{to}\0{from}\0", journal.branch)
            }
            (Some(from), None) => format!("delete {}\0{from}\0", journal.branch),
            (None, None) => String::new(),
        };
        let message = format!("codex run {}", journal.run);
        git.run_on(order.as_bytes(), &["update-ref", "-m", &message, "--stdin", "-z"])?;
    }
    tidy()?;
    Ok(match replaced && is_head && is_from {
        true => "the index was moved and its branch was not when the server was killed; it is now",
        false => "a branch was being moved when the server was killed",
    })
}

/// Which file something is, and which version of it.
#[derive(Debug, PartialEq, Eq)]
struct Version {
    file: (u64, u64),
    size: u64,
    times: [(i64, i64); 2],
}

fn version(path: &Path) -> io::Result<Option<Version>> {
    match path.symlink_metadata() {
        Ok(found) => Ok(Some(Version {
            file: (found.dev(), found.ino()),
            size: found.size(),
            times: [(found.mtime(), found.mtime_nsec()), (found.ctime(), found.ctime_nsec())],
        })),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn same_file(one: &Path, other: &Path) -> bool {
    let file = |path| version(path).ok().flatten().map(|version| version.file);
    file(one).is_some() && file(one) == file(other)
}

fn remove_ours(lock: &Path, beside: &Path) -> io::Result<()> {
    if same_file(lock, beside) { remove(lock) } else { Ok(()) }
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
