//! Many runs on one workspace in one container: from the second run on only what differs travels,
//! and each time Codex finds the tree that the host has, git included.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use mcp_codex_orchestrator::model::scripted::{Scenario, Script, Step};
use tempfile::TempDir;

use crate::need_engine;
use crate::support::{Options, Server, git, make_workspace};

/// Tells everything of a tree that must be the same on both sides; what is built stays where it is
/// built.
const TELL: &str = r"
tree() { find . \( -path ./.git -o -path ./target \) -prune -o \( $1 \) $2 | LC_ALL=C sort; }
tree '-type d' -print
tree '-type l' '-printf %p=%l\n'
tree '-type f -perm -100' -print
tree '-type f' -print | tr '\n' '\0' | xargs -0 sha256sum
echo == git
git status --porcelain
git log --oneline --decorate=short
git for-each-ref --format='%(refname) %(objectname)' refs/heads refs/tags
git fsck --strict --no-dangling 2>&1
";

/// What each run does after it told what it found.
const INSIDE: [&str; 8] = [
    "echo one > made.txt; rm many/f7; chmod +x many/f8",
    "rm -r many/deep; echo more >> many/f9; ln -s many/f9 to-nine",
    "echo // inside >> src/lib.rs; git commit -q -m 'from inside' src/lib.rs",
    "mv many other; mkdir many; echo back > many/f1",
    "git status > /dev/null; git gc -q; touch other/f20",
    "rm -r to-nine other/f21; mkdir other/f21; echo in > other/f21/x",
    "sed -i s/f/F/ other/f22; ln other/f23 other/f23-again",
    ":",
];

/// What the user does before each run.
fn edit(root: &Path, round: usize) {
    let at = |name: &str| root.join(name);
    match round {
        1 => {
            // The same size and time of contents as before. Git does not know the file: it would
            // see the change here by a ctime, which no file has inside.
            let was = fs::metadata(at("loose")).unwrap();
            fs::write(at("loose"), "X").unwrap();
            let times = fs::FileTimes::new().set_modified(was.modified().unwrap());
            fs::File::options().write(true).open(at("loose")).unwrap().set_times(times).unwrap();
            fs::remove_file(at("many/f2")).unwrap();
            symlink("f3", at("many/f2")).unwrap();
        }
        2 => {
            fs::remove_file(at("many/f4")).unwrap();
            fs::create_dir(at("many/f4")).unwrap();
            fs::write(at("many/f4/in"), "in").unwrap();
            fs::set_permissions(at("many/f5"), fs::Permissions::from_mode(0o755)).unwrap();
        }
        3 => {
            git(root, &["add", "-A"]);
            git(root, &["commit", "-q", "-m", "by the user"]);
            git(root, &["tag", "mark"]);
        }
        4 => {
            git(root, &["gc", "-q", "--prune=now"]);
            fs::hard_link(at("other/f11"), at("other/f11-too")).unwrap();
        }
        5 => {
            git(root, &["checkout", "-q", "-b", "topic"]);
            fs::rename(at("other/f12"), at("other/f13")).unwrap();
            fs::remove_dir_all(at("many")).unwrap();
            fs::write(at("many"), "a file now").unwrap();
        }
        6 => {
            git(root, &["tag", "-d", "mark"]);
            git(root, &["add", "-A"]);
            git(root, &["commit", "-q", "-m", "again"]);
        }
        _ => {}
    }
}

fn tell(root: &Path) -> String {
    let output = std::process::Command::new("sh")
        .args(["-c", TELL])
        .current_dir(root)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn from_the_second_run_on_only_what_differs_travels_and_codex_finds_the_tree_of_the_host() {
    need_engine!();
    let home = TempDir::new().unwrap();
    let workspace = home.path().join("project");
    make_workspace(&workspace);
    fs::create_dir_all(workspace.join("many/deep/er")).unwrap();
    for file in 0..200 {
        fs::write(workspace.join(format!("many/f{file}")), "f").unwrap();
        fs::write(workspace.join(format!("many/deep/er/g{file}")), format!("{file}")).unwrap();
    }
    fs::write(workspace.join(".gitignore"), "/target/\n").unwrap();
    git(&workspace, &["add", "-A"]);
    git(&workspace, &["commit", "-q", "-m", "many"]);
    fs::write(workspace.join("loose"), "f").unwrap();
    let scenarios = INSIDE.iter().enumerate().map(|(round, inside)| {
        let command = format!(
            "{{ {TELL} }} > /tmp/found; {inside}; mkdir -p target; echo x >> target/built; \
             cp target/built builds.txt; cp /tmp/found found-{round}.txt"
        );
        Scenario {
            matches: format!("round {round} "),
            steps: vec![Step::run(command), Step::Say("Done.".into())],
            ..Scenario::default()
        }
    });
    let script = Script { scenarios: scenarios.collect(), ..Script::always(Vec::new()) };
    let options = Options::default().set("pool", "max_size = 1");
    let mut server = Server::start_in(script, options, home, workspace).await;
    for round in 0..INSIDE.len() {
        edit(&server.workspace, round);
        let expected = tell(&server.workspace);
        let result = server.run(&format!("round {round} of many")).await;
        assert_eq!(result["changes_state"], "applied", "{round}: {result}\n{}", server.log());
        let found = server.read(&format!("found-{round}.txt"));
        assert_eq!(found, expected, "{round}\n{}", server.log());
        assert!(!expected.contains("error"), "{expected}");
        let sent = &result["sent"];
        let files = sent["files"].as_u64().unwrap();
        println!("round {round}: {sent} {}", result["timings_ms"]);
        if round == 0 {
            assert!(sent["full"] == true && files > 400, "{sent}");
            continue;
        }
        assert_eq!(sent["full"], false, "{round}: {sent}\n{}", server.log());
        // A directory that a run renamed travels: the container made other directories of it.
        let most = if round == 4 { 210 } else { 12 };
        assert!(files <= most, "{round}: {sent}");
        assert_eq!(server.read("builds.txt").len(), 2 * (round + 1), "what was built stays");
    }
    server.stop().await;
}
