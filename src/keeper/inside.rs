//! The side in the container.
//!
//! Two programs of one binary: [`init`] is pid 1 and ends the container with the keeper; [`serve`]
//! is the keeper, started by an exec, which talks over its stdin and stdout and does what it is
//! asked. What it does to a container is behind the trait [`Inside`]: [`container`] does it for
//! real, tests have a harmless one, so that nothing here can hurt the machine that runs the tests.
//! The real one cannot be made outside a container of ours ([`guard`]).

pub mod attempts;
pub mod cgroup;
mod children;
pub mod collect;
pub mod container;
pub mod end;
pub mod fingerprint;
pub mod forward;
pub mod guard;
mod ignored_new;
pub mod init;
pub mod ipc;
mod kept;
mod links;
pub mod manifest;
pub mod mounts;
pub mod places;
pub mod posture;
mod private;
pub mod process;
pub mod put;
pub mod reset;
pub mod serve;
pub mod spawn;
pub mod stdio;
mod sys;
mod transfer;
pub mod user;
mod wanted;

use std::io::{Read, Write};

use super::wire::{
    ArmRequest, Armed, CollectReport, CollectRequest, PutReport, PutRequest, ResetReport,
    ResetRequest, SpawnRequest,
};

/// Why the keeper does not do what it was asked: a sentence for the host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(pub String);

impl Refusal {
    /// A refusal in these words.
    pub fn new(sentence: impl Into<String>) -> Self {
        Self(sentence.into())
    }
}

/// Adds to an error what was being done.
trait Doing<T> {
    /// Makes a refusal of the error: "cannot `what`: the error".
    fn doing(self, what: impl std::fmt::Display) -> Result<T, Refusal>;
}

impl<T, E: std::fmt::Display> Doing<T> for Result<T, E> {
    fn doing(self, what: impl std::fmt::Display) -> Result<T, Refusal> {
        self.map_err(|error| Refusal(format!("cannot {what}: {error}")))
    }
}

/// What the keeper does to its container. [`serve`] decides when: one operation on the tree at a
/// time, and those that need the tree at rest only after [`kill_round`](Self::kill_round) has left
/// nothing. All methods may block, but for `kill_round`, `command` and `full`, which take about a
/// millisecond and need neither a thread nor a fork.
pub trait Inside: Send + Sync + 'static {
    /// Prepares the writable places and reads what is in force.
    fn arm(&self, request: &ArmRequest) -> Result<Armed, Refusal>;
    /// Writes a tree from a tar stream into the empty workspace, or what differs into the tree that it
    /// holds.
    fn put(&self, request: &PutRequest, tar: &mut (dyn Read + Send)) -> Result<PutReport, Refusal>;
    /// Waits until a change made from now on can be told from what was put.
    fn settle(&self) -> Result<(), Refusal>;
    /// The program of a request, ready to be started as uid 1000 in a session of its own. Writes
    /// the files that go with it.
    fn command(&self, request: &SpawnRequest) -> Result<tokio::process::Command, Refusal>;
    /// Writes what differs from what was put as a tar stream.
    fn collect(
        &self,
        request: &CollectRequest,
        tar: &mut dyn Write,
    ) -> Result<CollectReport, Refusal>;
    /// Processes other than init and keeper.
    fn others(&self) -> Result<u32, Refusal>;
    /// Kills them all once, and counts what is left.
    fn kill_round(&self) -> Result<u32, Refusal>;
    /// Empties the writable places, but for the build state that is to be kept, and restores the
    /// template.
    fn reset(&self, request: &ResetRequest) -> Result<ResetReport, Refusal>;
    /// A writable place that is full.
    fn full(&self) -> Option<String>;
    /// How often the memory limit made the kernel kill a process so far.
    fn oom_kills(&self) -> u64;
}
