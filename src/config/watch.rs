//! Tells when the file of settings may have changed.
//!
//! Editors save by writing in place or by renaming another file over it, and people keep the file
//! behind a link. So its directory is watched, and that of what a link leads to. The operating
//! system tells of changes; nothing is polled.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;

/// How long a save may take: what follows so soon is one change with what came before.
const SETTLING: Duration = Duration::from_millis(100);

/// Watches one file, which need not exist.
#[derive(Debug)]
pub struct Watch {
    file: PathBuf,
    watcher: Option<RecommendedWatcher>,
    /// Directories that are watched.
    watched: BTreeSet<PathBuf>,
    /// Names of what something happened to, in one of the directories.
    events: mpsc::UnboundedReceiver<OsString>,
}

impl Watch {
    /// Begins to watch `file`. Where nothing can be watched, because its directory does not exist
    /// or the system has no watches left, [`Watch::changed`] never resolves, and the log says so.
    pub fn new(file: &Path) -> Self {
        let (sender, events) = mpsc::unbounded_channel();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let Ok(event) = event else { return };
            // Reading it ourselves is an access.
            if matches!(event.kind, EventKind::Access(_)) {
                return;
            }
            for name in event.paths.iter().filter_map(|path| path.file_name()) {
                // Nobody listens any more: the server ends.
                let _ = sender.send(name.to_owned());
            }
        });
        let watcher = watcher
            .inspect_err(|error| {
                tracing::warn!(%error, "the file of settings is not watched; SIGHUP reads it again");
            })
            .ok();
        let mut watch = Self { file: file.to_owned(), watcher, watched: BTreeSet::new(), events };
        watch.follow();
        watch
    }

    /// Resolves when the file may have changed. Cancel safe.
    pub async fn changed(&mut self) {
        loop {
            let Some(name) = self.events.recv().await else { return std::future::pending().await };
            if self.concerns(&name) {
                break;
            }
        }
        tokio::time::sleep(SETTLING).await;
        while self.events.try_recv().is_ok() {}
        self.follow();
    }

    fn concerns(&self, name: &OsString) -> bool {
        let target = std::fs::canonicalize(&self.file).ok();
        let is = |path: &Path| path.file_name() == Some(name);
        is(&self.file) || target.is_some_and(|target| is(&target))
    }

    /// Watches the directories that the file is in now.
    fn follow(&mut self) {
        let Some(watcher) = &mut self.watcher else { return };
        let target = std::fs::canonicalize(&self.file).ok();
        let files = [Some(self.file.as_path()), target.as_deref()];
        for directory in files.into_iter().flatten().filter_map(Path::parent) {
            if self.watched.contains(directory) {
                continue;
            }
            match watcher.watch(directory, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    self.watched.insert(directory.to_owned());
                }
                Err(error) => tracing::debug!(
                    directory = %directory.display(), %error,
                    "the file of settings is not watched there; SIGHUP reads it again"
                ),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    async fn tells(watch: &mut Watch) {
        let limit = Duration::from_secs(20);
        tokio::time::timeout(limit, watch.changed()).await.expect("a change was missed");
    }

    #[tokio::test]
    async fn every_way_to_save_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.toml");
        let mut watch = Watch::new(&file);
        fs::write(&file, "a").unwrap();
        tells(&mut watch).await;
        fs::write(&file, "b").unwrap();
        tells(&mut watch).await;
        fs::write(dir.path().join("other"), "c").unwrap();
        fs::rename(dir.path().join("other"), &file).unwrap();
        tells(&mut watch).await;
        fs::remove_file(&file).unwrap();
        tells(&mut watch).await;
    }

    #[tokio::test]
    async fn what_a_link_leads_to_is_watched_also_when_it_leads_elsewhere() {
        let dir = tempfile::tempdir().unwrap();
        let place = |name: &str| dir.path().join(name);
        for name in ["first", "second", "home"] {
            fs::create_dir(place(name)).unwrap();
        }
        fs::write(place("first/settings"), "a").unwrap();
        fs::write(place("second/settings"), "b").unwrap();
        let file = place("home/config.toml");
        symlink(place("first/settings"), &file).unwrap();
        let mut watch = Watch::new(&file);
        fs::write(place("first/settings"), "c").unwrap();
        tells(&mut watch).await;
        fs::remove_file(&file).unwrap();
        symlink(place("second/settings"), &file).unwrap();
        tells(&mut watch).await;
        fs::write(place("second/settings"), "d").unwrap();
        tells(&mut watch).await;
    }

    #[tokio::test]
    async fn other_files_and_reading_are_no_change() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.toml");
        fs::write(&file, "a").unwrap();
        let mut watch = Watch::new(&file);
        fs::write(dir.path().join("other"), "b").unwrap();
        fs::read(&file).unwrap();
        // What is seen after it was told in order: had one of these been a change, it would come
        // first, and the last one would come as a second one.
        let seen = tokio::time::timeout(Duration::from_millis(300), watch.changed()).await;
        assert!(seen.is_err());
    }
}
