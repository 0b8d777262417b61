//! The made `.git`: git works in the container as it did on the host, and nothing of the user's
//! configuration came along.

use std::fs;
use std::process::Command;

use mcp_codex_orchestrator::workspace::root::open_unchecked;
use mcp_codex_orchestrator::workspace::send::send;
use mcp_codex_orchestrator::workspace::{GitSent, StayReason};

use crate::{Sent, Tree, git};

/// What `git status` says, without touching the index.
fn status(sent: &Sent) -> String {
    sent.git(&["status", "--porcelain"])
}

fn why(sent: &Sent) -> &str {
    match &sent.snapshot.git {
        GitSent::StayedHome(why) => why,
        other => panic!("{other:?}"),
    }
}

/// A repository with some history, its tree clean.
fn project() -> Tree {
    let tree = Tree::repository();
    tree.write("a", "one\n").write("src/b", "two\n").write("run.sh", "#!/bin/sh\n");
    tree.commit_all();
    tree.write("a", "one\nmore\n");
    tree.commit_all();
    tree.git(&["tag", "v1"]);
    tree.git(&["-c", "user.name=t", "-c", "user.email=t@t", "tag", "-a", "v2", "-m", "two"]);
    tree.git(&["branch", "side/line"]);
    tree
}

#[test]
fn what_was_clean_is_clean_and_git_works() {
    let tree = project();
    let sent = tree.send();
    assert!(
        matches!(sent.snapshot.git, GitSent::Made { index: true, .. }),
        "{:?}",
        sent.snapshot.git
    );
    assert_eq!(status(&sent), "");
    assert_eq!(
        sent.git(&["log", "--format=%H %s", "--all"]),
        tree.git(&["log", "--format=%H %s", "--all"])
    );
    assert_eq!(sent.git(&["show-ref", "-d"]), tree.git(&["show-ref", "-d"]));
    assert_eq!(sent.git(&["branch", "--show-current"]), "main\n");
    assert_eq!(sent.git(&["diff", "HEAD~1", "--name-only"]), "a\n");
    sent.git(&["fsck", "--strict"]);
    fs::write(sent.path().join("a"), "changed\n").unwrap();
    assert_eq!(status(&sent), " M a\n");
    sent.git(&["commit", "-q", "-a", "-m", "from inside"]);
    assert_eq!(status(&sent), "");
    // The tester's own settings may name somebody.
    let user = Command::new("git").current_dir(tree.path()).args(["config", "user.name"]).output();
    let user = String::from_utf8(user.unwrap().stdout).unwrap();
    let user = if user.is_empty() { "Codex Runner\n" } else { &user };
    assert_eq!(sent.git(&["log", "-1", "--format=%an"]), user);
    assert!(sent.git(&["reflog"]).contains("from inside"));
}

#[test]
fn the_snapshot_knows_the_references_that_were_sent() {
    let tree = project();
    let id = |name: &str| tree.git(&["rev-parse", name]).trim().to_owned();
    let base = tree.send().snapshot.git_base.unwrap();
    assert_eq!(base.branch.as_deref(), Some("refs/heads/main"));
    assert_eq!(base.commit, Some(id("HEAD")));
    assert_eq!(base.hash_len, 20);
    let names: Vec<&str> = base.refs.keys().map(String::as_str).collect();
    assert_eq!(names, ["refs/heads/main", "refs/heads/side/line", "refs/tags/v1", "refs/tags/v2"]);
    for (name, object) in &base.refs {
        assert_eq!(*object, id(name));
    }
    tree.git(&["checkout", "-q", "--detach", "HEAD~1"]);
    let base = tree.send().snapshot.git_base.unwrap();
    assert_eq!((base.branch, base.commit), (None, Some(id("HEAD"))));
    let base = Tree::repository().send().snapshot.git_base.unwrap();
    assert_eq!((base.branch.as_deref(), base.commit), (Some("refs/heads/main"), None));
    assert_eq!(Tree::new().send().snapshot.git_base, None);
}

#[test]
fn what_was_changed_staged_and_untracked_is_so_again() {
    let tree = project();
    tree.write("a", "uncommitted\n").write("staged", "s").write("new", "n");
    tree.git(&["add", "staged"]);
    fs::remove_file(tree.path().join("src/b")).unwrap();
    let sent = tree.send();
    assert_eq!(status(&sent), tree.git(&["status", "--porcelain"]));
    assert_eq!(status(&sent), " M a\n D src/b\nA  staged\n?? new\n");
}

