//! Commits of every kind of repository, taken back, taken over, and kept from coming.

use std::path::{Path, PathBuf};

use mcp_codex_orchestrator::model::scripted::{Script, Step};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::need_engine;
use crate::support::{Options, Server, cli, git, make_workspace};

const COMMIT: &str = "echo x > x; echo '// x' >> src/lib.rs; git add x; \
                      git commit -qm x -- x src/lib.rs";

fn script(commands: &str) -> Script {
    Script::always(vec![Step::run(commands), Step::Say("Done.".into())])
}

fn here(server: &Server, arguments: &[&str]) -> String {
    git(&server.workspace, arguments)
}

/// Lets Codex commit in `repo`: its branch follows, and what the user had not committed stays so.
async fn comes_home(server: &mut Server, repo: &Path) {
    std::fs::write(repo.join("mine"), "staged\n").unwrap();
    git(repo, &["add", "mine"]);
    std::fs::write(repo.join("README.md"), "unstaged\n").unwrap();
    let before = git(repo, &["rev-parse", "HEAD"]);
    let call = json!({"prompt": "commit", "repo": repo});
    let result = server.call("codex_run", call).await;
    assert_eq!(result["commits"]["state"], "moved", "{result}\n{}", server.log());
    assert_eq!(git(repo, &["rev-parse", "HEAD^"]), before);
    assert_eq!(result["commits"]["commit"], git(repo, &["rev-parse", "HEAD"]).trim());
    assert_eq!(git(repo, &["show", "--format=%s", "--name-only"]), "x\n\nsrc/lib.rs\nx\n");
    assert_eq!(git(repo, &["status", "--porcelain"]), " M README.md\nA  mine\n");
    git(repo, &["fsck", "--strict", "--no-dangling"]);
}

#[tokio::test]
async fn commits_come_home_to_every_kind_of_repository() {
    need_engine!();
    let home = TempDir::new().unwrap();
    let workspace = home.path().join("project");
    make_workspace(&workspace);
    std::fs::write(workspace.join("src/lib.rs"), "pub fn two() -> u32 { 2 }\n").unwrap();
    git(&workspace, &["commit", "-qam", "second"]);
    git(&workspace, &["config", "uploadpack.allowFilter", "true"]);
    let options = Options::default().set("workspace", format!("allowed = [{:?}]", home.path()));
    let mut server = Server::start_in(script(COMMIT), options, home, workspace.clone()).await;
    let path = |name: &str| -> PathBuf { server.home.path().join(name) };
    let url = format!("file://{}", workspace.display());
    let clone = |name: &str, arguments: &[&str]| {
        let to = path(name);
        let all = [&["clone", "-q"], arguments, &[to.to_str().unwrap()]].concat();
        git(server.home.path(), &all);
        to
    };
    let tree = path("tree");
    git(&workspace, &["worktree", "add", "-q", "-b", "side", tree.to_str().unwrap()]);
    let shallow = clone("shallow", &["--depth", "1", &url]);
    let partial = clone("partial", &["--filter=blob:none", &url]);
    let borrowing = clone("borrowing", &["--shared", workspace.to_str().unwrap()]);
    let outer = clone("outer", &[&url]);
    let add = ["-c", "protocol.file.allow=always", "submodule", "--quiet", "add", &url, "inner"];
    git(&outer, &add);
    git(&outer, &["commit", "-qm", "inner"]);
    let sha256 = path("sha256");
    std::fs::create_dir(&sha256).unwrap();
    git(&sha256, &["init", "-q", "-b", "main", "--object-format=sha256"]);
    make_workspace(&sha256);

    let main = here(&server, &["rev-parse", "main"]);
    comes_home(&mut server, &tree).await;
    assert_eq!(here(&server, &["rev-parse", "main"]), main);
    assert_eq!(here(&server, &["status", "--porcelain"]), "");

    let outer_head = git(&outer, &["rev-parse", "HEAD"]);
    let outer_index = git(&outer, &["ls-files", "-s"]);
    comes_home(&mut server, &outer.join("inner")).await;
    assert_eq!(git(&outer, &["rev-parse", "HEAD"]), outer_head);
    assert_eq!(git(&outer, &["ls-files", "-s"]), outer_index);

    let packs = |repo: &Path| std::fs::read_dir(repo.join(".git/objects/pack")).unwrap().count();
    let lent = packs(&workspace);
    for repo in [shallow, partial, borrowing, sha256] {
        comes_home(&mut server, &repo).await;
    }
    assert_eq!(packs(&workspace), lent, "what another repository borrows from was written");
    comes_home(&mut server, &workspace).await;
    server.stop().await;
}

