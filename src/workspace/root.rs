//! Which tree is the workspace, and whether it may be used.
//!
//! ```text
//!  repo ─ or the default ─> open (a handle) ─> its real path ─> refused places ─> allowed ─> working_dir
//! ```
//!
//! The directory is opened first; what is checked is what was opened, whatever a path leads to a
//! moment later.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, fstat, openat};

use super::{Workspace, WorkspaceKey, beneath};
use crate::config::workspace::WorkspaceConfig;
use crate::failure::{ErrorKind, Failure};
use crate::keeper::wire;
use crate::path::RelPath;

/// How often a directory that moves while it is opened is opened again.
const OPEN_TRIES: u32 = 3;

/// The default workspace, the allowed ones, and the places that are always refused.
#[derive(Clone, Debug)]
pub struct Roots {
    /// Where it came from, and the path.
    default: (Origin, PathBuf),
    allowed: Vec<PathBuf>,
    /// No workspace may be one of these or contain one.
    refused: Vec<(Place, PathBuf)>,
    runs_dir: PathBuf,
}

/// Where the default workspace was named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    Flag,
    Variable(&'static str),
    Config,
    BuiltIn,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Flag => f.write_str("--workspace"),
            Self::Variable(name) => f.write_str(name),
            Self::Config => f.write_str("workspace.path"),
            Self::BuiltIn => f.write_str("the default"),
        }
    }
}

/// A place that is never a workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// `/`.
    FileSystemRoot,
    /// The user's home directory.
    Home,
    /// `CODEX_HOME`, where the login is.
    CodexHome,
    /// Our own state directory.
    State,
    /// The runs directory.
    Runs,
    /// A repository's own directory: what is written there, git on the host executes.
    Git,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::FileSystemRoot => "the root of the file system",
            Self::Home => "the home directory",
            Self::CodexHome => "CODEX_HOME",
            Self::State => "the orchestrator's state directory",
            Self::Runs => "the runs directory",
            Self::Git => "git's own directory of a repository",
        })
    }
}

/// Why there is no workspace for a call.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// The default workspace is not there.
    #[error(
        "no workspace: {} (from {origin}) does not exist; give `repo`, or set workspace.path or \
         CODEX_WORKSPACE to a directory",
        path.display()
    )]
    NoDefault {
        /// The path.
        path: PathBuf,
        /// What named it.
        origin: String,
    },
    /// `repo` is not there.
    #[error("workspace {} does not exist; give the path of an existing directory", .0.display())]
    Missing(PathBuf),
    /// It is something else than a directory.
    #[error("workspace {} is not a directory; give the directory that holds it", .0.display())]
    NotDirectory(PathBuf),
    /// It cannot be read.
    #[error("workspace {} cannot be read ({source}); give this user read and search permission on it", path.display())]
    Unreadable {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It was moved or replaced again and again while it was opened.
    #[error("workspace {} is being moved or replaced; call again when it is at rest", .0.display())]
    Moving(PathBuf),
    /// It is a place that is always refused.
    #[error("workspace {} is refused because it is {place}; give a project directory", path.display())]
    Refused {
        /// The real path.
        path: PathBuf,
        /// Which place.
        place: Place,
    },
    /// It contains a place that is always refused.
    #[error("workspace {} is refused because it contains {place}; give a project directory", path.display())]
    Contains {
        /// The real path.
        path: PathBuf,
        /// Which place.
        place: Place,
    },
    /// It lies in a place that is always refused.
    #[error("workspace {} is refused because it lies in {place}; give a project directory", path.display())]
    Inside {
        /// The real path.
        path: PathBuf,
        /// Which place.
        place: Place,
    },
    /// It is outside what is allowed.
    #[error(
        "workspace {} is outside the allowed directories; add it to workspace.allowed in the \
         configuration to use it",
        path.display()
    )]
    NotAllowed {
        /// The real path.
        path: PathBuf,
    },
    /// `repo` is blank or holds a NUL.
    #[error("repo {0:?} is no path; give the path of a directory or leave it out")]
    NoPath(String),
    /// `working_dir` is absolute and elsewhere.
    #[error(
        "working_dir {0:?} is outside the workspace; give a path relative to it, or one under /app"
    )]
    WorkingDirOutside(String),
    /// `working_dir` has `..`.
    #[error("working_dir {0:?} has a \"..\" component; give a plain path inside the workspace")]
    WorkingDirParent(String),
    /// `working_dir` is no path at all.
    #[error("working_dir {0:?} is no path; give a plain path inside the workspace")]
    WorkingDirNoPath(String),
    /// `working_dir` is not there.
    #[error("working_dir {0:?} does not exist in the workspace")]
    WorkingDirMissing(String),
    /// `working_dir` is something else than a directory.
    #[error("working_dir {0:?} is not a directory")]
    WorkingDirNotDirectory(String),
    /// `working_dir` leads out by a link.
    #[error("working_dir {0:?} leads out of the workspace by a link; give a path that stays in it")]
    WorkingDirLink(String),
    /// `working_dir` cannot be read.
    #[error(
        "working_dir {path:?} cannot be read ({source}); give this user read and search permission on it"
    )]
    WorkingDirUnreadable {
        /// As given.
        path: String,
        /// Why.
        source: io::Error,
    },
}

