//! What git ignores: single files travel and come back, what is built stays with the workspace.

use std::path::Path;

use mcp_codex_orchestrator::model::scripted::{Scenario, Script, Step};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::need_engine;
use crate::support::{Options, Server, git, make_workspace};

/// Each prompt that holds the first text runs the second.
fn script(runs: &[(&str, &str)]) -> Script {
    let scenario = |(prompt, command): &(&str, &str)| Scenario {
        matches: (*prompt).to_owned(),
        steps: vec![Step::run(*command), Step::Say("Done.".into())],
        ..Scenario::default()
    };
    Script { scenarios: runs.iter().map(scenario).collect(), ..Script::always(Vec::new()) }
}

/// Tells what a run before left, then builds.
const BUILD: &str = "cat target/x > found.txt 2>/dev/null || echo none > found.txt; \
                     mkdir -p target; date +%N >> target/x";

/// A pool whose one container a run that comes soon after another has to wait for.
fn one_container() -> Options {
    Options::default().set("pool", "max_size = 1")
}

/// Calls the tool; gives the structured result and the text.
async fn call(server: &mut Server, arguments: Value) -> (Value, String) {
    let params = json!({"name": "codex_run", "arguments": arguments});
    let answer = server.request("tools/call", params).await;
    let text = answer["result"]["content"][0]["text"].as_str().unwrap_or_default().to_owned();
    (answer["result"]["structuredContent"].clone(), text)
}

#[tokio::test]
async fn an_edited_env_comes_back_and_a_new_one_is_one_call_away() {
    need_engine!();
    let home = TempDir::new().unwrap();
    let workspace = home.path().join("project");
    make_workspace(&workspace);
    std::fs::write(workspace.join(".gitignore"), ".env*\n*.log\n").unwrap();
    std::fs::write(workspace.join(".env"), "A=1\n").unwrap();
    let script = script(&[
        ("edit", "cat .env > seen.txt; echo FOO=2 >> .env"),
        (
            "create",
            "rm seen.txt; echo FOO=3 > .env.new; mkdir conf; echo C=1 > conf/.env; \
             head -c 100000 /dev/zero > big.log",
        ),
        ("only", "echo FOO=4 > .env.only"),
    ]);
    let mut server = Server::start_in(script, Options::default(), home, workspace).await;
    let result = server.run("edit it").await;
    assert_eq!(result["changes_state"], "applied", "{result}\n{}", server.log());
    assert_eq!(result["files_changed"], json!([".env", "seen.txt"]));
    assert_eq!(server.read(".env"), "A=1\nFOO=2\n");
    assert_eq!(server.read("seen.txt"), "A=1\n");
    assert_eq!(result["ignored_new"], json!([]));

    let (result, text) = call(&mut server, json!({"prompt": "create one"})).await;
    assert_eq!(result["changes_state"], "applied", "{result}\n{}", server.log());
    assert_eq!(result["files_changed"], json!(["seen.txt"]));
    assert_eq!(
        result["ignored_new"],
        json!([
            {"path": ".env.new", "bytes": 6, "held": true},
            {"path": "big.log", "bytes": 100_000},
            {"path": "conf/.env", "bytes": 4, "held": true},
        ])
    );
    let run_id = result["run_id"].as_str().unwrap();
    let command = format!(
        ".env.new (6 B), conf/.env (4 B). codex_run_apply with run_id \"{run_id}\" and paths \
         [\".env.new\",\"conf/.env\"] applies it."
    );
    assert!(text.contains(&command), "{text}");
    assert!(text.contains("dropped: big.log (97.7 KiB)"), "{text}");
    assert!(!text.contains("Held, not applied"), "{text}");
    // Not by itself, and not with the rest.
    assert!(!server.workspace.join(".env.new").exists() && !server.workspace.join("conf").exists());
    let all = server.call("codex_run_apply", json!({"run_id": run_id})).await;
    assert_eq!(all["error_kind"], "invalid_argument", "{all}");
    assert!(all["error"].as_str().unwrap().contains("name them in paths"), "{all}");
    assert!(!server.workspace.join(".env.new").exists());
    // But by its path, with the directory that it needs.
    let applied = server
        .call("codex_run_apply", json!({"run_id": run_id, "paths": [".env.new", "conf/.env"]}))
        .await;
    assert_eq!(applied["files_changed"], json!([".env.new", "conf", "conf/.env"]), "{applied}");
    assert_eq!(server.read(".env.new"), "FOO=3\n");
    assert_eq!(server.read("conf/.env"), "C=1\n");

    // Where nothing else changed, nothing counts as changed.
    let (result, text) = call(&mut server, json!({"prompt": "only that"})).await;
    assert_eq!(result["changes_state"], "none", "{result}");
    assert!(text.contains("No file changed.") && text.contains("paths [\".env.only\"]"), "{text}");
    server.stop().await;
}

