//! The bundle in the run's folder, and its way into the repository.
//!
//! The container sends a bare pack. The head of the bundle is written here, so that no name in it
//! is the container's, and any git can fetch from it.

use std::fs::{DirBuilder, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::super::super::Workspace;
use super::super::super::apply::Parts;
use super::super::command::{Git, GitCommandError, Limits};
use super::{Listing, ObjectId, Tips, inner_reference, reference};

/// What git may use for what a container made.
pub(super) const LIMITS: Limits = Limits { memory: 1 << 30, cpu: 30 };

/// A blob larger than this is not held in memory.
const BIG_FILE: &str = "core.bigFileThreshold=16m";

/// Writes the head of a bundle; the pack comes after it. Gives its length.
///
/// # Errors
///
/// `out` fails.
pub fn write_header(tips: &Tips, listing: &Listing, out: &mut impl Write) -> io::Result<u64> {
    let mut text = match tips.digits {
        64 => String::from("# v3 git bundle\n@object-format=sha256\n"),
        _ => String::from("# v2 git bundle\n"),
    };
    for object in &listing.boundary {
        text.push_str(&format!("-{object}\n"));
    }
    if let Some(head) = &tips.head {
        text.push_str(&format!("{head} HEAD\n"));
    }
    for (name, object) in &tips.refs {
        text.push_str(&format!("{object} {name}\n"));
    }
    text.push('\n');
    out.write_all(text.as_bytes())?;
    Ok(text.len() as u64)
}

/// The user's repository, whose top is the workspace.
pub(super) struct Home<'a> {
    root: BorrowedFd<'a>,
    above: Option<PathBuf>,
    /// Of this worktree.
    pub(super) git_dir: PathBuf,
    objects: PathBuf,
    pub(super) index: PathBuf,
}

impl<'a> Home<'a> {
    /// Finds it. An error is why commits cannot come, in words that follow "because".
    pub(super) fn open(workspace: &'a Workspace, digits: usize) -> Result<Self, String> {
        let root = workspace.root.as_fd();
        let above = workspace.path.parent().map(Path::to_owned);
        let asked = [
            "rev-parse",
            "--path-format=absolute",
            "--show-object-format",
            "--show-prefix",
            "--absolute-git-dir",
            "--git-path",
            "objects",
            "--git-path",
            "index",
        ];
        let answer = Git::new(root).below(above.as_deref()).run(&asked);
        let answer = answer.map_err(|error| format!("the repository cannot be read ({error})"))?;
        let lines: Vec<&[u8]> =
            answer.strip_suffix(b"\n").unwrap_or(&answer).split(|byte| *byte == b'\n').collect();
        let [format, b"", git_dir, objects, index] = lines[..] else {
            return Err("the repository is not an ordinary one at the top of the workspace".into());
        };
        if format != if digits == 64 { &b"sha256"[..] } else { b"sha1" } {
            return Err("the repository has another object format by now".into());
        }
        let path = |bytes: &[u8]| PathBuf::from(std::ffi::OsString::from_vec(bytes.to_vec()));
        let (git_dir, objects, index) = (path(git_dir), path(objects), path(index));
        Ok(Self { root, above, git_dir, objects, index })
    }

    pub(super) fn git(&self) -> Git<'a> {
        Git::new(self.root).below(self.above.as_deref())
    }

    /// The commit that a revision names, or whatever object, if there is one.
    pub(super) fn resolve(&self, revision: &str) -> Option<String> {
        self.line(&["rev-parse", "-q", "--verify", "--end-of-options", revision])
    }

    /// What HEAD names, as `refs/heads/…`; `None` if it is detached.
    pub(super) fn head_branch(&self) -> Option<String> {
        self.line(&["symbolic-ref", "-q", "HEAD"])
    }

    /// The one line that a command answers with.
    fn line(&self, arguments: &[&str]) -> Option<String> {
        let answer = self.git().run(arguments).ok()?;
        let line = String::from_utf8(answer).ok()?;
        line.strip_suffix('\n').filter(|line| !line.is_empty()).map(str::to_owned)
    }

    /// Whether a commit without a parent is new in `to`, and so if that cannot be told.
    pub(super) fn has_new_root(&self, to: &ObjectId, from: Option<&ObjectId>) -> bool {
        let not = from.map(|from| format!("^{from}"));
        let mut asked = vec!["rev-list", "--max-parents=0", "--max-count=1", to.as_str()];
        asked.extend(not.as_deref());
        from.is_some() && !self.git().run(&asked).is_ok_and(|found| found.is_empty())
    }

    /// How many commits `to` has that `from` has not.
    pub(super) fn count(&self, to: &ObjectId, from: Option<&ObjectId>) -> u64 {
        let not = from.map(|from| format!("^{from}"));
        let mut asked = vec!["rev-list", "--count", to.as_str()];
        asked.extend(not.as_deref());
        self.line(&asked).and_then(|line| line.parse().ok()).unwrap_or(0)
    }
}

