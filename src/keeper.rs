//! The keeper: our program in the container, and the host's side of the stream to it.
//!
//! The keeper holds the one exec stream over which everything goes. It knows nothing of Codex or
//! of MCP: it puts a tree, spawns a program as uid 1000, ends every process of that uid, collects
//! what changed, forwards connections, and resets.
//!
//! ```text
//!  host                                          container
//!  client ── frame ── mux ══ exec stream ══ mux ── frame ── inside
//!     └─ silence                              silence ─┘
//! ```

#[cfg(feature = "host")]
pub mod client;
pub mod frame;
pub mod inside;
pub mod mux;
pub mod silence;
pub mod wire;

#[cfg(all(test, feature = "host"))]
pub(crate) mod loopback;
