use std::time::Duration;

use super::*;

fn loaded(text: &str, variables: &[(&str, &str)]) -> Result<Loaded, String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("c.toml");
    std::fs::write(&path, text).unwrap();
    let overrides = Overrides { config: Some(path), workspace: None };
    load(&overrides, |name| {
        variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).into())
    })
    .map_err(|error| error.to_string().replace(&format!("{}/", directory.path().display()), ""))
}

fn refused(text: &str) -> String {
    loaded(text, &[]).unwrap_err()
}

#[test]
fn every_key_has_its_default() {
    let config = loaded("", &[]).unwrap().config;
    assert_eq!(config.pool.min_idle, 1);
    assert_eq!(config.pool.max_age, Duration::from_secs(6 * 3600));
    assert_eq!(config.container.memory, 4 << 30);
    assert_eq!(config.workspace.max_bytes, 2 << 30);
    assert_eq!(config.run.timeout, Duration::from_secs(300));
    assert_eq!(config.server.shutdown_grace, Duration::from_millis(1500));
}

#[test]
fn every_key_of_the_default_is_explained() {
    let mut explained = false;
    for line in DEFAULT_TOML.lines() {
        if line.starts_with('#') {
            explained = true;
        } else if line.contains(" = ") {
            assert!(explained, "{line}");
            explained = false;
        }
    }
}

#[test]
fn a_file_changes_only_the_keys_it_has() {
    let config = loaded("[pool]\nmax_size = 9\n[container]\ncpus = 2\n", &[]).unwrap().config;
    assert_eq!((config.pool.min_idle, config.pool.max_size), (1, 9));
    assert!((config.container.cpus - 2.0).abs() < f64::EPSILON);
}

#[test]
fn the_environment_goes_before_the_file() {
    let text = "[container]\nimage = \"a\"\n[run]\ntimeout = \"20s\"\n";
    let loaded =
        loaded(text, &[("CODEX_IMAGE", "b"), ("CODEX_TIMEOUT", "90"), ("CODEX_WORKSPACE", "/w")])
            .unwrap();
    assert_eq!(loaded.config.container.image, "b");
    assert_eq!(loaded.config.run.timeout, Duration::from_secs(90));
    assert_eq!(loaded.config.workspace.path, Path::new("/w"));
    assert!(loaded.to_toml().contains("image = \"b\"  # CODEX_IMAGE\n"));
}

#[test]
fn codex_timeout_may_be_a_duration_and_empty_variables_are_absent() {
    let config = loaded("", &[("CODEX_TIMEOUT", "2m"), ("CODEX_IMAGE", "")]).unwrap().config;
    assert_eq!(config.run.timeout, Duration::from_secs(120));
    assert_eq!(config.container.image, "codex-runner:latest");
}

#[test]
fn a_flag_goes_before_the_environment() {
    let overrides = Overrides { config: None, workspace: Some("/flag".into()) };
    let loaded =
        load(&overrides, |name| (name == "CODEX_WORKSPACE").then(|| "/env".to_owned())).unwrap();
    assert_eq!(loaded.config.workspace.path, Path::new("/flag"));
}

#[test]
fn a_tilde_is_the_home_directory() {
    let text = "[workspace]\npath = \"~/w\"\nallowed = [\"~\"]\n";
    let config = loaded(text, &[("HOME", "/home/u")]).unwrap().config;
    assert_eq!(config.workspace.path, Path::new("/home/u/w"));
    assert_eq!(config.workspace.allowed, [PathBuf::from("/home/u/")]);
}

#[test]
fn headers_may_name_variables_and_are_shown_as_they_stand() {
    let text = "[model]\nheaders = { \"api-key\" = \"env:AZURE_KEY\" }\n[model.query]\n\
                \"api-version\" = \"preview\"\n";
    let loaded = loaded(text, &[("AZURE_KEY", "secret")]).unwrap();
    assert_eq!(loaded.config.model.headers["api-key"], "env:AZURE_KEY");
    assert_eq!(loaded.config.model.query["api-version"], "preview");
    let shown: toml::Table = loaded.to_toml().parse().unwrap();
    assert_eq!(shown["model"]["headers"]["api-key"].as_str(), Some("env:AZURE_KEY"));
}

