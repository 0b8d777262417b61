//! The repository a workspace is in, and the `.git` that is made from it.
//!
//! `.git` is made and not copied: its config can name programs and hold credentials. What is made
//! holds the objects (those of alternates too), the references packed, HEAD, the index as it is,
//! the shallow marks, the patterns of what is ignored, and a config from an allow-list.
//!
//! ```text
//!  .git of the workspace
//!    none ────────────────────────────────────────────> GitSent::None
//!    a directory ──────────────────────┐
//!    a file that names a directory     ├─> git config, for-each-ref ─> GitSent::Made
//!      that leads back here ───────────┘            │
//!    a file that does not, a link, … ───────────────┴─> GitSent::StayedHome(why)
//!                                        not trusted, bare, …
//! ```
//!
//! Inside it is always a directory, also for a worktree or a submodule.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use rustix::fs::{AtFlags, FileType, Mode, openat, statat};
use serde::{Deserialize, Serialize};

use self::command::{GitCommandError, git, git_below};
use self::config::GitConfig;
use self::index::Tracked;
use self::place::Place;
use super::{Workspace, beneath};
use crate::ignored::{Above, Rules};

mod command;
pub mod commits;
mod config;
mod files;
mod history;
pub(in crate::workspace) mod index;
pub mod lfs;
mod made;
pub(in crate::workspace) mod merge;
mod place;
mod refs;

pub(super) use files::GitFile;
pub use files::GitFiles;
pub use history::{CutHistory, HistoryRules};
pub(super) use made::{Made, ObjectFile};

/// The largest index that is read.
const INDEX_BYTES: u64 = 512 << 20;

/// The largest small file of `.git` that is read (HEAD, shallow, excludes).
const SMALL_BYTES: u64 = 16 << 20;

/// Where the made `.git` began: what the host's repository had when it was sent, so that all of it
/// is known there when commits come back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GitBase {
    /// The branch that HEAD names, as `refs/heads/…`; `None` when HEAD is detached, and when the
    /// branch's name is not UTF-8.
    pub branch: Option<String>,
    /// The object that HEAD leads to; `None` for a branch without a commit.
    pub commit: Option<String>,
    /// Every reference that was sent and the object it leads to. Those whose names are not UTF-8
    /// are left out.
    pub refs: BTreeMap<String, String>,
    /// Bytes of an object's name: 20, or 32 for SHA-256.
    pub hash_len: usize,
    /// Whether its history was cut: then a commit may seem to have no parent there.
    #[serde(default)]
    pub cut: bool,
}

/// What is known of the repository that a directory is in.
#[derive(Debug)]
pub(super) struct Repository {
    /// The rules at the top of the repository, its own `.gitignore` not among them unless the
    /// workspace is deeper than that.
    pub(super) rules: Rules,
    pub(super) tracked: Tracked,
    /// Where the workspace is in the repository; empty for its top.
    pub(super) prefix: Vec<u8>,
    /// Whether there is a repository; without one nothing is ignored.
    pub(super) exists: bool,
    /// The patterns of [`Rules`] that hold in every repository of this user.
    pub(super) global: Vec<u8>,
    /// What becomes of `.git`, as far as it is known.
    pub(super) sent: Sent,
    /// Device and inode of the directory that a `.git` file leads to; it stays home even if it is
    /// in the tree.
    pub(super) elsewhere: Option<(u64, u64)>,
    /// The rules that do not go with the tree, since `.git` and what is above it stay home.
    pub(super) above: Option<Above>,
}

/// What becomes of `.git`.
#[derive(Debug)]
pub(super) enum Sent {
    None,
    StayedHome(String),
    Make(Box<Made>),
}

impl Repository {
    /// Looks at the workspace's repository. Never fails: what cannot be read stays home.
    pub(super) fn find(workspace: &Workspace, history: &HistoryRules) -> Self {
        let root = workspace.root.as_fd();
        if statat(root, c".git", AtFlags::SYMLINK_NOFOLLOW).is_err() {
            return Self::elsewhere(root).unwrap_or_else(Self::none);
        }
        let (why, place) = match Place::find(root) {
            Ok(place) => match Self::own(workspace, history, &place) {
                Ok(found) => return found,
                Err(why) => (why, Some(place)),
            },
            Err(why) => (why, None),
        };
        let mut found = Self::elsewhere(root).unwrap_or_else(Self::none);
        found.sent = Sent::StayedHome(stays(&why));
        found.elsewhere = place.and_then(|place| place.elsewhere());
        found
    }

    fn none() -> Self {
        Self {
            rules: Rules::default(),
            tracked: Tracked::default(),
            prefix: Vec::new(),
            exists: false,
            global: Vec::new(),
            sent: Sent::None,
            elsewhere: None,
            above: None,
        }
    }