async fn undo(server: &mut Server, run: &Value) -> Value {
    let undone = server.call("codex_run_undo", json!({"run_id": run["run_id"]})).await;
    assert_eq!(undone["success"], true, "{undone}\n{}", server.log());
    undone
}

#[tokio::test]
async fn an_undo_takes_the_branch_back_and_an_apply_moves_it_again() {
    need_engine!();
    let mut server = Server::start(script(COMMIT), Options::default()).await;
    server.write("mine", "staged\n");
    here(&server, &["add", "mine"]);
    let status = here(&server, &["status", "--porcelain"]);
    let before = here(&server, &["rev-parse", "HEAD"]);
    let result = server.run("commit").await;
    assert_eq!(result["commits"]["state"], "moved", "{result}");
    let after = here(&server, &["rev-parse", "HEAD"]);
    assert_ne!(before, after);

    let undone = undo(&mut server, &result).await;
    assert_eq!(undone["commits"]["state"], "arrived", "{undone}");
    assert_eq!(undone["commits"]["reason"], "the run was undone");
    assert_eq!(here(&server, &["rev-parse", "HEAD"]), before);
    assert_eq!(here(&server, &["status", "--porcelain"]), status);
    let reference = undone["commits"]["ref"].as_str().unwrap();
    assert_eq!(here(&server, &["rev-parse", reference]), after);

    let applied = server.call("codex_run_apply", json!({"run_id": result["run_id"]})).await;
    assert_eq!(applied["commits"]["state"], "moved", "{applied}");
    assert_eq!(here(&server, &["rev-parse", "HEAD"]), after);
    assert_eq!(here(&server, &["status", "--porcelain"]), status);

    // By path: the files go and the commits stay.
    let call = json!({"run_id": result["run_id"], "paths": ["x"]});
    let part = server.call("codex_run_undo", call).await;
    assert!(part["commits"].is_null(), "{part}");
    assert_eq!(here(&server, &["rev-parse", "HEAD"]), after);
    server.stop().await;
}

#[tokio::test]
async fn an_undo_leaves_the_branch_where_the_user_went_on_from_it() {
    need_engine!();
    let mut server = Server::start(script(COMMIT), Options::default()).await;
    let result = server.run("commit").await;
    assert_eq!(result["commits"]["state"], "moved", "{result}");
    server.write("mine", "mine\n");
    here(&server, &["add", "mine"]);
    here(&server, &["commit", "-qm", "mine"]);
    let head = here(&server, &["rev-parse", "HEAD"]);
    let undone = undo(&mut server, &result).await;
    assert_eq!(undone["commits"]["state"], "moved", "{undone}");
    assert_eq!(undone["commits"]["reason"], "main was moved meanwhile");
    assert_eq!(here(&server, &["rev-parse", "HEAD"]), head);
    assert_eq!(here(&server, &["status", "--porcelain"]), " M src/lib.rs\n D x\n");
    server.stop().await;
}

#[tokio::test]
async fn the_command_that_takes_commits_over_does_so() {
    need_engine!();
    let commands =
        format!("{COMMIT}; git checkout -q --detach; echo y > y; git add y; git commit -qm y");
    let mut server = Server::start(script(&commands), Options::default()).await;
    let result = server.run("commit").await;
    assert_eq!(result["commits"]["state"], "arrived", "{result}");
    assert_eq!(here(&server, &["log", "--format=%s"]), "first\n");
    let command = result["commits"]["take_over"].as_str().unwrap();
    let (undo, merge) = command.split_once(" && ").unwrap();
    // Each of its two halves as a shell would run it.
    let undo: Vec<&str> = undo.split(' ').collect();
    assert_eq!(undo[0], "mcp-codex-orchestrator");
    let undone = cli(server.home.path(), &undo[1..]);
    assert!(undone.status.success(), "{undone:?}");
    let merge: Vec<&str> = merge.split(' ').collect();
    assert_eq!(merge[0], "git");
    here(&server, &merge[1..]);
    assert_eq!(here(&server, &["log", "--format=%s"]), "y\nx\nfirst\n");
    assert_eq!(here(&server, &["status", "--porcelain"]), "");
    assert_eq!((server.read("x"), server.read("y")), ("x\n".into(), "y\n".into()));
    server.stop().await;
}

