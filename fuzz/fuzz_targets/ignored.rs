//! Pattern files that a run may have written: the keeper reads them as root, so no bytes may make
//! it panic or take long.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mcp_codex_orchestrator::ignored::Rules;

fuzz_target!(|bytes: &[u8]| {
    let mut parts = bytes.splitn(3, |byte| *byte == 0);
    let (Some(top), Some(inner), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
        return;
    };
    let rules = Rules::new(&[top]).enter(b"d", Some(inner));
    for path in [path, &[b"d/", path].concat()] {
        let file = rules.is_ignored(path, false);
        // Asked twice, the answer is the same.
        assert_eq!(rules.is_ignored(path, false), file);
        let _ = rules.is_ignored(path, true);
    }
});