impl RootError {
    /// The stable kind that callers see.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoDefault { .. } | Self::Missing(_) | Self::NotDirectory(_) | Self::Moving(_) => {
                ErrorKind::WorkspaceMissing
            }
            Self::Unreadable { .. }
            | Self::Refused { .. }
            | Self::Contains { .. }
            | Self::Inside { .. }
            | Self::NotAllowed { .. } => ErrorKind::WorkspaceRefused,
            Self::NoPath(_)
            | Self::WorkingDirOutside(_)
            | Self::WorkingDirParent(_)
            | Self::WorkingDirNoPath(_)
            | Self::WorkingDirMissing(_)
            | Self::WorkingDirNotDirectory(_)
            | Self::WorkingDirLink(_)
            | Self::WorkingDirUnreadable { .. } => ErrorKind::InvalidArgument,
        }
    }
}

impl From<RootError> for Failure {
    fn from(error: RootError) -> Self {
        Self::new(error.kind(), error.to_string())
    }
}

impl Roots {
    /// From the settings. The default workspace is the first that is named of: the flag,
    /// `CODEX_WORKSPACE`, `workspace.path`, `CLAUDE_PROJECT_DIR`, the first of
    /// `WORKSPACE_FOLDER_PATHS`, `./workspace`. None of the paths has to exist yet.
    pub fn from(
        config: &WorkspaceConfig,
        lookup: impl Fn(&str) -> Option<String>,
        flag: Option<PathBuf>,
        runs_dir: &Path,
        state_dir: &Path,
        codex_home: &Path,
        home: &Path,
    ) -> Self {
        let variable = |name: &'static str| {
            lookup(name)
                .filter(|value| !value.is_empty())
                .map(|value| (Origin::Variable(name), value.into()))
        };
        let configured = (!config.path.as_os_str().is_empty()).then(|| config.path.clone());
        let (origin, path) = flag
            .map(|path| (Origin::Flag, path))
            .or_else(|| variable("CODEX_WORKSPACE"))
            .or_else(|| configured.map(|path| (Origin::Config, path)))
            .or_else(|| variable("CLAUDE_PROJECT_DIR"))
            .or_else(|| {
                variable("WORKSPACE_FOLDER_PATHS").map(|(origin, paths)| (origin, first_of(&paths)))
            })
            .unwrap_or_else(|| (Origin::BuiltIn, "workspace".into()));
        let expand = |path: &Path| absolute(path, home);
        Self {
            default: (origin, expand(&path)),
            allowed: config.allowed.iter().map(|path| expand(path)).collect(),
            refused: vec![
                (Place::FileSystemRoot, "/".into()),
                (Place::Home, expand(home)),
                (Place::CodexHome, expand(codex_home)),
                (Place::State, expand(state_dir)),
            ],
            runs_dir: expand(runs_dir),
        }
    }

    /// The default workspace's path; it may not exist.
    pub fn default_path(&self) -> &Path {
        &self.default.1
    }

    /// The paths of the default workspace and of what else is allowed, as they were given and as they
    /// really are. Blocking, a few system calls.
    pub fn paths(&self) -> Vec<PathBuf> {
        let given =
            || self.allowed.iter().chain([&self.default.1]).filter(|path| path.is_absolute());
        let mut paths: Vec<PathBuf> =
            given().cloned().chain(given().map(|path| real(path))).collect();
        paths.sort();
        paths.dedup();
        paths
    }

    /// The absolute paths that lead to a workspace on the host: its real one, and those by way of
    /// what is allowed. Blocking, a few system calls.
    pub fn paths_of(&self, workspace: &Workspace) -> Vec<PathBuf> {
        let through = |given: PathBuf| {
            let rest = workspace.path.strip_prefix(real(&given)).ok()?;
            Some(if rest.as_os_str().is_empty() { given } else { given.join(rest) })
        };
        let mut paths = vec![workspace.path.clone()];
        for path in self.paths().into_iter().filter_map(through) {
            if !paths.contains(&path) {
                paths.push(path);
            }
        }
        paths
    }

    /// Finds, checks and opens the workspace of a call. Blocking, a few system calls.
    ///
    /// # Errors
    ///
    /// One sentence for each way in which the arguments or the settings do not lead to a usable
    /// directory, see [`RootError`].
    pub fn resolve(
        &self,
        repo: Option<&str>,
        working_dir: Option<&str>,
    ) -> Result<Workspace, RootError> {
        let asked = match repo {
            Some(repo) if repo.trim().is_empty() || repo.contains('\0') => {
                return Err(RootError::NoPath(repo.to_owned()));
            }
            Some(repo) => absolute(Path::new(repo), self.home()),
            None => self.default.1.clone(),
        };
        let (root, key, path) = open(&asked).map_err(|error| match error {
            RootError::Missing(path) if repo.is_none() => {
                RootError::NoDefault { path, origin: self.default.0.to_string() }
            }
            other => other,
        })?;
        self.check(&path, key)?;
        let runs = real(&self.runs_dir);
        if path.starts_with(&runs) {
            return Err(RootError::Inside { path, place: Place::Runs });
        }
        let exclude = runs.strip_prefix(&path).ok().and_then(rel_path).into_iter().collect();
        let working_dir = match working_dir {
            Some(given) => find_working_dir(&path, &asked, given)?,
            None => None,
        };
        Ok(Workspace { path, root: Arc::new(root), working_dir, key, exclude })
    }

    fn home(&self) -> &Path {
        self.refused
            .iter()
            .find(|(place, _)| *place == Place::Home)
            .map_or(Path::new("/"), |(_, path)| path)
    }

    /// Whether the directory `key` at the real `path` may be a workspace.
    fn check(&self, path: &Path, key: WorkspaceKey) -> Result<(), RootError> {
        for (place, refused) in &self.refused {
            let (path, place, refused) = (path.to_owned(), *place, real(refused));
            if refused == path {
                return Err(RootError::Refused { path, place });
            }
            // A bind mount has another path and the same inode.
            if refused.starts_with(&path) || refused.ancestors().any(|above| is(above, key)) {
                return Err(RootError::Contains { path, place });
            }
            if matches!(place, Place::CodexHome | Place::State) && path.starts_with(&refused) {
                return Err(RootError::Inside { path, place });
            }
        }
        if let Some(git) = git_directory(path) {
            let (is_it, path) = (git == path, path.to_owned());
            let place = Place::Git;
            let refused = RootError::Refused { path: path.clone(), place };
            return Err(if is_it { refused } else { RootError::Inside { path, place } });
        }
        let mut allowed = self.allowed.iter().chain([&self.default.1]);
        // An empty path would be the beginning of every other one.
        if allowed.any(|allowed| allowed.is_absolute() && path.starts_with(real(allowed))) {
            Ok(())
        } else {
            Err(RootError::NotAllowed { path: path.to_owned() })
        }
    }
}

