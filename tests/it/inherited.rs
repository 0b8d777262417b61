//! What runs take over of the user's own Codex home, and what they do not.

use mcp_codex_orchestrator::model::scripted::{Script, Step};
use serde_json::{Value, json};

use crate::need_engine;
use crate::support::{Options, Server, cli};

const WAYS: [&str; 2] = ["exec", "app-server"];

const CONFIG: &str = "\
    model = \"gpt-5.5\"\n\
    model_reasoning_effort = \"high\"\n\
    model_verbosity = \"high\"\n\
    notify = [\"/usr/bin/host-notify\"]\n\
    [mcp_servers.host]\n\
    command = \"/usr/bin/host-mcp\"\n\
    [mcp_servers.host.env]\n\
    TOKEN = \"hunter2\"\n";

fn script() -> Script {
    let look = "(grep -rlE 'host-[mn]|hunter[2]' ~ 2> /dev/null; ls /tmp/mcp-began) > found.txt \
                2> /dev/null; true";
    Script::always(vec![Step::Say("Done.".into())])
        .with("look", vec![Step::run(look), Step::Say("Looked.".into())])
        .keeping_bodies()
}

/// Writes a file of the user's own Codex home.
fn write(server: &Server, name: &str, text: impl AsRef<[u8]>) {
    let home = server.home.path().join(".codex");
    std::fs::create_dir_all(&home).unwrap();
    std::fs::write(home.join(name), text).unwrap();
}

/// What the model was asked by a run with these arguments.
async fn asked(server: &mut Server, arguments: Value) -> Value {
    let result = server.call("codex_run", arguments).await;
    assert_eq!(result["success"], true, "{result}\n{}", server.log());
    server.model.as_ref().unwrap().requests().last().unwrap().body.clone().unwrap()
}

#[tokio::test]
async fn model_effort_and_agents_md_are_taken_over_and_nothing_of_the_host() {
    need_engine!();
    for way in WAYS {
        let options = Options::default()
            .set("codex", format!("start = \"{way}\""))
            .set("pool", "max_size = 1");
        let mut server = Server::start(script(), options).await;
        let plain = asked(&mut server, json!({"prompt": "plain"})).await;
        write(&server, "config.toml", CONFIG);
        write(&server, "AGENTS.md", format!("HOUSE-RULE\n{}/x\n", server.home.path().display()));

        let body = asked(&mut server, json!({"prompt": "look"})).await;
        assert_eq!(
            (&body["model"], &body["reasoning"]["effort"]),
            (&json!("gpt-5.5"), &json!("high"))
        );
        assert_ne!(body["text"]["verbosity"], "high", "{way}");
        let text = body.to_string();
        assert!(text.contains("HOUSE-RULE"), "{way}: {text}");
        for foreign in ["host-mcp", "host-notify", "hunter2", server.home.path().to_str().unwrap()]
        {
            assert!(!text.contains(foreign), "{way} {foreign}: {text}");
        }
        assert_eq!(server.read("found.txt"), "", "{way}");

        // The call's own model wins, and a change counts at once.
        let body = asked(&mut server, json!({"prompt": "x", "model": "gpt-5"})).await;
        assert_eq!(body["model"], "gpt-5", "{way}");
        write(&server, "config.toml", "model_reasoning_effort = \"low\"\n");
        std::fs::remove_file(server.home.path().join(".codex/AGENTS.md")).unwrap();
        let body = asked(&mut server, json!({"prompt": "x"})).await;
        assert_eq!(
            (&body["model"], &body["reasoning"]["effort"]),
            (&plain["model"], &json!("low"))
        );
        assert!(!body.to_string().contains("HOUSE-RULE"), "{way}");
        server.stop().await;
    }
}

#[tokio::test]
async fn the_rest_comes_only_if_it_is_asked_for_and_what_is_configured_wins() {
    need_engine!();
    for way in WAYS {
        let options = Options::default()
            .set(
                "codex",
                format!("start = \"{way}\"\nmodel = \"gpt-6.1-sol\"\ninherit_config = true"),
            )
            .set("codex.config", "model_reasoning_effort = \"medium\"")
            .set("codex.config.mcp_servers.inside", "command = \"sh\"")
            .set("codex.config.mcp_servers.inside", "args = [\"-c\", \"touch /tmp/mcp-began\"]");
        let mut server = Server::start(script(), options).await;
        write(&server, "config.toml", CONFIG);
        let body = asked(&mut server, json!({"prompt": "look", "env_vars": {"A": "b"}})).await;
        assert_eq!(
            (&body["model"], &body["reasoning"]["effort"]),
            (&json!("gpt-6.1-sol"), &json!("medium"))
        );
        assert_eq!(body["text"]["verbosity"], "high", "{way} {}", body["text"]);
        assert_eq!(server.read("found.txt"), "/tmp/mcp-began\n", "{way}");
        let _ = asked(&mut server, json!({"prompt": "x"})).await;
        let log = server.log();
        let told = log.matches("mcp_servers (of this machine)").count();
        assert_eq!(told, 1, "{log}");
        assert!(!log.contains("hunter2") && !log.contains("host-mcp"), "{log}");
        let doctor = cli(server.home.path(), &["doctor"]);
        let doctor = String::from_utf8(doctor.stdout).unwrap();
        assert!(doctor.contains("left out: mcp_servers (of this machine), notify"), "{doctor}");
        server.stop().await;
    }
}

#[tokio::test]
async fn files_that_cannot_be_used_cost_a_warning_and_no_run() {
    need_engine!();
    let mut server = Server::start(script(), Options::default()).await;
    let plain = asked(&mut server, json!({"prompt": "plain"})).await;
    for (text, why) in [
        (b"model = \"gpt-5.5\nhunter2".to_vec(), "config.toml (it is no TOML)"),
        ([b"model = \"gpt-5.5\"\n#".to_vec(), vec![b'x'; 2 << 20]].concat(), "over 1024 KiB"),
        (b"model = \"two words\"".to_vec(), "model (it is no name)"),
    ] {
        write(&server, "config.toml", text);
        let body = asked(&mut server, json!({"prompt": "x"})).await;
        assert_eq!(body["model"], plain["model"]);
        assert!(server.log().contains(why), "{why}: {}", server.log());
        assert!(!server.log().contains("hunter2"));
    }
    server.stop().await;
}