    /// The repository at `place`, whose files are in the workspace; an error is why it is not the
    /// repository of this directory at all.
    fn own(workspace: &Workspace, history: &HistoryRules, place: &Place) -> Result<Self, String> {
        let root = workspace.root.as_fd();
        // Git is kept from looking for another one above.
        let above = workspace.path.parent();
        let here = |arguments: &[&str]| git_below(root, above, arguments);
        let mut found = Self { exists: true, elsewhere: place.elsewhere(), ..Self::none() };
        // Two programs to start: side by side.
        let (listing, refs) = std::thread::scope(|scope| {
            let refs = scope.spawn(|| here(&["for-each-ref", refs::REF_FORMAT]));
            let listing = here(&["config", "-z", "--list"]);
            (listing, refs.join())
        });
        let config = GitConfig::parse(listing.as_deref().unwrap_or_default());
        let is_of = place.is_of(root, &config);
        // Of a repository that it does not trust git does not tell the config.
        if matches!((&listing, &refs), (Ok(_), Ok(Ok(_)))) && place.elsewhere().is_some() {
            is_of.clone()?;
        }
        found.global = global_excludes(&config);
        let own = read(place.common(), "info/exclude").ok().flatten().unwrap_or_default();
        found.rules = Rules::new(&[&found.global, &own]);
        let mut index = Index::open(place.own());
        let tracked = index.as_mut().and_then(|index| index.tracked(config.hash_len()));
        // Git itself reads what is too odd for us; such an index stays home.
        let index = index.filter(|_| tracked.is_some());
        found.tracked = match tracked {
            Some(tracked) => tracked,
            None => here(&["ls-files", "-z", "--cached"])
                .map(|listing| Tracked::from_listing(&listing))
                .unwrap_or_default(),
        };
        let excludes = [&*found.global, &own];
        let make = || {
            listing.map_err(|error| error.to_string())?;
            // Told in words of ours, before git's about the same.
            config.odd(place.is_worktree()).map_or(Ok(()), Err)?;
            let refs = refs.map_err(|_| "its references could not be read")?;
            let refs = refs.map_err(|error| error.to_string())?;
            is_of?;
            let head = if config.has_reftable() { Some(head(here)?) } else { None };
            let made = Made::prepare(place, &config, head, &refs, index, excludes)?;
            // What a partial clone lacks is not to be fetched; it is small for that.
            match config.is_partial() {
                true => Ok(made),
                false => made.limited(history, workspace, &refs),
            }
        };
        found.sent = match make() {
            Ok(made) => Sent::Make(Box::new(made)),
            Err(why) => Sent::StayedHome(stays(&why)),
        };
        Ok(found)
    }

    /// A repository whose `.git` is not a directory in `root`: that of a worktree, a submodule, or
    /// of a directory above. `None` if there is none, or if the workspace means nothing to it:
    /// nothing in it is tracked, or all that could be in it is ignored.
    fn elsewhere(root: BorrowedFd<'_>) -> Option<Self> {
        let asked = ["rev-parse", "--show-toplevel", "--show-prefix", "--git-path", "info/exclude"];
        let answer = git(root, &asked).ok()?;
        let answer = answer.strip_suffix(b"\n")?;
        let lines: Vec<&[u8]> = answer.split(|byte| *byte == b'\n').collect();
        let [top, prefix, exclude] = lines[..] else { return None };
        let tracked = git(root, &["ls-files", "-z", "--cached"]).ok()?;
        if tracked.is_empty() && !prefix.is_empty() {
            return None;
        }
        let config = GitConfig::parse(&git(root, &["config", "-z", "--list"]).ok()?);
        let prefix = prefix.strip_suffix(b"/").unwrap_or(prefix).to_vec();
        // `ls-files` names paths relative to the workspace.
        let mut tracked_paths = Vec::with_capacity(tracked.len());
        for path in tracked.split(|byte| *byte == 0).filter(|path| !path.is_empty()) {
            if !prefix.is_empty() {
                tracked_paths.extend_from_slice(&prefix);
                tracked_paths.push(b'/');
            }
            tracked_paths.extend_from_slice(path);
            tracked_paths.push(0);
        }
        let global = global_excludes(&config);
        let own = std::fs::read(path_of(root, exclude)).unwrap_or_default();
        let mut rules = Rules::new(&[&global, &own]);
        let mut files = vec![(Vec::new(), global.clone()), (Vec::new(), own)];
        let top = PathBuf::from(OsString::from_vec(top.to_vec()));
        let mut above: Vec<u8> = Vec::new();
        for component in prefix.split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
            let file = top.join(OsString::from_vec(above.clone())).join(".gitignore");
            let link = std::fs::symlink_metadata(&file).is_ok_and(|found| found.is_symlink());
            let bytes = if link { None } else { std::fs::read(file).ok() };
            rules = rules.enter(&above, bytes.as_deref());
            files.extend(bytes.map(|bytes| (above.clone(), bytes)));
            if !above.is_empty() {
                above.push(b'/');
            }
            above.extend_from_slice(component);
            if rules.is_ignored(&above, true) {
                return None;
            }
        }
        // `/workspace/*` in the repository of this very project, say.
        if !prefix.is_empty() {
            let probe = [&prefix[..], b"/any\x01name"].concat();
            if rules.is_ignored(&probe, true) && rules.is_ignored(&probe, false) {
                return None;
            }
        }
        let sent = if prefix.is_empty() {
            Sent::None
        } else {
            Sent::StayedHome(stays("it is in a directory above the workspace"))
        };
        let tracked = Tracked::from_listing(&tracked_paths);
        files.iter_mut().for_each(|(_, bytes)| bytes.truncate(Rules::MAX_FILE_BYTES));
        let above = Some(Above { prefix: prefix.clone(), files });
        let elsewhere = None;
        Some(Self { rules, tracked, prefix, exists: true, global, sent, elsewhere, above })
    }

    /// A repository inside the workspace, whose top is the open directory `root`.
    pub(super) fn nested(root: BorrowedFd<'_>, global: &[u8]) -> (Rules, Tracked) {
        let Ok(directory) = openat(root, c".git", beneath::DIRECTORY, Mode::empty()) else {
            return (Rules::new(&[global]), Tracked::default());
        };
        let own = read(directory.as_fd(), "info/exclude").ok().flatten().unwrap_or_default();
        // Either length of names may be right; with the other one it does not parse.
        let tracked = Index::open(directory.as_fd())
            .and_then(|mut index| [20, 32].into_iter().find_map(|length| index.tracked(length)))
            .unwrap_or_default();
        (Rules::new(&[global, &own]), tracked)
    }
}

