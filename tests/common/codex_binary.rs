//! Whether there is a Codex to test with.

use std::path::PathBuf;

/// The binary that `CODEX_BIN` names. `None` once the reason is printed; a panic if the suite must
/// not leave anything out.
pub(crate) fn codex_binary() -> Option<PathBuf> {
    let found = std::env::var_os("CODEX_BIN").map(PathBuf::from).filter(|path| path.is_file());
    if found.is_none() {
        let reason = "CODEX_BIN names no Codex binary; `make test` takes it from the image";
        assert!(std::env::var_os("CODEX_TESTS_REQUIRE_ENGINE").is_none(), "{reason}");
        println!("left out: {reason}");
    }
    found
}
