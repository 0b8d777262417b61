//! When the branch moves, and that nothing of the user's is lost when it does.

use super::*;

/// Brings a commit home to a repository that was changed meanwhile; the branch must stay.
fn stays(prepare: impl FnOnce(&Path), meanwhile: impl FnOnce(&Pair), reason: &str) -> Pair {
    let pair = Pair::new(prepare);
    pair.commit_there("new.txt", "new\n");
    pair.take_out().unwrap();
    pair.apply();
    meanwhile(&pair);
    let (head, index) = (pair.here(&["rev-parse", "HEAD"]), pair.here(&["ls-files", "-s"]));
    let told = pair.bring_home();
    assert_eq!(told.state, CommitsState::Arrived, "{told:?}");
    assert!(told.reason.as_deref().unwrap().contains(reason), "{told:?}");
    assert!(
        told.take_over.as_deref().unwrap().ends_with(&format!(" refs/codex/{RUN}")),
        "{told:?}"
    );
    assert_eq!(pair.reference(), pair.there(&["rev-parse", "HEAD"]));
    assert_eq!(pair.here(&["rev-parse", "HEAD"]), head);
    assert_eq!(pair.here(&["ls-files", "-s"]), index);
    pair
}

#[test]
fn staged_unstaged_and_untracked_work_is_as_it_was() {
    let pair = Pair::new(|home| {
        write(home, "a.txt", "staged\n");
        git(home, &["add", "a.txt"]);
        write(home, "a.txt", "staged, and more\n");
        write(home, "dir/b.txt", "unstaged\n");
        write(home, "untracked.txt", "untracked\n");
        write(home, "staged-new.txt", "staged\n");
        git(home, &["add", "staged-new.txt"]);
        git(home, &["add", "-N", "--", "untracked.txt"]);
        git(home, &["rm", "-q", "--cached", "racy.txt"]);
    });
    let state = |pair: &Pair| {
        let cached = pair.here(&["diff", "--cached", "--", "."]);
        (cached, pair.here(&["diff"]), pair.here(&["status", "--porcelain=v2"]))
    };
    let before = state(&pair);
    write(&pair.there, "c.txt", "by codex\n");
    write(&pair.there, "new.txt", "by codex\n");
    pair.there(&["add", "new.txt"]);
    pair.there(&["commit", "-qm", "only mine", "--", "c.txt", "new.txt"]);
    let told = pair.finish();
    assert_eq!(told.state, CommitsState::Moved, "{told:?}");
    assert_eq!(state(&pair), before);
    assert_eq!(pair.here(&["show", "--format=", "--name-only", "HEAD"]), "c.txt\nnew.txt");

    fs::write(pair.home.join("c.txt"), "three\n").unwrap();
    fs::remove_file(pair.home.join("new.txt")).unwrap();
    let back = pair.take_back();
    assert_eq!((back.state, back.count), (CommitsState::Arrived, 1), "{back:?}");
    assert_eq!(state(&pair), before);
    assert_eq!(take_back(&pair.workspace, &pair.parts()), None);
}

#[test]
fn what_was_not_committed_there_is_not_committed_here() {
    let pair = Pair::new(|_| {});
    pair.commit_there("c.txt", "committed\n");
    write(&pair.there, "c.txt", "and changed after that\n");
    write(&pair.there, "left.txt", "never added\n");
    let told = pair.finish();
    assert_eq!(told.state, CommitsState::Moved, "{told:?}");
    assert_eq!(pair.here(&["status", "--porcelain"]), " M c.txt\n?? left.txt");
}

#[test]
fn a_save_of_the_user_after_the_apply_is_a_change_and_no_more() {
    let pair = Pair::new(|_| {});
    pair.commit_there("c.txt", "by codex\n");
    pair.take_out().unwrap();
    pair.apply();
    write(&pair.home, "c.txt", "by the user\n");
    let told = pair.bring_home();
    assert_eq!(told.state, CommitsState::Moved, "{told:?}");
    assert_eq!(fs::read_to_string(pair.home.join("c.txt")).unwrap(), "by the user\n");
    assert_eq!(pair.here(&["status", "--porcelain"]), " M c.txt");
}

#[test]
fn a_commit_of_what_the_user_had_not_committed_takes_it_along() {
    let pair = Pair::new(|home| write(home, "a.txt", "not committed\n"));
    pair.there(&["commit", "-qam", "all of it"]);
    let told = pair.finish();
    assert_eq!(told.state, CommitsState::Moved, "{told:?}");
    assert_eq!(pair.here(&["status", "--porcelain"]), "");
    assert_eq!(fs::read_to_string(pair.home.join("a.txt")).unwrap(), "not committed\n");
}