/// HEAD as a file would have it, where references are not files.
fn head(here: impl Fn(&[&str]) -> Result<Vec<u8>, GitCommandError>) -> Result<Vec<u8>, String> {
    match here(&["symbolic-ref", "-q", "HEAD"]) {
        Ok(branch) => Ok([b"ref: ", &*branch].concat()),
        Err(GitCommandError::Failed { code: Some(1), .. }) => {
            here(&["rev-parse", "--verify", "HEAD"]).map_err(|error| error.to_string())
        }
        Err(error) => Err(error.to_string()),
    }
}

/// Why a `.git` stays home, as a sentence.
fn stays(why: &str) -> String {
    format!("the files were sent without .git, because {why}")
}

fn path_of(root: BorrowedFd<'_>, path: &[u8]) -> PathBuf {
    use std::os::fd::AsRawFd;
    let path = PathBuf::from(OsString::from_vec(path.to_vec()));
    PathBuf::from(format!("/proc/self/fd/{}", root.as_raw_fd())).join(path)
}

/// The small regular file at `path` in `directory`.
fn read(directory: BorrowedFd<'_>, path: &str) -> io::Result<Option<Vec<u8>>> {
    let (parent, name) = beneath::split(path.as_bytes());
    match beneath::directory(directory, parent) {
        Ok(parent) => beneath::read_small(parent.as_fd(), name, SMALL_BYTES),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// An open index. Git replaces it by rename, so what is open does not change.
#[derive(Debug)]
pub(super) struct Index {
    file: File,
    pub(super) size: u64,
    /// Seconds of its last change, which git compares with those of files.
    pub(super) mtime: i64,
    /// BLAKE3 of its bytes; of none before it was parsed.
    pub(super) hash: [u8; 32],
}

impl Index {
    /// Opens the index in a `.git`, if there is one of a size that can be.
    fn open(directory: BorrowedFd<'_>) -> Option<Self> {
        let file = File::from(openat(directory, c"index", beneath::FILE, Mode::empty()).ok()?);
        let stat = rustix::fs::fstat(&file).ok()?;
        let size = stat.st_size.unsigned_abs();
        let ordinary = FileType::from_raw_mode(stat.st_mode).is_file() && size <= INDEX_BYTES;
        ordinary.then_some(Self { file, size, mtime: stat.st_mtime, hash: [0; 32] })
    }

    /// Reads it from its beginning.
    pub(super) fn reader(&self) -> impl Read + '_ {
        IndexReader { index: self, at: 0 }
    }

    /// All of it.
    fn bytes(&self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(usize::try_from(self.size).unwrap_or(0));
        self.reader().take(INDEX_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn tracked(&mut self, hash_len: usize) -> Option<Tracked> {
        let (tracked, hash) = Tracked::read(self.reader().take(INDEX_BYTES), hash_len).ok()?;
        self.hash = hash;
        Some(tracked)
    }
}

struct IndexReader<'a> {
    index: &'a Index,
    at: u64,
}

impl Read for IndexReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.index.file.read_at(buffer, self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

/// The patterns of `core.excludesFile`.
fn global_excludes(config: &GitConfig) -> Vec<u8> {
    let variable =
        |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let (home, xdg) = (variable("HOME"), variable("XDG_CONFIG_HOME"));
    config
        .excludes_file(home.as_deref(), xdg.as_deref())
        .and_then(|path| std::fs::read(path).ok())
        .unwrap_or_default()
}
