//! What arrives, and under which name.

use super::*;

#[test]
fn a_commit_moves_the_branch_and_leaves_nothing_to_commit() {
    let pair = Pair::new(|_| {});
    let before = pair.here(&["rev-parse", "HEAD"]);
    pair.commit_there("new.txt", "new\n");
    let told = pair.finish();
    assert_eq!(told.state, CommitsState::Moved, "{told:?}");
    assert_eq!((told.count, told.branch.as_deref()), (1, Some("main")));
    assert_eq!(pair.here(&["rev-parse", "HEAD"]), pair.there(&["rev-parse", "HEAD"]));
    assert_eq!(pair.here(&["rev-parse", "HEAD^"]), before);
    assert_eq!(pair.reference(), told.commit.clone().unwrap());
    assert_eq!(pair.here(&["status", "--porcelain"]), "");
    let reflog = pair.here(&["reflog", "-1", "main"]);
    assert!(reflog.contains("codex run"), "{reflog}");
    assert!(told.text().starts_with("Committed: 1 commit, main is now at "), "{}", told.text());
}

#[test]
fn several_commits_an_amended_and_a_rebased_one() {
    let pair = Pair::new(|_| {});
    for name in ["x", "y", "z"] {
        pair.commit_there(name, name);
    }
    let told = pair.finish();
    assert_eq!((told.state, told.count), (CommitsState::Moved, 3), "{told:?}");

    let pair = Pair::new(|_| {});
    let old = pair.here(&["rev-parse", "HEAD"]);
    write(&pair.there, "c.txt", "amended\n");
    pair.there(&["commit", "-qa", "--amend", "-m", "second, amended"]);
    let told = pair.finish();
    assert_eq!((told.state, told.count), (CommitsState::Moved, 1), "{told:?}");
    assert_eq!(pair.here(&["rev-parse", "main@{1}"]), old);
    assert_eq!(pair.here(&["status", "--porcelain"]), "");

    let pair = Pair::new(|_| {});
    pair.commit_there("d.txt", "d\n");
    pair.there(&["-c", "sequence.editor=sed -i '1{h;d};2{p;x}'", "rebase", "-qi", "HEAD~2"]);
    let told = pair.finish();
    assert_eq!((told.state, told.count), (CommitsState::Moved, 2), "{told:?}");
    assert_eq!(pair.here(&["log", "-1", "--format=%s"]), "second");
    assert_eq!(pair.here(&["status", "--porcelain"]), "");
}

#[test]
fn deletions_modes_links_and_renames_travel_in_commits() {
    let pair = Pair::new(|_| {});
    fs::set_permissions(pair.there.join("a.txt"), fs::Permissions::from_mode(0o755)).unwrap();
    pair.there(&["mv", "dir/b.txt", "moved.txt"]);
    pair.there(&["rm", "-q", "c.txt"]);
    let _ = fs::remove_dir(pair.there.join("dir"));
    write(&pair.there, "dir", "a file where a directory was\n");
    pair.there(&["add", "-A"]);
    pair.there(&["commit", "-qm", "all kinds"]);
    pair.take_out().unwrap();
    fs::remove_dir_all(pair.home.join("dir")).unwrap();
    pair.apply();
    fs::set_permissions(pair.home.join("a.txt"), fs::Permissions::from_mode(0o755)).unwrap();
    let told = pair.bring_home();
    assert_eq!(told.state, CommitsState::Moved, "{told:?}");
    assert_eq!(pair.here(&["status", "--porcelain"]), "");
}

#[test]
fn a_detached_head_and_a_new_branch_come_as_references_alone() {
    let pair = Pair::new(|_| {});
    pair.there(&["checkout", "-q", "--detach"]);
    pair.commit_there("new.txt", "new\n");
    let told = pair.finish();
    assert_eq!(told.state, CommitsState::Arrived, "{told:?}");
    assert!(told.reason.as_deref().unwrap().contains("detached"), "{told:?}");
    assert_eq!(told.take_over.as_deref(), Some(&*format!("git merge refs/codex/{RUN}")));
    assert_eq!(pair.reference(), pair.there(&["rev-parse", "HEAD"]));
    assert_ne!(pair.here(&["rev-parse", "HEAD"]), pair.reference());

    let pair = Pair::new(|_| {});
    pair.there(&["checkout", "-qb", "feature/x"]);
    pair.commit_there("new.txt", "new\n");
    let told = pair.finish();
    assert_eq!(told.state, CommitsState::Arrived, "{told:?}");
    assert_eq!(told.refs, [format!("refs/codex/{RUN}-refs/heads/feature/x")]);
    assert_eq!(pair.here(&["rev-parse", &told.refs[0]]), pair.reference());
    assert_eq!(pair.here(&["branch", "--format=%(refname)"]), "refs/heads/main");
}

