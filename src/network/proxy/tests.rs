use std::io;

use futures::future::BoxFuture;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::*;
use crate::network::decisions::Decided;

/// Gives the same addresses for every name and counts the questions.
#[derive(Debug, Default)]
pub(super) struct Fixed {
    pub(super) addresses: Vec<IpAddr>,
    pub(super) asked: Mutex<Vec<String>>,
}

impl Resolve for Fixed {
    fn resolve<'a>(&'a self, name: &'a HostName) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        self.asked.lock().push(name.to_string());
        Box::pin(async { Ok(self.addresses.clone()) })
    }
}

pub(super) const SHORT: Limits = Limits {
    head: Duration::from_millis(300),
    connect: Duration::from_millis(300),
    idle: Duration::from_millis(300),
};

pub(super) fn proxy(entries: &[&str], addresses: &[&str]) -> (Proxy, Arc<Fixed>) {
    let entries: Vec<String> = entries.iter().map(|entry| (*entry).to_owned()).collect();
    let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
    let resolver = Arc::new(Fixed { addresses, ..Fixed::default() });
    let rules = Rules::parse(&entries).unwrap();
    (Proxy::limited(rules, Arc::<Fixed>::clone(&resolver), SHORT), resolver)
}

/// A program's end of a connection that `proxy` serves.
pub(super) fn connected(proxy: &Proxy) -> DuplexStream {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let proxy = proxy.clone();
    tokio::spawn(async move { proxy.serve(theirs).await });
    ours
}

/// What comes back for `request`, until the proxy closes.
pub(super) async fn answer(proxy: &Proxy, request: &[u8]) -> String {
    let mut program = connected(proxy);
    // It may have closed already.
    let _ = program.write_all(request).await;
    let mut answer = Vec::new();
    let _ = program.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

fn only(proxy: &Proxy) -> Decided {
    let report = proxy.decisions().report();
    assert_eq!((report.decisions.len(), report.more), (1, 0), "{report:?}");
    report.decisions[0].clone()
}

async fn connect_to(proxy: &Proxy, target: &str) -> String {
    answer(proxy, format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n").as_bytes()).await
}

#[tokio::test]
async fn what_is_not_listed_is_refused_and_not_even_resolved() {
    for target in ["b.example:443", "a.example:80", "x.a.example:443", "127-0-0-1.example:8787"] {
        let (proxy, resolver) = proxy(&["a.example"], &["11.22.33.44"]);
        let answer = connect_to(&proxy, target).await;
        assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
        assert!(answer.contains("network.allow_hosts"), "{answer}");
        assert_eq!(only(&proxy).reason, Reason::NotListed);
        assert_eq!(*resolver.asked.lock(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn names_with_an_address_that_is_not_public_are_refused() {
    for address in
        ["127.0.0.1", "10.0.0.1", "169.254.169.254", "fd00:ec2::254", "::1", "::ffff:8.8.8.8"]
    {
        // One among good ones is enough.
        let (proxy, _) = proxy(&["a.example"], &["8.8.8.8", address]);
        let answer = connect_to(&proxy, "a.example:443").await;
        assert!(answer.starts_with("HTTP/1.1 403 "), "{address}: {answer}");
        let decided = only(&proxy);
        assert_eq!((decided.decision, decided.reason), (Decision::Denied, Reason::NotPublic));
        assert_eq!(proxy.decisions().report().denied_hosts(), ["a.example"]);
    }
}

#[tokio::test]
async fn addresses_are_refused_however_they_are_written() {
    for (target, host) in [
        ("127.0.0.1:443", Some("127.0.0.1")),
        ("[::1]:443", Some("[::1]")),
        ("169.254.169.254:443", Some("169.254.169.254")),
        ("2130706433:443", None),
        ("0x7f.1:443", None),
    ] {
        let (proxy, resolver) = proxy(&["a.example"], &["11.22.33.44"]);
        let answer = connect_to(&proxy, target).await;
        assert!(answer.starts_with("HTTP/1.1 403 "), "{target}: {answer}");
        let decided = only(&proxy);
        assert_eq!((decided.reason, decided.host.as_deref()), (Reason::Address, host));
        assert!(resolver.asked.lock().is_empty());
    }
}

#[tokio::test]
async fn plain_http_is_refused_with_a_sentence() {
    let (proxy, resolver) = proxy(&["a.example", "a.example:80"], &["11.22.33.44"]);
    let request = b"GET http://a.example/x HTTP/1.1\r\nHost: a.example\r\n\r\n";
    let answer = answer(&proxy, request).await;
    assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("https"), "{answer}");
    assert_eq!(only(&proxy).reason, Reason::PlainHttp);
    assert_eq!(proxy.decisions().report().denied_hosts(), ["a.example:80"]);
    assert!(resolver.asked.lock().is_empty());
}

#[tokio::test]
async fn a_name_without_an_address_is_a_failure_and_no_denial() {
    let (proxy, _) = proxy(&["a.example"], &[]);
    let answer = connect_to(&proxy, "a.example:443").await;
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    assert_eq!(only(&proxy).decision, Decision::Failed);
    assert!(proxy.decisions().report().denied_hosts().is_empty());
}

#[tokio::test]
async fn a_tunnel_carries_both_ways_and_each_end_by_itself() {
    let (mut program, container) = tokio::io::duplex(16);
    let (host, mut server) = tokio::io::duplex(16);
    let carried =
        tokio::spawn(async move { tunnel::carry(container, host, Duration::from_secs(5)).await });
    let serving = tokio::spawn(async move {
        let mut read = Vec::new();
        server.read_to_end(&mut read).await.unwrap();
        // The program has ended its side and still gets everything.
        server.write_all(&read).await.unwrap();
        read.len()
    });
    let sent = vec![7; 100_000];
    program.write_all(&sent).await.unwrap();
    program.shutdown().await.unwrap();
    let mut back = Vec::new();
    program.read_to_end(&mut back).await.unwrap();
    assert_eq!(back, sent);
    assert_eq!(serving.await.unwrap(), 100_000);
    carried.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_that_carries_nothing_is_closed_and_one_that_does_is_not() {
    let (mut program, container) = tokio::io::duplex(16);
    let (host, mut server) = tokio::io::duplex(16);
    let idle = Duration::from_secs(300);
    let began = Instant::now();
    let carried = tokio::spawn(async move { tunnel::carry(container, host, idle).await });
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_secs(200)).await;
        program.write_all(b"x").await.unwrap();
        server.read_u8().await.unwrap();
    }
    carried.await.unwrap();
    assert_eq!(began.elapsed().as_secs(), 900);
}

use tokio::time::Instant;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whatever a program sends, nothing but what is listed is resolved.
    #[test]
    fn no_request_gets_past_the_rules(bytes in proptest::collection::vec(any::<u8>(), 0..200), target in "[ -~]{0,40}") {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (proxy, resolver) = proxy(&["a.example"], &["127.0.0.1"]);
            answer_ended(&proxy, &bytes).await;
            answer_ended(&proxy, format!("CONNECT {target} HTTP/1.1\r\n\r\n").as_bytes()).await;
            assert!(resolver.asked.lock().iter().all(|name| name == "a.example"));
        });
    }
}

async fn answer_ended(proxy: &Proxy, request: &[u8]) {
    let mut program = connected(proxy);
    let _ = program.write_all(request).await;
    let _ = program.shutdown().await;
    let _ = program.read_to_end(&mut Vec::new()).await;
}
