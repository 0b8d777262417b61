//! The official Python SDK as the client, in both eras of the protocol.

use mcp_codex_orchestrator::model::scripted::Script;

use crate::need_engine;
use crate::support::{Options, Server};

#[tokio::test]
async fn the_official_python_sdk_gets_the_job_done() {
    need_engine!();
    let Some(python) = std::env::var_os("CODEX_TESTS_PYTHON") else {
        assert!(
            std::env::var_os("CODEX_TESTS_REQUIRE_ENGINE").is_none(),
            "CODEX_TESTS_PYTHON is not set"
        );
        eprintln!("skipped {}: CODEX_TESTS_PYTHON names no Python with the SDK", module_path!());
        return;
    };
    // Only for its configuration, model and workspace; the SDK starts a server of its own.
    let server = Server::start(Script::builtin(), Options::default()).await;
    let output = tokio::process::Command::new(python)
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/client.py"))
        .arg(env!("CARGO_BIN_EXE_mcp-codex-orchestrator"))
        .arg(server.home.path().join("config.toml"))
        .arg(&server.workspace)
        .output()
        .await
        .unwrap();
    assert!(
        output.status.success(),
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    server.stop().await;
}
