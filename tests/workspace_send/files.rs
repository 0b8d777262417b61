//! Which files travel, and how they look when they arrive.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

use mcp_codex_orchestrator::config::workspace::Ignored;
use mcp_codex_orchestrator::failure::ErrorKind;
use mcp_codex_orchestrator::path::RelPath;
use mcp_codex_orchestrator::workspace::root::open_unchecked;
use mcp_codex_orchestrator::workspace::send::{SendRules, send};
use mcp_codex_orchestrator::workspace::{GitSent, StayReason};

use crate::{Tree, git, listing, rules};

#[test]
fn what_git_ignores_stays_home_by_directory_and_travels_by_file() {
    let tree = Tree::repository();
    tree.write(".gitignore", "target/\n.env\n*.log\n")
        .write("src/main.rs", "fn main() {}")
        .write("target/debug/big", "x")
        .write("sub/target/x", "x")
        .write(".env", "SECRET=1")
        .write("a.log", "")
        .write("untracked", "u");
    let sent = tree.send();
    assert_eq!(sent.files(), [".env", ".gitignore", "a.log", "src/main.rs", "untracked"]);
    let ignored = StayReason::IgnoredDirectory;
    assert_eq!(sent.stayed(), [("sub/target/", ignored), ("target/", ignored)]);
    assert_eq!(sent.snapshot.files, 5);
    assert_eq!(sent.snapshot.bytes, 40);

    let all = tree.send_with(&SendRules { ignored: Ignored::All, ..rules() }).unwrap();
    assert_eq!(all.files().len(), 7);
    let none = tree.send_with(&SendRules { ignored: Ignored::None, ..rules() }).unwrap();
    assert_eq!(none.files(), [".gitignore", "src/main.rs", "untracked"]);
    assert!(none.stayed().contains(&(".env", StayReason::IgnoredFile)));
}

#[test]
fn tracked_files_travel_even_from_ignored_directories() {
    let tree = Tree::repository();
    tree.write("dist/kept/a.js", "a").write("dist/b.js", "b").write("c.log", "c");
    tree.commit_all();
    tree.write(".gitignore", "dist/\n*.log\n").write("dist/new.js", "n").write("dist/other/x", "x");
    let sent = tree.send_with(&SendRules { ignored: Ignored::None, ..rules() }).unwrap();
    assert_eq!(sent.files(), [".gitignore", "c.log", "dist/b.js", "dist/kept/a.js"]);
    assert_eq!(sent.stayed(), [("dist/", StayReason::IgnoredDirectory)]);
}

#[test]
fn a_directory_that_ignores_itself_stays_home() {
    let tree = Tree::repository();
    tree.write(".venv/.gitignore", "*\n").write(".venv/bin/python", "").write(".venv/cfg", "");
    let sent = tree.send();
    assert_eq!(sent.files(), [""; 0]);
    assert_eq!(sent.stayed(), [(".venv/", StayReason::IgnoredDirectory)]);
}

#[test]
fn a_cache_stays_home_unless_something_in_it_is_tracked_or_all_is_asked_for() {
    let tag = "Signature: 8a477f597d28d172789f06886806bc55\n# made by a tool\n";
    let write = |tree: &Tree| {
        tree.write("cache/CACHEDIR.TAG", tag)
            .write("cache/deep/x", "x")
            .write("fixture/CACHEDIR.TAG", tag)
            .write("fixture/x", "x")
            .write("wrong/CACHEDIR.TAG", "Signature: 8a477f597d28d172789f06886806bc5")
            .write("CACHEDIR.TAG", tag);
        symlink("../cache/CACHEDIR.TAG", {
            tree.write("linked/x", "x");
            tree.path().join("linked/CACHEDIR.TAG")
        })
        .unwrap();
    };
    let tree = Tree::repository();
    write(&tree);
    git(tree.path(), &["add", "fixture/x"]);
    let sent = tree.send();
    let linked = ["linked/CACHEDIR.TAG", "linked/x", "wrong/CACHEDIR.TAG"];
    let travels = ["CACHEDIR.TAG", "fixture/CACHEDIR.TAG", "fixture/x"];
    assert_eq!(sent.files(), [&travels[..], &linked].concat());
    assert_eq!(sent.stayed(), [("cache/", StayReason::CacheDirectory)]);

    let all = tree.send_with(&SendRules { ignored: Ignored::All, ..rules() }).unwrap();
    assert!(all.stayed().is_empty());
    assert!(all.files().iter().any(|path| path == "cache/deep/x"), "{:?}", all.files());

    // Without git nothing is ignored, but a cache is one.
    let plain = Tree::new();
    write(&plain);
    plain.write(".gitignore", "linked\n");
    let sent = plain.send();
    assert_eq!(sent.files(), [&[".gitignore", "CACHEDIR.TAG"][..], &linked].concat());
    let cache = StayReason::CacheDirectory;
    assert_eq!(sent.stayed(), [("cache/", cache), ("fixture/", cache)]);
}

