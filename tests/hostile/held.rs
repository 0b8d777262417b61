//! What a person must decide first, looked at as somebody would who wants it applied without being
//! asked: in one step or in two.

use std::fs;

use mcp_codex_orchestrator::workspace::change::{ChangeKind, ChangeState, Hold};

use super::place::{Place, Run};
use super::tar::Tar;

fn held(run: &Run, path: &str, hold: Hold, word: &str) {
    let change = run.change(path);
    assert_eq!(change.hold, Some(hold), "{path} in {:?}", run.set);
    assert_eq!(change.state, ChangeState::Held);
    let reason = change.reason.as_deref().unwrap_or_default();
    assert!(reason.contains(word), "{path}: {reason}");
}

#[test]
fn protected_files_by_every_name_that_some_file_system_takes_for_theirs() {
    for path in [
        &b".envrc"[..],
        b"sub/.envrc",
        b".vscode/tasks.json",
        b"packages/web/.vscode/tasks.json",
        b".VSCODE/Tasks.JSON",
        b".claude/settings.json",
        b".claude/hooks/deep/run.sh",
        b"sub/.claude/settings.json",
        b".husky/pre-commit",
        b".vscode./tasks.json",
        b".vscode/tasks.json.",
        b".vscode/tasks.json . ",
        b".vscode/tasks.json::$DATA",
        b".vscode\\tasks.json",
        b".vs\xe2\x80\x8ccode/tasks.json",
        b".v\xc5\xbfcode/ta\xc5\xbfk\xc5\xbf.json",
        b".hus\xe2\x84\xaay/pre-commit",
        b".ENVRC ",
    ] {
        let place = Place::new();
        let run = place.play(&Tar::default().file(path, b"evil").end(&[])).unwrap();
        assert!(!run.held().is_empty() && run.waiting().is_empty(), "{}", path.escape_ascii());
        assert!(place.tree().is_empty(), "{}", path.escape_ascii());
    }
    let place = Place::new();
    let other = Tar::default().file(".vscode/notes.md", b"x").file("vscode/tasks.json", b"x");
    let run = place.play(&other.file("a.envrc", b"x").end(&[])).unwrap();
    assert_eq!(run.held(), Vec::<String>::new());
}

#[test]
fn a_protected_file_is_neither_removed_nor_made_executable() {
    let place = Place::new();
    place.write(".vscode/tasks.json", "mine").write(".envrc", "mine").write("d/x", "x");
    let before = place.tree();
    let run =
        place.play(&Tar::default().end(&[".vscode/tasks.json", ".vscode", ".envrc"])).unwrap();
    held(&run, ".vscode/tasks.json", Hold::Person, "protected");
    held(&run, ".envrc", Hold::Person, "protected");
    assert_eq!(place.tree(), before);
    let run = place.play(&Tar::default().node(b".envrc", b'0', 0o755, b"mine", b"").end(&[]));
    let run = run.unwrap();
    assert_eq!(run.change(".envrc").kind, ChangeKind::Mode);
    held(&run, ".envrc", Hold::Person, "protected");
    assert_eq!(place.tree(), before);
}

#[test]
fn a_directory_with_protected_files_is_not_replaced() {
    let place = Place::new();
    place.write(".vscode/tasks.json", "mine").write("evil/tasks.json", "planted earlier");
    let before = place.tree();
    let link = Tar::default().link(".vscode", "evil").end(&[]);
    let run = place.play(&link).unwrap();
    held(&run, ".vscode", Hold::Person, "protected");
    held(&run, ".vscode/tasks.json", Hold::Person, "");
    let run =
        place.play(&Tar::default().file(".vscode", b"file").file("b", b"b").end(&[])).unwrap();
    held(&run, ".vscode", Hold::Person, "something in the directory");
    assert_eq!(run.waiting(), Vec::<String>::new());
    assert_eq!(run.change("b").state, ChangeState::Applied, "the rest is applied");
    fs::remove_file(place.at("b")).unwrap();
    assert_eq!(place.tree(), before);
}

#[test]
fn a_link_where_a_protected_directory_would_be_is_held_before_there_is_one() {
    for name in [".vscode", ".CLAUDE", "sub/.cursor", ".husky", ".gemini.", ".codex"] {
        let place = Place::new();
        let tar = Tar::default().file("evil/tasks.json", b"x").file("sub/evil/x", b"x");
        let run = place.play(&tar.link(name, "evil").end(&[])).unwrap();
        held(&run, name, Hold::Person, "protected");
        assert!(fs::symlink_metadata(place.at(name)).is_err());
    }
}

