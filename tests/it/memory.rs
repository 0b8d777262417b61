//! Memory of the host process does not grow with the workspace or the output.

use mcp_codex_orchestrator::model::scripted::{Script, Step};

use crate::need_engine;
use crate::support::{Options, Server};

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
