//! Absolute paths of the host lead to the workspace in the container, too.

use std::path::Path;

use mcp_codex_orchestrator::model::scripted::{Script, Step};
use serde_json::json;
use tempfile::TempDir;

use crate::need_engine;
use crate::support::{Options, Server, make_workspace};

/// Runs what is in the script `job.sh` of a workspace, by the path that `AGENTS.md` names.
fn script(job: &Path) -> Script {
    Script::always(vec![
        Step::run(format!("sh {}/job.sh", job.display())),
        Step::Say("Done.".into()),
    ])
}

/// A folder on this machine that is not in `/tmp`, which containers have anyway.
fn elsewhere() -> TempDir {
    TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

#[tokio::test]
async fn paths_of_the_host_lead_to_the_same_files_inside() {
    need_engine!();
    for home in [elsewhere(), TempDir::new().unwrap()] {
        let workspace = home.path().join("deep/er/project");
        make_workspace(&workspace);
        let (given, real) = (home.path().join("by link"), workspace.canonicalize().unwrap());
        std::os::unix::fs::symlink(&workspace, &given).unwrap();
        let job = format!(
            "set -e; cd '{0}'; cat '{1}/src/lib.rs' >copy; pwd -P >>copy; echo new >'{1}/made'",
            given.display(),
            real.display(),
        );
        std::fs::write(workspace.join("job.sh"), job).unwrap();
        let options = Options::default().set("pool", "max_size = 1");
        let mut server = Server::start_in(script(&real), options, home, given).await;
        for _ in 0..2 {
            server.ready().await;
            let result = server.run("do as AGENTS.md says").await;
            assert_eq!(result["success"], true, "{result}\n{}", server.log());
            assert_eq!(server.read("copy"), "pub fn one() -> u32 { 1 }\n/app\n");
            assert_eq!(server.read("made"), "new\n");
            std::fs::remove_file(workspace.join("copy")).unwrap();
            std::fs::remove_file(workspace.join("made")).unwrap();
        }
        server.stop().await;
    }
}

#[tokio::test]
async fn the_path_of_another_workspace_leads_nowhere_and_no_program_moves_a_link() {
    need_engine!();
    let home = elsewhere();
    let (one, two) = (home.path().join("src/one"), home.path().join("src/two"));
    for (workspace, other) in [(&one, &two), (&two, &one)] {
        make_workspace(workspace);
        let (own, other, up) = (workspace.display(), other.display(), home.path().display());
        let job = format!(
            "if ls -d {other} 2>/dev/null; then echo sees {other}; fi >seen
             ln -s /etc {other} 2>/dev/null && echo made one >>seen
             rm {own} 2>/dev/null && echo removed one >>seen
             touch {up}/x 2>/dev/null && echo wrote >>seen
             readlink {own} >>seen",
        );
        std::fs::write(workspace.join("job.sh"), job).unwrap();
    }
    let allowed = format!("allowed = [{:?}]", home.path().join("src"));
    let options = Options::default().set("workspace", allowed).set("pool", "max_size = 1");
    let steps = vec![Step::run("sh job.sh"), Step::Say("Done.".into())];
    let mut server = Server::start_in(Script::always(steps), options, home, one.clone()).await;
    for repo in [&one, &two, &one] {
        server.ready().await;
        let result = server.call("codex_run", json!({"prompt": "look", "repo": repo})).await;
        assert_eq!(result["success"], true, "{result}\n{}", server.log());
        assert_eq!(std::fs::read_to_string(repo.join("seen")).unwrap(), "/app\n", "{repo:?}");
        std::fs::remove_file(repo.join("seen")).unwrap();
    }
    server.stop().await;
}

#[tokio::test]
async fn they_lead_nowhere_where_they_are_not_wanted() {
    need_engine!();
    let home = elsewhere();
    let workspace = home.path().join("project");
    make_workspace(&workspace);
    let steps = vec![
        Step::run(format!("(ls -d {} || echo none) >seen 2>/dev/null", workspace.display())),
        Step::Say("Done.".into()),
    ];
    let options = Options::default().set("workspace", "host_paths = false");
    let mut server = Server::start_in(Script::always(steps), options, home, workspace).await;
    server.ready().await;
    let result = server.run("look").await;
    assert_eq!(result["success"], true, "{result}\n{}", server.log());
    assert_eq!(server.read("seen"), "none\n");
    server.stop().await;
}