#[test]
fn a_detached_head_at_home_never_moves() {
    let pair = Pair::new(|home| drop(git(home, &["checkout", "-q", "--detach"])));
    let before = pair.here(&["rev-parse", "HEAD"]);
    pair.commit_there("new.txt", "new\n");
    let told = pair.finish();
    assert_eq!(told.state, CommitsState::Arrived, "{told:?}");
    assert_eq!(pair.here(&["rev-parse", "HEAD"]), before);
    assert_eq!(pair.reference(), pair.there(&["rev-parse", "HEAD"]));
}

#[test]
fn tags_and_a_stash_come_without_a_commit() {
    let pair = Pair::new(|_| {});
    pair.there(&["tag", "light"]);
    pair.there(&["tag", "-m", "a tag", "heavy/1.0"]);
    write(&pair.there, "a.txt", "stashed\n");
    write(&pair.there, "untracked.txt", "stashed\n");
    pair.there(&["stash", "-qu"]);
    let told = pair.finish();
    assert_eq!((told.state, told.reference.as_ref()), (CommitsState::Arrived, None), "{told:?}");
    let inner = |name: &str| format!("refs/codex/{RUN}-refs/{name}");
    assert_eq!(told.refs, [inner("stash"), inner("tags/heavy/1.0"), inner("tags/light")]);
    assert_eq!(pair.here(&["cat-file", "-t", &inner("tags/heavy/1.0")]), "tag");
    assert_eq!(pair.here(&["show", &format!("{}:a.txt", inner("stash"))]), "stashed");
    assert_eq!(pair.here(&["status", "--porcelain"]), "");
    assert!(told.text().starts_with("Other new references: refs/codex/"), "{}", told.text());
}

#[test]
fn a_reference_that_points_at_what_is_there_needs_no_objects() {
    let pair = Pair::new(|_| {});
    pair.there(&["branch", "old", "HEAD^"]);
    let told = pair.finish();
    assert_eq!(told.refs.len(), 1, "{told:?}");
    assert_eq!(pair.here(&["rev-parse", &told.refs[0]]), pair.here(&["rev-parse", "HEAD^"]));
}

#[test]
fn nothing_new_is_nothing() {
    let pair = Pair::new(|_| {});
    pair.there(&["checkout", "-q", "--detach"]);
    pair.there(&["checkout", "-q", "main"]);
    assert_eq!(pair.take_out(), None);
}

#[test]
fn the_first_commit_of_all() {
    let unborn = |home: &Path| write(home, "a.txt", "one\n");
    let pair = Pair::with(&["init", "-q", "-b", "trunk"], unborn);
    pair.commit_there("new.txt", "new\n");
    let told = pair.finish();
    assert_eq!((told.state, told.count), (CommitsState::Moved, 1), "{told:?}");
    assert_eq!(pair.here(&["symbolic-ref", "HEAD"]), "refs/heads/trunk");
    assert_eq!(pair.here(&["status", "--porcelain"]), "");

    fs::remove_file(pair.home.join("a.txt")).unwrap();
    fs::remove_file(pair.home.join("new.txt")).unwrap();
    let back = pair.take_back();
    assert_eq!(back.state, CommitsState::Arrived, "{back:?}");
    assert_eq!(pair.here(&["for-each-ref", "refs/heads"]), "");
    assert_eq!(pair.here(&["ls-files"]), "");
}

#[test]
fn a_repository_with_sha_256() {
    let pair = Pair::with(&["init", "-q", "-b", "main", "--object-format=sha256"], |home| {
        write(home, "a.txt", "one\n");
        git(home, &["add", "-A"]);
        git(home, &["commit", "-qm", "first"]);
    });
    pair.commit_there("new.txt", "new\n");
    let told = pair.finish();
    assert_eq!(told.state, CommitsState::Moved, "{told:?}");
    assert_eq!(told.commit.unwrap().len(), 64);
    assert_eq!(pair.here(&["status", "--porcelain"]), "");
}

#[test]
fn any_git_can_fetch_from_the_bundle() {
    let pair = Pair::new(|_| {});
    pair.commit_there("new.txt", "new\n");
    pair.there(&["tag", "v1"]);
    pair.take_out().unwrap();
    let bundle = pair.folder.join("commits.bundle");
    let said = pair.here(&["bundle", "list-heads", bundle.to_str().unwrap()]);
    assert!(said.contains(" HEAD") && said.contains(" refs/tags/v1"), "{said}");
    pair.here(&["bundle", "verify", "-q", bundle.to_str().unwrap()]);
}

#[test]
fn twice_is_once() {
    let pair = Pair::new(|_| {});
    pair.commit_there("new.txt", "new\n");
    let told = pair.finish();
    assert_eq!(pair.bring_home(), told);
}
