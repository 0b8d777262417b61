//! Repositories that are odd and legal, and trees that are small and endless.

use super::*;

#[test]
fn a_bit_of_the_index_that_the_commit_does_not_touch_is_kept() {
    let pair = Pair::new(|home| {
        git(home, &["update-index", "--assume-unchanged", "a.txt"]);
        git(home, &["update-index", "--skip-worktree", "dir/b.txt"]);
        git(home, &["update-index", "--force-untracked-cache"]);
        fs::write(home.join("a.txt"), "mine, and git is not to look\n").unwrap();
    });
    let bits = |pair: &Pair| pair.here(&["ls-files", "-v", "a.txt", "dir/b.txt"]);
    let before = bits(&pair);
    assert!(before.contains("h a.txt") && before.contains("S dir/b.txt"), "{before}");
    write(&pair.there, "new.txt", "new\n");
    pair.there(&["add", "new.txt"]);
    pair.there(&["commit", "-qm", "new"]);
    assert_eq!(pair.finish().state, CommitsState::Moved);
    assert_eq!(bits(&pair), before);
    assert_eq!(
        fs::read_to_string(pair.home.join("a.txt")).unwrap(),
        "mine, and git is not to look\n"
    );
}

#[test]
fn a_conflict_in_the_index_without_a_merge_keeps_the_branch_and_the_conflict() {
    let pair = Pair::new(|_| {});
    pair.commit_there("new.txt", "new\n");
    pair.take_out().unwrap();
    pair.apply();
    // As a stash that does not fit leaves it.
    let blob = pair.here(&["rev-parse", "HEAD:a.txt"]);
    let lines: String = (1..4).map(|stage| format!("100644 {blob} {stage}\ta.txt\n")).collect();
    let mut update = git_command(&pair.home, &["update-index", "--index-info"]);
    output(&mut update, &pair.home, &format!("0 {}\ta.txt\n{lines}", "0".repeat(40)));
    let conflict = pair.here(&["ls-files", "-u"]);
    assert_eq!(conflict.lines().count(), 3);
    let told = pair.bring_home();
    assert_eq!(told.state, CommitsState::Arrived, "{told:?}");
    assert_eq!(pair.here(&["ls-files", "-u"]), conflict);
    assert_eq!(pair.here(&["log", "--format=%s"]), "second\nfirst");
}

#[test]
fn references_in_tables_and_none_that_are_logged() {
    let pair = Pair::with(&["init", "-q", "-b", "feature/deep", "--ref-format=reftable"], |home| {
        write(home, "a.txt", "one\n");
        git(home, &["add", "-A"]);
        git(home, &["commit", "-qm", "first"]);
        git(home, &["config", "core.logAllRefUpdates", "false"]);
    });
    pair.commit_there("new.txt", "new\n");
    let told = pair.finish();
    assert_eq!((told.state, told.branch.as_deref()), (CommitsState::Moved, Some("feature/deep")));
    assert_eq!(pair.here(&["status", "--porcelain"]), "");
    fs::remove_file(pair.home.join("new.txt")).unwrap();
    assert_eq!(pair.take_back().state, CommitsState::Arrived);
    assert_eq!(pair.here(&["log", "--format=%s"]), "first");
}

#[test]
fn a_branch_that_is_another_name_of_a_branch_moves_neither() {
    let pair = Pair::new(|home| {
        git(home, &["branch", "real"]);
        git(home, &["symbolic-ref", "refs/heads/main", "refs/heads/real"]);
    });
    pair.commit_there("new.txt", "new\n");
    let before = pair.here(&["rev-parse", "real", "main"]);
    assert_eq!(pair.finish().state, CommitsState::Arrived);
    assert_eq!(pair.here(&["rev-parse", "real", "main"]), before);
}

#[test]
fn a_replaced_commit_and_a_reference_in_the_way() {
    let pair = Pair::new(|home| {
        let tree = git(home, &["rev-parse", "HEAD^{tree}"]);
        let other = git(home, &["commit-tree", "-m", "another past", &tree]);
        git(home, &["replace", "HEAD", &other]);
    });
    pair.commit_there("new.txt", "new\n");
    assert_eq!(pair.finish().state, CommitsState::Moved);
    assert_eq!(pair.here(&["log", "--format=%s"]), "new.txt in the container\nanother past");

    let pair = Pair::new(|home| drop(git(home, &["update-ref", "refs/codex", "HEAD"])));
    pair.commit_there("new.txt", "new\n");
    let told = pair.finish();
    assert_eq!(told.state, CommitsState::Left, "{told:?}");
    assert!(told.reason.unwrap().contains("'refs/codex' exists"));
    assert_eq!(pair.here(&["log", "--format=%s", "refs/codex"]), "second\nfirst");
}

