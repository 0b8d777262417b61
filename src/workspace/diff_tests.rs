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

/// A change set of so many new files of `text`.
fn many(count: usize, text: &str) -> (Place, ChangeSet, std::path::PathBuf) {
    let place = Place::new(&Tree::new());
    let to: Tree = (0..count).map(|n| (path(format!("f{n:05}")), file(text))).collect();
    let (set, archive) = place.changes(&place.snapshot(), &Tree::new(), &to);
    (place, set, archive)
}

#[test]
fn a_patch_is_cut_between_files_and_says_so() {
    let (place, set, archive) = many(100, "text\n");
    let cut_at = |bytes, time| {
        let file = place.dir.path().join("diff.patch");
        let out = File::create(&file).unwrap();
        patch_within(Most { bytes, time }, &place.workspace, &set, &archive, out).unwrap();
        let text = fs::read_to_string(&file).unwrap();
        (text.matches("+text\n").count(), not_shown(&file).unwrap(), file)
    };
    let hour = Duration::from_secs(3600);
    assert_eq!(cut_at(u64::MAX, hour).1, None);
    assert_eq!(cut_at(u64::MAX, Duration::ZERO).1, Some(100));
    let whole = fs::metadata(cut_at(u64::MAX, hour).2).unwrap().len();
    let (shown, left, file) = cut_at(whole / 2, hour);
    assert_eq!(left, Some(100 - shown));
    assert!((50..=52).contains(&shown), "{shown}");
    assert_eq!(cut_at(whole, hour).1, None, "all of it is within");
    let _ = cut_at(whole / 2, hour);
    // What is asked for by path has no line of its own about it.
    assert_eq!(page_of(&file, &[path("f00099")], 0, 1 << 20).unwrap().text, "");
    let last = page(&file, 0, 1 << 20).unwrap().text;
    assert!(last.ends_with(&cut_line(100 - shown)), "{last}");
}

#[test]
fn no_name_of_a_file_looks_like_the_mark_of_a_cut() {
    let name = "diff cut: 7 more changes are not shown";
    let place = Place::new(&tree([(name, Item::Dir)]));
    let text = patch_of(&place, &Tree::new());
    let file = place.dir.path().join("diff.patch");
    fs::write(&file, text).unwrap();
    assert_eq!(not_shown(&file).unwrap(), None);
}

#[test]
fn the_worst_files_take_a_bounded_time() {
    // Nothing in common, and as many lines as are compared.
    let lines = |word: &str| {
        (0..MAX_LINES).map(|n| format!("{word}{}\n", n * 7919 % 99_991)).collect::<String>()
    };
    let (old, new) = (lines("a"), lines("b"));
    let started = Instant::now();
    let mut out = Vec::new();
    hunks(&mut out, b"a/x", b"b/x", old.as_bytes(), new.as_bytes(), SEARCH).unwrap();
    eprintln!("{:?} for {} lines each", started.elapsed(), MAX_LINES);
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert!(matches!(of_text(vec![b'\n'; MAX_LINES + 1]), Content::Large));
}