#[test]
fn packed_objects_and_packed_references_go_along() {
    let tree = project();
    tree.git(&["gc", "-q"]);
    tree.write("a", "after the pack\n");
    tree.commit_all();
    let sent = tree.send();
    assert_eq!(status(&sent), "");
    sent.git(&["fsck", "--strict"]);
    assert_eq!(sent.git(&["rev-parse", "HEAD"]), tree.git(&["rev-parse", "HEAD"]));
}

#[test]
fn hooks_urls_and_programs_of_the_configuration_stay_home() {
    let tree = project();
    for (key, value) in [
        ("remote.origin.url", "https://user:hunter2@example.org/r"),
        ("remote.origin.fetch", "+refs/heads/*:refs/remotes/origin/*"),
        ("branch.main.remote", "origin"),
        ("branch.main.merge", "refs/heads/main"),
        ("core.fsmonitor", "/bin/hunter2"),
        ("core.sshCommand", "hunter2"),
        ("filter.x.clean", "hunter2"),
        ("credential.helper", "hunter2"),
        ("http.extraHeader", "hunter2"),
        ("user.name", "The User"),
        ("user.email", "user@example.org"),
    ] {
        git(tree.path(), &["config", key, value]);
    }
    tree.write(".git/hooks/pre-commit", "hunter2").write(".git/description", "hunter2");
    tree.write(".git/FETCH_HEAD", "hunter2").write(".git/info/attributes", "hunter2");
    tree.write(".git/logs/HEAD", "hunter2");
    let sent = tree.send();
    let found = sent.tar.windows(7).any(|bytes| bytes == b"hunter2");
    assert!(!found);
    let config = fs::read_to_string(sent.path().join(".git/config")).unwrap();
    assert!(config.contains("[branch \"main\"]") && config.contains("The User"), "{config}");
    assert!(!sent.path().join(".git/hooks").exists());
    assert_eq!(status(&sent), "");
}

#[test]
fn alternates_are_flattened() {
    let source = project();
    let tree = Tree::new();
    tree.git(&["clone", "-q", "--shared", source.path().to_str().unwrap(), "."]);
    tree.write("more", "m");
    tree.commit_all();
    let sent = tree.send();
    assert!(!sent.path().join(".git/objects/info/alternates").exists());
    sent.git(&["fsck", "--strict"]);
    assert_eq!(status(&sent), "");
    let config = fs::read_to_string(sent.path().join(".git/config")).unwrap();
    assert!(!config.contains("url"), "{config}");
    // A clone has `refs/remotes/origin/HEAD`, which points to another reference.
    assert_eq!(
        sent.git(&["symbolic-ref", "refs/remotes/origin/HEAD"]),
        "refs/remotes/origin/main\n"
    );
}

#[test]
fn a_shallow_clone_is_still_shallow() {
    let source = project();
    let tree = Tree::new();
    let url = format!("file://{}", source.path().display());
    tree.git(&["clone", "-q", "--depth", "1", &url, "."]);
    let sent = tree.send();
    assert_eq!(sent.git(&["log", "--format=%s"]), "all\n");
    assert_eq!(sent.git(&["rev-parse", "--is-shallow-repository"]), "true\n");
    assert_eq!(status(&sent), "");
}

#[test]
fn a_repository_without_a_commit_and_a_detached_head_travel() {
    let tree = Tree::repository();
    tree.write("a", "a");
    let sent = tree.send();
    assert_eq!(status(&sent), "?? a\n");
    let tree = project();
    tree.git(&["checkout", "-q", "--detach", "HEAD~1"]);
    let sent = tree.send();
    assert_eq!(sent.git(&["rev-parse", "HEAD"]), tree.git(&["rev-parse", "HEAD"]));
    assert_eq!(status(&sent), "");
}

#[test]
fn sha256_repositories_travel() {
    let tree = Tree::new();
    tree.git(&["init", "-q", "-b", "main", "--object-format=sha256"]);
    tree.write("a", "a").write("dist/kept", "k");
    tree.commit_all();
    tree.write(".gitignore", "dist/\n");
    tree.commit_all();
    let sent = tree.send();
    assert_eq!(status(&sent), "");
    assert_eq!(sent.files(), [".gitignore", "a", "dist/kept"]);
    sent.git(&["fsck", "--strict"]);
}