#[test]
fn links_that_lead_out_by_themselves_or_by_others() {
    let place = Place::new();
    place.write("d/e/f", "f").link("mine", place.outside()).link("d/e/up", "../..");
    for (path, target, word) in [
        ("a", "/etc/passwd", "absolute"),
        ("a", "//etc", "absolute"),
        ("a", "..", "out of the workspace"),
        ("d/a", "../../outside", "out of the workspace"),
        ("a", "d/../../outside", "up again"),
        ("a", "mine/secret", "through another one"),
        ("a", "mine", "through another one"),
        ("d/a", "e/up/mine/secret", "through another one"),
        ("a", ".git/config", "git's own"),
        ("a", ".GIT", "git's own"),
        ("a", "d/GIT~1/hooks", "git's own"),
        ("a", "d\\.git", "git's own"),
        ("a", ".g\u{200c}it/hooks", "git's own"),
        ("a", ".git::$INDEX_ALLOCATION/x", "git's own"),
    ] {
        let run = place.play(&Tar::default().link(path, target).end(&[])).unwrap();
        held(&run, path, Hold::Person, word);
        assert!(fs::symlink_metadata(place.at(path)).is_err(), "{target}");
    }
    for (path, target) in [("a", "d/e/f"), ("d/b", "e/up"), ("d/c", "../d/e"), ("x", "none/yet")] {
        let run = place.play(&Tar::default().link(path, target).end(&[])).unwrap();
        assert_eq!(run.held(), Vec::<String>::new(), "{path} {target}");
    }
}

#[test]
fn links_of_one_change_set_that_lead_out_together() {
    let place = Place::new();
    let tar = Tar::default()
        .directory("d")
        .link("one", "/")
        .link("two", "one/etc/passwd")
        .link("three", "two")
        .link("d/up", "..")
        .link("deep", "d/up/d/up/one");
    let run = place.play(&tar.end(&[])).unwrap();
    assert_eq!(run.held(), ["deep", "one", "three", "two"]);
    assert_eq!(fs::read_link(place.at("d/up")).unwrap().to_str(), Some(".."));
    // A way of more links than any kernel follows leads nowhere, and takes no time.
    let mut tar = Tar::default();
    for n in 0..200 {
        tar = tar.link(format!("l{n}"), format!("l{}/l{}", n + 1, n + 1));
    }
    assert_eq!(place.play(&tar.end(&[])).unwrap().held(), Vec::<String>::new());
}

#[test]
fn links_that_lead_out_where_the_host_knows_no_case() {
    let place = Place::new();
    place.write("d/e/f", "f").link("Mine", place.outside()).link("d/Up", "..");
    for (path, target) in [
        ("a", "mine/secret"),
        ("a", "MINE"),
        ("D/a", "uP/mINE/secret"),
        ("d/e/a", "../../d/up/mine"),
    ] {
        let run = place.play(&Tar::default().link(path, target).end(&[])).unwrap();
        assert!(run.held().contains(&path.to_owned()), "{path} {target}");
    }
    // Which of the two it leads through, only the host knows.
    let both = Tar::default().link("mine", "d").link("a", "mine/e");
    assert_eq!(place.play(&both.end(&[])).unwrap().held(), ["a"]);
    place.link("Ärger", place.outside());
    let run = place.play(&Tar::default().link("b", "ärger/x").end(&[])).unwrap();
    held(&run, "b", Hold::Person, "through another one");
}

#[test]
fn two_runs_do_not_do_what_one_may_not() {
    let place = Place::new();
    place.write("real/f", "f");
    // A link inwards is applied, and the next run cannot write through it.
    place.play(&Tar::default().link("dir", "real").end(&[])).unwrap();
    let tree = place.tree();
    assert!(place.play(&Tar::default().file("dir/f", b"through").end(&[])).is_err());
    assert_eq!(place.tree(), tree);
    // A link to nothing is applied; what would make it lead out is held in its turn.
    place.play(&Tar::default().link("later", "not-yet/secret").end(&[])).unwrap();
    let run = place.play(&Tar::default().link("not-yet", "../outside").end(&[])).unwrap();
    held(&run, "not-yet", Hold::Person, "out of the workspace");
    let run = place.play(
        &Tar::default().link("not-yet", place.outside().as_os_str().as_encoded_bytes()).end(&[]),
    );
    held(&run.unwrap(), "not-yet", Hold::Person, "absolute");
    // The pieces of a repository, one by one.
    place.play(&Tar::default().file("repo/HEAD", b"ref: refs/heads/main\n").end(&[])).unwrap();
    place.play(&Tar::default().file("repo/objects/pack/x", b"").end(&[])).unwrap();
    place.play(&Tar::default().file("repo/config", b"[core]\nfsmonitor=id\n").end(&[])).unwrap();
    let run = place.play(&Tar::default().directory("repo/refs").end(&[])).unwrap();
    held(&run, "repo/refs", Hold::Person, "bare repository");
}

#[test]
fn a_link_that_the_user_made_meanwhile_is_not_written_through() {
    let place = Place::new();
    place.write("d/f", "old");
    let sent = place.snapshot();
    fs::rename(place.at("d"), place.at("aside")).unwrap();
    place.link("d", place.outside());
    let before = place.tree();
    let tar = Tar::default().file("d/f", b"new").file("d/added", b"x").end(&[]);
    let run = place.play_on(&tar, &sent).unwrap();
    assert!(run.set.changes.iter().all(|change| change.state == ChangeState::Held));
    assert_eq!(place.tree(), before);
    // Nor one that was never sent, where the change set wants a directory.
    let run = place.play_on(&Tar::default().file("d2/f", b"x").end(&[]), &sent).unwrap();
    assert_eq!(run.change("d2/f").state, ChangeState::Applied);
    let place = Place::new();
    let sent = place.snapshot();
    place.link("hidden", place.outside());
    let run = place.play_on(&Tar::default().file("hidden/f", b"x").end(&[]), &sent).unwrap();
    assert_eq!(run.change("hidden/f").state, ChangeState::Held);
}

