//! Places that are full: seen within a second, and empty after the reset.

use std::time::{Duration, Instant};

use crate::harness::{Armed, Failure, engine_is_there, python};

/// What fills each place of memory, with bytes and with names, and stays.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_fills_a_place_of_memory_is_ended() -> Result<(), Failure> {
    if !engine_is_there() {
        return Ok(());
    }
    let mut armed = Armed::start(false).await;
    for place in ["/tmp", "/dev/shm", "/home/codex"] {
        let bytes = format!("head -c 1G /dev/zero > {place}/fill; sleep 1000");
        let names = python(&format!(
            "try:
    for i in range(1000000): os.mknod('{place}/' + str(i))
except OSError: pass
time.sleep(1000)"
        ));
        for (what, script) in [("bytes", bytes), ("names", names)] {
            let began = Instant::now();
            let (exit, said) = armed.run(&script).await?;
            assert_eq!(exit.disk_full.as_deref(), Some(place), "{what}: {exit:?} {said}");
            assert!(began.elapsed() < Duration::from_secs(30));
            armed.reset().await?;
            armed.must_be_as_armed(&format!("{place} full of {what}"));
        }
    }
    // A place that is full without anybody who is ended for it.
    armed.must("head -c 1G /dev/zero > /dev/shm/fill 2>/dev/null; true").await;
    armed.reset().await?;
    armed.must_be_as_armed("a full place");
    Ok(())
}
