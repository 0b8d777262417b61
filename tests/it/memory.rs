//! Memory of the host process does not grow with the workspace or the output.

use mcp_codex_orchestrator::model::scripted::{Script, Step};

use crate::need_engine;
use crate::support::{Options, Server, docker};

/// What the process may hold at most, in KiB.
const LIMIT_KIB: u64 = 60 * 1024;

fn peak_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_quarter_gibibyte_each_way_leaves_the_server_small() {
    need_engine!();
    let script = Script::always(vec![
        Step::run("cp big big2 && head -c 1000000 /dev/urandom | base64 | head -c 900000"),
        Step::Say("done".into()),
    ]);
    let home = tempfile::TempDir::new().unwrap();
    let workspace = home.path().join("project");
    std::fs::create_dir(&workspace).unwrap();
    let chunk: Vec<u8> =
        (0..1 << 20).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let mut big = std::fs::File::create(workspace.join("big")).unwrap();
    for _ in 0..256 {
        std::io::Write::write_all(&mut big, &chunk).unwrap();
    }
    drop(big);
    let mut server = Server::start_in(script, Options::default(), home, workspace).await;
    let result = server.run("copy").await;
    assert_eq!(result["changes_state"], "applied", "{result}\n{}", server.log());
    assert_eq!(result["sent"]["bytes"], 256 << 20);
    assert_eq!(std::fs::metadata(server.workspace.join("big2")).unwrap().len(), 256 << 20);
    let peak = peak_kib(server.pid);
    println!("peak resident after 256 MiB each way: {peak} KiB");
    assert!(peak < LIMIT_KIB, "{peak} KiB");
    server.stop().await;
}

/// In the place of Codex: a program that prints 256 MiB of events.
const FLOOD: &str = r#"USER root
RUN rm /usr/local/bin/codex && printf '%s\n' \
 '#!/bin/sh' \
 'cat > /dev/null' \
 'head -c 268435456 /dev/zero | tr "\0" x | fold -w 4000 \' \
 ' | sed "s/^/{\"type\":\"item.completed\",\"item\":{\"id\":\"1\",\"type\":\"x\",\"text\":\"/; s/\$/\"}}/"' \
 'echo' \
 'echo "{\"type\":\"item.completed\",\"item\":{\"id\":\"2\",\"type\":\"agent_message\",\"text\":\"end\"}}"' \
 'echo "{\"type\":\"turn.completed\",\"usage\":{\"input_tokens\":1}}"' > /usr/local/bin/codex \
 && chmod +x /usr/local/bin/codex
"#;

#[tokio::test]
async fn a_program_that_prints_a_quarter_gibibyte_leaves_the_server_small() {
    need_engine!();
    let _image = docker::Image::build(
        "codex-runner-flood:test",
        &format!("FROM {}\n{FLOOD}", docker::image()),
    );
    let options = Options::default()
        .set("container", "image = \"codex-runner-flood:test\"")
        .set("runs", "log_limit = \"1MiB\"");
    let mut server = Server::start(Script::builtin(), options).await;
    let result = server.run("print").await;
    assert_eq!(result["success"], true, "{result}\n{}", server.log());
    assert_eq!(result["output"], "end");
    let folder = server.runs().join(result["run_id"].as_str().unwrap());
    let events = std::fs::metadata(folder.join("events.jsonl")).unwrap().len();
    assert!(events < 2 << 20, "the log has {events} bytes");
    let peak = peak_kib(server.pid);
    println!("peak resident after 256 MiB of output: {peak} KiB");
    assert!(peak < LIMIT_KIB, "{peak} KiB");
    server.stop().await;
}