#[test]
fn the_user_committed_meanwhile() {
    let meanwhile = |pair: &Pair| {
        write(&pair.home, "mine.txt", "mine\n");
        pair.here(&["add", "mine.txt"]);
        pair.here(&["commit", "-qm", "mine"]);
    };
    stays(|_| {}, meanwhile, "main was moved meanwhile");
}

#[test]
fn the_user_is_on_another_branch_at_the_same_commit() {
    stays(|_| {}, |pair| drop(pair.here(&["checkout", "-qb", "other"])), "main is not checked out");
}

#[test]
fn a_merge_a_rebase_a_cherry_pick_a_revert_and_a_bisect_are_under_way() {
    let side = |home: &Path| {
        git(home, &["checkout", "-qb", "side", "HEAD^"]);
        write(home, "c.txt", "side\n");
        git(home, &["add", "-A"]);
        git(home, &["commit", "-qm", "side"]);
        git(home, &["checkout", "-q", "main"]);
    };
    for (command, what) in [
        (&["merge", "side"][..], "a merge is under way"),
        (&["cherry-pick", "side"], "a cherry-pick is under way"),
        (&["revert", "--no-commit", "HEAD"], "a revert is under way"),
        (&["bisect", "start"], "a bisect is under way"),
    ] {
        let begin = |home: &Path| {
            side(home);
            // It stops in a conflict, as it must.
            git_command(home, command).output().unwrap();
        };
        stays(begin, |_| {}, what);
    }
    let rebase = |pair: &Pair| {
        git_command(&pair.home, &["rebase", "-q", "side", "main"]).output().unwrap();
        assert!(pair.home.join(".git/rebase-merge").exists());
        // Git has detached HEAD for it.
        pair.here(&["symbolic-ref", "HEAD", "refs/heads/main"]);
    };
    stays(side, rebase, "a rebase is under way");
}

#[test]
fn something_else_is_staged_at_the_same_path() {
    let pair = stays(
        |_| {},
        |pair| {
            let mine = pair.here(&["hash-object", "-w", "--stdin", "--path", "a.txt"]);
            let info = format!("100644,{mine},new.txt");
            pair.here(&["update-index", "--add", "--cacheinfo", &info]);
        },
        "something else is staged",
    );
    let told = pair.bring_home();
    // Never a command that costs what is staged.
    assert_eq!(told.take_over, Some(format!("git merge refs/codex/{RUN}")));
}

#[test]
fn another_git_has_the_index() {
    let pair = Pair::new(|_| {});
    pair.commit_there("new.txt", "new\n");
    pair.take_out().unwrap();
    pair.apply();
    let lock = pair.home.join(".git/index.lock");
    fs::write(&lock, "of another git").unwrap();
    let told = bring_home(&pair.workspace, &pair.parts()).unwrap();
    assert_eq!(told.state, CommitsState::Arrived, "{told:?}");
    assert!(told.reason.unwrap().contains("another git is at work"));
    assert_eq!(fs::read_to_string(&lock).unwrap(), "of another git");
    fs::remove_file(lock).unwrap();
    assert_eq!(pair.bring_home().state, CommitsState::Moved);
}

#[test]
fn another_git_has_the_branch() {
    let pair = Pair::new(|_| {});
    pair.commit_there("new.txt", "new\n");
    pair.take_out().unwrap();
    pair.apply();
    for name in ["refs/heads/main.lock", "HEAD.lock"] {
        let lock = pair.home.join(".git").join(name);
        fs::write(&lock, "").unwrap();
        let index = fs::read(pair.home.join(".git/index")).unwrap();
        let told = bring_home(&pair.workspace, &pair.parts()).unwrap();
        assert_eq!(told.state, CommitsState::Arrived, "{told:?}");
        assert!(told.reason.unwrap().contains("the branch cannot be moved"));
        assert_eq!(fs::read(pair.home.join(".git/index")).unwrap(), index);
        assert!(lock.exists());
        fs::remove_file(lock).unwrap();
    }
    assert_eq!(pair.bring_home().state, CommitsState::Moved);
}

#[test]
fn a_path_of_the_commit_is_held() {
    for (path, held) in [("new.txt", "new.txt"), ("deep/er/new.txt", "deep")] {
        let pair = Pair::new(|_| {});
        pair.commit_there(path, "new\n");
        pair.take_out().unwrap();
        pair.apply();
        hold(&pair.folder, held);
        let told = pair.bring_home();
        assert_eq!(told.state, CommitsState::Arrived, "{told:?}");
        assert_eq!(told.reason.as_deref(), Some(&*format!("{held} is held")));
        // Applied later as a whole.
        fs::remove_file(pair.folder.join("changes.json")).unwrap();
        assert_eq!(pair.bring_home().state, CommitsState::Moved);
    }
}

