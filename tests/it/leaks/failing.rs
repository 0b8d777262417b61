//! The same for runs that fail, for logins in files, and for what the command line prints.

use super::*;

/// What a provider may repeat in an error.
fn echo(secrets: &Secrets) -> String {
    format!(
        "Incorrect key {0}; Authorization: Bearer {0}; x-more: {1}; ?more={2}",
        secrets.get("OPENAI_API_KEY"),
        secrets.get("header"),
        secrets.get("query")
    )
}

fn failing(secrets: &Secrets) -> Script {
    let fault = |fault: Fault| vec![Step::Fault(fault)];
    let message = || Some(echo(secrets));
    let status =
        |status| fault(Fault { status: Some(status), message: message(), ..Fault::default() });
    let failed =
        Fault { failed: Some("server_error".into()), message: message(), ..Fault::default() };
    Script::always(vec![Step::Say("Done.".into())])
        .with("case 400", status(400))
        .with("case 401", status(401))
        .with("case 500", status(500))
        .with("case cut", fault(Fault { drop: true, ..Fault::default() }))
        .with("case failed", fault(failed))
        .with("case hang", vec![Step::run("sleep 600")])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_is_in_what_is_said_of_runs_that_fail() {
    need_engine!();
    let mut stage = Stage::start(failing, false).await;
    let prompt = stage.secrets.get("prompt").to_owned();
    let value = stage.secrets.get("env_vars").to_owned();
    let call = |case: &str| {
        json!({"prompt": format!("case {case}: {prompt}"), "env_vars": {"DEPLOY_TOKEN": value},
               "timeout": 60})
    };
    for case in ["400", "401", "500", "cut", "failed"] {
        let result = stage.server.call("codex_run", call(case)).await;
        assert_eq!(result["status"], "failed", "{case}: {result}");
    }
    let mut short = call("hang");
    short["timeout"] = 2.into();
    let result = stage.server.call("codex_run", short).await;
    assert_eq!(result["status"], "timed_out", "{result}");
    let asked = stage.model.requests().len();
    let (id, cancelled) = stage.server.begin_call("codex_run", call("hang")).await;
    while stage.model.requests().len() == asked {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let cancel = json!({"jsonrpc": "2.0", "method": "notifications/cancelled",
                        "params": {"requestId": id}});
    stage.server.send(&cancel).await;
    drop(cancelled);
    // Refused before anything is begun.
    for variables in [
        json!({format!("A={value}"): ""}),
        json!({"A": [value]}),
        json!({"A": {"b": value}}),
        json!({"A": format!("{value}\0")}),
        json!({"": value}),
        json!({"A": value.repeat(10_000)}),
        json!([value]),
        json!(format!("A={value}")),
    ] {
        let call = json!({"prompt": prompt, "env_vars": variables});
        let result = stage.server.call("codex_run", call).await;
        assert_eq!(result["error_kind"], "invalid_argument", "{result}");
    }
    stage.server.ready().await;
    told_on_the_command_line(&stage);
    let found = stage.check("after runs that failed", false);
    must_hold(&found, "prompt", &["runs/request.json", "cli/runs-list"]);
    assert!(!found.iter().any(|(place, _)| place == "server.log"), "log_prompts: {found:?}");
    stage.server.stop().await;
}

/// Runs the commands that print what there is, with the server's environment, into `cli`,
/// where the search finds it.
fn told_on_the_command_line(stage: &Stage) {
    let home = stage.server.home.path();
    // None are there if no run was begun.
    let runs = std::fs::read_dir(stage.server.runs()).into_iter().flatten().flatten();
    let ids: Vec<_> = runs.map(|run| run.file_name().into_string().unwrap()).collect();
    let mut commands: Vec<Vec<&str>> = vec![
        vec!["auth", "status"],
        vec!["auth", "status", "--json"],
        vec!["doctor"],
        vec!["doctor", "--json"],
        vec!["config", "show"],
        vec!["config", "check"],
        vec!["runs", "list"],
        vec!["runs", "list", "--json"],
        vec!["ps", "--json"],
        vec!["client-config", "codex"],
    ];
    for id in &ids {
        commands.push(vec!["runs", "show", id]);
        commands.push(vec!["runs", "show", id, "--json"]);
    }
    let mut said = Vec::new();
    for command in commands {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_mcp-codex-orchestrator"))
            .args(["--config", home.join("config.toml").to_str().unwrap()])
            .args(&command)
            .envs(stage.secrets.variables())
            .env("HTTPS_PROXY", format!("http://u:{}@127.0.0.1:1", stage.secrets.get("proxy")))
            .env("HOME", home)
            .env("XDG_STATE_HOME", home.join("state"))
            .env("RUST_LOG", "trace")
            .current_dir(home)
            .output()
            .unwrap();
        said.push((command.join("-"), [output.stdout, output.stderr].concat()));
    }
    for (name, bytes) in said {
        write(home.join("cli").join(name), &bytes);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_token_of_a_login_is_in_what_is_said_of_it() {
    need_engine!();
    let secrets = Secrets::new();
    let login = secrets.login();
    let key = secrets.get("auth.json access");
    let refresh = secrets.get("auth.json refresh");
    // Each with the beginning of what a run says; `None`: it succeeds.
    let cases = [
        (login.clone(), "chatgpt", None),
        (json!({"auth_mode": "apikey", "OPENAI_API_KEY": key}).to_string(), "auto", None),
        (login[..login.len() - 9].to_owned(), "auto", Some("no JSON")),
        (
            json!({"OPENAI_API_KEY": [key], "tokens": refresh}).to_string(),
            "auto",
            Some("auth.json"),
        ),
        (json!({"tokens": {"access_token": {"a": key}}}).to_string(), "auto", Some("auth.json")),
        (
            json!({"OPENAI_API_KEY": format!("{key}\n{refresh}")}).to_string(),
            "auto",
            Some("header"),
        ),
        (json!(format!("{key}")).to_string(), "chatgpt", Some("auth.json")),
    ];
    for (text, auth, want) in cases {
        let home = TempDir::new().unwrap();
        write(home.path().join(".codex/auth.json"), text.as_bytes());
        let workspace = home.path().join("project");
        make_workspace(&workspace);
        let model =
            ScriptedModel::start(Script::always(vec![Step::Say("ok".into())]).keeping_bodies())
                .await
                .unwrap();
        let options = Options::default()
            .no_model()
            .set("model", format!("base_url = {:?}\nauth = {auth:?}", model.base_url()))
            .set("pool", "max_size = 1")
            .env("RUST_LOG", "trace")
            // Whatever would be asked of a token server goes nowhere.
            .env("HTTPS_PROXY", "http://127.0.0.1:1");
        let server = Server::start_in(Script::always(vec![]), options, home, workspace).await;
        let mut stage = Stage { secrets: secrets.clone().for_logins(), server, model };
        let result = stage.server.run("go").await;
        match want {
            None => assert_eq!(result["success"], true, "{text}: {result}"),
            Some(want) => {
                let error = result["error"].as_str().unwrap_or_default();
                assert!(error.contains(want), "{error}\n{result}");
            }
        }
        stage.server.ready().await;
        told_on_the_command_line(&stage);
        stage.check("with a login", false);
        stage.server.stop().await;
    }
}

#[test]
fn a_setting_that_is_wrong_is_told_without_a_secret() {
    let secret = "Zq0123456789abcdefghijklmnop";
    for line in [
        format!("base_url = \"https://user:{secret}@example.invalid/v1\""),
        format!("base_url = \"https://example.invalid/v1?key={secret}\""),
        format!("base_url = \"{secret}\""),
        format!("base_url = \"https://user:{secret}@\""),
        format!("auth = \"{secret}\""),
        format!("api_key = \"{secret}\""),
        format!("headers = {{ authorization = \"Bearer {secret}\" }}"),
        format!("headers = \"{secret}\""),
        format!("query = {{ key = \"{secret}\" }}"),
        format!("headers = {{ x = \"{secret}\n\" }}"),
        format!("request_limit = \"{secret}\""),
        format!("headers = {{ \"x-{secret} = 1"),
    ] {
        let home = TempDir::new().unwrap();
        write(home.path().join("config.toml"), format!("[model]\n{line}\n").as_bytes());
        for command in [&["config", "check"][..], &["config", "show"], &["doctor"], &["run", "go"]]
        {
            let output = crate::support::cli(home.path(), command);
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8_lossy(&said);
            assert!(!said.contains(secret), "{line}, {command:?}: {said}");
            assert!(!output.status.success() || command[0] != "run", "{line}, {command:?}: {said}");
        }
    }
}