#[tokio::test]
async fn what_a_run_builds_is_there_for_the_next_one_and_for_no_other_workspace() {
    need_engine!();
    let home = TempDir::new().unwrap();
    let (workspace, other) = (home.path().join("project"), home.path().join("other"));
    make_workspace(&workspace);
    make_workspace(&other);
    // The host's own build is nobody's business.
    std::fs::create_dir(workspace.join("target")).unwrap();
    std::fs::write(workspace.join("target/host"), "x").unwrap();
    let options = one_container().set("workspace", format!("allowed = [{other:?}]"));
    let script = script(&[("build", BUILD)]);
    let mut server = Server::start_in(script, options, home, workspace).await;
    let (first, text) = call(&mut server, json!({"prompt": "build"})).await;
    assert_eq!(first["changes_state"], "applied", "{first}\n{}", server.log());
    assert_eq!(first["stayed_home"], json!(["target/"]));
    let built = &first["ignored_new"][0];
    assert_eq!((&built["path"], &built["kept"]), (&json!("target/"), &json!(true)), "{first}");
    assert!(text.contains("kept there for the next run on this workspace: target/ ("), "{text}");
    assert_eq!(server.read("found.txt"), "none\n");

    let second = server.run("build again").await;
    assert_eq!(second["container_id"], first["container_id"]);
    let found = server.read("found.txt");
    assert!(found != "none\n" && found.lines().count() == 1, "{found}\n{}", server.log());
    server.run("build again").await;
    assert_eq!(server.read("found.txt").lines().count(), 2);
    assert_eq!(std::fs::read_dir(server.workspace.join("target")).unwrap().count(), 1);

    // The one container there may be goes to the other workspace, with nothing of this one in it.
    let elsewhere = server.call("codex_run", json!({"prompt": "build", "repo": other})).await;
    assert_eq!(elsewhere["success"], true, "{elsewhere}\n{}", server.log());
    assert_eq!(elsewhere["container_id"], first["container_id"]);
    assert_eq!(std::fs::read_to_string(other.join("found.txt")).unwrap(), "none\n");
    server.stop().await;
}

#[tokio::test]
async fn without_keep_ignored_or_with_a_new_container_each_time_every_run_builds_anew() {
    need_engine!();
    for (section, line) in
        [("workspace", "keep_ignored = false"), ("pool", "recycle = \"destroy\"")]
    {
        let options = one_container().set(section, line);
        let mut server = Server::start(script(&[("build", BUILD)]), options).await;
        let (result, text) = call(&mut server, json!({"prompt": "build"})).await;
        let built = &result["ignored_new"][0];
        assert!(built["path"] == "target/" && built["kept"].is_null(), "{line}: {result}");
        assert!(text.contains("ignored by git, and dropped: target/ ("), "{text}");
        server.run("build").await;
        assert_eq!(server.read("found.txt"), "none\n", "{line}");
        server.stop().await;
    }
}

#[tokio::test]
async fn what_is_ignored_no_more_or_sent_by_now_does_not_come_back_as_a_change() {
    need_engine!();
    let make =
        "for d in one two three; do mkdir -p ${d}_out/sub; echo built > ${d}_out/sub/x; done";
    let look = "cat *_out* */sub/x > /dev/null 2>&1; find . -path './*_out*' | sort > found.txt; \
                cat two_out >> found.txt";
    let script = script(&[("make", make), ("look", look)]);
    let mut server = Server::start(script, one_container()).await;
    server.write(".gitignore", "*_out\n");
    let result = server.run("make them").await;
    assert_eq!(result["changes_state"], "none", "{result}\n{}", server.log());
    assert_eq!(result["ignored_new"].as_array().unwrap().len(), 3);
    // Now one of them is ordinary, and one is a file.
    server.write(".gitignore", "*_out\n!one_out\n");
    server.write("two_out", "mine\n");
    let result = server.run("look at them").await;
    assert_eq!(result["files_changed"], json!(["found.txt"]), "{result}\n{}", server.log());
    assert_eq!(
        server.read("found.txt"),
        "./three_out\n./three_out/sub\n./three_out/sub/x\n./two_out\nmine\n"
    );
    assert_eq!(server.read("two_out"), "mine\n");
    server.stop().await;
}

