//! Large files (git LFS): a pointer in a commit, the contents in the repository's store.

use std::path::{Path, PathBuf};

use mcp_codex_orchestrator::model::scripted::{Script, Step};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::need_engine;
use crate::support::{Options, Server, git, make_workspace};

/// What `git-lfs clean` does, for a host that has no git-lfs.
const CLEAN: &str = r#"f() { t=$(mktemp); cat >"$t"; printf 'version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %s\n' "$(sha256sum <"$t" | cut -c1-64)" "$(wc -c <"$t")"; rm "$t"; }; f"#;

fn oid(contents: &[u8]) -> String {
    Sha256::digest(contents).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn pointer(contents: &[u8]) -> String {
    let oid = oid(contents);
    format!(
        "version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {}\n",
        contents.len()
    )
}

/// Where the contents are in a store.
fn object(workspace: &Path, contents: &[u8]) -> PathBuf {
    let name = oid(contents);
    workspace.join(".git/lfs/objects").join(&name[..2]).join(&name[2..4]).join(name)
}

/// A repository with the large files `a.bin` (`one`) and `b.bin` (`two`), and a server for it.
async fn server(commands: &str) -> Server {
    server_with(commands, Options::default()).await
}

async fn server_with(commands: &str, options: Options) -> Server {
    let script = Script::always(vec![Step::run(commands), Step::Say("Done.".into())]);
    let home = TempDir::new().unwrap();
    let workspace = home.path().join("project");
    make_workspace(&workspace);
    git(&workspace, &["config", "filter.lfs.clean", CLEAN]);
    git(&workspace, &["config", "filter.lfs.required", "true"]);
    std::fs::write(workspace.join(".gitattributes"), "*.bin filter=lfs diff=lfs -text\n").unwrap();
    std::fs::write(workspace.join("a.bin"), "one\n").unwrap();
    std::fs::write(workspace.join("b.bin"), "two\n").unwrap();
    git(&workspace, &["add", "-A"]);
    git(&workspace, &["commit", "-qm", "large"]);
    assert_eq!(git(&workspace, &["show", "HEAD:a.bin"]), pointer(b"one\n"));
    Server::start_in(script, options, home, workspace).await
}

async fn run(server: &mut Server, arguments: Value) -> Value {
    let mut call = json!({"prompt": "commit"});
    call.as_object_mut().unwrap().extend(arguments.as_object().unwrap().clone());
    let result = server.call("codex_run", call).await;
    assert_eq!(result["success"], true, "{result}\n{}", server.log());
    result
}

fn check_store(server: &Server, contents: &[&str]) {
    for contents in contents {
        let file = object(&server.workspace, contents.as_bytes());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), *contents, "{}", server.log());
    }
}

/// A version that is in no commit's last tree, the last one, and one that is not committed.
const COMMIT: &str = "echo between > a.bin; git commit -qam between; echo last > a.bin; \
                      git commit -qam last; echo later > b.bin";

#[tokio::test]
async fn the_contents_of_large_files_come_with_their_commits() {
    need_engine!();
    let mut server = server(COMMIT).await;
    let result = run(&mut server, json!({})).await;
    assert_eq!(result["commits"]["state"], "moved", "{result}\n{}", server.log());
    assert!(result["commits"]["lfs"].is_null(), "{result}");
    assert_eq!(git(&server.workspace, &["show", "HEAD:a.bin"]), pointer(b"last\n"));
    check_store(&server, &["between\n", "last\n"]);
    assert!(!object(&server.workspace, b"later\n").exists());
    assert_eq!((server.read("a.bin"), server.read("b.bin")), ("last\n".into(), "later\n".into()));
    assert_eq!(git(&server.workspace, &["status", "--porcelain"]), " M b.bin\n");
    let folder = server.runs().join(result["run_id"].as_str().unwrap());
    assert!(!folder.join("lfs.tar").exists());
    server.stop().await;
}