#[test]
fn patterns_of_info_exclude_go_along() {
    let tree = project();
    tree.write(".git/info/exclude", "/private/\nnotes\n");
    tree.write("private/x", "x").write("notes", "n");
    let sent = tree.send();
    assert_eq!(sent.stayed(), [("private/", StayReason::IgnoredDirectory)]);
    fs::create_dir(sent.path().join("private")).unwrap();
    fs::write(sent.path().join("private/new"), "").unwrap();
    assert_eq!(status(&sent), "");
}

#[test]
fn patterns_of_the_users_excludes_file_count_and_go_along() {
    let tree = project();
    let excludes = tempfile::NamedTempFile::new().unwrap();
    fs::write(excludes.path(), ".idea/\n*.swp\n").unwrap();
    tree.git(&["config", "core.excludesFile", excludes.path().to_str().unwrap()]);
    tree.write(".git/info/exclude", "!keep.swp");
    tree.write(".idea/x", "x").write("a.swp", "").write("keep.swp", "");
    let sent = tree.send();
    assert_eq!(sent.stayed(), [(".idea/", StayReason::IgnoredDirectory)]);
    assert_eq!(status(&sent), "?? keep.swp\n");
}

#[test]
fn odd_repositories_stay_home_with_a_reason() {
    for (key, value, word) in [
        ("extensions.unheardOf", "x", "unknown repository extension"),
        ("core.worktree", "/tmp", "core.worktree"),
        ("core.bare", "true", "bare"),
    ] {
        let tree = project();
        tree.git(&["config", "core.repositoryformatversion", "1"]);
        tree.git(&["config", key, value]);
        let sent = tree.send();
        assert!(why(&sent).contains(word), "{}", why(&sent));
        assert_eq!(sent.files(), ["a", "run.sh", "src/b"]);
        assert!(!sent.path().join(".git").exists());
        assert_eq!(sent.stayed(), [(".git/", StayReason::Git)]);
    }
    let tree = Tree::repository();
    fs::write(tree.path().join(".git/config"), "[core\nbroken").unwrap();
    let sent = tree.send();
    assert!(why(&sent).contains("git config failed"), "{}", why(&sent));
}

#[test]
fn a_split_index_is_left_out_and_its_tracked_files_still_count() {
    let tree = project();
    tree.write("dist/kept", "k");
    tree.commit_all();
    tree.write(".gitignore", "dist/\n");
    tree.commit_all();
    tree.git(&["update-index", "--split-index"]);
    let sent = tree.send();
    assert!(matches!(sent.snapshot.git, GitSent::Made { index: false, .. }));
    assert!(sent.files().contains(&"dist/kept".to_owned()));
    sent.git(&["reset", "-q"]);
    assert_eq!(status(&sent), "");
}

#[test]
fn another_users_repository_stays_home_because_git_does_not_trust_it() {
    let tree = project();
    // Only root can give files away.
    let given = Command::new("chown").args(["-R", "12345"]).arg(tree.path()).output().unwrap();
    if !given.status.success() {
        eprintln!("skipped: only root can make a repository of another user");
        return;
    }
    let sent = tree.send();
    assert!(why(&sent).contains("safe.directory"), "{}", why(&sent));
    assert_eq!(sent.files(), ["a", "run.sh", "src/b"]);
}

#[test]
fn a_file_changed_in_the_second_of_the_index_is_seen_as_changed() {
    let tree = project();
    // Same size, same second as the index: only its bytes tell.
    tree.write("a", "one\nMORE\n");
    let sent = tree.send();
    assert_eq!(status(&sent), " M a\n");
}

#[test]
fn a_git_directory_that_is_none_is_not_filled_from_a_repository_above() {
    let outer = project();
    outer.write("inner/.git/HEAD", "ref: refs/heads/main\n").write("inner/file", "f");
    fs::create_dir_all(outer.path().join("inner/.git/objects")).unwrap();
    let inner = open_unchecked(&outer.path().join("inner")).unwrap();
    let snapshot = send(&inner, &crate::rules(), std::io::sink()).unwrap();
    assert!(matches!(&snapshot.git, GitSent::StayedHome(_)), "{:?}", snapshot.git);
    assert_eq!(snapshot.nodes.len(), 1);
}
