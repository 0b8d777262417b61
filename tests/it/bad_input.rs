//! Bad input: one clear sentence, a stable kind, and nothing left of it.

use mcp_codex_orchestrator::model::scripted::Script;
use serde_json::{Value, json};

use crate::need_engine;
use crate::support::{Options, Server, docker, tree};

#[tokio::test]
async fn a_wrong_call_is_told_in_one_sentence_and_leaves_nothing() {
    need_engine!();
    let mut server = Server::start(Script::builtin(), Options::default()).await;
    let outside = server.home.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::os::unix::fs::symlink(&outside, server.workspace.join("leads_out")).unwrap();
    std::fs::write(server.home.path().join("file"), "").unwrap();
    let before = tree(&server.workspace);
    let home = server.home.path().to_str().unwrap().to_owned();
    let project = server.workspace.to_str().unwrap().to_owned();
    let long = "x".repeat((1 << 20) + 1);
    let cases: Vec<(Value, &str, &str)> = vec![
        (json!({"prompt": "  "}), "invalid_argument", "prompt"),
        (json!({"prompt": long}), "invalid_argument", "1 MiB"),
        (json!({"prompt": "x", "colour": 1}), "invalid_argument", "colour"),
        (json!({"prompt": "x", "output_schema": "{}"}), "invalid_argument", "output_schema"),
        (json!({"prompt": "x", "output_schema": {"type": 1}}), "invalid_argument", "JSON schema"),
        (json!({"prompt": "x", "model": "a b"}), "invalid_argument", "spaces"),
        (json!({"prompt": "x", "mode": "wild"}), "invalid_argument", "wild"),
        (json!({"prompt": "x", "mode": "ask"}), "invalid_argument", "suggest"),
        (json!({"prompt": "x", "timeout": 9}), "invalid_argument", "timeout"),
        (json!({"prompt": "x", "timeout": 3601}), "invalid_argument", "timeout"),
        (json!({"prompt": "x", "timeout": "5m"}), "invalid_argument", "timeout"),
        (json!({"prompt": "x", "timeout": -1}), "invalid_argument", "timeout"),
        (json!({"prompt": "x", "repo": format!("{home}/none")}), "workspace_missing", "none"),
        (json!({"prompt": "x", "repo": format!("{home}/file")}), "workspace_missing", "file"),
        (json!({"prompt": "x", "repo": "/"}), "workspace_refused", "/"),
        (json!({"prompt": "x", "repo": home}), "workspace_refused", "home"),
        (json!({"prompt": "x", "repo": outside}), "workspace_refused", "workspace.allowed"),
        (
            json!({"prompt": "x", "repo": format!("{project}/leads_out")}),
            "workspace_refused",
            "workspace.allowed",
        ),
        (json!({"prompt": "x", "working_dir": "/etc"}), "invalid_argument", "/etc"),
        (json!({"prompt": "x", "working_dir": "src/../.."}), "invalid_argument", ".."),
        (json!({"prompt": "x", "working_dir": "none"}), "invalid_argument", "none"),
        (json!({"prompt": "x", "working_dir": "leads_out"}), "invalid_argument", "leads_out"),
        (json!({"prompt": "x", "env_vars": {"": "v"}}), "invalid_argument", "env_vars"),
        (json!({"prompt": "x", "env_vars": {"A=B": "v"}}), "invalid_argument", "A=…"),
        (json!({"prompt": "x", "env_vars": {"A": "v\u{0}"}}), "invalid_argument", "NUL"),
        (json!({"prompt": "x", "env_vars": {"A": 1}}), "invalid_argument", "env_vars"),
    ];
    for (arguments, kind, word) in cases {
        let result = server.call("codex_run", arguments.clone()).await;
        let shown: String = arguments.to_string().chars().take(100).collect();
        assert_eq!(result["success"], false, "{shown}: {result}");
        assert_eq!(result["error_kind"], kind, "{shown}: {result}");
        assert_eq!(result["exit_code"], -3, "{shown}: {result}");
        let error = result["error"].as_str().unwrap();
        assert!(error.contains(word), "{shown}: {error}");
        assert!(!error.contains('\n'), "{shown}: {error}");
        assert!(result["run_id"].is_null(), "{shown}: {result}");
    }
    let unknown = server.call("codex_run_diff", json!({"run_id": "../../etc"})).await;
    assert_eq!(unknown["error_kind"], "invalid_argument", "{unknown}");
    assert_eq!(tree(&server.workspace), before);
    assert_eq!(std::fs::read_dir(server.runs()).map_or(0, Iterator::count), 0);
    assert_eq!(server.model.as_ref().unwrap().requests().len(), 0);
    server.stop().await;
}

#[tokio::test]
async fn what_is_missing_is_named_with_what_to_do() {
    need_engine!();
    let cases = [
        (
            Options::default().env("DOCKER_HOST", "unix:///nowhere/docker.sock"),
            "engine_unavailable",
            "/nowhere/docker.sock",
        ),
        (Options::default().env("DOCKER_HOST", "ssh://somewhere"), "engine_unavailable", "ssh"),
        (
            Options::default().set("container", "image = \"no-such-image:1\""),
            "image_missing",
            "image build",
        ),
        (
            Options::default().set("container", "image = \"codex-test:foreign\""),
            "image_outdated",
            "image build",
        ),
        (
            Options::default()
                .set("model", "base_url = \"http://127.0.0.1:9/v1\"\nauth = \"api-key\"")
                .no_model(),
            "auth_missing",
            "OPENAI_API_KEY",
        ),
        (
            Options::default().set("workspace", "max_files = 1"),
            "workspace_too_large",
            "workspace.max_files",
        ),
    ];
    let label = "LABEL mcp-codex-orchestrator.protocol=999 mcp-codex-orchestrator.codex=1";
    let _foreign = docker::Image::empty("codex-test:foreign", "LABEL other=1");
    let _other = docker::Image::empty("codex-test:protocol", label);
    for (options, kind, word) in cases {
        let mut server = Server::start(Script::builtin(), options).await;
        let result = server.run("Create a hello.py file that prints 'Hello, World!'").await;
        assert_eq!(result["error_kind"], kind, "{result}\n{}", server.log());
        assert!(result["error"].as_str().unwrap().contains(word), "{result}");
        assert_eq!(result["exit_code"], -3, "{result}");
        assert!(!server.workspace.join("hello.py").exists());
        server.stop().await;
    }
}
