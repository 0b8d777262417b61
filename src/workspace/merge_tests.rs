use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use super::*;
use crate::workspace::fixture::{Item, Place, Tree, file, path, tree};

const BASE: &str = "one\ntwo\nthree\nfour\nfive\n";

fn git(place: &Place, arguments: &[&str]) {
    let ran = Command::new("git")
        .args(["-c", "user.name=T", "-c", "user.email=t@localhost", "-c", "safe.directory=*"])
        .args(arguments)
        .current_dir(&place.workspace.path)
        .output()
        .unwrap();
    assert!(ran.status.success(), "git {arguments:?}: {ran:?}");
}

/// A repository in which everything of `from` is committed, and a run that made `to` of it.
fn run(from: &Tree, to: &Tree) -> (Place, ChangeSet, std::path::PathBuf) {
    let place = Place::new(from);
    let (set, archive) = place.changes(&place.snapshot(), from, to);
    git(&place, &["init", "-q"]);
    git(&place, &["add", "-A"]);
    git(&place, &["commit", "-q", "-m", "first"]);
    (place, set, archive)
}

fn go(place: &Place, set: &mut ChangeSet, archive: &Path) -> Merges {
    merge(&place.workspace, set, &[], archive.parent().unwrap(), "r1").unwrap()
}

fn merged_text(set: &ChangeSet, archive: &Path, name: &str) -> String {
    let change = set.changes.iter().find(|change| change.path == path(name)).unwrap();
    let new = change.new.as_ref().unwrap();
    let mut bytes = vec![0; usize::try_from(new.size).unwrap()];
    File::open(archive).unwrap().read_exact_at(&mut bytes, new.offset).unwrap();
    assert_eq!(new.hash, Some(ContentHash(*blake3::hash(&bytes).as_bytes())));
    String::from_utf8(bytes).unwrap()
}

#[test]
fn changes_of_different_lines_are_merged_without_a_marker() {
    let from = tree([("a", file(BASE)), ("other", file("x"))]);
    let to = tree([("a", file("one\ntwo\nthree\nfour\n5\n")), ("other", file("y"))]);
    let (place, mut set, archive) = run(&from, &to);
    fs::write(place.at("a"), "1\ntwo\nthree\nfour\nfive\n").unwrap();
    let was = set.clone();
    let merges = go(&place, &mut set, &archive);
    assert_eq!(merges.merged.len(), 1);
    assert_eq!((&merges.merged[0].path, merges.merged[0].conflicts), (&path("a"), 0));
    assert_eq!(merged_text(&set, &archive, "a"), "1\ntwo\nthree\nfour\n5\n");
    let change = &set.changes[0];
    let HostNow::Node(now) = Host::of(&place.workspace).look(&path("a")).unwrap() else {
        panic!("gone");
    };
    assert_eq!(
        decide(Some(&now), change.new.as_ref(), &HostNow::Node(now.clone())),
        Decision::Apply
    );
    assert_eq!(change.base.as_ref(), Some(&now));
    assert!(!archive.parent().unwrap().join("merge").exists());
    // What is not applied is as if nobody had merged it.
    assert!(merges.put_back(&mut set));
    assert_eq!(set, was);
}

