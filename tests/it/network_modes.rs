//! Containers with a network: the engine's, a named one, the host's own.

use std::process::Command;

use mcp_codex_orchestrator::model::scripted::{Script, Step};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::need_engine;
use crate::support::{Options, Server, await_answer, requests};

fn docker(arguments: &[&str]) -> String {
    let output = Command::new("docker").args(arguments).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn mode(name: &str) -> Options {
    Options::default().set("network", format!("mode = {name:?}"))
}

/// A server on `address` that says hello to whoever connects; gives its port.
async fn greeter(address: &str) -> u16 {
    let listener = TcpListener::bind((address, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            let _ = connection.write_all(b"hello\n").await;
        }
    });
    port
}

fn asks(address: &str, port: u16) -> Script {
    let connect = format!("exec 3<>/dev/tcp/{address}/{port}; head -1 <&3");
    Script::always(vec![
        Step::run(format!(
            "{{ {connect}; ls /sys/class/net; env | grep -ci proxy; }} > out.txt 2>&1"
        )),
        Step::Say("Done.".into()),
    ])
}

/// The address of the host in a network of the engine.
fn gateway_of(network: &str) -> String {
    docker(&["network", "inspect", network, "-f", "{{(index .IPAM.Config 0).Gateway}}"])
}

async fn reaches_the_host_in(network: &str) {
    let mut address = gateway_of(network);
    if address.is_empty() {
        address = "172.17.0.1".to_owned();
    }
    let port = greeter(&address).await;
    let mut server = Server::start(asks(&address, port), mode(network)).await;
    server.ready().await;
    let result = server.run("look").await;
    assert_eq!(result["success"], true, "{result}\n{}", server.log());
    let out = server.read("out.txt");
    assert!(out.contains("hello") && out.contains("eth0"), "{out}");
    // No proxy is named where none serves.
    assert!(out.trim_end().ends_with('0'), "{out}");
    assert!(server.log().contains("network.mode is"), "{}", server.log());
    let status = server.call("codex_pool_status", json!({})).await;
    assert!(status["warning"].as_str().unwrap().contains("anywhere"), "{status}");
    // The second run is in the same container, after a reset.
    let again = server.run("look").await;
    assert_eq!(again["success"], true, "{again}");
    server.stop().await;
}

#[tokio::test]
async fn in_the_bridge_network_a_container_reaches_others() {
    need_engine!();
    reaches_the_host_in("bridge").await;
}

/// A network of the engine; removed with this.
struct Net(String);

impl Drop for Net {
    fn drop(&mut self) {
        let _ = Command::new("docker").args(["network", "rm", &self.0]).output();
    }
}

#[tokio::test]
async fn in_a_named_network_a_container_reaches_others() {
    need_engine!();
    let net = Net(format!("codex-tests-{}", std::process::id()));
    docker(&["network", "create", &net.0]);
    reaches_the_host_in(&net.0).await;
    drop(net);
}

#[tokio::test]
async fn a_network_that_does_not_exist_is_told() {
    need_engine!();
    let mut server = Server::start(
        Script::always(vec![]),
        mode("no-such-network").set("pool", "acquire_timeout = \"3s\""),
    )
    .await;
    let result = server.run("look").await;
    assert_eq!(result["success"], false, "{result}");
    assert!(result["error"].as_str().unwrap().contains("no-such-network"), "{result}");
    server.stop().await;
}

/// Ports of the loopback interface that programs called codex-keeper listen on.
fn keeper_ports() -> Vec<u16> {
    let output = Command::new("ss").args(["-Hltnp"]).output().unwrap();
    let listed = String::from_utf8_lossy(&output.stdout).into_owned();
    let keepers = listed.lines().filter(|line| line.contains("codex-keeper"));
    let port =
        |line: &str| line.split_whitespace().nth(3)?.strip_prefix("127.0.0.1:")?.parse().ok();
    keepers.filter_map(port).collect()
}

/// What a program of the host that is none of a run's gets for a model request at `port`.
async fn foreign(port: u16, header: &str) -> String {
    let mut connection = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let request = format!(
        "POST /v1/responses HTTP/1.1\r\nhost: x\r\n{header}content-length: 2\r\n\
         connection: close\r\n\r\n{{}}"
    );
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let _ = connection.read_to_string(&mut answer).await;
    answer
}

#[tokio::test]
async fn on_the_host_s_network_two_runs_at_once_have_gateways_of_their_own() {
    need_engine!();
    let before = keeper_ports();
    let port = greeter("127.0.0.1").await;
    // Whoever connects waits here until this is dropped.
    let holding = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let held = holding.local_addr().unwrap().port();
    let script = Script::always(vec![
        Step::run(format!(
            "{{ head -1 </dev/tcp/127.0.0.1/{port}; tr '\\0' '\\n' </proc/$PPID/cmdline; }} > out.txt"
        )),
        Step::run(format!("cat </dev/tcp/127.0.0.1/{held}; true")),
        Step::Say("Done.".into()),
    ]);
    let options = mode("host").set("pool", "min_idle = 1\nmax_size = 2");
    let mut server = Server::start(script, options).await;
    let (_, one) = server.begin_call("codex_run", json!({"prompt": "one"})).await;
    let (_, two) =
        server.begin_call("codex_run", json!({"prompt": "two", "mode": "suggest"})).await;
    requests(&server, 4).await;
    let ports: Vec<u16> =
        keeper_ports().into_iter().filter(|port| !before.contains(port)).collect();
    assert_eq!(ports.len(), 2, "{ports:?}");
    assert!(!ports.contains(&8787), "{ports:?}");
    let asked = server.model.as_ref().unwrap().requests().len();
    for port in &ports {
        for header in ["", "x-gateway-run: guessed\r\n", "x-gateway-run:\r\n"] {
            let answer = foreign(*port, header).await;
            assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
        }
    }
    assert_eq!(server.model.as_ref().unwrap().requests().len(), asked);
    drop(holding);
    for answer in [one, two] {
        let answer = await_answer(answer, server.home.path()).await;
        let result = &answer["result"]["structuredContent"];
        assert_eq!(result["success"], true, "{result}\n{}", server.log());
        assert!(result["notes"].to_string().contains("secret of the run"), "{result}");
    }
    assert!(server.read("out.txt").contains("hello"));
    assert!(
        server.log().contains("network.mode is \\\"host\\\"")
            || server.log().contains("network.mode is \"host\"")
    );
    // After a reset another run finds its gateway too.
    let again = server.run("again").await;
    assert_eq!(again["success"], true, "{again}\n{}", server.log());
    server.stop().await;
    let left: Vec<u16> = keeper_ports().into_iter().filter(|port| ports.contains(port)).collect();
    assert!(left.is_empty(), "{left:?}");
}
