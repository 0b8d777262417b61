//! Repositories that are not a plain directory with everything in it. How their `.git` goes in is
//! not tested here: the base is read from git itself, and the container is a clone.

use super::*;

/// The way home to `home`, with a full clone of `from` as the container.
fn pair(dir: tempfile::TempDir, home: PathBuf, from: &Path) -> Pair {
    let path = |name: &str| {
        let path = dir.path().canonicalize().unwrap().join(name);
        fs::create_dir(&path).unwrap();
        path
    };
    let (there, folder, state) = (path("there"), path("run"), path("state"));
    let ran = dir.path().join("ran");
    plant(&home, &ran);
    let listing = git(&home, &["for-each-ref", "--format=%(objectname) %(refname)"]);
    let refs = listing.lines().filter_map(|line| line.split_once(' '));
    let sent = Snapshot {
        git_base: Some(super::super::super::GitBase {
            branch: Some(git(&home, &["symbolic-ref", "HEAD"])),
            commit: Some(git(&home, &["rev-parse", "HEAD"])),
            refs: refs.map(|(object, name)| (name.to_owned(), object.to_owned())).collect(),
            hash_len: 20,
            cut: false,
        }),
        ..Snapshot::default()
    };
    let workspace = open(&home);
    let pair = Pair { _dir: dir, home, there, folder, state, ran, workspace, sent };
    let from = from.to_str().unwrap();
    pair.there(&["clone", "-q", "--no-local", from, "."]);
    let branch = pair.here(&["symbolic-ref", "--short", "HEAD"]);
    let commit = pair.here(&["rev-parse", "HEAD"]);
    pair.there(&["checkout", "-q", "-B", &branch, &commit]);
    pair
}

/// A repository with three commits and a branch, at `name` in a new place.
fn origin(name: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let origin = dir.path().canonicalize().unwrap().join(name);
    fs::create_dir(&origin).unwrap();
    git(&origin, &["init", "-q", "-b", "main"]);
    git(&origin, &["config", "uploadpack.allowFilter", "true"]);
    for text in ["one", "two", "three"] {
        write(&origin, "a.txt", &format!("{text} of a"));
        write(&origin, &format!("{text}/file.txt"), text);
        git(&origin, &["add", "-A"]);
        git(&origin, &["commit", "-qm", text]);
    }
    git(&origin, &["branch", "side"]);
    (dir, origin)
}

fn moves(pair: &Pair) {
    let staged = pair.here(&["diff", "--cached"]);
    pair.commit_there("one/file.txt", "by codex");
    pair.commit_there("new/new.txt", "new");
    let told = pair.finish();
    assert_eq!((told.state, told.count), (CommitsState::Moved, 2), "{told:?}");
    assert_eq!(pair.here(&["rev-parse", "HEAD"]), pair.there(&["rev-parse", "HEAD"]));
    assert_eq!(pair.here(&["diff", "--cached"]), staged);
    assert_eq!(pair.here(&["status", "--porcelain"]), "");
    fs::write(pair.home.join("one/file.txt"), "one").unwrap();
    fs::remove_file(pair.home.join("new/new.txt")).unwrap();
    let back = pair.take_back();
    assert_eq!(back.state, CommitsState::Arrived, "{back:?}");
    assert_eq!(pair.here(&["status", "--porcelain"]), "");
}

#[test]
fn a_worktree_moves_its_own_branch_and_index() {
    let (dir, origin) = origin("origin");
    let home = origin.with_file_name("home");
    git(&origin, &["worktree", "add", "-q", home.to_str().unwrap(), "side"]);
    let (head, index) = (git(&origin, &["rev-parse", "main"]), git(&origin, &["ls-files", "-s"]));
    let pair = pair(dir, home, &origin);
    moves(&pair);
    assert_eq!(git(&origin, &["rev-parse", "HEAD"]), head);
    assert_eq!(git(&origin, &["ls-files", "-s"]), index);
    assert_eq!(git(&origin, &["status", "--porcelain"]), "");
}

#[test]
fn a_submodule_moves_and_the_repository_around_it_does_not() {
    let (dir, origin) = origin("origin");
    let around = origin.with_file_name("around");
    fs::create_dir(&around).unwrap();
    git(&around, &["init", "-q"]);
    let from = origin.to_str().unwrap();
    git(&around, &["-c", "protocol.file.allow=always", "submodule", "--quiet", "add", from, "sub"]);
    git(&around, &["commit", "-qm", "with a submodule"]);
    let head = git(&around, &["rev-parse", "HEAD"]);
    let pair = pair(dir, around.join("sub"), &origin);
    moves(&pair);
    assert_eq!(git(&around, &["rev-parse", "HEAD"]), head);
}

#[test]
fn a_shallow_clone() {
    let (dir, origin) = origin("origin");
    let home = origin.with_file_name("home");
    let from = format!("file://{}", origin.display());
    git(&origin, &["clone", "-q", "--depth=1", &from, home.to_str().unwrap()]);
    let shallow = fs::read(home.join(".git/shallow")).unwrap();
    let pair = pair(dir, home, &origin);
    moves(&pair);
    assert_eq!(fs::read(pair.home.join(".git/shallow")).unwrap(), shallow);
}

#[test]
fn a_partial_clone_and_nothing_is_fetched_for_it() {
    let (dir, origin) = origin("origin");
    let home = origin.with_file_name("home");
    let from = format!("file://{}", origin.display());
    git(&origin, &["clone", "-q", "--filter=blob:none", &from, home.to_str().unwrap()]);
    let pair = pair(dir, home, &origin);
    // Whoever asks the origin for an object now fails.
    fs::rename(&origin, origin.with_file_name("away")).unwrap();
    let missing = || pair.here(&["rev-list", "--objects", "--all", "--missing=print"]);
    assert!(missing().contains('?'), "every object is there");
    moves(&pair);
    assert!(missing().contains('?'), "objects were fetched");
}

#[test]
fn alternates_stay_as_they_are() {
    let (dir, origin) = origin("an origin: with a colon");
    let home = origin.with_file_name("home");
    git(&origin, &["clone", "-q", "--shared", origin.to_str().unwrap(), home.to_str().unwrap()]);
    let before = git(&origin, &["count-objects", "-v"]);
    let pair = pair(dir, home, &origin);
    moves(&pair);
    assert_eq!(git(&origin, &["count-objects", "-v"]), before);
}

#[test]
fn a_sparse_checkout_gets_the_commit_and_keeps_its_shape() {
    let (dir, origin) = origin("origin");
    let home = origin.with_file_name("home");
    git(&origin, &["clone", "-q", origin.to_str().unwrap(), home.to_str().unwrap()]);
    git(&home, &["sparse-checkout", "set", "one", "new"]);
    assert!(!home.join("two").exists());
    let pair = pair(dir, home, &origin);
    pair.commit_there("one/file.txt", "by codex");
    pair.take_out().unwrap();
    write(&pair.home, "one/file.txt", "by codex");
    let told = pair.bring_home();
    assert_eq!(told.state, CommitsState::Moved, "{told:?}");
    assert_eq!(pair.here(&["status", "--porcelain"]), "");
    assert!(!pair.home.join("two").exists());
}

#[test]
fn a_split_index_and_an_index_of_version_four() {
    for setting in [&["update-index", "--split-index"][..], &["update-index", "--index-version=4"]]
    {
        let (dir, origin) = origin("origin");
        let home = origin.with_file_name("home");
        git(&origin, &["clone", "-q", origin.to_str().unwrap(), home.to_str().unwrap()]);
        git(&home, setting);
        let pair = pair(dir, home, &origin);
        moves(&pair);
    }
}