/// Editors join several folders with one of these; a folder may have one in its name.
fn first_of(paths: &Path) -> PathBuf {
    let text = paths.to_string_lossy();
    if paths.is_dir() {
        return paths.to_owned();
    }
    text.split([',', ':', ';']).map(str::trim).find(|part| !part.is_empty()).unwrap_or(&text).into()
}

/// `path` with `~` and the current directory put in.
fn absolute(path: &Path, home: &Path) -> PathBuf {
    let path = match path.strip_prefix("~") {
        Ok(rest) => home.join(rest),
        Err(_) => path.to_owned(),
    };
    std::path::absolute(&path).unwrap_or(path)
}

/// The real path of what exists of `path`, and the rest as it is.
fn real(path: &Path) -> PathBuf {
    for above in path.ancestors() {
        if let (Ok(found), Ok(rest)) = (above.canonicalize(), path.strip_prefix(above)) {
            return if rest.as_os_str().is_empty() { found } else { found.join(rest) };
        }
    }
    path.to_owned()
}

/// The repository's own directory, bare or not, that `path` is or is in. A tree with a `.git` is
/// none, though it may lie in a bare repository, as worktrees do.
fn git_directory(path: &Path) -> Option<&Path> {
    let is_named = |above: &&Path| {
        above.file_name().is_some_and(|name| name.as_encoded_bytes().eq_ignore_ascii_case(b".git"))
    };
    let exists = |path: PathBuf| path.symlink_metadata().is_ok();
    path.ancestors().find(is_named).or_else(|| {
        path.ancestors().take_while(|above| !exists(above.join(".git"))).find(|above| {
            above.join("HEAD").is_file()
                && above.join("objects").is_dir()
                && above.join("refs").is_dir()
        })
    })
}