#[tokio::test]
async fn the_contents_of_a_suggested_commit_wait_in_the_run_folder() {
    use std::os::unix::fs::PermissionsExt;
    need_engine!();
    let mut server = server(COMMIT).await;
    let result = run(&mut server, json!({"mode": "suggest"})).await;
    assert_eq!(result["commits"]["state"], "held", "{result}");
    assert!(!server.workspace.join(".git/lfs").exists());
    let archive = server.runs().join(result["run_id"].as_str().unwrap()).join("lfs.tar");
    assert_eq!(archive.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let applied = server.call("codex_run_apply", json!({"run_id": result["run_id"]})).await;
    assert_eq!(applied["commits"]["state"], "moved", "{applied}");
    assert!(applied["commits"]["lfs"].is_null(), "{applied}");
    check_store(&server, &["between\n", "last\n"]);
    assert!(!archive.exists());
    server.stop().await;
}

#[tokio::test]
async fn contents_that_the_container_does_not_give_are_named() {
    need_engine!();
    let commands = format!("{COMMIT}; rm -r .git/lfs");
    let mut server = server(&commands).await;
    let result = run(&mut server, json!({})).await;
    assert_eq!(result["commits"]["state"], "moved", "{result}");
    // The last version is in the workspace.
    check_store(&server, &["last\n"]);
    let told = result["commits"]["lfs"].as_str().unwrap();
    assert!(told.starts_with("git lfs push would fail for a.bin: "), "{told}");
    server.stop().await;
}

#[tokio::test]
async fn contents_over_the_limit_cost_the_contents_alone() {
    need_engine!();
    let commands = "head -c 3000000 /dev/zero > a.bin; git commit -qam huge; echo last > a.bin; \
                    git commit -qam last";
    let options = Options::default().set("workspace", "max_bytes = \"2MiB\"");
    let mut server = server_with(commands, options).await;
    let result = run(&mut server, json!({"mode": "suggest"})).await;
    let reason = result["commits"]["lfs"].as_str().unwrap();
    assert!(reason.ends_with("because they are larger than the limit of workspace.max_bytes"));
    let folder = server.runs().join(result["run_id"].as_str().unwrap());
    assert!(!folder.join("lfs.tar").exists());
    let applied = server.call("codex_run_apply", json!({"run_id": result["run_id"]})).await;
    assert_eq!(applied["commits"]["state"], "moved", "{applied}");
    check_store(&server, &["last\n"]);
    let told = applied["commits"]["lfs"].as_str().unwrap();
    assert!(told.starts_with("git lfs push would fail for a.bin: "), "{told}");
    server.stop().await;
}

#[tokio::test]
async fn a_large_file_that_is_checked_out_again_stays_what_it_was() {
    need_engine!();
    // What old commits mean is not in the container: git writes pointers.
    let commands = "rm -r .git/lfs; rm a.bin b.bin; git checkout -q a.bin b.bin; \
                    cp a.bin pointer.txt; chmod +x b.bin";
    let mut server = server(commands).await;
    let result = run(&mut server, json!({})).await;
    assert_eq!(server.read("pointer.txt"), pointer(b"one\n"));
    assert_eq!(result["files_changed"], json!(["b.bin", "pointer.txt"]), "{result}");
    assert_eq!((server.read("a.bin"), server.read("b.bin")), ("one\n".into(), "two\n".into()));
    let status = git(&server.workspace, &["status", "--porcelain"]);
    assert_eq!(status, " M b.bin\n?? pointer.txt\n");
    server.stop().await;
}

#[tokio::test]
async fn a_pointer_to_other_contents_is_held() {
    need_engine!();
    let commands = "git checkout -q HEAD~1 -- a.bin && git commit -qm back";
    let mut server = server(commands).await;
    server.write("a.bin", "newer\n");
    git(&server.workspace, &["commit", "-qam", "newer"]);
    let result = run(&mut server, json!({})).await;
    assert_eq!(result["files_changed"], json!([]), "{result}");
    assert_eq!(result["changes"][0]["state"], "held", "{result}");
    let reason = &result["changes"][0]["reason"];
    assert_eq!(reason, "a pointer of git LFS whose content is not here", "{result}");
    assert_eq!(server.read("a.bin"), "newer\n");
    assert_eq!(result["commits"]["state"], "arrived", "{result}");
    assert_eq!(result["commits"]["reason"], "a.bin is held");
    server.stop().await;
}