#[tokio::test]
async fn a_commit_without_what_stayed_home_moves_no_branch() {
    need_engine!();
    let home = TempDir::new().unwrap();
    let workspace = home.path().join("project");
    make_workspace(&workspace);
    std::fs::create_dir(workspace.join("cache")).unwrap();
    let tag = "Signature: 8a477f597d28d172789f06886806bc55\n";
    std::fs::write(workspace.join("cache/CACHEDIR.TAG"), tag).unwrap();
    std::fs::write(workspace.join("cache/kept"), "tracked\n").unwrap();
    std::fs::write(workspace.join("secret.txt"), "tracked and excluded\n").unwrap();
    git(&workspace, &["add", "-Af"]);
    git(&workspace, &["commit", "-qm", "second"]);
    let options = Options::default().set("workspace", "exclude = [\"secret.txt\", \"cache\"]");
    let commands = "echo x > x; git add -A; git commit -qm all; git show --stat HEAD";
    let mut server = Server::start_in(script(commands), options, home, workspace).await;
    let result = server.run("commit").await;
    assert_eq!(result["commits"]["state"], "arrived", "{result}\n{}", server.log());
    let reason = result["commits"]["reason"].as_str().unwrap();
    assert!(reason.ends_with("is not in the commits and still in the workspace"), "{reason}");
    assert_eq!(here(&server, &["log", "--format=%s"]), "second\nfirst\n");
    assert_eq!(here(&server, &["status", "--porcelain"]), "?? x\n");
    assert_eq!(server.read("secret.txt"), "tracked and excluded\n");
    assert_eq!(server.read("cache/kept"), "tracked\n");
    assert_eq!(result["files_changed"], json!(["x"]));
    server.stop().await;
}

#[tokio::test]
async fn nothing_that_the_users_own_configuration_names_runs() {
    need_engine!();
    let home = TempDir::new().unwrap();
    let workspace = home.path().join("project");
    make_workspace(&workspace);
    let mark = home.path().join("ran");
    let run = format!("touch {}", mark.display());
    let hooks = home.path().join("hooks");
    std::fs::create_dir(&hooks).unwrap();
    for hook in ["reference-transaction", "post-index-change", "post-commit", "pre-auto-gc"] {
        use std::os::unix::fs::PermissionsExt;
        std::fs::write(hooks.join(hook), format!("#!/bin/sh\n{run}\n")).unwrap();
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(hooks.join(hook), mode).unwrap();
    }
    let included = format!(
        "[core]\n\thooksPath = {}\n\tfsmonitor = {run}\n\tpager = {run}\n\tsshCommand = {run}\n\
         \taskPass = {run}\n\talternateRefsCommand = {run}\n[gc]\n\trecentObjectsHook = {run}\n",
        hooks.display()
    );
    std::fs::write(home.path().join("included"), included).unwrap();
    let global = format!(
        "[includeIf \"gitdir:{0}/\"]\n\tpath = {0}/included\n[alias]\n\trev-parse = !{run}\n\
         \tread-tree = !{run}\n[commit]\n\tgpgSign = true\n[gpg]\n\tprogram = {run}\n\
         [credential]\n\thelper = \"!{run}\"\n[diff]\n\texternal = {run}\n[pager]\n\tconfig = true\n",
        home.path().display()
    );
    std::fs::write(home.path().join(".gitconfig"), global).unwrap();
    let options = Options::default()
        .env("GIT_CONFIG_COUNT", "1")
        .env("GIT_CONFIG_KEY_0", "core.fsmonitor")
        .env("GIT_CONFIG_VALUE_0", run.clone())
        .env("GIT_DIR", "/nowhere")
        .env("GIT_EXTERNAL_DIFF", run.clone())
        .env("GIT_SSH_COMMAND", run.clone());
    let mut server = Server::start_in(script(COMMIT), options, home, workspace).await;
    let result = server.run("commit").await;
    assert_eq!(result["commits"]["state"], "moved", "{result}\n{}", server.log());
    undo(&mut server, &result).await;
    assert!(!mark.exists(), "something that was planted ran");
    server.stop().await;
    assert!(!mark.exists(), "something that was planted ran");
}

#[tokio::test]
async fn a_git_that_never_answers_costs_the_commits_alone() {
    need_engine!();
    let commands = "echo x > x; git add x; git commit -qm x; mkdir -p ~/.local/bin; \
                    printf '#!/bin/sh\\nexec sleep 1000\\n' > ~/.local/bin/git; \
                    chmod +x ~/.local/bin/git";
    let options = Options::default().set("run", "transfer_timeout = \"6s\"");
    let mut server = Server::start(script(commands), options).await;
    let result = server.run("commit").await;
    assert_eq!(result["success"], true, "{result}\n{}", server.log());
    assert_eq!(result["commits"]["state"], "left", "{result}");
    let reason = result["commits"]["reason"].as_str().unwrap();
    assert_eq!(reason, "they took longer than 6 s (run.transfer_timeout)");
    assert_eq!(server.read("x"), "x\n");
    server.stop().await;
}