fn is(path: &Path, key: WorkspaceKey) -> bool {
    rustix::fs::stat(path).is_ok_and(|stat| key_of(&stat) == key)
}

fn key_of(stat: &rustix::fs::Stat) -> WorkspaceKey {
    WorkspaceKey { dev: stat.st_dev, ino: stat.st_ino }
}

/// A path below a workspace, from one of the system's.
fn rel_path(path: &Path) -> Option<RelPath> {
    use std::os::unix::ffi::OsStrExt;
    RelPath::new(path.as_os_str().as_bytes()).ok()
}

/// Opens the directory, then finds the real path of what was opened.
fn open(path: &Path) -> Result<(OwnedFd, WorkspaceKey, PathBuf), RootError> {
    let fail = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => RootError::Missing(path.to_owned()),
        io::ErrorKind::NotADirectory => RootError::NotDirectory(path.to_owned()),
        _ => RootError::Unreadable { path: path.to_owned(), source: error },
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    for _ in 0..OPEN_TRIES {
        let root =
            rustix::fs::open(path, flags, Mode::empty()).map_err(|error| fail(error.into()))?;
        // Reading names and searching are two permissions.
        openat(&root, c".", beneath::DIRECTORY, Mode::empty())
            .map_err(|error| fail(error.into()))?;
        let key = key_of(&fstat(&root).map_err(|error| fail(error.into()))?);
        let found = path.canonicalize().map_err(fail)?;
        if is(&found, key) {
            return Ok((root, key, found));
        }
    }
    Err(RootError::Moving(path.to_owned()))
}

/// Where `given` leads inside the workspace at the real path `root`; `None` for its top.
fn find_working_dir(root: &Path, asked: &Path, given: &str) -> Result<Option<RelPath>, RootError> {
    let text = given.to_owned();
    if given.contains('\0') || (given.trim().is_empty() && !given.is_empty()) {
        return Err(RootError::WorkingDirNoPath(text));
    }
    let path = Path::new(given);
    if path.components().any(|component| component == Component::ParentDir) {
        return Err(RootError::WorkingDirParent(text));
    }
    let relative = if path.is_absolute() {
        [Path::new(wire::WORKSPACE), root, asked]
            .iter()
            .find_map(|prefix| path.strip_prefix(prefix).ok())
            .ok_or_else(|| RootError::WorkingDirOutside(text.clone()))?
    } else {
        path
    };
    let found = root.join(relative).canonicalize().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => RootError::WorkingDirMissing(text.clone()),
        io::ErrorKind::NotADirectory => RootError::WorkingDirNotDirectory(text.clone()),
        _ => RootError::WorkingDirUnreadable { path: text.clone(), source: error },
    })?;
    let inside = found.strip_prefix(root).map_err(|_| RootError::WorkingDirLink(text.clone()))?;
    if inside.as_os_str().is_empty() {
        return Ok(None);
    }
    if !found.is_dir() {
        return Err(RootError::WorkingDirNotDirectory(text));
    }
    let inside = rel_path(inside).ok_or_else(|| RootError::WorkingDirNoPath(text.clone()))?;
    Ok(Some(inside))
}

/// Opens a directory that was not chosen through [`Roots`], for tests and tools of this crate.
///
/// # Errors
///
/// As [`Roots::resolve`], but nothing is refused.
pub fn open_unchecked(path: &Path) -> Result<Workspace, RootError> {
    let (root, key, path) = open(path)?;
    Ok(Workspace { path, root: Arc::new(root), working_dir: None, key, exclude: Vec::new() })
}

#[cfg(test)]
mod tests;