#[test]
fn three_hundred_tags_are_two_hundred_and_a_number() {
    let pair = Pair::new(|_| {});
    pair.commit_there("new.txt", "new\n");
    let tags: String = (0..300).map(|tag| format!("create refs/tags/t{tag:03} HEAD\n")).collect();
    output(Command::new("git").args(["update-ref", "--stdin"]), &pair.there, &tags);
    let told = pair.finish();
    assert_eq!((told.state, told.refs.len()), (CommitsState::Moved, MOST_REFS));
    assert_eq!(told.refs_left, 100);
    assert!(told.text().contains("100 more were not taken over"), "{}", told.text());
    assert_eq!(pair.here(&["tag"]), "");
}

#[test]
fn names_that_clash_with_each_other_come_to_nothing() {
    let pair = Pair::new(|_| {});
    pair.commit_there("new.txt", "new\n");
    let mut tips = pair.take_out().unwrap();
    let head = tips.head.clone().unwrap();
    for name in ["refs/heads/a", "refs/heads/a/b"] {
        tips.refs.insert(name.to_owned(), head.clone());
    }
    tips.write(&pair.folder).unwrap();
    pair.apply();
    let told = pair.bring_home();
    assert_eq!(told.state, CommitsState::Left, "{told:?}");
    assert_eq!(pair.here(&["for-each-ref", "refs/codex"]), "");
    assert_eq!(pair.here(&["log", "--format=%s"]), "second\nfirst");
}

/// Ten trees in each of ten trees in each of …: a few hundred bytes, ten billion paths.
#[test]
fn trees_without_end_move_no_branch_and_cost_little() {
    let pair = Pair::new(|_| {});
    let blob =
        output(Command::new("git").args(["hash-object", "-w", "--stdin"]), &pair.there, "bomb\n");
    let mut below = (String::from("100644 blob"), String::from_utf8(blob).unwrap());
    for _ in 0..10 {
        let (kind, object) = (&below.0, below.1.trim());
        let lines: String = (0..10).map(|name| format!("{kind} {object}\t{name}\n")).collect();
        let tree = output(Command::new("git").arg("mktree"), &pair.there, &lines);
        below = (String::from("040000 tree"), String::from_utf8(tree).unwrap());
    }
    let commit = pair.there(&["commit-tree", "-p", "HEAD", "-m", "bomb", below.1.trim()]);
    pair.there(&["update-ref", "HEAD", &commit]);
    pair.take_out().unwrap();
    let began = std::time::Instant::now();
    let told = pair.bring_home();
    assert_eq!(told.state, CommitsState::Arrived, "{told:?}");
    assert!(told.reason.unwrap().contains("the commits cannot be compared"));
    assert!(began.elapsed() < std::time::Duration::from_secs(25));
    assert_eq!(pair.here(&["log", "--format=%s"]), "second\nfirst");
}

#[test]
fn a_history_that_the_container_cut_off_is_not_whole() {
    let pair = Pair::new(|_| {});
    pair.commit_there("one.txt", "one\n");
    let one = pair.there(&["rev-parse", "HEAD"]);
    pair.commit_there("two.txt", "two\n");
    // It claims that nothing was before `two`, and what `one` had is not in the pack.
    let two = pair.there(&["rev-parse", "HEAD"]);
    fs::write(pair.there.join(".git/shallow"), format!("{two}\n")).unwrap();
    pair.take_out().unwrap();
    pair.apply();
    let told = pair.bring_home();
    assert_eq!(told.state, CommitsState::Left, "{told:?}");
    assert!(
        git_command(&pair.home, &["cat-file", "-e", &one]).output().unwrap().status.code()
            != Some(0)
    );
    assert_eq!(pair.here(&["log", "--format=%s"]), "second\nfirst");
    assert!(!pair.home.join(".git/shallow").exists());
}

#[test]
fn a_submodule_where_a_file_is() {
    let pair = Pair::new(|_| {});
    let head = pair.there(&["rev-parse", "HEAD"]);
    for path in ["a.txt", "sub"] {
        pair.there(&["update-index", "--add", "--cacheinfo", &format!("160000,{head},{path}")]);
    }
    pair.there(&["commit", "-qm", "links"]);
    pair.take_out().unwrap();
    let told = pair.bring_home();
    assert_eq!(told.state, CommitsState::Arrived, "{told:?}");
    assert_eq!(told.reason.as_deref(), Some("a.txt is a submodule in the commits and a file here"));
    assert_eq!(fs::read_to_string(pair.home.join("a.txt")).unwrap(), "one\n");
}
