//! Repositories that stay home: those that only seem to be this directory's, those above and below
//! it, and those that git does not trust.

use std::fs;
use std::path::Path;

use mcp_codex_orchestrator::workspace::{GitSent, StayReason};

use crate::kinds::{Folder, commit, travels, worktree, write};
use crate::{Sent, git, rules, send_at};

/// Sends the tree at `path`, whose `.git` must stay home; gives the reason.
fn stays(path: &Path) -> (Sent, String) {
    let sent = send_at(path, &rules()).unwrap();
    let GitSent::StayedHome(why) = sent.snapshot.git.clone() else {
        panic!("{:?}", sent.snapshot.git)
    };
    assert!(!sent.path().join(".git").exists());
    assert_eq!(sent.snapshot.git_base, None);
    (sent, why)
}

#[test]
fn a_git_file_does_not_make_another_repository_travel() {
    let folder = Folder::new();
    let secret = folder.project("secret", &[]);
    write(&secret, "key", "very-secret");
    commit(&secret, "key");
    let tree = folder.path("tree");
    worktree(&secret, &tree);
    let victim = folder.project("victim", &[]);
    let arguments = ["submodule", "--quiet", "add", secret.to_str().unwrap(), "inner"];
    git(&victim, &arguments);
    let admin = secret.join(".git/worktrees/tree");
    let module = victim.join(".git/modules/inner");
    for (at, target) in [("a", secret.join(".git")), ("b", admin.clone()), ("c", module.clone())] {
        let planted = folder.path(at);
        write(&planted, "file", "f");
        write(&planted, ".git", &format!("gitdir: {}\n", target.display()));
        let (sent, why) = stays(&planted);
        assert!(why.contains("does not name this directory as its own"), "{why}");
        assert_eq!(sent.files(), ["file"]);
        assert_eq!(sent.stayed(), [(".git", StayReason::Git)]);
    }
    // The way back is planted, too: a worktree's directory in the tree, and one that is a link.
    let planted = folder.path("d");
    write(&planted, "file", "f");
    write(&planted, ".git", "gitdir: fake\n");
    write(&planted, "fake/gitdir", "../.git\n");
    write(&planted, "fake/commondir", &format!("{}\n", secret.join(".git").display()));
    fs::copy(secret.join(".git/HEAD"), planted.join("fake/HEAD")).unwrap();
    let (_, why) = stays(&planted);
    assert!(why.contains("does not name this directory as its own"), "{why}");
    write(&planted, "fake/worktrees/x/gitdir", "../../../.git\n");
    write(&planted, "fake/worktrees/x/commondir", &format!("{}\n", secret.join(".git").display()));
    fs::copy(secret.join(".git/HEAD"), planted.join("fake/worktrees/x/HEAD")).unwrap();
    write(&planted, ".git", "gitdir: fake/worktrees/x\n");
    let (_, why) = stays(&planted);
    assert!(why.contains("does not name this directory as its own"), "{why}");
    // A directory that shares another's objects by `commondir`.
    let planted = folder.path("e");
    write(&planted, ".git/commondir", &format!("{}\n", secret.join(".git").display()));
    fs::copy(secret.join(".git/HEAD"), planted.join(".git/HEAD")).unwrap();
    let (_, why) = stays(&planted);
    assert!(why.contains("another repository"), "{why}");
}

#[test]
fn what_leads_nowhere_or_not_back_stays_home_with_a_reason() {
    let folder = Folder::new();
    let project = folder.project("project", &[]);
    let tree = folder.path("tree");
    worktree(&project, &tree);
    let moved = folder.path("moved");
    fs::rename(&tree, &moved).unwrap();
    let (sent, why) = stays(&moved);
    assert!(why.contains("git worktree repair"), "{why}");
    assert_eq!(sent.files(), ["one", "src/file", "two"]);
    git(&moved, &["worktree", "repair"]);
    travels(&moved);

    write(&moved, ".git", "gitdir: /nowhere/at/all\n");
    assert!(stays(&moved).1.contains("cannot be opened"));
    write(&moved, ".git", "nonsense\n");
    assert!(stays(&moved).1.contains("names no directory"));
    fs::remove_file(moved.join(".git")).unwrap();
    std::os::unix::fs::symlink(project.join(".git"), moved.join(".git")).unwrap();
    assert!(stays(&moved).1.contains("it is a link"));
}

#[test]
fn a_repository_in_the_tree_that_the_git_file_names_stays_home_whole() {
    let folder = Folder::new();
    let project = folder.project("project", &[]);
    let here = folder.path("here");
    fs::create_dir(&here).unwrap();
    git(&project, &["clone", "-q", "--bare", ".", here.join(".bare").to_str().unwrap()]);
    write(&here, ".git", "gitdir: ./.bare\n");
    write(&here, "notes", "n");
    let (sent, _) = stays(&here);
    assert_eq!(sent.files(), ["notes"]);
    assert_eq!(sent.stayed(), [(".bare/", StayReason::Git), (".git", StayReason::Git)]);
}

#[test]
fn a_repository_above_stays_home_and_one_below_sends_its_files() {
    let folder = Folder::new();
    let project = folder.project("project", &[]);
    let (sent, why) = stays(&project.join("src"));
    assert!(why.contains("above"), "{why}");
    assert_eq!(sent.files(), ["file"]);
    fs::rename(&project, folder.path("inner")).unwrap();
    let sent = send_at(folder.0.path(), &rules()).unwrap();
    assert_eq!(sent.snapshot.git, GitSent::None);
    assert_eq!(sent.stayed(), [("inner/.git/", StayReason::NestedGit)]);
    assert_eq!(sent.files(), ["inner/one", "inner/src/file", "inner/three", "inner/two"]);
}

#[test]
fn worktrees_and_submodules_of_another_user_are_not_trusted() {
    let folder = Folder::new();
    let library = folder.project("library", &[]);
    let project = folder.project("project", &[]);
    git(&project, &["submodule", "--quiet", "add", library.to_str().unwrap(), "library"]);
    let tree = folder.path("tree");
    worktree(&project, &tree);
    let chown = |path: &Path, user: &str| {
        let status = std::process::Command::new("chown").args(["-R", user]).arg(path).output();
        status.unwrap().status.success()
    };
    if !chown(&project.join(".git"), "12345") {
        eprintln!("skipped: only root can make a repository of another user");
        return;
    }
    for path in [&project, &tree, &project.join("library")] {
        let (_, why) = stays(path);
        assert!(why.contains("safe.directory"), "{}: {why}", path.display());
    }
    chown(&project, "0");
    for path in [&tree, &project.join("library")] {
        assert!(matches!(send_at(path, &rules()).unwrap().snapshot.git, GitSent::Made { .. }));
        chown(path, "12345");
        let (_, why) = stays(path);
        assert!(why.contains("safe.directory"), "{}: {why}", path.display());
    }
}
