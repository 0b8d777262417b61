use std::fs;
use std::process::Command;

use super::*;
use crate::workspace::fixture::{Item, Place, Tree, file, path, tree};

fn patch_of(place: &Place, to: &Tree) -> Vec<u8> {
    let from = place.read();
    let (set, archive) = place.changes(&place.snapshot(), &from, to);
    let mut out = Vec::new();
    patch(&place.workspace, &set, &archive, &mut out).unwrap();
    out
}

#[test]
fn git_applies_the_patch_and_gets_the_same_tree() {
    let lines: String = (0..100).map(|n| format!("line {n}\n")).collect();
    let from = Tree::from([
        (path("text"), Item::File(lines.clone().into_bytes(), false)),
        (path("no newline"), file("a\nb")),
        (path("gone"), file("x\n")),
        (path("empty-gone"), file("")),
        (path("run"), file("x\n")),
        (path("both"), file("x\n")),
        (path("link"), Item::Link(b"text".into())),
        (path("to-link"), file("x\n")),
        (path(b"l\xfft in"), Item::File(b"caf\xe9\n".into(), false)),
        (path("dir"), Item::Dir),
        (path("dir/a"), file("x\n")),
        (path("crlf"), file("a\r\nb\r\n")),
    ]);
    let to = Tree::from([
        (
            path("text"),
            Item::File(
                lines.replace("line 50\n", "").replace("line 7\n", "seven\nhalf\n").into(),
                false,
            ),
        ),
        (path("no newline"), file("a\nc")),
        (path("run"), Item::File(b"x\n".into(), true)),
        (path("both"), Item::File(b"y\n".into(), true)),
        (path("link"), Item::Link(b"run".into())),
        (path("to-link"), Item::Link(b"run".into())),
        (path(b"l\xfft in"), Item::File(b"caf\xe8\n".into(), false)),
        (path("quo\"te\\\n\ttab"), file("x\n")),
        (path("empty-new"), file("")),
        (path("new/deep"), Item::File(b"#!\n".into(), true)),
        (path("new"), Item::Dir),
        (path("crlf"), file("a\r\nc\r\n")),
    ]);
    let place = Place::new(&from);
    let patch = patch_of(&place, &to);
    let file = place.dir.path().join("diff.patch");
    fs::write(&file, &patch).unwrap();
    let git = |args: &[&str]| {
        let output = Command::new("git")
            .args(args)
            .current_dir(&place.workspace.path)
            .env("GIT_CEILING_DIRECTORIES", place.dir.path())
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}\n{}",
            String::from_utf8_lossy(&output.stderr),
            String::from_utf8_lossy(&patch)
        );
    };
    git(&["apply", "--check", file.to_str().unwrap()]);
    git(&["apply", file.to_str().unwrap()]);
    let mut now = place.read();
    // git removes directories that became empty, and so does the change set.
    now.retain(|_, item| *item != Item::Dir);
    let mut expected = to;
    expected.retain(|_, item| *item != Item::Dir);
    assert_eq!(now, expected);
}

#[test]
fn what_is_not_compared_is_named() {
    let big = "x".repeat(1024 * 1024 + 1);
    let place = Place::new(&tree([
        ("bin", file("a\0b")),
        ("big", file("x")),
        ("moved", file("1")),
        ("d", Item::Dir),
    ]));
    let from = place.read();
    let to = tree([
        ("bin", file("a\0c")),
        ("big", file(&big)),
        ("moved", file("2")),
        (".git", Item::Dir),
        (".git/config", file("evil")),
    ]);
    let (set, archive) = place.changes(&place.snapshot(), &from, &to);
    fs::write(place.at("moved"), "user").unwrap();
    let mut out = Vec::new();
    patch(&place.workspace, &set, &archive, &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    for line in [
        "Binary files a/bin and b/bin differ",
        "Binary files a/big and b/big differ",
        "# what was sent is no longer on the host, so this is not compared",
        "# .git/config is held and not shown: a spelling of .git, which belongs to git alone",
        "# directory d is deleted",
    ] {
        assert!(text.lines().any(|l| l == line), "{line}\n{text}");
    }
    assert!(!text.contains("evil"));
}

#[test]
fn pages_end_at_lines_and_together_are_the_whole() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("text");
    let whole: String = (0..1000).map(|n| format!("line {n}\n")).collect();
    fs::write(&file, &whole).unwrap();
    let first = page(&file, 0, 100).unwrap();
    let mut read = String::new();
    for n in 0..first.pages {
        let page = page(&file, n, 100).unwrap();
        assert!(page.text.is_empty() || page.text.ends_with('\n'));
        read += &page.text;
    }
    assert_eq!(read, whole);
    assert_eq!(page(&file, first.pages, 100).unwrap().text, "");
    fs::write(&file, "").unwrap();
    assert_eq!(page(&file, 0, 100).unwrap(), Page { text: String::new(), pages: 1 });
}
