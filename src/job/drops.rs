//! Copies of workspaces that the user wants dropped, although they are in containers of servers and
//! the command is a process of its own.
//!
//! ```text
//!  command: <state>/drops/ID.drop ── seen by every server that runs ──> idle containers are emptied,
//!                                                                       those in use after their run
//!           waits for ID.LABEL <── one answer each, with the numbers ──┘
//!           removes all of them
//! ```
//!
//! Once a server has answered, nothing that it held then serves another run. A command that was
//! killed leaves its files; who comes later removes them after an hour.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use notify::{RecursiveMode, Watcher};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::clock::Clock;
use crate::container::Starter;
use crate::pool::Pool;
use crate::pool::copies::Forgotten;
use crate::workspace::WorkspaceKey;

/// The end of the name of a request.
const REQUEST: &str = "drop";

/// After so long a request is nobody's.
const OLD: Duration = Duration::from_secs(3600);

/// What is to be dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Wanted {
    /// Device and inode of the workspace; of all without.
    workspace: Option<(u64, u64)>,
}

/// A request to all servers. Removed with its answers when this is dropped.
#[derive(Debug)]
pub struct Request {
    directory: PathBuf,
    id: String,
}

impl Request {
    /// Asks for what is held of `workspace` to be dropped, or of all workspaces. Blocks.
    ///
    /// # Errors
    ///
    /// When the state directory cannot be written.
    pub fn make(state_dir: &Path, workspace: Option<WorkspaceKey>) -> io::Result<Self> {
        let directory = directory(state_dir)?;
        let request = Self { id: uuid::Uuid::new_v4().simple().to_string(), directory };
        let wanted = Wanted { workspace: workspace.map(|key| (key.dev, key.ino)) };
        put(&request.directory, &format!("{}.{REQUEST}", request.id), &wanted)?;
        Ok(request)
    }

    /// What the servers have answered so far, by the label of the owner. Blocks.
    pub fn answers(&self) -> BTreeMap<String, Forgotten> {
        let mut answers = BTreeMap::new();
        for (name, path) in files(&self.directory) {
            let label = name.strip_prefix(&self.id).and_then(|rest| rest.strip_prefix('.'));
            if let Some(label) = label.filter(|label| *label != REQUEST)
                && let Some(answer) = read(&path)
            {
                answers.insert(label.to_owned(), answer);
            }
        }
        answers
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        for (name, path) in files(&self.directory) {
            if name.starts_with(&self.id) {
                // What stays is removed when it is old.
                let _ = fs::remove_file(path);
            }
        }
    }
}

/// Does what commands ask for, until it is dropped. `label` is that of our owner.
pub(super) async fn follow(state_dir: PathBuf, label: String, pool: Pool<Starter>) {
    let (sender, mut events) = mpsc::unbounded_channel();
    let watched = directory(&state_dir).and_then(|directory| {
        let tell = move |event: notify::Result<notify::Event>| {
            // Nobody listens any more: the server ends.
            if event.is_ok_and(|event| !event.kind.is_access()) {
                let _ = sender.send(());
            }
        };
        let mut watcher = notify::recommended_watcher(tell).map_err(io::Error::other)?;
        watcher.watch(&directory, RecursiveMode::NonRecursive).map_err(io::Error::other)?;
        Ok((watcher, directory))
    });
    let (_watcher, directory) = match watched {
        Ok(watched) => watched,
        Err(error) => {
            tracing::warn!(%error, "`copies drop` does not reach this server");
            return;
        }
    };
    let (mut seen, clock) = (BTreeSet::new(), Clock::start());
    loop {
        for (id, wanted) in requests(&directory, clock.now()) {
            if seen.insert(id.clone()) {
                let workspace = wanted.workspace.map(|(dev, ino)| WorkspaceKey { dev, ino });
                let forgotten = pool.forget(workspace);
                tracing::info!(?forgotten, "what containers hold is dropped as the user asked");
                if let Err(error) = put(&directory, &format!("{id}.{label}"), &forgotten) {
                    tracing::warn!(%error, "a request to drop copies could not be answered");
                }
            }
        }
        if events.recv().await.is_none() {
            return;
        }
    }
}

/// The requests that are there; what is old is removed.
fn requests(directory: &Path, now: SystemTime) -> Vec<(String, Wanted)> {
    let mut requests = Vec::new();
    for (name, path) in files(directory) {
        let changed = fs::metadata(&path).and_then(|found| found.modified());
        if changed.is_ok_and(|at| now.duration_since(at).is_ok_and(|age| age > OLD)) {
            let _ = fs::remove_file(path);
        } else if let Some((id, REQUEST)) = name.split_once('.')
            && let Some(wanted) = read(&path)
        {
            requests.push((id.to_owned(), wanted));
        }
    }
    requests
}

fn directory(state_dir: &Path) -> io::Result<PathBuf> {
    let directory = state_dir.join("drops");
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
    Ok(directory)
}

fn files(directory: &Path) -> Vec<(String, PathBuf)> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let named =
        entries.filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path())));
    named.collect()
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Writes a file that nobody sees half written.
fn put(directory: &Path, name: &str, what: &impl Serialize) -> io::Result<()> {
    let unfinished = directory.join(format!(".{name}"));
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(&unfinished)?;
    file.write_all(&serde_json::to_vec(what)?)?;
    fs::rename(unfinished, directory.join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_there_until_it_is_dropped_and_its_answers_go_with_it() {
        let state = tempfile::tempdir().unwrap();
        let key = WorkspaceKey { dev: 3, ino: 4 };
        let request = Request::make(state.path(), Some(key)).unwrap();
        let all = Request::make(state.path(), None).unwrap();
        let mut found = requests(&request.directory, SystemTime::now());
        found.sort_by_key(|(_, wanted)| wanted.workspace);
        let wanted = Wanted { workspace: Some((3, 4)) };
        let nothing = Wanted { workspace: None };
        assert_eq!(found, [(all.id.clone(), nothing), (request.id.clone(), wanted)]);
        let answer = Forgotten { dropped: 2, in_use: 1 };
        put(&request.directory, &format!("{}.me-1", request.id), &answer).unwrap();
        assert_eq!(request.answers(), BTreeMap::from([("me-1".to_owned(), answer)]));
        assert!(all.answers().is_empty());
        drop(request);
        assert_eq!(files(&all.directory).len(), 1);
        drop(all);
        assert_eq!(fs::read_dir(state.path().join("drops")).unwrap().count(), 0);
    }

    #[test]
    fn what_a_killed_command_left_is_removed_when_it_is_old() {
        let state = tempfile::tempdir().unwrap();
        let directory = directory(state.path()).unwrap();
        for name in ["a.drop", "a.me-1"] {
            let file = fs::File::create(directory.join(name)).unwrap();
            file.set_modified(SystemTime::now() - 2 * OLD).unwrap();
        }
        fs::write(directory.join("b.drop"), "no request").unwrap();
        // A clock that was set back makes nothing old.
        assert_eq!(requests(&directory, SystemTime::now() - 24 * OLD), []);
        assert_eq!(files(&directory).len(), 3);
        assert_eq!(requests(&directory, SystemTime::now()), []);
        assert_eq!(files(&directory).len(), 1);
    }
}
