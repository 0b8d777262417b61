//! The program from the outside, as far as it needs no engine: what it prints and its exit codes.

#![expect(clippy::unwrap_used, reason = "a test may fail")]

use std::path::Path;
use std::process::{Command, Output, Stdio};

use mcp_codex_orchestrator::job::result::RunResult;

/// The program with an environment of its own, in which no engine and no settings are found.
fn program(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mcp-codex-orchestrator"));
    command
        .env_clear()
        .env("HOME", home)
        .env("DOCKER_HOST", "unix:///nowhere/docker.sock")
        .current_dir(home)
        .stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let home = tempfile::tempdir().unwrap();
    let Output { status, stdout, stderr } = program(home.path()).args(arguments).output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

#[test]
fn config_default_prints_the_reference() {
    let (code, stdout, stderr) = run(&["config", "default"]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert_eq!(stdout, include_str!("../config/default.toml"));
}

#[test]
fn what_config_show_prints_is_a_settings_file() {
    let (code, stdout, _) = run(&["config", "show"]);
    assert_eq!(code, Some(0));
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("c.toml");
    std::fs::write(&file, stdout).unwrap();
    let status = program(home.path()).args(["config", "check", "--config"]).arg(&file).status();
    assert_eq!(status.unwrap().code(), Some(0));
}

#[test]
fn a_command_line_that_makes_no_sense_ends_with_2() {
    for arguments in [
        &["nonsense"][..],
        &["run"],
        &["run", "x", "--mode", "yolo"],
        &["run", "x", "--timeout", "9"],
        &["run", "x", "--timeout", "soon"],
        &["run", "x", "--env", "NOVALUE"],
        &["run", " "],
        &["runs", "show", "../../etc"],
    ] {
        let (code, stdout, stderr) = run(arguments);
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{arguments:?}");
        assert!(!stderr.is_empty());
    }
}

#[test]
fn wrong_settings_end_with_3_and_one_sentence() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("c.toml"), "[pool]\nmin_idel = 1\n").unwrap();
    for command in [&["config", "check"][..], &["serve"], &["run", "x"]] {
        let output =
            program(home.path()).args(command).args(["--config", "c.toml"]).output().unwrap();
        assert_eq!(output.status.code(), Some(3));
        assert!(output.stdout.is_empty());
        assert_eq!(
            String::from_utf8(output.stderr).unwrap(),
            "mcp-codex-orchestrator: c.toml:2: unknown key \"pool.min_idel\"; did you mean \
             \"pool.min_idle\"?\n"
        );
    }
}