#[test]
fn of_a_nested_repository_the_files_go_and_its_git_stays() {
    let tree = Tree::repository();
    tree.write(".gitignore", "*.log\nout/\n").write("a", "a");
    let inner = tree.path().join("vendor/inner");
    fs::create_dir_all(&inner).unwrap();
    git(&inner, &["init", "-q"]);
    tree.write("vendor/inner/lib.c", "c")
        .write("vendor/inner/out/kept", "its own rules count")
        .write("vendor/inner/.gitignore", "build/\n")
        .write("vendor/inner/build/x.o", "o");
    let sent = tree.send();
    assert_eq!(
        sent.files(),
        [
            ".gitignore",
            "a",
            "vendor/inner/.gitignore",
            "vendor/inner/lib.c",
            "vendor/inner/out/kept"
        ]
    );
    assert_eq!(
        sent.stayed(),
        [
            ("vendor/inner/.git/", StayReason::NestedGit),
            ("vendor/inner/build/", StayReason::IgnoredDirectory)
        ]
    );
}

#[test]
fn exclude_and_codexignore_keep_even_tracked_files_home() {
    let tree = Tree::repository();
    tree.write("data/big", "b").write("secret.pem", "s").write("docs/x.pdf", "p").write("a", "a");
    tree.write(".codexignore", "*.pem\n!data/\n").write("docs/.codexignore", "/x.pdf\n");
    tree.commit_all();
    let sent = tree.send_with(&SendRules { exclude: vec!["data/".into()], ..rules() }).unwrap();
    assert_eq!(sent.files(), [".codexignore", "a", "docs/.codexignore"]);
    let excluded = StayReason::Excluded;
    assert_eq!(
        sent.stayed(),
        [("data/", excluded), ("docs/x.pdf", excluded), ("secret.pem", excluded)]
    );
}

#[test]
fn without_git_everything_travels() {
    let tree = Tree::new();
    tree.write(".gitignore", "target/\n").write("target/x", "x");
    let sent = tree.send();
    assert_eq!(sent.files(), [".gitignore", "target/x"]);
    assert_eq!(sent.snapshot.git, GitSent::None);
    assert!(sent.stayed().is_empty());
}

#[test]
fn the_rules_of_the_repository_above_count_in_a_directory_of_it() {
    let outer = Tree::repository();
    outer.write(".gitignore", "node_modules/\n/pkg/gen/\n").write("pkg/index.js", "");
    outer.commit_all();
    outer.write("pkg/node_modules/m/x", "").write("pkg/gen/x", "").write("scratch/deep/x", "");
    let sent = |directory: &str| {
        let workspace = open_unchecked(&outer.path().join(directory)).unwrap();
        send(&workspace, &rules(), std::io::sink()).unwrap()
    };
    let pkg = sent("pkg");
    let names: Vec<String> = pkg.nodes.keys().map(ToString::to_string).collect();
    assert_eq!(names, ["index.js"]);
    assert!(matches!(pkg.git, GitSent::StayedHome(why) if why.contains("above the workspace")));
    // Nothing in it is tracked: it only happens to be there.
    outer.write(".gitignore", "/scratch/*\n");
    let scratch = sent("scratch");
    assert_eq!(scratch.git, GitSent::None);
    assert_eq!(scratch.nodes.len(), 2);
}

#[test]
fn the_runs_directory_never_travels() {
    let tree = Tree::new();
    tree.write("runs/1/result.json", "").write("a", "");
    let mut workspace = open_unchecked(tree.path()).unwrap();
    workspace.exclude.push(RelPath::new("runs").unwrap());
    let snapshot = send(&workspace, &rules(), std::io::sink()).unwrap();
    assert_eq!(snapshot.nodes.len(), 1);
    assert_eq!(snapshot.stayed_home[0].reason, StayReason::RunsDirectory);
}