#[test]
fn a_path_that_is_held_and_in_no_commit_keeps_no_branch() {
    let pair = Pair::new(|_| {});
    pair.commit_there("new.txt", "new\n");
    pair.take_out().unwrap();
    pair.apply();
    hold(&pair.folder, ".envrc");
    assert_eq!(pair.bring_home().state, CommitsState::Moved);
}

#[test]
fn the_workspace_lacks_what_the_commit_has_or_has_what_it_lacks() {
    let pair = stays(
        |_| {},
        |pair| fs::remove_file(pair.home.join("new.txt")).unwrap(),
        "new.txt is in the commits and not in the workspace",
    );
    assert!(!pair.home.join("new.txt").exists());

    let pair = Pair::new(|_| {});
    pair.there(&["rm", "-q", "--cached", "a.txt"]);
    pair.there(&["commit", "-qm", "no longer tracked"]);
    let told = pair.finish();
    assert_eq!(told.state, CommitsState::Arrived, "{told:?}");
    let reason = "a.txt is not in the commits and still in the workspace";
    assert_eq!(told.reason.as_deref(), Some(reason));
}

#[test]
fn it_is_not_taken_back_when_the_user_went_on_from_it() {
    let pair = Pair::new(|_| {});
    pair.commit_there("new.txt", "new\n");
    assert_eq!(pair.finish().state, CommitsState::Moved);
    let back = pair.take_back();
    assert!(back.reason.unwrap().contains("new.txt is not in the commits and still"));
    fs::remove_file(pair.home.join("new.txt")).unwrap();
    pair.here(&["commit", "-q", "--allow-empty", "-m", "mine"]);
    let back = pair.take_back();
    assert_eq!(back.state, CommitsState::Moved, "{back:?}");
    assert_eq!(back.reason.as_deref(), Some("main was moved meanwhile"));
    let text = back.text();
    assert!(text.starts_with("main still has the 1 commit of this run, because main"), "{text}");
}

#[test]
fn commits_that_cannot_come_yet_wait_in_the_folder() {
    let pair = Pair::new(|_| {});
    assert_eq!(not_yet(&pair.folder, RUN, "another run has its turn"), None);
    pair.commit_there("new.txt", "new\n");
    pair.take_out().unwrap();
    pair.apply();
    let told = not_yet(&pair.folder, RUN, "another run has its turn").unwrap();
    assert!(told.wait());
    assert!(told.text().contains("because another run has its turn; they come"), "{told:?}");
    assert_eq!(pair.bring_home().state, CommitsState::Moved);
}

#[test]
fn a_run_that_was_undone_can_be_applied_again() {
    let pair = Pair::new(|_| {});
    pair.commit_there("new.txt", "new\n");
    let told = pair.finish();
    fs::remove_file(pair.home.join("new.txt")).unwrap();
    let back = pair.take_back();
    assert_eq!(back.state, CommitsState::Arrived);
    let text = "main does not have them, because the run was undone.";
    assert!(back.text().contains(text), "{back:?}");
    assert_eq!(pair.here(&["status", "--porcelain"]), "");
    pair.apply();
    assert_eq!(pair.bring_home(), told);
}

#[test]
fn a_change_that_only_the_age_of_the_index_gives_away_is_still_seen() {
    let pair = Pair::new(|home| {
        let then =
            std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
        let age = |name: &str| {
            let file = fs::File::options().write(true).open(home.join(name)).unwrap();
            file.set_modified(then).unwrap();
        };
        git(home, &["config", "core.trustctime", "false"]);
        git(home, &["config", "core.checkStat", "minimal"]);
        write(home, "quick.txt", "one\n");
        age("quick.txt");
        git(home, &["add", "quick.txt"]);
        git(home, &["commit", "-qm", "quick"]);
        // Saved again in the same moment, with the same size.
        write(home, "quick.txt", "two\n");
        age("quick.txt");
        age(".git/index");
    });
    write(&pair.there, "new.txt", "new\n");
    pair.there(&["add", "new.txt"]);
    pair.there(&["commit", "-qm", "new", "--", "new.txt"]);
    assert_eq!(pair.finish().state, CommitsState::Moved);
    assert_eq!(pair.here(&["status", "--porcelain"]), " M quick.txt");
}