#[tokio::test]
async fn the_rules_above_a_workspace_that_is_a_part_of_a_repository_hold_in_it() {
    need_engine!();
    let home = TempDir::new().unwrap();
    let workspace = home.path().join("mono/sub");
    make_workspace(&home.path().join("mono"));
    std::fs::create_dir(&workspace).unwrap();
    std::fs::write(workspace.join("a"), "a").unwrap();
    std::fs::write(home.path().join("mono/.gitignore"), "build/\n.secret\n/sub/gen/\n/gen2/\n")
        .unwrap();
    git(&home.path().join("mono"), &["add", "-A"]);
    let make =
        "mkdir build gen gen2; echo x > build/x; echo x > gen/x; echo x > gen2/x; echo S > .secret";
    let script = script(&[("make", make), ("look", "find build gen -type f | sort > found.txt")]);
    let mut server = Server::start_in(script, one_container(), home, workspace).await;
    let result = server.run("make").await;
    assert_eq!(result["files_changed"], json!(["gen2", "gen2/x"]), "{result}\n{}", server.log());
    let expected = json!([
        {"path": ".secret", "bytes": 2, "held": true},
        {"path": "build/", "bytes": 2, "kept": true},
        {"path": "gen/", "bytes": 2, "kept": true},
    ]);
    assert_eq!(result["ignored_new"], expected);
    let result = server.run("look").await;
    assert_eq!(result["files_changed"], json!(["found.txt"]), "{result}\n{}", server.log());
    assert_eq!(server.read("found.txt"), "build/x\ngen/x\n");
    server.stop().await;
}

#[tokio::test]
async fn a_cache_stays_where_it_is_made_without_git_too() {
    need_engine!();
    let home = TempDir::new().unwrap();
    let workspace = home.path().join("plain");
    let tag = "Signature: 8a477f597d28d172789f06886806bc55";
    for name in ["mine", "src"] {
        std::fs::create_dir_all(workspace.join(name)).unwrap();
    }
    std::fs::write(workspace.join("mine/CACHEDIR.TAG"), tag).unwrap();
    std::fs::write(workspace.join("src/a"), "a").unwrap();
    let make = format!(
        "ls > found.txt; mkdir -p cache/deep; printf '{tag}' > cache/CACHEDIR.TAG; \
         echo c > cache/deep/c; mkdir out; echo o > out/o"
    );
    let script = script(&[("make", &make), ("look", "find cache -type f | sort > found.txt")]);
    let mut server = Server::start_in(script, one_container(), home, workspace).await;
    let result = server.run("make").await;
    assert_eq!(result["stayed_home"], json!(["mine/"]), "{result}\n{}", server.log());
    assert_eq!(server.read("found.txt"), "found.txt\nsrc\n");
    assert_eq!(result["files_changed"], json!(["found.txt", "out", "out/o"]));
    let bytes = tag.len() + 2;
    let expected = json!([{"path": "cache/", "bytes": bytes, "kept": true}]);
    assert_eq!(result["ignored_new"], expected);
    assert!(!server.workspace.join("cache").exists());
    let result = server.run("look").await;
    assert_eq!(result["files_changed"], json!(["found.txt"]), "{result}");
    assert_eq!(server.read("found.txt"), "cache/CACHEDIR.TAG\ncache/deep/c\n");
    server.stop().await;
}

#[tokio::test]
async fn a_workspace_over_a_limit_is_refused_with_its_largest_directories_and_the_setting() {
    need_engine!();
    let make = |workspace: &Path| {
        make_workspace(workspace);
        for (number, directory) in ["a", "b", "c", "d/deep/er", "e", "f", "g"].iter().enumerate() {
            let directory = workspace.join(directory);
            std::fs::create_dir_all(&directory).unwrap();
            for file in 0..=number {
                std::fs::write(directory.join(file.to_string()), vec![0; 300_000]).unwrap();
            }
        }
        git(workspace, &["add", "-A"]);
    };
    for (line, largest) in [
        (
            "max_bytes = \"2MiB\"",
            "largest: g/ (2.0 MiB, 7 files), f/ (1.7 MiB, 6 files), e/ (1.4 MiB, 5 files), \
             d/deep/er/ (1.1 MiB, 4 files), c/ (878.9 KiB, 3 files)",
        ),
        ("max_files = 20", "largest: g/ (2.0 MiB, 7 files), f/ (1.7 MiB, 6 files), "),
    ] {
        let home = TempDir::new().unwrap();
        let workspace = home.path().join("project");
        make(&workspace);
        let options = Options::default().set("workspace", line);
        let script = script(&[("", "true")]);
        let mut server = Server::start_in(script, options, home, workspace).await;
        let (result, text) = call(&mut server, json!({"prompt": "anything"})).await;
        assert_eq!(result["error_kind"], "workspace_too_large", "{result}\n{}", server.log());
        let setting = line.split(' ').next().unwrap();
        let error = result["error"].as_str().unwrap();
        assert!(error.contains(&format!("workspace.{setting}")), "{error}");
        assert!(error.contains(largest), "{error}");
        assert!(error.contains(".codexignore"), "what to do is said: {error}");
        assert!(text.contains(error), "{text}");
        assert_eq!(error.matches(" files)").count(), 5, "{error}");
        server.stop().await;
    }
}