#[test]
fn help_for_wrong_settings_works_with_wrong_settings() {
    let home = tempfile::tempdir().unwrap();
    let output = program(home.path())
        .args(["config", "default"])
        .env("CODEX_TIMEOUT", "nonsense")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn without_an_engine_doctor_ends_with_3_and_says_so() {
    let (code, stdout, _) = run(&["doctor"]);
    assert_eq!(code, Some(3));
    assert!(stdout.lines().any(|line| line.starts_with("FAIL  engine")), "{stdout}");
    let (code, stdout, _) = run(&["ps", "--json"]);
    assert_eq!((code, stdout.as_str()), (Some(3), ""));
}

#[test]
fn there_are_no_records_at_first() {
    let (code, stdout, _) = run(&["runs", "list", "--json"]);
    assert_eq!((code, stdout.as_str()), (Some(0), "[]\n"));
}

#[test]
fn runs_prune_says_what_went() {
    let home = tempfile::tempdir().unwrap();
    let runs = home.path().join("runs");
    let settings = home.path().join("c.toml");
    std::fs::write(&settings, format!("[runs]\ndir = {runs:?}\nkeep = 1\n")).unwrap();
    let prune = |arguments: &[&str]| {
        let arguments = [&["--config", settings.to_str().unwrap(), "runs", "prune"], arguments];
        let Output { status, stdout, stderr } =
            program(home.path()).args(arguments.concat()).output().unwrap();
        assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
        String::from_utf8(stdout).unwrap()
    };
    assert!(prune(&[]).starts_with("Nothing to remove"));
    let [held, plain, _last] = ["held", "none", "none"].map(|state| {
        let id = uuid::Uuid::now_v7().to_string();
        let mut result = serde_json::to_value(RunResult::completed(&id)).unwrap();
        result["changes_state"] = state.into();
        std::fs::create_dir_all(runs.join(&id)).unwrap();
        std::fs::write(runs.join(&id).join("result.json"), result.to_string()).unwrap();
        std::fs::write(runs.join(&id).join("events.jsonl"), "x").unwrap();
        std::thread::sleep(std::time::Duration::from_millis(2));
        id
    });
    let told = prune(&[]);
    assert!(told.contains(&format!("removed {plain}\n")), "{told}");
    assert!(told.contains(&format!("removed the logs of {held} (its changes stay")), "{told}");
    assert!(!runs.join(&plain).exists() && !runs.join(&held).join("events.jsonl").exists());
    assert!(runs.join(&held).join("result.json").exists());
    let again: serde_json::Value = serde_json::from_str(&prune(&["--json"])).unwrap();
    assert_eq!(again, serde_json::json!({"removed": [], "slimmed": [], "bytes": 0, "left": 1}));
}

#[test]
fn auth_status_tells_whose_login_it_is_and_never_shows_it() {
    use base64::Engine as _;
    use std::os::unix::fs::PermissionsExt as _;

    let home = tempfile::tempdir().unwrap();
    let status = |arguments: &[&str], key: &str| {
        let mut command = program(home.path());
        let output = command.args(["auth", "status"]).args(arguments).env("OPENAI_API_KEY", key);
        let Output { status, stdout, stderr } = output.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (status.code(), text(stdout), text(stderr))
    };
    let (code, stdout, stderr) = status(&[], "");
    assert_eq!((code, stdout.as_str()), (Some(3), ""));
    assert!(stderr.contains("run codex login") && stderr.lines().count() == 1, "{stderr}");

    let (code, stdout, _) = status(&[], "sk-secret-1");
    assert_eq!((code, stdout.as_str()), (Some(0), "OPENAI_API_KEY in the environment.\n"));

    let claims = serde_json::json!({"exp": 4_102_444_800_i64, "email": "me@example.org",
        "https://api.openai.com/auth": {"chatgpt_plan_type": "plus"}});
    let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(claims.to_string());
    let token = format!("eyJhbGciOiJub25lIn0.{claims}.secret");
    let login = serde_json::json!({"auth_mode": "chatgpt", "tokens": {"id_token": token,
        "access_token": token, "refresh_token": "secret-2", "account_id": "acc"}});
    let file = home.path().join(".codex/auth.json");
    std::fs::create_dir(home.path().join(".codex")).unwrap();
    std::fs::write(&file, login.to_string()).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let (code, stdout, stderr) = status(&[], "");
    assert_eq!(code, Some(0));
    assert_eq!(
        stdout,
        format!(
            "ChatGPT login in {} of me@example.org, plan plus, good until 2100-01-01T00:00:00Z, \
             refreshed ten minutes before.\n",
            file.display()
        )
    );
    assert!(stderr.contains("chmod 600"), "{stderr}");
    let (_, json, _) = status(&["--json"], "");
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&value["kind"], &value["account"]), (&"chatgpt".into(), &"me@example.org".into()));
    assert_eq!(value["expired"], false);
    assert!(!(stdout + &stderr + &json).contains("secret"));

    std::fs::write(&file, "{\"auth_mode\": \"chatgpt\", \"tokens\": {\"access_token\": \"sec")
        .unwrap();
    let (code, stdout, stderr) = status(&[], "");
    assert_eq!((code, stdout.as_str()), (Some(3), ""));
    assert!(stderr.contains("is no JSON, perhaps cut off; run codex login again"), "{stderr}");
    // Nothing was made or changed by looking.
    assert_eq!(std::fs::read_dir(home.path().join(".codex")).unwrap().count(), 1);
}

#[test]
fn doctor_asks_the_provider_only_if_told_to() {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let base_url = format!("http://{}/v1", listener.local_addr().unwrap());
    let home = tempfile::tempdir().unwrap();
    let settings = format!("[model]\nbase_url = {base_url:?}\n[codex]\nmodel = \"m-1\"\n");
    std::fs::write(home.path().join("c.toml"), settings).unwrap();
    let doctor = |live: &[&str], key: Option<&str>| {
        let mut command = program(home.path());
        command.args(["--config", "c.toml", "doctor", "--json"]).args(live);
        command.envs(key.map(|key| ("OPENAI_API_KEY", key)));
        let output = command.output().unwrap();
        // There is no engine.
        assert_eq!(output.status.code(), Some(3));
        assert!(!String::from_utf8_lossy(&output.stdout).contains("sk-doctor"));
        let checks: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let live = checks.as_array().unwrap().iter().find(|check| check["name"] == "live").cloned();
        live.map(|live| (live["good"] == true, live["found"].as_str().unwrap().to_owned()))
    };
    assert_eq!(doctor(&[], Some("sk-doctor")), None);
    let (good, found) = doctor(&["--live"], None).unwrap();
    assert!(!good && found.starts_with("no credential for the model provider"), "{found}");
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err(), "asked without being told to");
    listener.set_nonblocking(false).unwrap();
    let serving = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        // The body is one line of JSON that ends with this.
        while !request.ends_with(b"\"stream\":true}") {
            let mut some = [0; 4096];
            let count = stream.read(&mut some).unwrap();
            request.extend_from_slice(&some[..count]);
        }
        let answer = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n\
                      data: {\"type\":\"response.completed\"}\n\n";
        stream.write_all(answer.as_bytes()).unwrap();
        String::from_utf8(request).unwrap()
    });
    let told = doctor(&["--live"], Some("sk-doctor"));
    assert_eq!(told, Some((true, "127.0.0.1 answered with m-1".to_owned())));
    let request = serving.join().unwrap();
    assert!(request.starts_with("POST /v1/responses HTTP/1.1"), "{request}");
    assert!(request.contains("authorization: Bearer sk-doctor"), "{request}");
}
