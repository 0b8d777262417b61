//! Secrets by every route, searched for in every place: one that is where it need not be fails the
//! test by name and place. `docs/credentials.md` has the table of what this checks.

mod evidence;
mod failing;
mod ground;
mod search;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Instant;

use mcp_codex_orchestrator::model::scripted::{Fault, Script, ScriptedModel, Step};
use serde_json::json;
use tempfile::TempDir;

use self::evidence::{docker, gather, memory_is_readable, write};
use self::ground::Secrets;
use crate::need_engine;
use crate::support::docker::containers_of;
use crate::support::{Options, PATIENCE, Server, await_answer, make_workspace};

/// A server with all secrets laid out around it, whose model is reached through a proxy.
struct Stage {
    secrets: Secrets,
    server: Server,
    model: ScriptedModel,
}

impl Stage {
    async fn start(script: impl FnOnce(&Secrets) -> Script, log_prompts: bool) -> Self {
        let secrets = Secrets::new();
        let home = TempDir::new().unwrap();
        secrets.lay_out_home(home.path());
        let workspace = home.path().join("project");
        make_workspace(&workspace);
        secrets.lay_out_workspace(&workspace);
        let model = ScriptedModel::start(script(&secrets).keeping_bodies()).await.unwrap();
        let proxy = format!("http://user:{}@{}", secrets.get("proxy"), model.address());
        let mut options = Options::default()
            .no_model()
            .set("model", "base_url = \"http://provider.invalid/v1\"")
            .set("model", "headers = { x-more = \"env:MODEL_HEADER\" }")
            .set("model", "query = { more = \"env:MODEL_QUERY\" }")
            .set("pool", "max_size = 1")
            .set("run", "min_timeout = \"1s\"")
            .set("server", format!("log_prompts = {log_prompts}"))
            .env("RUST_LOG", "trace,rmcp=trace")
            .env("TMPDIR", home.path().join("tmp").to_str().unwrap())
            .env("HTTP_PROXY", proxy.clone())
            .env("HTTPS_PROXY", proxy)
            .env("PATH", git_that_tells(home.path()));
        for (name, value) in secrets.variables() {
            options = options.env(name, value);
        }
        let server = Server::start_in(Script::always(vec![]), options, home, workspace).await;
        Self { secrets, server, model }
    }

    /// Searches everything, and gives what was found after a check against what may be.
    fn check(&self, when: &str, running: bool) -> BTreeSet<(String, &'static str)> {
        let evidence = TempDir::new().unwrap();
        let searcher = self.secrets.searcher();
        // It takes half a minute, and nothing can be written there.
        let image = running.then_some(&searcher);
        gather(&self.server, image, evidence.path());
        self.gather_model(evidence.path());
        let found: BTreeSet<_> = searcher
            .search(evidence.path())
            .into_iter()
            .map(|(path, name)| (without_ids(&path), name))
            .collect();
        let wrong: Vec<_> = found
            .iter()
            .filter(|(place, name)| {
                let secret = self.secrets.iter().find(|secret| secret.name == *name).unwrap();
                let may = secret.may.iter().any(|may| place.starts_with(may));
                // The copy of the workspace waits in its container for the next run.
                let waits = place.starts_with("container/file/app/");
                let leaves = place.starts_with("container/") && !secret.stays && !waits;
                !may || (!running && leaves)
            })
            .collect();
        assert!(wrong.is_empty(), "{when}, secrets are where they may not be: {wrong:#?}");
        found
    }

    /// What reached the provider (and the proxy before it).
    fn gather_model(&self, to: &Path) {
        for request in self.model.requests() {
            let id = request.id;
            write(to.join(format!("model/path-{id}")), request.path.as_bytes());
            let headers = format!("{:?}", request.headers);
            write(to.join(format!("model/headers-{id}")), headers.as_bytes());
            let body = request.body.unwrap_or_default().to_string();
            write(to.join(format!("model/body-{id}")), body.as_bytes());
        }
    }

    fn container(&self) -> String {
        let all = containers_of(self.server.pid);
        all[0].split(' ').next().unwrap().to_owned()
    }
}

