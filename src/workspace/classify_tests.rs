use proptest::prelude::*;

use super::*;
use crate::workspace::Node;
use crate::workspace::change::{ContentHash, LinkTarget};

fn policy() -> Policy {
    Policy::new(&[".vscode/tasks.json".into(), ".envrc".into(), ".claude/**".into()]).unwrap()
}

fn path(text: &str) -> RelPath {
    RelPath::new(text).unwrap()
}

fn file(content: &[u8], mode: u32) -> Arrived {
    Arrived::Node {
        new: NewNode {
            kind: NodeKind::File,
            executable: mode & 0o100 != 0,
            size: content.len() as u64,
            hash: Some(ContentHash(*blake3::hash(content).as_bytes())),
            offset: 512,
            target: None,
        },
        mode,
    }
}

fn link(target: &[u8]) -> Arrived {
    Arrived::Node {
        new: NewNode {
            kind: NodeKind::Link,
            executable: false,
            size: 0,
            hash: None,
            offset: 0,
            target: Some(LinkTarget(target.to_vec())),
        },
        mode: 0o777,
    }
}

fn directory() -> Arrived {
    Arrived::Node {
        new: NewNode {
            kind: NodeKind::Directory,
            executable: false,
            size: 0,
            hash: None,
            offset: 0,
            target: None,
        },
        mode: 0o755,
    }
}

fn sent(path_text: &str, arrived: &Arrived) -> (RelPath, Node) {
    let Arrived::Node { new, mode } = arrived else { panic!() };
    let node = Node {
        kind: new.kind,
        mode: *mode,
        size: new.size,
        mtime: (0, 0),
        ctime: (0, 0),
        dev: 0,
        ino: 0,
        hash: new.hash.map(|hash| hash.0),
        target: new.target.clone().map(|target| target.0),
    };
    (path(path_text), node)
}

fn classified(
    before: &[(&str, Arrived)],
    after: &[(&str, Arrived)],
    deleted: &[&str],
) -> ChangeSet {
    let snapshot = Snapshot {
        nodes: before.iter().map(|(p, arrived)| sent(p, arrived)).collect(),
        ..Snapshot::default()
    };
    let received = Received {
        entries: after.iter().map(|(p, arrived)| (path(p), arrived.clone())).collect(),
        deleted: deleted.iter().map(|p| path(p)).collect(),
        ..Received::default()
    };
    classify(&received, &snapshot, &policy())
}

#[test]
fn new_ignored_files_are_held_until_they_are_asked_for_by_path() {
    use crate::workspace::change::ChangesState;
    let new = [
        (".env", file(b"A=1", 0o644)),
        (".envrc", file(b"x", 0o644)),
        (".GIT", file(b"x", 0o644)),
        ("conf", directory()),
        ("conf/.env", file(b"B=1", 0o644)),
        ("src", directory()),
        ("src/.env", file(b"C=1", 0o644)),
        ("src/a", file(b"a", 0o644)),
    ];
    let received = Received {
        entries: new.iter().map(|(p, arrived)| (path(p), arrived.clone())).collect(),
        ignored: [".env", ".envrc", ".GIT", "conf/.env", "src/.env"].map(path).into(),
        ..Received::default()
    };
    let mut set = classify(&received, &Snapshot::default(), &policy());
    let holds = |set: &ChangeSet| -> Vec<(String, Option<Hold>)> {
        set.changes.iter().map(|change| (change.path.to_string(), change.hold)).collect()
    };
    let ignored = Some(Hold::Ignored);
    let told = |path: &str, hold| (path.to_owned(), hold);
    assert_eq!(
        holds(&set),
        [
            told(".GIT", Some(Hold::Never)),
            told(".env", ignored),
            told(".envrc", ignored),
            told("conf", ignored),
            told("conf/.env", ignored),
            told("src", None),
            told("src/.env", ignored),
            told("src/a", None),
        ]
    );
    assert!(set.changes[2].reason.as_deref().unwrap().contains("workspace.protect"));
    // Asked for by path: it comes, with the directory that it cannot be without.
    set.allow(&[path("conf/.env")]);
    let waiting: Vec<String> =
        set.changes.iter().filter(|c| c.is_waiting()).map(|c| c.path.to_string()).collect();
    assert_eq!(waiting, ["conf", "conf/.env", "src", "src/a"]);

    // They are no part of what the run changed.
    for change in set.changes.iter_mut().filter(|change| change.is_waiting()) {
        change.state = ChangeState::Applied;
    }
    set.changes.retain(|change| change.hold != Some(Hold::Never));
    assert_eq!(set.state(), ChangesState::Applied);
    set.changes.retain(|change| change.hold == ignored);
    assert_eq!(set.state(), ChangesState::None);
}

