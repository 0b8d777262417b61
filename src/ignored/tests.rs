//! Every answer here is git's own: `git check-ignore` is asked the same questions.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use proptest::prelude::*;

use super::*;

/// A repository without the tester's own settings.
fn git(directory: &Path) -> Command {
    let mut command = Command::new("git");
    command
        .current_dir(directory)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_SYSTEM", "/dev/null")
        .env("HOME", directory);
    command
}

/// Makes the tree and asks git which of `paths` (directories end in `/`) it ignores.
fn ask_git(files: &[(&str, &str)], paths: &[String]) -> Vec<String> {
    let tree = tempfile::tempdir().unwrap();
    assert!(git(tree.path()).args(["init", "-q"]).status().unwrap().success());
    for path in paths {
        let full = tree.path().join(path.trim_end_matches('/'));
        if path.ends_with('/') {
            std::fs::create_dir_all(full).unwrap();
        } else {
            std::fs::create_dir_all(full.parent().unwrap()).unwrap();
            std::fs::write(full, "").unwrap();
        }
    }
    for (path, text) in files {
        std::fs::create_dir_all(tree.path().join(path).parent().unwrap()).unwrap();
        std::fs::write(tree.path().join(path), text).unwrap();
    }
    let mut asked = git(tree.path())
        .args(["check-ignore", "-z", "--stdin"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = Vec::new();
    for path in paths {
        input.extend_from_slice(path.trim_end_matches('/').as_bytes());
        input.push(0);
    }
    asked.stdin.take().unwrap().write_all(&input).unwrap();
    let output = asked.wait_with_output().unwrap();
    output
        .stdout
        .split(|byte| *byte == 0)
        .filter(|path| !path.is_empty())
        .map(|path| String::from_utf8(path.to_vec()).unwrap())
        .collect()
}

/// What the rules say, walking down as a walk of the tree does.
fn ask_rules(files: &[(&str, &str)], paths: &[String]) -> Vec<String> {
    let text_of = |path: String| {
        files.iter().rev().find(|(name, _)| *name == path).map(|(_, text)| text.as_bytes())
    };
    let excludes = text_of(".git/info/exclude".into());
    let top = Rules::new(excludes.as_slice()).enter(b"", text_of(".gitignore".into()));
    let mut ignored = Vec::new();
    for path in paths {
        let whole = path.trim_end_matches('/');
        let mut rules = top.clone();
        let ends = whole.match_indices('/').map(|(at, _)| at).chain([whole.len()]);
        for end in ends {
            let part = &whole[..end];
            let is_directory = end < whole.len() || path.ends_with('/');
            if rules.is_ignored(part.as_bytes(), is_directory) {
                ignored.push(whole.to_owned());
                break;
            }
            rules = rules.enter(part.as_bytes(), text_of(format!("{part}/.gitignore")));
        }
    }
    ignored
}

#[test]
fn a_table_of_patterns_has_the_answers_of_git() {
    let paths: Vec<String> = [
        "a",
        "b.log",
        "d/",
        "d/a",
        "d/b.log",
        "d/e/",
        "d/e/a",
        "d/e/f/g",
        "foo",
        "src/foo",
        "src/x/foo",
        "keep.log",
        "build/",
        "build/out.o",
        "build/keep.txt",
        "sp ",
        "#hash",
        "!bang",
        "x[1]",
        "x1",
        "deep/one/two/three",
        "target/",
        "sub/target/",
        "é",
        "back\\slash",
        "foobar/baz",
        "foo-x/bar",
        "a-b/c",
        "UPPER",
        "z9",
    ]
    .map(String::from)
    .to_vec();
    for text in [
        "*.log\n!keep.log\n",
        "d/\n",
        "/d\n",
        "d/*\n!d/e/\n",
        "/foo\n",
        "src/foo\n",
        "**/foo\n",
        "src/**/foo\n",
        "src/**\n",
        "build/\n!build/keep.txt\n",
        "build/*\n!build/keep.txt\n",
        "sp\\ \n",
        "sp \n",
        "\\#hash\n",
        "#hash\n",
        "\\!bang\n",
        "x[1]\n",
        "x\\[1\\]\n",
        "x[[:digit:]]\n",
        "x[!a-z]\n",
        "x[^a]\n",
        "deep/**/three\n",
        "deep/*/three\n",
        "deep/*/*/three\n",
        "target\n",
        "/target/\n",
        "target/\r\n",
        "**\n",
        "*\n!*/\n",
        "/*\n!/d\n",
        "\u{feff}a\n",
        "a",
        "a\\",
        "foo**/baz\n",
        "f*/bar\n",
        "[A-Z]*\n",
        "?9\n",
        "d/e/f/**\n",
        "**/e/**\n",
        "back\\\\slash\n",
        "é\n",
        "a/\n",
        "/\n",
        "!\n",
        "//\n",
        "[[:bogus:]]\n",
        "[\n",
        "d//a\n",
        "./a\n",
        "d/../a\n",
        "***/foo\n",
        "src/*foo\n",
        "d**a\n",
        "[]a]\n",
        "[a-\n",
        "[[:alpha:]-z]9\n",
        "[a\\-z]\n",
        "*[!o]\n",
        "d/?\n",
        "d?a\n",
    ] {
        let files = [(".gitignore", text)];
        assert_eq!(ask_rules(&files, &paths), ask_git(&files, &paths), "{text:?}");
    }
}

#[test]
fn deeper_files_win_over_higher_ones_and_all_over_info_exclude() {
    let paths: Vec<String> =
        ["a.x", "d/a.x", "d/b.x", "d/e/a.x", "d/e/only", "q", "d/q"].map(String::from).to_vec();
    let files = [
        (".git/info/exclude", "q\n*.x\n"),
        (".gitignore", "*.x\n!q\n"),
        ("d/.gitignore", "!a.x\n/e/only\nq\n"),
        ("d/e/.gitignore", "a.x\n"),
    ];
    assert_eq!(ask_rules(&files, &paths), ask_git(&files, &paths));
}

#[test]
fn nothing_in_an_ignored_directory_can_be_taken_back() {
    let paths: Vec<String> = ["d/", "d/a", "d/e/a"].map(String::from).to_vec();
    let files = [(".gitignore", "d/\n!d/a\n"), ("d/.gitignore", "!a\n!*\n")];
    assert_eq!(ask_rules(&files, &paths), ["d", "d/a", "d/e/a"]);
    assert_eq!(ask_git(&files, &paths), ["d", "d/a", "d/e/a"]);
}

#[test]
fn a_hostile_pattern_ends_soon() {
    let path = "a/".repeat(2000);
    for count in [10, 200, 300_000] {
        for part in ["**/a*", "**/", "*a*", "a*", "?*", "[a]*"] {
            let pattern = format!("/{}b", part.repeat(count));
            let rules = Rules::new(&[pattern.as_bytes()]);
            assert!(!rules.is_ignored(path.trim_end_matches('/').as_bytes(), true));
            assert!(!rules.is_ignored(&[b'a'; 4000], false));
        }
    }
}

#[test]
fn names_need_not_be_utf8() {
    let rules = Rules::new(&[&b"\xff*\n"[..]]);
    assert!(rules.is_ignored(b"\xff\xfe", false));
    assert!(!rules.is_ignored(b"\xfe", false));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]
    #[test]
    fn random_patterns_have_the_answers_of_git(
        top in proptest::collection::vec("!?/?[ab*?/\\[\\]\\\\!-]{1,7}", 1..5),
        inner in proptest::collection::vec("!?/?[ab*?/]{1,5}", 0..3),
        paths in proptest::collection::btree_set("[ab]{1,2}(/[ab]{1,2}){0,3}", 1..25),
    ) {
        // A name cannot be a file and a directory: what has something in it is a directory.
        let paths: Vec<String> = paths
            .iter()
            .map(|path| {
                let inside = format!("{path}/");
                if paths.iter().any(|other| other.starts_with(&inside)) { inside } else { path.clone() }
            })
            .collect();
        let top = top.join("\n") + "\n";
        let inner = inner.join("\n") + "\n";
        let mut files = vec![(".gitignore", &*top)];
        if paths.iter().any(|path| path.starts_with("a/")) {
            files.push(("a/.gitignore", &*inner));
        }
        prop_assert_eq!(ask_rules(&files, &paths), ask_git(&files, &paths), "{:?}", files);
    }
}
