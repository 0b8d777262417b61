//! Tells when something in a workspace may have changed. The operating system tells; nothing is
//! polled.
//!
//! Only the directories that were sent are watched, not what git ignores, and of `.git` only its top.
//! What is missed, because there are too few watches or a directory is new, costs nothing but time:
//! the next call sends what differs in any case.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::workspace::{NodeKind, Snapshot};

/// Directories of one workspace that are watched at most; of one with more none is.
const MOST_DIRECTORIES: usize = 8192;

/// The part of the user's watches that one workspace may take: editors need them too.
const SHARE: usize = 4;

/// What in `.git` tells that a commit was made, or the index or the branch is another one.
const OF_GIT: [&str; 4] = ["HEAD", "index", "packed-refs", "shallow"];

/// What happened in a workspace.
#[derive(Debug)]
pub(super) struct Signs {
    /// Grows with every change.
    version: AtomicU64,
    last: Mutex<Instant>,
    /// Whether nobody has begun to read since a change.
    unseen: AtomicBool,
    wake: Arc<Notify>,
}

impl Signs {
    pub(super) fn new(wake: Arc<Notify>) -> Self {
        let (version, unseen) = (AtomicU64::new(0), AtomicBool::new(false));
        Self { version, last: Mutex::new(Instant::now()), unseen, wake }
    }

    /// Something changed.
    pub(super) fn changed(&self) {
        *self.last.lock() = Instant::now();
        self.version.fetch_add(1, Ordering::SeqCst);
        // A build that writes thousands of files wakes whoever looks once.
        if !self.unseen.swap(true, Ordering::SeqCst) {
            self.wake.notify_one();
        }
    }

    /// The version now, and when it came to be.
    pub(super) fn look(&self) -> (u64, Instant) {
        // In this order, so that a change in between makes the time too late rather than too early.
        (self.version.load(Ordering::SeqCst), *self.last.lock())
    }

    /// The version that is read from now on; the next change wakes again.
    pub(super) fn begin(&self) -> u64 {
        self.unseen.store(false, Ordering::SeqCst);
        self.look().0
    }
}

/// Watches one workspace.
#[derive(Debug)]
pub(super) struct Watch {
    root: PathBuf,
    watcher: RecommendedWatcher,
    watched: BTreeSet<PathBuf>,
}

impl Watch {
    /// Begins to watch; nothing yet, see [`Watch::follow`].
    pub(super) fn new(root: &Path, signs: Arc<Signs>) -> notify::Result<Self> {
        let git = root.join(".git");
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.is_ok_and(|event| concerns(&event, &git)) {
                signs.changed();
            }
        })?;
        Ok(Self { root: root.to_owned(), watcher, watched: BTreeSet::new() })
    }

    /// Watches the directories of `snapshot`, and no others any more. Blocks for some microseconds a
    /// directory.
    ///
    /// # Errors
    ///
    /// There are too many, or the system has no watches left. It is to be given up then, so that
    /// others have its watches.
    pub(super) fn follow(&mut self, snapshot: &Snapshot) -> Result<(), String> {
        let mut wanted = BTreeSet::from([self.root.clone()]);
        let directories =
            snapshot.nodes.iter().filter(|(_, node)| node.kind == NodeKind::Directory);
        wanted.extend(directories.map(|(path, _)| self.root.join(path.as_path())));
        let most = most_watches();
        if wanted.len() > most {
            return Err(format!("it has {} directories, over {most}", wanted.len()));
        }
        let git = self.root.join(".git");
        if git.is_dir() {
            wanted.insert(git);
        }
        let mut paths = self.watcher.paths_mut();
        for gone in self.watched.difference(&wanted) {
            // One that was removed is not watched any more.
            let _ = paths.remove(gone);
        }
        let mut watched: BTreeSet<_> = self.watched.intersection(&wanted).cloned().collect();
        for new in wanted.difference(&self.watched) {
            match paths.add(new, RecursiveMode::NonRecursive) {
                Ok(()) => drop(watched.insert(new.clone())),
                // Removed meanwhile: its parent tells.
                Err(error) if matches!(error.kind, notify::ErrorKind::PathNotFound) => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        paths.commit().map_err(|error| error.to_string())?;
        self.watched = watched;
        Ok(())
    }
}

fn concerns(event: &notify::Event, git: &Path) -> bool {
    // Reading is an access, ours above all.
    if matches!(event.kind, EventKind::Access(_)) {
        return false;
    }
    let of_git = |path: &PathBuf| path.parent() == Some(git);
    let tells = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| OF_GIT.contains(&name))
    };
    // Without a path events were lost.
    event.paths.is_empty() || event.paths.iter().any(|path| !of_git(path) || tells(path))
}

