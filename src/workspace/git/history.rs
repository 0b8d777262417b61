//! A history that is too large to travel is cut: its last commits go, and no others.
//!
//! What goes is packed by the host's git into a folder of the state directory, one for each
//! workspace, and stays there for the next run. A new commit, or something new in the index, adds a
//! small pack to it; when these become many, all of it is packed anew.
//!
//! ```text
//!  objects of .git within the limit ──────────────────────────────────> whole, the folder goes
//!  over it ─> the folder is of this repository and limit?
//!               no  ─> pack HEAD and 49 commits before it ── over the limit ─> HEAD alone
//!               yes ─> HEAD's commit is in it?   no ─> one more pack, up to a commit that is
//!                      the index's objects are?  no ─> one more pack
//! ```
//!
//! A commit in the folder is there with its whole tree and with all its parents, or it is marked as
//! shallow, which is to git as if it had none. So whatever can be reached is there.

mod kept;
mod packs;
mod walk;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use self::kept::{Kept, Place};
use self::packs::Packs;
use super::super::{WorkspaceKey, lock};
use super::command::{Git, GitCommandError};
use super::made::ObjectFile;
use super::{Index, index};

/// Commits that go, if they are within the limit.
const DEPTH: usize = 50;

/// How long git may take to pack them.
const PACK_TIME: Duration = Duration::from_secs(240);

/// How long another server may take that packs the same.
const TURN: Duration = Duration::from_secs(300);

/// Packs that are added to the first one at most, before all is packed anew.
const MOST_ADDED: usize = 15;

/// Where packs are kept, and from which size of the objects on they are made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HistoryRules {
    /// Bytes of objects that go whole at most (`workspace.history_limit`); 0 for no limit.
    pub limit: u64,
    /// The state directory; without one every history goes whole.
    pub state: Option<PathBuf>,
}

/// A history that was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CutHistory {
    /// Commits that can be reached from HEAD inside.
    pub commits: u64,
    /// Bytes of all objects on the host.
    pub bytes: u64,
    /// The limit, in bytes.
    pub limit: u64,
}

impl CutHistory {
    /// What a caller is told.
    pub fn note(&self) -> String {
        let size = |bytes| bytesize::ByteSize::b(bytes).display().iec();
        let (bytes, limit) = (size(self.bytes), size(self.limit));
        let went = match self.commits {
            0 => "no commit".to_owned(),
            1 => "only the last commit".to_owned(),
            commits => format!("only the last {commits} commits"),
        };
        format!(
            "history: {went} went into the container, because the repository's objects ({bytes}) \
             are over workspace.history_limit ({limit})"
        )
    }
}

/// What is sent instead of all objects.
#[derive(Debug)]
pub(super) struct Cut {
    pub(super) packs: Packs,
    /// Commits that are there with all that they need.
    pub(super) commits: BTreeSet<String>,
    /// The file `shallow`; empty for none.
    pub(super) shallow: Vec<u8>,
    pub(super) told: CutHistory,
}

/// The repository whose history is cut.
pub(super) struct Source<'a> {
    pub(super) key: WorkspaceKey,
    pub(super) root: BorrowedFd<'a>,
    /// Where git does not look for a repository.
    pub(super) above: Option<&'a Path>,
    /// Its object directories.
    pub(super) objects: &'a [OwnedFd],
    /// Bytes of its objects.
    pub(super) bytes: u64,
    /// The commit of HEAD; `None` before the first one.
    pub(super) head: Option<&'a str>,
    pub(super) index: Option<&'a Index>,
    /// Its own marks.
    pub(super) shallow: &'a [u8],
    pub(super) hash_len: usize,
}

/// Whether a repository with so many bytes of objects goes whole. What was kept of it then goes.
pub(super) fn is_whole(rules: &HistoryRules, key: WorkspaceKey, bytes: u64) -> bool {
    let Some(state) = &rules.state else { return true };
    let whole = rules.limit == 0 || bytes <= rules.limit;
    if whole {
        kept::discard(state, key);
    }
    whole
}