#[test]
fn sockets_and_fifos_stay_home() {
    let tree = Tree::new();
    let _socket = std::os::unix::net::UnixListener::bind(tree.path().join("socket")).unwrap();
    assert!(Command::new("mkfifo").arg(tree.path().join("fifo")).status().unwrap().success());
    let sent = tree.send();
    assert_eq!(sent.stayed(), [("fifo", StayReason::Special), ("socket", StayReason::Special)]);
}

#[test]
fn what_stayed_home_is_listed_up_to_a_limit_and_counted() {
    let tree = Tree::repository();
    tree.write(".gitignore", "*.log\n");
    for number in 0..600 {
        tree.write(format!("{number}.log"), "");
    }
    let sent = tree.send_with(&SendRules { ignored: Ignored::None, ..rules() }).unwrap();
    assert_eq!(sent.snapshot.stayed_home.len(), 500);
    assert_eq!(sent.snapshot.stayed_home_total, 600);
}

#[test]
fn too_much_is_refused_with_the_directories_that_hold_it() {
    let tree = Tree::new();
    for number in 0..30 {
        tree.write(format!("data/images/{number}"), "0123456789");
    }
    tree.write("src/a", "a");
    let error = tree.send_with(&SendRules { max_files: 20, ..rules() }).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::WorkspaceTooLarge);
    let text = error.to_string();
    assert!(text.contains("data/images/") && text.contains("workspace.max_files"), "{text}");
    let error = tree.send_with(&SendRules { max_bytes: 200, ..rules() }).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::WorkspaceTooLarge);
    let text = error.to_string();
    assert!(text.contains("data/images/ (300 B, 30 files)"), "{text}");
    assert!(text.contains("workspace.max_bytes"), "{text}");
}

#[test]
fn a_working_directory_that_stays_home_is_refused() {
    let tree = Tree::repository();
    tree.write(".gitignore", "out/\n").write("out/x", "").write("src/x", "");
    let mut workspace = open_unchecked(tree.path()).unwrap();
    workspace.working_dir = Some(RelPath::new("src").unwrap());
    send(&workspace, &rules(), std::io::sink()).unwrap();
    workspace.working_dir = Some(RelPath::new("out").unwrap());
    let error = send(&workspace, &rules(), std::io::sink()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
}

#[test]
fn entries_belong_to_the_containers_user_with_plain_modes() {
    let tree = Tree::new();
    tree.write("run.sh", "#!/bin/sh").write("secret", "s").write("d/x", "");
    fs::set_permissions(tree.path().join("run.sh"), fs::Permissions::from_mode(0o4711)).unwrap();
    fs::set_permissions(tree.path().join("secret"), fs::Permissions::from_mode(0o600)).unwrap();
    symlink("secret", tree.path().join("link")).unwrap();
    let sent = tree.send();
    let mut archive = tar::Archive::new(&*sent.tar);
    let mut seen = Vec::new();
    for entry in archive.entries().unwrap() {
        let entry = entry.unwrap();
        let header = entry.header();
        assert_eq!((header.uid().unwrap(), header.gid().unwrap()), (1000, 1000));
        seen.push((entry.path().unwrap().display().to_string(), header.mode().unwrap()));
    }
    let expected =
        [("d", 0o755), ("d/x", 0o644), ("link", 0o777), ("run.sh", 0o755), ("secret", 0o644)];
    assert_eq!(seen, expected.map(|(path, mode)| (path.to_owned(), mode)));
    let node = &sent.snapshot.nodes[&RelPath::new("run.sh").unwrap()];
    assert_eq!(node.mode, 0o4711);
    assert_eq!(node.hash, Some(*blake3::hash(b"#!/bin/sh").as_bytes()));
}

#[test]
fn large_files_and_long_names_arrive_whole() {
    let tree = Tree::new();
    let big: Vec<u8> = (0..3_000_001_u32).map(|at| (at % 251) as u8).collect();
    let long = format!("{}/{}", "d".repeat(200), "f".repeat(200));
    tree.write("big", &big).write(&long, "deep");
    symlink("t".repeat(300), tree.path().join("link")).unwrap();
    symlink("./a//b/../c/", tree.path().join("odd")).unwrap();
    let sent = tree.send();
    assert_eq!(listing(tree.path()), listing(sent.path()));
    let node = &sent.snapshot.nodes[&RelPath::new("big").unwrap()];
    assert_eq!(node.hash, Some(*blake3::hash(&big).as_bytes()));
}
