//! Repositories of every kind as Codex finds them in a container: git works there as it does at
//! home, and what is clean at home is clean there.

use std::path::{Path, PathBuf};

use mcp_codex_orchestrator::model::scripted::{Script, Step};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::need_engine;
use crate::support::{Options, Server, git, make_workspace};

/// What is done inside. What git says goes into a file of the workspace when all is done.
const WORK: &str = r#"
{
  echo "== status"; git status --porcelain
  echo "== log"; git log --oneline
  echo "== commit"; echo '// inside' >>src/lib.rs; git commit -q -m 'from inside' src/lib.rs
  git log -1 --format='%s by %an <%ae>'; git show --format= --name-only
  echo "== after"; git status --porcelain
  echo "== git"; test -d .git && echo a directory; git fsck --connectivity-only --no-dangling
} >/tmp/report 2>&1
mv /tmp/report report.txt
"#;

/// A server that may work on everything in one folder.
async fn server(steps: Vec<Step>) -> Server {
    let home = TempDir::new().unwrap();
    let workspace = home.path().join("project");
    make_workspace(&workspace);
    std::fs::write(workspace.join("src/lib.rs"), "pub fn one() -> u32 { 1 + 0 }\n").unwrap();
    git(&workspace, &["commit", "-q", "-a", "-m", "second"]);
    let allowed = format!("allowed = [{:?}]", home.path());
    let options = Options::default().set("workspace", allowed);
    let mut server = Server::start_in(Script::always(steps), options, home, workspace).await;
    server.ready().await;
    server
}

async fn run_in(server: &mut Server, repo: &Path) -> Value {
    let result = server.call("codex_run", json!({"prompt": "work", "repo": repo})).await;
    assert_eq!(result["success"], true, "{result}\n{}", server.log());
    result
}

/// The parts of the report by their titles.
fn part<'a>(report: &'a str, title: &str) -> &'a str {
    let begin = report.find(&format!("== {title}\n")).unwrap_or_else(|| panic!("{report}"));
    let rest = &report[begin + title.len() + 4..];
    &rest[..rest.find("== ").unwrap_or(rest.len())]
}

/// Works in `repo` and compares what git says inside with what it says here.
async fn works(server: &mut Server, repo: &Path) -> String {
    let status = git(repo, &["status", "--porcelain"]);
    let log = git(repo, &["log", "--oneline"]);
    let result = run_in(server, repo).await;
    let report = std::fs::read_to_string(repo.join("report.txt")).unwrap();
    assert_eq!(part(&report, "status"), status, "{report}");
    assert_eq!(part(&report, "log"), log, "{report}");
    let commit = part(&report, "commit");
    assert!(
        commit.starts_with("from inside by ") && commit.ends_with(">\nsrc/lib.rs\n"),
        "{report}"
    );
    assert_eq!(part(&report, "after"), status, "{report}");
    assert_eq!(part(&report, "git"), "a directory\n", "{report}");
    assert_eq!(result["stayed_home"], json!([]), "{result}");
    report
}

fn clone(server: &Server, name: &str, arguments: &[&str]) -> PathBuf {
    let url = format!("file://{}", server.workspace.display());
    let path = server.home.path().join(name);
    let to = path.to_str().unwrap();
    git(server.home.path(), &[&["clone", "-q"], arguments, &[&url, to]].concat());
    path
}

#[tokio::test]
async fn worktrees_and_submodules_work_inside() {
    need_engine!();
    let mut server = server(vec![Step::run(WORK), Step::Say("Done.".into())]).await;
    let tree = server.home.path().join("tree");
    git(&server.workspace, &["worktree", "add", "-q", "-b", "side", tree.to_str().unwrap()]);
    std::fs::write(tree.join("staged"), "s").unwrap();
    git(&tree, &["add", "staged"]);
    std::fs::write(tree.join("new"), "n").unwrap();
    works(&mut server, &tree).await;

    let outer = clone(&server, "outer", &[]);
    let url = server.workspace.to_str().unwrap();
    let add = ["-c", "protocol.file.allow=always", "submodule", "--quiet", "add", url, "inner"];
    git(&outer, &add);
    works(&mut server, &outer.join("inner")).await;
    server.stop().await;
}

#[tokio::test]
async fn shallow_clones_alternates_and_sha256_work_inside() {
    need_engine!();
    let mut server = server(vec![Step::run(WORK), Step::Say("Done.".into())]).await;
    let shallow = clone(&server, "shallow", &["--depth", "1"]);
    works(&mut server, &shallow).await;

    let borrowing = server.home.path().join("borrowing");
    let url = server.workspace.to_str().unwrap();
    git(server.home.path(), &["clone", "-q", "--shared", url, borrowing.to_str().unwrap()]);
    works(&mut server, &borrowing).await;

    let sha256 = server.home.path().join("sha256");
    std::fs::create_dir(&sha256).unwrap();
    git(&sha256, &["init", "-q", "-b", "main", "--object-format=sha256"]);
    make_workspace(&sha256);
    works(&mut server, &sha256).await;
    server.stop().await;
}

#[tokio::test]
async fn a_partial_clone_works_inside_and_asks_nobody_for_what_it_lacks() {
    need_engine!();
    let work = format!(
        "{WORK}
        {{
          echo '== missing'; GIT_TRACE=1 git show HEAD~2:src/lib.rs
          echo '== bundle'; git bundle create -q /tmp/new.bundle HEAD ^HEAD~1
          git bundle verify -q /tmp/new.bundle && echo fine
          echo '== end'
        }} >>report.txt 2>&1"
    );
    let mut server = server(vec![Step::run(work), Step::Say("Done.".into())]).await;
    git(&server.workspace, &["config", "uploadpack.allowFilter", "true"]);
    let partial = clone(&server, "partial", &["--filter=blob:none"]);
    let report = works(&mut server, &partial).await;
    let missing = part(&report, "missing");
    assert!(missing.contains("'origin' does not appear to be a git repository"), "{report}");
    assert!(!missing.contains("remote-http") && !missing.contains("run_command: ssh"), "{report}");
    assert!(part(&report, "bundle").ends_with("fine\n"), "{report}");
    server.stop().await;
}

