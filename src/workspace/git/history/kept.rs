//! What is kept of a cut history, in the state directory.
//!
//! ```text
//!  <state>/history/locks/            whose turn it is, for each workspace
//!  <state>/history/<dev>-<ino>/      mode 0700
//!      kept.json                     written last, by rename; without it nothing counts
//!      pack/pack-<hash>.{pack,idx}   those that it names; others are removed
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::super::super::{WorkspaceKey, lock};
use super::packs::Packs;

/// What is kept of a workspace that was not used for so long is removed. A clock that was set forward
/// costs no more than making it anew.
const AGE: Duration = Duration::from_secs(30 * 24 * 3600);

/// How long a use may go unnoticed.
const NOTICED: Duration = Duration::from_secs(24 * 3600);

/// Workspaces of which something is kept at most; those that were not used for the longest go.
const MOST: usize = 8;

/// The form of `kept.json`.
const VERSION: u32 = 1;

/// `kept.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    version: u32,
    /// Device and inode of the repository's objects.
    objects: (u64, u64),
    /// The limit that was in force.
    limit: u64,
    digits: usize,
    /// The commits that were HEAD when a pack was made.
    pub(super) heads: Vec<String>,
    /// Commits that are there, and their parents that are: all or none.
    pub(super) commits: BTreeMap<String, Vec<String>>,
    pub(super) shallow: BTreeSet<String>,
    /// The hash of the index whose objects are there.
    pub(super) index: Option<String>,
    pub(super) packs: Vec<String>,
}

impl Kept {
    pub(super) fn new(objects: (u64, u64), limit: u64, digits: usize) -> Self {
        Self {
            version: VERSION,
            objects,
            limit,
            digits,
            heads: Vec::new(),
            commits: BTreeMap::new(),
            shallow: BTreeSet::new(),
            index: None,
            packs: Vec::new(),
        }
    }

    /// Whether it is of the same repository, made under the same limit.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        let of = |kept: &Self| (kept.version, kept.objects, kept.limit, kept.digits);
        of(self) == of(other)
    }

    /// Whether all should be packed anew.
    pub(super) fn is_long(&self, packs: &Packs) -> bool {
        self.packs.len() > 1 + super::MOST_ADDED || packs.added() > self.limit
    }

    /// The file `shallow`.
    pub(super) fn marks(&self) -> Vec<u8> {
        self.shallow.iter().flat_map(|id| [id.as_bytes(), b"\n"].concat()).collect()
    }

    /// How many commits can be reached from `head`.
    pub(super) fn reached(&self, head: Option<&str>) -> u64 {
        let mut seen = BTreeSet::new();
        let mut waiting: Vec<&str> = head.into_iter().collect();
        while let Some(commit) = waiting.pop() {
            if seen.insert(commit) {
                let parents = self.commits.get(commit).into_iter().flatten();
                waiting.extend(parents.map(String::as_str));
            }
        }
        seen.len() as u64
    }
}

/// Where it is kept.
pub(super) struct Place {
    root: PathBuf,
    folder: PathBuf,
}

impl Place {
    pub(super) fn new(state: &Path, key: WorkspaceKey) -> Self {
        let root = state.join("history");
        let folder = root.join(format!("{}-{}", key.dev, key.ino));
        Self { root, folder }
    }

    pub(super) fn root(&self) -> PathBuf {
        self.root.clone()
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn packs(&self) -> PathBuf {
        self.folder.join("pack")
    }

    fn file(&self) -> PathBuf {
        self.folder.join("kept.json")
    }

    pub(super) fn create(&self) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(self.packs())
    }

    pub(super) fn load(&self) -> Option<Kept> {
        serde_json::from_slice(&fs::read(self.file()).ok()?).ok()
    }

    pub(super) fn save(&self, kept: &Kept) -> io::Result<()> {
        let unfinished = self.folder.join("kept.json.new");
        let mut options = File::options();
        let mut file =
            options.write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
        file.write_all(&serde_json::to_vec(kept)?)?;
        file.sync_all()?;
        fs::rename(unfinished, self.file())
    }

    /// Removes packs that `kept` does not name, and what an interrupted git left.
    pub(super) fn clean(&self, kept: &Kept) {
        for entry in fs::read_dir(self.packs()).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let stem = Path::new(&name).file_stem().and_then(|stem| stem.to_str());
            if !stem.is_some_and(|stem| kept.packs.iter().any(|pack| pack == stem)) {
                removed(&entry.path(), fs::remove_file(entry.path()));
            }
        }
    }

    /// Notes that it was used.
    pub(super) fn touch(&self) {
        let old = age(&self.file()).is_none_or(|age| age > NOTICED);
        if old && let Ok(file) = File::options().append(true).open(self.file()) {
            let _ = file.set_modified(SystemTime::now());
        }
    }
}

/// Removes what is kept of a workspace, if it is not just being used.
pub(super) fn discard(state: &Path, key: WorkspaceKey) {
    let place = Place::new(state, key);
    if place.folder.symlink_metadata().is_ok()
        && let Ok(_turn) = lock::exclusive(&place.root, key, Duration::ZERO)
    {
        removed(&place.folder, fs::remove_dir_all(&place.folder));
    }
}

/// Removes what is old or too much, but nothing of the workspace `own`.
pub(super) fn prune(state: &Path, own: WorkspaceKey) {
    let root = state.join("history");
    let mut found: Vec<(Option<Duration>, WorkspaceKey)> = Vec::new();
    for entry in fs::read_dir(&root).into_iter().flatten().flatten() {
        let key = entry.file_name().to_str().and_then(key_of);
        if let Some(key) = key.filter(|key| *key != own) {
            found.push((age(&entry.path().join("kept.json")), key));
        }
    }
    // Those without an age were never finished.
    found.sort_by_key(|(age, _)| age.unwrap_or(Duration::MAX));
    for (at, (age, key)) in found.into_iter().enumerate() {
        if at + 1 >= MOST || age.is_none_or(|age| age > AGE) {
            discard(state, key);
        }
    }
}

fn key_of(name: &str) -> Option<WorkspaceKey> {
    let (dev, ino) = name.split_once('-')?;
    Some(WorkspaceKey { dev: dev.parse().ok()?, ino: ino.parse().ok()? })
}

/// How long ago a file was changed.
fn age(path: &Path) -> Option<Duration> {
    let changed = path.metadata().and_then(|found| found.modified()).ok()?;
    Some(SystemTime::now().duration_since(changed).unwrap_or_default())
}

fn removed(path: &Path, outcome: io::Result<()>) {
    if let Err(error) = outcome
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(%error, path = %path.display(), "a pack that is no use stays");
    }
}