fn kinds(set: &ChangeSet) -> Vec<(String, ChangeKind, bool)> {
    set.changes.iter().map(|c| (c.path.to_string(), c.kind, c.hold.is_some())).collect()
}

#[test]
fn every_kind_of_change_is_told_apart() {
    use ChangeKind::{Added, Deleted, Directory, Link, Mode, Modified};
    let set = classified(
        &[
            ("touched", file(b"a", 0o644)),
            ("bits", file(b"a", 0o664)),
            ("changed", file(b"a", 0o644)),
            ("run", file(b"a", 0o644)),
            ("gone", file(b"a", 0o644)),
            ("dir", directory()),
            ("was-dir", directory()),
            ("was-dir/x", file(b"a", 0o644)),
            ("was-file", file(b"a", 0o644)),
            ("link", link(b"a")),
            ("same-link", link(b"a")),
        ],
        &[
            ("touched", file(b"a", 0o644)),
            ("bits", file(b"a", 0o600)),
            ("changed", file(b"b", 0o644)),
            ("run", file(b"a", 0o755)),
            ("dir", directory()),
            ("was-dir", file(b"a", 0o644)),
            ("was-file", directory()),
            ("was-file/y", file(b"a", 0o644)),
            ("link", link(b"b")),
            ("same-link", link(b"a")),
            ("new", file(b"a", 0o644)),
            ("new-dir/deep/z", file(b"a", 0o644)),
        ],
        &["gone"],
    );
    let expected: Vec<_> = [
        ("changed", Modified),
        ("gone", Deleted),
        ("link", Link),
        ("new", Added),
        ("new-dir", Directory),
        ("new-dir/deep", Directory),
        ("new-dir/deep/z", Added),
        ("run", Mode),
        ("was-dir", Modified),
        ("was-dir/x", Deleted),
        ("was-file", Directory),
        ("was-file/y", Added),
    ]
    .into_iter()
    .map(|(path, kind)| (path.to_owned(), kind, false))
    .collect();
    assert_eq!(kinds(&set), expected);
}

#[test]
fn what_lies_in_a_deleted_directory_is_deleted() {
    let set = classified(
        &[
            ("a", directory()),
            ("a.b", file(b"a", 0o644)),
            ("a/c", directory()),
            ("a/c/d", file(b"a", 0o644)),
            ("ab", file(b"a", 0o644)),
        ],
        &[],
        &["a"],
    );
    let paths: Vec<_> = set.changes.iter().map(|c| c.path.to_string()).collect();
    assert_eq!(paths, ["a", "a/c", "a/c/d"]);
    assert!(set.changes.iter().all(|c| c.kind == ChangeKind::Deleted));
}

#[test]
fn what_a_person_must_decide_is_held_with_its_reason() {
    for (name, arrived, hold, word) in [
        (".git/hooks/pre-commit", file(b"x", 0o755), Hold::Never, ".git"),
        ("sub/.GIT/config", file(b"x", 0o644), Hold::Never, ".git"),
        ("pipe", Arrived::Special, Hold::Never, "special file"),
        ("suid", file(b"x", 0o4755), Hold::Person, "setuid"),
        ("sgid", file(b"x", 0o2755), Hold::Person, "setgid"),
        (".envrc", file(b"x", 0o644), Hold::Person, "protected"),
        ("deep/.envrc", file(b"x", 0o644), Hold::Person, "protected"),
        (".VSCode/Tasks.json", file(b"x", 0o644), Hold::Person, "protected"),
        (".claude/settings.json", file(b"x", 0o644), Hold::Person, "protected"),
        ("abs", link(b"/etc/passwd"), Hold::Person, "absolute"),
        ("up", link(b"../x"), Hold::Person, "out of the workspace"),
        ("d/up", link(b"../../x"), Hold::Person, "out of the workspace"),
        ("d/trick", link(b"other/../../x"), Hold::Person, "up again"),
        ("into", link(b".git/hooks"), Hold::Person, "git's own"),
    ] {
        let set = classified(&[], &[(name, arrived)], &[]);
        let change = set.changes.iter().find(|c| c.path == path(name)).unwrap();
        assert_eq!(change.hold, Some(hold), "{name}");
        assert!(change.reason.as_ref().unwrap().contains(word), "{name}: {:?}", change.reason);
        assert!(!change.is_waiting());
    }
    let long = "n".repeat(256);
    let set = classified(&[], &[(&long, file(b"x", 0o644))], &[]);
    assert_eq!(set.changes[0].hold, Some(Hold::Never));
}

