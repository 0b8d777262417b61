//! The secrets: one by every route, each with the places where it may be.

use std::fs;
use std::path::Path;

use serde_json::json;

use super::evidence::write;
use super::search::Searcher;
use crate::support::git;

/// A secret and where it may be: beginnings of places in the evidence.
#[derive(Clone)]
pub(super) struct Secret {
    pub(super) name: &'static str,
    pub(super) value: String,
    /// While the run goes on.
    pub(super) may: &'static [&'static str],
    /// In the container after its reset.
    pub(super) stays: bool,
}

/// All that are laid out.
#[derive(Clone)]
pub(super) struct Secrets(Vec<Secret>);

/// Secrets that may be nowhere.
const NOWHERE: [&str; 24] = [
    "auth.json access",
    "auth.json refresh",
    "auth.json id",
    "auth.json account",
    "AWS variable",
    "GITHUB_TOKEN",
    "gitconfig url",
    "gitconfig header",
    "gitconfig helper",
    "netrc",
    "git-credentials",
    "ssh",
    "docker config",
    "remote url",
    "remote insteadOf",
    "extraheader",
    "credential helper",
    "branch remote",
    "submodule url",
    "worktree config",
    "FETCH_HEAD",
    "reflog",
    "hook",
    "docker/.env",
];

/// What goes to the provider and nowhere else.
const PROVIDER: [&str; 4] = ["OPENAI_API_KEY", "header", "query", "proxy"];

impl Secrets {
    pub(super) fn new() -> Self {
        let made = |name, may, stays| Secret { name, value: random(), may, stays };
        let mut all: Vec<_> = NOWHERE.map(|name| made(name, &[][..], false)).into();
        all.extend(PROVIDER.map(|name| made(name, &["model/headers", "model/path"][..], false)));
        all.push(made(
            "env_vars",
            &[
                // What reads them, what the commands get, and the memory of both.
                "container/file/home/codex/.codex/call.config.toml",
                "container/process/environ/bash",
                "container/process/environ/sleep",
                "container/process/memory/",
            ],
            false,
        ));
        all.push(made(
            "prompt",
            &[
                "container/file/home/codex/.codex/",
                "container/process/memory/",
                "model/body",
                "runs/request.json",
                "runs/log.jsonl",
                "server.log",
                "cli/runs-list",
            ],
            false,
        ));
        // Controls: what the workspace holds goes where Codex works, and to nothing else.
        all.push(made(
            ".env file",
            &["container/file/app/.env", "container/process/memory/"],
            false,
        ));
        all.push(made("committed", &["container/file/app/", "container/process/memory/"], false));
        Self(all)
    }

    /// The same where the login is what is used: its access token and account go to the provider.
    pub(super) fn for_logins(mut self) -> Self {
        for secret in &mut self.0 {
            if ["auth.json access", "auth.json account"].contains(&secret.name) {
                secret.may = &["model/headers"];
            }
        }
        self
    }

