//! What arming found: told in the status, logged once, and decisive for what becomes of a container.

use std::io::Write;

use super::*;
use crate::pool::source::Findings;

/// What was logged.
#[derive(Clone, Debug, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn count(&self, words: &str) -> usize {
        String::from_utf8_lossy(&self.0.lock()).matches(words).count()
    }
}

#[tokio::test(start_paused = true)]
async fn what_arming_found_is_logged_once_and_stays_in_the_status() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let source = FakeSource::new();
    let findings = Findings {
        unenforced: vec!["there is no limit of CPUs".into()],
        no_reset: vec!["nothing can be counted".into()],
    };
    source.0.findings.lock().clone_from(&findings);
    let pool = Pool::start(source.clone(), config(2, 4));
    pool.ready(2).await.unwrap();
    for _ in 0..2 {
        let lease = pool.acquire(key(1)).await.unwrap();
        assert_eq!(
            lease.settle(JobEnd::Completed),
            Verdict::Destroy(crate::verdict::DestroyReason::NoProof)
        );
        pool.ready(2).await.unwrap();
    }
    let status = pool.status();
    assert_eq!((status.unenforced, status.no_reset), (findings.unenforced, findings.no_reset));
    assert_eq!(status.destroyed["no_proof"], 2);
    assert!(source.0.started.load(Ordering::SeqCst) >= 4);
    assert_eq!(log.count("not enforced: there is no limit of CPUs"), 1);
    assert_eq!(log.count("not reset: nothing can be counted"), 1);

    // An engine that was mended is told of no more.
    *source.0.findings.lock() = Findings::default();
    pool.acquire(key(1)).await.unwrap().settle(JobEnd::Cancelled);
    pool.ready(2).await.unwrap();
    assert_eq!(pool.status().no_reset, Vec::<String>::new());
}