/// Makes what goes instead of everything, or finds it made. An error is why it cannot be, in words
/// that follow "because".
pub(super) fn cut(rules: &HistoryRules, source: &Source<'_>) -> Result<Cut, String> {
    let state = rules.state.as_deref().unwrap_or(Path::new("."));
    make(state, rules.limit, source).map_err(|why| {
        format!(
            "its history is over workspace.history_limit and its last commits could not be packed \
             ({why}); with workspace.history_limit = \"0\" it goes whole"
        )
    })
}

fn make(state: &Path, limit: u64, source: &Source<'_>) -> Result<Cut, String> {
    let place = Place::new(state, source.key);
    let _turn = lock::exclusive(&place.root(), source.key, TURN).map_err(|error| match error {
        lock::LockError::Timeout(_) => "another server packs it".to_owned(),
        error => error.to_string(),
    })?;
    let stat = rustix::fs::fstat(source.objects.first().ok_or("it has no objects")?)
        .map_err(|error| error.to_string())?;
    let fresh = || Kept::new((stat.st_dev, stat.st_ino), limit, source.hash_len * 2);
    let maker = Maker { place: &place, limit, source };
    let found = place.load().filter(|kept| kept.is_like(&fresh()));
    let grown = found.and_then(|mut kept| {
        let was = kept.clone();
        let mut packs = Packs::open(&place.packs(), &kept.packs).ok()?;
        // Whatever does not go well with what is there goes without it.
        maker.grow(&mut kept, &mut packs, DEPTH, None).ok()?;
        let changed = kept != was;
        (!kept.is_long(&packs)).then_some((kept, packs, changed))
    });
    let (kept, packs, changed) = match grown {
        Some(grown) => grown,
        None => {
            let (kept, packs) = maker.anew(&fresh)?;
            (kept, packs, true)
        }
    };
    if changed {
        place.save(&kept).map_err(|error| format!("the state directory: {error}"))?;
        place.clean(&kept);
        kept::prune(state, source.key);
    } else {
        place.touch();
    }
    let told = CutHistory { commits: kept.reached(source.head), bytes: source.bytes, limit };
    Ok(Cut { packs, commits: kept.commits.keys().cloned().collect(), shallow: kept.marks(), told })
}

struct Maker<'a> {
    place: &'a Place,
    limit: u64,
    source: &'a Source<'a>,
}

