//! What the tree itself must keep to: which crates are used where.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::{Path, PathBuf};

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Files under `src` whose code (comments aside) has one of `words`.
fn users_of(words: &[&str]) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let uses = |path: &PathBuf| {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines()
            .filter(|line| !line.trim_start().starts_with("//"))
            .any(|line| words.iter().any(|word| line.contains(word)))
    };
    let mut users: Vec<String> = files
        .iter()
        .filter(|path| uses(path))
        .map(|path| path.strip_prefix(&root).unwrap().to_string_lossy().into_owned())
        .collect();
    users.sort();
    users
}

fn only_in(words: &[&str], places: &[&str]) {
    let users = users_of(words);
    assert!(!users.is_empty(), "nothing uses {words:?}: is this test right?");
    let outside: Vec<_> =
        users.iter().filter(|user| !places.iter().any(|place| user.starts_with(place))).collect();
    assert!(outside.is_empty(), "{words:?} outside {places:?}: {outside:?}");
}

#[test]
fn each_outer_library_is_used_in_one_place_only() {
    only_in(&["rmcp::"], &["mcp", "server"]);
    only_in(&["bollard::"], &["engine/docker"]);
    only_in(&["deadpool::"], &["pool"]);
    only_in(&["yamux::"], &["keeper/mux"]);
    only_in(&["reqwest::"], &["model/gateway", "model/credentials/refresh.rs"]);
}

#[test]
fn nothing_prints_on_stdout_but_the_commands() {
    only_in(&["stdout()"], &["cli/out.rs", "keeper/inside/", "server.rs"]);
}

#[test]
fn the_engines_words_are_not_in_its_trait() {
    let text =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/src/engine.rs")).unwrap();
    let code: String = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n");
    for word in ["HostConfig", "bollard", "CapAdd", "NanoCpus"] {
        assert!(!code.contains(word), "{word}");
    }
}

/// What applies changes reaches the user's files by names relative to an open directory alone; a
/// path of its own would be resolved anew, through whatever links are there by then.
#[test]
fn the_users_files_are_reached_only_beneath_an_open_directory() {
    const BY_PATH: [&str; 14] = [
        "workspace.path.join",
        "&workspace.path",
        "CWD",
        "canonicalize",
        "fs::metadata(",
        "symlink_metadata(",
        "fs::copy(",
        "fs::hard_link(",
        "set_permissions(",
        "set_current_dir",
        "unix::fs::symlink",
        "rustix::fs::open(",
        "rustix::fs::stat(",
        "rustix::fs::rename(",
    ];
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/workspace");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let of_apply = ["host", "diff", "conflict", "receive", "classify", "apply", "undo"];
    let mut looked = 0;
    for file in files {
        let name = file.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
        let is_one = of_apply.iter().any(|module| name.starts_with(module));
        if !is_one || name.contains("tests") || name.contains("properties") {
            continue;
        }
        looked += 1;
        let text = std::fs::read_to_string(&file).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        for line in code.lines().filter(|line| !line.trim_start().starts_with("//")) {
            let word = BY_PATH.iter().find(|word| line.contains(**word));
            assert!(word.is_none(), "{name} reaches a file by its path: {line}");
        }
    }
    assert!(looked > 8, "only {looked} files were looked at: is this test right?");
}

/// What is promised is checked: SECURITY.md names files, and after each the tests in it.
#[test]
fn each_test_that_security_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("SECURITY.md")).unwrap();
    let (mut file, mut tests) = (String::new(), 0);
    let rows = page.lines().filter(|line| line.starts_with('|'));
    for checks in rows.filter_map(|row| row.trim_end_matches([' ', '|']).rsplit('|').next()) {
        let mut text = String::new();
        for name in checks.split('`').skip(1).step_by(2) {
            if name.contains('/') && (name.ends_with(".rs") || name.ends_with(".sh")) {
                file = name.to_owned();
                text = std::fs::read_to_string(root.join(name))
                    .unwrap_or_else(|error| panic!("SECURITY.md names {name}: {error}"));
            } else if name.matches('_').count() > 1 {
                let there = text.contains(&format!("fn {name}("));
                assert!(there, "SECURITY.md names {name}, which is not in {file}");
                tests += 1;
            }
        }
    }
    assert!(tests > 60, "only {tests} tests were found: is this test right?");
}