/// A `PATH` whose git leaves its environment and arguments in `git/`.
fn git_that_tells(home: &Path) -> String {
    let path = std::env::var("PATH").unwrap();
    let real = std::env::split_paths(&path).map(|dir| dir.join("git")).find(|git| git.exists());
    let script = format!(
        "#!/bin/sh\n{{ env; printf '%s\\n' \"$@\"; }} > {0}/git/$$\nexec {1} \"$@\"\n",
        home.display(),
        real.unwrap().display()
    );
    std::fs::create_dir(home.join("git")).unwrap();
    let shim = home.join("bin/git");
    write(shim.clone(), script.as_bytes());
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(shim, mode).unwrap();
    format!("{}/bin:{path}", home.display())
}

/// The place without run ids.
fn without_ids(path: &str) -> String {
    let parts = path.split('/').filter(|part| uuid::Uuid::try_parse(part).is_err());
    parts.collect::<Vec<_>>().join("/")
}

#[track_caller]
fn must_hold(found: &BTreeSet<(String, &'static str)>, name: &str, places: &[&str]) {
    for place in places {
        let has = found.iter().any(|(path, found)| *found == name && path.starts_with(place));
        assert!(has, "{name} was not found in {place}: {found:#?}");
    }
}

fn waiting() -> Script {
    let wait = "touch ready; until [ -e go ]; do sleep 0.05; done; rm ready go; \
                printf %s \"$DEPLOY_TOKEN\" | sha256sum > proof";
    Script::always(vec![Step::run(wait), Step::Say("Done.".into())])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_is_where_it_need_not_be_during_a_run_and_after_it() {
    need_engine!();
    let mut stage = Stage::start(|_| waiting(), true).await;
    stage.server.ready().await;
    stage.check("before the run", false);
    let value = stage.secrets.get("env_vars").to_owned();
    let call = json!({
        "prompt": format!("Use {}", stage.secrets.get("prompt")),
        "env_vars": {"DEPLOY_TOKEN": format!("\"\\\n{value}'")},
    });
    let (_, answer) = stage.server.begin_call("codex_run", call).await;
    let container = stage.container();
    let began = Instant::now();
    while docker(&["exec", &container, "sh", "-c", "ls /app"], "")
        .split(|byte| *byte == b'\n')
        .all(|name| name != b"ready")
    {
        assert!(began.elapsed() < PATIENCE, "the command did not begin\n{}", stage.server.log());
    }
    let found = stage.check("during the run", true);
    // The searcher sees all of it: what belongs there is found.
    must_hold(
        &found,
        "env_vars",
        &["container/file/home/codex/.codex/call.config.toml", "container/process/environ/bash"],
    );
    must_hold(&found, "prompt", &["runs/request.json", "model/body"]);
    if memory_is_readable() {
        must_hold(&found, "env_vars", &["container/process/memory/bash"]);
        must_hold(&found, "prompt", &["container/process/memory/codex"]);
    }
    must_hold(&found, ".env file", &["container/file/app/.env"]);
    must_hold(&found, "committed", &["container/file/app/.git/objects"]);
    for name in ["OPENAI_API_KEY", "header", "proxy"] {
        must_hold(&found, name, &["model/headers"]);
    }
    must_hold(&found, "query", &["model/path"]);
    docker(&["exec", &container, "touch", "/app/go"], "");
    let answer = await_answer(answer, stage.server.home.path()).await;
    let result = &answer["result"]["structuredContent"];
    assert_eq!(result["success"], true, "{answer}");
    // The value arrived whole.
    let want = {
        use sha2::Digest;
        let digest = sha2::Sha256::digest(format!("\"\\\n{value}'"));
        digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    assert!(stage.server.read("proof").starts_with(&want), "{}", stage.server.read("proof"));
    stage.server.ready().await;
    assert_eq!(stage.container(), container, "it was reset, not destroyed");
    let found = stage.check("after the run", false);
    must_hold(&found, "prompt", &["runs/request.json", "runs/log.jsonl", "server.log"]);
    let run = stage.server.runs().join(result["run_id"].as_str().unwrap());
    let request = std::fs::read_to_string(run.join("request.json")).unwrap();
    assert!(request.contains("DEPLOY_TOKEN"), "the name is on record: {request}");
    stage.server.stop().await;
}
