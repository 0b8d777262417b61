//! Runs OpenAI's Codex CLI in isolated containers that are already waiting, for any MCP client.
//!
//! # The flow
//!
//! ```text
//!  MCP client ── codex_run ──> mcp ──> job ───────────────────────────────────> result ──> MCP client
//!                                       │                                         ▲
//!       config ─> engine ─> pool ─> lease ─> send ─> run Codex ─> end ─> collect ─> apply ─> record
//!                   │        ▲              (tar)   (deadline)          (tar)    (host files)
//!                   │        └──── reset, proved clean ───┐       │
//!                   └──────────── destroy ◄── verdict ◄───┴───────┘
//!                                                    model requests ─> gateway (host) ─> provider
//!  in the container:  init (pid 1) · keeper (root, few capabilities) · Codex (uid 1000, none)
//! ```
//!
//! A stage takes the value of the stage before it and gives a value to the next; only [`job`] knows
//! the order. `collect` begins only when `end` has reported that no process of uid 1000 is left, so
//! the tree is at rest. `apply` needs no container, so the container is being reset while the
//! host's files are written.
//!
//! Between `collect` and `record` only the host works:
//!
//! ```text
//!  collect ─> receive ─> classify ─┬─> apply ─────────┬─> commits ─> record
//!              checked    a change  │    ▲  journal,   │   refs/codex/…, the branch and the index
//!              whole      or none   │    │  before.tar │
//!                                   └─> held ──────────┘
//!                                        │ ▲
//!   codex_run_apply ─ (merge of text) ───┘ └── undo: codex_run_undo
//! ```
//!
//! An apply that is interrupted leaves its journal; `workspace::apply::recover` brings it to an end
//! before anything else reads or writes that workspace.
//!
//! # Words
//!
//! | word | means |
//! |---|---|
//! | workspace | the user's tree on the host; in a container it is `/app` |
//! | job | one `codex_run` from acceptance to result; its run id names its folder in the runs directory |
//! | engine | what starts containers and gives a byte stream to a program in one |
//! | keeper | our program in the container; holds the stream, knows nothing of Codex or MCP |
//! | posture | what is in force in a container, compared with what was asked for when it is armed |
//! | armed | started, keeper answering, posture checked, fingerprint taken |
//! | idle | armed, clean, in the pool |
//! | lease | the exclusive right to one container for one job; ends with a verdict |
//! | verdict | reset or destroy(reason); a pure function of outcome, health and policy |
//! | snapshot | what the workspace was when it was sent |
//! | change set | what differs from the snapshot after the run, with the bytes |
//! | held | a change set, or part of one, kept in the run folder and not applied |
//! | kept | build state in ignored directories that stays in a container for the same workspace |
//! | turn | the lock of a workspace: shared to read it, alone to write it |
//! | gateway | the host side of the model path; the only place that knows a credential of ours |
//! | proxy | the host side of the way to the hosts of `network.allow_hosts` |
//!
//! # Invariants
//!
//! 1. stdout belongs to the MCP transport. Logs go to stderr and to the run folder.
//! 2. `rmcp` is used only in [`mcp`] and [`server`], `bollard` only in `engine/docker`, `deadpool`
//!    only in [`pool`].
//! 3. A container serves one job at a time. A lease dropped without a verdict destroys.
//! 4. Timed out, cancelled, out of memory, stream lost, keeper silent, reset not proved: never
//!    reused.
//! 5. One place removes containers; removal is idempotent, retried, and takes volumes with it.
//!    Every container carries our labels.
//! 6. No running container outlives its orchestrator: the stream's EOF is the switch.
//! 7. The user's files are written only by `workspace/apply`, only after the change set arrived
//!    whole and was checked, and no byte that the user wrote is destroyed unseen. A crash at any
//!    point leaves what the journal needs to finish or undo.
//! 8. Nothing that comes out of a container is trusted.
//! 9. No credential of ours enters a container that runs a job, a log, an error, a record or an
//!    argv.
//! 10. Every wait has a deadline with a name and a setting; the error says which one ran out.
//! 11. No lock is held across an await. Decisions are pure functions and property-tested.
//! 12. Memory does not grow with the bytes of the workspace or of the output.
//! 13. Every `tools/call` is answered.

// In reading order: what both sides of the stream share first, then the host from the outside in.
pub mod ignored;
pub mod keeper;
pub mod path;

#[cfg(feature = "host")]
pub mod cli;
#[cfg(any(feature = "host", feature = "intake"))]
pub mod clock;
#[cfg(feature = "host")]
pub mod codex;
#[cfg(feature = "host")]
pub mod config;
#[cfg(feature = "host")]
pub mod container;
#[cfg(feature = "host")]
pub mod engine;
#[cfg(feature = "host")]
pub mod failure;
#[cfg(feature = "host")]
pub mod job;
#[cfg(feature = "host")]
pub mod mcp;
#[cfg(feature = "host")]
pub mod model;
#[cfg(feature = "host")]
pub mod network;
#[cfg(feature = "host")]
pub mod pool;
#[cfg(feature = "host")]
pub mod record;
#[cfg(feature = "host")]
pub mod server;
#[cfg(feature = "host")]
pub mod verdict;
#[cfg(any(feature = "host", feature = "intake"))]
#[cfg_attr(not(feature = "host"), allow(dead_code))]
pub mod workspace;
