//! The tar stream of a keeper, from its first byte to the change set: whatever comes, what is
//! accepted names only paths in the workspace, within the limits, and what would be applied by
//! itself is nothing of git's, nothing that is protected, and no link that leads out.
#![no_main]

use std::collections::BTreeMap;
use std::path::PathBuf;

use libfuzzer_sys::fuzz_target;
use mcp_codex_orchestrator::path::RelPath;
use mcp_codex_orchestrator::workspace::change::{Change, ChangeKind};
use mcp_codex_orchestrator::workspace::classify::{Policy, classify, is_git_name};
use mcp_codex_orchestrator::workspace::receive::{ReceiveLimits, receive};
use mcp_codex_orchestrator::workspace::{Node, NodeKind, Snapshot};

thread_local! {
    static SENT: Snapshot = sent();
    static POLICY: Policy = Policy::new(&["**/.vscode/tasks.json".into(), ".envrc".into()]).unwrap();
    static FOLDER: tempfile::TempDir = tempfile::tempdir_in(shared_memory()).unwrap();
}

fn shared_memory() -> PathBuf {
    let here = PathBuf::from("/dev/shm");
    if here.is_dir() { here } else { std::env::temp_dir() }
}

fn sent() -> Snapshot {
    let node = |kind, target: Option<&str>| Node {
        kind,
        mode: 0o644,
        size: 1,
        mtime: (0, 0),
        ctime: (0, 0),
        dev: 0,
        ino: 0,
        hash: (kind == NodeKind::File).then_some([7; 32]),
        target: target.map(|target| target.as_bytes().to_vec()),
    };
    let nodes: BTreeMap<_, _> = [
        ("d", node(NodeKind::Directory, None)),
        ("d/f", node(NodeKind::File, None)),
        ("d.x", node(NodeKind::File, None)),
        ("out", node(NodeKind::Link, Some("/etc"))),
        (".vscode", node(NodeKind::Directory, None)),
        (".vscode/tasks.json", node(NodeKind::File, None)),
    ]
    .into_iter()
    .map(|(path, node)| (RelPath::new(path).unwrap(), node))
    .collect();
    Snapshot { nodes: nodes.into(), ..Snapshot::default() }
}

/// Makes the checksums fit, so that what is inside is reached.
fn mend(bytes: &mut [u8]) {
    for block in bytes.chunks_exact_mut(512) {
        if &block[257..262] == b"ustar" {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
}

fn leads_out(change: &Change) -> bool {
    let Some(target) = change.new.as_ref().and_then(|new| new.target.as_ref()) else { return false };
    let mut depth = change.path.components().count() as i64 - 1;
    target.0.first() == Some(&b'/')
        || target.0.split(|byte| *byte == b'/').any(|name| {
            depth += match name {
                b"" | b"." => 0,
                b".." => -1,
                _ => 1,
            };
            depth < 0 || is_git_name(name)
        })
}

fuzz_target!(|bytes: &[u8]| {
    let mut bytes = bytes.to_vec();
    mend(&mut bytes);
    let limits = ReceiveLimits { path_bytes: 1 << 14, ..ReceiveLimits::new(64, 1 << 16) };
    let archive = FOLDER.with(|folder| folder.path().join("changes.tar"));
    let _ = std::fs::remove_file(&archive);
    let received = SENT.with(|sent| receive(&bytes[..], sent, &limits, &archive));
    assert_eq!(received.is_ok(), archive.exists());
    let Ok(received) = received else { return };
    assert!(received.entries.len() + received.deleted.len() <= 64);
    let set = SENT.with(|sent| POLICY.with(|policy| classify(received, sent, policy)));
    assert!(set.changes.len() <= 64 + 6);
    assert!(set.changes.is_sorted_by(|one, other| one.path < other.path));
    for change in set.changes.iter().filter(|change| change.is_waiting()) {
        let path = &change.path;
        assert!(path.components().all(|name| !matches!(name, b"" | b"." | b"..")));
        assert!(!path.components().any(is_git_name), "{path}");
        assert!(!path.as_bytes().eq_ignore_ascii_case(b".vscode/tasks.json"), "{path}");
        assert!(!path.name().eq_ignore_ascii_case(b".envrc"), "{path}");
        assert!(!leads_out(change), "{change:?}");
        assert!(change.kind == ChangeKind::Deleted || change.new.is_some());
    }
    let text = serde_json::to_vec(&set).unwrap();
    assert_eq!(serde_json::from_slice::<mcp_codex_orchestrator::workspace::change::ChangeSet>(&text).unwrap(), set);
});