impl Maker<'_> {
    /// Packs all that goes, without regard to what there is.
    fn anew(&self, fresh: &dyn Fn() -> Kept) -> Result<(Kept, Packs), String> {
        self.place.create().map_err(|error| format!("the state directory: {error}"))?;
        self.place.clean(&fresh());
        let deep = {
            let (mut kept, mut packs) = (fresh(), Packs::default());
            self.grow(&mut kept, &mut packs, DEPTH, Some(self.limit)).map(|()| (kept, packs))
        };
        if let Ok((kept, packs)) = deep
            && packs.bytes() <= self.limit
        {
            return Ok((kept, packs));
        }
        self.place.clean(&fresh());
        let (mut kept, mut packs) = (fresh(), Packs::default());
        let grown = self.grow(&mut kept, &mut packs, 1, None);
        // What git did not finish.
        grown.inspect_err(|_| self.place.clean(&fresh()))?;
        Ok((kept, packs))
    }

    /// Adds what HEAD and the index need, with at most `depth` commits that are not there yet.
    fn grow(
        &self,
        kept: &mut Kept,
        packs: &mut Packs,
        depth: usize,
        limit: Option<u64>,
    ) -> Result<(), String> {
        if let Some(head) = self.source.head
            && !kept.commits.contains_key(head)
        {
            self.check_heads(kept)?;
            let listing = walk::list(&self.git(), head).map_err(|error| error.to_string())?;
            let marked = walk::marks(self.source.shallow);
            let new =
                walk::choose(head, &listing, &marked, |id| kept.commits.contains_key(id), depth);
            kept.shallow.extend(new.shallow);
            let mut input = String::new();
            kept.shallow.iter().for_each(|id| input.push_str(&format!("--shallow {id}\n")));
            input.push_str(&format!("{head}\n"));
            kept.heads.iter().for_each(|id| input.push_str(&format!("^{id}\n")));
            self.pack(&input, &["--revs"], limit, kept, packs)?;
            kept.commits.extend(new.commits);
            kept.heads.push(head.to_owned());
        }
        let Some(index) = self.source.index else { return Ok(()) };
        let hash = blake3::Hash::from(index.hash).to_hex().to_string();
        if kept.index.as_ref() == Some(&hash) {
            return Ok(());
        }
        let bytes = index.bytes().map_err(|error| format!("the index: {error}"))?;
        let named = index::named_objects(&bytes, self.source.hash_len)
            .map_err(|_| "the index cannot be read".to_owned())?;
        let missing = packs.missing(named, self.source.hash_len)?;
        if !missing.is_empty() {
            self.pack(&missing, &[], limit, kept, packs)?;
        }
        kept.index = Some(hash);
        Ok(())
    }

    /// Whether the commits that were HEAD are of this repository still, and not of one that was in
    /// its place before.
    fn check_heads(&self, kept: &Kept) -> Result<(), String> {
        if kept.heads.is_empty() {
            return Ok(());
        }
        let asked: String = kept.heads.iter().map(|id| format!("{id}\n")).collect();
        let answer = self.git().run_on(asked.as_bytes(), &["cat-file", "--batch-check"]);
        let answer = answer.map_err(|error| error.to_string())?;
        match answer.split(|byte| *byte == b'\n').any(|line| line.ends_with(b" missing")) {
            true => Err("a commit is gone".to_owned()),
            false => Ok(()),
        }
    }

    /// Git that sees the repository as it is, without what stands in for other objects.
    fn git(&self) -> Git<'_> {
        Git::new(self.source.root)
            .below(self.source.above)
            .with("GIT_NO_REPLACE_OBJECTS", "1")
            .with("GIT_GRAFT_FILE", "/dev/null")
    }

    /// Packs what `input` says and adds it.
    fn pack(
        &self,
        input: &str,
        how: &[&str],
        limit: Option<u64>,
        kept: &mut Kept,
        packs: &mut Packs,
    ) -> Result<(), String> {
        let failed = |error: GitCommandError| error.to_string();
        let unwritten = |error: io::Error| format!("the state directory: {error}");
        let folder = self.place.packs();
        let base = folder.join("pack").into_os_string().into_string();
        let base = base.map_err(|_| "the path of the state directory is not UTF-8".to_owned())?;
        // Git writes what is unfinished among its own objects, which are then ours, and the
        // repository is only read.
        let mut git = self
            .git()
            .with("GIT_OBJECT_DIRECTORY", self.place.folder())
            .with("GIT_ALTERNATE_OBJECT_DIRECTORIES", paths(self.source.objects)?)
            .set("pack.packSizeLimit=0")
            .set("pack.writeReverseIndex=false")
            .set("core.bigFileThreshold=16m")
            .time(PACK_TIME);
        if let Some(limit) = limit {
            git = git.longest_file(limit);
        }
        let always = ["pack-objects", "-q", "--non-empty", "--delta-base-offset"];
        let answer = git.run_on(input.as_bytes(), &[&always, how, &[&*base]].concat());
        let answer = String::from_utf8_lossy(&answer.map_err(failed)?).into_owned();
        for hash in answer.lines() {
            let name = format!("pack-{hash}");
            packs.add(&folder, &name).map_err(unwritten)?;
            kept.packs.push(name);
        }
        Ok(())
    }
}

/// Object directories as git takes them in its environment, in quotes, so that no byte means
/// anything.
fn paths(objects: &[OwnedFd]) -> Result<OsString, String> {
    let mut all = Vec::new();
    for directory in objects {
        let path = std::fs::read_link(format!("/proc/self/fd/{}", directory.as_raw_fd()))
            .map_err(|error| format!("its objects: {error}"))?;
        all.extend_from_slice(if all.is_empty() { b"\"" } else { b":\"" });
        for byte in path.as_os_str().as_bytes() {
            if matches!(byte, b'"' | b'\\') {
                all.push(b'\\');
            }
            all.push(*byte);
        }
        all.push(b'"');
    }
    Ok(OsString::from_vec(all))
}

impl Cut {
    /// The files that go, in place of those of the object directories.
    pub(super) fn files(&self) -> Vec<ObjectFile> {
        self.packs.files()
    }

    /// Opens one of them.
    pub(super) fn open(&self, file: &ObjectFile) -> io::Result<File> {
        self.packs.open_file(file)
    }
}
