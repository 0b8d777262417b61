//! What a hostile program sends to the proxy, and what it costs.

use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::tests::{SHORT, answer, connected, proxy};
use super::*;

#[tokio::test]
async fn a_head_that_comes_slowly_is_cut_off() {
    let (proxy, _) = proxy(&["a.example"], &["11.22.33.44"]);
    let mut program = connected(&proxy);
    let began = Instant::now();
    let (mut reader, mut writer) = tokio::io::split(&mut program);
    let drip = async {
        for byte in b"CONNECT a.example:443 HTTP/1.1\r\nX: ".iter().chain(std::iter::repeat(&b'x'))
        {
            if writer.write_all(&[*byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let ended = async { reader.read_to_end(&mut Vec::new()).await };
    tokio::select! {
        () = drip => {}
        _ = ended => {}
    }
    let took = began.elapsed();
    assert!(took >= SHORT.head && took < SHORT.head * 10, "{took:?}");
    assert!(proxy.decisions().report().is_empty());
}

#[tokio::test]
async fn a_head_of_a_mebibyte_is_refused_early() {
    let (proxy, resolver) = proxy(&["a.example"], &["11.22.33.44"]);
    let mut request = b"CONNECT a.example:443 HTTP/1.1\r\nX: ".to_vec();
    request.resize(1 << 20, b'x');
    let answer = answer(&proxy, &request).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");
    assert!(resolver.asked.lock().is_empty());
}

#[tokio::test]
async fn names_that_are_no_names_are_refused() {
    for target in [
        "a.example\r\nHost: evil:443".to_owned(),
        "a.example%0d%0a:443".to_owned(),
        "a.example\0:443".to_owned(),
        "user@a.example:443".to_owned(),
        "a.example:443@evil.example:443".to_owned(),
        "a.example".to_owned(),
        "a.example:".to_owned(),
        "a.example:0x1bb".to_owned(),
        "a.example:99999".to_owned(),
        "*.example:443".to_owned(),
        format!("{}.a.example:443", "a".repeat(64)),
        format!("{}a.example:443", "a.".repeat(4000)),
        "http://a.example:443/".to_owned(),
        "/a.example:443".to_owned(),
        "*".to_owned(),
    ] {
        let (proxy, resolver) = proxy(&["a.example", "*.example.com"], &["11.22.33.44"]);
        let request = format!("CONNECT {target} HTTP/1.1\r\nHost: a.example\r\n\r\n");
        let answer = answer(&proxy, request.as_bytes()).await;
        let refused = answer.starts_with("HTTP/1.1 4") || answer.is_empty();
        assert!(refused, "{target:?}: {answer}");
        assert!(resolver.asked.lock().is_empty(), "{target:?}");
        for decided in proxy.decisions().report().decisions {
            assert!(decided.host.is_none_or(|host| host.len() <= 253), "{target:?}");
        }
    }
}

#[tokio::test]
async fn connections_over_the_limit_are_closed_at_once_and_the_place_comes_back() {
    let (proxy, _) = proxy(&[], &[]);
    let mut open = Vec::new();
    for _ in 0..MAX_TUNNELS {
        open.push(connected(&proxy));
    }
    tokio::task::yield_now().await;
    for _ in 0..2000 {
        assert_eq!(answer(&proxy, b"").await, "");
    }
    let report = proxy.decisions().report();
    assert_eq!(report.decisions[0].reason, Reason::TooMany);
    assert_eq!(report.decisions[0].count, 2000);
    drop(open);
    // The places are free once the closed connections have been noticed.
    let every = u32::try_from(MAX_TUNNELS).unwrap();
    let all = proxy.inner.tunnels.acquire_many(every);
    drop(tokio::time::timeout(Duration::from_secs(5), all).await.unwrap().unwrap());
    let refused = answer(&proxy, b"CONNECT a.example:443 HTTP/1.1\r\n\r\n").await;
    assert!(refused.starts_with("HTTP/1.1 403 "), "{refused}");
}

#[tokio::test]
async fn a_second_request_behind_a_refused_one_is_not_read() {
    let (proxy, _) = proxy(&["a.example"], &["127.0.0.1"]);
    let one = "CONNECT b.example:443 HTTP/1.1\r\n\r\n";
    let answer = answer(&proxy, format!("{one}{one}{one}").as_bytes()).await;
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
}

#[tokio::test]
async fn a_host_that_does_not_answer_is_given_up() {
    #[derive(Debug)]
    struct Never;
    impl Resolve for Never {
        fn resolve<'a>(
            &'a self,
            _: &'a HostName,
        ) -> futures::future::BoxFuture<'a, std::io::Result<Vec<IpAddr>>> {
            Box::pin(std::future::pending())
        }
    }
    let rules = Rules::parse(&["a.example".to_owned()]).unwrap();
    let proxy = Proxy::limited(rules, Arc::new(Never), SHORT);
    let answer = answer(&proxy, b"CONNECT a.example:443 HTTP/1.1\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
}

#[tokio::test]
async fn a_program_that_says_nothing_or_never_ends_keeps_no_place() {
    let endless =
        "POST http://a.example/ HTTP/1.1\r\nHost: a.example\r\nContent-Length: 99999999\r\n\r\nx";
    let chunked = "CONNECT b.example:443 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nx";
    for request in ["", "CONNECT a.exa", endless, chunked] {
        let (proxy, _) = proxy(&["a.example"], &["11.22.33.44"]);
        let mut program = connected(&proxy);
        program.write_all(request.as_bytes()).await.unwrap();
        // It neither closes nor reads.
        tokio::task::yield_now().await;
        if request.len() < 20 {
            assert_eq!(proxy.inner.tunnels.available_permits(), MAX_TUNNELS - 1);
        }
        let every = u32::try_from(MAX_TUNNELS).unwrap();
        let all = proxy.inner.tunnels.acquire_many(every);
        let all = tokio::time::timeout(SHORT.head * 10, all).await;
        assert!(all.is_ok(), "{request:?}");
        drop(program);
    }
}