#[test]
fn every_mistake_gets_its_sentence() {
    for (text, sentence) in [
        (
            "[pool]\nmin_idel = 2\n",
            "c.toml:2: unknown key \"pool.min_idel\"; did you mean \"pool.min_idle\"?",
        ),
        (
            "[run]\n\n\nmemory = 2\n",
            "c.toml:4: unknown key \"run.memory\"; did you mean \"container.memory\"?",
        ),
        ("[poool]\n", "c.toml:1: unknown key \"poool\"; did you mean \"pool\"?"),
        (
            "[zzz]\n",
            "c.toml:1: unknown key \"zzz\"; `mcp-codex-orchestrator config default` prints all \
             keys",
        ),
        ("pool = 3\n", "c.toml:1: pool must be a section, written [pool]"),
        (
            "[pool]\nmin_idle = \"two\"\n",
            "c.toml:2: pool.min_idle must be a whole number, but is \"two\"",
        ),
        ("[pool]\nmin_idle = -1\n", "c.toml:2: pool.min_idle is -1, which is out of range"),
        (
            "[pool]\nacquire_timeout = 60\n",
            "c.toml:2: pool.acquire_timeout must be a duration such as \"5m\", but is 60",
        ),
        (
            "[pool]\nacquire_timeout = \"soon\"\n",
            "c.toml:2: pool.acquire_timeout must be a duration such as \"5m\", but is \"soon\"",
        ),
        (
            "[container]\nmemory = 4\n",
            "c.toml:2: container.memory must be a size such as \"2GiB\", but is 4",
        ),
        (
            "[container]\nmemory = \"much\"\n",
            "c.toml:2: container.memory must be a size such as \"2GiB\", but is \"much\"",
        ),
        (
            "[container]\nread_only = \"yes\"\n",
            "c.toml:2: container.read_only must be true or false, but is \"yes\"",
        ),
        (
            "[model]\nheaders = \"sk-0123456789\"\n",
            "c.toml:2: model.headers must be a table of strings such as { \"name\" = \"value\" }",
        ),
        (
            "[model]\nheaders = { \"api-key\" = \"abc\" }\n",
            "c.toml:2: model.headers has a value for \"api-key\" that looks like a secret; put it \
             into an environment variable NAME and write \"env:NAME\"",
        ),
        (
            "[model]\n[model.query]\nx = \"sk-0123456789\"\n",
            "c.toml:2: model.query has a value for \"x\" that looks like a secret; put it into an \
             environment variable NAME and write \"env:NAME\"",
        ),
        (
            "[model]\nheaders = { \"a b\" = \"c\" }\n",
            "c.toml:2: model.headers has a name that no header may have: \"a b\"",
        ),
        (
            "[model]\nheaders = { Host = \"c\" }\n",
            "c.toml:2: model.headers must not set \"Host\", which belongs to the connection",
        ),
        (
            "[model]\nmax_concurrent = 0\n",
            "c.toml:2: model.max_concurrent must be from 1 to 1000, but is 0",
        ),
        (
            "[model]\nidle_timeout = \"1ms\"\n",
            "c.toml:2: model.idle_timeout must be from 1s to 1h, but is 1ms",
        ),
        (
            "[workspace]\nallowed = [1]\n",
            "c.toml:2: workspace.allowed must be a list of strings, but is a list",
        ),
        (
            "[pool]\nrecycle = \"maybe\"\n",
            "c.toml:2: pool.recycle has the unknown value \"maybe\", expected \"reset\" or \
             \"destroy\"",
        ),
        ("[pool]\nmin_idle = 5\n", "c.toml:2: pool.min_idle is 5, over pool.max_size, which is 4"),
        ("[pool]\nmax_size = 0\n", "c.toml:2: pool.max_size must be from 1 to 256, but is 0"),
        (
            "[run]\nmin_timeout = \"2h\"\n",
            "c.toml:2: run.min_timeout is 2h, over run.max_timeout, which is 1h",
        ),
        (
            "[run]\nmax_timeout = \"2m\"\n",
            "c.toml:2: run.max_timeout is 2m, under run.timeout, which is 5m",
        ),
        (
            "[server]\nlog = \"a=b=c\"\n",
            "c.toml:2: server.log must be a filter such as \"info\", but is \"a=b=c\"",
        ),
    ] {
        assert_eq!(refused(text), sentence);
    }
}

#[test]
fn what_is_no_toml_is_told_with_its_line() {
    let sentence = refused("[pool]\nmin_idle =\n");
    assert!(sentence.starts_with("c.toml:2: no valid TOML: "), "{sentence}");
    assert!(!sentence.contains('\n'));
}

#[test]
fn a_wrong_variable_is_named() {
    assert_eq!(
        loaded("", &[("CODEX_TIMEOUT", "2h")]).unwrap_err(),
        "CODEX_TIMEOUT: run.timeout is 2h, over run.max_timeout, which is 1h"
    );
    assert_eq!(
        loaded("", &[("CODEX_TIMEOUT", "-3")]).unwrap_err(),
        "CODEX_TIMEOUT: run.timeout must be a duration such as \"5m\", but is \"-3\""
    );
}

#[test]
fn a_file_that_was_named_must_exist() {
    let overrides = Overrides { config: Some("/nowhere/c.toml".into()), workspace: None };
    let error = load(&overrides, |_| None).unwrap_err();
    assert_eq!(error.to_string(), "/nowhere/c.toml cannot be read");
    assert!(
        load(&Overrides::default(), |name| (name == "HOME").then(|| "/nowhere".into())).is_ok()
    );
}

