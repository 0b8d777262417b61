//! What goes, and what goes again.

use std::fs;

use super::{Host, LIMIT, git, kept, noise};

#[test]
fn the_last_fifty_commits_go_and_the_result_says_so() {
    let host = Host::new(&[]);
    host.grow(60);
    host.git(&["tag", "here"]);
    host.git(&["tag", "within", "HEAD~10"]);
    host.git(&["tag", "old", "HEAD~55"]);
    host.git(&["branch", "side", "HEAD~3"]);
    let sent = host.send();
    sent.is_sound(50);
    assert_eq!(sent.git(&["rev-parse", "--is-shallow-repository"]), "true\n");
    assert_eq!(sent.git(&["rev-parse", "HEAD"]), host.git(&["rev-parse", "HEAD"]));
    assert_eq!(sent.git(&["tag"]), "here\nwithin\n");
    assert_eq!(sent.git(&["branch", "--format=%(refname:short)"]), "main\nside\n");
    assert_eq!(sent.git(&["status", "--porcelain"]), "");
    assert_eq!(sent.git(&["diff", "HEAD~1", "--name-only"]), "counter\n");
    let notes = sent.snapshot.notes();
    assert!(notes[0].contains("only the last 50 commits went"), "{notes:?}");
    assert!(notes[0].contains("workspace.history_limit (256.0 KiB)"), "{notes:?}");
    let base = sent.snapshot.git_base.unwrap();
    assert!(base.cut && !base.refs.contains_key("refs/tags/old"), "{base:?}");
    assert_eq!(base.refs.len(), 4);
}

#[test]
fn what_is_within_the_limit_goes_whole_and_nothing_is_kept_of_it() {
    let host = Host::new(&[]);
    host.grow(3);
    host.send().is_sound(1);
    assert_eq!(kept(&host.state()).len(), 2);
    for limit in [0, 1 << 30] {
        host.send();
        assert!(host.send_below(limit).cut().is_none());
        assert_eq!(kept(&host.state()).len(), 0);
    }
}

#[test]
fn fifty_that_are_too_large_become_one() {
    let host = Host::new(&[]);
    host.grow(1);
    let sent = host.send();
    sent.is_sound(1);
    assert_eq!(sent.git(&["log", "--format=%s"]), "counter\n");
    // Also where the tree alone is over the limit.
    host.commit("large", noise(2 * LIMIT as usize));
    let again = Host { home: host.home };
    fs::remove_dir_all(again.state()).unwrap();
    let sent = again.send();
    sent.is_sound(1);
    assert_eq!(sent.git(&["status", "--porcelain"]), "");
}

#[test]
fn the_next_time_nothing_is_made_again() {
    let host = Host::new(&[]);
    host.grow(60);
    let first = host.send();
    let files = kept(&host.state());
    let again = host.send();
    assert_eq!(kept(&host.state()), files);
    assert_eq!(again.packs(), first.packs());
    again.is_sound(50);
    // Nor when HEAD goes back to what is there.
    host.git(&["reset", "-q", "--hard", "HEAD~4"]);
    host.send().is_sound(46);
    assert_eq!(kept(&host.state()), files);
}

#[test]
fn a_new_commit_and_what_is_staged_add_a_small_pack() {
    let host = Host::new(&[]);
    host.commit("big", noise(LIMIT as usize / 2));
    host.grow(60);
    host.send().is_sound(50);
    let before = kept(&host.state());
    host.commit("new", "new\n");
    let sent = host.send();
    sent.is_sound(51);
    let after = kept(&host.state());
    assert!(before.iter().all(|(path, was)| after.get(path) == Some(was)), "{before:?} {after:?}");
    assert_eq!((before.len(), after.len()), (2, 4));
    let added: u64 =
        after.iter().filter(|(path, _)| !before.contains_key(*path)).map(|(_, at)| at.1).sum();
    assert!(added < 8 << 10, "{added}");

    host.write("staged", "staged\n");
    host.git(&["add", "staged"]);
    let sent = host.send();
    sent.is_sound(51);
    assert_eq!(sent.git(&["status", "--porcelain"]), "A  staged\n");
    assert_eq!(sent.git(&["show", ":staged"]), "staged\n");
    assert_eq!(kept(&host.state()).len(), 6);
    host.git(&["commit", "-q", "-m", "staged"]);
    host.send().is_sound(52);
}