fn most_watches() -> usize {
    let limit = std::fs::read_to_string("/proc/sys/fs/inotify/max_user_watches").ok();
    let limit = limit.and_then(|limit| limit.trim().parse::<usize>().ok());
    limit.map_or(MOST_DIRECTORIES, |limit| (limit / SHARE).min(MOST_DIRECTORIES))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use super::*;
    use crate::path::RelPath;
    use crate::workspace::Node;

    fn snapshot(directories: &[&str]) -> Snapshot {
        let node = Node {
            kind: NodeKind::Directory,
            mode: 0o755,
            size: 0,
            mtime: (0, 0),
            ctime: (0, 0),
            dev: 0,
            ino: 0,
            hash: None,
            target: None,
        };
        let of = |path: &&str| (RelPath::new(*path).unwrap(), node.clone());
        Snapshot { nodes: directories.iter().map(of).collect(), ..Snapshot::default() }
    }

    struct Watched {
        dir: tempfile::TempDir,
        watch: Watch,
        signs: Arc<Signs>,
        wake: Arc<Notify>,
    }

    fn watched(directories: &[&str]) -> Watched {
        let dir = tempfile::tempdir().unwrap();
        for path in ["src", "target", ".git", "a/b"] {
            fs::create_dir_all(dir.path().join(path)).unwrap();
        }
        fs::write(dir.path().join("src/lib.rs"), "1").unwrap();
        let wake = Arc::new(Notify::new());
        let signs = Arc::new(Signs::new(Arc::clone(&wake)));
        let mut watch = Watch::new(dir.path(), Arc::clone(&signs)).unwrap();
        watch.follow(&snapshot(directories)).unwrap();
        Watched { dir, watch, signs, wake }
    }

    impl Watched {
        async fn tells(&self) {
            let limit = Duration::from_secs(20);
            tokio::time::timeout(limit, self.wake.notified()).await.expect("a change was missed");
            self.signs.begin();
        }

        /// What is seen is told in order, so that nothing else was if this comes next.
        async fn tells_only_this(&self) {
            let before = self.signs.look().0;
            fs::write(self.dir.path().join("src/only"), "").unwrap();
            self.tells().await;
            fs::remove_file(self.dir.path().join("src/only")).unwrap();
            self.tells().await;
            assert!(self.signs.look().0 <= before + 5);
        }
    }

    #[tokio::test]
    async fn what_changes_in_a_directory_that_was_sent_is_told() {
        let one = watched(&["src", "a", "a/b"]);
        let place = |path: &str| one.dir.path().join(path);
        let before = one.signs.look().0;
        fs::write(place("src/lib.rs"), "2").unwrap();
        one.tells().await;
        fs::rename(place("src/lib.rs"), place("a/b/lib.rs")).unwrap();
        one.tells().await;
        fs::remove_file(place("a/b/lib.rs")).unwrap();
        one.tells().await;
        fs::write(place(".git/index"), "").unwrap();
        one.tells().await;
        assert!(one.signs.look().0 > before);
    }

    #[tokio::test]
    async fn reading_ignored_directories_and_the_rest_of_git_are_no_change() {
        let one = watched(&["src"]);
        let place = |path: &str| one.dir.path().join(path);
        let before = one.signs.look().0;
        fs::read(place("src/lib.rs")).unwrap();
        fs::read_dir(place("src")).unwrap().for_each(drop);
        fs::write(place("target/big.o"), "x").unwrap();
        fs::write(place(".git/FETCH_HEAD"), "x").unwrap();
        fs::write(place(".git/index.lock"), "x").unwrap();
        one.tells_only_this().await;
        assert!(one.signs.look().0 <= before + 5);
    }

    #[tokio::test]
    async fn a_directory_that_is_not_sent_any_more_is_not_watched_any_more() {
        let mut one = watched(&["src", "a"]);
        one.watch.follow(&snapshot(&["src"])).unwrap();
        one.signs.begin();
        let before = one.signs.look().0;
        fs::write(one.dir.path().join("a/file"), "x").unwrap();
        one.tells_only_this().await;
        assert!(one.signs.look().0 <= before + 5);
        // And again.
        one.watch.follow(&snapshot(&["src", "a"])).unwrap();
        fs::write(one.dir.path().join("a/file"), "y").unwrap();
        one.tells().await;
    }

    #[test]
    fn a_tree_of_too_many_directories_is_not_watched() {
        let mut one = watched(&["src"]);
        let names: Vec<_> = (0..=MOST_DIRECTORIES).map(|n| format!("d{n}")).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        assert!(one.watch.follow(&snapshot(&names)).is_err());
    }
}