#[test]
fn hosts_that_cannot_be_allowed_are_refused_with_their_line() {
    for (lines, words) in [
        (
            "allow_hosts = [\"ok.example\", \"https://crates.example\"]",
            "c.toml:2: network.allow_hosts has \"https://crates.example\"",
        ),
        ("allow_hosts = [\"*\"]", "c.toml:2: network.allow_hosts has \"*\""),
        ("allow_hosts = [\"10.0.0.1\"]", "is an address"),
        ("mode = \"container:abc\"", "c.toml:2: network.mode must be"),
        ("mode = \"\"", "c.toml:2: network.mode must be"),
        (
            "mode = \"bridge\"\nallow_hosts = [\"crates.example\"]",
            "c.toml:3: network.allow_hosts limits nothing",
        ),
    ] {
        let error = refused(&format!("[network]\n{lines}\n"));
        assert!(error.contains(words), "{lines}: {error}");
    }
    for lines in
        ["mode = \"bridge\"", "mode = \"my-net_1\"", "allow_hosts = [\"*.example.com:8443\"]"]
    {
        loaded(&format!("[network]\n{lines}\n"), &[]).unwrap();
    }
}

#[test]
fn a_section_for_one_workspace_has_its_own_keys_and_is_found_by_whatever_path_leads_there() {
    use std::os::unix::fs::MetadataExt;

    use crate::workspace::WorkspaceKey;

    let directory = tempfile::tempdir().unwrap();
    let (real, link) = (directory.path().join("real"), directory.path().join("link"));
    std::fs::create_dir(&real).unwrap();
    std::os::unix::fs::symlink(&real, &link).unwrap();
    let text = format!("[repo.{link:?}]\nkeep_ignored = false\n[repo.\"/gone\"]\n");
    let loaded = loaded(&text, &[("HOME", "/home/x")]).unwrap();
    let found = std::fs::metadata(&real).unwrap();
    let key = WorkspaceKey { dev: found.dev(), ino: found.ino() };
    assert_eq!(loaded.config.repo_of(key).unwrap().keep_ignored, Some(false));
    assert_eq!(loaded.config.repo_of(WorkspaceKey { ino: 0, ..key }), None);
    let shown = loaded.to_toml();
    assert!(
        shown.contains(&format!("[repo.{link:?}]\nkeep_ignored = false  # c.toml:2\n"))
            || shown.contains("keep_ignored = false  # "),
        "{shown}"
    );
    assert!(shown.parse::<Table>().is_ok(), "{shown}");
}

#[test]
fn a_section_for_one_workspace_is_refused_where_it_is_wrong() {
    assert_eq!(
        refused("[repo.\"/w\"]\nkeep_ignord = true\n"),
        "c.toml:2: unknown key \"repo.\"/w\".keep_ignord\"; did you mean \"keep_ignored\"?"
    );
    assert_eq!(
        refused("[repo.\"/w\"]\nzzzzzzzz = true\n"),
        "c.toml:2: unknown key \"repo.\"/w\".zzzzzzzz\"; a section for one workspace has keep_ignored"
    );
    assert_eq!(
        refused("[repo.\"/w\"]\nkeep_ignored = 1\n"),
        "c.toml:2: repo.\"/w\".keep_ignored must be true or false, but is 1"
    );
    assert_eq!(refused("\n[repo.\"w\"]\n"), "c.toml:2: repo.\"w\" must be an absolute path");
    let form = "must be a section, written [repo.\"/path/of/a/workspace\"]";
    assert_eq!(
        refused("[repo]\nkeep_ignored = true\n"),
        format!("c.toml:2: repo.\"keep_ignored\" {form}")
    );
    assert_eq!(refused("repo = 1\n"), format!("c.toml:1: repo {form}"));
    assert_eq!(refused("[rep.\"/w\"]\n"), "c.toml:1: unknown key \"rep\"; did you mean \"repo\"?");
}

#[test]
fn the_configuration_of_codex_is_passed_on_as_it_is_but_for_what_has_a_place_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.toml");
    let read = |text: &str| {
        std::fs::write(&path, text).unwrap();
        let overrides = Overrides { config: Some(path.clone()), workspace: None };
        load(&overrides, |_| None)
    };
    let text = "[codex]\ninherit_config = true\n[codex.config]\nmodel_verbosity = \"low\"\n\
                [codex.config.mcp_servers.x]\ncommand = \"x\"\nargs = [1, true]\n";
    let loaded = read(text).unwrap();
    assert!(loaded.config.codex.inherit_config);
    let config = &loaded.config.codex.config;
    assert_eq!(config["mcp_servers"]["x"]["command"].as_str(), Some("x"));
    // What is shown can be read again.
    let again = read(&loaded.to_toml()).unwrap();
    assert_eq!(again.config.codex, loaded.config.codex);
    for (text, want) in [
        ("[codex]\nconfig = 5", "codex.config must be a table"),
        ("[codex.config]\nmodel = \"m\"", "codex.config may not have model: use codex.model"),
        ("[codex.config.model_providers.x]\na = 1", "use model.base_url"),
        ("[codex.config]\nsandbox_mode = \"read-only\"", "the container is the sandbox"),
    ] {
        let error = read(text).unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
    }
    let long = format!("[codex.config]\ndeveloper_instructions = \"{}\"", "x".repeat(200_000));
    assert!(read(&long).unwrap_err().to_string().contains("at most 100 KiB"));
}
