//! Kinds of repositories.

use std::fs;

use super::{Host, LIMIT, git, noise, send_at, try_git};

#[test]
fn sha256_and_reftable() {
    for arguments in [&["--object-format=sha256"][..], &["--ref-format=reftable"]] {
        let probe = tempfile::tempdir().unwrap();
        let init = [&["init", "-q"], arguments].concat();
        if !try_git(probe.path(), &init).status.success() {
            eprintln!("skipped {arguments:?}: this git does not know it");
            continue;
        }
        let host = Host::new(arguments);
        host.grow(60);
        host.send().is_sound(50);
        host.commit("new", "new\n");
        host.write("staged", "s\n");
        host.git(&["add", "staged"]);
        host.send().is_sound(51);
    }
}

#[test]
fn a_detached_head_and_one_without_a_commit() {
    let host = Host::new(&[]);
    host.grow(60);
    host.git(&["checkout", "-q", "--detach", "HEAD~1"]);
    let sent = host.send();
    sent.is_sound(50);
    assert_eq!(sent.git(&["for-each-ref"]), "", "main is not in what goes");
    host.git(&["checkout", "-q", "--orphan", "fresh"]);
    let sent = host.send();
    assert_eq!(sent.cut().unwrap().commits, 0);
    let status = sent.git(&["status", "--porcelain"]);
    assert_eq!(status, host.git(&["status", "--porcelain"]));
    sent.git(&["commit", "-q", "-m", "from inside"]);
    let said = try_git(sent.path(), &["fsck", "--strict", "--no-dangling"]);
    assert!(said.status.success() && said.stdout.is_empty(), "{said:?}");
}

#[test]
fn a_worktree_a_submodule_and_gitlinks() {
    let host = Host::new(&[]);
    host.grow(60);
    let tree = host.home.path().join("linked");
    host.git(&["worktree", "add", "-q", "-b", "linked", tree.to_str().unwrap()]);
    send_at(&tree, &host.state(), LIMIT).is_sound(50);

    let outer = Host::new(&[]);
    outer.git(&["submodule", "add", "-q", host.path().to_str().unwrap(), "sub"]);
    outer.git(&["commit", "-q", "-m", "sub"]);
    outer.grow(60);
    let sent = outer.send();
    sent.is_sound(50);
    assert!(sent.git(&["ls-tree", "HEAD", "sub"]).starts_with("160000 commit"));
    send_at(&outer.path().join("sub"), &outer.state(), LIMIT).is_sound(50);
}

#[test]
fn alternates_and_a_clone_that_is_shallow() {
    let host = Host::new(&[]);
    host.grow(60);
    let home = tempfile::tempdir().unwrap();
    let source = host.path();
    let source = source.to_str().unwrap();
    let odd = home.path().join("a \"name\": with \\");
    git(home.path(), &["clone", "-q", "--shared", source, odd.to_str().unwrap()]);
    send_at(&odd, &home.path().join("state"), LIMIT).is_sound(50);
    fs::write(odd.join("new"), "n").unwrap();
    git(&odd, &["add", "new"]);
    send_at(&odd, &home.path().join("state"), LIMIT).is_sound(50);

    let shallow = home.path().join("shallow");
    let url = format!("file://{source}");
    git(home.path(), &["clone", "-q", "--depth", "9", &url, shallow.to_str().unwrap()]);
    fs::write(shallow.join("left"), noise(2 * LIMIT as usize)).unwrap();
    git(&shallow, &["hash-object", "-w", "left"]);
    let sent = send_at(&shallow, &home.path().join("state"), LIMIT);
    sent.is_sound(9);
    assert_eq!(sent.git(&["rev-parse", "--is-shallow-repository"]), "true\n");
}

#[test]
fn a_partial_clone_goes_whole_as_far_as_it_is_there() {
    let host = Host::new(&[]);
    host.grow(60);
    host.git(&["config", "uploadpack.allowFilter", "true"]);
    let home = tempfile::tempdir().unwrap();
    let partial = home.path().join("partial");
    let url = format!("file://{}", host.path().display());
    git(home.path(), &["clone", "-q", "--filter=blob:none", &url, partial.to_str().unwrap()]);
    let sent = send_at(&partial, &home.path().join("state"), 1);
    assert!(sent.cut().is_none());
    assert_eq!(sent.git(&["rev-list", "--count", "HEAD"]), "63\n");
    assert_eq!(sent.git(&["status", "--porcelain"]), "");
}

#[test]
fn what_stands_in_for_other_commits_does_not_count() {
    let host = Host::new(&[]);
    host.grow(60);
    let (head, old) = (host.git(&["rev-parse", "HEAD"]), host.git(&["rev-parse", "HEAD~58"]));
    host.git(&["replace", "--graft", head.trim(), old.trim()]);
    fs::write(
        host.path().join(".git/info/grafts"),
        format!("{} {}\n", host.git(&["rev-parse", "main~2"]).trim(), old.trim()),
    )
    .unwrap();
    host.send().is_sound(50);
}

#[test]
fn what_lacks_an_object_stays_home_and_says_why() {
    use mcp_codex_orchestrator::workspace::GitSent;
    let host = Host::new(&[]);
    host.grow(60);
    let blob = host.git(&["rev-parse", "HEAD:counter"]);
    let (folder, name) = blob.trim().split_at(2);
    let object = host.path().join(format!(".git/objects/{folder}/{name}"));
    fs::remove_file(object).unwrap();
    let sent = host.send();
    let GitSent::StayedHome(why) = &sent.snapshot.git else { panic!("{:?}", sent.snapshot.git) };
    assert!(why.contains("could not be packed"), "{why}");
    assert!(why.contains("workspace.history_limit"), "{why}");
    assert!(sent.path().join("counter").exists() && !sent.path().join(".git").exists());
    assert!(super::kept(&host.state()).is_empty());

    // An object that only the index names.
    let host = Host::new(&[]);
    host.grow(60);
    host.write("staged", "staged\n");
    host.git(&["add", "staged"]);
    let blob = host.git(&["rev-parse", ":staged"]);
    let (folder, name) = blob.trim().split_at(2);
    fs::remove_file(host.path().join(format!(".git/objects/{folder}/{name}"))).unwrap();
    let sent = host.send();
    assert!(matches!(&sent.snapshot.git, GitSent::StayedHome(_)), "{:?}", sent.snapshot.git);
}
