//! What this user may not read. Run as root these tests run themselves again without root's right
//! to read everything.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use mcp_codex_orchestrator::failure::ErrorKind;
use mcp_codex_orchestrator::path::RelPath;
use mcp_codex_orchestrator::workspace::StayReason::Unreadable;
use mcp_codex_orchestrator::workspace::root::open_unchecked;
use mcp_codex_orchestrator::workspace::send::send;

use crate::{Tree, again, rules};

/// Whether to go on in this process.
fn unprivileged(test: &str) -> bool {
    let less = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search", "--"];
    !rustix::process::geteuid().is_root() || again(test, &less)
}

/// Gives a path a mode, and takes it back, so that the tree can be removed.
struct Mode<'a>(&'a Tree, &'static str);

impl<'a> Mode<'a> {
    fn set(tree: &'a Tree, path: &'static str, mode: u32) -> Self {
        fs::set_permissions(tree.path().join(path), PermissionsExt::from_mode(mode)).unwrap();
        Self(tree, path)
    }
}

impl Drop for Mode<'_> {
    fn drop(&mut self) {
        let _ = fs::set_permissions(self.0.path().join(self.1), PermissionsExt::from_mode(0o700));
    }
}

#[test]
fn what_cannot_be_read_stays_home_and_is_named() {
    if !unprivileged("unreadable::what_cannot_be_read_stays_home_and_is_named") {
        return;
    }
    let tree = Tree::repository();
    tree.write("locked", "l").write("big", vec![0; 3 << 20]).write("ok", "o");
    tree.write("closed/x", "").write("listed/x", "").write("passed/x", "").write("open/x", "x");
    tree.commit_all();
    let _closed = [
        Mode::set(&tree, "locked", 0),
        Mode::set(&tree, "big", 0o200),
        Mode::set(&tree, "closed", 0),
        Mode::set(&tree, "listed", 0o400),
        Mode::set(&tree, "passed", 0o100),
    ];
    let sent = tree.send();
    assert_eq!(sent.files(), ["ok", "open/x"]);
    let stayed = ["big", "closed/", "listed/", "locked", "passed/"].map(|path| (path, Unreadable));
    assert_eq!(sent.stayed(), stayed);
    // What is in no snapshot is never taken for deleted, though git inside says that it is gone.
    let nodes: Vec<String> = sent.snapshot.nodes.keys().map(ToString::to_string).collect();
    assert_eq!(nodes, ["ok", "open", "open/x"]);
    assert!(sent.git(&["status", "--porcelain"]).contains(" D locked"));
    assert_eq!(
        sent.snapshot.notes(),
        ["Codex did not see big, closed/, listed/, locked, passed/, which stayed home: it cannot \
          be read"]
    );
}

#[test]
fn nothing_works_without_the_working_directory() {
    if !unprivileged("unreadable::nothing_works_without_the_working_directory") {
        return;
    }
    let tree = Tree::new();
    tree.write("a/work/x", "");
    let mut workspace = open_unchecked(tree.path()).unwrap();
    workspace.working_dir = Some(RelPath::new("a/work").unwrap());
    for path in ["a", "a/work"] {
        let _closed = Mode::set(&tree, path, 0);
        let error = send(&workspace, &rules(), std::io::sink()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TransferFailed);
        let text = error.to_string();
        assert!(text.starts_with(&format!("{path} in the workspace cannot be read")), "{text}");
    }
}

#[test]
fn patterns_that_cannot_be_read_are_an_error_since_they_may_keep_a_secret_home() {
    let test =
        "unreadable::patterns_that_cannot_be_read_are_an_error_since_they_may_keep_a_secret_home";
    if !unprivileged(test) {
        return;
    }
    let tree = Tree::repository();
    tree.write("d/secret", "s").write("d/.codexignore", "secret\n").write(".gitignore", "*.o\n");
    for path in ["d/.codexignore", ".gitignore"] {
        let _closed = Mode::set(&tree, path, 0);
        let text = tree.send_with(&rules()).err().unwrap().to_string();
        assert!(text.starts_with(&format!("{path} in the workspace cannot be read")), "{text}");
    }
    tree.send();
}
