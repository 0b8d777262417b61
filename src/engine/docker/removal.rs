//! Removing a container, until it is gone.
//!
//! ```text
//!  ask ─┬─> done, or no such container ───────────────────────────────> gone
//!       ├─> the engine is removing it by itself ─> wait for that ─> ask
//!       └─> between two states (Podman) ─> wait a little ──────────> ask
//! ```

use std::time::Duration;

use bollard::Docker;
use bollard::errors::Error;
use bollard::query_parameters::{RemoveContainerOptions, WaitContainerOptions};
use futures::StreamExt;

use super::failure::{is_between_states, is_going, is_gone};

/// How often it is asked for.
const ASKED: u32 = 6;

/// The wait after the first time; each is twice as long as the one before.
const FIRST_WAIT: Duration = Duration::from_millis(50);

/// Removes a container and its volumes; resolves when the engine does not have it any more. One that
/// is not there is no error. Unbounded while the engine removes it by itself.
pub(super) async fn remove(docker: &Docker, name_or_id: &str) -> Result<(), Error> {
    let options = RemoveContainerOptions { force: true, v: true, link: false };
    let mut wait = FIRST_WAIT;
    for left in (0..ASKED).rev() {
        match docker.remove_container(name_or_id, Some(options.clone())).await {
            Ok(()) => break,
            Err(error) if is_gone(&error) => break,
            Err(error) if left > 0 && is_going(&error) => {
                let removed = WaitContainerOptions { condition: "removed".to_owned() };
                // Its answer is the exit code, or that it went meanwhile; the next asking tells.
                let _ = docker.wait_container(name_or_id, Some(removed)).next().await;
            }
            Err(error) if left > 0 && is_between_states(&error) => {
                tokio::time::sleep(wait).await;
                wait *= 2;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