#[test]
fn links_inside_are_not_held() {
    for (name, target) in
        [("a", &b"b"[..]), ("a", b"./b/c"), ("d/a", b"../b"), ("d/e/a", b"../../b"), ("a", b"")]
    {
        assert_eq!(link_reason(&path(name), target), None);
    }
}

#[test]
fn a_new_repository_is_held_with_all_that_is_in_it() {
    let set = classified(
        &[("old", directory())],
        &[
            ("vendor", directory()),
            ("vendor/lib", directory()),
            ("vendor/lib/.git", directory()),
            ("vendor/lib/a.c", file(b"x", 0o644)),
            ("vendor/b.c", file(b"x", 0o644)),
            ("old/.git", directory()),
            ("old/c.c", file(b"x", 0o644)),
        ],
        &[],
    );
    let held: Vec<_> =
        set.changes.iter().filter(|c| c.hold.is_some()).map(|c| c.path.to_string()).collect();
    assert_eq!(held, ["old/.git", "vendor/lib", "vendor/lib/.git", "vendor/lib/a.c"]);
}

#[test]
fn what_lies_below_something_held_is_held() {
    let set = classified(
        &[("d", directory()), ("d/x", file(b"a", 0o644))],
        &[("d", Arrived::Special)],
        &["d/x"],
    );
    assert_eq!(
        kinds(&set),
        [
            ("d".to_owned(), ChangeKind::Modified, true),
            ("d/x".to_owned(), ChangeKind::Deleted, true)
        ]
    );
}

#[test]
fn every_spelling_of_git_is_known() {
    for name in [
        &b".git"[..],
        b".GIT",
        b".gIt",
        b".git.",
        b".git ",
        b".git. . ",
        b".git:stream",
        b".git::$INDEX_ALLOCATION",
        b"git~1",
        b"GIT~1",
        b"GIT~1 .",
        b"git~1:x",
        b"a\\.git",
        b".git\\hooks",
        b".g\xe2\x80\x8cit",
        b"\xef\xbb\xbf.git",
        b".gi\xe2\x80\xaet",
        b".git\xe2\x81\xaf",
    ] {
        assert!(is_git_name(name), "{:?}", name.escape_ascii());
    }
    for name in [
        &b".gitignore"[..],
        b".gitmodules",
        b".github",
        b"git",
        b"git~2",
        b".git-x",
        b"x.git",
        b".git.x",
        b".g\xe2\x80\x90it",
        b"",
    ] {
        assert!(!is_git_name(name), "{:?}", name.escape_ascii());
    }
}

proptest! {
    #[test]
    fn a_link_that_is_not_held_ends_inside(
        name in "[a-c](/[a-c]){0,3}", target in "(\\.\\./){0,3}[a-c./]{0,8}",
    ) {
        if link_reason(&path(&name), target.as_bytes()).is_none() {
            let mut depth = name.split('/').count() - 1;
            for part in target.split('/') {
                match part {
                    "" | "." => {}
                    ".." => {
                        prop_assert!(depth > 0);
                        depth -= 1;
                    }
                    _ => depth += 1,
                }
            }
            prop_assert!(!target.starts_with('/'));
        }
    }

    #[test]
    fn git_is_found_in_any_component(case in "[.][gG][iI][tT][. ]{0,3}", at in 0usize..3) {
        let mut parts = ["a", "b", "c"];
        parts[at] = &case;
        let set = classified(&[], &[(&parts.join("/"), file(b"x", 0o644))], &[]);
        prop_assert!(set.changes.iter().filter(|c| c.path.as_bytes().len() == case.len() + 4)
            .all(|c| c.hold == Some(Hold::Never)));
    }
}