/// Checks the bundle in the run's folder, takes its objects into the repository, and writes the
/// references below `refs/codex/`. Gives how many commits HEAD is ahead. An error is why they do
/// not come, in words that follow "because".
pub(super) fn take_in(home: &Home<'_>, tips: &Tips, parts: &Parts<'_>) -> Result<u64, String> {
    let bundle = parts.folder.join("commits.bundle");
    let unreadable = |error: io::Error| format!("commits.bundle cannot be read ({error})");
    let mut file = File::open(&bundle).map_err(unreadable)?;
    let has_objects = holds_objects(&mut file, tips.pack_at).map_err(unreadable)?;
    let checked = check(home, tips, parts, has_objects.then_some(&file));
    let _ = std::fs::remove_dir_all(scratch(parts));
    checked?;
    if has_objects {
        index_pack(&home.git(), tips, &file).map_err(|error| not_taken(&error))?;
    }
    write_refs(home, tips, parts.run)?;
    Ok(tips.head.as_ref().map_or(0, |head| home.count(head, tips.base_head.as_ref())))
}

/// Whether the pack that begins at `at` holds any object.
fn holds_objects(file: &mut File, at: u64) -> io::Result<bool> {
    let mut head = [0; 12];
    file.seek(SeekFrom::Start(at))?;
    file.read_exact(&mut head)?;
    Ok(head[8..] != [0; 4])
}

fn scratch(parts: &Parts<'_>) -> PathBuf {
    parts.folder.join("commits.objects")
}

/// Looks at the objects where they can do no harm: in the run's folder, with those of the
/// repository as alternates.
fn check(
    home: &Home<'_>,
    tips: &Tips,
    parts: &Parts<'_>,
    pack: Option<&File>,
) -> Result<(), String> {
    let scratch = scratch(parts);
    let failed = |error: io::Error| format!("the run's folder cannot be written ({error})");
    let _ = std::fs::remove_dir_all(&scratch);
    for inner in ["info", "pack"] {
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700).create(scratch.join(inner)).map_err(failed)?;
    }
    let line = home.objects.as_os_str().as_bytes();
    if line.contains(&b'\n') {
        return Err("the path of the repository has a line break".to_owned());
    }
    std::fs::write(scratch.join("info/alternates"), [line, b"\n"].concat()).map_err(failed)?;
    // The user's replacements are not looked through: what is asked is what came.
    let git = home.git().with("GIT_OBJECT_DIRECTORY", &scratch).with("GIT_NO_REPLACE_OBJECTS", "1");
    let refused = |error: GitCommandError| format!("git refused the objects ({error})");
    if let Some(pack) = pack {
        index_pack(&git, tips, pack).map_err(refused)?;
    }
    let git = git.limit(LIMITS).set(BIG_FILE);
    // What a reference names must be there before anything is asked of it.
    let asked = git.run_on(
        tips.wanted().as_bytes(),
        &["cat-file", "--batch-check=%(objectname) %(objecttype)", "--buffer"],
    );
    let asked = asked.map_err(refused)?;
    let kinds = String::from_utf8_lossy(&asked);
    let names = tips.head.iter().map(|_| "HEAD").chain(tips.refs.keys().map(String::as_str));
    let mut lines = kinds.lines();
    for (name, object) in names.zip(tips.objects()) {
        let kind = lines.next().and_then(|line| line.strip_prefix(object.as_str()));
        let right = match kind {
            Some(" commit") => true,
            Some(" tag") => name.starts_with("refs/tags/"),
            _ => false,
        };
        if !right {
            return Err(format!("{name} of the container does not lead to a commit"));
        }
    }
    // Everything that a commit leads to must be there: here, or in the repository.
    let walk = ["rev-list", "--objects", "--quiet", "--stdin", "--not", "--all"];
    git.run_on(tips.wanted().as_bytes(), &walk)
        .map(|_| ())
        .map_err(|error| format!("objects that belong to the commits are missing ({error})"))
}

/// Takes objects in, each of them checked: git's warnings are errors here.
fn index_pack(git: &Git<'_>, tips: &Tips, pack: &File) -> Result<(), GitCommandError> {
    let mut pack = pack.try_clone().map_err(GitCommandError::Read)?;
    pack.seek(SeekFrom::Start(tips.pack_at)).map_err(GitCommandError::Read)?;
    let arguments = ["index-pack", "--stdin", "--fix-thin", "--threads=1", "--fsck-objects"];
    git.clone().limit(LIMITS).set(BIG_FILE).run_from(pack.into(), &arguments).map(|_| ())
}

fn write_refs(home: &Home<'_>, tips: &Tips, run: &str) -> Result<(), String> {
    let head = tips.head.iter().map(|head| (reference(run), head));
    let others = tips.refs.iter().map(|(name, object)| (inner_reference(run, name), object));
    let mut orders = Vec::new();
    for (name, object) in head.chain(others) {
        orders.extend_from_slice(format!("update {name}\0{object}\0\0").as_bytes());
    }
    let message = format!("codex run {run}");
    home.git()
        .run_on(&orders, &["update-ref", "-m", &message, "--stdin", "-z"])
        .map(|_| ())
        .map_err(|error| not_taken(&error))
}

fn not_taken(error: &GitCommandError) -> String {
    format!("the repository cannot be written ({error})")
}
