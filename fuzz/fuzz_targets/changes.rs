//! What is read back of a run folder: any bytes are refused or read, what was read is written and
//! read again as the same, and a path is a path in the workspace.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mcp_codex_orchestrator::path::RelPath;
use mcp_codex_orchestrator::workspace::change::ChangeSet;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(set) = serde_json::from_slice::<ChangeSet>(bytes) {
        let text = serde_json::to_vec(&set).unwrap();
        assert_eq!(serde_json::from_slice::<ChangeSet>(&text).unwrap(), set);
        for change in &set.changes {
            check(&change.path);
        }
        let _ = set.state();
    }
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(path) = RelPath::parse(text)
    {
        check(&path);
    }
    if let Ok(path) = RelPath::new(bytes) {
        assert_eq!(path.as_bytes(), bytes);
        check(&path);
    }
});

fn check(path: &RelPath) {
    assert_eq!(&RelPath::parse(&path.to_string()).unwrap(), path);
    assert!(!path.to_string().chars().any(char::is_control));
    assert!(path.components().all(|name| !matches!(name, b"" | b"." | b"..")));
    assert!(path.as_bytes().len() <= RelPath::MAX_BYTES);
    assert!(path.above().all(|above| path.is_within(&RelPath::new(above).unwrap())));
}