#[test]
fn changes_of_the_same_lines_are_marked_and_counted() {
    let between = "two\nthree\nfour\nfive\nsix\nseven\neight\n";
    let text = |first: &str, last: &str| format!("{first}\n{between}{last}\n");
    let from = tree([("a", file(&text("one", "nine")))]);
    let to = tree([("a", file(&text("ONE", "NINE")))]);
    let (place, mut set, archive) = run(&from, &to);
    fs::write(place.at("a"), text("uno", "nove")).unwrap();
    let merges = go(&place, &mut set, &archive);
    assert_eq!(merges.merged[0].conflicts, 2);
    let text = merged_text(&set, &archive, "a");
    for part in ["<<<<<<< workspace\nuno\n", "ONE\n>>>>>>> codex run r1\n", "nove", "NINE"] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn the_base_is_found_in_history_after_the_user_committed() {
    let from = tree([("d/a", file(BASE))]);
    let to = tree([("d/a", file("one\ntwo\nthree\nfour\n5\n"))]);
    let (place, mut set, archive) = run(&from, &to);
    fs::write(place.at("d/a"), "1\ntwo\nthree\nfour\nfive\n").unwrap();
    git(&place, &["commit", "-qam", "second"]);
    assert_eq!(go(&place, &mut set, &archive).merged[0].conflicts, 0);
    assert_eq!(merged_text(&set, &archive, "d/a"), "1\ntwo\nthree\nfour\n5\n");
}

#[test]
fn only_text_with_a_base_that_git_has_is_merged() {
    let from = tree([
        ("binary", Item::File(b"a\0b".to_vec(), false)),
        ("deleted-by-codex", file("x\n")),
        ("deleted-here", file("x\n")),
        ("link", file("x\n")),
        ("uncommitted", file("x\n")),
    ]);
    let to = tree([
        ("added", file("theirs\n")),
        ("binary", Item::File(b"a\0c".to_vec(), false)),
        ("deleted-here", file("y\n")),
        ("link", Item::Link(b"binary".to_vec())),
        ("uncommitted", file("y\n")),
    ]);
    let (place, mut set, archive) = run(&from, &to);
    // Sent as it was on the disk, which is not what git has.
    let sent = tree([("uncommitted", file("q\n"))]);
    let base = crate::workspace::fixture::snapshot(&sent);
    let uncommitted =
        set.changes.iter_mut().find(|change| change.path == path("uncommitted")).unwrap();
    uncommitted.base = Some(BaseNode::from(base.nodes.get(path("uncommitted")).unwrap()));
    for (name, text) in [
        ("added", "mine\n"),
        ("binary", "a\0d"),
        ("deleted-by-codex", "z\n"),
        ("link", "z\n"),
        ("uncommitted", "z\n"),
    ] {
        fs::write(place.at(name), text).unwrap();
    }
    fs::remove_file(place.at("deleted-here")).unwrap();
    let was = set.clone();
    let merges = go(&place, &mut set, &archive);
    assert!(merges.merged.is_empty());
    assert_eq!(set, was);
    let refused: Vec<(&str, &str)> =
        merges.refused.iter().map(|(path, why)| (path.as_str(), *why)).collect();
    assert_eq!(
        refused,
        [
            ("added", "one side has no file there"),
            ("binary", "it is no text"),
            ("deleted-by-codex", "one side has no file there"),
            ("deleted-here", "one side has no file there"),
            ("link", "one side has something other than a file there"),
            ("uncommitted", "git has no version of it with the bytes that were sent"),
        ]
    );
}

#[test]
fn neither_filters_nor_hooks_nor_drivers_of_the_repository_run() {
    let from = tree([("a", file(BASE)), (".gitattributes", file("a filter=f diff=f merge=f\n"))]);
    let mut to = from.clone();
    to.insert(path("a"), file("one\ntwo\nthree\nfour\n5\n"));
    let (place, mut set, archive) = run(&from, &to);
    let mark = place.dir.path().join("ran");
    let program = format!("sh -c 'touch {}; cat'", mark.display());
    for key in [
        "filter.f.clean",
        "filter.f.smudge",
        "diff.f.textconv",
        "diff.f.command",
        "merge.f.driver",
        "core.fsmonitor",
        "core.pager",
    ] {
        git(&place, &["config", key, &program]);
    }
    fs::write(place.at("a"), "1\ntwo\nthree\nfour\nfive\n").unwrap();
    assert_eq!(go(&place, &mut set, &archive).merged.len(), 1);
    assert!(!mark.exists());
}

#[test]
fn the_executable_bit_is_merged_too() {
    let from = tree([("a", file(BASE))]);
    let to = tree([("a", file("one\ntwo\nthree\nfour\n5\n"))]);
    let (place, mut set, archive) = run(&from, &to);
    fs::write(place.at("a"), "1\ntwo\nthree\nfour\nfive\n").unwrap();
    fs::set_permissions(place.at("a"), fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(go(&place, &mut set, &archive).merged.len(), 1);
    assert!(set.changes[0].new.as_ref().unwrap().executable);
}