#[test]
fn special_files_and_bits() {
    let place = Place::new();
    place.write("f", "same");
    let tar = Tar::default()
        .node(b"hard", b'1', 0o644, b"", b"/etc/passwd")
        .node(b"char", b'3', 0o666, b"", b"")
        .node(b"block", b'4', 0o666, b"", b"")
        .node(b"fifo", b'6', 0o644, b"", b"")
        .node(b"f", b'0', 0o4644, b"same", b"")
        .node(b"suid", b'0', 0o4755, b"x", b"")
        .node(b"sgid", b'0', 0o2755, b"x", b"")
        .node(b"sticky", b'0', 0o1755, b"x", b"")
        .node(b"fine", b'0', 0o755, b"x", b"");
    let run = place.play(&tar.end(&[])).unwrap();
    for path in ["hard", "char", "block", "fifo"] {
        held(&run, path, Hold::Never, "special file");
    }
    held(&run, "f", Hold::Never, "never applied");
    for path in ["suid", "sgid", "sticky"] {
        held(&run, path, Hold::Person, "never applied");
    }
    assert_eq!(place.tree().len(), 2, "f and fine");
    // In the place of a file it stays the file.
    let run = place.play(&Tar::default().node(b"f", b'6', 0o644, b"", b"").end(&[])).unwrap();
    held(&run, "f", Hold::Never, "special file");
    assert_eq!(fs::read(place.at("f")).unwrap(), b"same");
}

#[test]
fn repositories_in_the_tree() {
    let place = Place::new();
    place.write("old/x", "x");
    let tar = Tar::default()
        .file("lib/.git/config", b"[core]\nfsmonitor=id\n")
        .file("lib/a.c", b"x")
        .file("sub/.git", b"gitdir: ../elsewhere\n")
        .file("sub/b.c", b"x")
        .file("old/.GIT/config", b"x")
        .file("old/y", b"y");
    let run = place.play(&tar.end(&[])).unwrap();
    held(&run, "lib/.git/config", Hold::Never, ".git");
    held(&run, "lib/a.c", Hold::Person, "embedded repository");
    held(&run, "sub/b.c", Hold::Person, "embedded repository");
    held(&run, "old/.GIT/config", Hold::Never, ".git");
    assert_eq!(run.waiting(), Vec::<String>::new());
    assert_eq!(run.change("old/y").state, ChangeState::Applied);
    let run = place.play(&Tar::default().file(".git/hooks/pre-commit", b"x").end(&[])).unwrap();
    held(&run, ".git/hooks/pre-commit", Hold::Never, ".git");
}

#[test]
fn bare_repositories_in_the_tree() {
    let bare = |at: &str| {
        Tar::default()
            .file(format!("{at}HEAD"), b"ref: refs/heads/main\n")
            .file(format!("{at}config"), b"[core]\nfsmonitor=id\n")
            .directory(format!("{at}objects"))
            .file(format!("{at}refs/heads/main"), b"x")
            .file(format!("{at}hooks/post-index-change"), b"id")
            .file(format!("{at}readme"), b"x")
    };
    for at in ["", "a/", "deep/er/"] {
        let place = Place::new();
        let run = place.play(&bare(at).end(&[])).unwrap();
        for name in ["HEAD", "config", "objects", "refs", "hooks/post-index-change"] {
            held(&run, &format!("{at}{name}"), Hold::Person, "bare repository");
        }
        assert_eq!(run.change(&format!("{at}readme")).state, ChangeState::Applied);
        assert!(!place.at(format!("{at}HEAD")).exists());
    }
    // One by another directory's objects, one in another case, and parts of one that was there.
    let place = Place::new();
    place.write("mine/HEAD", "x").write("mine/objects/x", "").write("mine/refs/x", "");
    place.write("mine/hooks/x.sample", "");
    let tar = Tar::default()
        .file("c/HEAD", b"ref: refs/heads/main\n")
        .file("c/commondir", b"../mine")
        .file("d/head", b"x")
        .directory("d/OBJECTS")
        .directory("d/Refs")
        .file("mine/config", b"[core]\nfsmonitor=id\n")
        .file("mine/hooks/pre-commit", b"id");
    let run = place.play(&tar.end(&[])).unwrap();
    for path in ["c/HEAD", "c/commondir", "d/head", "mine/config", "mine/hooks/pre-commit"] {
        held(&run, path, Hold::Person, "");
    }
    // What only looks a little like one is nothing.
    let run =
        place.play(&Tar::default().file("src/objects/a", b"").file("src/config", b"").end(&[]));
    assert_eq!(run.unwrap().held(), Vec::<String>::new());
}
