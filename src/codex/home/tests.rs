use tempfile::TempDir;

use super::*;

fn home(files: &[(&str, &str)]) -> TempDir {
    let home = TempDir::new().unwrap();
    for (name, text) in files {
        std::fs::write(home.path().join(name), text).unwrap();
    }
    home
}

fn all() -> Host {
    Host { everything: true, ..Host::default() }
}

#[test]
fn model_and_effort_are_taken_over_and_nothing_else_unless_it_is_asked_for() {
    let text = "model = \"gpt-5.5\"\nmodel_reasoning_effort = \"high\"\nmodel_verbosity = \"low\"\n\
                notify = [\"/usr/bin/notify\"]\n[mcp_servers.x]\ncommand = \"x\"\n";
    let home = home(&[("config.toml", text)]);
    let inherited = read(home.path(), &Host::default());
    let want = Inherited {
        model: Some("gpt-5.5".into()),
        effort: Some("high".into()),
        ..Inherited::default()
    };
    assert_eq!(inherited, want);
    let inherited = read(home.path(), &all());
    assert_eq!(inherited.settings, "model_verbosity = \"low\"".parse().unwrap());
    let line = inherited.line(Path::new("/h"));
    assert_eq!(
        line,
        "model gpt-5.5, effort high, model_verbosity of /h; left out: mcp_servers (of this machine), \
         notify (of this machine)"
    );
}

#[test]
fn what_names_the_host_is_left_out_and_named_without_its_value() {
    let text = "personality = \"pragmatic\"\nweb_search = \"live\"\nsome_text = \"/home/u/x\"\n\
                model_instructions_file = \"x.md\"\n[features]\nplugins = true\nfine = true\n\
                [section]\napi_key = \"hunter2\"\nurl = \"http://hunter2\"\n\
                list = [{ a = \"~/hunter2\" }]\n[model_providers.azure]\nbase_url = \"hunter2\"\n";
    let home = home(&[("config.toml", text)]);
    let inherited = read(home.path(), &all());
    let want = "personality = \"pragmatic\"\n[features]\nfine = true\n";
    assert_eq!(inherited.settings, want.parse().unwrap());
    let line = inherited.line(home.path());
    for named in [
        "web_search (set for containers)",
        "features.plugins (set for containers)",
        "some_text (names this machine)",
        "model_instructions_file (of this machine)",
        "section.api_key",
        "section.url",
        "section.list",
        "model_providers",
    ] {
        assert!(line.contains(named), "{named} is not in {line}");
    }
    assert!(!line.contains("hunter2"), "{line}");
}

#[test]
fn a_model_of_another_provider_is_no_model_of_ours() {
    for (text, model) in [
        ("model = \"llama\"\nmodel_provider = \"ollama\"", None),
        ("model = \"gpt-5.5\"\nmodel_provider = \"openai\"", Some("gpt-5.5")),
        ("model = \"a b\"", None),
        ("model = \"/models/x\"", None),
        ("model = 5", None),
        ("model = \"\"", None),
    ] {
        let home = home(&[("config.toml", text)]);
        let inherited = read(home.path(), &Host::default());
        assert_eq!(inherited.model.as_deref(), model, "{text}");
        assert_eq!(inherited.left_out.len(), usize::from(model.is_none()), "{inherited:?}");
    }
}

#[test]
fn a_file_that_cannot_be_used_is_named_and_costs_nothing_else() {
    let home = home(&[("config.toml", "key = \"hunter2\nmodel = 1"), ("AGENTS.md", "Be brief.\n")]);
    let inherited = read(home.path(), &all());
    assert_eq!(inherited.left_out, ["config.toml (it is no TOML)"]);
    assert_eq!(inherited.agents.as_deref(), Some("Be brief.\n"));
    let config = home.path().join("config.toml");
    let large = format!("model = \"m\"\n# {}", "x".repeat(1 << 20));
    std::fs::write(&config, large).unwrap();
    assert_eq!(read(home.path(), &all()).left_out, ["config.toml (it is over 1024 KiB)"]);
    std::fs::write(&config, b"\xff").unwrap();
    assert_eq!(read(home.path(), &all()).left_out, ["config.toml (it is not UTF-8)"]);
    std::fs::remove_file(&config).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, &config, rustix::fs::Mode::RWXU).unwrap();
    assert_eq!(read(home.path(), &all()).left_out, ["config.toml (it is no file)"]);
    std::fs::remove_file(&config).unwrap();
    std::fs::create_dir(&config).unwrap();
    assert_eq!(read(home.path(), &all()).left_out, ["config.toml (it is no file)"]);
    assert_eq!(read(Path::new("/nonexistent"), &all()), Inherited::default());
}

#[test]
fn agents_md_comes_without_lines_that_name_the_home_directory() {
    let text = "Be brief.\nSee /home/u/notes.md first.\nThe project is /home/u/work/p/src.\n\
                /home/ulrich is somebody else.\n";
    let home = home(&[("AGENTS.md", text), ("AGENTS.override.md", " \n")]);
    let host = Host {
        home: Some("/home/u".into()),
        workspaces: vec!["/home/u/work/p".into()],
        everything: false,
    };
    let inherited = read(home.path(), &host);
    let want = "Be brief.\nThe project is /home/u/work/p/src.\n/home/ulrich is somebody else.\n";
    assert_eq!(inherited.agents.as_deref(), Some(want));
    assert_eq!(
        inherited.left_out,
        ["1 lines of AGENTS.md that name the home directory of this machine"]
    );
    std::fs::write(home.path().join("AGENTS.override.md"), "Instead.").unwrap();
    assert_eq!(read(home.path(), &host).agents.as_deref(), Some("Instead."));
}