    pub(super) fn get(&self, name: &str) -> &str {
        &self.0.iter().find(|secret| secret.name == name).unwrap().value
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Secret> {
        self.0.iter()
    }

    pub(super) fn searcher(&self) -> Searcher {
        let mut searcher = Searcher::default();
        for secret in &self.0 {
            searcher.add(secret.name, &secret.value);
        }
        searcher
    }

    fn url(&self, name: &str) -> String {
        format!("https://user:{}@example.invalid/x.git", self.get(name))
    }

    /// The variables of the server's environment.
    pub(super) fn variables(&self) -> Vec<(&'static str, String)> {
        [
            ("OPENAI_API_KEY", "OPENAI_API_KEY"),
            ("MODEL_HEADER", "header"),
            ("MODEL_QUERY", "query"),
            ("AWS_SECRET_ACCESS_KEY", "AWS variable"),
            ("GITHUB_TOKEN", "GITHUB_TOKEN"),
        ]
        .map(|(variable, name)| (variable, self.get(name).to_owned()))
        .into()
    }

    /// `auth.json` of a ChatGPT login.
    pub(super) fn login(&self) -> String {
        let part = |text: &str| {
            base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, text)
        };
        let ends = jiff::Timestamp::now().as_second() + 86_400;
        let token = |name: &str| {
            let claims = json!({"exp": ends, "email": "user@example.invalid"}).to_string();
            format!("{}.{}.{}", part(r#"{"alg":"none"}"#), part(&claims), self.get(name))
        };
        json!({"auth_mode": "chatgpt", "OPENAI_API_KEY": null, "last_refresh": "2026-01-01T00:00:00Z",
               "tokens": {"id_token": token("auth.json id"),
                          "access_token": token("auth.json access"),
                          "refresh_token": self.get("auth.json refresh"),
                          "account_id": self.get("auth.json account")}})
        .to_string()
    }

    /// The files of a home directory.
    pub(super) fn lay_out_home(&self, home: &Path) {
        let line = |name: &str| format!("{}\n", self.get(name));
        let basic = format!("{}:x", self.get("docker config"));
        let basic =
            base64::Engine::encode(&base64::engine::general_purpose::STANDARD, basic.as_bytes());
        for (path, text) in [
            (".codex/auth.json", self.login()),
            (".netrc", format!("machine example.invalid login u password {}", line("netrc"))),
            (".git-credentials", self.url("git-credentials")),
            (".ssh/id_ed25519", line("ssh")),
            (".docker/config.json", json!({"auths": {"r": {"auth": basic}}}).to_string()),
            ("docker/.env", format!("OPENAI_API_KEY={}", line("docker/.env"))),
            (
                ".gitconfig",
                format!(
                    "[url \"{}\"]\n insteadOf = https://example.invalid/\n[http]\n extraheader = \
                     Authorization: {}[credential]\n helper = \"!echo {}\"\n[user]\n name = U\n \
                     email = u@example.invalid\n",
                    self.url("gitconfig url"),
                    line("gitconfig header"),
                    self.get("gitconfig helper")
                ),
            ),
        ] {
            write(home.join(path), text.as_bytes());
        }
        fs::create_dir_all(home.join("tmp")).unwrap();
    }

    /// What a repository of somebody who has put passwords everywhere holds.
    pub(super) fn lay_out_workspace(&self, workspace: &Path) {
        let set = |key: &str, value: &str| git(workspace, &["config", key, value]);
        let sub = workspace.parent().unwrap().join("sub");
        crate::support::make_workspace(&sub);
        let from = sub.to_str().unwrap();
        let add = ["-c", "protocol.file.allow=always", "submodule", "add", "-q", from, "sub"];
        git(workspace, &add);
        git(&workspace.join("sub"), &["config", "remote.origin.url", &self.url("submodule url")]);
        fs::write(workspace.join("kept.txt"), self.get("committed")).unwrap();
        git(workspace, &["add", "-A"]);
        git(workspace, &["commit", "-q", "-m", "second"]);
        fs::write(workspace.join("kept.txt"), "cleared\n").unwrap();
        fs::write(workspace.join(".gitignore"), "target/\n.env\n").unwrap();
        fs::write(workspace.join(".env"), self.get(".env file")).unwrap();
        set("remote.origin.url", &self.url("remote url"));
        let key = format!("url.{}.insteadOf", self.url("remote insteadOf"));
        set(&key, "https://example.invalid/");
        set("http.extraheader", &format!("Authorization: Basic {}", self.get("extraheader")));
        set("credential.helper", &format!("!echo {}", self.get("credential helper")));
        set("branch.main.remote", &self.url("branch remote"));
        set("extensions.worktreeConfig", "true");
        let hidden = workspace.join(".git");
        let line = |name: &str| format!("{}\n", self.url(name));
        fs::write(
            hidden.join("config.worktree"),
            format!("[remote \"w\"]\n\turl = {}", line("worktree config")),
        )
        .unwrap();
        let head = git(workspace, &["rev-parse", "HEAD"]);
        let fetched = format!("{}\t\tbranch 'main' of {}", head.trim(), line("FETCH_HEAD"));
        fs::write(hidden.join("FETCH_HEAD"), fetched).unwrap();
        let cloned = format!("clone: from {}", self.url("reflog"));
        git(workspace, &["update-ref", "--create-reflog", "-m", &cloned, "refs/heads/b", "HEAD"]);
        fs::write(hidden.join("hooks/pre-commit"), line("hook")).unwrap();
    }
}

fn random() -> String {
    format!("Zq{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple())[..40].to_owned()
}
