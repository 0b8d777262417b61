//! Repositories that are more than a directory: worktrees, submodules, partial clones, odd ways to
//! keep objects and references. Each is made into an ordinary `.git`, and of each the user's
//! programs, URLs and secrets stay home.

use std::fs;
use std::path::{Path, PathBuf};

use mcp_codex_orchestrator::workspace::{GitSent, StayReason};
use tempfile::TempDir;

use crate::{Sent, git, rules, send_at, try_git};

const TESTER: [&str; 4] = ["-c", "user.name=tester", "-c", "user.email=tester@example.org"];

/// A folder for repositories that belong together.
pub(crate) struct Folder(pub(crate) TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A repository with three commits and some branches.
    pub(crate) fn project(&self, name: &str, init: &[&str]) -> PathBuf {
        let path = self.path(name);
        fs::create_dir(&path).unwrap();
        git(&path, &[&["init", "-q", "-b", "main"], init].concat());
        for text in ["one", "two", "three"] {
            write(&path, "src/file", &format!("text {text}\n"));
            write(&path, text, text);
            commit(&path, text);
        }
        git(&path, &["branch", "side/line", "HEAD~1"]);
        git(&path, &["tag", "v1"]);
        path
    }
}

pub(crate) fn write(tree: &Path, path: &str, text: &str) {
    let path = tree.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

pub(crate) fn commit(tree: &Path, message: &str) {
    git(tree, &["add", "-A"]);
    git(tree, &[&TESTER[..], &["commit", "-q", "-m", message]].concat());
}

/// What a person sees of a repository.
fn seen(tree: &Path) -> [String; 6] {
    [
        &["status", "--porcelain"][..],
        &["branch", "--show-current"],
        &["log", "--oneline", "--all"],
        &["log", "--oneline"],
        &["show-ref", "--dereference"],
        &["ls-files", "--stage"],
    ]
    .map(|arguments| git(tree, arguments))
}

/// Puts programs and secrets where git keeps such things; gives the file that shows that one ran.
fn plant(tree: &Path) -> PathBuf {
    let common = git(tree, &["rev-parse", "--path-format=absolute", "--git-common-dir"]);
    let own = git(tree, &["rev-parse", "--path-format=absolute", "--git-dir"]);
    let (common, own) = (PathBuf::from(common.trim()), PathBuf::from(own.trim()));
    let mark = common.join("hunter2-ran");
    let program = format!("touch {}", mark.display());
    for hook in ["pre-commit", "post-checkout", "post-index-change", "reference-transaction"] {
        let file = common.join("hooks").join(hook);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, format!("#!/bin/sh\n{program}\n")).unwrap();
        fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    let included = common.join("included");
    fs::write(&included, format!("[alias]\n\tconfig = !{program}\n")).unwrap();
    let config = format!(
        "[remote \"origin\"]\n\turl = https://user:hunter2@example.org/r\n\
         \tuploadpack = {program};\n\
         [core]\n\tfsmonitor = {program}\n\tsshCommand = {program}\n\tpager = {program}\n\
         \tattributesFile = {included}\n\
         [pager]\n\tconfig = true\n\tfor-each-ref = true\n\
         [alias]\n\tfor-each-ref = !{program}\n\tst = !{program}\n\
         [filter \"planted\"]\n\tclean = {program}\n\tsmudge = {program}\n\tprocess = {program}\n\
         [credential]\n\thelper = !{program}\n\
         [http]\n\textraHeader = hunter2\n\
         [includeIf \"gitdir:**\"]\n\tpath = {included}\n",
        included = included.display(),
    );
    let mut text = fs::read_to_string(common.join("config")).unwrap();
    text.push_str(&config);
    fs::write(common.join("config"), text).unwrap();
    for path in ["info/attributes", "FETCH_HEAD", "logs/HEAD"] {
        write(&common, path, "* filter=planted # hunter2\n");
        write(&own, path, "* filter=planted # hunter2\n");
    }
    mark
}

/// Sends the tree at `path`, whose `.git` must be made, and compares it with what is there.
pub(crate) fn travels(path: &Path) -> Sent {
    let before = seen(path);
    let mark = plant(path);
    let sent = send_at(path, &rules()).unwrap();
    assert!(!mark.exists(), "a program of the repository ran on the host");
    assert!(matches!(sent.snapshot.git, GitSent::Made { index: true, .. }), "{:?}", sent.snapshot);
    assert!(sent.path().join(".git").is_dir());
    for name in ["commondir", "gitdir", "hooks", "objects/info/alternates", "reftable"] {
        assert!(!sent.path().join(".git").join(name).exists(), "{name} travelled");
    }
    assert!(!sent.tar.windows(7).any(|bytes| bytes == b"hunter2"));
    let config = fs::read_to_string(sent.path().join(".git/config")).unwrap();
    assert!(!config.contains("url") && !config.contains(path.to_str().unwrap()), "{config}");
    assert_eq!(seen(sent.path()), before);
    let base = sent.snapshot.git_base.as_ref().unwrap();
    assert_eq!(base.commit.as_deref(), Some(sent.git(&["rev-parse", "HEAD"]).trim()));
    sent
}

/// Works in what was sent: a change, a commit, and a bundle of what is new, which the repository at
/// `home` takes.
fn works(sent: &Sent, home: &Path) {
    let base = sent.snapshot.git_base.as_ref().unwrap();
    write(sent.path(), "src/file", "changed inside\n");
    assert_eq!(sent.git(&["status", "--porcelain", "src"]), " M src/file\n");
    sent.git(&["commit", "-q", "-m", "from inside", "src/file"]);
    let known: Vec<String> = base.refs.values().map(|object| format!("^{object}")).collect();
    let bundle = sent.path().join("new.bundle");
    let mut arguments = vec!["bundle", "create", "-q", bundle.to_str().unwrap(), "HEAD"];
    arguments.extend(known.iter().map(String::as_str));
    sent.git(&arguments);
    let fetch = ["-c", "core.hooksPath=/dev/null", "fetch", "-q", bundle.to_str().unwrap()];
    git(home, &[&fetch[..], &["HEAD:refs/codex/run"]].concat());
    assert_eq!(git(home, &["rev-parse", "refs/codex/run"]), sent.git(&["rev-parse", "HEAD"]));
}

pub(crate) fn worktree(project: &Path, at: &Path) {
    git(project, &["worktree", "add", "-q", at.to_str().unwrap(), "side/line"]);
}

#[test]
fn a_worktree_travels_with_its_own_head_and_index() {
    let folder = Folder::new();
    let project = folder.project("project", &[]);
    let tree = folder.path("tree");
    worktree(&project, &tree);
    write(&tree, "staged", "s");
    git(&tree, &["add", "staged"]);
    write(&tree, "src/file", "changed");
    write(&tree, "new", "n");
    write(&project, ".git/info/exclude", "private\n");
    fs::create_dir(tree.join("private")).unwrap();
    write(&project, "main", "m");
    commit(&project, "on main");
    let sent = travels(&tree);
    assert_eq!(sent.git(&["branch", "--show-current"]), "side/line\n");
    assert_eq!(sent.git(&["status", "--porcelain"]), " M src/file\nA  staged\n?? new\n");
    assert_eq!(sent.stayed(), [("private/", StayReason::IgnoredDirectory)]);
    let base = sent.snapshot.git_base.as_ref().unwrap();
    assert_eq!(base.branch.as_deref(), Some("refs/heads/side/line"));
    sent.git(&["fsck", "--connectivity-only", "--strict"]);
    works(&sent, &tree);
}

#[test]
fn references_of_one_worktree_stay_home() {
    let folder = Folder::new();
    let project = folder.project("project", &[]);
    let tree = folder.path("tree");
    worktree(&project, &tree);
    for path in [&tree, &project] {
        git(path, &["update-ref", "refs/worktree/mine", "HEAD"]);
        git(path, &["update-ref", "refs/bisect/bad", "HEAD"]);
        let sent = send_at(path, &rules()).unwrap();
        let names = "refs/heads/main\nrefs/heads/side/line\nrefs/tags/v1\n";
        assert_eq!(sent.git(&["for-each-ref", "--format=%(refname)"]), names);
        assert_eq!(sent.snapshot.git_base.unwrap().refs.len(), 3);
    }
}

#[test]
fn a_worktree_of_a_bare_repository_and_one_that_is_linked_by_relative_paths_travel() {
    let folder = Folder::new();
    let project = folder.project("project", &[]);
    let bare = folder.path("bare.git");
    git(&project, &["clone", "-q", "--bare", ".", bare.to_str().unwrap()]);
    let tree = folder.path("tree");
    worktree(&bare, &tree);
    fs::write(tree.join(".git"), "gitdir: ../bare.git/worktrees/tree\n").unwrap();
    fs::write(bare.join("worktrees/tree/gitdir"), "../../../tree/.git\n").unwrap();
    let sent = travels(&tree);
    sent.git(&["fsck", "--connectivity-only", "--strict"]);
    works(&sent, &tree);
}

#[test]
fn a_detached_worktree_travels() {
    let folder = Folder::new();
    let project = folder.project("project", &[]);
    let tree = folder.path("tree");
    git(&project, &["worktree", "add", "-q", "--detach", tree.to_str().unwrap(), "HEAD~2"]);
    let sent = travels(&tree);
    assert_eq!(sent.snapshot.git_base.as_ref().unwrap().branch, None);
    works(&sent, &tree);
}

#[test]
fn a_submodule_travels_and_so_does_a_worktree_of_it() {
    let folder = Folder::new();
    let library = folder.project("library", &[]);
    let project = folder.project("project", &[]);
    let arguments = ["submodule", "--quiet", "add", library.to_str().unwrap(), "deep/library"];
    git(&project, &arguments);
    commit(&project, "a submodule");
    let submodule = project.join("deep/library");
    assert!(submodule.join(".git").is_file());
    write(&submodule, "src/file", "changed");
    git(&submodule, &["branch", "side/line", "HEAD~1"]);
    let tree = folder.path("tree");
    worktree(&submodule, &tree);
    let sent = travels(&submodule);
    assert_eq!(sent.git(&["status", "--porcelain"]), " M src/file\n");
    sent.git(&["fsck", "--connectivity-only", "--strict"]);
    works(&sent, &submodule);
    let sent = send_at(&tree, &rules()).unwrap();
    assert_eq!(sent.git(&["branch", "--show-current"]), "side/line\n");
    assert_eq!(sent.git(&["status", "--porcelain"]), "");

    // The project itself: the submodule's files go, and git sees no change in it.
    let sent = send_at(&project, &rules()).unwrap();
    assert!(sent.files().contains(&"deep/library/src/file".to_owned()));
    assert_eq!(sent.stayed(), [("deep/library/.git", StayReason::NestedGit)]);
    assert_eq!(sent.git(&["status", "--porcelain"]), "");
}

/// Clones with a filter, so that only what is checked out is there.
fn partial(folder: &Folder, filter: &str) -> PathBuf {
    let source = folder.project("source", &[]);
    git(&source, &["config", "uploadpack.allowFilter", "true"]);
    git(&source, &["config", "uploadpack.allowAnySHA1InWant", "true"]);
    let url = format!("file://{}", source.display());
    let clone = folder.path("clone");
    git(&source, &["clone", "-q", &format!("--filter={filter}"), &url, clone.to_str().unwrap()]);
    clone
}

#[test]
fn a_partial_clone_travels_and_lacks_what_it_lacked() {
    for filter in ["blob:none", "tree:0"] {
        let folder = Folder::new();
        let clone = partial(&folder, filter);
        let sent = travels(&clone);
        let old = sent.git(&["rev-parse", "HEAD~2"]);
        let missing = try_git(sent.path(), &["cat-file", "-p", &format!("{}:one", old.trim())]);
        // `one` is still in HEAD; its old text of `src/file` is nowhere.
        assert_eq!(missing.status.success(), filter == "blob:none", "{missing:?}");
        let missing = try_git(sent.path(), &["show", &format!("{}:src/file", old.trim())]);
        let errors = String::from_utf8_lossy(&missing.stderr);
        assert!(!missing.status.success() && errors.contains("promisor remote"), "{errors}");
        assert!(errors.contains("does not appear to be a git repository"), "{errors}");
        sent.git(&["fsck", "--connectivity-only"]);
        works(&sent, &clone);
        assert_eq!(sent.git(&["status", "--porcelain"]), "?? new.bundle\n");
    }
}

#[test]
fn a_shallow_clone_travels() {
    let folder = Folder::new();
    let source = folder.project("source", &[]);
    let url = format!("file://{}", source.display());
    let clone = folder.path("clone");
    git(&source, &["clone", "-q", "--depth", "2", &url, clone.to_str().unwrap()]);
    git(&clone, &["branch", "side/line", "HEAD~1"]);
    let tree = folder.path("tree");
    worktree(&clone, &tree);
    for path in [&clone, &tree] {
        let sent = send_at(path, &rules()).unwrap();
        assert_eq!(sent.git(&["rev-parse", "--is-shallow-repository"]), "true\n");
        sent.git(&["fsck", "--connectivity-only", "--strict"]);
    }
    let sent = travels(&clone);
    assert_eq!(sent.git(&["log", "--format=%s"]), "three\ntwo\n");
    works(&sent, &clone);
}

#[test]
fn alternates_of_alternates_and_relative_ones_are_flattened() {
    let folder = Folder::new();
    let first = folder.project("first", &[]);
    let [second, third] = ["second", "third"].map(|name| folder.path(name));
    git(&first, &["clone", "-q", "--shared", ".", second.to_str().unwrap()]);
    write(&second, "second", "2");
    commit(&second, "second");
    git(&first, &["clone", "-q", "--shared", second.to_str().unwrap(), third.to_str().unwrap()]);
    write(&third, "third", "3");
    commit(&third, "third");
    fs::write(third.join(".git/objects/info/alternates"), "../../../second/.git/objects\n")
        .unwrap();
    let sent = travels(&third);
    assert_eq!(sent.git(&["log", "--format=%s"]), "third\nsecond\nthree\ntwo\none\n");
    sent.git(&["fsck", "--connectivity-only", "--strict"]);
    works(&sent, &third);
}

#[test]
fn sha256_travels_and_is_told() {
    let folder = Folder::new();
    let project = folder.project("project", &["--object-format=sha256"]);
    let sent = travels(&project);
    let base = sent.snapshot.git_base.as_ref().unwrap();
    assert_eq!(base.hash_len, 32);
    assert_eq!(base.commit.as_ref().unwrap().len(), 64);
    sent.git(&["fsck", "--connectivity-only", "--strict"]);
    works(&sent, &project);
}

#[test]
fn references_kept_in_a_reftable_are_written_packed() {
    let folder = Folder::new();
    let probe = try_git(folder.0.path(), &["init", "-q", "--ref-format=reftable", "probe"]);
    if !probe.status.success() {
        assert!(std::env::var_os("CODEX_TESTS_REQUIRE_ENGINE").is_none(), "git is too old");
        eprintln!("skipped: this git cannot make a reftable");
        return;
    }
    let project = folder.project("project", &["--ref-format=reftable"]);
    let sent = travels(&project);
    let config = fs::read_to_string(sent.path().join(".git/config")).unwrap();
    assert!(!config.contains("refstorage"), "{config}");
    sent.git(&["fsck", "--connectivity-only", "--strict"]);
    works(&sent, &project);
    git(
        &project,
        &["-c", "core.hooksPath=/dev/null", "update-ref", "--no-deref", "HEAD", "HEAD~1"],
    );
    let sent = send_at(&project, &rules()).unwrap();
    let base = sent.snapshot.git_base.as_ref().unwrap();
    assert_eq!(base.branch, None);
    assert_eq!(base.commit.as_deref(), Some(git(&project, &["rev-parse", "HEAD"]).trim()));
    assert_eq!(sent.git(&["rev-parse", "HEAD"]), git(&project, &["rev-parse", "HEAD"]));
    let empty = folder.path("probe");
    let sent = send_at(&empty, &rules()).unwrap();
    assert_eq!(sent.git(&["symbolic-ref", "HEAD"]), git(&empty, &["symbolic-ref", "HEAD"]));
}

#[test]
fn what_a_required_filter_would_have_encrypted_cannot_be_added_in_the_clear() {
    let folder = Folder::new();
    let project = folder.project("project", &[]);
    write(&project, ".gitattributes", "src/* filter=crypt\n*.bin filter=lfs\n");
    commit(&project, "attributes");
    for (key, value) in [
        ("filter.crypt.clean", "hunter2"),
        ("filter.crypt.smudge", "hunter2"),
        ("filter.crypt.required", "true"),
    ] {
        git(&project, &["config", key, value]);
    }
    // As git sees it a second later: what is in the index is older than the index.
    let index = fs::File::open(project.join(".git/index")).unwrap();
    index.set_modified(std::time::SystemTime::now() + std::time::Duration::from_secs(5)).unwrap();
    let sent = send_at(&project, &rules()).unwrap();
    assert!(!sent.tar.windows(7).any(|bytes| bytes == b"hunter2"));
    assert_eq!(sent.git(&["status", "--porcelain"]), "");
    write(sent.path(), "src/file", "a secret in the clear");
    write(sent.path(), "two", "no secret");
    // Without LFS on the host its files are what they are, also where git-lfs is installed.
    write(sent.path(), "large.bin", "large");
    assert_eq!(sent.git(&["status", "--porcelain"]), " M src/file\n M two\n?? large.bin\n");
    let refused = try_git(sent.path(), &["add", "src/file"]);
    let errors = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && errors.contains("filter 'crypt' failed"), "{errors}");
    sent.git(&["add", "two", "large.bin"]);
    assert_eq!(sent.git(&["show", ":large.bin"]), "large");
}