#[test]
fn many_small_packs_become_one_again() {
    let host = Host::new(&[]);
    host.grow(60);
    let mut most = 0;
    for number in 0..20 {
        host.commit("new", format!("new {number}\n"));
        host.send();
        most = most.max(kept(&host.state()).len());
    }
    assert!((16..=32).contains(&most), "{most}");
    assert!(kept(&host.state()).len() < most);
    let sent = host.send();
    let count = sent.git(&["rev-list", "--count", "HEAD"]);
    sent.is_sound(count.trim().parse().unwrap());
}

#[test]
fn a_branch_from_before_what_is_there_does_not_bring_all_of_it() {
    let host = Host::new(&[]);
    host.grow(120);
    host.send().is_sound(50);
    host.git(&["checkout", "-q", "-b", "old", "HEAD~100"]);
    host.commit("on old", "x\n");
    let sent = host.send();
    // Of 24 commits one holds the large blob: it is over the limit, and is packed anew.
    assert!(sent.cut().unwrap().commits >= 1);
    assert_eq!(sent.git(&["log", "-1", "--format=%s"]), "on old\n");
    let said = super::try_git(sent.path(), &["fsck", "--strict", "--no-dangling"]);
    assert!(said.status.success(), "{said:?}");
}

#[test]
fn merges_conflicts_and_commits_that_were_amended() {
    let host = Host::new(&[]);
    host.grow(60);
    host.git(&["checkout", "-q", "-b", "side", "HEAD~5"]);
    host.commit("counter", "side\n");
    host.commit("other", "side\n");
    host.git(&["checkout", "-q", "main"]);
    let merged = super::try_git(&host.path(), &["merge", "-q", "side"]);
    assert!(!merged.status.success());
    // All sides of the conflict are there.
    let sent = host.send();
    sent.is_sound(50);
    assert_eq!(sent.git(&["status", "--porcelain"]), host.git(&["status", "--porcelain"]));
    assert_eq!(sent.git(&["show", ":3:counter"]), "side\n");
    host.write("counter", "solved\n");
    host.git(&["add", "-A"]);
    host.git(&["commit", "-q", "-m", "merged"]);
    host.send().is_sound(53);
    host.git(&["commit", "-q", "--amend", "-m", "merged again"]);
    host.send().is_sound(53);
    fs::remove_dir_all(host.state()).unwrap();
    let sent = host.send();
    assert_eq!(sent.git(&["log", "-1", "--format=%P"]), host.git(&["log", "-1", "--format=%P"]));
    let count = sent.git(&["rev-list", "--count", "HEAD"]);
    sent.is_sound(count.trim().parse().unwrap());
}

#[test]
fn what_is_kept_is_not_believed_when_it_is_damaged_or_of_another_repository() {
    let host = Host::new(&[]);
    host.grow(60);
    host.send();
    for damage in ["pack", "kept.json"] {
        let key = fs::read_dir(host.state().join("history")).unwrap();
        let folder = key.map(|at| at.unwrap().path()).find(|at| !at.ends_with("locks")).unwrap();
        match damage {
            "pack" => fs::remove_file(kept(&host.state()).keys().next().unwrap()).unwrap(),
            file => fs::write(folder.join(file), "{").unwrap(),
        }
        host.send().is_sound(50);
    }
    // Another repository in the same place, and commits of the old one must not go with it.
    let old = host.git(&["rev-parse", "HEAD"]);
    fs::remove_dir_all(host.path().join(".git")).unwrap();
    git(&host.path(), &["init", "-q", "-b", "main"]);
    host.commit("other", "other\n");
    host.grow(60);
    let sent = host.send();
    sent.is_sound(50);
    assert!(!super::try_git(sent.path(), &["cat-file", "-e", old.trim()]).status.success());
}
