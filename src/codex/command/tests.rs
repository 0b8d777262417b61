use proptest::prelude::*;

use super::*;

fn vars(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
}

proptest! {
    #[test]
    fn every_table_is_read_back(
        table in proptest::collection::btree_map(any::<String>(), any::<String>(), 0..6),
    ) {
        let read: toml::Table = toml::from_str(&format!("x = {}", toml_table(&table))).unwrap();
        let read: BTreeMap<String, String> = read["x"].clone().try_into().unwrap();
        prop_assert_eq!(read, table);
    }
}

#[test]
fn the_command_line_has_neither_prompt_nor_env_vars_nor_credential() {
    let command = CodexCommand {
        prompt: "--help\nme".into(),
        model: Some("-x".into()),
        working_dir: Some(RelPath::new("a b/c").unwrap()),
        env_vars: vars(&[("A", "1\"2")]),
        ..CodexCommand::default()
    };
    let request = command.spawn_request("n").unwrap();
    assert_eq!(
        request.argv.join("\n"),
        "codex\nexec\n--json\n--dangerously-bypass-approvals-and-sandbox\n\
         --skip-git-repo-check\n--color\nnever\n-C\n/app/a b/c\n--ephemeral\n--model=-x\n\
         --profile=call\n-"
    );
    let [file] = &request.files[..] else { panic!("{:?}", request.files) };
    assert_eq!(file.path, ".codex/call.config.toml");
    let want = "[shell_environment_policy]\nset = {\"A\"=\"1\\\"2\"}\n";
    assert_eq!(file.contents, want);
    let shown = format!("{request:?} {command:?}");
    assert!(!shown.contains("1\\\"2") && !shown.contains("help"), "{shown}");
    assert_eq!(request.stdin, "--help\nme");
    assert_eq!(request.cwd, "/app/a b/c");
    assert_eq!(request.nonce, "n");
    assert!(!request.env.iter().any(|(name, _)| name == "A" || name.contains("KEY")));
}

#[test]
fn a_thread_is_written_down_only_if_it_is_kept_or_gone_on_with() {
    let id = ThreadId::parse("01a206e9-25ab-7c10-af1d-54aa4c6b91f5").unwrap();
    let resume = format!("resume\n{}\n-", id.as_str());
    for (keep_thread, resumes, is_ephemeral) in
        [(false, None, true), (true, None, false), (false, Some(id.clone()), false)]
    {
        let goes_on = resumes.is_some();
        let command = CodexCommand { keep_thread, resumes, ..CodexCommand::default() };
        let argv = command.spawn_request("n").unwrap().argv.join("\n");
        assert_eq!(argv.contains("--ephemeral"), is_ephemeral, "{argv}");
        assert_eq!(argv.ends_with(&resume), goes_on, "{argv}");
        assert_eq!(command.thread().unwrap().ephemeral, is_ephemeral);
    }
}

#[test]
fn settings_reach_codex_both_ways_and_files_before_it_starts() {
    let text = "a = 1\n[t]\nb = \"c\"\n[t.\"x.y\"]\nd = [1, 2]\n";
    let command = CodexCommand {
        effort: Some("high".into()),
        agents: Some("rules".into()),
        settings: text.parse().unwrap(),
        env_vars: vars(&[("A", "b")]),
        ..CodexCommand::default()
    };
    let request = command.spawn_request("n").unwrap();
    assert!(request.argv.join(" ").contains("-c model_reasoning_effort=\"high\" --profile=call -"));
    let [agents, config] = &request.files[..] else { panic!("{:?}", request.files) };
    assert_eq!((&*agents.path, &*agents.contents), (".codex/AGENTS.md", "rules"));
    let mut want: Table = text.parse().unwrap();
    want.insert(
        "shell_environment_policy".into(),
        "set = {A = \"b\"}".parse::<Table>().unwrap().into(),
    );
    assert_eq!(config.contents.parse::<Table>().unwrap(), want);
    assert_eq!(command.app_server_request("n").files, std::slice::from_ref(agents));
    let config = serde_json::to_value(command.thread().unwrap().config).unwrap();
    let want = serde_json::json!({
        "a": 1, "t": {"b": "c", "x.y": {"d": [1, 2]}}, "shell_environment_policy.set": {"A": "b"}
    });
    assert_eq!(config, want);
    assert_eq!(command.turn().effort.as_deref(), Some("high"));
}

#[test]
fn the_way_to_a_gateway_elsewhere_has_its_secret_in_the_environment_alone() {
    let mut request = CodexCommand::default().spawn_request("n").unwrap();
    let mut proxied = CodexCommand::default().spawn_request("n").unwrap();
    reach_proxy(&mut proxied);
    let proxied = proxied.env;
    for (env, want) in [(&request.env, false), (&proxied, true)] {
        assert_eq!(env.iter().any(|(name, _)| name == "https_proxy"), want);
    }
    reach_gateway(&mut request, 4711, "the secret");
    let argv = request.argv.join("\n");
    assert!(argv.contains("base_url=\"http://127.0.0.1:4711/v1\"") && argv.ends_with("\n-"));
    assert!(!argv.contains("secret"), "{argv}");
    let (name, value) = request.env.last().unwrap();
    assert!(argv.contains(name) && value == "the secret");
    for option in argv.split("\n-c\n").skip(1) {
        toml::from_str::<toml::Table>(option.trim_end_matches("\n-")).unwrap();
    }
}

#[test]
fn bad_env_vars_get_a_sentence_that_names_them_without_the_value() {
    for (pairs, want) in [
        (&[("", "secret")][..], "empty name"),
        (&[("A=secret", "")], "\"A=…\""),
        (&[("A\0", "secret")], "NUL"),
        (&[("A", "secret\0")], "\"A\""),
        (&[("A", &"secret".repeat(100_000))], "KiB"),
    ] {
        let refused = check_env_vars(&vars(pairs)).unwrap_err();
        assert!(refused.contains(want) && !refused.contains("secret"), "{refused}");
        let command = CodexCommand { env_vars: vars(pairs), ..CodexCommand::default() };
        let failure = command.spawn_request("n").unwrap_err();
        assert_eq!(failure.kind, ErrorKind::InvalidArgument);
    }
    check_env_vars(&vars(&[("a.b", "ü\n'\"\\"), ("_", "")])).unwrap();
}

#[test]
fn the_lean_configuration_is_toml_without_a_credential() {
    let config: toml::Table = toml::from_str(CONFIG).unwrap();
    assert_eq!(config["model_provider"].as_str(), Some("gateway"));
    assert!(!CONFIG.contains("env_key =") && !CONFIG.contains("bearer_token ="));
}
