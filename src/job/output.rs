//! What the program in the container prints.

use crate::codex::app_server::Peer;
use crate::codex::exec::{self, Output};
use crate::keeper::client::{KeeperError, Program, ProgramEvent};

/// The program in the container as a source of Codex's output.
pub(super) struct Running(pub(super) Program);

impl exec::Source for Running {
    type Error = KeeperError;

    async fn next(&mut self) -> Result<Output, KeeperError> {
        Ok(match self.0.next().await? {
            ProgramEvent::Stdout(bytes) => Output::Stdout(bytes),
            ProgramEvent::Stderr(bytes) => Output::Stderr(bytes),
            ProgramEvent::Exited(report) => Output::Exited(report),
        })
    }
}

impl Peer for Running {
    fn write(&mut self, bytes: &[u8]) {
        self.0.write(bytes);
    }
}
