//! A repository of a user, what a container would make of it, and the way back. The user's
//! repository has everything planted that git can be made to run, and nothing of it may.

mod arrive;
mod hostile;
mod kill;
mod kinds;
mod large;
mod odd;
mod rule;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use super::*;
use crate::config::workspace::Ignored;
use crate::workspace::change::{Change, ChangeKind, ChangeState};
use crate::workspace::send::{SendRules, send};
use crate::workspace::{Snapshot, WorkspaceKey};

const RUN: &str = "0198c0de-0000-7000-8000-000000000001";

struct Pair {
    _dir: tempfile::TempDir,
    /// The user's tree.
    home: PathBuf,
    /// The container's.
    there: PathBuf,
    folder: PathBuf,
    state: PathBuf,
    ran: PathBuf,
    workspace: Workspace,
    sent: Snapshot,
}

/// Git as a person calls it, without what is planted.
fn git(at: &Path, arguments: &[&str]) -> String {
    let output = git_command(at, arguments).output().unwrap();
    assert!(output.status.success(), "git {arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

fn git_command(at: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("git");
    command
        .args(["-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false"])
        .args(["-c", "filter.evil.clean=", "-c", "filter.evil.smudge="])
        .args(["-c", "filter.evil.process=", "-c", "filter.evil.required=false"])
        .args(["-c", "merge.evil.driver=false", "-c", "gc.auto=0"])
        .args(["-c", "commit.gpgSign=false", "-c", "user.name=T", "-c", "user.email=t@localhost"])
        .args(arguments)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_SYSTEM", "/dev/null")
        .current_dir(at);
    command
}

fn write(at: &Path, name: &str, text: &str) {
    let path = at.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// Everything that git can be made to run, in a repository's own directory.
fn plant(home: &Path, mark: &Path) {
    let dir = PathBuf::from(git(home, &["rev-parse", "--absolute-git-dir"]));
    let run = format!("touch {}", mark.display());
    fs::create_dir_all(dir.join("hooks")).unwrap();
    let hooks = [
        "reference-transaction",
        "post-index-change",
        "pre-commit",
        "post-commit",
        "post-rewrite",
        "post-checkout",
        "post-merge",
        "pre-auto-gc",
        "update",
        "post-update",
        "pre-receive",
        "post-receive",
        "proc-receive",
        "fsmonitor-watchman",
    ];
    for hook in hooks {
        let path = dir.join("hooks").join(hook);
        fs::write(&path, format!("#!/bin/sh\n{run}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::create_dir_all(dir.join("info")).unwrap();
    fs::write(dir.join("info/attributes"), "* filter=evil diff=evil merge=evil\n").unwrap();
    for (key, value) in [
        ("core.hooksPath", &*dir.join("hooks").to_string_lossy()),
        ("core.fsmonitor", &run),
        ("core.editor", &run),
        ("core.pager", &run),
        ("core.sshCommand", &run),
        ("core.gitProxy", &run),
        ("core.alternateRefsCommand", &run),
        ("filter.evil.clean", &run),
        ("filter.evil.smudge", &run),
        ("filter.evil.process", &run),
        ("filter.evil.required", "true"),
        ("diff.evil.command", &run),
        ("diff.evil.textconv", &run),
        ("diff.external", &run),
        ("merge.evil.driver", &run),
        ("commit.gpgSign", "true"),
        ("tag.gpgSign", "true"),
        ("gpg.program", &run),
        ("credential.helper", &format!("!{run}")),
        ("alias.read-tree", &format!("!{run}")),
        ("uploadpack.packObjectsHook", &run),
        ("url.ext::sh -c run.insteadOf", "/"),
        ("pager.rev-parse", "true"),
        ("gc.recentObjectsHook", &run),
    ] {
        git(home, &["config", key, value]);
    }
}

impl Pair {
    /// A repository with two commits, in the state that `prepare` leaves it in.
    fn new(prepare: impl FnOnce(&Path)) -> Self {
        Self::with(&["init", "-q", "-b", "main"], |home| {
            write(home, "a.txt", "one\n");
            write(home, "dir/b.txt", "two\n");
            git(home, &["add", "-A"]);
            git(home, &["commit", "-qm", "first"]);
            write(home, "c.txt", "three\n");
            // Younger than the index for ever: git reads it whenever it writes the index.
            write(home, "racy.txt", "racy\n");
            let file = fs::File::options().write(true).open(home.join("racy.txt")).unwrap();
            let soon = std::time::SystemTime::now() + std::time::Duration::from_secs(1 << 26);
            file.set_modified(soon).unwrap();
            git(home, &["add", "-A"]);
            git(home, &["commit", "-qm", "second"]);
            prepare(home);
        })
    }

    fn with(init: &[&str], prepare: impl FnOnce(&Path)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| {
            let path = dir.path().canonicalize().unwrap().join(name);
            fs::create_dir(&path).unwrap();
            path
        };
        let (home, there, folder, state) =
            (path("home"), path("there"), path("run"), path("state"));
        git(&home, init);
        prepare(&home);
        Self::of(dir, home, there, folder, state)
    }

    fn of(
        dir: tempfile::TempDir,
        home: PathBuf,
        there: PathBuf,
        folder: PathBuf,
        state: PathBuf,
    ) -> Self {
        let ran = dir.path().join("ran");
        plant(&home, &ran);
        let workspace = open(&home);
        let mut tar = Vec::new();
        let rules = SendRules {
            exclude: Vec::new(),
            ignored: Ignored::Files,
            max_bytes: 1 << 30,
            max_files: 1000,
            history: crate::workspace::git::HistoryRules::default(),
        };
        let sent = send(&workspace, &rules, &mut tar).unwrap();
        tar::Archive::new(&tar[..]).unpack(&there).unwrap();
        let pair = Self { _dir: dir, home, there, folder, state, ran, workspace, sent };
        pair.nothing_ran();
        pair
    }

    fn nothing_ran(&self) {
        assert!(!self.ran.exists(), "something that was planted ran");
    }

    fn there(&self, arguments: &[&str]) -> String {
        git(&self.there, arguments)
    }

    /// Writes a file in the container and commits everything there.
    fn commit_there(&self, name: &str, text: &str) {
        write(&self.there, name, text);
        self.there(&["add", "-A"]);
        self.there(&["commit", "-qm", &format!("{name} in the container")]);
    }

    /// What the container tells of itself, and its pack.
    fn take_out(&self) -> Option<Tips> {
        let base = Base::of(self.sent.git_base.as_ref().unwrap()).unwrap();
        let listing =
            output(Command::new("sh").args(["-c", LIST]), &self.there, &base.exclusions());
        let listing = Listing::parse(&listing, base.digits()).unwrap();
        let tips = Tips::new(&base, &listing)?;
        let revisions = tips.wanted() + &base.exclusions();
        let pack = output(Command::new(PACK[0]).args(&PACK[1..]), &self.there, &revisions);
        Some(self.keep(tips, &listing, &pack))
    }

    fn keep(&self, mut tips: Tips, listing: &Listing, pack: &[u8]) -> Tips {
        let mut bundle = Vec::new();
        let at = write_header(&tips, listing, &mut bundle).unwrap();
        bundle.extend_from_slice(pack);
        fs::write(self.folder.join("commits.bundle"), bundle).unwrap();
        tips.save(&self.folder, at).unwrap();
        tips
    }

    /// Makes the user's files what the container's are, as an apply does.
    fn apply(&self) {
        let (here, there) = (files(&self.home), files(&self.there));
        for path in here.difference(&there) {
            fs::remove_file(self.home.join(path)).unwrap();
        }
        for path in &there {
            let (from, to) = (self.there.join(path), self.home.join(path));
            if fs::read(&from).ok() != fs::read(&to).ok() {
                fs::create_dir_all(to.parent().unwrap()).unwrap();
                fs::copy(from, to).unwrap();
            }
        }
    }

    fn parts(&self) -> Parts<'_> {
        Parts { run: RUN, folder: &self.folder, state: &self.state }
    }

    fn bring_home(&self) -> Commits {
        let _ = fs::remove_file(&self.ran);
        let told = bring_home(&self.workspace, &self.parts()).unwrap();
        self.check_clean();
        told
    }

    fn take_back(&self) -> Commits {
        let _ = fs::remove_file(&self.ran);
        let told = take_back(&self.workspace, &self.parts()).unwrap();
        self.check_clean();
        told
    }

    /// Nothing that was planted ran, and nothing is left behind.
    fn check_clean(&self) {
        self.nothing_ran();
        assert!(!self.folder.join("commits.objects").exists());
        assert_eq!(fs::read_dir(self.state.join("git")).map_or(0, Iterator::count), 0);
        let dir = PathBuf::from(git(&self.home, &["rev-parse", "--absolute-git-dir"]));
        let left: Vec<_> = fs::read_dir(&dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.starts_with("codex-") || name.ends_with(".lock"))
            .collect();
        assert!(left.is_empty(), "{left:?}");
        git(&self.home, &["fsck", "--strict"]);
    }

    /// All in one: taken out, applied, brought home.
    fn finish(&self) -> Commits {
        self.take_out().unwrap();
        self.apply();
        self.bring_home()
    }

    fn here(&self, arguments: &[&str]) -> String {
        git(&self.home, arguments)
    }

    fn reference(&self) -> String {
        self.here(&["rev-parse", &format!("refs/codex/{RUN}")])
    }
}

fn open(home: &Path) -> Workspace {
    let meta = fs::metadata(home).unwrap();
    Workspace {
        root: Arc::new(fs::File::open(home).unwrap().into()),
        path: home.to_owned(),
        working_dir: None,
        key: WorkspaceKey { dev: meta.dev(), ino: meta.ino() },
        exclude: Vec::new(),
    }
}

fn output(command: &mut Command, at: &Path, input: &str) -> Vec<u8> {
    use std::io::Write;
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(input.as_bytes()).unwrap();
    std::io::Seek::rewind(&mut file).unwrap();
    let output = command.current_dir(at).stdin(Stdio::from(file)).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    output.stdout
}

/// Every file below `root` but those of `.git`.
fn files(root: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut left = vec![root.to_path_buf()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(directory).unwrap().flatten() {
            let path = entry.path();
            match entry.file_type().unwrap().is_dir() {
                true if entry.file_name() == ".git" => {}
                true => left.push(path),
                false if entry.file_name() == ".git" => {}
                false => drop(found.insert(path.strip_prefix(root).unwrap().to_path_buf())),
            }
        }
    }
    found
}

/// A change set in which `path` is held.
fn hold(folder: &Path, path: &str) {
    let change = Change {
        path: crate::path::RelPath::new(path).unwrap(),
        kind: ChangeKind::Added,
        bytes: 0,
        state: ChangeState::Held,
        reason: None,
        hold: None,
        base: None,
        new: None,
        before: None,
    };
    let set = ChangeSet { changes: vec![change] };
    write_json(&folder.join("changes.json"), &set).unwrap();
}
