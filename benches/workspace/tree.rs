//! The trees that travel.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use mcp_codex_orchestrator::workspace::Workspace;
use mcp_codex_orchestrator::workspace::root::open_unchecked;

use super::docker::Failed;
use super::large::fill;

/// Files of the large tree, and bytes of each: 2 GiB in all.
const LARGE: (u64, u64) = (8, 256 << 20);

/// A real source tree has more files than this.
const REAL: usize = 1_000;

/// A tree on the host, and which files of it are changed.
pub(crate) struct Tree {
    pub(crate) name: String,
    pub(crate) workspace: Workspace,
    /// Its files, relative to it, in order.
    pub(crate) files: Vec<String>,
    pub(crate) bytes: u64,
}

impl Tree {
    fn open(name: String, root: &Path) -> Result<Self, Failed> {
        let (mut files, mut bytes) = (Vec::new(), 0);
        let mut waiting = vec![root.to_owned()];
        while let Some(directory) = waiting.pop() {
            for entry in fs::read_dir(&directory)? {
                let (entry, kind) =
                    entry.and_then(|entry| entry.file_type().map(|kind| (entry, kind)))?;
                if kind.is_dir() && entry.file_name() != ".git" {
                    waiting.push(entry.path());
                } else if kind.is_file() {
                    bytes += entry.metadata()?.len();
                    let path = entry.path();
                    files.push(
                        path.strip_prefix(root)?.to_str().ok_or("a name in no UTF-8")?.to_owned(),
                    );
                }
            }
        }
        files.sort();
        Ok(Self { name, workspace: open_unchecked(root)?, files, bytes })
    }

    /// Whether it is so few files that copies of it are deleted at once, and not at the end; see
    /// `Rivals::renew`.
    pub(crate) fn is_few(&self) -> bool {
        self.files.len() < REAL
    }

    /// Its path on the host.
    pub(crate) fn root(&self) -> &Path {
        &self.workspace.path
    }

    /// `count` of its files, from all over it.
    pub(crate) fn some(&self, count: usize) -> Vec<&str> {
        let step = (self.files.len() / count.max(1)).max(1);
        self.files.iter().step_by(step).take(count).map(String::as_str).collect()
    }

    /// Writes one more line into `count` of its files, as an editor does that saves in place.
    pub(crate) fn change(&self, count: usize) -> Result<(), Failed> {
        use std::io::Write;
        for path in self.some(count) {
            let mut file = fs::OpenOptions::new().append(true).open(self.root().join(path))?;
            file.write_all(b"changed\n")?;
        }
        Ok(())
    }
}

/// `count` small files, a hundred in a directory: 1,550 bytes on average.
pub(crate) fn small(home: &Path, count: usize) -> Result<Tree, Failed> {
    let root = home.join(format!("small-{count}"));
    for index in 0..count {
        let directory = root.join(format!("d{}/e{}", index / 10_000, index / 100 % 100));
        if index.is_multiple_of(100) {
            fs::create_dir_all(&directory)?;
        }
        let line = format!("{index:>9} of a small file with some text in its lines.\n");
        let text = line.repeat(index % 53);
        fs::write(directory.join(format!("{index}.txt")), text)?;
    }
    Tree::open(format!("{count} small files"), &root)
}

/// 2 GiB in eight files.
pub(crate) fn large(home: &Path) -> Result<Tree, Failed> {
    let root = home.join("large");
    fs::create_dir(&root)?;
    let (count, bytes) = LARGE;
    for index in 0..count {
        fill(&root.join(format!("{index}.bin")), bytes, index + 1)?;
    }
    Tree::open("2 GiB in 8 files".to_owned(), &root)
}

/// The package with the most files among the sources that Cargo has downloaded, as a repository with one
/// commit; or why there is none.
pub(crate) fn real(home: &Path) -> Result<Result<Tree, String>, Failed> {
    let cargo = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")));
    let sources = cargo.unwrap_or_default().join("registry/src");
    let mut best = (REAL, PathBuf::new());
    for registry in fs::read_dir(&sources).into_iter().flatten().flatten() {
        for package in fs::read_dir(registry.path()).into_iter().flatten().flatten() {
            // Import libraries and nothing else.
            if package.file_name().to_string_lossy().starts_with("winapi-") {
                continue;
            }
            let count = count(&package.path());
            if count > best.0 {
                best = (count, package.path());
            }
        }
    }
    let (_, package) = best;
    let Some(name) = package.file_name().and_then(|name| name.to_str()) else {
        return Ok(Err(format!("no package in {} has over {REAL} files", sources.display())));
    };
    let root = home.join(name);
    let copied = Command::new("cp").arg("-r").arg(&package).arg(&root).status()?;
    let git = |arguments: &[&str]| {
        Command::new("git")
            .args(["-c", "user.name=B", "-c", "user.email=b@localhost", "-C"])
            .arg(&root)
            .args(arguments)
            .status()
            .map(|status| status.success())
    };
    let made = copied.success()
        && git(&["init", "-q", "-b", "main"])?
        && git(&["add", "-A", "-f"])?
        && git(&["commit", "-q", "-m", "first"])?;
    if !made {
        return Err(format!("no repository could be made of {}", package.display()).into());
    }
    let name = format!("{name}, a repository");
    Ok(Ok(Tree::open(name, &root)?))
}

fn count(directory: &Path) -> usize {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| if entry.path().is_dir() { count(&entry.path()) } else { 1 }).sum()
}
