//! Our spellings of `.git` against git's own: whatever `git fsck` finds fault with, we hold.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use mcp_codex_orchestrator::workspace::classify::is_git_name;

fn git(at: &Path, arguments: &[&str], input: &[u8]) -> (bool, String) {
    let mut child = Command::new("git")
        .arg("-C")
        .arg(at)
        .args(arguments)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_SYSTEM", "/dev/null")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

/// Every spelling that one change makes of another, from `.git` and `git~1`.
fn spellings() -> Vec<Vec<u8>> {
    let mut names: Vec<Vec<u8>> = vec![b".git".to_vec(), b"git~1".to_vec()];
    let pieces: &[&[u8]] = &[
        b".",
        b" ",
        b":",
        b"\\",
        b"x",
        b"~1",
        b"::$INDEX_ALLOCATION",
        b"\xe2\x80\x8c",
        b"\xe2\x80\x90",
        b"\xe2\x81\xaf",
        b"\xef\xbb\xbf",
        b"\xc4\xb1",
        b"\xc5\xbf",
    ];
    for round in 0..2 {
        for name in names.clone() {
            for piece in pieces {
                let places = if round == 0 { (0..=name.len()).collect() } else { vec![name.len()] };
                for at in places {
                    names.push([&name[..at], piece, &name[at..]].concat());
                }
            }
            names.push(name.to_ascii_uppercase());
        }
        names.sort();
        names.dedup();
    }
    names
}

#[test]
fn whatever_git_takes_for_its_own_is_held() {
    let place = tempfile::tempdir().unwrap();
    let at = place.path();
    assert!(git(at, &["init", "-q", "."], b"").0);
    let (ok, blob) = git(at, &["hash-object", "-w", "--stdin"], b"x");
    assert!(ok, "{blob}");
    let blob: Vec<u8> =
        (0..20).map(|n| u8::from_str_radix(&blob[2 * n..2 * n + 2], 16).unwrap()).collect();
    let names = spellings();
    let file = at.join("tree");
    let mut trees = Vec::new();
    for name in &names {
        std::fs::write(&file, [b"100644 ", &name[..], b"\0", &blob].concat()).unwrap();
        trees.push(at.join(format!("tree-{}", trees.len())));
        std::fs::rename(&file, trees.last().unwrap()).unwrap();
    }
    let list: String = trees.iter().map(|tree| format!("{}\n", tree.display())).collect();
    let arguments =
        ["hash-object", "-t", "tree", "-w", "--literally", "--no-filters", "--stdin-paths"];
    let (ok, hashes) = git(at, &arguments, list.as_bytes());
    assert!(ok, "{hashes}");
    let (_, report) = git(at, &["fsck", "--no-dangling"], b"");
    let mut git_says = 0;
    for (name, hash) in names.iter().zip(hashes.lines()) {
        if report.lines().any(|line| line.contains(hash) && line.contains("hasDotgit")) {
            git_says += 1;
            assert!(is_git_name(name), "git takes {} for .git", name.escape_ascii());
        }
    }
    assert!(git_says > 20, "git found only {git_says} of {}: {report}", names.len());
}