#[tokio::test]
async fn large_files_are_unchanged_inside_and_committed_as_pointers() {
    need_engine!();
    let work = format!(
        "{WORK}
        {{
          echo '== filters'; git config --get-regexp '^filter\\.'
          echo '== large'; printf 'changed inside' >one.bin; git commit -q -m large one.bin
          git cat-file -p HEAD:one.bin; git status --porcelain -- '*.bin'
          find .git/lfs/objects -type f | sort
          echo '== missing'; mkdir /tmp/aside; mv two.bin /tmp/aside; git checkout -q -- two.bin
          head -1 two.bin; mv /tmp/aside/two.bin .
          echo '== end'
        }} >>report.txt 2>&1"
    );
    let mut server = server(vec![Step::run(work), Step::Say("Done.".into())]).await;
    let repo = server.workspace.clone();
    // What stands for git-lfs here; in the container it must not be what runs.
    let filter = repo.join(".git/clean.sh");
    let text = "printf x >>\"$(dirname \"$0\")/ran\"; file=$(mktemp); cat >\"$file\"\n\
                echo version https://git-lfs.github.com/spec/v1\n\
                echo oid sha256:$(sha256sum \"$file\" | cut -d' ' -f1)\n\
                echo size $(wc -c <\"$file\"); rm \"$file\"\n";
    std::fs::write(&filter, text).unwrap();
    git(&repo, &["config", "filter.lfs.clean", &format!("sh {}", filter.display())]);
    git(&repo, &["config", "filter.lfs.smudge", "hunter2"]);
    git(&repo, &["config", "filter.lfs.required", "true"]);
    std::fs::write(repo.join(".gitattributes"), "*.bin filter=lfs diff=lfs merge=lfs -text\n")
        .unwrap();
    std::fs::write(repo.join("one.bin"), "the first large file").unwrap();
    std::fs::write(repo.join("two.bin"), "the second one").unwrap();
    git(&repo, &["add", "-A"]);
    git(&repo, &["commit", "-q", "-m", "large"]);
    let pointer = git(&repo, &["cat-file", "-p", "HEAD:one.bin"]);
    assert!(pointer.starts_with("version https://git-lfs"), "{pointer}");
    git(&repo, &["status", "--porcelain"]);
    let ran = || std::fs::metadata(repo.join(".git/ran")).unwrap().len();
    let before = ran();

    let result = run_in(&mut server, &repo).await;
    assert_eq!(ran(), before, "the filter ran on the host");
    let report = std::fs::read_to_string(repo.join("report.txt")).unwrap();
    assert_eq!(part(&report, "status"), "", "{report}");
    assert!(
        part(&report, "filters").contains("filter.lfs.clean git-lfs clean -- %f\n"),
        "{report}"
    );
    assert!(!report.contains("clean.sh") && !report.contains("hunter2"), "{report}");
    let large = part(&report, "large");
    assert!(
        large.starts_with("version https://git-lfs.github.com/spec/v1\noid sha256:"),
        "{report}"
    );
    assert!(large.contains("\nsize 14\n.git/lfs/objects/"), "{report}");
    let missing = part(&report, "missing");
    assert_eq!(missing, "version https://git-lfs.github.com/spec/v1\n", "{report}");
    assert_eq!(server.read("one.bin"), "changed inside");
    assert_eq!(server.read("two.bin"), "the second one");
    let changed = result["files_changed"].as_array().unwrap();
    assert!(!changed.contains(&json!("two.bin")), "{result}");
    server.stop().await;
}

#[tokio::test]
async fn a_repository_that_is_not_at_the_root_stays_home_and_says_so() {
    need_engine!();
    let work = "git rev-parse --git-dir >/tmp/report 2>&1; mv /tmp/report report.txt";
    let mut server = server(vec![Step::run(work), Step::Say("Done.".into())]).await;
    // Above the workspace.
    let below = server.workspace.join("src");
    let result = run_in(&mut server, &below).await;
    assert!(server.read("src/report.txt").contains("not a git repository"), "{result}");
    let stayed = result["stayed_home"][0].as_str().unwrap();
    assert!(stayed.starts_with(".git (") && stayed.contains("above the workspace"), "{result}");
    let home = server.home.path().join("outer");
    std::fs::create_dir(&home).unwrap();
    // Below it: its files go.
    make_workspace(&home.join("inner"));
    let result = run_in(&mut server, &home).await;
    let report = std::fs::read_to_string(home.join("report.txt")).unwrap();
    assert!(report.contains("not a git repository"), "{report}");
    assert_eq!(result["stayed_home"], json!(["inner/.git/"]), "{result}");
    assert!(home.join("inner/src/lib.rs").exists());
    // A worktree that the repository does not know.
    let planted = server.home.path().join("planted");
    std::fs::create_dir(&planted).unwrap();
    let target = format!("gitdir: {}\n", server.workspace.join(".git").display());
    std::fs::write(planted.join(".git"), target).unwrap();
    let result = run_in(&mut server, &planted).await;
    let stayed = result["stayed_home"][0].as_str().unwrap();
    assert!(stayed.starts_with(".git (") && stayed.contains("as its own"), "{result}");
    let report = std::fs::read_to_string(planted.join("report.txt")).unwrap();
    assert!(report.contains("not a git repository"), "{report}");
    server.stop().await;
}
